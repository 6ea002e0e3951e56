// SPDX-License-Identifier: MIT OR Apache-2.0
//! Units, so that an offset is never taken for a block number.

use core::fmt;

/// A byte offset in one medium.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MediaOffset(pub u64);

impl MediaOffset {
    /// The offset `bytes` further on. It saturates, and a saturated offset lies outside every medium, so an
    /// overflow ends as an out-of-range error and never wraps round into valid bytes.
    #[must_use]
    pub const fn plus(self, bytes: u64) -> MediaOffset {
        MediaOffset(self.0.saturating_add(bytes))
    }
}

impl fmt::Display for MediaOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A sector number of a block device, in that device's own sectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lba(pub u64);

impl Lba {
    /// The sector `sectors` further on; saturates like [`MediaOffset::plus`].
    #[must_use]
    pub const fn plus(self, sectors: u64) -> Lba {
        Lba(self.0.saturating_add(sectors))
    }
}

impl fmt::Display for Lba {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A DIMM physical address: a byte offset in one DIMM's persistent memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dpa(pub u64);

impl fmt::Display for Dpa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A sector number inside one BTT arena, before translation ("pre-map ABA").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Premap(pub u32);

/// An internal block number inside one BTT arena, after translation ("post-map ABA"). At most 30 bits on media.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block(pub u32);

impl fmt::Display for Premap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
