// SPDX-License-Identifier: MIT OR Apache-2.0
//! The block device: requests into sectors.

use std::io::{IoSlice, IoSliceMut};

use nvstack_block::{
    BlockDevice, Direction, Extent, ExtentFlags, Geometry, Lba, Page, PageAccess, WriteFlags, in_range,
    rw_page_by_sectors, sectors_of,
};
use nvstack_format::btt::{MapEntry, MapState};
use nvstack_format::{Block, Premap};
use nvstack_media::{Error, Kind, Media, MediaOffset, Result};

use crate::arena::Arena;
use crate::lanes::Held;
use crate::mutants::{Mutant, keeps};
use crate::open::{Btt, Mode};
use crate::order;

/// One sector of data, zero.
const ZEROS: [u8; 4096] = [0; 4096];

/// Makes a free block fit to be written where it lies on lost bytes: the bad units that lie wholly inside it are
/// overwritten, which heals them. False if it stays bad: a unit that reaches into the next block may hold a
/// neighbour's last readable bytes and is not touched.
pub(crate) fn heal<M: Media>(media: &M, arena: &Arena, block: Block) -> Result<bool> {
    let at = arena.block_at(block)?;
    let len = u64::from(arena.layout.lbasize.internal());
    if !media.is_poisoned(at, len) {
        return Ok(true);
    }
    let first = at.0.div_ceil(512).saturating_mul(512);
    let end = at.plus(len).0.checked_div(512).unwrap_or(0).saturating_mul(512);
    if first < end {
        media.zero(MediaOffset(first), end.saturating_sub(first))?;
        media.drain()?;
    }
    Ok(!media.is_poisoned(at, len))
}

impl<M: Media> Btt<M> {
    /// The arena that holds a device LBA, and the sector's number in it.
    fn locate(&self, lba: u64) -> Result<(&Arena, Premap)> {
        let after = self.arenas.partition_point(|a| a.first <= lba);
        after
            .checked_sub(1)
            .and_then(|i| self.arenas.get(i))
            .and_then(|a| {
                let premap = lba.checked_sub(a.first).filter(|p| *p < a.sectors())?;
                Some((a, Premap(u32::try_from(premap).ok()?)))
            })
            .ok_or_else(|| Error::new(Kind::OutOfRange, "find arena").found(format_args!("LBA {lba}")))
    }

    fn sector_len(&self) -> usize {
        usize::try_from(self.geometry.sector_size).unwrap_or(usize::MAX)
    }

    /// Reads a sector while nothing can free its block: `entry` was read under a lock or on a medium that nobody writes.
    fn read_entry(&self, arena: &Arena, premap: Premap, entry: MapEntry, into: &mut [u8]) -> Result<()> {
        match entry.state() {
            MapState::Zero(_) => {
                into.fill(0);
                Ok(())
            }
            MapState::Error(_) => Err(error_entry(arena, premap)),
            MapState::Initial | MapState::Normal(_) => {
                self.media.read(arena.block_at(arena.block_of(entry, premap)?)?, into)
            }
        }
    }

    /// Reads one sector.
    fn read_sector(
        &self,
        lane: Option<&Held<'_>>,
        arena: &Arena,
        premap: Premap,
        into: &mut [u8],
    ) -> Result<()> {
        let (entry, outcome) = match (&self.mode, lane) {
            (Mode::ReadOnly, _) => {
                let entry = arena.entry(&self.media, premap)?;
                (entry, self.read_entry(arena, premap, entry, into))
            }
            (Mode::Grouped(_), _) | (Mode::Direct(_), None) => {
                // The lock keeps a commit from switching the entry, and a writer from overwriting a pending block.
                let mut stripe = Some(arena.share(premap)?);
                let newest = stripe.as_ref().and_then(|s| s.newest(premap));
                stripe.as_ref().map_or(Ok(()), |s| s.check_whole(premap))?;
                if !keeps(Mutant::GroupShare) {
                    drop(stripe.take());
                }
                if let Some(block) = newest {
                    return self.media.read(arena.block_at(block)?, into);
                }
                let entry = arena.entry(&self.media, premap)?;
                (entry, self.read_entry(arena, premap, entry, into))
            }
            (Mode::Direct(_), Some(held)) => {
                let mut entry = arena.entry(&self.media, premap)?;
                loop {
                    // A zero or error entry names a block as well, but nobody reads it.
                    self.tracking.publish(held.lane, arena.index, entry.block(premap));
                    // Whoever wants the block waits until this is taken back, also if nothing comes of it.
                    let again = arena.entry(&self.media, premap);
                    let again = again.inspect_err(|_| self.tracking.clear(held.lane))?;
                    if again == entry || !keeps(Mutant::RttLook) {
                        break;
                    }
                    entry = again;
                }
                self.tracking.publish_late(held.lane, arena.index, entry.block(premap));
                let outcome = self.read_entry(arena, premap, entry, into);
                self.tracking.clear(held.lane);
                if matches!(entry.state(), MapState::Error(_)) && keeps(Mutant::MarkAgain) {
                    // Whoever marked it may not have drained yet, and what is told lost stays lost.
                    order::flush_entry(&self.media, arena, premap)?;
                    self.media.drain()?;
                }
                (entry, outcome)
            }
        };
        match outcome {
            Err(e) if e.kind() == Kind::Poison && !matches!(entry.state(), MapState::Error(_)) => {
                if self.mark_error(arena, premap, entry)? {
                    return Err(e);
                }
                // Somebody wrote the sector meanwhile; the new data is elsewhere.
                self.read_sector(lane, arena, premap, into)
            }
            other => other,
        }
    }

