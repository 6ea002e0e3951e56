// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a power cut left: reads an arena's flog, and finds what is still to be done. Changes nothing by itself.

use std::collections::BTreeMap;

use nvstack_format::btt::{ArenaLayout, FlogRecord, LANES, MapEntry, Padding, detect_padding, judge};
use nvstack_format::{Block, Invalid, MediaOffset, Premap};
use nvstack_media::{Error, Kind, Media, Result};

use crate::lanes::Slot;
use crate::mutants::{Mutant, keeps};

/// Bytes of a lane's flog group.
const GROUP: usize = 64;

/// An arena's flog, understood.
pub(crate) struct Recovered {
    pub(crate) padding: Padding,
    /// What each of the first 256 lanes owns.
    pub(crate) slots: Vec<Slot>,
    /// The free blocks of all groups, also of those that no lane uses.
    pub(crate) free: Vec<Block>,
    /// Map entries that a power cut kept from being written: the flog record was committed, so the sector is new.
    pub(crate) redo: BTreeMap<Premap, MapEntry>,
    /// The sectors of the current records: whose map entries may be as new as the records are.
    pub(crate) named: Vec<Premap>,
}

/// Reads the flog of the arena at `base` and applies Linux's rule to each lane, in the order of lanes: a current record
/// whose sector still has the record's old block in the map was cut off before its map entry was written.
///
/// A record that names a sector or block outside the arena, two records of a lane of which none is the newer, and a
/// block that two lanes own are refused: Linux goes on there, and hands out blocks that are in use.
pub(crate) fn recover<M: Media>(media: &M, base: MediaOffset, layout: &ArenaLayout) -> Result<Recovered> {
    let flog = base.plus(layout.logoff);
    let groups = read_groups(media, flog, layout.nfree)?;
    let wrong = |at: MediaOffset, finding: Invalid| Error::invalid(Kind::Corrupt, "read flog", at, finding);
    let padding = if keeps(Mutant::PaddingCheck) {
        detect_padding(groups.iter().copied()).map_err(|f| wrong(flog, f))?
    } else {
        Padding::New
    };

    let mut slots = Vec::new();
    let mut free = Vec::with_capacity(groups.len());
    let mut redo = BTreeMap::new();
    let mut named = Vec::new();
    for (lane, group) in (0u32..).zip(groups) {
        let at = flog.plus(u64::from(lane).saturating_mul(64));
        let mut state = match judge(padding.pick(group)) {
            Err(_) if !keeps(Mutant::PairCheck) => {
                let [record, _] = padding.pick(group);
                nvstack_format::btt::FlogState { current: 0, record, next_seq: 1 }
            }
            other => other.map_err(|f| wrong(at, f))?,
        };
        if !keeps(Mutant::SeqCheck) {
            let [a, b] = padding.pick(group);
            (state.current, state.record) = if a.seq > b.seq { (0, a) } else { (1, b) };
            state.next_seq = nvstack_format::btt::next_seq(state.record.seq);
        }
        let record = state.record;
        check_record(layout, lane, record).map_err(|f| {
            let slot = padding.slots().get(state.current).copied().unwrap_or(0);
            wrong(at.plus(slot), f)
        })?;
        if record.old() != record.new() {
            let premap = Premap(record.lba);
            named.push(premap);
            let entry =
                match redo.get(&premap) {
                    Some(entry) => *entry,
                    None => {
                        let at = layout.map_entry(premap).map(|o| base.plus(o));
                        MapEntry(media.load_u32(
                            at.ok_or_else(|| Error::new(Kind::Corrupt, "read flog").found(premap))?,
                        )?)
                    }
                };
            let lost = entry.block(premap) == record.old();
            if lost || !keeps(Mutant::RedoOldCheck) {
                redo.insert(premap, MapEntry::normal(record.new()));
            }
        }
        free.push(record.old());
        if lane < LANES {
            slots.push(Slot { free: record.old(), next: state.current ^ 1, seq: state.next_seq, bad: false });
        }
    }
    unique(&free, flog)?;
    Ok(Recovered { padding, slots, free, redo, named })
}

fn read_groups<M: Media>(media: &M, flog: MediaOffset, nfree: u32) -> Result<Vec<[FlogRecord; 4]>> {
    let mut bytes = [0u8; GROUP];
    let mut groups = Vec::new();
    for lane in 0..nfree {
        media.read(flog.plus(u64::from(lane).saturating_mul(64)), &mut bytes)?;
        let mut words = bytes.chunks_exact(8).map(|w| w.try_into().map_or(0, u64::from_le_bytes));
        let mut record = || FlogRecord::from_halves([words.next().unwrap_or(0), words.next().unwrap_or(0)]);
        groups.push([record(), record(), record(), record()]);
    }
    Ok(groups)
}

fn check_record(layout: &ArenaLayout, lane: u32, record: FlogRecord) -> Result<(), Invalid> {
    let limits = [
        ("lba", 0, record.lba, layout.external_nlba),
        ("old_map", 4, record.old().0, layout.internal_nlba),
        ("new_map", 8, record.new().0, layout.internal_nlba),
    ];
    for (field, offset, value, limit) in limits {
        if keeps(Mutant::RecordCheck) && value >= limit {
            let found = format!("{value} in lane {lane}");
            return Err(Invalid::new("BTT flog record", field, offset, found, format!("less than {limit}")));
        }
    }
    Ok(())
}

/// No two lanes own one block.
fn unique(free: &[Block], flog: MediaOffset) -> Result<()> {
    let mut owners: Vec<(Block, u32)> = free.iter().copied().zip(0u32..).collect();
    owners.sort_unstable();
    for pair in owners.windows(2) {
        if let [(block, lane), (other, second)] = pair
            && block == other
            && keeps(Mutant::FreeCheck)
        {
            return Err(Error::new(Kind::Corrupt, "read flog")
                .at(flog.plus(u64::from(*second).saturating_mul(64)))
                .found(format_args!("free block {block} in lane {second} and in lane {lane}"))
                .accepted("a free block in one lane only"));
        }
    }
    Ok(())
}
