// SPDX-License-Identifier: MIT OR Apache-2.0
//! shuttle's locks, atomics and threads, and a clock that goes on only where somebody waits for it.

use std::cell::Cell;
use std::ops::Add;
use std::sync::LockResult;
use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};

pub(crate) use crate::gate::Gate;
pub(crate) use shuttle::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, atomic};
pub(crate) use shuttle::{thread, thread_local};

/// Groups of the threads at a gate.
pub(crate) const SHARDS: usize = 2;

std::thread_local! {
    // shuttle runs all threads of an execution on this one.
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static NUMBERED: Cell<usize> = const { Cell::new(0) };
}

thread_local! {
    static NUMBER: usize = NUMBERED.replace(NUMBERED.get() + 1);
}

/// To be called as each execution begins.
pub(crate) fn begin() {
    NOW.set(Duration::ZERO);
    NUMBERED.set(0);
}

/// The number of this thread among those that have asked, from 0.
pub(crate) fn thread_number() -> usize {
    NUMBER.with(|number| *number)
}

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(Duration);

impl Instant {
    pub(crate) fn now() -> Instant {
        Instant(NOW.get())
    }

    pub(crate) fn saturating_duration_since(&self, earlier: Instant) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        Instant::now().saturating_duration_since(*self)
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, later: Duration) -> Instant {
        Instant(self.0 + later)
    }
}

/// A condition to wait for. Waiting for a time may take that time, whatever happens.
#[derive(Default)]
pub(crate) struct Condvar(shuttle::sync::Condvar);

impl Condvar {
    pub(crate) fn new() -> Condvar {
        Condvar::default()
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        self.0.wait(guard)
    }

    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        time: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, bool)> {
        if thread_rng().gen_bool(0.1) {
            NOW.set(NOW.get() + time);
            return Ok((guard, true));
        }
        Ok((self.0.wait(guard).unwrap(), false))
    }
}