    /// Marks a sector whose data is lost, unless it was written since `entry` was read: then false. On a medium that may
    /// not be written nothing is marked, and the loss stands all the same.
    fn mark_error(&self, arena: &Arena, premap: Premap, entry: MapEntry) -> Result<bool> {
        if matches!(self.mode, Mode::ReadOnly) || arena.writable().is_err() {
            return Ok(true);
        }
        let stripe = arena.claim(premap)?;
        let changed = stripe.newest(premap).is_some() || arena.entry(&self.media, premap)? != entry;
        if changed && keeps(Mutant::MarkLook) {
            return Ok(false);
        }
        order::switch_entry(&self.media, arena, premap, MapEntry::error(entry.block(premap)))?;
        if let Mode::Direct(_) = self.mode
            && keeps(Mutant::MarkDrain)
        {
            self.media.drain()?;
        }
        Ok(true)
    }

    /// Writes one sector; durable when it returns in direct mode, by a commit in grouped mode.
    fn write_sector(&self, arena: &Arena, premap: Premap, data: &[u8]) -> Result<()> {
        arena.writable()?;
        match &self.mode {
            Mode::ReadOnly => Err(self.read_only_error("write")),
            Mode::Grouped(group) => group.write(&self.media, &self.arenas, arena, premap, data),
            Mode::Direct(lanes) => loop {
                let mut held = lanes.acquire(|slots| slots.get(arena.index).is_some_and(|s| !s.bad))?;
                let number = held.number();
                let slot = held.slot(arena.index)?;
                if !heal(&self.media, arena, slot.free)? {
                    slot.bad = true;
                    continue;
                }
                self.tracking.wait(arena.index, slot.free);
                order::place(&self.media, arena, slot.free, data)?;
                order::commit_sector(&self.media, arena, number, slot, premap)?;
                return Ok(());
            },
        }
    }

    /// Makes what was written before durable.
    pub(crate) fn commit(&self) -> Result<()> {
        match &self.mode {
            Mode::ReadOnly => Ok(()),
            Mode::Direct(_) => self.media.drain(),
            Mode::Grouped(group) => {
                group.commit(&self.media, &self.arenas)?;
                group.check_whole()
            }
        }
    }

    /// Ends a request that wrote.
    fn settle(&self, flags: WriteFlags) -> Result<()> {
        match &self.mode {
            Mode::Grouped(_) if flags.contains(WriteFlags::FUA) || !self.geometry.volatile_cache => {
                self.commit().map_err(|e| e.path(self.media.name()))
            }
            _ => Ok(()),
        }
    }

    fn name_sector(&self, error: Error, lba: u64) -> Error {
        error.lba(Lba(lba)).path(self.media.name())
    }

    fn read_only_error(&self, operation: &'static str) -> Error {
        Error::new(Kind::ReadOnly, operation).path(&self.name).found("a device that was opened read-only")
    }

    fn check_writable(&self, operation: &'static str) -> Result<()> {
        if self.geometry.read_only { Err(self.read_only_error(operation)) } else { Ok(()) }
    }

    /// Switches the entries of sectors to the zero state.
    fn zero_entries(&self, at: Lba, sectors: u64, flags: WriteFlags) -> Result<()> {
        let end = at.0.saturating_add(sectors);
        for lba in at.0..end {
            self.zero_entry(lba).map_err(|e| self.name_sector(e, lba))?;
        }
        match &self.mode {
            Mode::Grouped(group) => {
                group.notify();
                self.settle(flags)
            }
            _ if keeps(Mutant::ZeroDrain) => self.media.drain(),
            _ => Ok(()),
        }
    }

