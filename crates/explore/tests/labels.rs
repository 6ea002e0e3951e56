// SPDX-License-Identifier: MIT OR Apache-2.0
//! Label updates under every power cut, and what shows that the exploration would notice if a part of the protocol was
//! missing.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use nvstack_explore::Model;
use nvstack_explore::labels::{Config, Mutant, Scope, Workload, replay, run};
use nvstack_tally::{long, tally};

#[test]
fn every_cut_leaves_the_old_labels_or_the_new_ones() {
    let config = if long() { Config::long(Duration::from_secs(600)) } else { Config::quick() };
    let summary = run(&config, &|_| ()).unwrap();
    if let Some(violation) = &summary.first {
        panic!("{violation}");
    }
    assert!(long() || summary.workloads == summary.of, "{summary:?}");
    assert!(summary.images > 2_000_000 && summary.recoveries > 500_000, "{summary:?}");
    assert!(summary.images_in_recovery > 100_000 && summary.given_up_by_linux > 100, "{summary:?}");
    tally("explore", "label updates", "workloads", summary.workloads as u64);
    tally("explore", "label updates", "crash points", summary.states);
    tally("explore", "label updates", "crash images", summary.images);
    tally("explore", "label updates", "crash images judged, each different", summary.recoveries);
    tally("explore", "label updates", "crash points with a sample of their images", summary.sampled);
}

#[test]
fn every_part_that_is_left_out_is_missed() {
    let mut alive = Vec::new();
    println!("{:<16} {:>7}  {:<60} found", "mutant", "states", "killed by");
    for mutant in Mutant::ALL {
        let summary = run(&Config::without(*mutant), &|_| ()).unwrap();
        let Some(violation) = summary.first else {
            alive.push(mutant.name());
            continue;
        };
        let workload = format!("{} ({})", violation.case.workload, violation.case.model);
        println!("{:<16} {:>7}  {workload:<60} {:.150}", mutant.name(), summary.states, violation.what);
        // The line that names the failure shows it again.
        let seen = replay(&violation.case.to_string().parse().unwrap()).unwrap();
        assert!(seen.what.is_some(), "{violation}");
        tally("mutants", &format!("label {}", mutant.name()), "states needed", summary.states.max(1));
    }
    assert_eq!(alive, [""; 0], "nobody missed them");
}

/// Without any pruning the same is found: nothing where nothing is wrong, and the same moment where a part is left out.
#[test]
fn pruning_hides_nothing() {
    let small = [
        "1.2/1x1024/turn3/beside0/rename",
        "1.1/2x1024/turn0/beside0/resize",
        "1.1/2x1024/turn1/beside0/uuid",
        "1.1/1x1024/turn2/beside0/create+delete",
        "1.2/1x1024/turn0/beside0/init-large",
    ];
    let workloads: Vec<Workload> = small.iter().map(|text| text.parse().unwrap()).collect();
    let left_out =
        [Mutant::SlotReuse, Mutant::LabelDrain, Mutant::StandIn, Mutant::UpdatingPass, Mutant::WipeOrder];
    let mutants: Vec<Option<Mutant>> = [None].into_iter().chain(left_out.map(Some)).collect();
    let mut judged = [0; 2];
    for workload in &workloads {
        for model in [Model::X86, Model::Arm, Model::Pages] {
            for mutant in &mutants {
                let mut config = Config {
                    scopes: vec![Scope::These(vec![workload.clone()])],
                    models: vec![model],
                    mutant: *mutant,
                    depth: 0,
                    threads: 1,
                    images: 4096,
                    ..Config::quick()
                };
                let [pruned, whole] = [true, false].map(|prune| {
                    config.prune = prune;
                    run(&config, &|_| ()).unwrap()
                });
                let of = |s: &nvstack_explore::labels::Summary| {
                    s.first.as_ref().map(|v| (v.case.moment, v.what.clone()))
                };
                assert_eq!(of(&pruned), of(&whole), "{workload} {model} {mutant:?}");
                assert!(mutant.is_some() || of(&whole).is_none());
                judged[0] += pruned.recoveries;
                judged[1] += whole.recoveries;
            }
        }
    }
    assert!(judged[0] < judged[1], "{judged:?}");
    tally("explore", "label updates, without pruning", "crash images", judged[1]);
}

#[test]
fn seeds_that_mean_nothing_are_refused() {
    for text in [
        "",
        "labels;x86;none;1.2/2x2048/turn0/beside2/rename",
        "labels;x86;nobody;1.2/2x2048/turn0/beside2/rename;1;0",
        "labels;x86;none;1.2/2x2048/turn9/beside2/rename;1;0",
        "labels;x86;none;1.2/99x2048/turn0/beside2/rename;1;0",
        "labels;x86;none;1.2/2x2048/turn0/beside2/nothing;1;0",
    ] {
        let error = text.parse::<nvstack_explore::labels::Case>().unwrap_err().to_string();
        assert!(error.contains("accepted"), "{text}: {error}");
    }
    // A moment that the workload does not have, and changes that don't fit one another.
    for text in [
        "labels;x86;none;1.2/2x2048/turn0/beside2/rename;100000;0",
        "labels;x86;none;1.1/2x2048/turn0/beside2/class;1;0",
        "labels;x86;none;1.2/1x1024/turn0/beside2/rename;1;0",
    ] {
        assert!(replay(&text.parse().unwrap()).is_err(), "{text}");
    }
}
