// SPDX-License-Identifier: MIT OR Apache-2.0
//! A medium that may be read only, made of one that could be written.

use nvstack_media::{Domain, Error, Extent, Kind, Media, MediaOffset, Result};

/// A medium whose stores are all refused with [`Kind::ReadOnly`]: what a device that is read-only gives to those who
/// stack on it.
#[derive(Clone, Debug)]
pub struct ReadOnlyMedium<M>(M);

impl<M: Media> ReadOnlyMedium<M> {
    /// Refuses the stores of `media`.
    pub fn new(media: M) -> ReadOnlyMedium<M> {
        ReadOnlyMedium(media)
    }

    fn refuse(&self, operation: &'static str, at: MediaOffset) -> Result<()> {
        Err(Error::new(Kind::ReadOnly, operation)
            .path(self.0.name())
            .at(at)
            .found("a device that was opened read-only"))
    }
}

impl<M: Media> Media for ReadOnlyMedium<M> {
    fn len(&self) -> u64 {
        self.0.len()
    }
    fn read_only(&self) -> bool {
        true
    }
    fn domain(&self) -> Domain {
        self.0.domain()
    }
    fn read(&self, at: MediaOffset, into: &mut [u8]) -> Result<()> {
        self.0.read(at, into)
    }
    fn store(&self, at: MediaOffset, _: &[u8]) -> Result<()> {
        self.refuse("store", at)
    }
    fn stream(&self, at: MediaOffset, _: &[u8]) -> Result<()> {
        self.refuse("stream", at)
    }
    fn zero(&self, at: MediaOffset, _: u64) -> Result<()> {
        self.refuse("zero", at)
    }
    fn load_u32(&self, at: MediaOffset) -> Result<u32> {
        self.0.load_u32(at)
    }
    fn store_u32(&self, at: MediaOffset, _: u32) -> Result<()> {
        self.refuse("store", at)
    }
    fn load_u64(&self, at: MediaOffset) -> Result<u64> {
        self.0.load_u64(at)
    }
    fn store_u64(&self, at: MediaOffset, _: u64) -> Result<()> {
        self.refuse("store", at)
    }
    fn flush(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.0.flush(at, len)
    }
    fn drain(&self) -> Result<()> {
        self.0.drain()
    }
    fn badblocks(&self, at: MediaOffset, len: u64) -> Vec<(u64, u64)> {
        self.0.badblocks(at, len)
    }
    fn is_poisoned(&self, at: MediaOffset, len: u64) -> bool {
        self.0.is_poisoned(at, len)
    }
    fn inject_poison(&self, at: MediaOffset, _: u64) -> Result<()> {
        self.refuse("inject poison", at)
    }
    fn clear_poison(&self, at: MediaOffset, _: u64) -> Result<()> {
        self.refuse("clear poison", at)
    }
    fn extent(&self, at: MediaOffset, len: u64) -> Result<Extent> {
        self.0.extent(at, len)
    }
    fn name(&self) -> String {
        self.0.name()
    }
}
