// SPDX-License-Identifier: MIT OR Apache-2.0
//! Page I/O: `rw_page`, an operation with a page and a state of its own. It shares neither signature nor error channel with
//! byte access.

use std::io::{IoSlice, IoSliceMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::{BlockDevice, Error, Geometry, Kind, Lba, Result, WriteFlags};

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
    /// Moves the `index`-th page of the device. May sleep. The device may end inside its last page: what lies beyond
    /// reads as zeros and is not written.
    ///
    /// The page comes locked. The outcome is told through its state alone. A read ends with it unlocked and up to date, or
    /// unlocked with an error and not up to date. A write takes it under writeback and unlocks it, and ends the writeback when
    /// the page is durable, with an error if it may not be. All this has happened when the call returns; who else has the
    /// page sees it happen.
    fn rw_page(&self, index: u64, page: &Page, direction: Direction);
}

/// `rw_page` by block I/O, for devices whose pages are their sectors: the state is kept as [`PageAccess::rw_page`] says, and
/// a write carries FUA.
pub fn rw_page_by_sectors<D: BlockDevice + ?Sized>(
    device: &D,
    index: u64,
    page: &Page,
    direction: Direction,
) {
    move_page(page, direction, |bytes| {
        let (at, len) = sectors_of_page(&device.geometry(), index)?;
        let (inside, beyond) = bytes.split_at_mut(len.min(PAGE_SIZE));
        match direction {
            Direction::Read => {
                beyond.fill(0);
                device.read(at, &mut [IoSliceMut::new(inside)])
            }
            Direction::Write => device.write(at, &[IoSlice::new(inside)], WriteFlags::FUA),
        }
    });
}

/// Does what a page goes through around `work`, which moves its bytes.
pub(crate) fn move_page(
    page: &Page,
    direction: Direction,
    work: impl FnOnce(&mut [u8; PAGE_SIZE]) -> Result<()>,
) {
    match direction {
        Direction::Read => match work(&mut page.bytes()) {
            Ok(()) => page.end(PageState::LOCKED | PageState::ERROR, PageState::UPTODATE),
            Err(_) => fail_page(page, direction),
        },
        Direction::Write => {
            page.end(PageState::LOCKED, PageState::WRITEBACK);
            let done = work(&mut page.bytes());
            match done {
                Ok(()) => page.end(PageState::WRITEBACK | PageState::ERROR, PageState::UPTODATE),
                Err(_) => fail_page(page, direction),
            }
        }
    }
}

/// Ends an operation on a page with an error. What was to be written stays in the page.
pub(crate) fn fail_page(page: &Page, direction: Direction) {
    match direction {
        Direction::Read => page.end(PageState::LOCKED | PageState::UPTODATE, PageState::ERROR),
        Direction::Write => page.end(PageState::LOCKED | PageState::WRITEBACK, PageState::ERROR),
    }
}

/// Where a page lies: its first sector, and how many bytes of it the device has.
pub(crate) fn sectors_of_page(geometry: &Geometry, index: u64) -> Result<(Lba, usize)> {
    let size = u64::from(geometry.sector_size);
    let page = u64::try_from(PAGE_SIZE).unwrap_or(u64::MAX);
    let start = index.checked_mul(page).filter(|start| *start < geometry.bytes());
    match (start, page.checked_rem(size), start.and_then(|start| start.checked_div(size))) {
        (Some(start), Some(0), Some(first)) => {
            let len = geometry.bytes().saturating_sub(start).min(page);
            Ok((Lba(first), usize::try_from(len).unwrap_or(PAGE_SIZE)))
        }
        _ => Err(Error::new(Kind::OutOfRange, "rw_page")
            .found(format_args!("page {index}"))
            .accepted(format_args!("pages of {page} bytes in {} bytes", geometry.bytes()))),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics under these locks, so what they guard is sound.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
