// SPDX-License-Identifier: MIT OR Apache-2.0
//! A page cache over a device: the user of `rw_page` that shows how little it has to do with byte access.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use nvstack_media::{Error, Kind, Result};

use crate::bytes::wide;
use crate::page::fail_page;
use crate::{BlockDevice, Direction, PAGE_SIZE, Page, PageState, rw_page_by_sectors};

/// A page of the device, and how far it is ahead of it.
struct Cached {
    index: u64,
    page: Page,
    /// Changes that were made to it, counted under its lock.
    changed: AtomicU64,
    /// Changes that are known to be durable.
    durable: AtomicU64,
}

impl Cached {
    fn is_dirty(&self) -> bool {
        self.changed.load(Ordering::Acquire) > self.durable.load(Ordering::Acquire)
    }
}

struct Slot {
    cached: Arc<Cached>,
    /// Operations that work on it: it stays.
    users: usize,
    /// When it was last asked for.
    used: u64,
}

#[derive(Default)]
struct Slots {
    by_index: HashMap<u64, Slot>,
    clock: u64,
}

/// Whether a page counts as asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Touch {
    Yes,
    No,
}

/// A page that stays in the cache while this lives.
struct Held<'a> {
    cache: &'a PageCache,
    cached: Arc<Cached>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut slots = self.cache.slots();
        if let Some(slot) = slots.by_index.get_mut(&self.cached.index) {
            slot.users = slot.users.saturating_sub(1);
        }
        self.cache.released.notify_all();
    }
}

/// A bounded cache of a device's pages, written back when they are flushed or make room.
///
/// It moves pages by `rw_page` where the device offers it, else by block I/O, never by `rw_bytes`. The outcome of each
/// stands in the page: one that could not be written keeps its bytes, is tried again by the next flush, and makes no room
/// for others meanwhile.
///
/// Reads and writes of bytes are whole or not within a page, not across pages. Dropping the cache loses what was not
/// flushed.
pub struct PageCache {
    device: Arc<dyn BlockDevice>,
    size: u64,
    capacity: usize,
    slots: Mutex<Slots>,
    released: Condvar,
}

impl PageCache {
    /// A cache of at most `pages` pages of `device`, one at least.
    pub fn new(device: Arc<dyn BlockDevice>, pages: usize) -> PageCache {
        let size = device.geometry().bytes();
        PageCache { device, size, capacity: pages.max(1), slots: Mutex::default(), released: Condvar::new() }
    }

    /// Bytes that can be read and written: the device's.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Pages that it holds now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots().by_index.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The state of a page, if it is held.
    #[must_use]
    pub fn state(&self, index: u64) -> Option<PageState> {
        self.slots().by_index.get(&index).map(|slot| slot.cached.page.state())
    }

