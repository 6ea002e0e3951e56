// SPDX-License-Identifier: MIT OR Apache-2.0
//! The descriptors of the pages: on the medium before the data (map "dev"), or in memory (map "mem").

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nvstack_format::MediaOffset;
use nvstack_format::pfn::{
    DESCRIPTOR_LEN, Descriptor, INFO_OFFSET, Info, PAGE, PageFlags, PageId, RESERVE, Stored,
};
use nvstack_media::{Error, Kind, Media, Result};
use uuid::Uuid;

use crate::create::persist;
use crate::data::UNIT;
use crate::mutants::{Mutant, keeps};

/// Bytes of a descriptor.
const LEN: u64 = 64;
const _: () = assert!(DESCRIPTOR_LEN == 64);
/// What descriptors are overwritten with that were lost: it is none of ours.
const UNKNOWN: [u8; 512] = [0xff; 512];
/// Above so many pages holes are asked for before descriptors are looked at.
const MANY: u64 = 4096;

/// What is recorded of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// This. All zeros if nothing ever was.
    Known(Descriptor),
    /// Something of which we know nothing is kept in its place: most likely Linux's `struct page`.
    Unknown,
}

pub(crate) struct Table {
    place: Store,
    /// Some page may be marked as lost. Until it is set a store need not look for marks.
    may_have_lost: AtomicBool,
}

enum Store {
    Medium {
        /// The first descriptor.
        start: MediaOffset,
        /// A word that is not zero once any page was marked as lost, where there is room for it.
        hint: Option<MediaOffset>,
        namespace: Uuid,
        /// Held while a descriptor is looked at or changed.
        turn: Mutex<Anchored>,
    },
    /// Of the pages that were ever set.
    Memory(Mutex<BTreeMap<u64, Descriptor>>),
}

/// Pages whose descriptors are known to be durable as they are read. Those that a killed process left need not be: a change
/// overwrites the version that the durable word still names.
#[derive(Default)]
struct Anchored(HashSet<u64>);

impl Anchored {
    /// Pages that are kept in mind; beyond them all are made sure of again.
    const MOST: usize = 1 << 16;

    /// Makes a page's descriptor durable as it is, unless it is known to be.
    fn make_sure<M: Media>(&mut self, media: &M, page: u64, at: MediaOffset) -> Result<()> {
        if self.0.contains(&page) || !keeps(Mutant::DescriptorAnchor) {
            return Ok(());
        }
        media.persist(at, LEN)?;
        if self.0.len() >= Anchored::MOST {
            self.0.clear();
        }
        self.0.insert(page);
        Ok(())
    }

    /// A page whose change failed is in doubt again.
    fn doubt(&mut self, page: u64) {
        self.0.remove(&page);
    }
}

impl Table {
    pub(crate) fn in_memory() -> Table {
        Table { place: Store::Memory(Mutex::default()), may_have_lost: AtomicBool::new(false) }
    }

    /// The descriptors before `len` bytes of data. Read-write, those that were lost are made unknown, which heals them
    /// (Linux clears the poison there).
    pub(crate) fn on_medium<M: Media>(
        media: &M,
        info: &Info,
        len: u64,
        read_only: bool,
        operation: &'static str,
    ) -> Result<Table> {
        let geometry = info.geometry;
        let room = geometry.dataoff.saturating_sub(RESERVE);
        let pages = len.checked_div(PAGE).unwrap_or(0);
        let needed = pages.saturating_mul(LEN);
        if needed > room {
            // Linux finds out when it runs short of it.
            return Err(Error::new(Kind::Corrupt, operation)
                .at(MediaOffset(INFO_OFFSET).plus(56))
                .found(format_args!("dataoff {}", geometry.dataoff))
                .accepted(format_args!(
                    "{} at least: {pages} pages with a descriptor of {LEN} bytes each come before the data",
                    needed.saturating_add(RESERVE)
                )));
        }
        let start = MediaOffset(RESERVE).plus(geometry.start_pad.into());
        let last = start.plus(room.saturating_sub(LEN));
        let hint = (needed.saturating_add(LEN) <= room).then_some(last);
        if !read_only {
            for (unit, count) in media.badblocks(start, room) {
                for unit in unit..unit.saturating_add(count) {
                    media.stream(MediaOffset(unit.saturating_mul(UNIT)), &UNKNOWN)?;
                }
                media.drain()?;
            }
        }
        // Read-only nothing is stored, so nothing need be known.
        let lost = match hint {
            Some(at) if !read_only => {
                // Marks to come rest on it.
                media.flush(at, 8)?;
                media.load_u64(at)? != 0
            }
            _ => true,
        };
        let place = Store::Medium { start, hint, namespace: info.uuid, turn: Mutex::default() };
        Ok(Table { place, may_have_lost: AtomicBool::new(lost) })
    }

