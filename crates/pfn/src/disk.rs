// SPDX-License-Identifier: MIT OR Apache-2.0
//! The data of an fsdax as a block device (Linux `pmem0`).

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use nvstack_block::{
    BlockDevice, ByteAccess, ByteFlags, Bytes, Direction, Extent, Geometry, Lba, Linear, Page, PageAccess,
    PageState, WriteFlags,
};
use nvstack_format::MediaOffset;
use nvstack_format::pfn::PAGE;
use nvstack_media::{Error, Kind, Media, Result, check_range};

use crate::data::{Data, UNIT, length};

/// The data of an fsdax, sector by sector, byte by byte and page by page. A sector may tear where stores tear.
pub struct Disk<M> {
    linear: Linear<Data<M>>,
    data: Data<M>,
}

impl<M: Media> Disk<M> {
    /// [`Kind::Invalid`] for a sector size other than 512 and 4096.
    pub(crate) fn new(data: Data<M>, sector_size: u32) -> Result<Disk<M>> {
        let (name, read_only) = (data.shared.name.clone(), data.shared.read_only);
        let linear = Linear::new(&name, data.clone(), sector_size, read_only).map_err(|e| e.path(&name))?;
        Ok(Disk { linear, data })
    }

    /// Stores bytes and leaves every lost unit lost.
    fn write_without_healing(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        let lost = self.data.badblocks(at, length(from));
        let done = self.data.stream(at, from);
        for (unit, count) in &lost {
            let start = MediaOffset(unit.saturating_mul(UNIT));
            let bytes = count.saturating_mul(UNIT).min(self.data.len().saturating_sub(start.0));
            // Those that were covered whole are healed now. They are lost for the rest of the world until somebody
            // clears them who may take the time.
            self.data.inject_poison(start, bytes)?;
        }
        match lost.first() {
            Some((unit, _)) if done.is_ok() => {
                let start = self.data.shared.start().plus(unit.saturating_mul(UNIT));
                Err(Error::new(Kind::Poison, "write bytes").path(&self.data.shared.name).at(start))
            }
            _ => done,
        }
    }

    fn write_page(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.data.stream(at, from)?;
        self.data.drain()
    }
}

impl<M: Media + 'static> BlockDevice for Disk<M> {
    fn name(&self) -> String {
        self.linear.name()
    }

    fn geometry(&self) -> Geometry {
        self.linear.geometry()
    }

    fn read(&self, at: Lba, into: &mut [IoSliceMut<'_>]) -> Result<()> {
        self.linear.read(at, into)
    }

    fn write(&self, at: Lba, from: &[IoSlice<'_>], flags: WriteFlags) -> Result<()> {
        self.linear.write(at, from, flags)
    }

    fn flush(&self) -> Result<()> {
        self.linear.flush()
    }

    fn write_zeroes(&self, at: Lba, sectors: u64, flags: WriteFlags) -> Result<()> {
        self.linear.write_zeroes(at, sectors, flags)
    }

    fn discard(&self, at: Lba, sectors: u64) -> Result<()> {
        self.linear.discard(at, sectors)
    }

    fn extents(&self, at: Lba, sectors: u64, found: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        self.linear.extents(at, sectors, found)
    }

    fn bytes(&self) -> Result<&dyn ByteAccess> {
        Ok(self)
    }

    fn pages(&self) -> Result<&dyn PageAccess> {
        Ok(self)
    }
}

impl<M: Media + 'static> ByteAccess for Disk<M> {
    fn size(&self) -> u64 {
        self.data.len()
    }

    fn rw_bytes(&self, at: MediaOffset, bytes: Bytes<'_>, flags: ByteFlags) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        check_range(self.data.len(), "move bytes", at, len).map_err(|e| e.path(&self.data.shared.name))?;
        match bytes {
            Bytes::Read(into) => self.data.read(at, into),
            Bytes::Write(from) => {
                let done = if flags.contains(ByteFlags::ATOMIC) && self.data.is_poisoned(at, len) {
                    self.write_without_healing(at, from)
                } else {
                    self.data.stream(at, from)
                };
                // A write that leaves lost bytes behind has stored its own, which are durable like any others.
                match done {
                    Ok(()) => self.data.drain(),
                    Err(e) if e.kind() == Kind::Poison => self.data.drain().and(Err(e)),
                    Err(e) => Err(e),
                }
            }
        }
    }

    fn media(&self) -> Arc<dyn Media> {
        Arc::new(self.data.clone())
    }
}

impl<M: Media + 'static> PageAccess for Disk<M> {
    fn rw_page(&self, index: u64, page: &Page, direction: Direction) {
        // What saturates lies outside, and ends as an error.
        let at = MediaOffset(index.saturating_mul(PAGE));
        match direction {
            Direction::Read => match self.data.read(at, page.bytes().as_mut_slice()) {
                Ok(()) => page.end(PageState::LOCKED | PageState::ERROR, PageState::UPTODATE),
                Err(_) => page.end(PageState::LOCKED | PageState::UPTODATE, PageState::ERROR),
            },
            Direction::Write => {
                let bytes = page.bytes();
                page.end(PageState::LOCKED, PageState::WRITEBACK);
                let done = self.write_page(at, bytes.as_slice());
                drop(bytes);
                match done {
                    Ok(()) => page.end(PageState::WRITEBACK | PageState::ERROR, PageState::empty()),
                    Err(_) => page.end(PageState::WRITEBACK, PageState::ERROR),
                }
            }
        }
    }
}
