// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flog records: the log, 64 bytes for each lane, that makes a sector's change of block atomic.

use alloc::format;

use super::ArenaLayout;
use super::map::{BLOCK, E, Z};
use crate::{Block, Invalid};

/// One of the four records of a lane's flog group. Two are in use, two are padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlogRecord {
    /// The sector that was written.
    pub lba: u32,
    /// The block it had before, which the lane may now use. Linux stores the bare number, and the E bit of the old
    /// map entry if that was an error; others store both flag bits.
    pub old_map: u32,
    /// The block it has now.
    pub new_map: u32,
    /// Which record is newer: 1, 2, 3, 1 ...; 0 was never written.
    pub seq: u32,
}

impl FlogRecord {
    /// From the two aligned 8-byte words that it is stored in.
    #[must_use]
    pub const fn from_halves([first, second]: [u64; 2]) -> FlogRecord {
        let ((lba, old_map), (new_map, seq)) = (parts(first), parts(second));
        FlogRecord { lba, old_map, new_map, seq }
    }

    /// The two aligned 8-byte words to store. The second one commits: it must be stored, whole, after the first one
    /// is durable.
    #[must_use]
    pub fn halves(self) -> [u64; 2] {
        let join = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
        [join(self.lba, self.old_map), join(self.new_map, self.seq)]
    }

    /// Whether it is all zero, as padding and never-used records are.
    #[must_use]
    pub const fn is_padding(self) -> bool {
        self.lba == 0 && self.old_map == 0 && self.new_map == 0 && self.seq == 0
    }

    /// The block that the sector had before. May lie outside the arena.
    #[must_use]
    pub const fn old(self) -> Block {
        Block(self.old_map & BLOCK)
    }

    /// The block that the sector has now. May lie outside the arena.
    #[must_use]
    #[expect(clippy::new_ret_no_self, reason = "the pair of `old`; records are made by their fields")]
    pub const fn new(self) -> Block {
        Block(self.new_map & BLOCK)
    }

    /// Whether the sector was in the error state before, so that the old block may hold lost bytes.
    #[must_use]
    pub const fn old_had_error(self) -> bool {
        self.old_map & E != 0 && self.old_map & Z == 0
    }
}

#[expect(clippy::as_conversions, reason = "splits a word in const context; each half fits")]
const fn parts(word: u64) -> (u32, u32) {
    ((word & 0xffff_ffff) as u32, (word >> 32) as u32)
}

/// Which two records of a group are in use. Found at open, kept for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Padding {
    /// Records 0 and 1: UEFI, and Linux since 4.15.
    New,
    /// Records 0 and 2: older Linux.
    Old,
}

impl Padding {
    /// Where the two records in use lie, in bytes from the start of the group.
    #[must_use]
    pub const fn slots(self) -> [u64; 2] {
        match self {
            Padding::New => [0, 16],
            Padding::Old => [0, 32],
        }
    }

    /// The two records in use, of a whole group.
    #[must_use]
    pub const fn pick(self, [a, b, c, _]: [FlogRecord; 4]) -> [FlogRecord; 2] {
        match self {
            Padding::New => [a, b],
            Padding::Old => [a, c],
        }
    }
}

/// Tells which records an arena uses, from all its groups in the order of lanes.
///
/// Record 0 of a group was written when the arena was made, so it is never padding; over all groups one more record
/// may be in use, the second or the third. An arena whose lanes were never used is of the new kind.
pub fn detect_padding(groups: impl IntoIterator<Item = [FlogRecord; 4]>) -> Result<Padding, Invalid> {
    let mut found = None;
    let mut group_offset = 0u64;
    for group in groups {
        let used = group.map(|record| !record.is_padding());
        let seen = match used {
            [true, false, false, false] => None,
            [true, true, false, false] => Some(Padding::New),
            [true, false, true, false] => Some(Padding::Old),
            _ => {
                let marks = used.map(|u| if u { "used" } else { "zero" });
                return Err(Invalid::new(
                    "BTT flog",
                    "padding",
                    group_offset,
                    format!("records {}", marks.join(" ")),
                    "record 0 used, and of the others at most one, the second or the third",
                ));
            }
        };
        match (found, seen) {
            (Some(before), Some(now)) if before != now => {
                return Err(Invalid::new(
                    "BTT flog",
                    "padding",
                    group_offset,
                    format!("{now:?} padding after groups with {before:?}"),
                    "one kind in all groups",
                ));
            }
            (None, Some(_)) => found = seen,
            _ => {}
        }
        group_offset = group_offset.saturating_add(64);
    }
    Ok(found.unwrap_or(Padding::New))
}

/// What the two records of a lane say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlogState {
    /// The newer record: 0 or 1, an index into [`Padding::slots`]. The other one is overwritten next.
    pub current: usize,
    /// The newer record itself; its [`FlogRecord::old`] is the lane's free block.
    pub record: FlogRecord,
    /// The sequence number that makes the next record newer than this one, to Linux as to us.
    pub next_seq: u32,
}

/// Tells which of a lane's two records is the newer one (UEFI "Flog", Linux `btt_log_get_old`).
///
/// Refused are equal numbers (both zero too: Linux takes the second record, then stores zero for ever and so
/// loses every later record) and numbers over 3, which nothing writes. Of 2 or 3 beside 0 Linux takes the record with 0;
/// so do we, unless that record was never written, and go on with 1 beside it, which every reader takes as newer.
pub fn judge(pair: [FlogRecord; 2]) -> Result<FlogState, Invalid> {
    let [a, b] = pair;
    let refuse = |accepted: &str| {
        Err(Invalid::new("BTT flog group", "seq", 12, format!("{} and {}", a.seq, b.seq), accepted))
    };
    let (current, record, next) = match (a.seq, b.seq) {
        (4.., _) | (_, 4..) => return refuse("0 to 3"),
        (0, 0) => return refuse("at least one record written"),
        (x, y) if x == y => return refuse("two different sequence numbers"),
        (1, 0) => (0, a, 2),
        (_, 0) if b.is_padding() => return refuse("1 beside a record that was never written"),
        (_, 0) => (1, b, 1),
        (0, y) => (1, b, next_seq(y)),
        (x, y) if next_seq(x) == y => (1, b, next_seq(y)),
        (x, _) => (0, a, next_seq(x)),
    };
    Ok(FlogState { current, record, next_seq: next })
}

/// The sequence number after `seq`: 1, 2, 3, 1 ...
#[must_use]
pub const fn next_seq(seq: u32) -> u32 {
    match seq {
        1 => 2,
        2 => 3,
        _ => 1,
    }
}

/// The flog group of a lane in a new arena: the lane's own spare block behind the sectors, given to nobody.
#[must_use]
pub fn fresh_flog(layout: &ArenaLayout, lane: u32) -> [FlogRecord; 4] {
    let spare = layout.external_nlba.saturating_add(lane);
    let first = FlogRecord { lba: lane, old_map: spare, new_map: spare, seq: 1 };
    let zero = FlogRecord::default();
    [first, zero, zero, zero]
}
