// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device without a volatile cache, made of one that has it: every write carries FUA.

use std::io::{IoSlice, IoSliceMut};

use nvstack_block::{BlockDevice, ByteAccess, Extent, Geometry, Lba, PageAccess, WriteFlags};
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

    // Both are durable when they return, whatever the cache is said to be.
    fn bytes(&self) -> Result<&dyn ByteAccess> {
        self.0.bytes()
    }

    fn pages(&self) -> Result<&dyn PageAccess> {
        self.0.pages()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Says what was asked of it.
    #[derive(Default)]
    struct Asked(Mutex<Vec<String>>);

    impl Asked {
        fn note(&self, what: String) -> Result<()> {
            self.0.lock().unwrap().push(what);
            Ok(())
        }
    }

    impl BlockDevice for Asked {
        fn name(&self) -> String {
            "asked".into()
        }
        fn geometry(&self) -> Geometry {
            Geometry {
                sectors: 8,
                sector_size: 512,
                preferred: 4096,
                read_only: false,
                volatile_cache: true,
                atomic: false,
                discard: true,
            }
        }
        fn read(&self, _: Lba, _: &mut [IoSliceMut<'_>]) -> Result<()> {
            self.note("read".into())
        }
        fn write(&self, _: Lba, _: &[IoSlice<'_>], flags: WriteFlags) -> Result<()> {
            self.note(format!("write {}", flags.bits()))
        }
        fn flush(&self) -> Result<()> {
            self.note("flush".into())
        }
        fn write_zeroes(&self, _: Lba, _: u64, flags: WriteFlags) -> Result<()> {
            self.note(format!("zero {}", flags.bits()))
        }
        fn discard(&self, _: Lba, _: u64) -> Result<()> {
            self.note("discard".into())
        }
        fn extents(&self, _: Lba, _: u64, _: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
            self.note("extents".into())
        }
    }

    #[test]
    fn whatever_changes_sectors_is_durable_when_it_returns() {
        let device = WriteThrough(Asked::default());
        assert!(!device.geometry().volatile_cache);
        device.write(Lba(0), &[], WriteFlags::empty()).unwrap();
        device.write_zeroes(Lba(0), 1, WriteFlags::NO_HOLE).unwrap();
        device.discard(Lba(0), 1).unwrap();
        assert_eq!(*device.0.0.lock().unwrap(), ["write 1", "zero 3", "discard", "flush"]);
    }

    #[test]
    fn what_the_device_inside_offers_is_offered() {
        let media = nvstack_media::Anon::new(8192).unwrap();
        let device = WriteThrough(nvstack_block::Linear::new("pmem0", media, 512, false).unwrap());
        assert_eq!(device.bytes().unwrap().size(), 8192);
        assert!(device.pages().is_ok());
        assert!(WriteThrough(Asked::default()).bytes().is_err());
    }
}
