// SPDX-License-Identifier: MIT OR Apache-2.0
//! A BTT as Linux reads it.

use std::collections::{BTreeMap, BTreeSet};

use super::{fletcher64, number};
use crate::Sparse;

/// What an info block says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Bytes 16 to 31.
    pub uuid: [u8; 16],
    /// Bytes 32 to 47.
    pub parent: [u8; 16],
    /// Bit 0: no writes.
    pub flags: u64,
    /// Bytes of a sector, with metadata.
    pub lbasize: u64,
    /// Sectors.
    pub sectors: u64,
    /// Bytes from block to block.
    pub stride: u64,
    /// Blocks.
    pub blocks: u64,
    /// Lanes.
    pub nfree: u64,
    /// Of the info block itself.
    pub infosize: u64,
    /// To the next arena.
    pub next: u64,
    /// To the blocks.
    pub data: u64,
    /// To the map.
    pub map: u64,
    /// To the flog.
    pub flog: u64,
    /// To the backup.
    pub info2: u64,
}

/// What becomes of an info block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Linux does not take it for a BTT of this namespace, for this reason.
    NoBtt(&'static str),
    /// Linux would take it; here it is refused, as its fields cannot be: ARCHITECTURE.md, "Where we left Linux's way".
    Stricter(Info, &'static str),
    /// Both take it.
    Good(Info),
}

const SIZES: [u64; 7] = [512, 520, 528, 4096, 4104, 4160, 4224];
const MIB16: u64 = 16 * 1024 * 1024;
const GIB512: u64 = 512 * 1024 * 1024 * 1024;

/// Reads an info block in a namespace of uuid `parent`, with `room` bytes from the block to the namespace's end.
#[must_use]
pub fn info(raw: &[u8; 4096], major: u64, parent: [u8; 16], room: u64) -> Verdict {
    if &raw[..16] != b"BTT_ARENA_INFO\0\0" {
        return Verdict::NoBtt("signature");
    }
    let mut own = [0; 16];
    own.copy_from_slice(&raw[32..48]);
    if own != [0; 16] && own != parent {
        return Verdict::NoBtt("of another namespace");
    }
    if number(raw, 4088, 8) != fletcher64(raw, 4088) {
        return Verdict::NoBtt("checksum");
    }
    if number(raw, 52, 2) != major || number(raw, 54, 2) != (if major == 1 { 1 } else { 0 }) {
        return Verdict::NoBtt("version");
    }
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&raw[16..32]);
    let info = Info {
        uuid,
        parent: own,
        flags: number(raw, 48, 4),
        lbasize: number(raw, 56, 4),
        sectors: number(raw, 60, 4),
        stride: number(raw, 64, 4),
        blocks: number(raw, 68, 4),
        nfree: number(raw, 72, 4),
        infosize: number(raw, 76, 4),
        next: number(raw, 80, 8),
        data: number(raw, 88, 8),
        map: number(raw, 96, 8),
        flog: number(raw, 104, 8),
        info2: number(raw, 112, 8),
    };
    match doubt(&info, room) {
        Some(doubt) => Verdict::Stricter(info, doubt),
        None => Verdict::Good(info),
    }
}

/// Why the fields cannot be, though Linux believes them.
fn doubt(info: &Info, room: u64) -> Option<&'static str> {
    let wide = u128::from;
    let end = if info.next == 0 { room.min(GIB512) } else { info.next };
    let follows =
        |from: u64, count: u64, each: u64, to: u64| wide(from) + wide(count) * wide(each) <= wide(to);
    let checks = [
        (SIZES.contains(&info.lbasize), "a sector size that BTT does not have"),
        (info.stride == info.lbasize.div_ceil(64) * 64, "blocks are not sectors rounded up to 64"),
        ((256..=65536).contains(&info.nfree), "fewer lanes than Linux uses, or absurdly many"),
        (info.infosize == 4096, "an info block of another size"),
        (info.sectors > 0, "no sectors"),
        (info.blocks == info.sectors + info.nfree, "blocks are not sectors and spare ones"),
        (info.blocks <= 1 << 30, "more blocks than an entry can name"),
        (
            info.next == 0
                || info.next.is_multiple_of(4096)
                    && (MIB16..=GIB512).contains(&info.next)
                    && wide(info.next) + wide(MIB16) <= wide(room),
            "a next arena where none can be",
        ),
        (
            [info.data, info.map, info.flog, info.info2].iter().all(|o| o.is_multiple_of(4096)),
            "offsets within pages",
        ),
        (info.info2 >= MIB16 - 4096, "less than the smallest arena"),
        (wide(info.info2) + 4096 <= wide(end), "past the end of the arena or namespace"),
        (info.data >= 4096, "data over the info block"),
        (info.map >= 4096 && info.flog >= 4096, "tables over the info block"),
        (follows(info.data, info.blocks, info.stride, info.map), "data reaches into the map"),
        (follows(info.map, info.sectors, 4, info.flog), "the map reaches into the flog"),
        (follows(info.flog, info.nfree, 64, info.info2), "the flog reaches into the backup"),
    ];
    checks.into_iter().find(|(holds, _)| !holds).map(|(_, words)| words)
}

/// A sector, as a reader gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sector {
    /// Zeros.
    Zeros,
    /// An error.
    Lost,
    /// The bytes here, on the medium.
    At(u64),
    /// An error: its entry names no block.
    Nowhere,
}

/// An arena's tables, after recovery.
#[derive(Clone, Debug)]
pub struct Tables {
    base: u64,
    info: Info,
    /// Entries that recovery sets.
    pub redo: BTreeMap<u64, u64>,
    /// What each lane owns.
    pub free: Vec<u64>,
    /// Which record of a group is the second one in use.
    pub second: usize,
}

