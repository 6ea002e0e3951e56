// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table itself, and what goes through it.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use nvstack_media::{Error, Kind, Result};

use crate::{ByteAccess, Lba, PageAccess};

/// What a device looks like from outside. Fixed while it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Sectors that the device has.
    pub sectors: u64,
    /// Bytes of a sector: 512 or 4096. The unit of every request, and of atomicity where `atomic` says so.
    pub sector_size: u32,
    /// Bytes that are best read and written together: a power of two, at least `sector_size`.
    pub preferred: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// A completed write may be lost by a power cut until a flush, or unless it carried FUA.
    pub volatile_cache: bool,
    /// A sector is wholly old or wholly new whatever happens.
    pub atomic: bool,
    /// Discard is accepted. It is advice: the sectors may keep their contents.
    pub discard: bool,
}

impl Geometry {
    /// Bytes that the device has.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sectors.saturating_mul(u64::from(self.sector_size))
    }
}

bitflags::bitflags! {
    /// How a write is to be done.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct WriteFlags: u8 {
        /// Durable when the call returns (force unit access).
        const FUA = 1;
        /// Write-zeroes: do not give up the space that the sectors take.
        const NO_HOLE = 2;
        /// Write-zeroes: only if it is faster than writing zeros; else [`Kind::Unsupported`] at once.
        const FAST = 4;
    }
}

bitflags::bitflags! {
    /// What is known of a run of sectors.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct ExtentFlags: u8 {
        /// Takes no space.
        const HOLE = 1;
        /// Reads as zeros.
        const ZERO = 2;
        /// Reads fail: lost bytes, or an error entry in a map.
        const BAD = 4;
    }
}

/// A run of sectors of one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Sectors, more than zero.
    pub sectors: u64,
    /// Their state.
    pub flags: ExtentFlags,
}

/// A block device.
///
/// Requests are in whole sectors. A request that does not lie wholly inside gives [`Kind::OutOfRange`]; one whose
/// buffers are not whole sectors gives [`Kind::Invalid`]; neither moves anything. After any other error the sectors of
/// the request are each in their old or their new state.
pub trait BlockDevice: Send + Sync {
    /// The name: `pmem0s`, `namespace0.0` ...
    fn name(&self) -> String;

    /// What it looks like.
    fn geometry(&self) -> Geometry;

    /// Reads sectors from `at` on into the buffers, each a whole number of sectors long.
    fn read(&self, at: Lba, into: &mut [IoSliceMut<'_>]) -> Result<()>;

    /// Writes sectors from `at` on out of the buffers, each a whole number of sectors long.
    fn write(&self, at: Lba, from: &[IoSlice<'_>], flags: WriteFlags) -> Result<()>;

    /// Returns when every write that completed before the call is durable.
    fn flush(&self) -> Result<()>;

    /// Makes sectors read as zeros.
    fn write_zeroes(&self, at: Lba, sectors: u64, flags: WriteFlags) -> Result<()>;

    /// Says that the contents of sectors are of no more use. Reading them gives the old contents or zeros.
    fn discard(&self, at: Lba, sectors: u64) -> Result<()>;

    /// Tells what is known of sectors from `at` on, in order, through `found`, until `sectors` are told or `found` returns
    /// false. Neighbouring runs may have the same state.
    fn extents(&self, at: Lba, sectors: u64, found: &mut dyn FnMut(Extent) -> bool) -> Result<()>;

    /// Byte access (`rw_bytes`), where the device offers it; else [`Kind::Unsupported`], which names the device and the
    /// operation.
    fn bytes(&self) -> Result<&dyn ByteAccess> {
        Err(not_offered(&self.name(), "rw_bytes"))
    }

    /// Page I/O (`rw_page`), where the device offers it; else [`Kind::Unsupported`], which names the device and the
    /// operation.
    fn pages(&self) -> Result<&dyn PageAccess> {
        Err(not_offered(&self.name(), "rw_page"))
    }
}

/// The refusal of an operation that a device does not offer.
pub fn not_offered(device: &str, operation: &'static str) -> Error {
    Error::new(Kind::Unsupported, operation)
        .path(device)
        .found("a device without it")
        .accepted(format_args!("a device that offers {operation}"))
}

impl<D: BlockDevice + ?Sized> BlockDevice for Arc<D> {
    fn name(&self) -> String {
        (**self).name()
    }
    fn geometry(&self) -> Geometry {
        (**self).geometry()
    }
    fn read(&self, at: Lba, into: &mut [IoSliceMut<'_>]) -> Result<()> {
        (**self).read(at, into)
    }
    fn write(&self, at: Lba, from: &[IoSlice<'_>], flags: WriteFlags) -> Result<()> {
        (**self).write(at, from, flags)
    }
    fn flush(&self) -> Result<()> {
        (**self).flush()
    }
    fn write_zeroes(&self, at: Lba, sectors: u64, flags: WriteFlags) -> Result<()> {
        (**self).write_zeroes(at, sectors, flags)
    }
    fn discard(&self, at: Lba, sectors: u64) -> Result<()> {
        (**self).discard(at, sectors)
    }
    fn extents(&self, at: Lba, sectors: u64, found: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        (**self).extents(at, sectors, found)
    }
    fn bytes(&self) -> Result<&dyn ByteAccess> {
        (**self).bytes()
    }
    fn pages(&self) -> Result<&dyn PageAccess> {
        (**self).pages()
    }
}

/// The sectors that buffers of these lengths make from `at` on, checked against the geometry: what every device does
/// first with a request.
pub fn sectors_of(
    geometry: &Geometry,
    operation: &'static str,
    at: Lba,
    lengths: impl IntoIterator<Item = usize>,
) -> Result<u64> {
    let size = u64::from(geometry.sector_size);
    let mut sectors = 0u64;
    for len in lengths {
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        if len.checked_rem(size) != Some(0) {
            return Err(Error::new(Kind::Invalid, operation)
                .found(format_args!("a buffer of {len} bytes"))
                .accepted(format_args!("multiples of the sector size, {size}")));
        }
        sectors = sectors.saturating_add(len.checked_div(size).unwrap_or(0));
    }
    in_range(geometry, operation, at, sectors)?;
    Ok(sectors)
}

/// Checks that a run of sectors lies inside the device.
pub fn in_range(geometry: &Geometry, operation: &'static str, at: Lba, sectors: u64) -> Result<()> {
    match at.0.checked_add(sectors) {
        Some(end) if end <= geometry.sectors => Ok(()),
        _ => Err(Error::new(Kind::OutOfRange, operation)
            .found(format_args!("{sectors} sectors from LBA {at}"))
            .accepted(format_args!("LBA 0 to {}", geometry.sectors))),
    }
}