    /// Switches the entry of one sector to the zero state.
    fn zero_entry(&self, lba: u64) -> Result<()> {
        let (arena, premap) = self.locate(lba)?;
        loop {
            arena.writable()?;
            let mut stripe = arena.claim(premap)?;
            let torn = stripe.check_whole(premap).is_err();
            if torn || stripe.newest(premap).is_none() || !keeps(Mutant::ZeroPending) {
                let entry = arena.entry(&self.media, premap)?;
                let block = arena.block_of(entry, premap)?;
                if matches!(entry.state(), MapState::Zero(_)) {
                    // Whoever zeroed it may not have drained yet, and this request is a promise of its own.
                    if keeps(Mutant::ZeroAgain) {
                        order::flush_entry(&self.media, arena, premap)?;
                    }
                } else {
                    order::switch_entry(&self.media, arena, premap, MapEntry::zero(block))?;
                }
                if let Mode::Grouped(group) = &self.mode {
                    group.give_up_torn(arena, &mut stripe, premap)?;
                }
                return Ok(());
            }
            // The sector waits for its commit, which would undo this.
            drop(stripe);
            if let Mode::Grouped(group) = &self.mode {
                group.commit(&self.media, &self.arenas)?;
            }
        }
    }

    /// What is known of one sector.
    fn sector_flags(&self, arena: &Arena, premap: Premap, poisoned: bool) -> Result<ExtentFlags> {
        let stripe = arena.share(premap)?;
        if stripe.newest(premap).is_some() {
            return Ok(ExtentFlags::empty());
        }
        let entry = match arena.entry(&self.media, premap) {
            Ok(entry) => entry,
            // Who asks what is bad is told, and not refused for it.
            Err(e) if e.kind() == Kind::Poison => return Ok(ExtentFlags::BAD),
            Err(e) => return Err(e),
        };
        Ok(match entry.state() {
            MapState::Zero(_) => ExtentFlags::HOLE | ExtentFlags::ZERO,
            MapState::Error(_) => ExtentFlags::BAD,
            MapState::Initial | MapState::Normal(_) => {
                let Ok(block) = arena.block_of(entry, premap) else { return Ok(ExtentFlags::BAD) };
                let (block_at, len) = (arena.block_at(block)?, u64::from(self.geometry.sector_size));
                if poisoned && self.media.is_poisoned(block_at, len) {
                    ExtentFlags::BAD
                } else if matches!(entry.state(), MapState::Initial) {
                    self.hole_flags(block_at, len)?
                } else {
                    ExtentFlags::empty()
                }
            }
        })
    }

    /// A block that was never written, in a hole of the file, is known to read as zeros.
    fn hole_flags(&self, at: MediaOffset, len: u64) -> Result<ExtentFlags> {
        let extent = self.media.extent(at, len)?;
        Ok(if extent.hole && extent.len >= len {
            ExtentFlags::HOLE | ExtentFlags::ZERO
        } else {
            ExtentFlags::empty()
        })
    }

    /// Sectors from `premap` on, at most `limit`, whose entries lie in a hole of the file and so were never written, and
    /// whose blocks, the sectors' own, lie in a hole too. If there are none: how many sectors needn't be asked about
    /// again, since their entries lie in data.
    fn untouched(&self, arena: &Arena, premap: Premap, limit: u64) -> Result<Untouched> {
        if let Mode::Grouped(group) = &self.mode
            && (group.has_open() || !arena.share(premap)?.is_empty())
        {
            return Ok(Untouched::No { sure: 1 });
        }
        if !arena.redo.is_empty() {
            return Ok(Untouched::No { sure: limit });
        }
        let map = self.media.extent(arena.map_at(premap)?, limit.saturating_mul(4))?;
        let entries = map.len.checked_div(4).unwrap_or(0).clamp(1, limit);
        if !map.hole {
            return Ok(Untouched::No { sure: entries });
        }
        let stride = u64::from(arena.layout.lbasize.internal());
        let data = self.media.extent(arena.block_at(Block(premap.0))?, entries.saturating_mul(stride))?;
        let blocks = data.len.checked_div(stride).unwrap_or(0).min(entries);
        Ok(if data.hole && blocks > 0 { Untouched::Yes(blocks) } else { Untouched::No { sure: 1 } })
    }
}

/// Whether sectors were never written.
enum Untouched {
    /// So many were not.
    Yes(u64),
    /// Not known; for so many sectors there is no point in asking again.
    No { sure: u64 },
}

fn error_entry(arena: &Arena, premap: Premap) -> Error {
    let e = Error::new(Kind::Poison, format!("read sector {premap} of arena {}", arena.index))
        .found("an error entry in the map: its data was lost");
    match arena.map_at(premap) {
        Ok(at) => e.at(at),
        Err(_) => e,
    }
}

/// Calls `each` with the LBA and bytes of each sector of the buffers.
fn each_sector<'b>(
    at: Lba,
    buffers: impl Iterator<Item = &'b [u8]>,
    len: usize,
    mut each: impl FnMut(u64, &'b [u8]) -> Result<()>,
) -> Result<()> {
    let mut lba = at.0;
    for buffer in buffers {
        for sector in buffer.chunks_exact(len.max(1)) {
            each(lba, sector)?;
            lba = lba.saturating_add(1);
        }
    }
    Ok(())
}

