// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file, mapped.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use crate::dirty::{Dirty, Failure};
use crate::medium::check_range;
use crate::window::{Window, wide};
use crate::{Domain, Error, Extent, Kind, LockMode, Media, MediaOffset, Result, lock};

/// From this many bytes on it pays to ask first whether there is anything to zero.
const ASK: u64 = 4096;

/// What a mapping may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Stores are refused with [`Kind::ReadOnly`].
    ReadOnly,
    /// Loads and stores.
    ReadWrite,
}

/// A regular file or a block device, mapped whole and shared: what is stored is seen by every other process that maps
/// or reads it.
///
/// Its size is that of the file when it was opened. Opening reads, writes and allocates nothing; nor does reading, but on
/// tmpfs, which gives a hole its page as soon as it is looked at through a mapping ([`Media::extent`] tells holes
/// without a look).
///
/// If the file shrinks later, or the device under it fails, the calls that meet it return [`Kind::Fault`]
/// ([`Kind::NoSpace`] for a store while the file system is full). The process installs a SIGBUS handler for that, which
/// hands every other SIGBUS on to whoever had the signal before. A thread that blocks SIGBUS is killed all the same.
///
/// The file stays open as long as the mapping lives, and with it the lock of [`Mapping::open_locked`].
pub struct Mapping {
    window: Window,
    file: File,
    path: PathBuf,
    /// What is not yet in the file: [`Domain::PageCache`] alone has such.
    dirty: Option<Dirty>,
}

impl Mapping {
    /// Maps the file at `path`, without a lock.
    ///
    /// [`Kind::Invalid`] for what cannot be mapped: a directory, a FIFO, a socket, a character device, an empty file.
    pub fn open(path: impl AsRef<Path>, access: Access) -> Result<Mapping> {
        let file = open_file(path.as_ref(), access)?;
        Mapping::from_file(file, path, access)
    }

    /// Maps the file at `path` under a lock that ends with the mapping: exclusive for [`Access::ReadWrite`], else shared.
    ///
    /// [`Kind::Busy`] if another holds it, with who that is.
    pub fn open_locked(path: impl AsRef<Path>, access: Access) -> Result<Mapping> {
        let file = open_file(path.as_ref(), access)?;
        let mode = match access {
            Access::ReadOnly => LockMode::Shared,
            Access::ReadWrite => LockMode::Exclusive,
        };
        lock(&file, path.as_ref(), mode)?;
        Mapping::from_file(file, path, access)
    }

    /// Maps a file that is open already, in a mode that allows `access`. `path` is for messages.
    pub fn from_file(file: File, path: impl AsRef<Path>, access: Access) -> Result<Mapping> {
        let path = path.as_ref();
        let size = measure(&file).map_err(|e| e.path(path))?;
        if size == 0 {
            return Err(Error::new(Kind::Invalid, "map")
                .path(path)
                .found("an empty file")
                .accepted("1 byte or more"));
        }
        let otherwise = if is_memory(&file) { Domain::Memory } else { Domain::PageCache };
        let writable = access == Access::ReadWrite;
        let window = Window::of_file(&file, size, writable, otherwise).map_err(|e| e.path(path))?;
        let dirty = (writable && window.domain == Domain::PageCache).then(|| Dirty::new(size));
        Ok(Mapping { window, file, path: path.to_path_buf(), dirty })
    }

    /// Takes the caller's word that stores persist once they leave the CPU's caches, although the file system does not
    /// grant MAP_SYNC: the domain becomes [`Domain::Cache`], and nothing is handed to msync any more.
    ///
    /// True of a file system in memory that outlives the power, such as tmpfs on battery-backed or reserved RAM, and
    /// what measurements on ordinary memory ask for. On any other file it breaks the promise of `drain`.
    #[must_use]
    pub fn assume_cache(mut self) -> Mapping {
        self.window.domain = Domain::Cache;
        self.dirty = None;
        self
    }

