// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where things lie in a label area.

use alloc::format;
use core::fmt;

use super::HEADER_LEN;
use crate::Invalid;

/// Smallest label area, in bytes (Linux `ND_LABEL_MIN_SIZE`).
pub const AREA_MIN: u64 = 1024;
/// Largest label area, in bytes: Linux holds the size in 32 bits.
pub const AREA_MAX: u64 = 0xffff_ffff;

const ALIGN: u64 = 256;

/// Version of the labels in an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 128 bytes each, without checksum and GUIDs.
    V1_1,
    /// 256 bytes each (UEFI 2.7).
    V1_2,
}

impl Version {
    /// All of them, in the order in which a reader tries them.
    pub const ALL: [Version; 2] = [Version::V1_1, Version::V1_2];

    /// Bytes of a label.
    #[must_use]
    pub const fn label_len(self) -> u32 {
        match self {
            Version::V1_1 => 128,
            Version::V1_2 => 256,
        }
    }

    /// The minor number on media; the major one is 1.
    #[must_use]
    pub const fn minor(self) -> u16 {
        match self {
            Version::V1_1 => 1,
            Version::V1_2 => 2,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}", self.minor())
    }
}

/// The geometry of an area: all of it follows from the area's size and the labels' version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AreaLayout {
    /// Bytes of the area.
    pub size: u64,
    /// Version of its labels.
    pub version: Version,
    /// Bytes of an index block; they lie at 0 and at `index_len`.
    pub index_len: u64,
    /// Slots that fit. An index block on media may count fewer.
    pub slots: u32,
}

impl AreaLayout {
    /// The geometry of an area of `size` bytes (Linux `sizeof_namespace_index`, `nvdimm_num_label_slots`).
    pub fn compute(size: u64, version: Version) -> Result<AreaLayout, Invalid> {
        let refuse =
            || Invalid::new("label area", "size", 0, size, format!("{AREA_MIN} to {AREA_MAX} bytes"));
        if !(AREA_MIN..=AREA_MAX).contains(&size) {
            return Err(refuse());
        }
        let label = u64::from(version.label_len());
        let fit = |bytes: u64| bytes.checked_div(label);
        // The index blocks are first taken as large as if the labels filled the whole area, then as they need to be.
        let first = index_len(fit(size).ok_or_else(refuse)?);
        let slots = fit(size.saturating_sub(first.saturating_mul(2))).ok_or_else(refuse)?;
        let index_len = index_len(slots);
        let used = index_len.saturating_mul(2).saturating_add(slots.saturating_mul(label));
        match u32::try_from(slots) {
            Ok(slots) if used <= size => Ok(AreaLayout { size, version, index_len, slots }),
            _ => Err(refuse()),
        }
    }

    /// Where index block 0 or 1 lies.
    #[must_use]
    pub const fn index(&self, number: usize) -> u64 {
        if number == 0 { 0 } else { self.index_len }
    }

    /// Where the slots begin.
    #[must_use]
    pub const fn labeloff(&self) -> u64 {
        self.index_len.saturating_mul(2)
    }

    /// Where a slot lies; none if the area has no such slot.
    #[must_use]
    pub fn slot(&self, slot: u32) -> Option<u64> {
        // The slots were found to fit, so nothing saturates.
        let offset = u64::from(slot).saturating_mul(u64::from(self.version.label_len()));
        (slot < self.slots).then(|| self.labeloff().saturating_add(offset))
    }

    /// Whether an index block that counts `nslot` slots was made for an area of just this size: by today's formula,
    /// or by those of Linux before 4.16, which left more room unused.
    #[must_use]
    pub fn made_for(&self, nslot: u32) -> bool {
        let old = |divisor: u64| self.size.checked_div(divisor) == Some(u64::from(nslot));
        nslot == self.slots || old(129) || old(u64::from(self.version.label_len()).saturating_add(1))
    }
}

/// Bytes of an index block that counts `slots` slots.
fn index_len(slots: u64) -> u64 {
    header().saturating_add(slots.div_ceil(8)).next_multiple_of(ALIGN)
}

#[expect(clippy::as_conversions, reason = "a small constant")]
const fn header() -> u64 {
    HEADER_LEN as u64
}
