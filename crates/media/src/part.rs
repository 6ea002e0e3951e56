// SPDX-License-Identifier: MIT OR Apache-2.0
//! A range of another medium.

use crate::medium::check_range;
use crate::{Domain, Error, Extent, Kind, Media, MediaOffset, Result};

/// Bytes of a badblocks unit.
const UNIT: u64 = 512;

/// A range of another medium, as a medium of its own: its offsets start at 0. Errors tell the offsets of the medium
/// that it is a part of, so that what a person reads is a place in the file.
///
/// Words must be aligned in the whole medium, so a base that is a multiple of 8 keeps what is aligned aligned.
#[derive(Clone, Debug)]
pub struct Part<M> {
    whole: M,
    base: u64,
    len: u64,
}

impl<M: Media> Part<M> {
    /// `len` bytes of `whole` from `base` on. [`Kind::OutOfRange`] if they are not all inside.
    pub fn new(whole: M, base: MediaOffset, len: u64) -> Result<Part<M>> {
        check_range(whole.len(), "take a part of a medium", base, len)?;
        Ok(Part { whole, base: base.0, len })
    }

    /// The medium that this is a part of.
    pub fn whole(&self) -> &M {
        &self.whole
    }

    /// Where it begins there.
    pub fn base(&self) -> MediaOffset {
        MediaOffset(self.base)
    }

    fn place(&self, operation: &'static str, at: MediaOffset, len: u64) -> Result<MediaOffset> {
        match at.0.checked_add(len) {
            Some(end) if end <= self.len => Ok(at.plus(self.base)),
            _ => Err(self.out_of_range(operation, at, len)),
        }
    }

    fn place_buffer(&self, operation: &'static str, at: MediaOffset, len: usize) -> Result<MediaOffset> {
        self.place(operation, at, u64::try_from(len).unwrap_or(u64::MAX))
    }

    #[cold]
    fn out_of_range(&self, operation: &'static str, at: MediaOffset, len: u64) -> Error {
        Error::new(Kind::OutOfRange, operation)
            .at(at.plus(self.base))
            .found(format_args!("{len} bytes"))
            .accepted(format_args!("bytes {} to {}", self.base, self.base.saturating_add(self.len)))
    }
}

impl<M: Media> Media for Part<M> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_only(&self) -> bool {
        self.whole.read_only()
    }

    fn domain(&self) -> Domain {
        self.whole.domain()
    }

    fn read(&self, at: MediaOffset, into: &mut [u8]) -> Result<()> {
        self.whole.read(self.place_buffer("read", at, into.len())?, into)
    }

    fn store(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.whole.store(self.place_buffer("store", at, from.len())?, from)
    }

    fn stream(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.whole.stream(self.place_buffer("stream", at, from.len())?, from)
    }

    fn zero(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.whole.zero(self.place("zero", at, len)?, len)
    }

    fn load_u32(&self, at: MediaOffset) -> Result<u32> {
        self.whole.load_u32(self.place("load", at, 4)?)
    }

    fn store_u32(&self, at: MediaOffset, value: u32) -> Result<()> {
        self.whole.store_u32(self.place("store", at, 4)?, value)
    }

    fn load_u64(&self, at: MediaOffset) -> Result<u64> {
        self.whole.load_u64(self.place("load", at, 8)?)
    }

    fn store_u64(&self, at: MediaOffset, value: u64) -> Result<()> {
        self.whole.store_u64(self.place("store", at, 8)?, value)
    }

    fn flush(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.whole.flush(self.place("flush", at, len)?, len)
    }

    fn drain(&self) -> Result<()> {
        self.whole.drain()
    }

    fn persist(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.whole.persist(self.place("flush", at, len)?, len)
    }

    /// Units count from the start of the part. Where it does not start on a unit of the whole, one of its units is bad
    /// if any byte of it is.
    fn badblocks(&self, at: MediaOffset, len: u64) -> Vec<(u64, u64)> {
        let stop = at.0.saturating_add(len).min(self.len);
        if at.0 >= stop {
            return Vec::new();
        }
        // All the bytes of the units that the range touches, and none outside the part.
        let (first, end) = (at.0 / UNIT, stop.div_ceil(UNIT));
        let start = MediaOffset(self.base.saturating_add(first.saturating_mul(UNIT)));
        let bytes = end.saturating_mul(UNIT).min(self.len).saturating_sub(first.saturating_mul(UNIT));
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (unit, count) in self.whole.badblocks(start, bytes) {
            let bad = unit.saturating_mul(UNIT);
            let bad_end = unit.saturating_add(count).saturating_mul(UNIT);
            let from = (bad.saturating_sub(self.base) / UNIT).max(first);
            let to = bad_end.saturating_sub(self.base).div_ceil(UNIT).min(end);
            match runs.last_mut() {
                // Outward rounding may make neighbours meet.
                Some((start, count)) if from <= start.saturating_add(*count) => {
                    *count = to.saturating_sub(*start);
                }
                _ => runs.push((from, to.saturating_sub(from))),
            }
        }
        runs
    }

    fn is_poisoned(&self, at: MediaOffset, len: u64) -> bool {
        let len = len.min(self.len.saturating_sub(at.0));
        len > 0 && self.whole.is_poisoned(at.plus(self.base), len)
    }

    fn inject_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.whole.inject_poison(self.place("inject poison", at, len)?, len)
    }

    fn clear_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.whole.clear_poison(self.place("clear poison", at, len)?, len)
    }

    fn extent(&self, at: MediaOffset, len: u64) -> Result<Extent> {
        let found = self.whole.extent(self.place("look for holes", at, len)?, len)?;
        Ok(Extent { at, ..found })
    }

    fn name(&self) -> String {
        format!("{} (bytes {} to {})", self.whole.name(), self.base, self.base.saturating_add(self.len))
    }
}
