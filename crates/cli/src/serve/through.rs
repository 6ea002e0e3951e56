// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device without a volatile cache, made of one that has it: every write carries FUA.

use std::io::{IoSlice, IoSliceMut};

use nvstack_block::{BlockDevice, Extent, Geometry, Lba, WriteFlags};
use nvstack_media::Result;

/// Every write to the device inside is durable when it completes.
pub(super) struct WriteThrough<D>(pub(super) D);

impl<D: BlockDevice> BlockDevice for WriteThrough<D> {
    fn name(&self) -> String {
        self.0.name()
    }

    fn geometry(&self) -> Geometry {
        Geometry { volatile_cache: false, ..self.0.geometry() }
    }

    fn read(&self, at: Lba, into: &mut [IoSliceMut<'_>]) -> Result<()> {
        self.0.read(at, into)
    }

    fn write(&self, at: Lba, from: &[IoSlice<'_>], flags: WriteFlags) -> Result<()> {
        self.0.write(at, from, flags | WriteFlags::FUA)
    }

    fn flush(&self) -> Result<()> {
        self.0.flush()
    }

    fn write_zeroes(&self, at: Lba, sectors: u64, flags: WriteFlags) -> Result<()> {
        self.0.write_zeroes(at, sectors, flags | WriteFlags::FUA)
    }

    fn discard(&self, at: Lba, sectors: u64) -> Result<()> {
        self.0.discard(at, sectors)?;
        self.0.flush()
    }

    fn extents(&self, at: Lba, sectors: u64, found: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        self.0.extents(at, sectors, found)
    }
}
