// SPDX-License-Identifier: MIT OR Apache-2.0
//! The write orders: every store that changes a BTT while it is in use, and what must be durable before what.
//!
//! What recovery relies on (see `recover`), whatever the medium:
//!
//! 1. the new data is durable before the flog record that names its block;
//! 2. the first half of a record (sector, old block) is durable before the second (new block, sequence number), whose
//!    eight bytes are the commit point; until then the record still counts as the older one of its lane;
//! 3. the record is durable before the map entry changes;
//! 4. the map entry is durable before the lane writes its next record or touches the block that became free.

use nvstack_format::btt::{FlogRecord, INFO_LEN, MapEntry, MapState};
use nvstack_format::{Block, Premap};
use nvstack_media::{Media, Result};

use crate::arena::Arena;
use crate::group::Pending;
use crate::lanes::Slot;
use crate::mutants::{Mutant, keeps};

/// Zeros for the metadata bytes behind a sector's data (8, 16, 64 or 128 of them): Linux's integrity bytes, unused.
const METADATA: [u8; 128] = [0; 128];

/// For each arena, by its number: lanes, with what they own after a commit.
pub(crate) type Returned = Vec<(usize, Vec<(u32, Slot)>)>;

/// Puts a sector's data and metadata bytes into a free block. Durable after a drain.
pub(crate) fn place<M: Media>(media: &M, arena: &Arena, block: Block, data: &[u8]) -> Result<()> {
    let at = arena.block_at(block)?;
    media.stream(at, data)?;
    let lbasize = arena.layout.lbasize;
    let metadata =
        usize::try_from(lbasize.metadata()).ok().and_then(|n| METADATA.get(..n)).unwrap_or(&METADATA);
    if !metadata.is_empty() {
        media.stream(at.plus(u64::from(lbasize.data())), metadata)?;
    }
    Ok(())
}

/// The flog record of a replacement. It holds bare block numbers, except that the old one keeps the error bit of
/// the entry that is replaced, as Linux writes it.
fn record(premap: Premap, entry: MapEntry, old: Block, slot: &Slot) -> FlogRecord {
    let error = matches!(entry.state(), MapState::Error(_));
    let old_map = if error { MapEntry::error(old).0 } else { old.0 };
    FlogRecord { lba: premap.0, old_map, new_map: slot.free.0, seq: slot.seq }
}

/// Commits one sector in Linux's order, on media where a store persists by itself: four persistence points. The sector's
/// data is already placed in the lane's free block; the caller holds the lane, and claims the map entry through `lock`
/// only now, so that data is copied outside of it.
///
/// An error before the commit point leaves the sector old and the lane as it was. An error from it on leaves memory
/// and medium in doubt of each other, so it freezes the arena.
pub(crate) fn commit_sector<M: Media>(
    media: &M,
    arena: &Arena,
    lane: u32,
    slot: &mut Slot,
    premap: Premap,
) -> Result<()> {
    if keeps(Mutant::DataDrain) {
        media.drain()?; // 1: data
    }

    let _entry_lock = arena.claim(premap)?;
    // Another lane may have failed past its commit point under this very lock.
    arena.writable()?;
    let entry = arena.entry(media, premap)?;
    let old = arena.block_of(entry, premap)?;
    let [first, second] = record(premap, entry, old, slot).halves();
    let at = arena.flog_at(lane, slot.next)?;
    let map_at = arena.map_at(premap)?;
    if !keeps(Mutant::FlogSwapped) {
        media.store_u64(at.plus(8), second)?;
        media.persist(at.plus(8), 8)?;
    }
    if !keeps(Mutant::MapBeforeFlog) {
        media.store_u32(map_at, MapEntry::normal(slot.free).0)?;
        media.persist(map_at, 4)?;
    }

    media.store_u64(at, first)?;
    if keeps(Mutant::FlogFirst) && keeps(Mutant::TwoFence) && keeps(Mutant::DataDrain) {
        media.persist(at, 8)?; // 2: first half
    }

    let rest = || -> Result<()> {
        media.store_u64(at.plus(8), second)?; // the commit point
        if keeps(Mutant::FlogSecond) {
            media.persist(at.plus(8), 8)?; // 3: second half
        }
        media.store_u32(map_at, MapEntry::normal(slot.free).0)?;
        if keeps(Mutant::MapPersist) && keeps(Mutant::TwoFence) {
            media.persist(map_at, 4)?; // 4: map
        }
        Ok(())
    };
    rest().inspect_err(|e| arena.freeze(e))?;
    slot.advance(old);
    Ok(())
}

