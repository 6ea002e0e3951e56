// SPDX-License-Identifier: MIT OR Apache-2.0
//! Group commit, for plain files: sectors wait in free blocks until a flush, and become durable together.
//!
//! An msync costs half a millisecond on a disk's file system, whatever it covers. So a written sector goes into a lane's
//! free block at once, and its flog record and map entry wait in memory. Readers look here first. A sector that is
//! written twice within a group keeps its block. At FLUSH, at FUA, when a free block is wanted and there is none,
//! or after a second, the group is sealed and committed (`order::commit_group`). Whatever of it the page cache has written
//! to the file by itself before that lies in blocks that no map entry and no flog record on the file names.

use std::sync::PoisonError;
use std::time::Duration;

use nvstack_format::{Block, Premap};
use nvstack_media::{Error, Kind, Media, Result};

use crate::arena::Arena;
use crate::lanes::Slot;
use crate::mutants::{Mutant, keeps};
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::{order, step};

/// A sector that was written and is not committed: its data lies in `slot.free`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) premap: Premap,
    pub(crate) lane: u32,
    pub(crate) slot: Slot,
}

/// The uncommitted sectors of one stripe of the map.
#[derive(Clone, Default)]
pub(crate) struct Stripe {
    /// May still be overwritten in place.
    open: Vec<Pending>,
    /// Being committed: their blocks must not change any more.
    sealed: Vec<Pending>,
    /// Of the open ones, those that a failing store left half overwritten. The sector that was there before, and was
    /// answered for, is gone, and what is there now is none: it is never committed, nor read, until it is written again.
    torn: Vec<Premap>,
}

impl Stripe {
    /// The block that holds the newest data of a sector, if it is not the one in the map.
    pub(crate) fn newest(&self, premap: Premap) -> Option<Block> {
        self.overwritable(premap)
            .or_else(|| self.sealed.iter().find(|p| p.premap == premap).map(|p| p.slot.free))
    }

    /// The block of a sector that may be overwritten where it lies.
    pub(crate) fn overwritable(&self, premap: Premap) -> Option<Block> {
        let sealed = self.sealed.iter().filter(|_| !keeps(Mutant::GroupSeal));
        self.open.iter().chain(sealed).find(|p| p.premap == premap).map(|p| p.slot.free)
    }

    /// Fails if the sector's newest data is half overwritten.
    pub(crate) fn check_whole(&self, premap: Premap) -> Result<()> {
        if !self.torn.contains(&premap) {
            return Ok(());
        }
        Err(Error::new(Kind::Io, "read sector")
            .found("a sector that a failed write left half overwritten, before it was ever flushed")
            .accepted("a sector that was written again"))
    }

    /// Whether nothing at all waits here.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.sealed.is_empty()
    }

    /// The map has the sector now.
    pub(crate) fn settled(&mut self, premap: Premap) {
        self.sealed.retain(|p| p.premap != premap);
    }
}

/// Lanes of an arena that own a free block and wait for a sector.
struct Pool {
    lanes: Mutex<Vec<(u32, Slot)>>,
    /// Lanes in the pool, in a group, or on the way between them: all but those with a bad block.
    usable: AtomicUsize,
}

impl Pool {
    fn new(lanes: Vec<(u32, Slot)>) -> Pool {
        Pool { usable: AtomicUsize::new(lanes.len()), lanes: Mutex::new(lanes) }
    }

