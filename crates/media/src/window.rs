// SPDX-License-Identifier: MIT OR Apache-2.0
//! A run of mapped memory: bounds, alignment, poison, and the choice of routine. What [`Mapping`](crate::Mapping) and
//! [`Anon`](crate::Anon) have in common.

use std::fs::File;
use std::ops::Range;
use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, MsyncFlags, ProtFlags};

use crate::arch::{self, LINE, Loaded, Routines};
use crate::medium::check_range;
use crate::{Domain, Error, Kind, MediaOffset, Poison, Result, fault};

/// Bytes of a page: what is mapped, written back and given up as a whole.
pub(crate) const PAGE: u64 = 4096;

/// Zeroing gives whole pages up from this many bytes of them on. Below, stores are cheaper than the system call and the
/// page faults after it.
const GIVE_UP: u64 = 64 * 1024;

/// Mapped memory that belongs to this value, which unmaps it.
pub(crate) struct Window {
    base: NonNull<u8>,
    /// Bytes, all of them mapped. Never more than `isize::MAX`.
    len: usize,
    writable: bool,
    pub(crate) domain: Domain,
    pub(crate) poison: Poison,
    routines: &'static Routines,
}

// SAFETY: the memory is mapped for as long as the value lives, whichever thread uses it, and is touched only through
// the routines of `arch`, to which concurrent access from anywhere is no more than a mix of bytes.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    /// Maps the first `len` bytes of a file, shared. The domain is [`Domain::Cache`] if the file system grants
    /// MAP_SYNC, else `otherwise`.
    pub(crate) fn of_file(file: &File, len: u64, writable: bool, otherwise: Domain) -> Result<Window> {
        let bytes = length(len)?;
        fault::install()?;
        let protection = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        let map = |flags| {
            // SAFETY: the address is left to the kernel, so no memory in use is replaced. That the file's bytes change
            // without the compiler's knowledge is harmless: no reference to them is ever formed.
            unsafe { rustix::mm::mmap(ptr::null_mut(), bytes, protection, flags, file, 0) }
        };
        // Only a file system that keeps its metadata in step with stores through the mapping (DAX) accepts MAP_SYNC.
        let (base, domain) = match map(MapFlags::SHARED_VALIDATE | MapFlags::SYNC) {
            Ok(base) => (base, Domain::Cache),
            Err(_) => (map(MapFlags::SHARED).map_err(unmappable)?, otherwise),
        };
        Window::new(base.cast(), bytes, len, writable, domain)
    }

    /// Maps zeroed memory that takes space as it is written, not before.
    pub(crate) fn anonymous(len: u64) -> Result<Window> {
        let bytes = length(len)?;
        fault::install()?;
        let (protection, flags) =
            (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: the address is left to the kernel, so no memory in use is replaced.
        let base = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), bytes, protection, flags) };
        Window::new(base.map_err(unmappable)?.cast(), bytes, len, true, Domain::Memory)
    }

    fn new(base: *mut u8, len: usize, size: u64, writable: bool, domain: Domain) -> Result<Window> {
        let base = NonNull::new(base).ok_or_else(|| unmappable(rustix::io::Errno::NOMEM))?;
        Ok(Window { base, len, writable, domain, poison: Poison::new(size), routines: arch::routines() })
    }

    /// Size in bytes.
    pub(crate) fn size(&self) -> u64 {
        wide(self.len)
    }

    pub(crate) fn read_only(&self) -> bool {
        !self.writable
    }

    pub(crate) fn read(&self, at: MediaOffset, into: &mut [u8]) -> Result<()> {
        let from = self.locate("read", at, into.len())?;
        self.refuse_poison("read", at, wide(into.len()))?;
        // SAFETY: `locate` has shown that as many bytes are mapped from `from` on; `into` is ours to write, and cannot
        // overlap them, since no reference to mapped bytes exists.
        let fault = unsafe { (self.routines.copy)(into.as_mut_ptr(), from, into.len()) };
        self.outcome("read", at, from, into.len(), fault)
    }

    pub(crate) fn store(&self, at: MediaOffset, bytes: &[u8]) -> Result<()> {
        let to = self.locate_for_store("store", at, bytes.len())?;
        self.copy_in("store", at, to, bytes)?;
        self.heal("store", at, wide(bytes.len()))
    }

    pub(crate) fn stream(&self, at: MediaOffset, bytes: &[u8]) -> Result<()> {
        let to = self.locate_for_store("stream", at, bytes.len())?;
        let Some((head, lines, tail)) = self.lines(to, bytes.len()) else {
            // Durability is not a matter of caches here, and the page cache is read again by writeback.
            self.copy_in("stream", at, to, bytes)?;
            return self.heal("stream", at, wide(bytes.len()));
        };
        let (first, rest) = bytes.split_at_checked(head).unwrap_or((bytes, &[]));
        let (middle, last) = rest.split_at_checked(lines).unwrap_or((rest, &[]));
        let (to_middle, to_last) = (to.wrapping_add(head), to.wrapping_add(head).wrapping_add(lines));
        self.copy_in("stream", at, to, first)?;
        // SAFETY: `to` to the end of `bytes` is mapped and writable, as `locate_for_store` has shown, and `middle` lies
        // inside; `lines` has put `to_middle` on the start of a line and made the length whole lines.
        let fault = unsafe { (self.routines.stream)(to_middle, middle.as_ptr(), middle.len()) };
        self.outcome("stream", at, to, bytes.len(), fault)?;
        self.copy_in("stream", at, to_last, last)?;
        self.flush_ends("stream", at, (to, head), (to_last, tail))?;
        self.heal("stream", at, wide(bytes.len()))
    }

    /// Zeroes a range, durable after a drain alone: if it holds many whole pages they are offered to `give_up`, which
    /// says whether it has made them zero by giving them back. The rest is zeroed by stores.
    pub(crate) fn zero(
        &self,
        at: MediaOffset,
        len: u64,
        give_up: impl FnOnce(&Range<u64>) -> Result<bool>,
    ) -> Result<()> {
        self.refuse_read_only("zero", at)?;
        check_range(self.size(), "zero", at, len)?;
        match whole_pages(at, len).filter(|pages| pages.end.saturating_sub(pages.start) >= GIVE_UP) {
            Some(pages) if give_up(&pages)? => {
                self.zero_by_stores(at, pages.start.saturating_sub(at.0))?;
                let tail = at.0.saturating_add(len).saturating_sub(pages.end);
                self.zero_by_stores(MediaOffset(pages.end), tail)?;
            }
            _ => self.zero_by_stores(at, len)?,
        }
        self.heal("zero", at, len)
    }

    fn zero_by_stores(&self, at: MediaOffset, len: u64) -> Result<()> {
        let bytes = usize::try_from(len).unwrap_or(usize::MAX);
        let to = self.locate_for_store("zero", at, bytes)?;
        let Some((head, lines, tail)) = self.lines(to, bytes) else { return self.zero_cached(at, to, bytes) };
        let (to_middle, to_last) = (to.wrapping_add(head), to.wrapping_add(head).wrapping_add(lines));
        self.zero_cached(at, to, head)?;
        // SAFETY: `lines` bytes from `to_middle` on lie inside what `locate_for_store` has shown to be mapped and
        // writable, and are whole lines.
        let fault = unsafe { (self.routines.stream_zero)(to_middle, lines) };
        self.outcome("zero", at, to, bytes, fault)?;
        self.zero_cached(at, to_last, tail)?;
        self.flush_ends("zero", at, (to, head), (to_last, tail))
    }

    pub(crate) fn load_u32(&self, at: MediaOffset) -> Result<u32> {
        let from = self.locate_word("load", at, 4)?;
        self.refuse_poison("load", at, 4)?;
        // SAFETY: 4 bytes are mapped from `from` on, which is 4-aligned.
        let Loaded { fault, value } = unsafe { (self.routines.load_u32)(from) };
        self.outcome("load", at, from, 4, fault)?;
        Ok(u32::try_from(value).unwrap_or(u32::MAX))
    }

    pub(crate) fn load_u64(&self, at: MediaOffset) -> Result<u64> {
        let from = self.locate_word("load", at, 8)?;
        self.refuse_poison("load", at, 8)?;
        // SAFETY: 8 bytes are mapped from `from` on, which is 8-aligned.
        let Loaded { fault, value } = unsafe { (self.routines.load_u64)(from) };
        self.outcome("load", at, from, 8, fault)?;
        Ok(value)
    }

    pub(crate) fn store_u32(&self, at: MediaOffset, value: u32) -> Result<()> {
        let to = self.locate_word("store", at, 4)?;
        self.refuse_read_only("store", at)?;
        // SAFETY: 4 bytes are mapped and writable from `to` on, which is 4-aligned.
        let fault = unsafe { (self.routines.store_u32)(to, value) };
        self.outcome("store", at, to, 4, fault)?;
        self.heal("store", at, 4)
    }

    pub(crate) fn store_u64(&self, at: MediaOffset, value: u64) -> Result<()> {
        let to = self.locate_word("store", at, 8)?;
        self.refuse_read_only("store", at)?;
        // SAFETY: 8 bytes are mapped and writable from `to` on, which is 8-aligned.
        let fault = unsafe { (self.routines.store_u64)(to, value) };
        self.outcome("store", at, to, 8, fault)?;
        self.heal("store", at, 8)
    }

    pub(crate) fn flush(&self, at: MediaOffset, len: u64) -> Result<()> {
        check_range(self.size(), "flush", at, len)?;
        if self.domain != Domain::Cache || len == 0 {
            return Ok(());
        }
        let bytes = usize::try_from(len).unwrap_or(usize::MAX);
        let first = self.locate("flush", at, bytes)?;
        self.flush_lines("flush", at, first, bytes)
    }

    /// A fence on [`Domain::Cache`]. Elsewhere it only keeps the compiler from moving stores across.
    pub(crate) fn fence(&self) {
        if self.domain == Domain::Cache {
            arch::store_fence();
        }
        std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
    }

    /// Writes the dirty pages of a range, which starts and ends on pages, to the file and waits for them.
    pub(crate) fn sync(&self, range: &Range<u64>) -> rustix::io::Result<()> {
        let (start, len) = self.clip(range);
        // SAFETY: `clip` keeps the range inside the mapping, and writing pages back changes no byte of memory.
        unsafe { rustix::mm::msync(self.base.as_ptr().wrapping_add(start).cast(), len, MsyncFlags::SYNC) }
    }

    /// Gives the pages of a range, which starts and ends on pages, back to the system. Private memory reads as zeros
    /// then; that of a file would not.
    pub(crate) fn discard(&self, range: &Range<u64>) -> rustix::io::Result<()> {
        let (start, len) = self.clip(range);
        let address = self.base.as_ptr().wrapping_add(start).cast();
        // SAFETY: `clip` keeps the range inside the mapping. No reference to these bytes exists that could see them
        // change.
        unsafe { rustix::mm::madvise(address, len, Advice::LinuxDontNeed) }
    }

    /// Heals what a store of this range covers whole, and tells of what it could not.
    pub(crate) fn heal(&self, operation: &'static str, at: MediaOffset, len: u64) -> Result<()> {
        if self.poison.is_empty() {
            return Ok(());
        }
        self.poison.clear(at, len);
        self.refuse_poison(operation, at, len)
    }

    pub(crate) fn refuse_read_only(&self, operation: &'static str, at: MediaOffset) -> Result<()> {
        if self.writable { Ok(()) } else { Err(read_only(operation, at)) }
    }

    /// The address of `len` bytes, all inside. What every access begins with.
    fn locate(&self, operation: &'static str, at: MediaOffset, len: usize) -> Result<*mut u8> {
        let start = usize::try_from(at.0).unwrap_or(usize::MAX);
        match start.checked_add(len) {
            Some(end) if end <= self.len => Ok(self.base.as_ptr().wrapping_add(start)),
            _ => Err(self.out_of_range(operation, at, len)),
        }
    }

    fn locate_for_store(&self, operation: &'static str, at: MediaOffset, len: usize) -> Result<*mut u8> {
        self.refuse_read_only(operation, at)?;
        self.locate(operation, at, len)
    }

    /// The address of a word that is aligned to its size.
    fn locate_word(&self, operation: &'static str, at: MediaOffset, size: usize) -> Result<*mut u8> {
        let word = self.locate(operation, at, size)?;
        // The mapping starts on a page, so an aligned offset is an aligned address.
        if word.addr() & size.wrapping_sub(1) != 0 {
            return Err(unaligned(operation, at, size));
        }
        Ok(word)
    }

    /// How a streamed copy splits: bytes before the first whole line, bytes of whole lines, bytes after. `None` where
    /// streaming is a copy like any other.
    fn lines(&self, to: *mut u8, len: usize) -> Option<(usize, usize, usize)> {
        (self.domain == Domain::Cache).then(|| {
            let head = to.addr().wrapping_neg() % LINE;
            let head = head.min(len);
            let rest = len.saturating_sub(head);
            (head, rest.saturating_sub(rest % LINE), rest % LINE)
        })
    }

    /// Copies through the cache. The caller has shown that `to` has room.
    fn copy_in(&self, operation: &'static str, at: MediaOffset, to: *mut u8, bytes: &[u8]) -> Result<()> {
        // SAFETY: the callers, all in this file, pass an address inside what `locate_for_store` gave them, with as many
        // bytes behind it; `bytes` cannot overlap them, since no reference to mapped bytes exists.
        let fault = unsafe { (self.routines.copy)(to, bytes.as_ptr(), bytes.len()) };
        self.outcome(operation, at, to, bytes.len(), fault)
    }

    /// Zeroes through the cache. The caller has shown that `to` has room.
    fn zero_cached(&self, at: MediaOffset, to: *mut u8, len: usize) -> Result<()> {
        // SAFETY: the callers, all in this file, pass an address inside what `locate_for_store` gave them, with as many
        // bytes behind it.
        let fault = unsafe { (self.routines.zero)(to, len) };
        self.outcome("zero", at, to, len, fault)
    }

    /// Flushes the two ends of a streamed range, which went through the cache.
    fn flush_ends(
        &self,
        operation: &'static str,
        at: MediaOffset,
        head: (*mut u8, usize),
        tail: (*mut u8, usize),
    ) -> Result<()> {
        self.flush_lines(operation, at, head.0, head.1)?;
        self.flush_lines(operation, at, tail.0, tail.1)
    }

    fn flush_lines(
        &self,
        operation: &'static str,
        at: MediaOffset,
        first: *mut u8,
        len: usize,
    ) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let line = first.wrapping_sub(first.addr() % LINE);
        // SAFETY: the caller has shown that `len` bytes from `first` on are mapped; the line before them begins in the
        // same page. Writing lines back changes no byte.
        let fault = unsafe { (self.routines.flush)(line, first.wrapping_add(len)) };
        self.outcome(operation, at, first, len, fault)
    }

    fn refuse_poison(&self, operation: &'static str, at: MediaOffset, len: u64) -> Result<()> {
        if self.poison.is_empty() {
            return Ok(());
        }
        match self.poison.first(at, len) {
            None => Ok(()),
            Some(unit) => {
                Err(Error::new(Kind::Poison, operation).at(unit).found("lost bytes in this 512-byte unit"))
            }
        }
    }

    /// What a routine's answer means. `address` is where the access began, `fault` what it could not touch.
    fn outcome(
        &self,
        operation: &'static str,
        at: MediaOffset,
        address: *mut u8,
        len: usize,
        fault: usize,
    ) -> Result<()> {
        if fault == 0 { Ok(()) } else { Err(self.fault(operation, at, address, len, fault)) }
    }

    #[cold]
    fn fault(
        &self,
        operation: &'static str,
        at: MediaOffset,
        address: *mut u8,
        len: usize,
        fault: usize,
    ) -> Error {
        let base = self.base.as_ptr().addr();
        // Callers' buffers never lie in the mapping, since no reference to mapped bytes exists.
        if fault < base || fault >= base.saturating_add(self.len) {
            return Error::new(Kind::Fault, operation).at(at).because("the caller's own buffer went away");
        }
        // A flushed line is told by its start, damaged memory by its page: both may lie before the access.
        let last = address.addr().saturating_add(len.saturating_sub(1));
        let offset = fault.min(last).max(address.addr()).saturating_sub(base);
        Error::new(Kind::Fault, operation).at(MediaOffset(wide(offset)))
    }

    #[cold]
    fn out_of_range(&self, operation: &'static str, at: MediaOffset, len: usize) -> Error {
        let len = wide(len);
        // It fails, since the same was found out before; were it not to, the error still says what was asked.
        check_range(self.size(), operation, at, len)
            .err()
            .unwrap_or_else(|| Error::new(Kind::OutOfRange, operation))
    }

    /// A range as index and length, cut to the mapping.
    fn clip(&self, range: &Range<u64>) -> (usize, usize) {
        let start = usize::try_from(range.start).unwrap_or(usize::MAX).min(self.len);
        let end = usize::try_from(range.end).unwrap_or(usize::MAX).min(self.len);
        (start, end.saturating_sub(start))
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, of this address and length; nothing refers to it after the value.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// The whole pages inside a range: `None` if there is none.
fn whole_pages(at: MediaOffset, len: u64) -> Option<Range<u64>> {
    let end = at.0.checked_add(len)?;
    let range = at.0.checked_next_multiple_of(PAGE)?..end.saturating_sub(end % PAGE);
    (!range.is_empty()).then_some(range)
}

/// A length in memory as one on the medium; every `usize` of this CPU fits.
pub(crate) fn wide(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

fn length(len: u64) -> Result<usize> {
    // A larger run of memory could not be addressed by offsets of pointers; an empty one cannot be mapped.
    match isize::try_from(len).ok().and_then(|len| usize::try_from(len).ok()) {
        Some(len) if len > 0 => Ok(len),
        _ => Err(Error::new(Kind::Invalid, "map")
            .found(format_args!("a length of {len} bytes"))
            .accepted(format_args!("1 to {} bytes", isize::MAX))),
    }
}

fn unmappable(errno: rustix::io::Errno) -> Error {
    Error::os("map", errno.into())
}

#[cold]
fn read_only(operation: &'static str, at: MediaOffset) -> Error {
    Error::new(Kind::ReadOnly, operation).at(at).found("a medium that is open for reading only")
}

#[cold]
fn unaligned(operation: &'static str, at: MediaOffset, size: usize) -> Error {
    Error::new(Kind::Invalid, operation)
        .at(at)
        .found(format_args!("a word of {size} bytes that is not aligned"))
        .accepted(format_args!("multiples of {size}"))
}

#[cfg(test)]
mod tests;
