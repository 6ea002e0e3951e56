// SPDX-License-Identifier: MIT OR Apache-2.0
//! Partitions, of any device: what a table tells, and a device for each.
//!
//! The layouts are those of the crate `gpt_disk_types`. Tables are hostile until shown otherwise: what is read is bounded,
//! and a partition that does not lie in the device does not become one.

mod gpt;
mod mbr;

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use nvstack_media::{Error, Kind, Media, MediaOffset, Part, Result, check_range};
use uuid::Uuid;

use crate::bytes::wide;
use crate::page::{fail_page, sectors_of_page};
use crate::{
    BlockDevice, ByteAccess, ByteFlags, Bytes, Direction, Extent, GatedMedia, Geometry, Lba, PAGE_SIZE, Page,
    PageAccess, WriteFlags, in_range, not_offered, rw_page_by_sectors, sectors_of,
};

/// What a partition table tells of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionInfo {
    /// Its number, as Linux counts: from 1; the logical partitions of an MBR from 5.
    pub number: u32,
    /// Its first sector in the device.
    pub first: Lba,
    /// Its sectors.
    pub sectors: u64,
    /// What it is for.
    pub kind: PartitionKind,
    /// Its own GUID: GPT alone.
    pub id: Option<Uuid>,
    /// Its label: GPT alone.
    pub label: String,
}

/// What a partition is for, as its table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionKind {
    /// The type byte of an MBR.
    Mbr(u8),
    /// The type GUID of a GPT.
    Gpt(Uuid),
}

/// The partitions of a device, in the order of their numbers; none if it has no partition table. Those that do not lie
/// wholly in the device are left out, as are extended partitions, which only hold others.
///
/// A GPT is looked for where the MBR says that there is one (a partition of type 0xEE), first by its primary header, then by
/// its backup. [`Kind::Corrupt`] if neither is whole. A chain of logical partitions ends where it is damaged, or comes back
/// to itself.
pub fn partitions(device: &Arc<dyn BlockDevice>) -> Result<Vec<PartitionInfo>> {
    let mut found = scan(&**device)?;
    found.retain(|info| fits(&device.geometry(), info).is_ok());
    Ok(found)
}

/// All that the table tells.
fn scan(device: &dyn BlockDevice) -> Result<Vec<PartitionInfo>> {
    let geometry = device.geometry();
    if geometry.bytes() < 512 {
        return Ok(Vec::new());
    }
    let Some(record) = mbr::record(device, Lba(0)).map_err(|e| e.path(device.name()))? else {
        return Ok(Vec::new());
    };
    if mbr::is_protective(&record) {
        return gpt::read(device);
    }
    mbr::read(device, &record)
}

/// Whether a partition lies in its device.
fn fits(geometry: &Geometry, info: &PartitionInfo) -> Result<()> {
    match info.first.0.checked_add(info.sectors) {
        Some(end) if end <= geometry.sectors && info.sectors > 0 => Ok(()),
        _ => Err(Error::new(Kind::Corrupt, "open partition")
            .found(format_args!("{} sectors from LBA {}", info.sectors, info.first))
            .accepted(format_args!("LBA 0 to {}", geometry.sectors))),
    }
}

/// Reads bytes by whole sectors. The caller bounds `len`.
fn read_bytes(device: &dyn BlockDevice, at: Lba, len: usize) -> Result<Vec<u8>> {
    let size = usize::try_from(device.geometry().sector_size).unwrap_or(PAGE_SIZE);
    let whole = len.checked_next_multiple_of(size).unwrap_or(len);
    in_range(&device.geometry(), "read partition table", at, wide(whole.checked_div(size).unwrap_or(0)))?;
    let mut bytes = vec![0; whole];
    device.read(at, &mut [IoSliceMut::new(&mut bytes)])?;
    bytes.truncate(len);
    Ok(bytes)
}

/// A partition of a device, as a device of its own, named as Linux names it: `pmem0s1`, `pmem0p1`.
///
/// It offers byte access where its parent does, and page I/O where its parent does and it starts on a page.
pub struct Partition {
    parent: Arc<dyn BlockDevice>,
    info: PartitionInfo,
    name: String,
    geometry: Geometry,
    /// Its first byte in the parent.
    base: u64,
}

impl Partition {
    /// Opens the partition of this number. [`Kind::NotFound`] if the table tells of none, [`Kind::Corrupt`] if it does not
    /// lie in the device.
    pub fn open(parent: Arc<dyn BlockDevice>, number: u32) -> Result<Partition> {
        let all = scan(&*parent)?;
        let Some(info) = all.iter().find(|info| info.number == number) else {
            let numbers: Vec<String> = all.iter().map(|info| info.number.to_string()).collect();
            let found = if numbers.is_empty() { "no partitions".into() } else { numbers.join(", ") };
            return Err(Error::new(Kind::NotFound, format!("open partition {number}"))
                .path(parent.name())
                .found(found));
        };
        Partition::new(parent, info.clone())
    }

