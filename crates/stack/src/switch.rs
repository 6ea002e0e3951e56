// SPDX-License-Identifier: MIT OR Apache-2.0
//! Between a disk and its region: the region's `read_only` attribute holds for all that goes through the disk, and what a write
//! heals is told to who polls for bad blocks.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use nvstack_block::{
    BlockDevice, ByteAccess, ByteFlags, Bytes, Direction, Extent, Geometry, Lba, Page, PageAccess, PageState,
    WriteFlags,
};
use nvstack_media::{Domain, Error, Extent as Run, Kind, Media, MediaOffset, Result};

use crate::sync::atomic::{AtomicBool, Ordering};

/// The region's side.
#[derive(Clone)]
struct Switch {
    /// `read_only`.
    locked: Arc<AtomicBool>,
    media: Arc<dyn Media>,
    /// Tells that the region's bad blocks changed.
    healed: Arc<dyn Fn() + Send + Sync>,
}

impl Switch {
    fn writable(&self, operation: &'static str, name: impl FnOnce() -> String) -> Result<()> {
        if self.locked.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::ReadOnly, operation)
                .path(name())
                .found("its region read-only")
                .accepted("0 in the region's read_only attribute"));
        }
        Ok(())
    }

    /// Does what may heal lost bytes. Without any it costs a relaxed load.
    fn healing<T>(&self, work: impl FnOnce() -> T) -> T {
        let (start, len) = (MediaOffset(0), self.media.len());
        if !self.media.is_poisoned(start, len) {
            return work();
        }
        let before = self.media.badblocks(start, len);
        let out = work();
        if self.media.badblocks(start, len) != before {
            (self.healed)();
        }
        out
    }
}

/// A disk with the switch of its region.
pub(crate) struct Switched {
    device: Arc<dyn BlockDevice>,
    switch: Switch,
}

impl Switched {
    /// `locked` is the region's `read_only`, `media` its bytes; `healed` is called after a write that healed some.
    pub(crate) fn new(
        device: Arc<dyn BlockDevice>,
        locked: Arc<AtomicBool>,
        media: Arc<dyn Media>,
        healed: Arc<dyn Fn() + Send + Sync>,
    ) -> Switched {
        Switched { device, switch: Switch { locked, media, healed } }
    }

    fn writable(&self, operation: &'static str) -> Result<()> {
        self.switch.writable(operation, || self.device.name())
    }
}

