// SPDX-License-Identifier: MIT OR Apache-2.0
//! What threads meet at: the standard library's locks and atomics.
//!
//! The model checkers (packages `nvstack-loom` and `nvstack-btt-shuttle`) compile the other files of this crate with a module
//! of theirs in the place of this one. So no feature and no `cfg` decides what this crate is built with.

pub(crate) use std::hint::spin_loop;
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic,
};
pub(crate) use std::thread;

/// Locks of an arena's map.
pub(crate) const STRIPES: u32 = 256;

/// The number of this thread among those that have asked, from 0.
pub(crate) fn thread_number() -> usize {
    static NEXT: atomic::AtomicUsize = atomic::AtomicUsize::new(0);
    std::thread_local! {
        static NUMBER: usize = NEXT.fetch_add(1, atomic::Ordering::Relaxed);
    }
    NUMBER.with(|number| *number)
}
