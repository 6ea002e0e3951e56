// SPDX-License-Identifier: MIT OR Apache-2.0
//! The drains of a mapping of a plain file: none returns before its own thread's stores are written.

use std::ops::Range;
use std::sync::Arc;

use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::thread;

use crate::dirty::{Dirty, Failure};
use crate::window::PAGE;

struct Shared {
    dirty: Dirty,
    /// A word in each page, as the CPUs see it.
    memory: [AtomicU64; 2],
    file: [AtomicU64; 2],
}

impl Shared {
    fn new() -> Arc<Shared> {
        let words = || [AtomicU64::new(0), AtomicU64::new(0)];
        Arc::new(Shared { dirty: Dirty::new(1 << 20), memory: words(), file: words() })
    }

    fn sync(&self, range: &Range<u64>) {
        // A system call is a full barrier.
        fence(Ordering::SeqCst);
        for (at, (from, to)) in (0..).zip(self.memory.iter().zip(&self.file)) {
            if range.contains(&(at * PAGE)) {
                to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        fence(Ordering::SeqCst);
    }

    fn store(&self, page: usize, value: u64) {
        self.memory[page].store(value, Ordering::Relaxed);
        self.dirty.record(u64::try_from(page).unwrap() * PAGE, 8);
    }

    fn drain(&self) -> Result<(), Failure> {
        self.dirty.drain(|range| {
            self.sync(&range);
            Ok(())
        })
    }

    fn written(&self, page: usize) -> u64 {
        self.file[page].load(Ordering::Relaxed)
    }
}

fn threads(pages: [usize; 2]) {
    let shared = Shared::new();
    let work = move |shared: &Shared, page: usize, value: u64, own: bool| {
        shared.store(page, value);
        shared.drain().unwrap();
        let written = shared.written(page);
        assert!(written == value || (!own && written != 0), "drained {value}, and the file has {written}");
    };
    let own = pages[0] != pages[1];
    let other = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || work(&shared, pages[0], 1, own))
    };
    work(&shared, pages[1], 2, own);
    other.join().unwrap();
}

/// Two threads store into pages of their own.
pub fn two_pages() {
    threads([0, 1]);
}

/// Two threads store into one page.
pub fn one_page() {
    threads([0, 0]);
}

/// A page that is dirty already is stored to again, while it is being written.
pub fn dirty_already() {
    let shared = Shared::new();
    shared.store(0, 1);
    let other = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || shared.drain().unwrap())
    };
    shared.store(0, 2);
    shared.drain().unwrap();
    assert_eq!(shared.written(0), 2, "drained");
    other.join().unwrap();
}

/// A drain that fails: whoever's stores it had hears of it, and nobody is told that all is well later.
pub fn failing() {
    let shared = Shared::new();
    shared.store(0, 1);
    let other = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || shared.dirty.drain(|_| Err(Failure::Sync(5))).is_err())
    };
    let mine = shared.drain().is_ok();
    if mine {
        assert_eq!(shared.written(0), 1, "told so, and not written");
    }
    let theirs = !other.join().unwrap();
    assert!(mine || !theirs, "told of a failure that was none");
    if shared.written(0) == 0 {
        assert!(!mine && !theirs, "a success after a failed drain");
        assert!(shared.drain().is_err(), "a success after a failed drain");
    }
}
