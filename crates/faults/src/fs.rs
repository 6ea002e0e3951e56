// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file system whose calls fail: what a failing disk, or a full one, does to a program that maps files.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};
use nvstack_sim::Image;

use crate::schedule::{Calls, Fault, Faults, Hit, Moved};

/// The kernel asks again each time, so that nothing is hidden by what it remembers.
const TTL: Duration = Duration::ZERO;
const PAGE: u64 = 4096;
/// A file system without a bound says that it has this.
const ROOM: u64 = 1 << 40;

/// One file.
#[derive(Clone)]
struct File {
    /// What was written: stores to a mapping arrive when the kernel writes its pages back.
    written: Image,
    /// What was written when it was last synced.
    synced: Image,
    mode: u16,
}

#[derive(Default)]
struct State {
    names: BTreeMap<OsString, u64>,
    files: BTreeMap<u64, File>,
    next: u64,
    room: Option<u64>,
}

impl State {
    fn used(&self) -> u64 {
        self.files.values().map(|file| file.written.allocated()).sum()
    }
}

/// A file system in memory, mounted. One folder of files, whose calls ask a schedule first.
///
/// What a file holds, and what of it is synced, is known beside the kernel and its page cache: [`FaultyFs::synced`]. So a
/// success that covers what was lost is seen. It is unmounted when it is dropped, whoever still uses it.
pub struct FaultyFs {
    state: Arc<Mutex<State>>,
    folder: PathBuf,
    session: Option<BackgroundSession>,
}

impl FaultyFs {
    /// Mounts one on a folder. The system's error where there is no FUSE, or no right to mount.
    pub fn mount(folder: &Path, faults: &Faults) -> io::Result<FaultyFs> {
        let state = Arc::new(Mutex::new(State { next: 2, ..State::default() }));
        let served = Served { state: Arc::clone(&state), faults: faults.clone() };
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("nvstack-faults".into()), MountOption::NoAtime];
        // One thread may wait for a delay while another is asked.
        config.n_threads = Some(2);
        let session = fuser::spawn_mount(served, folder, &config)?;
        Ok(FaultyFs { state, folder: folder.to_path_buf(), session: Some(session) })
    }

    /// A path in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The names of all files.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        lock(&self.state).names.keys().map(|name| name.to_string_lossy().into_owned()).collect()
    }

    /// What was written to a file.
    #[must_use]
    pub fn written(&self, name: &str) -> Option<Image> {
        let state = lock(&self.state);
        Some(state.files.get(state.names.get(OsStr::new(name))?)?.written.clone())
    }

    /// What a file had when it was last synced with success: what a power cut leaves at the least.
    #[must_use]
    pub fn synced(&self, name: &str) -> Option<Image> {
        let state = lock(&self.state);
        Some(state.files.get(state.names.get(OsStr::new(name))?)?.synced.clone())
    }

    /// Bounds the bytes that all files may take, in whole pages; beyond that writes fail with `ENOSPC`.
    pub fn limit(&self, room: Option<u64>) {
        lock(&self.state).room = room;
    }
}