    /// Whether any page may be marked as lost.
    pub(crate) fn may_have_lost(&self) -> bool {
        self.may_have_lost.load(Ordering::SeqCst)
    }

    /// What is recorded of a page that is there.
    pub(crate) fn get<M: Media>(&self, media: &M, page: u64) -> Result<Recorded> {
        match &self.place {
            Store::Memory(known) => Ok(Recorded::Known(lock(known).get(&page).copied().unwrap_or_default())),
            Store::Medium { start, namespace, turn, .. } => {
                let _turn = lock(turn);
                let id = PageId { namespace: *namespace, pfn: page };
                Ok(recorded(read(media, place(*start, page), id)?))
            }
        }
    }

    /// Changes what is recorded of a page to what `change` makes of it, if anything.
    pub(crate) fn update<M: Media>(
        &self,
        media: &M,
        read_only: bool,
        page: u64,
        change: impl FnOnce(Recorded) -> Option<Descriptor>,
    ) -> Result<()> {
        match &self.place {
            Store::Memory(known) => {
                let mut known = lock(known);
                let now = known.get(&page).copied().unwrap_or_default();
                if let Some(new) = change(Recorded::Known(now)) {
                    if new.flags.contains(PageFlags::LOST) {
                        self.may_have_lost.store(true, Ordering::SeqCst);
                    }
                    known.insert(page, Descriptor { generation: now.generation.wrapping_add(1), ..new });
                }
                Ok(())
            }
            Store::Medium { start, hint, namespace, turn } => {
                let at = place(*start, page);
                if read_only {
                    return Err(Error::new(Kind::ReadOnly, "set page descriptor").at(at));
                }
                let mut anchored = lock(turn);
                let id = PageId { namespace: *namespace, pfn: page };
                let now = match read(media, at, id) {
                    Err(e) if e.kind() == Kind::Poison => {
                        // It and its neighbours in the unit are lost already.
                        media.stream(MediaOffset(at.0 & !(UNIT - 1)), &UNKNOWN)?;
                        media.drain()?;
                        Stored::Unknown
                    }
                    other => other?,
                };
                let Some(new) = change(recorded(now)) else { return Ok(()) };
                if new.flags.contains(PageFlags::LOST) {
                    self.will_have_lost(media, *hint)?;
                }
                let generation = match now {
                    Stored::Set { descriptor, .. } => descriptor.generation,
                    Stored::Fresh | Stored::Unknown => 0,
                };
                let new = Descriptor { generation: generation.wrapping_add(1), ..new };
                let change = now.change(new, id);
                anchored.make_sure(media, page, at)?;
                let version = at.plus(change.at);
                let len = u64::try_from(change.version.len()).unwrap_or(LEN);
                let store = || -> Result<()> {
                    if !keeps(Mutant::VersionFirst) {
                        media.store_u64(at, change.word)?;
                        media.persist(at, 8)?;
                    }
                    media.store(version, &change.version)?;
                    persist(media, version, len, Mutant::VersionDrain)?;
                    media.store_u64(at, change.word)?;
                    persist(media, at, 8, Mutant::WordDrain)
                };
                store().inspect_err(|_| anchored.doubt(page))
            }
        }
    }

