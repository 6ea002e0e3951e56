// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for a lock. Under the simulator all tasks run on one thread, so whoever would wait there says so and
//! lets another one run; everywhere else these are the locks' own calls.

use std::sync::PoisonError;

use crate::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, thread};

/// Locks for change. A panic under such a lock can't have left what it guards half changed in a way that matters.
pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    #[cfg(feature = "sim")]
    if let Some(guard) = hook::patiently(|| lock.try_write()) {
        return guard;
    }
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Locks against change.
pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    #[cfg(feature = "sim")]
    if let Some(guard) = hook::patiently(|| lock.try_read()) {
        return guard;
    }
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a turn.
pub(crate) fn turn<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    #[cfg(feature = "sim")]
    if let Some(guard) = hook::patiently(|| lock.try_lock()) {
        return guard;
    }
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets whoever is waited for run.
pub(crate) fn wait() {
    #[cfg(feature = "sim")]
    if hook::wait() {
        return;
    }
    thread::yield_now();
}

/// A moment between two accesses to shared memory, at which another task may run.
pub(crate) fn point() {
    #[cfg(feature = "sim")]
    hook::point();
}

/// Whether whoever waits should say so at once.
pub(crate) fn simulated() -> bool {
    #[cfg(feature = "sim")]
    return hook::task().is_some();
    #[cfg(not(feature = "sim"))]
    false
}

#[cfg(feature = "sim")]
pub(crate) mod hook {
    use std::cell::Cell;
    use std::sync::TryLockError;

    /// What a simulated thread offers.
    #[derive(Clone, Copy)]
    pub struct Hook {
        /// Lets another task run; false if there is no task to speak of, and the ordinary way is to be taken.
        pub wait: fn() -> bool,
        /// Another task may run now.
        pub point: fn(),
        /// The number of the running task.
        pub task: fn() -> usize,
    }

    thread_local! {
        static HOOK: Cell<Option<Hook>> = const { Cell::new(None) };
    }

    /// Takes hold of this thread, or lets it go.
    pub fn hold(hook: Option<Hook>) {
        HOOK.with(|h| h.set(hook));
    }

    pub(crate) fn wait() -> bool {
        HOOK.with(Cell::get).is_some_and(|hook| (hook.wait)())
    }

    pub(crate) fn point() {
        if let Some(hook) = HOOK.with(Cell::get) {
            (hook.point)();
        }
    }

    pub(crate) fn task() -> Option<usize> {
        HOOK.with(Cell::get).map(|hook| (hook.task)())
    }

    /// Tries until it succeeds, and lets others run meanwhile; none where nobody simulates.
    pub(crate) fn patiently<G>(mut attempt: impl FnMut() -> Result<G, TryLockError<G>>) -> Option<G> {
        HOOK.with(Cell::get)?;
        loop {
            match attempt() {
                Ok(guard) => return Some(guard),
                Err(TryLockError::Poisoned(guard)) => return Some(guard.into_inner()),
                Err(TryLockError::WouldBlock) if wait() => {}
                Err(TryLockError::WouldBlock) => return None,
            }
        }
    }
}