impl Drop for FaultyFs {
    fn drop(&mut self) {
        // Somebody may have a file mapped still: he keeps it, and nobody else finds it.
        let _ = rustix::mount::unmount(&self.folder, rustix::mount::UnmountFlags::DETACH);
        drop(self.session.take());
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Nothing here panics half-way through a change.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Served {
    state: Arc<Mutex<State>>,
    faults: Faults,
}

fn errno(hit: &Hit) -> Errno {
    match hit.fault {
        Fault::Errno(number) => Errno::from_i32(number),
        Fault::Error(kind) => Errno::from_i32(kind.errno()),
        Fault::Delay(_) => Errno::EIO,
    }
}

fn attr(ino: u64, file: Option<&File>) -> FileAttr {
    let size = file.map_or(0, |file| file.written.len());
    let blocks = file.map_or(0, |file| file.written.allocated() / 512);
    FileAttr {
        ino: INodeNo(ino),
        size,
        blocks,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if file.is_some() { FileType::RegularFile } else { FileType::Directory },
        perm: file.map_or(0o755, |file| file.mode),
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// The same bytes in another size.
fn resized(image: &Image, len: u64) -> Image {
    let mut new = Image::zeros(len);
    let mut page = [0; 4096];
    for at in image.pages().take_while(|at| *at < len) {
        image.read(at, &mut page);
        let keep = usize::try_from(len - at).unwrap_or(usize::MAX).min(page.len());
        new.write(at, page.split_at(keep).0);
    }
    new
}

impl Served {
    /// Asks about a call that has no bytes.
    fn ask(&self, call: Calls) -> Result<(), Errno> {
        self.faults.ask(call, 0, 0).map_or(Ok(()), |hit| Err(errno(&hit)))
    }

    fn found(&self, name: &OsStr) -> Result<FileAttr, Errno> {
        let state = lock(&self.state);
        let ino = *state.names.get(name).ok_or(Errno::ENOENT)?;
        Ok(attr(ino, state.files.get(&ino)))
    }

    fn new_file(&self, name: &OsStr, mode: u32) -> Result<FileAttr, Errno> {
        self.ask(Calls::CREATE)?;
        let mut state = lock(&self.state);
        if state.names.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let (ino, mode) = (state.next, u16::try_from(mode & 0o777).unwrap_or(0o644));
        state.next += 1;
        let file = File { written: Image::zeros(0), synced: Image::zeros(0), mode };
        state.names.insert(name.to_owned(), ino);
        state.files.insert(ino, file);
        Ok(attr(ino, state.files.get(&ino)))
    }

    fn put(&self, ino: u64, at: u64, data: &[u8]) -> Result<(), Errno> {
        let hit = self.faults.ask(Calls::FILE_WRITE, at, data.len() as u64);
        let mut state = lock(&self.state);
        let (used, room) = (state.used(), state.room);
        let file = state.files.get_mut(&ino).ok_or(Errno::ENOENT)?;
        let far = match hit.map(|hit| hit.moved) {
            None | Some(Moved::All) => data.len(),
            Some(Moved::Half) => data.len() / 16 * 8,
            Some(Moved::Nothing) => 0,
        };
        let data = data.split_at(far).0;
        let before = file.written.allocated();
        let mut written = file.written.clone();
        let end = at.saturating_add(data.len() as u64);
        if end > written.len() {
            written = resized(&written, end);
        }
        written.write(at, data);
        if room.is_some_and(|room| used - before + written.allocated() > room) {
            return Err(Errno::ENOSPC);
        }
        file.written = written;
        hit.map_or(Ok(()), |hit| Err(errno(&hit)))
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.found(name) {
            Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
            Err(e) => reply.error(e),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let state = lock(&self.state);
        match state.files.get(&ino.0) {
            file @ Some(_) => reply.attr(&TTL, &attr(ino.0, file)),
            None if ino == INodeNo::ROOT => reply.attr(&TTL, &attr(1, None)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<std::time::SystemTime>,
        _: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if let Some(size) = size
            && let Some(hit) = self.faults.ask(Calls::TRUNCATE, 0, size)
        {
            return reply.error(errno(&hit));
        }
        let mut state = lock(&self.state);
        let Some(file) = state.files.get_mut(&ino.0) else { return reply.error(Errno::ENOENT) };
        if let Some(size) = size {
            file.written = resized(&file.written, size);
        }
        if let Some(mode) = mode {
            file.mode = u16::try_from(mode & 0o777).unwrap_or(file.mode);
        }
        reply.attr(&TTL, &attr(ino.0, Some(file)));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.ask(Calls::OPEN) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(e) => reply.error(e),
        }
    }

    fn create(&self, _: &Request, _: INodeNo, name: &OsStr, mode: u32, _: u32, _: i32, reply: ReplyCreate) {
        match self.new_file(name, mode) {
            Ok(attr) => reply.created(&TTL, &attr, Generation(0), FileHandle(0), FopenFlags::empty()),
            Err(e) => reply.error(e),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if let Some(hit) = self.faults.ask(Calls::FILE_READ, offset, size.into()) {
            return reply.error(errno(&hit));
        }
        let state = lock(&self.state);
        let Some(file) = state.files.get(&ino.0) else { return reply.error(Errno::ENOENT) };
        let len = u64::from(size).min(file.written.len().saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        file.written.read(offset, &mut bytes);
        drop(state);
        reply.data(&bytes);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.put(ino.0, offset, data) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(0)),
            Err(e) => reply.error(e),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let hit = self.faults.ask(Calls::FSYNC, 0, 0);
        if hit.is_none_or(|hit| hit.moved == Moved::All)
            && let Some(file) = lock(&self.state).files.get_mut(&ino.0)
        {
            file.synced = file.written.clone();
        }
        match hit {
            Some(hit) => reply.error(errno(&hit)),
            None => reply.ok(),
        }
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.ask(Calls::FSYNC) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }

    fn unlink(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if let Err(e) = self.ask(Calls::NAME) {
            return reply.error(e);
        }
        // The file itself stays: somebody may have it open.
        match lock(&self.state).names.remove(name) {
            Some(_) => reply.ok(),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _: INodeNo,
        new: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if let Err(e) = self.ask(Calls::NAME) {
            return reply.error(e);
        }
        let mut state = lock(&self.state);
        match state.names.remove(name) {
            Some(ino) => {
                state.names.insert(new.to_owned(), ino);
                reply.ok();
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let state = lock(&self.state);
        let fixed = [(1, FileType::Directory, OsStr::new(".")), (1, FileType::Directory, OsStr::new(".."))];
        let files = state.names.iter().map(|(name, ino)| (*ino, FileType::RegularFile, name.as_os_str()));
        let all = (1u64..).zip(fixed.into_iter().chain(files));
        for (next, (ino, kind, name)) in all.skip_while(|(next, _)| *next <= offset) {
            if reply.add(INodeNo(ino), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let state = lock(&self.state);
        let (room, used) = (state.room.unwrap_or(ROOM), state.used());
        let free = room.saturating_sub(used) / PAGE;
        reply.statfs(room / PAGE, free, free, 1 << 20, 1 << 20, 4096, 255, 4096);
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        /// `FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE`.
        const PUNCH: i32 = 3;
        if let Some(hit) = self.faults.ask(Calls::ALLOCATE, offset, length) {
            return reply.error(errno(&hit));
        }
        if mode != PUNCH {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let mut state = lock(&self.state);
        let Some(file) = state.files.get_mut(&ino.0) else { return reply.error(Errno::ENOENT) };
        let end = offset.saturating_add(length).min(file.written.len());
        let held: Vec<u64> = file.written.pages().filter(|at| *at < end && at + PAGE > offset).collect();
        for at in held {
            let (from, to) = (at.max(offset), (at + PAGE).min(end));
            file.written.write(from, &vec![0; usize::try_from(to - from).unwrap_or(0)]);
        }
        reply.ok();
    }
}
