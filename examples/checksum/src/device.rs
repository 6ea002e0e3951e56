// SPDX-License-Identifier: MIT OR Apache-2.0
//! The disk.
//!
//! Each block has an entry of 8 bytes, which change in one piece: two checksums, of what the block held and of what it is to
//! hold. 0 stands for a block that was never written, or that was zeroed: it reads as zeros, whatever lies there. A write is
//!
//! 1. the entry gets (old, new); persist;
//! 2. the data; persist: from here on the write is durable;
//! 3. the entry gets (new, new), which the next persist of anybody covers.
//!
//! So a cut leaves a block that matches one of the two where its data is wholly old or wholly new. Opening for writing settles
//! such entries. A torn block matches neither and stays an error until it is written again, unless it was never written
//! before: then it is zeros again. The checksum of a block counts its number too, so a block in another's place is found out.

use std::io::{IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use nvstack_block::{
    BlockDevice, Direction, Extent, ExtentFlags, Geometry, Lba, Page, PageAccess, WriteFlags, in_range,
    rw_page_by_sectors, sectors_of,
};
use nvstack_media::{Error, Kind, Media, MediaOffset, Result};

use crate::layout::{CRC32C, Layout, Superblock};

/// Blocks share so many locks; and so many blocks at most are written between two persists.
const STRIPES: u64 = 64;
/// Entries are looked through in pieces of so many.
const PIECE: u64 = 8192;

/// The checksums of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    old: u32,
    new: u32,
}

impl Entry {
    const ZERO: Entry = Entry { old: 0, new: 0 };

    fn of(crc: u32) -> Entry {
        Entry { old: crc, new: crc }
    }

    fn from_word(word: u64) -> Entry {
        let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
        Entry { old: u32::from_le_bytes([a, b, c, d]), new: u32::from_le_bytes([e, f, g, h]) }
    }

    fn word(self) -> u64 {
        u64::from(self.new) << 32 | u64::from(self.old)
    }

    /// No write is under way, and none was interrupted.
    fn settled(self) -> bool {
        self.old == self.new
    }

