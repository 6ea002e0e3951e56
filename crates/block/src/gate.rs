// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device that can be removed under those who hold it (S7).

use std::cell::RefCell;
use std::io::{IoSlice, IoSliceMut};
use std::sync::{Arc, PoisonError, TryLockError};

use nvstack_media::{Domain, Error, Extent as Run, Kind, Media, MediaOffset, Result};

use crate::page::fail_page;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{RwLock, RwLockReadGuard, SHARDS, thread_local, thread_number};
use crate::{
    BlockDevice, ByteAccess, ByteFlags, Bytes, Direction, Extent, Geometry, Lba, Page, PageAccess,
    WriteFlags, not_offered,
};

/// What stands behind a gate.
#[derive(Clone)]
struct Inside {
    device: Arc<dyn BlockDevice>,
    media: Option<Arc<dyn Media>>,
}

/// A copy of what stands behind the gate, on cache lines of its own, for some of the threads. Whoever is inside holds it
/// for reading; whoever closes takes it away.
#[repr(align(128))]
struct Shard(RwLock<Option<Inside>>);

struct Core {
    id: u64,
    name: String,
    closed: AtomicBool,
    shards: [Shard; SHARDS],
}

thread_local! {
    /// The gates that this thread is inside of, so that it does not wait for itself.
    static INSIDE_OF: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// An operation in flight. It ends when this is dropped.
struct Entered<'a> {
    core: &'a Core,
    guard: RwLockReadGuard<'a, Option<Inside>>,
}

impl Entered<'_> {
    fn inside(&self) -> Result<&Inside> {
        self.guard.as_ref().ok_or_else(|| self.core.gone())
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let _ = INSIDE_OF.try_with(|inside| {
            let mut inside = inside.borrow_mut();
            if let Some(last) = inside.iter().rposition(|id| *id == self.core.id) {
                inside.swap_remove(last);
            }
        });
    }
}

impl Core {
    fn new(name: String, inside: Option<&Inside>) -> Core {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        Core {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            name,
            closed: AtomicBool::new(inside.is_none()),
            shards: std::array::from_fn(|_| Shard(RwLock::new(inside.cloned()))),
        }
    }

    #[cold]
    fn gone(&self) -> Error {
        Error::new(Kind::Gone, "use device").path(&self.name).found("a device that was removed")
    }

    fn shard(&self) -> Option<&RwLock<Option<Inside>>> {
        let index = thread_number().checked_rem(SHARDS)?;
        self.shards.get(index).map(|shard| &shard.0)
    }

    /// Begins an operation.
    fn enter(&self) -> Result<Entered<'_>> {
        if self.closed.load(Ordering::Acquire) {
            return Err(self.gone());
        }
        // Only who closes ever locks for writing, so a lock that is not to be had is as good as closed. Waiting for it
        // could be for ever: this thread may be inside already, and the one who closes waits for it.
        let guard = match self.shard().map(RwLock::try_read) {
            Some(Ok(guard)) => guard,
            Some(Err(TryLockError::Poisoned(poisoned))) => poisoned.into_inner(),
            Some(Err(TryLockError::WouldBlock)) | None => return Err(self.gone()),
        };
        // A thread that ends has no notes any more, and closes nothing from inside.
        let _ = INSIDE_OF.try_with(|inside| inside.borrow_mut().push(self.id));
        Ok(Entered { core: self, guard })
    }

    fn close(&self) -> Result<()> {
        if INSIDE_OF.try_with(|inside| inside.borrow().contains(&self.id)).unwrap_or(false) {
            return Err(Error::new(Kind::Busy, "remove device")
                .path(&self.name)
                .found("an operation on it by the very thread that removes it")
                .accepted("removal from outside of its operations"));
        }
        self.closed.store(true, Ordering::Release);
        for shard in &self.shards {
            // Waits for who is inside. What was behind the gate goes away after the lock is let go, since its end may take long.
            let taken = shard.0.write().unwrap_or_else(PoisonError::into_inner).take();
            drop(taken);
        }
        Ok(())
    }
}

