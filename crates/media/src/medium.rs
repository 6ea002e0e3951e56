// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a medium offers.

use std::fmt;
use std::sync::Arc;

use crate::{Error, Kind, MediaOffset, Result};

/// What stands between a store and persistence: the persistence domain that was obtained, not the one hoped for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Domain {
    /// CPU caches: a store persists once its line is flushed and a drain has passed. DAX, MAP_SYNC.
    Cache,
    /// The page cache of a plain file: a store may reach the file at any moment and surely has after a drain, which
    /// is an msync. Expensive, so engines commit in groups and are honest about a volatile write cache.
    PageCache,
    /// Memory alone: visible at once, survives this process where the memory does (tmpfs, hugetlbfs), never power.
    Memory,
}

impl Domain {
    /// Whether a completed store counts as durable without a system call.
    #[must_use]
    pub const fn is_immediate(self) -> bool {
        !matches!(self, Domain::PageCache)
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Domain::Cache => "cpu_cache",
            Domain::PageCache => "page_cache",
            Domain::Memory => "memory",
        })
    }
}

/// A run of bytes, and whether the file really holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub at: MediaOffset,
    /// Bytes; zero only if none were asked about.
    pub len: u64,
    /// Nothing was ever stored here: it reads as zeros and takes no space.
    pub hole: bool,
}

/// Bytes that persist.
///
/// All offsets are bytes from the start of the medium. An access that does not lie wholly inside moves nothing and
/// gives [`Kind::OutOfRange`]. *Durable* stores are after what each call says. Concurrent copies of overlapping ranges
/// may mix bytes, never more.
///
/// Visible to other threads and processes, too, stores become in program order, but for `stream` and `zero`: on
/// [`Domain::Cache`] they pass the cache by and may be seen late, after a `store_u64` that came later. Whoever
/// publishes streamed bytes by a word stored after them drains in between, as whoever makes them durable first must
/// anyhow. The thread itself always sees its own stores.
///
/// A call that ends with [`Kind::Fault`] may have moved some of its bytes.
pub trait Media: Send + Sync {
    /// Size in bytes. Fixed for the life of the medium.
    fn len(&self) -> u64;

    /// Whether it has no byte at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether stores are refused with [`Kind::ReadOnly`].
    fn read_only(&self) -> bool;

    /// What a drain of this medium achieves.
    fn domain(&self) -> Domain;

    /// Copies bytes out. Cost: one copy. [`Kind::Poison`] if any byte is lost, [`Kind::Fault`] if the mapping is; `into`
    /// then holds nothing sensible.
    fn read(&self, at: MediaOffset, into: &mut [u8]) -> Result<()>;

    /// Copies bytes in through the cache. Durable after `flush` of the range and a `drain`.
    ///
    /// Over poison: the 512-byte units that are covered whole are healed; if others are touched the bytes are copied
    /// all the same and the result is [`Kind::Poison`] (Linux `nsio_rw_bytes`).
    fn store(&self, at: MediaOffset, from: &[u8]) -> Result<()>;

    /// Copies bytes in past the cache where the CPU can: for data that is not read again soon. Durable after a
    /// `drain` alone. Poison as in `store`.
    fn stream(&self, at: MediaOffset, from: &[u8]) -> Result<()>;

    /// Makes a range read as zeros, giving up the file's blocks where it can, so that sparse files stay sparse.
    /// Durable after a `drain` alone. Not atomic in any unit. Poison as in `store`. Cost: stores, or above 64 KiB a
    /// system call (on [`Domain::Cache`] with a datasync).
    fn zero(&self, at: MediaOffset, len: u64) -> Result<()>;

    /// Reads a little-endian u32 in one piece (acquire). `at` must be 4-aligned.
    fn load_u32(&self, at: MediaOffset) -> Result<u32>;

    /// Writes a little-endian u32 in one piece (release). `at` must be 4-aligned. Durable after `flush` and `drain`.
    fn store_u32(&self, at: MediaOffset, value: u32) -> Result<()>;

    /// Reads a little-endian u64 in one piece (acquire). `at` must be 8-aligned.
    fn load_u64(&self, at: MediaOffset) -> Result<u64>;

    /// Writes a little-endian u64 in one piece (release). `at` must be 8-aligned. Durable after `flush` and `drain`.
    fn store_u64(&self, at: MediaOffset, value: u64) -> Result<()>;

    /// Starts writing back what a range holds now, whoever stored it: a process that was killed leaves its stores in the
    /// CPU's caches or in the page cache, where every reader sees them and no power cut is survived. Durable after `drain`.
    /// Cheap; orders nothing by itself.
    fn flush(&self, at: MediaOffset, len: u64) -> Result<()>;

