// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a person types: workloads and seeds.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use nvstack_explore::{Case, Model, Mutant, Op, Start, Workload, random, replay};
use nvstack_media::Kind;
use proptest::prelude::*;

const KINDS: [Op; 7] =
    [Op::Write(0), Op::Fua(0), Op::Zero(0), Op::Read(0), Op::Flush, Op::Lose(0), Op::Clear];

proptest! {
    #[test]
    fn a_case_reads_as_it_is_written(
        seed: u64,
        steps in prop::collection::vec((0u8..4, any::<bool>()), 0..60),
        choice in prop::collection::vec(any::<u16>(), 0..9),
        model in 0usize..4,
        mutant in prop::option::of(0..Mutant::ALL.len()),
    ) {
        let case = Case {
            model: Model::ALL[model],
            mutant: mutant.map(|m| Mutant::ALL[m]),
            workload: random(seed, &KINDS),
            schedule: steps.iter().map(|(task, fails)| task | if *fails { 0x80 } else { 0 }).collect(),
            choice,
        };
        prop_assert_eq!(case.to_string().parse::<Case>().unwrap(), case);
    }

    #[test]
    fn what_is_no_case_is_refused_or_replayed_and_nothing_else(text in "(x86|pages|arm|y);(none|redo|q);[12]\\.near\\.(fresh|old|bad):[wrzufpc][01f](,[wr]0)?(/r0)?;[abAB0-9]{0,6};[0-9.]{0,4}") {
        if let Ok(case) = text.parse::<Case>() {
            match replay(&case) {
                Ok(_) => {}
                Err(e) => prop_assert_eq!(e.kind(), Kind::Invalid),
            }
        }
    }
}

#[test]
fn workloads_that_make_no_sense_are_refused() {
    for text in [
        "",
        "2.near.fresh",
        "2.near.fresh:",
        "2.near.fresh:x0",
        "2.near.fresh:w8",
        "65.near.fresh:w0",
        "0.near.fresh:w0",
        "2.near.fresh:n",
        "2.near.fresh:w0,d",
        "0.near.fresh:n/n",
        "2.here.fresh:w0",
        "2.near.new:w0",
        "2.near.fresh.far:w0",
    ] {
        let e = text.parse::<Workload>().unwrap_err();
        assert_eq!(e.kind(), Kind::Invalid, "{text}");
        assert!(e.to_string().contains("2.near.fresh:w0,w1/r0"), "{e}");
    }
    for text in ["0.near.old:n", "0.near.fresh:d", "2.near.cut:d", "64.far.bad:w0,r7,f/u1/z2/p3,c"] {
        assert_eq!(text.parse::<Workload>().unwrap().to_string(), text);
    }
    assert_eq!(Start::ALL.len(), 6);
}