/// A device behind a gate, so that it can be removed under those who hold it.
///
/// Handles are clones of an `Arc<Gate>`. After [`close`](Gate::close) every operation through them, through the byte access
/// and pages that the gate gives, and through the media that those give, fails with [`Kind::Gone`] and the device's name;
/// `rw_page` tells it by the page's state. Nothing behind the gate is kept alive by them.
///
/// Cost of an operation: two atomic operations on a cache line that a sixteenth of the threads share, and a note for the
/// thread itself. Geometry is answered from memory, and stays as it was.
pub struct Gate {
    core: Arc<Core>,
    geometry: Geometry,
    bytes: Option<Facts>,
    pages: bool,
}

/// What is known of a medium without asking it.
#[derive(Clone, Copy)]
struct Facts {
    size: u64,
    read_only: bool,
    domain: Domain,
}

impl Gate {
    /// Puts `device` behind a gate of this name. What it offers is asked now, once.
    pub fn new(device: Arc<dyn BlockDevice>, name: impl Into<String>) -> Gate {
        let geometry = device.geometry();
        let pages = device.pages().is_ok();
        let (bytes, media) = match device.bytes() {
            Ok(bytes) => {
                let media = bytes.media();
                let facts =
                    Facts { size: bytes.size(), read_only: media.read_only(), domain: media.domain() };
                (Some(facts), Some(media))
            }
            Err(_) => (None, None),
        };
        let core = Arc::new(Core::new(name.into(), Some(&Inside { device, media })));
        Gate { core, geometry, bytes, pages }
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// Whether the device was removed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.core.closed.load(Ordering::Acquire)
    }

    /// Removes the device: refuses operations that begin from now on, waits for those in flight, and lets go of the
    /// device. Closing again does nothing more, but waits for the same operations.
    ///
    /// [`Kind::Busy`], and nothing is done, if the calling thread is inside an operation of this device, for which it would
    /// wait for ever. An operation in flight that waits for the calling thread in some other way is waited for without end:
    /// call this with nothing locked that the device may want.
    pub fn close(&self) -> Result<()> {
        self.core.close()
    }
}

