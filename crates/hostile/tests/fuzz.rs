// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every target with a fixed number of mutated inputs, from seeds that are the same each time; in the long form, with ever new ones.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::time::{SystemTime, UNIX_EPOCH};

use common::{corpus, guarded};
use nvstack_hostile::TARGETS;
use nvstack_hostile::mutate::{Random, minimise, mutate};
use nvstack_tally::{long, tally};

/// Runs one target. The pool grows by some of what was tried: it is as good to go on from as the seeds.
fn fuzz(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target");
    let (seed, rounds) = if long() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
        (now.as_secs(), target.rounds * 20)
    } else {
        (1, target.rounds)
    };
    let mut pool = (target.seeds)();
    pool.extend(corpus(name).into_iter().map(|(_, input)| input));
    assert!(!pool.is_empty());
    let kept = pool.len();
    let mut random = Random::new(seed);
    for round in 0..rounds {
        let input = mutate(&mut random, target, &pool);
        if let Err(words) = guarded(target, &input) {
            let small = minimise(&input, &|input| guarded(target, input).is_err());
            let path = common::keep(name, &small);
            panic!(
                "{name}, seed {seed}, round {round}: {words}\ncargo run -p nvstack-hostile --example one -- {name} {}",
                path.display()
            );
        }
        if random.below(4) == 0 {
            if pool.len() < kept + 200 {
                pool.push(input);
            } else {
                let place = kept + random.below(200);
                pool[place] = input;
            }
        }
    }
    tally("fuzz", &format!("{name}, by fields and words"), "executions", rounds);
}

macro_rules! targets {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            fuzz(stringify!($name));
        })*

        #[test]
        fn every_target_is_fuzzed() {
            let here: Vec<&str> = vec![$(stringify!($name)),*];
            let all: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(here, all);
        }
    };
}

targets!(
    info_block,
    arena_chain,
    btt_tables,
    differential_btt,
    label_area,
    label_set,
    differential_labels,
    pfn_info,
    whole_image,
    partition_table,
    lab_text,
    nbd_handshake,
    nbd_transmission,
    control_lines,
    state_file
);
