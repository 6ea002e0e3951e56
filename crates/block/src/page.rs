// SPDX-License-Identifier: MIT OR Apache-2.0
//! Page I/O: `rw_page`, an operation with a page and a state of its own. It shares neither signature nor error channel with
//! byte access.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;

bitflags::bitflags! {
    /// What is known of a page (Linux `PG_locked`, `PG_uptodate`, `PG_error`, `PG_writeback`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct PageState: u8 {
        /// Somebody works on it: its bytes may change until it is unlocked.
        const LOCKED = 1;
        /// Its bytes are those of the device, or newer.
        const UPTODATE = 2;
        /// The last operation on it failed.
        const ERROR = 4;
        /// It is being written: its bytes must not change.
        const WRITEBACK = 8;
    }
}

/// Which way a page goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Out of the device into the page.
    Read,
    /// Out of the page into the device.
    Write,
}

/// A page of memory with its state.
pub struct Page {
    state: Mutex<PageState>,
    changed: Condvar,
    bytes: Mutex<Box<[u8; PAGE_SIZE]>>,
}

impl Default for Page {
    fn default() -> Page {
        Page { state: Mutex::default(), changed: Condvar::new(), bytes: Mutex::new(Box::new([0; PAGE_SIZE])) }
    }
}

impl Page {
    /// A page of zeros, in no state.
    #[must_use]
    pub fn new() -> Page {
        Page::default()
    }

    /// Its state now.
    pub fn state(&self) -> PageState {
        *lock(&self.state)
    }

    /// Its bytes. Whoever changes them holds the page locked.
    pub fn bytes(&self) -> MutexGuard<'_, Box<[u8; PAGE_SIZE]>> {
        lock(&self.bytes)
    }

    /// Waits until the page is unlocked, and locks it.
    pub fn lock(&self) {
        let mut state = lock(&self.state);
        while state.contains(PageState::LOCKED) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.insert(PageState::LOCKED);
    }

    /// Ends an operation: takes `gone` out of the state, puts `come` in, wakes who waits.
    pub fn end(&self, gone: PageState, come: PageState) {
        let mut state = lock(&self.state);
        state.remove(gone);
        state.insert(come);
        self.changed.notify_all();
    }

    /// Waits until none of `these` holds any more.
    pub fn wait_until_not(&self, these: PageState) {
        let mut state = lock(&self.state);
        while state.intersects(these) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Page I/O of a device. A device offers it or does not ([`BlockDevice::pages`](crate::BlockDevice::pages)).
pub trait PageAccess: Send + Sync {
    /// Moves the `index`-th page of the device. May sleep.
    ///
    /// The page comes locked. The outcome is told through its state alone. A read ends with it unlocked and up to date, or
    /// unlocked with an error and not up to date. A write takes it under writeback and unlocks it, and ends the writeback when
    /// the page is durable, with an error if it may not be.
    fn rw_page(&self, index: u64, page: &Page, direction: Direction);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics under these locks, so what they guard is sound.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
