// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device that offers byte access as a medium, so that an engine runs on a device of any kind.

use std::sync::Arc;

use nvstack_media::{Domain, Error, Extent, Kind, Media, MediaOffset, Result, check_range};

use crate::bytes::wide;
use crate::{BlockDevice, ByteFlags, Bytes, ExtentFlags, Lba};

/// Zeros are written in pieces of so many bytes.
const PIECE: usize = 64 * 1024;

/// A medium whose every access is an `rw_bytes` of a device: for devices that have no better
/// [`ByteAccess::media`](crate::ByteAccess::media).
///
/// Every store is durable when it returns, so `flush` and `drain` have nothing to do, and each store costs what a durable
/// write of the device costs. Lost bytes and holes are those that the device's
/// [`extents`](crate::BlockDevice::extents) tell of.
///
/// It takes for granted that the device moves 4 or 8 bytes at a multiple of their number in one piece, as
/// [`rw_bytes`](crate::rw_bytes) does over a medium: words that are published by `store_u32` may be torn, for readers and
/// by a power cut, on a device that does not.
pub struct BytesMedium {
    device: Arc<dyn BlockDevice>,
    domain: Domain,
    len: u64,
}

impl BytesMedium {
    /// Takes a device. [`Kind::Unsupported`] if it offers no byte access.
    pub fn new(device: Arc<dyn BlockDevice>) -> Result<BytesMedium> {
        let len = device.bytes()?.size();
        Ok(BytesMedium { device, domain: Domain::Cache, len })
    }

    /// Says what the durability of a write of this device amounts to. [`Domain::Cache`] if this is not called: a write
    /// that returned outlives the power, as `rw_bytes` promises.
    #[must_use]
    pub fn with_domain(mut self, domain: Domain) -> BytesMedium {
        self.domain = domain;
        self
    }

    fn fetch(&self, at: MediaOffset, into: &mut [u8]) -> Result<()> {
        self.device.bytes()?.rw_bytes(at, Bytes::Read(into), ByteFlags::empty())
    }

    fn put(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.device.bytes()?.rw_bytes(at, Bytes::Write(from), ByteFlags::empty())
    }

    fn aligned(&self, operation: &'static str, at: MediaOffset, size: u64) -> Result<()> {
        if at.0.checked_rem(size) == Some(0) {
            return Ok(());
        }
        Err(Error::new(Kind::Invalid, operation)
            .path(self.name())
            .at(at)
            .found(format_args!("a word of {size} bytes that is not aligned"))
            .accepted(format_args!("multiples of {size}")))
    }

    /// The runs that the device tells of, as bytes of the range: start, end, flags. Sectors that reach out of the range are
    /// cut to it; nothing is told of bytes beyond the last sector.
    fn runs(
        &self,
        at: MediaOffset,
        len: u64,
        each: &mut dyn FnMut(u64, u64, ExtentFlags) -> bool,
    ) -> Result<()> {
        let geometry = self.device.geometry();
        let size = u64::from(geometry.sector_size);
        let stop = at.plus(len).0.min(geometry.bytes());
        if at.0 >= stop {
            return Ok(());
        }
        let first = at.0.checked_div(size).unwrap_or(0);
        let sectors = stop.div_ceil(size.max(1)).saturating_sub(first);
        let mut lba = first;
        self.device.extents(Lba(first), sectors, &mut |extent| {
            let start = lba.saturating_mul(size).max(at.0);
            lba = lba.saturating_add(extent.sectors);
            each(start, lba.saturating_mul(size).min(stop), extent.flags)
        })
    }
}

impl Media for BytesMedium {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_only(&self) -> bool {
        self.device.geometry().read_only
    }

    fn domain(&self) -> Domain {
        self.domain
    }

    fn read(&self, at: MediaOffset, into: &mut [u8]) -> Result<()> {
        check_range(self.len, "read", at, wide(into.len()))?;
        self.fetch(at, into)
    }

    fn store(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        check_range(self.len, "store", at, wide(from.len()))?;
        self.put(at, from)
    }

    fn stream(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.store(at, from)
    }

    fn zero(&self, at: MediaOffset, len: u64) -> Result<()> {
        check_range(self.len, "zero", at, len)?;
        let zeros = vec![0; usize::try_from(len).unwrap_or(PIECE).min(PIECE)];
        let end = at.0.saturating_add(len);
        let mut from = at.0;
        let mut outcome = Ok(());
        while from < end {
            // Pieces end on units, so that a piece heals what the whole range covers.
            let room = wide(PIECE).saturating_sub(from.checked_rem(wide(PIECE)).unwrap_or(0));
            let step = room.min(end.saturating_sub(from));
            let piece = usize::try_from(step).ok().and_then(|n| zeros.get(..n)).unwrap_or(&zeros);
            match self.put(MediaOffset(from), piece) {
                Err(e) if e.kind() == Kind::Poison => outcome = outcome.and(Err(e)),
                other => other?,
            }
            from = from.saturating_add(wide(piece.len()));
        }
        outcome
    }

    fn load_u32(&self, at: MediaOffset) -> Result<u32> {
        self.aligned("load", at, 4)?;
        let mut word = [0; 4];
        self.fetch(at, &mut word)?;
        Ok(u32::from_le_bytes(word))
    }

    fn store_u32(&self, at: MediaOffset, value: u32) -> Result<()> {
        self.aligned("store", at, 4)?;
        self.put(at, &value.to_le_bytes())
    }

    fn load_u64(&self, at: MediaOffset) -> Result<u64> {
        self.aligned("load", at, 8)?;
        let mut word = [0; 8];
        self.fetch(at, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    fn store_u64(&self, at: MediaOffset, value: u64) -> Result<()> {
        self.aligned("store", at, 8)?;
        self.put(at, &value.to_le_bytes())
    }

    fn flush(&self, at: MediaOffset, len: u64) -> Result<()> {
        check_range(self.len, "flush", at, len)
    }

    /// Nothing is left to do; that the device is still there is asked all the same.
    fn drain(&self) -> Result<()> {
        self.device.bytes().map(|_| ())
    }

    fn badblocks(&self, at: MediaOffset, len: u64) -> Vec<(u64, u64)> {
        let mut units: Vec<(u64, u64)> = Vec::new();
        // A device that cannot tell fails the read of a lost byte all the same.
        let _ = self.runs(at, len, &mut |start, end, flags| {
            if flags.contains(ExtentFlags::BAD) {
                let (first, stop) = (start / 512, end.div_ceil(512));
                match units.last_mut() {
                    Some((from, count)) if first <= from.saturating_add(*count) => {
                        *count = stop.saturating_sub(*from);
                    }
                    _ => units.push((first, stop.saturating_sub(first))),
                }
            }
            true
        });
        units
    }

    fn extent(&self, at: MediaOffset, len: u64) -> Result<Extent> {
        check_range(self.len, "look for holes", at, len)?;
        let mut found = Extent { at, len, hole: false };
        let mut runs = 0u32;
        self.runs(at, len, &mut |_, end, flags| {
            let hole = flags.contains(ExtentFlags::HOLE | ExtentFlags::ZERO);
            if runs > 0 && hole != found.hole {
                return false;
            }
            runs = runs.saturating_add(1);
            found = Extent { at, len: end.saturating_sub(at.0), hole };
            true
        })?;
        Ok(found)
    }

    fn name(&self) -> String {
        self.device.name()
    }
}
