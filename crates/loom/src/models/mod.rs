// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is modelled, and how.

mod device;
pub mod drain;
pub mod engine;
pub mod export;
pub mod gate;
pub mod group;
pub mod lanes;
mod medium;
pub mod tracking;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sync::{self, Break};

/// A case: what happens in one execution. It panics if something is wrong.
pub type Case = fn();

/// How often a thread may be interrupted where it could go on: in a short run, and in a long one. Without a number, wherever
/// it matters: then every interleaving is tried, and every value that a load may see.
#[derive(Clone, Copy, Debug)]
pub struct Preemptions(pub Option<usize>, pub Option<usize>);

/// Runs a case in its interleavings and counts them.
pub fn check(name: &str, preemptions: Preemptions, case: Case) {
    let bound = if nvstack_tally::long() { preemptions.1 } else { preemptions.0 };
    let count = run(bound, None, case).unwrap_or_else(|e| panic!("{name}: {e}"));
    nvstack_tally::tally("concurrency", name, "interleavings", count);
}

/// Runs a case with something broken, which must be noticed. Few interruptions are enough for that; and what is broken may
/// have many more interleavings than what is sound.
pub fn notices(name: &str, what: Break, case: Case) {
    match run(Some(3), Some(what), case) {
        Err(why) => eprintln!("{name}: {what:?} is missed: {why}"),
        Ok(count) => panic!("{name}: nobody missed {what:?} in {count} interleavings"),
    }
}

fn run(preemptions: Option<usize>, what: Option<Break>, case: Case) -> Result<u64, String> {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 50_000;
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    sync::set_broken(what);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        builder.check(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            sync::begin();
            case();
        });
    }));
    sync::set_broken(None);
    let count = count.load(Ordering::Relaxed);
    outcome.map(|()| count).map_err(|panic| {
        let why = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .unwrap_or_else(|| "a panic".to_owned());
        let why: String = why.split_whitespace().collect::<Vec<_>>().join(" ");
        format!("in interleaving {count}: {}", why.chars().take(160).collect::<String>())
    })
}
