// SPDX-License-Identifier: MIT OR Apache-2.0
//! One arena: where its parts lie, and the locks of its map.

use std::collections::BTreeMap;

use nvstack_format::btt::{ArenaLayout, MapEntry, Padding};
use nvstack_format::{Block, MediaOffset, Premap};
use nvstack_media::{Error, Kind, Media, Result};

use crate::group::Stripe;
use crate::mutants::{Mutant, keeps};
use crate::step;
use crate::sync::{OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard, STRIPES};

/// An attached arena.
pub(crate) struct Arena {
    /// Its number in the chain, from 0.
    pub(crate) index: usize,
    /// Where its info block lies in the namespace.
    pub(crate) base: MediaOffset,
    /// Validated geometry, relative to `base`.
    pub(crate) layout: ArenaLayout,
    /// The device's LBA of its first sector.
    pub(crate) first: u64,
    /// Which records of a flog group are in use.
    pub(crate) padding: Padding,
    /// Entries that recovery would write, where the medium may not be written: they hide those of the map.
    pub(crate) redo: BTreeMap<Premap, MapEntry>,
    /// Why no more sector of this arena may be written, once there is a reason.
    frozen: OnceLock<String>,
    /// The map's locks. Sixteen neighbouring entries, a cache line of the map, share one (as in Linux).
    stripes: Box<[RwLock<Stripe>]>,
}

impl Arena {
    pub(crate) fn new(
        index: usize,
        base: MediaOffset,
        first: u64,
        layout: ArenaLayout,
        padding: Padding,
        redo: BTreeMap<Premap, MapEntry>,
    ) -> Arena {
        // Every arena of the format has more lines than that; those of the simulator have one or two.
        let lines = STRIPES.min(layout.external_nlba.checked_shr(4).unwrap_or(0).max(8));
        let stripes = (0..lines).map(|_| RwLock::default()).collect();
        Arena { index, base, layout, first, padding, redo, frozen: OnceLock::new(), stripes }
    }

    /// Sectors of this arena.
    pub(crate) fn sectors(&self) -> u64 {
        u64::from(self.layout.external_nlba)
    }

    /// Where the map entry of a sector lies.
    pub(crate) fn map_at(&self, premap: Premap) -> Result<MediaOffset> {
        self.layout.map_entry(premap).map(|o| self.base.plus(o)).ok_or_else(|| {
            Error::new(Kind::OutOfRange, "find map entry")
                .found(format_args!("sector {premap} of arena {}", self.index))
                .accepted(format_args!("less than {}", self.layout.external_nlba))
        })
    }

    /// Where an internal block lies.
    pub(crate) fn block_at(&self, block: Block) -> Result<MediaOffset> {
        self.layout.data(block).map(|o| self.base.plus(o)).ok_or_else(|| {
            Error::new(Kind::Corrupt, "find internal block")
                .found(format_args!("block {block} in arena {}", self.index))
                .accepted(format_args!("less than {}", self.layout.internal_nlba))
        })
    }

    /// Where record `slot` (0 or 1) of a lane's flog group lies.
    pub(crate) fn flog_at(&self, lane: u32, slot: usize) -> Result<MediaOffset> {
        let group = self.layout.flog_group(lane);
        let record = self.padding.slots().get(slot).copied();
        group.zip(record).map(|(g, r)| self.base.plus(g).plus(r)).ok_or_else(|| {
            Error::new(Kind::OutOfRange, "find flog record")
                .found(format_args!("lane {lane}, record {slot} of arena {}", self.index))
                .accepted(format_args!("lanes below {}, records 0 and 1", self.layout.nfree))
        })
    }

    /// The map entry of a sector, as the medium has it or as recovery would leave it.
    pub(crate) fn entry<M: Media>(&self, media: &M, premap: Premap) -> Result<MapEntry> {
        if let Some(entry) = self.redo.get(&premap) {
            return Ok(*entry);
        }
        Ok(MapEntry(media.load_u32(self.map_at(premap)?)?))
    }

    /// The block behind an entry, or the error that names the entry if there is no such block.
    pub(crate) fn block_of(&self, entry: MapEntry, premap: Premap) -> Result<Block> {
        let block = entry.block(premap);
        if block.0 < self.layout.internal_nlba || !keeps(Mutant::EntryCheck) {
            return Ok(block);
        }
        Err(Error::new(Kind::Corrupt, format!("translate sector {premap} of arena {}", self.index))
            .at(self.map_at(premap)?)
            .found(format_args!("map entry {:#010x}, block {block}", entry.0))
            .accepted(format_args!("blocks below {}", self.layout.internal_nlba)))
    }

    fn stripe(&self, premap: Premap) -> Result<&RwLock<Stripe>> {
        let line = premap.0.checked_shr(4).unwrap_or(0);
        let line = if keeps(Mutant::MapLock) { line } else { own_number() };
        usize::try_from(line)
            .ok()
            .and_then(|line| self.stripes.get(line.checked_rem(self.stripes.len())?))
            .ok_or_else(|| Error::new(Kind::OutOfRange, "lock map entry").found(premap))
    }

    /// Locks the entries around a sector against change. A panic under such a lock can't have left the stripe half
    /// changed in a way that matters: its lists are pushed to and cleared in one step each.
    pub(crate) fn share(&self, premap: Premap) -> Result<RwLockReadGuard<'_, Stripe>> {
        Ok(step::read(self.stripe(premap)?))
    }

    /// Locks the entries around a sector for change.
    pub(crate) fn claim(&self, premap: Premap) -> Result<RwLockWriteGuard<'_, Stripe>> {
        Ok(step::write(self.stripe(premap)?))
    }

    /// All stripes, for the commit that seals them one by one.
    pub(crate) fn stripes(&self) -> &[RwLock<Stripe>] {
        &self.stripes
    }

    /// Ends writing to this arena: what is on the medium is no longer known to be what memory says. Opening it anew
    /// recovers it.
    pub(crate) fn freeze(&self, why: &dyn std::fmt::Display) {
        if !keeps(Mutant::Freeze) {
            return;
        }
        let _ = self.frozen.set(why.to_string());
    }

    /// Fails if the arena may not be written.
    pub(crate) fn writable(&self) -> Result<()> {
        match self.frozen.get() {
            None => Ok(()),
            Some(why) => Err(Error::new(Kind::Io, format!("write to arena {}", self.index)).found(why)),
        }
    }
}

/// A number of the running task's own, for locks that lock nobody else out.
fn own_number() -> u32 {
    #[cfg(feature = "sim")]
    if let Some(task) = step::hook::task() {
        return u32::try_from(task).unwrap_or(0);
    }
    0
}