    /// What bytes with this checksum are to the block.
    fn judge(self, crc: u32) -> Verdict {
        match self {
            Entry::ZERO => Verdict::Zeros,
            Entry { old, new } if crc == old || crc == new => Verdict::Good,
            // It was never written before, or just zeroed when it was.
            Entry { old: 0, .. } | Entry { new: 0, .. } => Verdict::Zeros,
            _ => Verdict::Bad,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    Zeros,
    Bad,
}

/// The checksum of a block. Never 0, which means something else.
fn checksum(block: u64, bytes: &[u8]) -> u32 {
    let mut digest = CRC32C.digest();
    digest.update(&block.to_le_bytes());
    digest.update(bytes);
    digest.finalize().max(1)
}

/// A disk whose blocks are checked when they are read.
///
/// What it promises: a read gives what was last written, or an error. A write is durable when it returns, on every medium. A
/// block can tear in a power cut: then reading it is refused, with [`Kind::Corrupt`] and its number, until it is written.
pub struct Checked {
    name: String,
    media: Arc<dyn Media>,
    layout: Layout,
    read_only: bool,
    /// Reads refused so far.
    errors: Arc<AtomicU64>,
    /// A block is read as it was before a write or after it, never in between.
    locks: Vec<RwLock<()>>,
}

impl Checked {
    /// Opens the disk; gives also how many interrupted writes were settled. Read-only changes no byte.
    pub fn open(
        name: &str,
        media: Arc<dyn Media>,
        superblock: &Superblock,
        read_only: bool,
        errors: Arc<AtomicU64>,
    ) -> Result<(Checked, u64)> {
        let device = Checked {
            name: name.to_owned(),
            read_only: read_only || media.read_only(),
            media,
            layout: superblock.layout,
            errors,
            locks: (0..STRIPES).map(|_| RwLock::new(())).collect(),
        };
        let settled = if device.read_only { 0 } else { device.settle()? };
        Ok((device, settled))
    }

    fn size(&self) -> u64 {
        u64::from(self.layout.block_size)
    }

    fn block_bytes(&self) -> usize {
        usize::try_from(self.layout.block_size).unwrap_or(usize::MAX)
    }

    fn writable(&self, operation: &'static str) -> Result<()> {
        if self.read_only {
            return Err(Error::new(Kind::ReadOnly, operation).path(&self.name));
        }
        Ok(())
    }

    /// Adds to an error whose it is.
    fn of(&self, block: u64) -> impl Fn(Error) -> Error {
        let name = self.name.clone();
        move |error| error.path(&name).lba(Lba(block))
    }

    fn entry(&self, block: u64) -> Result<Entry> {
        self.media.load_u64(self.layout.entry(block)).map(Entry::from_word).map_err(self.of(block))
    }

    fn put_entry(&self, block: u64, entry: Entry) -> Result<()> {
        let at = self.layout.entry(block);
        self.media.store_u64(at, entry.word()).map_err(self.of(block))?;
        self.media.flush(at, 8)
    }

    /// Decides what interrupted writes came to.
    fn settle(&self) -> Result<u64> {
        let mut settled = 0u64;
        let mut bytes = Vec::new();
        let mut first = 0;
        while first < self.layout.blocks {
            let count = self.layout.blocks.saturating_sub(first).min(PIECE);
            bytes.resize(usize::try_from(count.saturating_mul(8)).unwrap_or(0), 0);
            // Where checksums are lost, reading their blocks tells.
            if self.media.read(self.layout.entry(first), &mut bytes).is_ok() {
                for (block, word) in (first..).zip(bytes.as_chunks::<8>().0) {
                    let entry = Entry::from_word(u64::from_le_bytes(*word));
                    if !entry.settled() && self.settle_block(block, entry)? {
                        settled = settled.saturating_add(1);
                    }
                }
            }
            first = first.saturating_add(count);
        }
        if settled > 0 {
            self.media.drain()?;
        }
        Ok(settled)
    }

    fn settle_block(&self, block: u64, entry: Entry) -> Result<bool> {
        let mut data = vec![0; self.block_bytes()];
        let read = self.media.read(self.layout.block(block), &mut data);
        let crc = read.as_ref().map_or(0, |()| checksum(block, &data));
        match (read, entry.judge(crc)) {
            (Ok(()), Verdict::Good) => self.put_entry(block, Entry::of(crc))?,
            (_, Verdict::Zeros) => self.put_entry(block, Entry::ZERO)?,
            // Torn or lost: an error for who reads it.
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The checksum of what a block holds now.
    fn current(&self, block: u64) -> Result<u32> {
        let entry = self.entry(block)?;
        if entry.settled() {
            return Ok(entry.old);
        }
        // A write that failed left it so.
        let mut data = vec![0; self.block_bytes()];
        let read = self.media.read(self.layout.block(block), &mut data);
        let crc = read.map_or(0, |()| checksum(block, &data));
        Ok(match entry.judge(crc) {
            Verdict::Good => crc,
            Verdict::Zeros => 0,
            Verdict::Bad => entry.old,
        })
    }

    fn lock_of(&self, block: u64) -> Option<&RwLock<()>> {
        self.locks.get(usize::try_from(block % STRIPES).ok()?)
    }

    fn share(&self, block: u64) -> Option<RwLockReadGuard<'_, ()>> {
        self.lock_of(block).map(|lock| lock.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Locks some blocks in a row, lower locks first, so that nobody waits for each other.
    fn seize(&self, first: u64, count: u64) -> Vec<RwLockWriteGuard<'_, ()>> {
        let mut stripes: Vec<u64> =
            (first..first.saturating_add(count.min(STRIPES))).map(|block| block % STRIPES).collect();
        stripes.sort_unstable();
        stripes
            .into_iter()
            .filter_map(|stripe| self.lock_of(stripe))
            .map(|lock| lock.write().unwrap_or_else(PoisonError::into_inner))
            .collect()
    }

    fn read_block(&self, block: u64, into: &mut [u8]) -> Result<()> {
        let _shared = self.share(block);
        let entry = self.entry(block)?;
        if entry == Entry::ZERO {
            into.fill(0);
            return Ok(());
        }
        let at = self.layout.block(block);
        self.media.read(at, into).map_err(self.of(block))?;
        let crc = checksum(block, into);
        match entry.judge(crc) {
            Verdict::Good => Ok(()),
            Verdict::Zeros => {
                into.fill(0);
                Ok(())
            }
            Verdict::Bad => Err(self.mismatch(block, at, crc, entry)),
        }
    }

    fn mismatch(&self, block: u64, at: MediaOffset, crc: u32, entry: Entry) -> Error {
        let accepted = if entry.settled() {
            format!("{:#010x}", entry.new)
        } else {
            format!("{:#010x} or {:#010x}", entry.old, entry.new)
        };
        let error = Error::new(Kind::Corrupt, "read").at(at);
        self.of(block)(error.found(format_args!("checksum {crc:#010x}")).accepted(accepted))
    }

    /// Writes blocks in a row, [`STRIPES`] at most.
    fn write_blocks(&self, first: u64, blocks: &[&[u8]]) -> Result<()> {
        let _seized = self.seize(first, u64::try_from(blocks.len()).unwrap_or(u64::MAX));
        let mut crcs = Vec::with_capacity(blocks.len());
        for (block, bytes) in (first..).zip(blocks) {
            let new = checksum(block, bytes);
            self.put_entry(block, Entry { old: self.current(block)?, new })?;
            crcs.push(new);
        }
        self.media.drain()?;
        for (block, bytes) in (first..).zip(blocks) {
            self.media.stream(self.layout.block(block), bytes).map_err(self.of(block))?;
        }
        self.media.drain()?;
        for (block, crc) in (first..).zip(crcs) {
            self.put_entry(block, Entry::of(crc))?;
        }
        Ok(())
    }

    /// Zeroes blocks by their entries, each in one piece.
    fn zero(&self, first: u64, count: u64, keep_space: bool) -> Result<()> {
        let end = first.saturating_add(count);
        let mut from = first;
        while from < end {
            let step = end.saturating_sub(from).min(PIECE);
            let _seized = self.seize(from, step);
            for block in from..from.saturating_add(step) {
                self.put_entry(block, Entry::ZERO)?;
            }
            self.media.drain()?;
            if !keep_space {
                // Nobody reads them any more. Lost bytes among them stay lost until they are written.
                match self.media.zero(self.layout.block(from), step.saturating_mul(self.size())) {
                    Err(error) if error.kind() != Kind::Poison => return Err(error),
                    _ => {}
                }
            }
            from = from.saturating_add(step);
        }
        Ok(())
    }
}

impl BlockDevice for Checked {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn geometry(&self) -> Geometry {
        Geometry {
            sectors: self.layout.blocks,
            sector_size: self.layout.block_size,
            preferred: 4096,
            read_only: self.read_only,
            volatile_cache: false,
            atomic: false,
            discard: true,
        }
    }

    fn read(&self, at: Lba, into: &mut [IoSliceMut<'_>]) -> Result<()> {
        sectors_of(&self.geometry(), "read", at, into.iter().map(|b| b.len()))?;
        let blocks = into.iter_mut().flat_map(|buffer| buffer.chunks_exact_mut(self.block_bytes()));
        for (block, bytes) in (at.0..).zip(blocks) {
            if let Err(error) = self.read_block(block, bytes) {
                self.errors.fetch_add(1, Ordering::Relaxed);
                return Err(error);
            }
        }
        Ok(())
    }

    fn write(&self, at: Lba, from: &[IoSlice<'_>], _: WriteFlags) -> Result<()> {
        self.writable("write")?;
        sectors_of(&self.geometry(), "write", at, from.iter().map(|b| b.len()))?;
        let blocks: Vec<&[u8]> =
            from.iter().flat_map(|buffer| buffer.chunks_exact(self.block_bytes())).collect();
        let mut first = at.0;
        for batch in blocks.chunks(usize::try_from(STRIPES).unwrap_or(1)) {
            self.write_blocks(first, batch)?;
            first = first.saturating_add(u64::try_from(batch.len()).unwrap_or(u64::MAX));
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        if self.read_only { Ok(()) } else { self.media.drain() }
    }

    fn write_zeroes(&self, at: Lba, sectors: u64, flags: WriteFlags) -> Result<()> {
        self.writable("write zeroes")?;
        in_range(&self.geometry(), "write zeroes", at, sectors)?;
        self.zero(at.0, sectors, flags.contains(WriteFlags::NO_HOLE))
    }

    fn discard(&self, at: Lba, sectors: u64) -> Result<()> {
        self.writable("discard")?;
        in_range(&self.geometry(), "discard", at, sectors)?;
        self.zero(at.0, sectors, false)
    }

    fn extents(&self, at: Lba, sectors: u64, found: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        in_range(&self.geometry(), "look for holes", at, sectors)?;
        // Told from the entries: no data is read, so a block that does not match is told as data.
        let mut run = Extent { sectors: 0, flags: ExtentFlags::empty() };
        for block in at.0..at.0.saturating_add(sectors) {
            let flags = match self.entry(block) {
                Ok(Entry::ZERO) => ExtentFlags::ZERO,
                Ok(_) if !self.media.is_poisoned(self.layout.block(block), self.size()) => {
                    ExtentFlags::empty()
                }
                _ => ExtentFlags::BAD,
            };
            if run.sectors > 0 && flags != run.flags {
                if !found(run) {
                    return Ok(());
                }
                run.sectors = 0;
            }
            run = Extent { sectors: run.sectors.saturating_add(1), flags };
        }
        if run.sectors > 0 {
            found(run);
        }
        Ok(())
    }

    // No `bytes`: what stacked on this disk by bytes would go past the checksums.

    fn pages(&self) -> Result<&dyn PageAccess> {
        Ok(self)
    }
}

impl PageAccess for Checked {
    fn rw_page(&self, index: u64, page: &Page, direction: Direction) {
        rw_page_by_sectors(self, index, page, direction);
    }
}
