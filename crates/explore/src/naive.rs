// SPDX-License-Identifier: MIT OR Apache-2.0
//! A second reading of an arena, from the documents and not from our own code: what Linux makes of the same bytes.
//!
//! Nothing here uses the `format` crate, so that a mistake there is not made twice. It follows `btt_freelist_init` and
//! `log_set_indices` as the facts about them were written down: padding is detected over all groups; the older record of
//! a lane is told by its sequence number; a lane whose newer record was not followed by the map is rolled forward, in the
//! order of lanes. Unlike Linux it then asks whether each block is in use exactly once.

use nvstack_sim::Image;

use crate::content::{self, Contents};

const ZERO: u32 = 1 << 31;
const ERROR: u32 = 1 << 30;
const NUMBER: u32 = ERROR - 1;

/// Where an arena's parts lie on the image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    /// First byte of the blocks, 512 bytes each.
    pub(crate) data: u64,
    /// First byte of the map.
    pub(crate) map: u64,
    /// First byte of the flog.
    pub(crate) flog: u64,
    /// Sectors.
    pub(crate) sectors: u32,
    /// Lanes.
    pub(crate) lanes: u32,
}

/// What an arena holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    /// The map, after what a cut prevented was made good.
    pub(crate) map: Vec<u32>,
    /// The block that each lane owns.
    pub(crate) free: Vec<u32>,
    /// Map entries that had to be made good.
    pub(crate) redone: u32,
}

fn word(image: &Image, at: u64) -> u32 {
    let mut bytes = [0; 4];
    image.read(at, &mut bytes);
    u32::from_le_bytes(bytes)
}

/// lba, old, new, seq.
type Record = [u32; 4];

fn record(image: &Image, places: &Places, lane: u32, index: u64) -> Record {
    let at = places.flog + u64::from(lane) * 64 + index * 16;
    [0, 4, 8, 12].map(|field| word(image, at + field))
}

/// The two records in use, as indices into each group.
fn indices(image: &Image, places: &Places) -> Result<[u64; 2], String> {
    let mut found: Vec<u64> = Vec::new();
    let mut all_initial = true;
    for lane in 0..places.lanes {
        let used: Vec<u64> = (0..4).filter(|i| record(image, places, lane, *i) != [0; 4]).collect();
        all_initial &= used.len() <= 1;
        for index in used {
            if found.contains(&index) {
                continue;
            }
            if found.len() == 2 {
                return Err(format!("flog group {lane} uses record {index} beside {found:?}"));
            }
            found.push(index);
        }
    }
    match found[..] {
        [0, second @ (1 | 2)] => Ok([0, second]),
        [_] if all_initial => Ok([0, 1]),
        _ => Err(format!("flog records in use: {found:?}")),
    }
}

/// Which of two records is the older one.
fn older(seq: [u32; 2]) -> Result<usize, String> {
    let [a, b] = seq;
    if a == 0 {
        return Ok(0);
    }
    // Linux adds them as words of 32 bits.
    if a == b || a.wrapping_add(b) > 5 {
        return Err(format!("flog sequence numbers {a} and {b}"));
    }
    Ok(match (a < b, a.abs_diff(b) == 1) {
        (true, true) | (false, false) => 0,
        (true, false) | (false, true) => 1,
    })
}

fn block_of(entry: u32, sector: u32) -> u32 {
    if entry & (ZERO | ERROR) == 0 { sector } else { entry & NUMBER }
}

/// Reads an arena as Linux does, whatever its tables say.
pub(crate) fn read_tables(image: &Image, places: &Places) -> Result<Decoded, String> {
    let [first, second] = indices(image, places)?;
    let mut map: Vec<u32> = (0..places.sectors).map(|s| word(image, places.map + u64::from(s) * 4)).collect();
    let mut free = Vec::new();
    let mut redone = 0;
    for lane in 0..places.lanes {
        let pair = [record(image, places, lane, first), record(image, places, lane, second)];
        let newer = 1 - older([pair[0][3], pair[1][3]])?;
        let [lba, old, new, _] = pair[newer];
        let (old, new) = (old & NUMBER, new & NUMBER);
        free.push(old);
        if old == new {
            continue;
        }
        let entry = map.get_mut(lba as usize).ok_or_else(|| format!("lane {lane} names sector {lba}"))?;
        let mapped = block_of(*entry, lba);
        if mapped != new && mapped == old {
            *entry = ZERO | ERROR | new;
            redone += 1;
        }
    }
    let decoded = Decoded { map, free, redone };
    Ok(decoded)
}

/// Reads an arena as Linux does, and proves that each block is mapped or free, exactly once.
pub(crate) fn decode(image: &Image, places: &Places) -> Result<Decoded, String> {
    let decoded = read_tables(image, places)?;
    decoded.prove(places)?;
    Ok(decoded)
}

