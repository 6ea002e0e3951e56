// SPDX-License-Identifier: MIT OR Apache-2.0
//! A medium as a block device, byte for byte: a raw namespace, or the data area of an fsdax or devdax one.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use nvstack_media::{Domain, Error, Kind, Media, MediaOffset, Result};

use crate::bytes::wide;
use crate::{
    BlockDevice, ByteAccess, ByteFlags, Bytes, Direction, Extent, ExtentFlags, Geometry, Lba, Page,
    PageAccess, ReadOnlyMedium, WriteFlags, in_range, rw_bytes, rw_page_by_sectors, sectors_of,
};

/// A medium, sector by sector, byte by byte and page by page. No atomicity is promised: a sector may tear where stores
/// tear.
///
/// Byte access reaches the whole medium, a tail shorter than a sector too.
pub struct Linear<M> {
    name: String,
    media: Arc<M>,
    geometry: Geometry,
}

impl<M: Media> Linear<M> {
    /// Serves `media` in sectors of 512 or 4096 bytes; a tail shorter than a sector is left out.
    pub fn new(name: impl Into<String>, media: M, sector_size: u32, read_only: bool) -> Result<Linear<M>> {
        let size = u64::from(sector_size);
        let sectors = match sector_size {
            512 | 4096 => media.len().checked_div(size).unwrap_or(0),
            _ => {
                return Err(Error::new(Kind::Invalid, "open device")
                    .found(sector_size)
                    .accepted("sector size 512 or 4096"));
            }
        };
        let geometry = Geometry {
            sectors,
            sector_size,
            preferred: 4096,
            read_only: read_only || media.read_only(),
            volatile_cache: media.domain() == Domain::PageCache,
            atomic: false,
            discard: true,
        };
        Ok(Linear { name: name.into(), media: Arc::new(media), geometry })
    }

    fn offset(&self, at: Lba) -> MediaOffset {
        MediaOffset(at.0.saturating_mul(u64::from(self.geometry.sector_size)))
    }

    fn writable(&self, operation: &'static str) -> Result<()> {
        if self.geometry.read_only {
            return Err(Error::new(Kind::ReadOnly, operation).path(&self.name));
        }
        Ok(())
    }

    /// A completed write is durable at once, except where only a flush can make it so.
    fn settle(&self, flags: WriteFlags) -> Result<()> {
        if flags.contains(WriteFlags::FUA) || !self.geometry.volatile_cache {
            self.media.drain()
        } else {
            Ok(())
        }
    }
}

