// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where things lie: splitting a namespace into arenas, and an arena into data, map and flog.

use alloc::format;
use core::fmt;
use core::iter;

use super::INFO_LEN;
use crate::{Block, Invalid, Premap};

/// Largest arena, in bytes. Keeps block numbers below 2^30 even with 512-byte sectors.
pub const ARENA_MAX: u64 = 1 << 39;
/// Smallest arena, in bytes.
pub const ARENA_MIN: u64 = 1 << 24;
/// Spare blocks of a new arena, each with its flog group.
pub const NFREE: u32 = 256;
/// Lanes that Linux always has. An arena with fewer spare blocks is refused, by Linux too.
pub const LANES: u32 = 256;

/// Most spare blocks accepted on media. Linux always writes 256; each costs memory in a reader.
pub(super) const NFREE_MAX: u32 = 65536;
pub(super) const PAGE: u64 = 4096;
pub(super) const INFO: u64 = 4096;
pub(super) const FLOG_GROUP: u64 = 64;
pub(super) const MAP_ENTRY: u64 = 4;
/// More blocks than this cannot be numbered in the 30 bits of a map entry.
pub(super) const BLOCKS_MAX: u64 = 1 << 30;

const _: () = assert!(INFO_LEN == 4096);

/// A sector size that BTT supports: 512 or 4096 data bytes and up to 128 bytes of metadata behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LbaSize(u32);

impl LbaSize {
    /// All of them, in rising order (Linux `sector_size` of a btt device).
    pub const ALL: [LbaSize; 7] = [
        LbaSize(512),
        LbaSize(520),
        LbaSize(528),
        LbaSize(4096),
        LbaSize(4104),
        LbaSize(4160),
        LbaSize(4224),
    ];

    /// The sector size of `bytes`, metadata included.
    pub fn new(bytes: u32) -> Result<LbaSize, Invalid> {
        LbaSize::ALL.into_iter().find(|size| size.0 == bytes).ok_or_else(|| {
            Invalid::new("BTT info block", "external_lbasize", 56, bytes, "512 520 528 4096 4104 4160 4224")
        })
    }

    /// Bytes of a sector, metadata included.
    #[must_use]
    pub const fn external(self) -> u32 {
        self.0
    }

    /// Bytes from one internal block to the next: the sector rounded up to 64.
    #[must_use]
    pub const fn internal(self) -> u32 {
        self.0.next_multiple_of(64)
    }

    /// Bytes of a sector that a block device serves: 512 or 4096.
    #[must_use]
    pub const fn data(self) -> u32 {
        if self.0 < 4096 { 512 } else { 4096 }
    }

    /// Bytes of metadata behind the data, in the same internal block.
    #[must_use]
    pub const fn metadata(self) -> u32 {
        self.0.saturating_sub(self.data())
    }
}

impl fmt::Display for LbaSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The geometry of one arena. Offsets are bytes from the arena's own info block.
///
/// Made only by [`ArenaLayout::compute`] and by [`super::Info::parse`], so its fields agree with each other: regions
/// follow one another in the order info, data, map, flog, info2, do not overlap, and hold what the counts say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArenaLayout {
    /// Bytes from this info block to the end of the arena.
    pub size: u64,
    /// Sector size.
    pub lbasize: LbaSize,
    /// Sectors served.
    pub external_nlba: u32,
    /// Blocks that hold data: `external_nlba + nfree`.
    pub internal_nlba: u32,
    /// Spare blocks, each with its flog group; at least [`LANES`].
    pub nfree: u32,
    /// The next arena's info block, 0 in the last arena.
    pub nextoff: u64,
    /// Blocks.
    pub dataoff: u64,
    /// Map: a u32 for each sector.
    pub mapoff: u64,
    /// Flog: 64 bytes for each spare block.
    pub logoff: u64,
    /// Backup info block.
    pub info2off: u64,
}

