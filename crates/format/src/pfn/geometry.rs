// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the data of an fsdax or devdax namespace lies.

use alloc::format;
use alloc::string::{String, ToString};

use super::Mode;
use crate::Invalid;

/// Alignment below which Linux cannot map device memory: 2 MiB, but for some PowerPC.
pub const COMPAT: u64 = 1 << 21;
/// Bytes at the head of a namespace that never hold data: 4096 unused, and the info block.
pub const RESERVE: u64 = 8192;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Linux keeps this much for each page of the namespace.
const PAGE_STRUCT: u64 = 64;

/// Where a namespace lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Physical address of its first byte, if known. The geometry depends on it, so an image alone does not tell
    /// whether the geometry is right for the machine it ran on.
    pub start: Option<u64>,
    /// Bytes.
    pub size: u64,
}

/// Where the data lies. All in bytes, but for the count of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// From the start of the namespace plus `start_pad` to the data.
    pub dataoff: u64,
    /// Pages of data.
    pub npfns: u64,
    /// Unused bytes at the head. Linux writes 0.
    pub start_pad: u32,
    /// Unused bytes at the end.
    pub end_trunc: u32,
    /// Alignment that was asked for.
    pub align: u32,
}

impl Geometry {
    /// The geometry that Linux gives a new namespace (`nd_pfn_init`). An unknown start counts as 0: right wherever the
    /// real one is a multiple of the alignment.
    pub fn compute(place: Place, mode: Mode, align: u32) -> Result<Geometry, Invalid> {
        let bad = |field, offset, found: String, accepted: String| {
            Err(Invalid::new("new fsdax or devdax namespace", field, offset, found, accepted))
        };
        let start = place.start.unwrap_or(0);
        if !u64::from(align).is_multiple_of(PAGE) || !align.is_power_of_two() {
            return bad("align", 84, align.to_string(), format!("a power of two from {PAGE} on"));
        }
        if !start.is_multiple_of(COMPAT) {
            return bad("start", 0, format!("{start:#x}"), format!("a multiple of {COMPAT}"));
        }
        let rounded = u64::from(align).max(COMPAT);
        let pages = place.size.saturating_sub(RESERVE).checked_div(PAGE).unwrap_or(0);
        let map = match mode {
            Mode::Ram => 0,
            Mode::Pmem => pages.saturating_mul(PAGE_STRUCT),
        };
        let geometry = start.checked_add(place.size).and_then(|end| {
            let end_trunc = end.checked_rem(rounded)?;
            let first = start.checked_add(RESERVE)?.checked_add(map)?.checked_next_multiple_of(rounded)?;
            let dataoff = first.checked_sub(start)?;
            let data = place.size.checked_sub(end_trunc)?.checked_sub(dataoff).filter(|n| *n > 0)?;
            let npfns = data.checked_div(PAGE)?;
            Some(Geometry { dataoff, npfns, start_pad: 0, end_trunc: u32::try_from(end_trunc).ok()?, align })
        });
        match geometry {
            Some(geometry) => Ok(geometry),
            None => {
                let accepted = format!("room for data behind an offset aligned to {rounded}");
                bad("size", 0, place.size.to_string(), accepted)
            }
        }
    }

    /// Where the data starts, in bytes from the start of the namespace. Saturates; checked geometry never does.
    #[must_use]
    pub const fn data_start(&self) -> u64 {
        self.dataoff.saturating_add(widen(self.start_pad))
    }

    /// Bytes of data in a namespace of `size` bytes; it does not depend on `npfns`, which Linux recomputes too.
    #[must_use]
    pub const fn data_len(&self, size: u64) -> u64 {
        size.saturating_sub(self.data_start()).saturating_sub(widen(self.end_trunc))
    }
}

#[expect(clippy::as_conversions, reason = "u64::from is not const; the cast widens")]
const fn widen(value: u32) -> u64 {
    value as u64
}