    fn take(&self) -> Option<(u32, Slot)> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn give(&self, lanes: impl IntoIterator<Item = (u32, Slot)>) {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).extend(lanes);
    }

    fn is_empty(&self) -> bool {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// The state of group commit.
pub(crate) struct Group {
    pools: Vec<Pool>,
    /// Sectors in open groups.
    open: AtomicUsize,
    /// Those of them that are half overwritten.
    torn: AtomicUsize,
    /// Commits that have begun. Whoever waits for a commit is served by any that began after it came.
    begun: AtomicU64,
    turn: Mutex<()>,
    /// Something waits to be committed: for the ticker.
    dirty: Mutex<bool>,
    wake: Condvar,
}

impl Group {
    /// `slots` holds, for each lane, what it owns in each arena.
    pub(crate) fn new(slots: Vec<Vec<Slot>>, arenas: usize) -> Group {
        let mut pools: Vec<Vec<(u32, Slot)>> = (0..arenas).map(|_| Vec::new()).collect();
        // Lane 0 last, so that it is taken first, as a single CPU of Linux would.
        for (lane, owned) in (0u32..).zip(slots).collect::<Vec<_>>().into_iter().rev() {
            for (pool, slot) in pools.iter_mut().zip(owned) {
                pool.push((lane, slot));
            }
        }
        Group {
            pools: pools.into_iter().map(Pool::new).collect(),
            open: AtomicUsize::new(0),
            torn: AtomicUsize::new(0),
            begun: AtomicU64::new(0),
            turn: Mutex::new(()),
            dirty: Mutex::new(false),
            wake: Condvar::new(),
        }
    }

    fn pool(&self, arena: &Arena) -> Result<&Pool> {
        self.pools.get(arena.index).ok_or_else(|| {
            Error::new(Kind::OutOfRange, "find lane pool").found(format_args!("arena {}", arena.index))
        })
    }

    /// Whether any sector waits in an open group.
    pub(crate) fn has_open(&self) -> bool {
        self.open.load(Ordering::Acquire) > 0
    }

    /// Writes a sector into the open group.
    pub(crate) fn write<M: Media>(
        &self,
        media: &M,
        arenas: &[Arena],
        arena: &Arena,
        premap: Premap,
        data: &[u8],
    ) -> Result<()> {
        loop {
            arena.writable()?;
            {
                let mut stripe = arena.claim(premap)?;
                if let Some(block) = stripe.overwritable(premap) {
                    // Readers of this sector hold the stripe while they copy, so none sees half of it.
                    return self.overwrite(media, arena, &mut stripe, premap, block, data);
                }
                let pool = self.pool(arena)?;
                if let Some((lane, slot)) = pool.take() {
                    // The sector's present entry must be sound before anything is promised for it.
                    let sound = arena.entry(media, premap).and_then(|entry| arena.block_of(entry, premap));
                    match sound.and_then(|_| self.fill(media, arena, slot, data)) {
                        Ok(true) => {
                            stripe.open.push(Pending { premap, lane, slot });
                            if self.open.fetch_add(1, Ordering::AcqRel) == 0 {
                                self.notify();
                            }
                            return Ok(());
                        }
                        // Its block can't be used: the lane stays out of the pool, the next one is tried.
                        Ok(false) => {
                            pool.usable.fetch_sub(1, Ordering::AcqRel);
                            continue;
                        }
                        Err(e) => {
                            pool.give([(lane, slot)]);
                            return Err(e);
                        }
                    }
                }
            }
            self.refill(media, arenas, arena)?;
        }
    }

    /// Overwrites a sector that waits for its commit.
    fn overwrite<M: Media>(
        &self,
        media: &M,
        arena: &Arena,
        stripe: &mut Stripe,
        premap: Premap,
        block: Block,
        data: &[u8],
    ) -> Result<()> {
        let pool = self.pool(arena)?;
        let healed = crate::device::heal(media, arena, block);
        let placed = healed.and_then(|_| order::place(media, arena, block, data));
        let was_torn = stripe.torn.contains(&premap);
        match &placed {
            Ok(()) if was_torn => self.whole_again(pool, stripe, premap),
            Err(_) if !was_torn && keeps(Mutant::GroupTorn) => {
                stripe.torn.push(premap);
                self.torn.fetch_add(1, Ordering::AcqRel);
                // A commit does not give its lane back.
                pool.usable.fetch_sub(1, Ordering::AcqRel);
            }
            _ => {}
        }
        placed
    }

    fn whole_again(&self, pool: &Pool, stripe: &mut Stripe, premap: Premap) {
        stripe.torn.retain(|torn| *torn != premap);
        self.torn.fetch_sub(1, Ordering::AcqRel);
        pool.usable.fetch_add(1, Ordering::AcqRel);
    }

    /// Gives up a sector that is half overwritten, for one that takes its place without a block.
    pub(crate) fn give_up_torn(&self, arena: &Arena, stripe: &mut Stripe, premap: Premap) -> Result<()> {
        if !stripe.torn.contains(&premap) {
            return Ok(());
        }
        let pool = self.pool(arena)?;
        if let Some(at) = stripe.open.iter().position(|p| p.premap == premap) {
            let Pending { lane, slot, .. } = stripe.open.swap_remove(at);
            self.open.fetch_sub(1, Ordering::AcqRel);
            pool.give([(lane, slot)]);
        }
        self.whole_again(pool, stripe, premap);
        Ok(())
    }

    /// Fails as long as a sector that was answered for is neither there nor written again.
    pub(crate) fn check_whole(&self) -> Result<()> {
        match self.torn.load(Ordering::Acquire) {
            0 => Ok(()),
            torn => Err(Error::new(Kind::Io, "flush")
                .found(format_args!("{torn} sectors that failed writes left half overwritten"))
                .accepted("none: each must be written again")),
        }
    }

    /// Commits the open group for the sake of the lanes that it holds, unless somebody else just gave some back.
    fn refill<M: Media>(&self, media: &M, arenas: &[Arena], arena: &Arena) -> Result<()> {
        let pool = self.pool(arena)?;
        if pool.usable.load(Ordering::Acquire) == 0 {
            return Err(Error::new(Kind::Poison, "write")
                .found("no usable free block")
                .accepted("at least one"));
        }
        let turn = self.turn();
        if pool.is_empty() {
            self.commit_in_turn(media, arenas)?;
            drop(turn);
            if pool.is_empty() {
                // All lanes are in the hands of writers who are placing their data: let them.
                step::wait();
            }
        }
        Ok(())
    }

    /// Places data in a lane's free block; false if the block lies on lost bytes that can't be healed.
    fn fill<M: Media>(&self, media: &M, arena: &Arena, slot: Slot, data: &[u8]) -> Result<bool> {
        if !crate::device::heal(media, arena, slot.free)? {
            return Ok(false);
        }
        order::place(media, arena, slot.free, data).map(|()| true)
    }

    /// Makes everything that was written before the call durable, but for what [`Group::check_whole`] fails of.
    pub(crate) fn commit<M: Media>(&self, media: &M, arenas: &[Arena]) -> Result<()> {
        let before = self.begun.load(Ordering::SeqCst);
        let _turn = self.turn();
        if self.begun.load(Ordering::SeqCst) > before {
            // One began after this call and is over; it took everything along, or froze the arenas.
            return arenas.iter().try_for_each(Arena::writable);
        }
        self.commit_in_turn(media, arenas)
    }

    /// The right to commit.
    fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        keeps(Mutant::GroupTurn).then(|| step::turn(&self.turn))
    }

    /// Whoever calls this has the turn.
    fn commit_in_turn<M: Media>(&self, media: &M, arenas: &[Arena]) -> Result<()> {
        arenas.iter().try_for_each(Arena::writable)?;
        self.begun.fetch_add(1, Ordering::SeqCst);
        let sealed = self.seal(arenas);
        // The drains in there also cover what changes without a group: entries switched to zero or error.
        let lanes = order::commit_group(media, sealed).inspect_err(|e| {
            for arena in arenas {
                arena.freeze(e);
            }
        })?;
        for (arena, freed) in lanes {
            if let Some(pool) = self.pools.get(arena) {
                pool.give(freed);
            }
        }
        Ok(())
    }

    /// Closes the open group, stripe by stripe. A write that completed before the commit began is in it.
    fn seal<'a>(&self, arenas: &'a [Arena]) -> Vec<(&'a Arena, Vec<Pending>)> {
        let mut sealed = Vec::new();
        *self.dirty.lock().unwrap_or_else(PoisonError::into_inner) = false;
        if !self.has_open() {
            return sealed;
        }
        for arena in arenas {
            let mut group = Vec::new();
            for stripe in arena.stripes() {
                let mut stripe = step::write(stripe);
                let open = std::mem::take(&mut stripe.open);
                let (torn, open): (Vec<_>, Vec<_>) =
                    open.into_iter().partition(|p| stripe.torn.contains(&p.premap));
                stripe.open = torn;
                group.extend_from_slice(&open);
                stripe.sealed.extend(open);
            }
            self.open.fetch_sub(group.len(), Ordering::AcqRel);
            if !group.is_empty() {
                sealed.push((arena, group));
            }
        }
        if self.has_open() {
            self.notify();
        }
        sealed
    }

    /// Says that something waits to be committed.
    pub(crate) fn notify(&self) {
        *self.dirty.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.wake.notify_all();
    }

    /// Waits until something waits to be committed, or for `patience`, or until it is `stopped` and notified of that. Tells
    /// whether something does.
    pub(crate) fn wait_dirty(&self, patience: Duration, stopped: &AtomicBool) -> bool {
        let dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        // A commit by somebody else takes the mark of who stops us away; the flag stays.
        let idle = |dirty: &mut bool| !*dirty && !stopped.load(Ordering::Acquire);
        *self.wake.wait_timeout_while(dirty, patience, idle).unwrap_or_else(PoisonError::into_inner).0
    }
}