    /// Reads bytes from anywhere. [`Kind::OutOfRange`] if not all are inside; [`Kind::Io`] if a page cannot be read, and
    /// then `into` holds nothing sensible.
    pub fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        self.check("read pages", at, into.len())?;
        let mut at = at;
        let mut rest = into;
        while !rest.is_empty() {
            let (index, offset, len) = place(at, rest.len());
            let (piece, after) = rest.split_at_mut_checked(len).unwrap_or_default();
            rest = after;
            let held = self.hold(index)?;
            self.lock_filled(&held.cached)?;
            if let Some(from) = held.cached.page.bytes().get(offset..offset.saturating_add(len)) {
                piece.copy_from_slice(from);
            }
            held.cached.page.end(PageState::LOCKED, PageState::empty());
            at = at.saturating_add(wide(len));
        }
        Ok(())
    }

    /// Writes bytes to anywhere. They are durable after a [`flush`](PageCache::flush). Errors as for reads: a page that is
    /// not overwritten whole is read first. Pages before the one that failed are written.
    pub fn write(&self, at: u64, from: &[u8]) -> Result<()> {
        self.check("write pages", at, from.len())?;
        if self.device.geometry().read_only && !from.is_empty() {
            return Err(Error::new(Kind::ReadOnly, "write pages").path(self.device.name()));
        }
        let mut at = at;
        let mut rest = from;
        while !rest.is_empty() {
            let (index, offset, len) = place(at, rest.len());
            let (piece, after) = rest.split_at_checked(len).unwrap_or_default();
            rest = after;
            let held = self.hold(index)?;
            let page = &held.cached.page;
            if len == PAGE_SIZE {
                page.lock();
            } else {
                self.lock_filled(&held.cached)?;
            }
            // The page is ours, but its bytes may still be on their way to the device.
            page.wait_until_not(PageState::WRITEBACK);
            if let Some(into) = page.bytes().get_mut(offset..offset.saturating_add(len)) {
                into.copy_from_slice(piece);
            }
            held.cached.changed.fetch_add(1, Ordering::AcqRel);
            // That it could not be read matters no more; that it could not be written does.
            let over = if page.state().contains(PageState::UPTODATE) {
                PageState::empty()
            } else {
                PageState::ERROR
            };
            page.end(PageState::LOCKED | over, PageState::UPTODATE);
            at = at.saturating_add(wide(len));
        }
        Ok(())
    }

    /// Returns when all that was written before the call is durable. Every page is tried; the first failure is told.
    pub fn flush(&self) -> Result<()> {
        let mut dirty: Vec<u64> = {
            let slots = self.slots();
            slots.by_index.values().filter(|s| s.cached.is_dirty()).map(|s| s.cached.index).collect()
        };
        dirty.sort_unstable();
        let mut outcome = Ok(());
        for index in dirty {
            // One that is not there any more made room, for which it was written.
            if let Some(held) = self.hold_if_there(index, Touch::No) {
                outcome = outcome.and(self.write_back(&held.cached));
            }
        }
        outcome?;
        self.device.flush()
    }

    fn check(&self, operation: &'static str, at: u64, len: usize) -> Result<()> {
        match at.checked_add(wide(len)) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(Error::new(Kind::OutOfRange, operation)
                .path(self.device.name())
                .found(format_args!("{len} bytes from {at}"))
                .accepted(format_args!("bytes 0 to {}", self.size))),
        }
    }

    /// Locks a page whose bytes are the device's, or newer.
    fn lock_filled(&self, cached: &Cached) -> Result<()> {
        cached.page.lock();
        if cached.page.state().contains(PageState::UPTODATE) {
            return Ok(());
        }
        self.rw_page(cached, Direction::Read);
        cached.page.lock();
        if cached.page.state().contains(PageState::UPTODATE) {
            return Ok(());
        }
        cached.page.end(PageState::LOCKED, PageState::empty());
        Err(self.failed("read page", cached.index))
    }

    /// Makes a page durable, if it is not.
    fn write_back(&self, cached: &Cached) -> Result<()> {
        cached.page.lock();
        cached.page.wait_until_not(PageState::WRITEBACK);
        if !cached.is_dirty() {
            cached.page.end(PageState::LOCKED, PageState::empty());
            return Ok(());
        }
        // Nobody changes it until the writeback ends, so what is written is this change.
        let change = cached.changed.load(Ordering::Acquire);
        self.rw_page(cached, Direction::Write);
        // Under the lock the state is settled. If somebody else has written it again meanwhile, it tells how that went, which
        // holds for this change too.
        cached.page.lock();
        cached.page.wait_until_not(PageState::WRITEBACK);
        let failed = cached.page.state().contains(PageState::ERROR);
        cached.page.end(PageState::LOCKED, PageState::empty());
        if failed {
            return Err(self.failed("write page", cached.index));
        }
        cached.durable.fetch_max(change, Ordering::AcqRel);
        Ok(())
    }

    /// Moves a locked page. What it tells of the operation before is over.
    fn rw_page(&self, cached: &Cached, direction: Direction) {
        cached.page.end(PageState::ERROR, PageState::empty());
        match self.device.pages() {
            Ok(pages) => pages.rw_page(cached.index, &cached.page, direction),
            Err(e) if e.kind() == Kind::Unsupported => {
                rw_page_by_sectors(&*self.device, cached.index, &cached.page, direction);
            }
            Err(_) => fail_page(&cached.page, direction),
        }
    }

    fn failed(&self, operation: &'static str, index: u64) -> Error {
        Error::new(Kind::Io, format!("{operation} {index}"))
            .path(self.device.name())
            .found("an error in the page's state")
    }

    /// Holds a page that is there.
    fn hold_if_there(&self, index: u64, touch: Touch) -> Option<Held<'_>> {
        let mut slots = self.slots();
        slots.clock = slots.clock.saturating_add(1);
        let clock = slots.clock;
        let slot = slots.by_index.get_mut(&index)?;
        slot.users = slot.users.saturating_add(1);
        if touch == Touch::Yes {
            slot.used = clock;
        }
        Some(Held { cache: self, cached: slot.cached.clone() })
    }

    /// Holds a page, for which another makes room if need be. Callers hold one at a time, so room comes.
    fn hold(&self, index: u64) -> Result<Held<'_>> {
        let mut failure = None;
        loop {
            if let Some(held) = self.hold_if_there(index, Touch::Yes) {
                return Ok(held);
            }
            let mut slots = self.slots();
            if slots.by_index.contains_key(&index) {
                continue;
            }
            if slots.by_index.len() < self.capacity {
                let cached = Arc::new(Cached {
                    index,
                    page: Page::new(),
                    changed: AtomicU64::new(0),
                    durable: AtomicU64::new(0),
                });
                let slot = Slot { cached: cached.clone(), users: 1, used: slots.clock };
                slots.by_index.insert(index, slot);
                return Ok(Held { cache: self, cached });
            }
            // The oldest that nobody uses, but for those that failed to be written: they are not tried for room again.
            let stuck = |s: &Slot| s.cached.is_dirty() && s.cached.page.state().contains(PageState::ERROR);
            let fit = slots.by_index.values().filter(|s| s.users == 0 && !stuck(s)).min_by_key(|s| s.used);
            match fit.map(|s| (s.cached.index, s.cached.is_dirty())) {
                Some((victim, true)) => {
                    drop(slots);
                    if let Some(held) = self.hold_if_there(victim, Touch::No) {
                        failure = self.write_back(&held.cached).err().or(failure);
                    }
                }
                // Nobody changes a page that nobody holds, so it is clean until it is gone.
                Some((victim, false)) => {
                    slots.by_index.remove(&victim);
                }
                None if slots.by_index.values().all(|s| s.users == 0) => {
                    return Err(failure.take().unwrap_or_else(|| {
                        Error::new(Kind::NoSpace, "make room in the page cache")
                            .path(self.device.name())
                            .found("pages alone that could not be written")
                    }));
                }
                None => {
                    let _slots = self.released.wait(slots).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        // Nothing panics while it is held, so what it guards is sound.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a byte lies: its page, its place there, and how many of `len` bytes lie in that page.
fn place(at: u64, len: usize) -> (u64, usize, usize) {
    let page = wide(PAGE_SIZE);
    let offset = usize::try_from(at.checked_rem(page).unwrap_or(0)).unwrap_or(0);
    (at.checked_div(page).unwrap_or(0), offset, len.min(PAGE_SIZE.saturating_sub(offset)))
}
