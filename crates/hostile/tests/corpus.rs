// SPDX-License-Identifier: MIT OR Apache-2.0
//! The committed inputs, and those that once were findings; each target has some.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{corpus, fuzz_folder, guarded};
use nvstack_hostile::TARGETS;

#[test]
fn every_committed_input_is_survived() {
    let mut failed = Vec::new();
    for target in TARGETS {
        let inputs = corpus(target.name);
        assert!(inputs.len() > 2, "{} has no corpus", target.name);
        for (path, input) in inputs {
            if let Err(words) = guarded(target, &input) {
                failed.push(format!("{}: {words}", path.display()));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn the_seeds_are_survived_and_short_enough() {
    for target in TARGETS {
        for (number, input) in (target.seeds)().into_iter().enumerate() {
            assert!(input.len() <= target.longest, "{}, seed {number}", target.name);
            if let Err(words) = guarded(target, &input) {
                panic!("{}, seed {number}: {words}", target.name);
            }
        }
    }
}

/// Each binary of the fuzz workspace is a target, and the reverse; none has files for a target that is gone.
#[test]
fn the_fuzz_workspace_has_the_same_targets() {
    let names = |folder: &str, end: &str| {
        let entries = std::fs::read_dir(fuzz_folder().join(folder)).expect("a folder");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
            .map(|name| name.strip_suffix(end).unwrap_or(&name).to_owned())
            .collect();
        names.sort();
        names
    };
    let mut all: Vec<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    all.sort();
    assert_eq!(names("fuzz_targets", ".rs"), all);
    assert_eq!(names("corpus", ""), all);
    for folder in names("regressions", "").into_iter().chain(names("dictionaries", ".dict")) {
        assert!(all.contains(&folder), "{folder}");
    }
}
