// SPDX-License-Identifier: MIT OR Apache-2.0
//! What has been stored into the page cache since the last drain.
//!
//! One range is kept, the hull of all stores, and a drain hands it to one msync. The hull names more pages than were
//! stored to, yet no more of them are written: the kernel looks up the pages of the range that are marked dirty, and a
//! page is so marked by the CPU's own record of stores. What an msync costs is its journal commit and its cache flush at
//! the device, so one over a wide range costs what one over a page does, and one for each range would cost that many
//! times as much.

use std::ops::Range;
use std::sync::PoisonError;

use crate::sync::atomic::{AtomicU64, Ordering, fence};
use crate::sync::{Mutex, OnceLock};
use crate::window::PAGE;

/// Why stores may be lost. It stays, since the kernel marks pages clean that it failed to write, and would tell the
/// next msync that all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The error number of an msync.
    Sync(i32),
    /// The file ended before a page that had been stored to: this many bytes were left.
    Shrank(u64),
}

/// The dirty hull of one mapping, and the drains of it.
pub(crate) struct Dirty {
    /// First granule in the high half, the one after the last in the low half; 0 when clean. In one word, so that a
    /// drain takes both at once.
    hull: AtomicU64,
    /// log2 of a granule: a page, or more if the medium has too many pages for half a word.
    shift: u32,
    /// Counts the drains that have taken the hull, or are about to.
    taken: AtomicU64,
    /// Held while an msync runs.
    turn: Mutex<()>,
    failure: OnceLock<Failure>,
}

impl Dirty {
    /// Nothing dirty yet, on a medium of `size` bytes.
    pub(crate) fn new(size: u64) -> Dirty {
        let mut shift = PAGE.trailing_zeros();
        while size.checked_shr(shift).unwrap_or(0) >= u64::from(u32::MAX) {
            shift = shift.saturating_add(1);
        }
        Dirty {
            hull: AtomicU64::new(0),
            shift,
            taken: AtomicU64::new(0),
            turn: Mutex::new(()),
            failure: OnceLock::new(),
        }
    }

    /// Records a store. To be called after it, by the thread that made it: were it recorded first, another thread's
    /// drain could take the record and write the page before the store arrives there.
    pub(crate) fn record(&self, at: u64, len: u64) {
        let Some(last) = len.checked_sub(1).map(|more| at.saturating_add(more)) else { return };
        let granule = |byte: u64| byte.checked_shr(self.shift).unwrap_or(0);
        let (first, end) = (granule(at), granule(last).saturating_add(1));
        // The store must be visible before the hull is looked at. Else a drain could take the hull unseen, write the
        // page without the store, and the store be left without a record.
        fence(Ordering::SeqCst);
        let _ = self.hull.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |hull| {
            let wider = match unpack(hull) {
                Some((lo, hi)) => pack(lo.min(first), hi.max(end)),
                None => pack(first, end),
            };
            // Most stores of a group fall inside already; they leave the word, and its cache line, alone.
            (wider != hull).then_some(wider)
        });
    }

    /// Returns when everything that this thread recorded before is written, by `sync` here or by that of another
    /// thread. `sync` gets a range that starts and ends on pages, though it may end beyond the medium.
    pub(crate) fn drain(&self, sync: impl FnOnce(Range<u64>) -> Result<(), Failure>) -> Result<(), Failure> {
        let before = self.taken.load(Ordering::SeqCst);
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.check()?;
        // A drain that counted itself after we looked took the hull after we came, with all our records in it, and it
        // has ended well. So threads that wait here together share one msync, whatever others store meanwhile.
        if self.taken.load(Ordering::SeqCst) != before {
            return Ok(());
        }
        self.taken.fetch_add(1, Ordering::SeqCst);
        let Some((lo, hi)) = unpack(self.hull.swap(0, Ordering::SeqCst)) else { return Ok(()) };
        let byte = |granule: u64| granule.checked_shl(self.shift).unwrap_or(u64::MAX);
        sync(byte(lo)..byte(hi)).inspect_err(|failure| {
            let _ = self.failure.set(*failure);
        })
    }

    /// Fails for good once a drain has failed.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.failure.get().map_or(Ok(()), |failure| Err(*failure))
    }
}

/// Both halves hold less than 2^32: `Dirty::new` chooses the granule so.
fn pack(lo: u64, hi: u64) -> u64 {
    lo << 32 | hi & u64::from(u32::MAX)
}