impl BlockDevice for Switched {
    fn name(&self) -> String {
        self.device.name()
    }
    fn geometry(&self) -> Geometry {
        let geometry = self.device.geometry();
        let read_only = geometry.read_only || self.switch.locked.load(Ordering::Relaxed);
        Geometry { read_only, ..geometry }
    }
    fn read(&self, at: Lba, into: &mut [IoSliceMut<'_>]) -> Result<()> {
        self.device.read(at, into)
    }
    fn write(&self, at: Lba, from: &[IoSlice<'_>], flags: WriteFlags) -> Result<()> {
        self.writable("write")?;
        self.switch.healing(|| self.device.write(at, from, flags))
    }
    fn flush(&self) -> Result<()> {
        self.device.flush()
    }
    fn write_zeroes(&self, at: Lba, sectors: u64, flags: WriteFlags) -> Result<()> {
        self.writable("write zeroes")?;
        self.switch.healing(|| self.device.write_zeroes(at, sectors, flags))
    }
    fn discard(&self, at: Lba, sectors: u64) -> Result<()> {
        self.writable("discard")?;
        self.switch.healing(|| self.device.discard(at, sectors))
    }
    fn extents(&self, at: Lba, sectors: u64, found: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        self.device.extents(at, sectors, found)
    }
    fn bytes(&self) -> Result<&dyn ByteAccess> {
        self.device.bytes()?;
        Ok(self)
    }
    fn pages(&self) -> Result<&dyn PageAccess> {
        self.device.pages()?;
        Ok(self)
    }
}

impl ByteAccess for Switched {
    fn size(&self) -> u64 {
        self.device.bytes().map_or(0, |bytes| bytes.size())
    }
    fn rw_bytes(&self, at: MediaOffset, bytes: Bytes<'_>, flags: ByteFlags) -> Result<()> {
        let inside = self.device.bytes()?;
        match bytes {
            Bytes::Read(_) => inside.rw_bytes(at, bytes, flags),
            Bytes::Write([]) => inside.rw_bytes(at, bytes, flags),
            Bytes::Write(_) => {
                self.writable("rw_bytes")?;
                self.switch.healing(|| inside.rw_bytes(at, bytes, flags))
            }
        }
    }
    fn media(&self) -> Arc<dyn Media> {
        match self.device.bytes() {
            Ok(bytes) => Arc::new(SwitchedMedium { media: bytes.media(), switch: self.switch.clone() }),
            Err(_) => Arc::new(nvstack_block::GatedMedia::gone(&self.device.name(), 0)),
        }
    }
}

impl PageAccess for Switched {
    fn rw_page(&self, index: u64, page: &Page, direction: Direction) {
        match (self.device.pages(), direction) {
            (Ok(pages), Direction::Read) => pages.rw_page(index, page, direction),
            (Ok(pages), Direction::Write) if self.writable("rw_page").is_ok() => {
                self.switch.healing(|| pages.rw_page(index, page, direction));
            }
            (_, Direction::Read) => page.end(PageState::LOCKED | PageState::UPTODATE, PageState::ERROR),
            (_, Direction::Write) => page.end(PageState::LOCKED | PageState::WRITEBACK, PageState::ERROR),
        }
    }
}

/// The bytes of such a disk.
struct SwitchedMedium {
    media: Arc<dyn Media>,
    switch: Switch,
}

impl SwitchedMedium {
    fn store(&self, operation: &'static str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        self.switch.writable(operation, || self.media.name())?;
        self.switch.healing(work)
    }
}

impl Media for SwitchedMedium {
    fn len(&self) -> u64 {
        self.media.len()
    }
    fn read_only(&self) -> bool {
        self.media.read_only() || self.switch.locked.load(Ordering::Relaxed)
    }
    fn domain(&self) -> Domain {
        self.media.domain()
    }
    fn read(&self, at: MediaOffset, into: &mut [u8]) -> Result<()> {
        self.media.read(at, into)
    }
    fn store(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.store("store", || self.media.store(at, from))
    }
    fn stream(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.store("stream", || self.media.stream(at, from))
    }
    fn zero(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.store("zero", || self.media.zero(at, len))
    }
    fn load_u32(&self, at: MediaOffset) -> Result<u32> {
        self.media.load_u32(at)
    }
    fn store_u32(&self, at: MediaOffset, value: u32) -> Result<()> {
        self.store("store", || self.media.store_u32(at, value))
    }
    fn load_u64(&self, at: MediaOffset) -> Result<u64> {
        self.media.load_u64(at)
    }
    fn store_u64(&self, at: MediaOffset, value: u64) -> Result<()> {
        self.store("store", || self.media.store_u64(at, value))
    }
    fn flush(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.media.flush(at, len)
    }
    fn drain(&self) -> Result<()> {
        self.media.drain()
    }
    fn persist(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.media.persist(at, len)
    }
    fn badblocks(&self, at: MediaOffset, len: u64) -> Vec<(u64, u64)> {
        self.media.badblocks(at, len)
    }
    fn is_poisoned(&self, at: MediaOffset, len: u64) -> bool {
        self.media.is_poisoned(at, len)
    }
    fn inject_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.media.inject_poison(at, len)?;
        (self.switch.healed)();
        Ok(())
    }
    fn clear_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.switch.healing(|| self.media.clear_poison(at, len))
    }
    fn extent(&self, at: MediaOffset, len: u64) -> Result<Run> {
        self.media.extent(at, len)
    }
    fn name(&self) -> String {
        self.media.name()
    }
}
