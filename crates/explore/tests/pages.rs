// SPDX-License-Identifier: MIT OR Apache-2.0
//! Info blocks of fsdax and devdax, and descriptors of their pages, under every power cut; and what shows that the
//! exploration would notice if a part of the protocol was missing.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use nvstack_explore::pages::{Config, Mutant, all, replay, run};
use nvstack_tally::{long, tally};

#[test]
fn every_cut_leaves_no_info_block_or_a_whole_one() {
    let summary = run(&if long() { Config::long() } else { Config::quick() }, &|_| ()).unwrap();
    assert!(summary.violations.is_empty(), "{:#?}", summary.violations);
    assert!(summary.images > 20_000 && summary.states > 500, "{summary:?}");
    println!("{summary:?}");
    tally("explore", "info blocks and page descriptors", "crash points", summary.states);
    tally("explore", "info blocks and page descriptors", "crash images", summary.images);
    tally(
        "explore",
        "info blocks and page descriptors",
        "crash images judged, each different",
        summary.recoveries,
    );
    tally(
        "explore",
        "info blocks and page descriptors",
        "crash points with a sample of their images",
        summary.sampled,
    );
}

#[test]
fn every_part_that_is_left_out_is_missed() {
    let mut alive = Vec::new();
    println!("{:<16} {:>7}  {:<50} found", "mutant", "states", "killed by");
    for mutant in Mutant::ALL {
        let config = Config { mutant: Some(*mutant), images: 64, ..Config::quick() };
        let summary = run(&config, &|_| ()).unwrap();
        let Some(violation) = summary.first else {
            alive.push(mutant.name());
            continue;
        };
        println!(
            "{:<16} {:>7}  {:<50} {}",
            mutant.name(),
            summary.states,
            violation.case.workload.to_string(),
            violation.what
        );
        // The line that names the failure shows it again, and nothing where nothing is left out.
        let again: nvstack_explore::pages::Case = violation.case.to_string().parse().unwrap();
        assert_eq!(again, violation.case);
        assert_eq!(replay(&again).unwrap().what, Some(violation.what));
        assert_eq!(
            replay(&nvstack_explore::pages::Case { mutant: None, ..again }).map_or(None, |r| r.what),
            None
        );
        tally("mutants", &format!("pages {}", mutant.name()), "states needed", summary.states.max(1));
    }
    assert_eq!(alive, [""; 0], "nobody missed them");
}

#[test]
fn seeds_and_workloads_that_mean_nothing_are_refused() {
    for workload in all() {
        assert_eq!(workload.to_string().parse::<nvstack_explore::pages::Workload>().unwrap(), workload);
    }
    for text in [
        "",
        "pfn;x86;none;fsdax-dev/whole;1",
        "pfn;x86;nobody;fsdax-dev/whole;1;0",
        "pfn;x86;none;fsdax-dev/somewhere;1;0",
        "pfn;x86;none;fsdax-dev/whole;x;0",
        "pfn;vax;none;fsdax-dev/whole;1;0",
    ] {
        let error = text.parse::<nvstack_explore::pages::Case>().unwrap_err().to_string();
        assert!(error.contains("accepted"), "{text}: {error}");
    }
    assert!(replay(&"pfn;x86;none;fsdax-dev/whole;100000;0".parse().unwrap()).is_err());
}