/// Why an arena's tables are not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// By Linux.
    Linux(&'static str),
    /// By ours alone.
    Stricter(&'static str),
}

const LOW: u64 = 0x3fff_ffff;

/// Reads the flog of the arena at `base`, and what a power cut left to do.
pub fn tables(medium: &Sparse, base: u64, info: &Info) -> Result<Tables, Refused> {
    let field = |lane: u64, record: usize, field: u64| {
        number(&medium.get::<4>(base + info.flog + lane * 64 + record as u64 * 16 + field * 4), 0, 4)
    };
    let used = |lane: u64, record: usize| (0..4).any(|f| field(lane, record, f) != 0);

    // log_set_indices: which two records are in use.
    let mut first: Option<usize> = None;
    let mut second: Option<usize> = None;
    let mut initial = 0;
    for lane in 0..info.nfree {
        let here: Vec<usize> = (0..4).filter(|r| used(lane, *r)).collect();
        if here.len() <= 1 {
            initial += 1;
        }
        if let (Some(a), Some(b)) = (first, second) {
            if !here.contains(&a) || here.iter().any(|r| *r != a && *r != b) {
                return Err(Refused::Linux("records in use that no other group uses"));
            }
            continue;
        }
        for record in here {
            match (first, second) {
                (None, _) => first = Some(record),
                (Some(a), _) if a == record => {}
                (Some(_), None) => second = Some(record),
                (Some(_), Some(b)) if b == record => {}
                _ => return Err(Refused::Linux("three records in use")),
            }
        }
    }
    let second = match (first, second) {
        _ if initial == info.nfree && second.is_none() => 1,
        (Some(0), Some(second @ (1 | 2))) => second,
        _ => return Err(Refused::Linux("padding")),
    };
    if (0..info.nfree).any(|lane| !used(lane, 0)) {
        return Err(Refused::Stricter("a lane whose first record was never written"));
    }
    if (0..info.nfree).any(|lane| (1..4).any(|r| r != second && used(lane, r))) {
        return Err(Refused::Stricter("records in use of both kinds"));
    }

    let mut free = Vec::new();
    let mut redo: BTreeMap<u64, u64> = BTreeMap::new();
    for lane in 0..info.nfree {
        let (a, b) = (field(lane, 0, 3), field(lane, second, 3));
        // btt_log_get_old: the older one of two.
        let older = if a == 0 {
            0
        } else if a == b {
            return Err(Refused::Linux("equal sequence numbers"));
        } else if a + b > 5 {
            return Err(Refused::Linux("sequence numbers too large"));
        } else if a < b {
            if b - a == 1 { 0 } else { 1 }
        } else if a - b == 1 {
            1
        } else {
            0
        };
        if (a, b) == (0, 0) {
            return Err(Refused::Stricter("a lane without a written record"));
        }
        if a > 3 || b > 3 {
            return Err(Refused::Stricter("sequence numbers that nothing writes"));
        }
        let newest = if older == 0 { second } else { 0 };
        if !used(lane, newest) {
            return Err(Refused::Stricter("the newer record was never written"));
        }
        let [sector, old, new] = [0, 1, 2].map(|f| field(lane, newest, f));
        let (old, new) = (old & LOW, new & LOW);
        if sector >= info.sectors || old >= info.blocks || new >= info.blocks {
            return Err(Refused::Stricter("a record that names what is not in the arena"));
        }
        free.push(old);
        if old == new {
            continue;
        }
        let entry = redo.get(&sector).copied().unwrap_or_else(|| entry(medium, base, info, sector));
        let now = if entry >> 30 == 0 { sector } else { entry & LOW };
        if now != new && now == old {
            redo.insert(sector, 0xc000_0000 | new);
        }
    }
    if free.iter().collect::<BTreeSet<_>>().len() != free.len() {
        return Err(Refused::Stricter("a block that two lanes own"));
    }
    Ok(Tables { base, info: info.clone(), redo, free, second })
}

fn entry(medium: &Sparse, base: u64, info: &Info, sector: u64) -> u64 {
    number(&medium.get::<4>(base + info.map + sector * 4), 0, 4)
}

impl Tables {
    /// Where the arena begins.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base
    }

    fn entry(&self, medium: &Sparse, sector: u64) -> u64 {
        self.redo.get(&sector).copied().unwrap_or_else(|| entry(medium, self.base, &self.info, sector))
    }

    /// A sector's block, whether there is such a block or not.
    #[must_use]
    pub fn block(&self, medium: &Sparse, sector: u64) -> u64 {
        let entry = self.entry(medium, sector);
        if entry >> 30 == 0 { sector } else { entry & LOW }
    }

    /// What a sector holds.
    #[must_use]
    pub fn sector(&self, medium: &Sparse, sector: u64) -> Sector {
        let block = self.block(medium, sector);
        match self.entry(medium, sector) >> 30 {
            2 => Sector::Zeros,
            1 => Sector::Lost,
            _ if block >= self.info.blocks => Sector::Nowhere,
            _ => Sector::At(self.base + self.info.data + block * self.info.stride),
        }
    }

    /// A block that is in use twice, if there is one: Linux would write on, ours refuses to write.
    #[must_use]
    pub fn shared_block(&self, medium: &Sparse) -> Option<u64> {
        let mut owners = vec![false; self.info.blocks as usize];
        let all =
            (0..self.info.sectors).map(|sector| self.block(medium, sector)).chain(self.free.iter().copied());
        for block in all {
            if let Some(owned) = owners.get_mut(block as usize)
                && std::mem::replace(owned, true)
            {
                return Some(block);
            }
        }
        None
    }
}