    /// Waits until everything that this thread streamed or flushed is durable. The unit of cost on every domain: about
    /// 110 ns on [`Domain::Cache`], half a millisecond on [`Domain::PageCache`] over ext4, a compiler barrier on
    /// [`Domain::Memory`]. On `PageCache` it covers what any thread stored before the call, and a failure is final: every
    /// later drain and store fails too, since the kernel may have dropped what it could not write.
    fn drain(&self) -> Result<()>;

    /// `flush` and `drain`.
    fn persist(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.flush(at, len)?;
        self.drain()
    }

    /// The bad 512-byte units that touch the range, as (unit number, count) runs in rising order: the meaning of Linux's
    /// `badblocks` files. Empty at no cost when the medium has none.
    fn badblocks(&self, at: MediaOffset, len: u64) -> Vec<(u64, u64)>;

    /// Whether any byte of the range is lost. A relaxed load when the medium has no poison at all.
    fn is_poisoned(&self, at: MediaOffset, len: u64) -> bool {
        !self.badblocks(at, len).is_empty()
    }

    /// Marks every 512-byte unit that the range touches as lost. [`Kind::Unsupported`] on a medium that cannot lose any.
    fn inject_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        let _ = len;
        Err(Error::new(Kind::Unsupported, "inject poison").path(self.name()).at(at))
    }

    /// Heals every 512-byte unit that lies wholly in the range. Its bytes are what they were.
    fn clear_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        let _ = len;
        Err(Error::new(Kind::Unsupported, "clear poison").path(self.name()).at(at))
    }

    /// The longest run from `at`, at most `len` bytes, that is wholly hole or wholly data. Advice: never calls data a
    /// hole, may call a hole data. The default knows no holes.
    fn extent(&self, at: MediaOffset, len: u64) -> Result<Extent> {
        check_range(self.len(), "look for holes", at, len)?;
        Ok(Extent { at, len, hole: false })
    }

    /// What a person would call this medium: a path, with the range of it.
    fn name(&self) -> String;
}

/// The bounds rule of every medium: wholly inside or [`Kind::OutOfRange`].
pub fn check_range(size: u64, operation: &'static str, at: MediaOffset, len: u64) -> Result<()> {
    match at.0.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(Error::new(Kind::OutOfRange, operation)
            .at(at)
            .found(format_args!("{len} bytes"))
            .accepted(format_args!("bytes 0 to {size}"))),
    }
}

macro_rules! forward {
    ($($wrapper:ty),*) => {$(
        impl<M: Media + ?Sized> Media for $wrapper {
            fn len(&self) -> u64 { (**self).len() }
            fn read_only(&self) -> bool { (**self).read_only() }
            fn domain(&self) -> Domain { (**self).domain() }
            fn read(&self, at: MediaOffset, into: &mut [u8]) -> Result<()> { (**self).read(at, into) }
            fn store(&self, at: MediaOffset, from: &[u8]) -> Result<()> { (**self).store(at, from) }
            fn stream(&self, at: MediaOffset, from: &[u8]) -> Result<()> { (**self).stream(at, from) }
            fn zero(&self, at: MediaOffset, len: u64) -> Result<()> { (**self).zero(at, len) }
            fn load_u32(&self, at: MediaOffset) -> Result<u32> { (**self).load_u32(at) }
            fn store_u32(&self, at: MediaOffset, value: u32) -> Result<()> { (**self).store_u32(at, value) }
            fn load_u64(&self, at: MediaOffset) -> Result<u64> { (**self).load_u64(at) }
            fn store_u64(&self, at: MediaOffset, value: u64) -> Result<()> { (**self).store_u64(at, value) }
            fn flush(&self, at: MediaOffset, len: u64) -> Result<()> { (**self).flush(at, len) }
            fn drain(&self) -> Result<()> { (**self).drain() }
            fn persist(&self, at: MediaOffset, len: u64) -> Result<()> { (**self).persist(at, len) }
            fn badblocks(&self, at: MediaOffset, len: u64) -> Vec<(u64, u64)> { (**self).badblocks(at, len) }
            fn is_poisoned(&self, at: MediaOffset, len: u64) -> bool { (**self).is_poisoned(at, len) }
            fn inject_poison(&self, at: MediaOffset, len: u64) -> Result<()> { (**self).inject_poison(at, len) }
            fn clear_poison(&self, at: MediaOffset, len: u64) -> Result<()> { (**self).clear_poison(at, len) }
            fn extent(&self, at: MediaOffset, len: u64) -> Result<Extent> { (**self).extent(at, len) }
            fn name(&self) -> String { (**self).name() }
        }
    )*};
}

forward!(Arc<M>, Box<M>, &M);
