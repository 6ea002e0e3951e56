// SPDX-License-Identifier: MIT OR Apache-2.0
//! Info blocks of fsdax and devdax, and descriptors of their pages, under every power cut; and what shows that the
//! exploration would notice if a part of the protocol was missing.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use nvstack_explore::pages::{Config, Mutant, run};
use nvstack_tally::{long, tally};

#[test]
fn every_cut_leaves_no_info_block_or_a_whole_one() {
    let summary = run(&if long() { Config::long() } else { Config::quick() }).unwrap();
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
        let summary = run(&Config { mutant: Some(*mutant), images: 64, ..Config::quick() }).unwrap();
        let Some(violation) = summary.violations.first() else {
            alive.push(mutant.name());
            continue;
        };
        println!(
            "{:<16} {:>7}  {:<50} {}",
            mutant.name(),
            summary.states,
            violation.workload,
            violation.what
        );
        tally("mutants", &format!("pages {}", mutant.name()), "states needed", summary.states.max(1));
    }
    assert_eq!(alive, [""; 0], "nobody missed them");
}