impl ArenaLayout {
    /// The geometry of a new arena of `size` bytes, whose successor starts `nextoff` bytes on (0: it is the last).
    /// Bytes past the last full 4 KiB of `size` stay unused.
    pub fn compute(size: u64, lbasize: LbaSize, nextoff: u64) -> Result<ArenaLayout, Invalid> {
        let refuse = |field, offset, found: u64, accepted: alloc::string::String| {
            Invalid::new("BTT arena", field, offset, found, accepted)
        };
        if !(ARENA_MIN..=ARENA_MAX).contains(&size) {
            return Err(refuse("size", 0, size, format!("{ARENA_MIN} to {ARENA_MAX} bytes")));
        }
        if nextoff != 0 && (nextoff != size || !size.is_multiple_of(PAGE)) {
            return Err(refuse(
                "nextoff",
                80,
                nextoff,
                format!("0 or the size {size}, a multiple of {PAGE}"),
            ));
        }
        // The subtrahends are a few pages, and the arena is at least 16 MiB: nothing saturates.
        let size = size.saturating_sub(size % PAGE);
        let flog_len = (u64::from(NFREE).saturating_mul(FLOG_GROUP)).next_multiple_of(PAGE);
        let available = size.saturating_sub(2 * INFO).saturating_sub(flog_len);
        // The page taken off is the format's allowance for rounding the map up.
        let blocks = available
            .saturating_sub(PAGE)
            .checked_div(u64::from(lbasize.internal()).saturating_add(MAP_ENTRY))
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| u64::from(*n) <= BLOCKS_MAX);
        let Some((internal_nlba, external_nlba)) = blocks.and_then(|n| Some((n, n.checked_sub(NFREE)?)))
        else {
            return Err(refuse("size", 0, size, format!("{ARENA_MIN} to {ARENA_MAX} bytes")));
        };
        let map_len = u64::from(external_nlba).saturating_mul(MAP_ENTRY).next_multiple_of(PAGE);
        let logoff = INFO.saturating_add(available);
        Ok(ArenaLayout {
            size,
            lbasize,
            external_nlba,
            internal_nlba,
            nfree: NFREE,
            nextoff,
            dataoff: INFO,
            mapoff: logoff.saturating_sub(map_len),
            logoff,
            info2off: logoff.saturating_add(flog_len),
        })
    }

    /// Where the map entry of a sector lies; none if the arena has no such sector.
    #[must_use]
    pub const fn map_entry(&self, premap: Premap) -> Option<u64> {
        if premap.0 < self.external_nlba { Some(self.nth(self.mapoff, premap.0, MAP_ENTRY)) } else { None }
    }

    /// Where a block lies; none if the arena has no such block.
    #[must_use]
    #[expect(clippy::as_conversions, reason = "u64::from is not const; the cast widens")]
    pub const fn data(&self, block: Block) -> Option<u64> {
        if block.0 < self.internal_nlba {
            Some(self.nth(self.dataoff, block.0, self.lbasize.internal() as u64))
        } else {
            None
        }
    }

    /// Where the flog group of a lane lies; none if the arena has no such lane.
    #[must_use]
    pub const fn flog_group(&self, lane: u32) -> Option<u64> {
        if lane < self.nfree { Some(self.nth(self.logoff, lane, FLOG_GROUP)) } else { None }
    }

    /// Bytes set aside for the map.
    #[must_use]
    pub const fn map_len(&self) -> u64 {
        self.logoff.saturating_sub(self.mapoff)
    }

    /// Bytes set aside for the flog.
    #[must_use]
    pub const fn flog_len(&self) -> u64 {
        self.info2off.saturating_sub(self.logoff)
    }

    /// Bytes that the arena's sectors hold for a block device: metadata is not counted.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        u64::from(self.external_nlba).saturating_mul(u64::from(self.lbasize.data()))
    }

    /// The place of item `index` of a region. The region was found to hold it, so nothing saturates.
    #[expect(clippy::as_conversions, reason = "u64::from is not const; the cast widens")]
    const fn nth(&self, region: u64, index: u32, step: u64) -> u64 {
        region.saturating_add((index as u64).saturating_mul(step))
    }
}

/// One arena of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its info block, in bytes from the first arena's.
    pub offset: u64,
    /// Its size in bytes.
    pub size: u64,
    /// What its info block says of the next arena: the distance to it, 0 if there is none.
    pub nextoff: u64,
}

/// The arenas of a namespace that has `raw` bytes for them: each as large as can be. A tail shorter than the smallest
/// arena stays unused. Lazy, so that an absurd size costs nothing.
pub fn split(raw: u64) -> impl Iterator<Item = Span> {
    let mut offset = 0u64;
    iter::from_fn(move || {
        let left = raw.checked_sub(offset)?;
        let size = left.min(ARENA_MAX);
        if size < ARENA_MIN {
            return None;
        }
        let nextoff = if left.saturating_sub(size) >= ARENA_MIN { size } else { 0 };
        let span = Span { offset, size, nextoff };
        // After the last arena the offset moves past it, where less than a smallest arena is left.
        offset = offset.saturating_add(size);
        Some(span)
    })
}
