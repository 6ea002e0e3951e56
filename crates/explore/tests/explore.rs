// SPDX-License-Identifier: MIT OR Apache-2.0
//! The exploration itself: all that it goes through holds, and what it leaves out it would not have learned from.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use nvstack_explore::{Config, Model, Scope, Summary, Workload, reachable, run};

fn explored(config: &Config) -> Summary {
    let summary = run(config, &|_| ()).unwrap();
    if let Some(violation) = &summary.first {
        panic!("{violation}");
    }
    assert_eq!(summary.workloads, summary.of);
    assert_eq!(summary.cut_short, 0);
    summary
}

#[test]
fn every_cut_of_every_small_workload_leaves_what_was_promised() {
    let optimised = !cfg!(debug_assertions);
    let config = match (nvstack_tally::long(), optimised) {
        (true, _) => Config::long(),
        (false, true) => Config::normal(),
        // Unoptimised it takes ten times as long; the lane runs this one optimised.
        (false, false) => Config { time: None, ..Config::quick() },
    };
    for model in Model::ALL {
        let summary = explored(&Config { models: vec![model], ..config.clone() });
        assert!(summary.images > if optimised { 2_000_000 } else { 300_000 }, "{}", summary.images);
        let case = format!("BTT, {model}");
        nvstack_tally::tally("explore", &case, "states", summary.states);
        nvstack_tally::tally("explore", &case, "crash images", summary.images);
        nvstack_tally::tally("explore", &case, "crash images in recovery", summary.images_in_recovery);
        nvstack_tally::tally("explore", &case, "different images recovered", summary.recoveries);
        nvstack_tally::tally("explore", &case, "damaged images", summary.damaged);
    }
}

#[test]
fn pruning_leaves_out_no_image_and_nothing_that_it_may_hold() {
    let workloads = [
        "1.near.fresh:w0/w0",
        "2.near.fresh:w0/r0",
        "2.near.fresh:z0/z0",
        "2.near.worn:z0/w0",
        "2.near.bad:r0/r0",
        "2.near.cut:w0,r0",
        "2.near.lost:w0/r0",
        "2.near.fresh:p0/r0",
    ];
    let mut pairs = 0;
    for workload in workloads {
        let workload: Workload = workload.parse().unwrap();
        for model in Model::ALL {
            let all = reachable(&workload, model, false).unwrap();
            let pruned = reachable(&workload, model, true).unwrap();
            assert!(all == pruned, "{workload} under {model}: {} pairs, {} pruned", all.len(), pruned.len());
            assert!(all.len() > 1, "{workload} under {model}");
            pairs += all.len();
        }
    }
    nvstack_tally::tally(
        "explore",
        "pruning against all schedules",
        "pairs of image and promise",
        pairs as u64,
    );
}

#[test]
fn a_failure_that_once_was_does_not_come_back() {
    let found = [
        // The second request saw the entry that the first had not drained, and promised what was not durable.
        ("2.near.worn:z0/z0", 0),
        ("2.near.worn:z0,r0/z0", 0),
        // A mark of lost data that another task had not drained was told of.
        ("2.near.fresh:p0,r0,c/r0", 0),
        // A read that failed at its second look left behind what it had published, and the second write waited for it.
        ("2.near.fresh:r0,w0,w0", 1),
    ];
    for (workload, faults) in found {
        let scopes = vec![Scope::These(vec![workload.parse().unwrap()])];
        explored(&Config { scopes, faults, ..Config::quick() });
    }
}

#[test]
fn a_run_ends_when_its_time_is_over_and_says_so() {
    let config = Config { time: Some(Duration::ZERO), ..Config::quick() };
    let summary = run(&config, &|_| ()).unwrap();
    assert!(summary.out_of_time);
    assert!(summary.workloads < summary.of);
}

#[test]
fn the_same_seed_gives_the_same_counts() {
    let scopes = vec![Scope::Random { workloads: 20, schedules: 10 }];
    let config = Config { scopes, time: None, ..Config::quick() };
    let counts = |threads, seed| {
        let s = explored(&Config { threads, seed, ..config.clone() });
        (s.states, s.images, s.recoveries, s.runs)
    };
    assert_eq!(counts(1, 5), counts(2, 5));
    assert_ne!(counts(2, 5), counts(2, 6));
}