    /// The path that it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn check(&self, operation: &'static str, at: MediaOffset, len: u64) -> Result<()> {
        check_range(self.window.size(), operation, at, len).map_err(|e| e.path(&self.path))
    }

    /// What every store begins with: after a failed drain nothing more is taken in.
    fn begin(&self) -> Result<()> {
        match self.dirty.as_ref().map(Dirty::check) {
            Some(Err(failure)) => Err(self.failed(failure)),
            _ => Ok(()),
        }
    }

    /// What every store ends with. One that failed may have moved some of its bytes.
    fn end(&self, at: MediaOffset, len: u64, done: Result<()>) -> Result<()> {
        let moved = done.as_ref().err().is_none_or(|e| matches!(e.kind(), Kind::Fault | Kind::Poison));
        if let Some(dirty) = self.dirty.as_ref().filter(|_| moved) {
            dirty.record(at.0, len);
        }
        done.map_err(|e| self.explain(e, true))
    }

    /// Adds the path, and why bytes went away.
    #[cold]
    fn explain(&self, error: Error, storing: bool) -> Error {
        let error = error.path(&self.path);
        if error.kind() != Kind::Fault || error.has_cause() {
            return error;
        }
        let mapped = self.window.size();
        match measure(&self.file) {
            Ok(now) if now < mapped => error.because(shrank(now, mapped)),
            // Most likely the store met a hole, or a page of which a part is one. That it met an I/O error just then
            // cannot be told apart.
            _ if storing && self.is_full() => {
                error.with_kind(Kind::NoSpace).because("the file system is full")
            }
            _ => error.because("an I/O error, damaged memory or no space left under the mapping"),
        }
    }

    /// The error that is given for good after a drain has failed.
    #[cold]
    fn failed(&self, failure: Failure) -> Error {
        match failure {
            Failure::Sync(errno) => Error::os("msync", std::io::Error::from_raw_os_error(errno))
                .path(&self.path)
                .found("an error that leaves it unknown which stores since the last drain are in the file")
                .accepted("nothing more until it is opened again"),
            Failure::Shrank(now) => Error::new(Kind::Fault, "msync")
                .path(&self.path)
                .found("stores since the last drain beyond its end")
                .because(shrank(now, self.window.size())),
        }
    }

    /// Hands one range to msync.
    fn sync(&self, range: &Range<u64>) -> Result<(), Failure> {
        while let Err(errno) = self.window.sync(range) {
            if errno != Errno::INTR {
                return Err(Failure::Sync(errno.raw_os_error()));
            }
        }
        // An msync beyond the end of a file that shrank succeeds and writes nothing.
        match measure(&self.file) {
            Ok(now) if now < self.window.size() && now < range.end => Err(Failure::Shrank(now)),
            _ => Ok(()),
        }
    }

    /// Gives up the blocks of whole pages. False if that is not to be had; then nothing is changed, or zeroed in part.
    fn punch(&self, pages: &Range<u64>) -> Result<bool> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let len = pages.end.saturating_sub(pages.start);
        loop {
            match rustix::fs::fallocate(&self.file, flags, pages.start, len) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                // Whatever the reason, stores serve as well, and tell better what is wrong.
                Err(_) => return Ok(false),
            }
        }
        // A file that shrank has nothing there to give up, and says so no more than msync does.
        if measure(&self.file).is_ok_and(|now| now < pages.end) {
            return Err(Error::new(Kind::Fault, "zero").at(MediaOffset(pages.start)));
        }
        // Blocks are metadata. Where a drain is an msync that commits the journal with them: the kernel makes an msync a
        // datasync of the file, and which blocks a file has is part of that. Where it is a fence nothing would.
        if self.window.domain == Domain::Cache {
            rustix::fs::fdatasync(&self.file).map_err(|e| Error::os("fdatasync", e.into()))?;
        }
        Ok(true)
    }

    fn zero_unrecorded(&self, at: MediaOffset, len: u64) -> Result<()> {
        // A hole stays one. Not asked where a drain is a fence: that somebody's hole is durable only he knows.
        if self.window.domain != Domain::Cache && len >= ASK && self.is_hole(at, len) {
            self.window.refuse_read_only("zero", at)?;
            check_range(self.window.size(), "zero", at, len)?;
            return self.window.heal("zero", at, len);
        }
        self.window.zero(at, len, |pages| self.punch(pages))
    }

    /// Whether the file certainly holds nothing in the range: it was never stored to, or given up.
    fn is_hole(&self, at: MediaOffset, len: u64) -> bool {
        let end = at.0.saturating_add(len);
        let inside = || measure(&self.file).is_ok_and(|now| now >= end);
        match rustix::fs::seek(&self.file, SeekFrom::Data(at.0)) {
            Ok(data) => data >= end,
            Err(Errno::NXIO) => inside(),
            Err(_) => false,
        }
    }

    fn is_full(&self) -> bool {
        rustix::fs::fstatvfs(&self.file).is_ok_and(|fs| fs.f_bavail == 0)
    }

    fn find_extent(&self, at: MediaOffset, len: u64) -> Result<Extent> {
        let data = Extent { at, len, hole: false };
        let run = |until: u64, hole| Extent { at, len: until.saturating_sub(at.0).clamp(1, len), hole };
        match rustix::fs::seek(&self.file, SeekFrom::Data(at.0)) {
            Ok(next) if next > at.0 => Ok(run(next, true)),
            Ok(_) => {
                Ok(rustix::fs::seek(&self.file, SeekFrom::Hole(at.0)).map_or(data, |hole| run(hole, false)))
            }
            // No data up to the end of the file, which must be where it was.
            Err(Errno::NXIO) => match measure(&self.file)? {
                now if now < at.0.saturating_add(len) => {
                    Err(Error::new(Kind::Fault, "look for holes").at(at))
                }
                _ => Ok(Extent { at, len, hole: true }),
            },
            // Not every file system tells. Reading will.
            Err(_) => Ok(data),
        }
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (len, domain, read_only) = (self.len(), self.domain(), self.read_only());
        write!(f, "Mapping({}, {len} bytes, {domain}, read_only: {read_only})", self.name())
    }
}

