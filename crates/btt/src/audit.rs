// SPDX-License-Identifier: MIT OR Apache-2.0
//! The proof before the first write: each internal block belongs to one sector or to one lane, never to two.
//!
//! A write frees the block that its sector had, and the lane's next write fills it. If another sector has that block too,
//! its data is gone without a word, so a device whose tables are not one-to-one is not opened for writing. Linux does
//! not look. Cost: 4 bytes read for each sector, and a bit set for each block that was ever moved; holes of a sparse map
//! are sectors that were never written and cost nothing.

use std::collections::{BTreeMap, HashMap};

use nvstack_format::btt::{ArenaLayout, MapEntry, MapState};
use nvstack_format::{Block, MediaOffset, Premap};
use nvstack_media::{Error, Kind, Media, Result};

use crate::mutants::{Mutant, keeps};

/// Blocks in one page of the set.
const PAGE_BITS: u32 = 32768;

/// A set of blocks that takes memory only where it has members.
#[derive(Default)]
struct Set {
    pages: HashMap<u32, Box<[u64]>>,
}

impl Set {
    /// Adds a block; false if it is there already.
    fn insert(&mut self, block: u32) -> bool {
        let (page, bit) =
            (block.checked_div(PAGE_BITS).unwrap_or(0), block.checked_rem(PAGE_BITS).unwrap_or(0));
        let words = self.pages.entry(page).or_insert_with(|| vec![0; 512].into());
        let Some(word) = usize::try_from(bit.wrapping_shr(6)).ok().and_then(|w| words.get_mut(w)) else {
            return false;
        };
        let mask = 1u64.wrapping_shl(bit & 63);
        let new = *word & mask == 0;
        *word |= mask;
        new
    }

    /// The first member in a range.
    fn first_in(&self, from: u32, to: u32) -> Option<u32> {
        let (first, last) = (from.checked_div(PAGE_BITS)?, to.checked_div(PAGE_BITS)?);
        let mut pages: Vec<_> = self.pages.iter().filter(|(p, _)| (first..=last).contains(*p)).collect();
        pages.sort_unstable_by_key(|(p, _)| **p);
        pages
            .into_iter()
            .flat_map(|(page, words)| {
                let base = page.saturating_mul(PAGE_BITS);
                (0u32..).zip(words).filter(|(_, word)| **word != 0).flat_map(move |(w, word)| {
                    let base = base.saturating_add(w.saturating_mul(64));
                    (0..64u32).filter(|b| word.wrapping_shr(*b) & 1 == 1).map(move |b| base.saturating_add(b))
                })
            })
            .find(|b| (from..to).contains(b))
    }
}

/// Checks an arena's map, with recovery's changes applied, and its free blocks. Entries that name no block at all are
/// no danger to others: reads and writes of those sectors fail and name them.
pub(crate) fn audit<M: Media>(
    media: &M,
    base: MediaOffset,
    layout: &ArenaLayout,
    redo: &BTreeMap<Premap, MapEntry>,
    free: &[Block],
) -> Result<()> {
    let mut taken = Set::default();
    let map = base.plus(layout.mapoff);
    let map_len = u64::from(layout.external_nlba).saturating_mul(4);
    let double = |what: String, block: u32| {
        Error::new(Kind::Corrupt, "check map before writing")
            .at(map)
            .found(format_args!("internal block {block} in use twice, the second time by {what}"))
            .accepted("each block in one map entry or one lane (reading is safe: open it read-only)")
    };

    // Holes of the map: their sectors have the blocks of their own numbers.
    let mut holes: Vec<(u32, u32)> = Vec::new();
    let mut buffer = vec![0u8; usize::try_from(map_len.min(65536)).unwrap_or(65536)];
    let mut done = 0u64;
    while done < map_len {
        let extent = media.extent(map.plus(done), map_len.saturating_sub(done))?;
        // Whole entries: a hole that begins or ends inside of one leaves that entry to be read.
        let whole = extent.len & !3;
        if extent.hole && whole > 0 {
            let from = entry_number(done);
            holes.push((from, from.saturating_add(entry_number(whole))));
            done = done.saturating_add(whole);
            continue;
        }
        let step = extent.len.max(4).min(map_len.saturating_sub(done)).min(65536) & !3;
        let Some(piece) = usize::try_from(step).ok().and_then(|n| buffer.get_mut(..n)) else { break };
        media.read(map.plus(done), piece)?;
        let mut switched = false;
        for (premap, word) in (entry_number(done)..).zip(piece.chunks_exact(4)) {
            let premap = Premap(premap);
            let entry = word.try_into().map_or(MapEntry(0), |w| MapEntry(u32::from_le_bytes(w)));
            switched |= matches!(entry.state(), MapState::Zero(_) | MapState::Error(_));
            let block = redo.get(&premap).copied().unwrap_or(entry).block(premap).0;
            if block < layout.internal_nlba && !taken.insert(block) {
                return Err(double(format!("sector {premap}"), block));
            }
        }
        if switched && keeps(Mutant::AnchorSwitched) {
            // No record names these: whoever set them may have been killed before they were durable.
            media.flush(map.plus(done), step)?;
        }
        done = done.saturating_add(step.max(4));
    }
    // A sector in a hole that recovery gives a block.
    for (premap, entry) in redo {
        if holes.iter().any(|(from, to)| (*from..*to).contains(&premap.0))
            && !taken.insert(entry.block(*premap).0)
        {
            return Err(double(format!("sector {premap}"), entry.block(*premap).0));
        }
    }
    for (lane, block) in free.iter().enumerate() {
        if !taken.insert(block.0) {
            return Err(double(format!("the free block of lane {lane}"), block.0));
        }
    }
    for (from, to) in holes {
        let mut start = from;
        while let Some(block) = taken.first_in(start, to) {
            // Recovery moved the sector of this number away, so its own block may be another's.
            if !redo.contains_key(&Premap(block)) {
                return Err(double(format!("sector {block}, which was never written"), block));
            }
            start = block.saturating_add(1);
        }
    }
    Ok(())
}

fn entry_number(bytes: u64) -> u32 {
    u32::try_from(bytes.wrapping_shr(2)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_knows_its_members_and_finds_them_in_ranges() {
        let mut set = Set::default();
        for block in [0, 63, 64, 40_000, 1 << 29] {
            assert!(set.insert(block));
            assert!(!set.insert(block));
        }
        assert_eq!(set.first_in(0, 10), Some(0));
        assert_eq!(set.first_in(1, 63), None);
        assert_eq!(set.first_in(1, 64), Some(63));
        assert_eq!(set.first_in(65, u32::MAX), Some(40_000));
        assert_eq!(set.first_in(40_001, u32::MAX), Some(1 << 29));
    }
}