    /// A partition of `parent` that is known from elsewhere. [`Kind::Corrupt`] if it does not lie in it.
    pub fn new(parent: Arc<dyn BlockDevice>, info: PartitionInfo) -> Result<Partition> {
        let whole = parent.geometry();
        let (parent_name, number) = (parent.name(), info.number);
        fits(&whole, &info).map_err(|e| e.path(&parent_name))?;
        let between = if parent_name.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
        let name = format!("{parent_name}{between}{number}");
        let geometry = Geometry { sectors: info.sectors, ..whole };
        let base = info.first.0.saturating_mul(u64::from(whole.sector_size));
        Ok(Partition { parent, info, name, geometry, base })
    }

    /// What the table tells of it.
    #[must_use]
    pub fn info(&self) -> &PartitionInfo {
        &self.info
    }

    /// The device that it is a part of.
    #[must_use]
    pub fn parent(&self) -> &Arc<dyn BlockDevice> {
        &self.parent
    }

    fn place(&self, at: Lba) -> Lba {
        self.info.first.plus(at.0)
    }

    /// What the parent says to a capability, in this device's name.
    fn offered<T>(&self, parents: Result<T>, operation: &'static str) -> Result<T> {
        parents.map_err(|e| match e.kind() {
            Kind::Unsupported => not_offered(&self.name, operation),
            _ => e,
        })
    }
}

impl BlockDevice for Partition {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, at: Lba, into: &mut [IoSliceMut<'_>]) -> Result<()> {
        sectors_of(&self.geometry, "read", at, into.iter().map(|b| b.len()))
            .map_err(|e| e.path(&self.name))?;
        self.parent.read(self.place(at), into)
    }

    fn write(&self, at: Lba, from: &[IoSlice<'_>], flags: WriteFlags) -> Result<()> {
        sectors_of(&self.geometry, "write", at, from.iter().map(|b| b.len()))
            .map_err(|e| e.path(&self.name))?;
        self.parent.write(self.place(at), from, flags)
    }

    fn flush(&self) -> Result<()> {
        self.parent.flush()
    }

    fn write_zeroes(&self, at: Lba, sectors: u64, flags: WriteFlags) -> Result<()> {
        in_range(&self.geometry, "write zeroes", at, sectors).map_err(|e| e.path(&self.name))?;
        self.parent.write_zeroes(self.place(at), sectors, flags)
    }

    fn discard(&self, at: Lba, sectors: u64) -> Result<()> {
        in_range(&self.geometry, "discard", at, sectors).map_err(|e| e.path(&self.name))?;
        self.parent.discard(self.place(at), sectors)
    }

    fn extents(&self, at: Lba, sectors: u64, found: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        in_range(&self.geometry, "look for holes", at, sectors).map_err(|e| e.path(&self.name))?;
        self.parent.extents(self.place(at), sectors, found)
    }

    fn bytes(&self) -> Result<&dyn ByteAccess> {
        self.offered(self.parent.bytes().map(|_| ()), "rw_bytes")?;
        Ok(self)
    }

    fn pages(&self) -> Result<&dyn PageAccess> {
        if self.base.checked_rem(wide(PAGE_SIZE)) != Some(0) {
            return Err(not_offered(&self.name, "rw_page"));
        }
        self.offered(self.parent.pages().map(|_| ()), "rw_page")?;
        Ok(self)
    }
}

impl ByteAccess for Partition {
    fn size(&self) -> u64 {
        self.geometry.bytes()
    }

    fn rw_bytes(&self, at: MediaOffset, bytes: Bytes<'_>, flags: ByteFlags) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        check_range(self.size(), "rw_bytes", at, wide(bytes.len())).map_err(|e| e.path(&self.name))?;
        let parent = self.offered(self.parent.bytes(), "rw_bytes")?;
        parent.rw_bytes(at.plus(self.base), bytes, flags)
    }

    /// A part of the parent's medium.
    fn media(&self) -> Arc<dyn Media> {
        let whole = self.parent.bytes().map(ByteAccess::media);
        match whole.and_then(|whole| Part::new(whole, MediaOffset(self.base), self.size())) {
            Ok(part) => Arc::new(part),
            // The parent was removed since it was asked whether it offers this.
            Err(_) => Arc::new(GatedMedia::gone(&self.name, self.size())),
        }
    }
}

impl PageAccess for Partition {
    fn rw_page(&self, index: u64, page: &Page, direction: Direction) {
        match sectors_of_page(&self.geometry, index) {
            Ok((at, PAGE_SIZE)) => {
                let start = self.place(at).0.saturating_mul(u64::from(self.geometry.sector_size));
                match (self.pages(), self.parent.pages(), start.checked_div(wide(PAGE_SIZE))) {
                    (Ok(_), Ok(parent), Some(index)) => parent.rw_page(index, page, direction),
                    _ => fail_page(page, direction),
                }
            }
            // The rest of the last page is the next partition's.
            _ => rw_page_by_sectors(self, index, page, direction),
        }
    }
}