/// Commits a sealed group on a plain file: three persistence points for all of it, an msync each. `sealed` holds, for each
/// arena, the sectors of the group; no two of them are the same sector, and no other commit runs.
///
/// Points 1, 3 and 4 are drains. Point 2 needs none here: both halves of a record lie in one 64-byte flog group, so in
/// one page, and a page reaches the file as it was at some moment; at every moment the second half stands there only
/// if the first does.
///
/// Returns each lane with what it owns now. An error leaves memory and file in doubt of each other: the caller
/// freezes the arenas.
pub(crate) fn commit_group<M: Media>(media: &M, sealed: Vec<(&Arena, Vec<Pending>)>) -> Result<Returned> {
    if keeps(Mutant::GroupData) {
        media.drain()?; // 1: data
    }

    let mut switches = Vec::with_capacity(sealed.len());
    for (arena, group) in sealed {
        let mut arena_switches = Vec::with_capacity(group.len());
        for Pending { premap, lane, slot } in group {
            let entry = arena.entry(media, premap)?;
            let old = arena.block_of(entry, premap)?;
            let [first, second] = record(premap, entry, old, &slot).halves();
            let at = arena.flog_at(lane, slot.next)?;
            if !keeps(Mutant::GroupOrder) {
                media.store_u64(at.plus(8), second)?;
            }
            media.store_u64(at, first)?; // 2: both in one page
            media.store_u64(at.plus(8), second)?; // the commit point
            media.flush(at, 16)?;
            arena_switches.push((premap, lane, slot, old));
        }
        switches.push((arena, arena_switches));
    }
    if keeps(Mutant::GroupFlog) {
        media.drain()?; // 3: flog
    }

    let mut lanes = Vec::with_capacity(switches.len());
    for (arena, arena_switches) in switches {
        let mut freed = Vec::with_capacity(arena_switches.len());
        for (premap, lane, mut slot, old) in arena_switches {
            let mut stripe = arena.claim(premap)?;
            let map_at = arena.map_at(premap)?;
            media.store_u32(map_at, MapEntry::normal(slot.free).0)?;
            media.flush(map_at, 4)?;
            stripe.settled(premap);
            slot.advance(old);
            freed.push((lane, slot));
        }
        lanes.push((arena.index, freed));
    }
    if keeps(Mutant::GroupMap) {
        media.drain()?; // 4: map
    }
    Ok(lanes)
}

/// Switches one map entry by itself, with no block changing hands: to zero on discard, to error on lost bytes.
/// A single aligned store is atomic, so no flog record is needed; durable after a drain. The caller has claimed the entry.
pub(crate) fn switch_entry<M: Media>(
    media: &M,
    arena: &Arena,
    premap: Premap,
    entry: MapEntry,
) -> Result<()> {
    let at = arena.map_at(premap)?;
    media.store_u32(at, entry.0)?;
    media.flush(at, 4)
}

/// Starts writing back what recovery goes by: the info blocks, the flog, and the map entries of its current records. After
/// a power cut it is durable. After a process was killed it may stand in caches alone, and what is built on it would
/// outlive it: an entry that is redone for a record that a cut takes back gives one block two owners. Durable after a drain.
pub(crate) fn anchor<M: Media>(media: &M, arena: &Arena, named: &[Premap]) -> Result<()> {
    if !keeps(Mutant::Anchor) {
        return Ok(());
    }
    let (base, layout) = (arena.base, &arena.layout);
    let info = u64::try_from(INFO_LEN).unwrap_or(u64::MAX);
    for at in [base, base.plus(layout.info2off)] {
        // Arenas of the simulator have none.
        if layout.dataoff >= info {
            media.flush(at, info)?;
        }
    }
    media.flush(base.plus(layout.logoff), u64::from(layout.nfree).saturating_mul(64))?;
    for premap in named {
        flush_entry(media, arena, *premap)?;
    }
    Ok(())
}

/// Starts writing back an entry that is as it should be, though somebody else may have made it so and not be done yet.
/// Durable after a drain. The caller has claimed the entry.
pub(crate) fn flush_entry<M: Media>(media: &M, arena: &Arena, premap: Premap) -> Result<()> {
    media.flush(arena.map_at(premap)?, 4)
}