impl Decoded {
    /// Each block is mapped or free, exactly once.
    fn prove(&self, places: &Places) -> Result<(), String> {
        let blocks = places.sectors + places.lanes;
        let mut owners: Vec<Option<(bool, u32)>> = vec![None; blocks as usize];
        let name = |(is_sector, number)| format!("{} {number}", if is_sector { "sector" } else { "lane" });
        let mapped = (0u32..).zip(&self.map).map(|(s, e)| (block_of(*e, s), true, s));
        let free = (0u32..).zip(&self.free).map(|(lane, block)| (*block, false, lane));
        for (block, is_sector, number) in mapped.chain(free) {
            let owner = (is_sector, number);
            match owners.get_mut(block as usize) {
                None => return Err(format!("{} has block {block} of {blocks}", name(owner))),
                Some(Some(other)) => {
                    return Err(format!("block {block} belongs to {} and to {}", name(*other), name(owner)));
                }
                Some(slot) => *slot = Some(owner),
            }
        }
        // As many owners as blocks, and no block with two: none is left over.
        Ok(())
    }

    /// What damaged tables would do to somebody who writes: a block with two owners, or a lane without one. Sectors whose
    /// entries name no block are no danger to others.
    pub(crate) fn danger(&self, places: &Places) -> Option<String> {
        let blocks = places.sectors + places.lanes;
        if let Some(free) = self.free.iter().find(|b| **b >= blocks) {
            return Some(format!("a lane owns block {free} of {blocks}"));
        }
        let mapped = (0u32..).zip(&self.map).map(|(s, e)| block_of(*e, s)).filter(|b| *b < blocks);
        let mut all: Vec<u32> = mapped.chain(self.free.iter().copied()).collect();
        all.sort_unstable();
        all.windows(2).find(|w| w[0] == w[1]).map(|w| format!("block {} has two owners", w[0]))
    }

    /// Whether the free blocks alone are those of nobody, or of two.
    pub(crate) fn flog_danger(&self, places: &Places) -> Option<String> {
        Decoded { map: Vec::new(), free: self.free.clone(), redone: 0 }.danger(places)
    }

    /// Whether the entry of a sector names a block that there is.
    pub(crate) fn is_sound(&self, places: &Places, sector: u32) -> bool {
        let entry = self.map.get(sector as usize).copied().unwrap_or(NUMBER);
        block_of(entry, sector) < places.sectors + places.lanes
    }

    /// What a sector reads as.
    #[must_use]
    pub(crate) fn content(&self, image: &Image, places: &Places, sector: u32) -> u8 {
        let entry = self.map.get(sector as usize).copied().unwrap_or(ERROR);
        match entry & (ZERO | ERROR) {
            ERROR => content::LOST,
            ZERO => 0,
            _ => {
                let at = places.data + u64::from(block_of(entry, sector)) * 512;
                if image.first_lost(at, 512).is_some() { content::LOST } else { content::of_block(image, at) }
            }
        }
    }

    /// What the sectors with these numbers read as.
    #[must_use]
    pub(crate) fn contents(&self, image: &Image, places: &Places, sectors: &[u32]) -> Contents {
        sectors.iter().map(|s| self.content(image, places, *s)).collect()
    }
}

/// Writes a new arena onto zeros.
pub(crate) fn lay_out(image: &mut Image, places: &Places) {
    for lane in 0..places.lanes {
        let spare = places.sectors + lane;
        put(image, places, lane, 0, [lane.min(places.sectors - 1), spare, spare, 1]);
    }
}

fn put(image: &mut Image, places: &Places, lane: u32, index: u64, record: Record) {
    let at = places.flog + u64::from(lane) * 64 + index * 16;
    for (field, value) in (0u64..).zip(record) {
        image.write(at + field * 4, &value.to_le_bytes());
    }
}

/// Writes a sector as Linux does, in one go, to a healthy arena; without its map entry if `cut`. `second` is the index
/// of the second record in use.
pub(crate) fn write(
    image: &mut Image,
    places: &Places,
    (lane, second): (u32, u64),
    sector: u32,
    value: u8,
    cut: bool,
) {
    let pair = [record(image, places, lane, 0), record(image, places, lane, second)];
    let Ok(old_record) = older([pair[0][3], pair[1][3]]) else { return };
    let newest = pair[1 - old_record];
    let free = newest[1] & NUMBER;
    let entry_at = places.map + u64::from(sector) * 4;
    let old = block_of(word(image, entry_at), sector);
    image.write(places.data + u64::from(free) * 512, &content::sector(value));
    let seq = if newest[3] == 3 { 1 } else { newest[3] + 1 };
    let index = if old_record == 0 { 0 } else { second };
    put(image, places, lane, index, [sector, old, free, seq]);
    if !cut {
        image.write(entry_at, &(ZERO | ERROR | free).to_le_bytes());
    }
}

/// Where the block lies that the map gives a sector, if it gives it one to read.
pub(crate) fn mapped(image: &Image, places: &Places, sector: u32) -> Option<u64> {
    let entry = word(image, places.map + u64::from(sector) * 4);
    let readable = matches!(entry & (ZERO | ERROR), 0 | 0xc000_0000);
    readable.then(|| places.data + u64::from(block_of(entry, sector)) * 512)
}

/// Marks a sector as lost.
pub(crate) fn lose(image: &mut Image, places: &Places, sector: u32) {
    let at = places.map + u64::from(sector) * 4;
    let block = block_of(word(image, at), sector);
    image.write(at, &(ERROR | block).to_le_bytes());
}
