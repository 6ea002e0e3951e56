// SPDX-License-Identifier: MIT OR Apache-2.0
//! The engine that serves data has no switch by which a part of its protocol could be left out.
#![allow(missing_docs)]

#[test]
fn no_feature_of_cargo_changes_this_engine() {
    // Cargo gives a package all features that anybody in a build asks for. So the simulator's are those of another package
    // with the same source, and this one has none to ask for.
    let manifest = include_str!("../Cargo.toml");
    assert!(!manifest.contains("[features]"));
    assert!(manifest.lines().filter(|l| l.contains("optional")).count() == 0);
    let simulated = include_str!("../../btt-sim/Cargo.toml");
    assert!(
        simulated.contains("name = \"nvstack-btt-sim\"")
            && simulated.contains("path = \"../btt/src/lib.rs\"")
    );
    // What the other package depends on is what this one depends on: no third copy with features of its own.
    let needs = |m: &str| -> Vec<String> {
        let (_, rest) = m.split_once("[dependencies]").unwrap_or_default();
        rest.lines()
            .skip(1)
            .take_while(|l| !l.starts_with('['))
            .map(str::to_owned)
            .filter(|l| !l.is_empty())
            .collect()
    };
    assert_eq!(needs(manifest), needs(simulated));
}