impl Media for Mapping {
    fn len(&self) -> u64 {
        self.window.size()
    }

    fn read_only(&self) -> bool {
        self.window.read_only()
    }

    fn domain(&self) -> Domain {
        self.window.domain
    }

    fn read(&self, at: MediaOffset, into: &mut [u8]) -> Result<()> {
        self.window.read(at, into).map_err(|e| self.explain(e, false))
    }

    fn store(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.begin()?;
        self.end(at, wide(from.len()), self.window.store(at, from))
    }

    fn stream(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.begin()?;
        self.end(at, wide(from.len()), self.window.stream(at, from))
    }

    fn zero(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.begin()?;
        self.end(at, len, self.zero_unrecorded(at, len))
    }

    fn load_u32(&self, at: MediaOffset) -> Result<u32> {
        self.window.load_u32(at).map_err(|e| self.explain(e, false))
    }

    fn store_u32(&self, at: MediaOffset, value: u32) -> Result<()> {
        self.begin()?;
        self.end(at, 4, self.window.store_u32(at, value))
    }

    fn load_u64(&self, at: MediaOffset) -> Result<u64> {
        self.window.load_u64(at).map_err(|e| self.explain(e, false))
    }

    fn store_u64(&self, at: MediaOffset, value: u64) -> Result<()> {
        self.begin()?;
        self.end(at, 8, self.window.store_u64(at, value))
    }

    fn flush(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.window.flush(at, len).map_err(|e| self.explain(e, false))?;
        // The page may be dirty by another process's hand; an msync over what is clean writes nothing.
        if let Some(dirty) = &self.dirty {
            dirty.record(at.0, len);
        }
        Ok(())
    }

    fn drain(&self) -> Result<()> {
        self.window.fence();
        match &self.dirty {
            Some(dirty) => dirty.drain(|range| self.sync(&range)).map_err(|failure| self.failed(failure)),
            None => Ok(()),
        }
    }

    fn badblocks(&self, at: MediaOffset, len: u64) -> Vec<(u64, u64)> {
        self.window.poison.list(at, len)
    }

    fn is_poisoned(&self, at: MediaOffset, len: u64) -> bool {
        self.window.poison.first(at, len).is_some()
    }

    fn extent(&self, at: MediaOffset, len: u64) -> Result<Extent> {
        self.check("look for holes", at, len)?;
        if len == 0 {
            return Ok(Extent { at, len, hole: false });
        }
        self.find_extent(at, len).map_err(|e| self.explain(e, false))
    }

    fn inject_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.check("inject poison", at, len)?;
        self.window.poison.add(at, len);
        Ok(())
    }

    fn clear_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.check("clear poison", at, len)?;
        self.window.poison.clear(at, len);
        Ok(())
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// Opens a file for a mapping. Not even a FIFO makes this wait.
fn open_file(path: &Path, access: Access) -> Result<File> {
    File::options()
        .read(true)
        .write(access == Access::ReadWrite)
        // A FIFO that nobody writes to would block the open; a terminal would become the process's own.
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|e| match e.raw_os_error() {
            // A socket has no other way to be refused.
            Some(libc::ENXIO) => not_mappable("a socket or a device without a driver"),
            _ => Error::os("open", e),
        })
        .map_err(|e| e.path(path))
}

/// The size of a file that can be mapped; what it is if it can't.
fn measure(file: &File) -> Result<u64> {
    let found = file.metadata().map_err(|e| Error::os("stat", e))?;
    let kind = found.file_type();
    if kind.is_file() {
        Ok(found.len())
    } else if kind.is_block_device() {
        rustix::fs::seek(file, SeekFrom::End(0)).map_err(|e| Error::os("measure the device", e.into()))
    } else if kind.is_dir() {
        Err(not_mappable("a directory"))
    } else if kind.is_fifo() {
        Err(not_mappable("a FIFO"))
    } else if kind.is_socket() {
        Err(not_mappable("a socket"))
    } else {
        Err(not_mappable("a character device"))
    }
}

fn not_mappable(found: &str) -> Error {
    Error::new(Kind::Invalid, "map").found(found).accepted("a regular file or a block device")
}

/// Whether the file lives in memory alone.
fn is_memory(file: &File) -> bool {
    const RAMFS: i64 = 0x8584_58f6;
    // A device node may lie in a tmpfs; its bytes don't.
    let regular = file.metadata().is_ok_and(|found| found.file_type().is_file());
    regular
        && rustix::fs::fstatfs(file)
            .is_ok_and(|fs| matches!(fs.f_type, libc::TMPFS_MAGIC | libc::HUGETLBFS_MAGIC | RAMFS))
}

fn shrank(now: u64, mapped: u64) -> String {
    format!("the file shrank to {now} bytes, {mapped} are mapped")
}
