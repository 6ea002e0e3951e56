// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the threads at a gate meet at: the standard library's locks and atomics.
//!
//! The model checkers (packages `nvstack-loom` and others) compile the gate with a module of theirs in the place of this one.
//! So no feature and no `cfg` decides what this crate is built with.

pub(crate) use std::sync::{RwLock, RwLockReadGuard, atomic};
pub(crate) use std::thread_local;

/// Threads share the in-flight state of a gate in so many groups.
pub(crate) const SHARDS: usize = 16;

/// The number of this thread among those that have asked, from 0.
pub(crate) fn thread_number() -> usize {
    static NEXT: atomic::AtomicUsize = atomic::AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = NEXT.fetch_add(1, atomic::Ordering::Relaxed);
    }
    NUMBER.with(|number| *number)
}
