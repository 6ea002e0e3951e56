// SPDX-License-Identifier: MIT OR Apache-2.0
//! Map entries: where a sector's bytes are, and whether they count.

use core::fmt;

use crate::{Block, Premap};

/// The low 30 bits of a map entry or of a flog record's mapping: the block number.
pub(super) const BLOCK: u32 = 0x3fff_ffff;
/// "Error" bit of a map entry.
pub(super) const E: u32 = 1 << 30;
/// "Zero" bit of a map entry.
pub(super) const Z: u32 = 1 << 31;

/// A map entry as it stands on media.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MapEntry(pub u32);

/// What a map entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapState {
    /// Never written: the block of the sector's own number, whatever the low bits hold. Its old bytes show through.
    Initial,
    /// Lost: reads fail, a write heals it.
    Error(Block),
    /// Reads as zeros. The block is still taken by this sector.
    Zero(Block),
    /// Written.
    Normal(Block),
}

impl MapEntry {
    /// The entry of a written sector; the only one that Linux writes in normal operation.
    #[must_use]
    pub const fn normal(block: Block) -> MapEntry {
        MapEntry(Z | E | block.0 & BLOCK)
    }

    /// The entry of a sector whose bytes are lost.
    #[must_use]
    pub const fn error(block: Block) -> MapEntry {
        MapEntry(E | block.0 & BLOCK)
    }

    /// The entry of a sector that reads as zeros. Linux never writes it.
    #[must_use]
    pub const fn zero(block: Block) -> MapEntry {
        MapEntry(Z | block.0 & BLOCK)
    }

    /// What it says. The block number comes from media: it may lie outside the arena.
    #[must_use]
    pub const fn state(self) -> MapState {
        let block = Block(self.0 & BLOCK);
        match (self.0 & Z != 0, self.0 & E != 0) {
            (false, false) => MapState::Initial,
            (false, true) => MapState::Error(block),
            (true, false) => MapState::Zero(block),
            (true, true) => MapState::Normal(block),
        }
    }

    /// The block that belongs to sector `premap`, in any state. May lie outside the arena.
    #[must_use]
    pub const fn block(self, premap: Premap) -> Block {
        match self.state() {
            MapState::Initial => Block(premap.0),
            MapState::Error(block) | MapState::Zero(block) | MapState::Normal(block) => block,
        }
    }
}

impl fmt::Display for MapEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}