impl BlockDevice for Gate {
    fn name(&self) -> String {
        self.core.name.clone()
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, at: Lba, into: &mut [IoSliceMut<'_>]) -> Result<()> {
        self.core.enter()?.inside()?.device.read(at, into)
    }

    fn write(&self, at: Lba, from: &[IoSlice<'_>], flags: WriteFlags) -> Result<()> {
        self.core.enter()?.inside()?.device.write(at, from, flags)
    }

    fn flush(&self) -> Result<()> {
        self.core.enter()?.inside()?.device.flush()
    }

    fn write_zeroes(&self, at: Lba, sectors: u64, flags: WriteFlags) -> Result<()> {
        self.core.enter()?.inside()?.device.write_zeroes(at, sectors, flags)
    }

    fn discard(&self, at: Lba, sectors: u64) -> Result<()> {
        self.core.enter()?.inside()?.device.discard(at, sectors)
    }

    fn extents(&self, at: Lba, sectors: u64, found: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        self.core.enter()?.inside()?.device.extents(at, sectors, found)
    }

    fn bytes(&self) -> Result<&dyn ByteAccess> {
        if self.is_closed() {
            return Err(self.core.gone());
        }
        if self.bytes.is_none() {
            return Err(not_offered(&self.core.name, "rw_bytes"));
        }
        Ok(self)
    }

    fn pages(&self) -> Result<&dyn PageAccess> {
        if self.is_closed() {
            return Err(self.core.gone());
        }
        if !self.pages {
            return Err(not_offered(&self.core.name, "rw_page"));
        }
        Ok(self)
    }
}

impl ByteAccess for Gate {
    fn size(&self) -> u64 {
        self.bytes.map_or(0, |facts| facts.size)
    }

    fn rw_bytes(&self, at: MediaOffset, bytes: Bytes<'_>, flags: ByteFlags) -> Result<()> {
        self.core.enter()?.inside()?.device.bytes()?.rw_bytes(at, bytes, flags)
    }

    /// The device's medium behind the same gate.
    fn media(&self) -> Arc<dyn Media> {
        match self.bytes {
            Some(facts) => Arc::new(GatedMedia { core: self.core.clone(), facts }),
            None => Arc::new(GatedMedia::gone(&self.core.name, 0)),
        }
    }
}

impl PageAccess for Gate {
    fn rw_page(&self, index: u64, page: &Page, direction: Direction) {
        let Ok(entered) = self.core.enter() else { return fail_page(page, direction) };
        match entered.inside().and_then(|inside| inside.device.pages()) {
            Ok(pages) => pages.rw_page(index, page, direction),
            Err(_) => fail_page(page, direction),
        }
    }
}

/// A medium behind a [`Gate`]: after its removal every operation that can fail fails with [`Kind::Gone`], no bad blocks are
/// known, and nothing behind the gate is kept alive. Size, domain and name stay as they were.
pub struct GatedMedia {
    core: Arc<Core>,
    facts: Facts,
}

impl GatedMedia {
    /// A medium of a device that is gone already, for a device that must give one when there is none any more.
    #[must_use]
    pub fn gone(device: &str, size: u64) -> GatedMedia {
        let facts = Facts { size, read_only: true, domain: Domain::Memory };
        GatedMedia { core: Arc::new(Core::new(device.to_owned(), None)), facts }
    }

    fn with<T>(&self, work: impl FnOnce(&dyn Media) -> Result<T>) -> Result<T> {
        let entered = self.core.enter()?;
        match &entered.inside()?.media {
            Some(media) => work(&**media),
            None => Err(not_offered(&self.core.name, "rw_bytes")),
        }
    }
}

impl Media for GatedMedia {
    fn len(&self) -> u64 {
        self.facts.size
    }
    fn read_only(&self) -> bool {
        self.facts.read_only
    }
    fn domain(&self) -> Domain {
        self.facts.domain
    }
    fn read(&self, at: MediaOffset, into: &mut [u8]) -> Result<()> {
        self.with(|m| m.read(at, into))
    }
    fn store(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.with(|m| m.store(at, from))
    }
    fn stream(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.with(|m| m.stream(at, from))
    }
    fn zero(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.with(|m| m.zero(at, len))
    }
    fn load_u32(&self, at: MediaOffset) -> Result<u32> {
        self.with(|m| m.load_u32(at))
    }
    fn store_u32(&self, at: MediaOffset, value: u32) -> Result<()> {
        self.with(|m| m.store_u32(at, value))
    }
    fn load_u64(&self, at: MediaOffset) -> Result<u64> {
        self.with(|m| m.load_u64(at))
    }
    fn store_u64(&self, at: MediaOffset, value: u64) -> Result<()> {
        self.with(|m| m.store_u64(at, value))
    }
    fn flush(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.with(|m| m.flush(at, len))
    }
    fn drain(&self) -> Result<()> {
        self.with(|m| m.drain())
    }
    fn persist(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.with(|m| m.persist(at, len))
    }
    fn badblocks(&self, at: MediaOffset, len: u64) -> Vec<(u64, u64)> {
        self.with(|m| Ok(m.badblocks(at, len))).unwrap_or_default()
    }
    fn is_poisoned(&self, at: MediaOffset, len: u64) -> bool {
        self.with(|m| Ok(m.is_poisoned(at, len))).unwrap_or_default()
    }
    fn inject_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.with(|m| m.inject_poison(at, len))
    }
    fn clear_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.with(|m| m.clear_poison(at, len))
    }
    fn extent(&self, at: MediaOffset, len: u64) -> Result<Run> {
        self.with(|m| m.extent(at, len))
    }
    fn name(&self) -> String {
        self.with(|m| Ok(m.name())).unwrap_or_else(|_| self.core.name.clone())
    }
}