fn unpack(hull: u64) -> Option<(u64, u64)> {
    (hull != 0).then_some((hull >> 32, hull & u64::from(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicBool;
    use std::thread;
    use std::time::Duration;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// What one drain hands to msync.
    fn handed(dirty: &Dirty) -> Vec<Range<u64>> {
        let mut ranges = Vec::new();
        dirty
            .drain(|range| {
                ranges.push(range);
                Ok(())
            })
            .unwrap();
        ranges
    }

    #[test]
    fn a_clean_mapping_costs_no_msync() {
        let dirty = Dirty::new(MIB);
        assert_eq!(handed(&dirty), []);
        dirty.record(5, 0);
        assert_eq!(handed(&dirty), []);
    }

    #[test]
    fn the_range_is_whole_pages_and_no_page_more() {
        let dirty = Dirty::new(MIB);
        for (at, len, pages) in
            [(0, 1, 0..1), (4095, 1, 0..1), (4095, 2, 0..2), (4096, 4096, 1..2), (8191, 4098, 1..4)]
        {
            dirty.record(at, len);
            let [range] = &handed(&dirty)[..] else { panic!("more than one msync, or none") };
            assert_eq!(*range, pages.start * PAGE..pages.end * PAGE, "{len} bytes at {at}");
            assert_eq!(handed(&dirty), [], "a drained range is clean");
        }
    }

    #[test]
    fn two_hundred_scattered_stores_are_one_msync() {
        let dirty = Dirty::new(1 << 30);
        for page in (0..200).map(|n| n * 7919 % 5000 + 40) {
            dirty.record(page * PAGE + 100, 300);
        }
        let [hull] = &handed(&dirty)[..] else { panic!("more than one msync, or none") };
        let pages: Vec<u64> = (0..200).map(|n| n * 7919 % 5000 + 40).collect();
        assert_eq!(*hull, pages.iter().min().unwrap() * PAGE..(pages.iter().max().unwrap() + 1) * PAGE);
    }

    #[test]
    fn a_medium_of_any_size_fits() {
        for size in [1, PAGE, 1 << 44, (1 << 44) + 1, 1 << 56, u64::MAX >> 1] {
            let dirty = Dirty::new(size);
            dirty.record(size - 1, 1);
            let [last] = &handed(&dirty)[..] else { panic!("no msync") };
            assert!(last.contains(&(size - 1)) && last.start % PAGE == 0, "{size}: {last:?}");
            dirty.record(0, 1);
            let [first] = &handed(&dirty)[..] else { panic!("no msync") };
            assert!(first.start == 0 && first.end - first.start <= PAGE.max(size >> 30), "{size}: {first:?}");
        }
    }

    #[test]
    fn a_failure_is_for_good_and_for_those_who_waited() {
        let dirty = Dirty::new(MIB);
        dirty.record(0, 1);
        assert_eq!(dirty.drain(|_| Err(Failure::Sync(libc::EIO))), Err(Failure::Sync(libc::EIO)));
        assert_eq!(dirty.check(), Err(Failure::Sync(libc::EIO)));
        dirty.record(0, 1);
        assert_eq!(dirty.drain(|_| panic!("an msync after a failure")), Err(Failure::Sync(libc::EIO)));

        // One whose stores another's failing msync has taken hears of it.
        let dirty = Dirty::new(MIB);
        dirty.record(0, 1);
        let inside = Barrier::new(2);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                inside.wait();
                dirty.drain(|_| Ok(()))
            });
            let failure = dirty.drain(|_| {
                inside.wait();
                thread::sleep(Duration::from_millis(20));
                Err(Failure::Sync(libc::EIO))
            });
            assert_eq!(failure, waiter.join().unwrap());
        });
    }

    #[test]
    fn a_drain_waits_for_the_msync_that_took_its_stores() {
        let dirty = Dirty::new(MIB);
        let (inside, written) = (Barrier::new(2), AtomicBool::new(false));
        dirty.record(0, 1);
        thread::scope(|scope| {
            scope.spawn(|| {
                dirty
                    .drain(|_| {
                        inside.wait();
                        thread::sleep(Duration::from_millis(50));
                        written.store(true, Ordering::SeqCst);
                        Ok(())
                    })
                    .unwrap();
            });
            inside.wait();
            // Our store is in the other's hands; nothing of ours is left to hand over.
            dirty.drain(|_| panic!("nothing is dirty")).unwrap();
            assert!(written.load(Ordering::SeqCst));
        });
    }

    #[test]
    fn threads_that_wait_together_share_an_msync() {
        const WAITERS: u64 = 8;
        let dirty = Dirty::new(MIB);
        let (syncs, inside) = (AtomicU64::new(0), Barrier::new(2));
        dirty.record(0, 1);
        thread::scope(|scope| {
            scope.spawn(|| {
                let slow = |_| {
                    inside.wait();
                    thread::sleep(Duration::from_millis(100));
                    Ok(())
                };
                dirty.drain(slow).unwrap();
            });
            inside.wait();
            for n in 1..=WAITERS {
                let (dirty, syncs) = (&dirty, &syncs);
                scope.spawn(move || {
                    dirty.record(n * PAGE, 1);
                    let count = |_| {
                        syncs.fetch_add(1, Ordering::SeqCst);
                        // Others keep storing, which must not cost those who wait an msync each.
                        dirty.record(100 * PAGE, 1);
                        Ok(())
                    };
                    dirty.drain(count).unwrap();
                });
            }
        });
        assert_eq!(syncs.load(Ordering::SeqCst), 1);
    }

    /// Each thread stores a number into its own cell, then drains; the "file" must hold it then. `sync` copies the cells
    /// of the range that it gets, as the kernel copies pages.
    #[test]
    fn no_drain_returns_before_its_own_stores_are_written() {
        const THREADS: usize = 4;
        let dirty = Dirty::new(MIB);
        let memory: [AtomicU64; THREADS] = Default::default();
        let file: [AtomicU64; THREADS] = Default::default();
        let sync = |range: Range<u64>| {
            for (n, (from, to)) in memory.iter().zip(&file).enumerate() {
                if range.contains(&(n as u64 * PAGE)) {
                    to.store(from.load(Ordering::SeqCst), Ordering::SeqCst);
                }
            }
            Ok(())
        };
        thread::scope(|scope| {
            for n in 0..THREADS {
                let (dirty, memory, file) = (&dirty, &memory, &file);
                scope.spawn(move || {
                    for value in 1..=20_000 {
                        memory[n].store(value, Ordering::Relaxed);
                        dirty.record(n as u64 * PAGE, 8);
                        dirty.drain(sync).unwrap();
                        assert_eq!(file[n].load(Ordering::SeqCst), value);
                    }
                });
            }
        });
    }
}