impl<M: Media> BlockDevice for Btt<M> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, at: Lba, into: &mut [IoSliceMut<'_>]) -> Result<()> {
        sectors_of(&self.geometry, "read", at, into.iter().map(|b| b.len()))?;
        // A lane for the whole request: only its place in the read table is used.
        let lane = match &self.mode {
            Mode::Direct(lanes) => Some(lanes.acquire(|_| true)?),
            _ => None,
        };
        let mut lba = at.0;
        for buffer in into {
            for sector in buffer.chunks_exact_mut(self.sector_len().max(1)) {
                let (arena, premap) = self.locate(lba)?;
                let outcome = self.read_sector(lane.as_ref(), arena, premap, sector);
                outcome.map_err(|e| self.name_sector(e, lba))?;
                lba = lba.saturating_add(1);
            }
        }
        Ok(())
    }

    fn write(&self, at: Lba, from: &[IoSlice<'_>], flags: WriteFlags) -> Result<()> {
        self.check_writable("write")?;
        sectors_of(&self.geometry, "write", at, from.iter().map(|b| b.len()))?;
        each_sector(at, from.iter().map(|b| &**b), self.sector_len(), |lba, sector| {
            let (arena, premap) = self.locate(lba)?;
            self.write_sector(arena, premap, sector).map_err(|e| self.name_sector(e, lba))
        })?;
        self.settle(flags)
    }

    fn flush(&self) -> Result<()> {
        self.commit().map_err(|e| e.path(self.media.name()))
    }

    fn write_zeroes(&self, at: Lba, sectors: u64, flags: WriteFlags) -> Result<()> {
        self.check_writable("write zeroes")?;
        in_range(&self.geometry, "write zeroes", at, sectors)?;
        if self.zero_entries && !flags.contains(WriteFlags::NO_HOLE) {
            return self.zero_entries(at, sectors, flags);
        }
        if flags.contains(WriteFlags::FAST) {
            return Err(Error::new(Kind::Unsupported, "write zeroes fast").path(&self.name));
        }
        let zero = ZEROS.get(..self.sector_len()).unwrap_or(&ZEROS);
        for lba in at.0..at.0.saturating_add(sectors) {
            let (arena, premap) = self.locate(lba)?;
            self.write_sector(arena, premap, zero).map_err(|e| self.name_sector(e, lba))?;
        }
        self.settle(flags)
    }

    fn discard(&self, at: Lba, sectors: u64) -> Result<()> {
        self.check_writable("discard")?;
        in_range(&self.geometry, "discard", at, sectors)?;
        if self.zero_entries { self.zero_entries(at, sectors, WriteFlags::empty()) } else { Ok(()) }
    }

    fn extents(&self, at: Lba, sectors: u64, found: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        in_range(&self.geometry, "look for holes", at, sectors)?;
        let end = at.0.saturating_add(sectors);
        let poisoned = self.media.is_poisoned(MediaOffset(0), self.media.len());
        let mut lba = at.0;
        let mut pending: Option<Extent> = None;
        let mut asked_until = if poisoned { end } else { lba };
        while lba < end {
            let (arena, premap) = self.locate(lba)?;
            let left = end.min(arena.first.saturating_add(arena.sectors())).saturating_sub(lba);
            let mut known = None;
            if lba >= asked_until {
                match self.untouched(arena, premap, left)? {
                    Untouched::Yes(run) => known = Some((run, ExtentFlags::HOLE | ExtentFlags::ZERO)),
                    Untouched::No { sure } => asked_until = lba.saturating_add(sure),
                }
            }
            let (run, flags) = match known {
                Some(known) => known,
                None => (1, self.sector_flags(arena, premap, poisoned)?),
            };
            match &mut pending {
                Some(p) if p.flags == flags => p.sectors = p.sectors.saturating_add(run),
                Some(p) => {
                    if !found(*p) {
                        return Ok(());
                    }
                    *p = Extent { sectors: run, flags };
                }
                None => pending = Some(Extent { sectors: run, flags }),
            }
            lba = lba.saturating_add(run);
        }
        if let Some(p) = pending {
            found(p);
        }
        Ok(())
    }

    // No `bytes`: what is smaller than a sector has no place that outlives the next write of the sector.
    fn pages(&self) -> Result<&dyn PageAccess> {
        Ok(self)
    }
}

impl<M: Media> PageAccess for Btt<M> {
    /// Each sector of the page is atomic; the page is not, where it has several.
    fn rw_page(&self, index: u64, page: &Page, direction: Direction) {
        rw_page_by_sectors(self, index, page, direction);
    }
}
