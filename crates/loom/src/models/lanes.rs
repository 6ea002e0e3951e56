// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lanes: given to one at a time, and to everybody in the end.

use std::sync::Arc;

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use nvstack_format::Block;

use crate::lanes::{Lanes, Slot};

struct Shared {
    lanes: Lanes,
    /// Who is in each lane.
    inside: [AtomicUsize; 2],
}

fn shared(bad: [bool; 2]) -> Arc<Shared> {
    let slots =
        (0u32..).zip(bad).map(|(n, bad)| vec![Slot { free: Block(n), next: 0, seq: 1, bad }]).collect();
    Arc::new(Shared { lanes: Lanes::new(slots), inside: [AtomicUsize::new(0), AtomicUsize::new(0)] })
}

/// Takes a sound lane, and gives it another block.
fn use_lane(shared: &Shared) {
    let mut held = shared.lanes.acquire(|slots| slots.iter().all(|slot| !slot.bad)).unwrap();
    let inside = &shared.inside[held.lane];
    assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0, "two in lane {}", held.lane);
    let slot = held.slot(0).unwrap();
    let block = slot.free;
    thread::yield_now();
    slot.advance(Block(block.0 + 2));
    inside.fetch_sub(1, Ordering::Relaxed);
}

fn all_are_served(bad: [bool; 2]) {
    let shared = shared(bad);
    let others: Vec<_> = (0..2)
        .map(|_| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || use_lane(&shared))
        })
        .collect();
    use_lane(&shared);
    for other in others {
        other.join().unwrap();
    }
    // Every use counts.
    let of = |lane| {
        let mut held = shared.lanes.acquire(|slots| slots[0].free.0 % 2 == lane).unwrap();
        (held.slot(0).unwrap().free.0 - lane) / 2
    };
    assert_eq!(of(0) + of(1), 3, "uses that counted");
}

/// Three threads and two lanes.
pub fn three_threads_two_lanes() {
    all_are_served([false, false]);
}

/// Three threads and one lane that can be used: nobody is told that there is none, and nobody takes the bad one.
pub fn a_bad_lane() {
    all_are_served([true, false]);
}
