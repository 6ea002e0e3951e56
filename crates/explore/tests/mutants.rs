// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each part of the protocol is needed: without it, something is found.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use nvstack_explore::{Case, Config, Mutant, Scope, replay, run};

#[test]
fn whatever_is_left_out_is_missed() {
    let mut table = Vec::new();
    let mut survivors = Vec::new();
    for mutant in Mutant::ALL {
        let mut config = Config { mutant: Some(*mutant), time: None, ..Config::quick() };
        // What is found there and nowhere else would not be short.
        config.scopes.retain(|scope| !matches!(scope, Scope::Random { .. }));
        let summary = run(&config, &|_| ()).unwrap();
        let Some(violation) = summary.first else {
            survivors.push(mutant.name());
            continue;
        };
        let case = &violation.case;
        // The line that a person types finds the same again.
        let again: Case = case.to_string().parse().unwrap();
        assert_eq!(&again, case);
        let seen = replay(&again).unwrap().what;
        assert_eq!(seen.as_deref(), Some(violation.what.as_str()), "{case}");
        // And without the mutant the same steps, where they fit, do no harm.
        if let Ok(sound) = replay(&Case { mutant: None, ..again }) {
            assert_eq!(sound.what, None, "{case}");
        }
        let states = summary.states + summary.damaged;
        table.push((
            mutant.name(),
            format!("{} {}", case.model, case.workload),
            states,
            violation.what.clone(),
        ));
    }
    for (name, killer, states, what) in &table {
        println!("{name:16} {killer:32} {states:>8} {what}");
    }
    assert!(survivors.is_empty(), "nothing misses {survivors:?}");
    for (name, killer, states, _) in &table {
        nvstack_tally::tally("mutants", &format!("{name}: killed by {killer}"), "states", *states);
    }
}