    /// Says, before the first mark is made, that there may be some.
    fn will_have_lost<M: Media>(&self, media: &M, hint: Option<MediaOffset>) -> Result<()> {
        if self.may_have_lost() {
            return Ok(());
        }
        if let Some(at) = hint {
            media.store_u64(at, 1)?;
            media.persist(at, 8)?;
        }
        self.may_have_lost.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Marks those pages of a range that have lost bytes. What cannot be marked stays as it is: the caller has an error to
    /// tell already.
    pub(crate) fn mark_lost<M: Media>(
        &self,
        media: &M,
        read_only: bool,
        pages: Range<u64>,
        is_lost: impl Fn(u64) -> bool,
    ) {
        for page in pages {
            if !is_lost(page) {
                continue;
            }
            let marked = self.update(media, read_only, page, |now| {
                let now = match now {
                    Recorded::Known(now) if now.flags.contains(PageFlags::LOST) => return None,
                    Recorded::Known(now) => now,
                    Recorded::Unknown => Descriptor::default(),
                };
                Some(Descriptor { flags: now.flags | PageFlags::LOST, ..now })
            });
            // A writer may have healed it meanwhile, and looked for a mark before it was there.
            if marked.is_err() {
                return;
            }
            if !is_lost(page) {
                self.clear_lost(media, page..page.saturating_add(1), &is_lost);
            }
        }
    }

    /// Takes the mark from those pages of a range that have no lost bytes any more. A mark that cannot be taken away stays:
    /// it says too much, and the store that brought us here has succeeded.
    pub(crate) fn clear_lost<M: Media>(&self, media: &M, pages: Range<u64>, is_lost: impl Fn(u64) -> bool) {
        let clear = |now: Recorded, page: u64| match now {
            Recorded::Known(now) if now.flags.contains(PageFlags::LOST) && !is_lost(page) => {
                Some(Descriptor { flags: now.flags.difference(PageFlags::LOST), ..now })
            }
            _ => None,
        };
        match &self.place {
            Store::Memory(known) => {
                for (page, now) in lock(known).range_mut(pages) {
                    if let Some(new) = clear(Recorded::Known(*now), *page) {
                        *now = Descriptor { generation: now.generation.wrapping_add(1), ..new };
                    }
                }
            }
            Store::Medium { start, .. } => {
                let mut page = pages.start;
                while page < pages.end {
                    let run = run(media, *start, page..pages.end);
                    for page in run.start..run.end {
                        // Most were never set, which the first word tells.
                        if media.load_u64(place(*start, page)).is_ok_and(|word| word != 0) {
                            let _ = self.update(media, false, page, |now| clear(now, page));
                        }
                    }
                    page = run.end;
                }
            }
        }
    }
}

/// The next pages of a range whose descriptors are to be looked at: all of it, or, of a large one, what comes before the
/// next hole. An empty run is a hole, which ends where the run does.
fn run<M: Media>(media: &M, start: MediaOffset, pages: Range<u64>) -> Range<u64> {
    let count = pages.end.saturating_sub(pages.start);
    if count <= MANY {
        return pages;
    }
    let Ok(extent) = media.extent(place(start, pages.start), count.saturating_mul(LEN)) else { return pages };
    let whole = extent.len.checked_div(LEN).unwrap_or(0);
    let end = |count: u64| pages.start.saturating_add(count).min(pages.end);
    if extent.hole && whole > 0 {
        return end(whole)..end(whole);
    }
    pages.start..end(whole.saturating_add(1))
}

fn place(start: MediaOffset, page: u64) -> MediaOffset {
    start.plus(page.saturating_mul(LEN))
}

fn recorded(stored: Stored) -> Recorded {
    match stored {
        Stored::Fresh => Recorded::Known(Descriptor::default()),
        Stored::Set { descriptor, .. } => Recorded::Known(descriptor),
        Stored::Unknown => Recorded::Unknown,
    }
}

fn read<M: Media>(media: &M, at: MediaOffset, id: PageId) -> Result<Stored> {
    let mut bytes = [0u8; DESCRIPTOR_LEN];
    match media.read(at, &mut bytes) {
        Ok(()) => Ok(Stored::parse(&bytes, id)),
        Err(e) if e.kind() == Kind::Poison => Err(Error::new(Kind::Poison, "read page descriptor")
            .at(at)
            .found(format_args!("lost bytes where the descriptor of page {} is", id.pfn))
            .accepted("one that reads whole; setting it heals them")),
        Err(e) => Err(e),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics under these locks, so what they guard is sound.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
