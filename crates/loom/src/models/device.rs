// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device that must not be used any more once it was removed.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use loom::sync::atomic::{AtomicUsize, Ordering};
use nvstack_block::{BlockDevice, Extent, Geometry, Lba, WriteFlags};
use nvstack_media::Result;

pub(super) struct Device {
    pub(super) removed: Arc<AtomicUsize>,
    /// What it does in the midst of a read.
    pub(super) within: Box<dyn Fn() + Send + Sync>,
}

impl BlockDevice for Device {
    fn name(&self) -> String {
        "device".to_owned()
    }

    fn geometry(&self) -> Geometry {
        Geometry {
            sectors: 1,
            sector_size: 512,
            preferred: 4096,
            read_only: false,
            volatile_cache: false,
            atomic: true,
            discard: false,
        }
    }

    fn read(&self, _: Lba, _: &mut [IoSliceMut<'_>]) -> Result<()> {
        assert_eq!(self.removed.load(Ordering::SeqCst), 0, "used after its removal");
        (self.within)();
        assert_eq!(self.removed.load(Ordering::SeqCst), 0, "removed under an operation");
        Ok(())
    }

    fn write(&self, _: Lba, _: &[IoSlice<'_>], _: WriteFlags) -> Result<()> {
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn write_zeroes(&self, _: Lba, _: u64, _: WriteFlags) -> Result<()> {
        Ok(())
    }

    fn discard(&self, _: Lba, _: u64) -> Result<()> {
        Ok(())
    }

    fn extents(&self, _: Lba, _: u64, _: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        Ok(())
    }
}