impl<M: Media + 'static> BlockDevice for Linear<M> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, at: Lba, into: &mut [IoSliceMut<'_>]) -> Result<()> {
        sectors_of(&self.geometry, "read", at, into.iter().map(|b| b.len()))?;
        let mut offset = self.offset(at);
        for buffer in into {
            self.media.read(offset, buffer)?;
            offset = offset.plus(wide(buffer.len()));
        }
        Ok(())
    }

    fn write(&self, at: Lba, from: &[IoSlice<'_>], flags: WriteFlags) -> Result<()> {
        self.writable("write")?;
        sectors_of(&self.geometry, "write", at, from.iter().map(|b| b.len()))?;
        let mut offset = self.offset(at);
        for buffer in from {
            self.media.stream(offset, buffer)?;
            offset = offset.plus(wide(buffer.len()));
        }
        self.settle(flags)
    }

    fn flush(&self) -> Result<()> {
        if self.geometry.read_only { Ok(()) } else { self.media.drain() }
    }

    fn write_zeroes(&self, at: Lba, sectors: u64, flags: WriteFlags) -> Result<()> {
        self.writable("write zeroes")?;
        in_range(&self.geometry, "write zeroes", at, sectors)?;
        if flags.contains(WriteFlags::NO_HOLE) {
            // The space must stay: zeros are written like any other data.
            if flags.contains(WriteFlags::FAST) {
                return Err(Error::new(Kind::Unsupported, "write zeroes fast without giving up space")
                    .path(&self.name));
            }
            let zeros = [0u8; 4096];
            let mut done = 0u64;
            let len = self.offset(Lba(sectors)).0;
            while done < len {
                let step = len.saturating_sub(done).min(wide(zeros.len()));
                let piece = usize::try_from(step).ok().and_then(|n| zeros.get(..n)).unwrap_or(&zeros);
                self.media.stream(self.offset(at).plus(done), piece)?;
                done = done.saturating_add(step);
            }
        } else {
            self.media.zero(self.offset(at), self.offset(Lba(sectors)).0)?;
        }
        self.settle(flags)
    }

    fn discard(&self, at: Lba, sectors: u64) -> Result<()> {
        self.writable("discard")?;
        in_range(&self.geometry, "discard", at, sectors)?;
        self.media.zero(self.offset(at), self.offset(Lba(sectors)).0)?;
        self.settle(WriteFlags::empty())
    }

    fn extents(&self, at: Lba, sectors: u64, found: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        in_range(&self.geometry, "look for holes", at, sectors)?;
        let size = u64::from(self.geometry.sector_size);
        let end = at.0.saturating_add(sectors);
        let bad = self.media.badblocks(self.offset(at), self.offset(Lba(sectors)).0);
        let mut lba = at.0;
        while lba < end {
            let start = self.offset(Lba(lba));
            let rest = end.saturating_sub(lba);
            // The next bad run cuts the extent short, or is the extent.
            let mut limit = rest;
            let mut flags = ExtentFlags::empty();
            for &(unit, count) in &bad {
                let first = unit.saturating_mul(512).checked_div(size).unwrap_or(0);
                let last = unit.saturating_add(count).saturating_mul(512).div_ceil(size);
                if last <= lba {
                    continue;
                }
                if first <= lba {
                    flags = ExtentFlags::BAD;
                    limit = limit.min(last.saturating_sub(lba));
                } else {
                    limit = limit.min(first.saturating_sub(lba));
                }
                break;
            }
            let mut run = limit;
            if flags.is_empty() {
                let extent = self.media.extent(start, limit.saturating_mul(size))?;
                // A hole counts only in whole sectors; the sector that a hole ends in is data.
                let whole = extent.len.checked_div(size).unwrap_or(0);
                if extent.hole && whole > 0 {
                    flags = ExtentFlags::HOLE | ExtentFlags::ZERO;
                    run = whole;
                } else {
                    run = extent.len.div_ceil(size).max(1);
                }
            }
            let run = run.min(limit);
            if !found(Extent { sectors: run, flags }) {
                break;
            }
            lba = lba.saturating_add(run);
        }
        Ok(())
    }

    fn bytes(&self) -> Result<&dyn ByteAccess> {
        Ok(self)
    }

    fn pages(&self) -> Result<&dyn PageAccess> {
        Ok(self)
    }
}

impl<M: Media + 'static> ByteAccess for Linear<M> {
    fn size(&self) -> u64 {
        self.media.len()
    }

    fn rw_bytes(&self, at: MediaOffset, bytes: Bytes<'_>, flags: ByteFlags) -> Result<()> {
        if matches!(bytes, Bytes::Write(_)) && !bytes.is_empty() {
            self.writable("rw_bytes")?;
        }
        rw_bytes(&*self.media, at, bytes, flags).map_err(|e| e.path(&self.name))
    }

    fn media(&self) -> Arc<dyn Media> {
        let media: Arc<dyn Media> = self.media.clone();
        if self.geometry.read_only && !media.read_only() {
            return Arc::new(ReadOnlyMedium::new(media));
        }
        media
    }
}

impl<M: Media + 'static> PageAccess for Linear<M> {
    fn rw_page(&self, index: u64, page: &Page, direction: Direction) {
        rw_page_by_sectors(self, index, page, direction);
    }
}
