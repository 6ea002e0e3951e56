// SPDX-License-Identifier: MIT OR Apache-2.0
//! A medium whose calls fail.

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nvstack_media::{Domain, Error, Extent, Kind, Media, MediaOffset, Result};
use nvstack_sim::{Cuts, Event, Hook, Image, Model, Operation, SimMedium};

use crate::schedule::{Calls, Fault, Faults, Hit, Moved};

/// A medium that asks a schedule before each access.
///
/// On [`Domain::PageCache`] a failed drain is final, as [`Media::drain`] says: every later store and drain fails, too.
/// [`Faulty::forgetful`] takes that away: then a later drain succeeds, and what the failed one should have written stays lost, as
/// a bare `msync` has it.
///
/// With a shadow ([`Faulty::shadowed`]) it knows what is surely durable. A failed flush or drain makes nothing durable, a
/// failed store may have changed what a cut leaves as far as the rule says that it went.
pub struct Faulty<M> {
    inner: M,
    faults: Faults,
    shadow: Option<Shadow>,
    /// A drain failed, and that is final.
    ended: AtomicBool,
    forgetful: bool,
}

struct Shadow {
    sim: SimMedium,
    state: Arc<ShadowHook>,
    /// The medium and its shadow change as one.
    turn: Mutex<()>,
}

#[derive(Default)]
struct ShadowHook {
    failing: AtomicBool,
}

impl Hook for ShadowHook {
    fn step(&self, event: &Event) -> Result<()> {
        match event.operation {
            Operation::Drain if self.failing.load(Ordering::Relaxed) => {
                Err(Error::new(Kind::Io, "drain shadow"))
            }
            _ => Ok(()),
        }
    }

    /// Each thread is a task, as a drain covers what its own thread streamed and flushed.
    fn task(&self) -> usize {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local!(static OWN: Cell<Option<usize>> = const { Cell::new(None) });
        OWN.with(|own| {
            let number = own.get().unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed) % 64);
            own.set(Some(number));
            number
        })
    }
}

impl<M: Media> fmt::Debug for Faulty<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").field("inner", &self.inner.name()).field("faults", &self.faults).finish()
    }
}

impl Shadow {
    fn new(image: Image, model: Model) -> Shadow {
        let state = Arc::new(ShadowHook::default());
        Shadow { sim: SimMedium::hooked(image, model, state.clone()), state, turn: Mutex::new(()) }
    }
}

impl Faulty<SimMedium> {
    /// Bytes in memory with a shadow, all of them durable. Quick to make whatever their size.
    #[must_use]
    pub fn simulated(image: Image, faults: &Faults, model: Model) -> Faulty<SimMedium> {
        let shadow = Some(Shadow::new(image.clone(), model));
        Faulty { shadow, ..Faulty::new(SimMedium::memory(image, model), faults) }
    }
}

impl<M: Media> Faulty<M> {
    /// A medium that fails as told.
    pub fn new(inner: M, faults: &Faults) -> Faulty<M> {
        Faulty {
            inner,
            faults: faults.clone(),
            shadow: None,
            ended: AtomicBool::new(false),
            forgetful: false,
        }
    }

    /// The same, with a shadow: all that the medium holds now counts as durable. The model says what a store needs to become
    /// so. Media that are told of several threads at once are slowed down to one of them at a time.
    ///
    /// Errors: what the medium says when it is read, but for lost bytes.
    pub fn shadowed(inner: M, faults: &Faults, model: Model) -> Result<Faulty<M>> {
        let mut image = Image::zeros(inner.len());
        let mut chunk = [0; 512];
        for at in (0..inner.len()).step_by(chunk.len()) {
            let len = usize::try_from(inner.len() - at).unwrap_or(usize::MAX).min(chunk.len());
            let bytes = chunk.split_at_mut(len).0;
            match inner.read(MediaOffset(at), bytes) {
                Ok(()) => image.write(at, bytes),
                Err(e) if e.kind() == Kind::Poison => {}
                Err(e) => return Err(e),
            }
        }
        for (first, count) in inner.badblocks(MediaOffset(0), inner.len()) {
            image.lose(first * 512, count * 512);
        }
        Ok(Faulty { shadow: Some(Shadow::new(image, model)), ..Faulty::new(inner, faults) })
    }

    /// After a failed drain goes on as if nothing had been.
    #[must_use]
    pub fn forgetful(mut self) -> Faulty<M> {
        self.forgetful = true;
        self
    }

    /// The medium inside.
    pub fn inner(&self) -> &M {
        &self.inner
    }

    /// The schedule.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Every image that a power cut could leave now. None without a shadow.
    pub fn cuts(&self) -> Option<Cuts> {
        self.shadow.as_ref().map(|shadow| shadow.sim.cuts())
    }

    /// What a power cut leaves now of which nothing is spared that is not surely durable. None without a shadow.
    pub fn durable(&self) -> Option<Image> {
        self.cuts().map(|cuts| cuts.image(&[]))
    }

    /// What readers see now. None without a shadow.
    pub fn seen(&self) -> Option<Image> {
        self.shadow.as_ref().map(|shadow| shadow.sim.image())
    }

    fn error(&self, what: &'static str, hit: &Hit) -> Error {
        let error = match hit.fault {
            Fault::Errno(number) => Error::os(what, std::io::Error::from_raw_os_error(number)),
            Fault::Error(kind) => Error::new(kind, what).found("a fault, as told"),
            Fault::Delay(_) => Error::new(Kind::Io, what),
        };
        let error = error.path(self.inner.name());
        if hit.len > 0 { error.at(MediaOffset(hit.at)) } else { error }
    }

    fn read_with<T>(
        &self,
        call: Calls,
        what: &'static str,
        at: MediaOffset,
        len: usize,
        read: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        match self.faults.ask(call, at.0, len as u64) {
            Some(hit) => Err(self.error(what, &hit)),
            None => read(),
        }
    }

    /// A store. `on` does the first so many bytes of it to a medium.
    fn store_with(
        &self,
        call: Calls,
        what: &'static str,
        at: MediaOffset,
        len: u64,
        on: impl Fn(&dyn Media, u64) -> Result<()>,
    ) -> Result<()> {
        let hit = self.faults.ask(call, at.0, len);
        self.refuse_after_end(what)?;
        let far = match hit.map(|hit| hit.moved) {
            None | Some(Moved::All) => len,
            Some(Moved::Half) => len / 16 * 8,
            Some(Moved::Nothing) => 0,
        };
        let done = if far == 0 && len > 0 { Ok(()) } else { self.both(|media| on(media, far)) };
        match hit {
            Some(hit) => Err(self.error(what, &hit)),
            None => done,
        }
    }

    /// Does something to the medium, and if it went in, to its shadow.
    fn both(&self, act: impl Fn(&dyn Media) -> Result<()>) -> Result<()> {
        let Some(shadow) = &self.shadow else { return act(&self.inner) };
        let _turn = shadow.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let done = act(&self.inner);
        // Over poison the bytes went in all the same.
        if done.as_ref().err().is_none_or(|e| e.kind() == Kind::Poison) {
            let _ = act(&shadow.sim);
        }
        done
    }

    fn refuse_after_end(&self, what: &'static str) -> Result<()> {
        if !self.ended.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(Error::new(Kind::Io, what).path(self.inner.name()).found("an earlier drain that failed"))
    }
}

impl<M: Media> Media for Faulty<M> {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_only(&self) -> bool {
        self.inner.read_only()
    }

    fn domain(&self) -> Domain {
        self.inner.domain()
    }

    fn read(&self, at: MediaOffset, into: &mut [u8]) -> Result<()> {
        self.read_with(Calls::READ, "read", at, into.len(), || self.inner.read(at, into))
    }

    fn store(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        let part = |far: u64| from.get(..usize::try_from(far).unwrap_or(0)).unwrap_or(from);
        self.store_with(Calls::STORE, "store", at, from.len() as u64, |m, far| m.store(at, part(far)))
    }

    fn stream(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        let part = |far: u64| from.get(..usize::try_from(far).unwrap_or(0)).unwrap_or(from);
        self.store_with(Calls::STREAM, "store", at, from.len() as u64, |m, far| m.stream(at, part(far)))
    }

    fn zero(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.store_with(Calls::ZERO, "zero", at, len, |m, far| m.zero(at, far))
    }

    fn load_u32(&self, at: MediaOffset) -> Result<u32> {
        self.read_with(Calls::LOAD, "read", at, 4, || self.inner.load_u32(at))
    }

    // Words are whole or not there: half of one is none.
    fn store_u32(&self, at: MediaOffset, value: u32) -> Result<()> {
        self.store_with(Calls::WORD, "store", at, 4, |m, _| m.store_u32(at, value))
    }

    fn load_u64(&self, at: MediaOffset) -> Result<u64> {
        self.read_with(Calls::LOAD, "read", at, 8, || self.inner.load_u64(at))
    }

    fn store_u64(&self, at: MediaOffset, value: u64) -> Result<()> {
        self.store_with(Calls::WORD, "store", at, 8, |m, _| m.store_u64(at, value))
    }

    fn flush(&self, at: MediaOffset, len: u64) -> Result<()> {
        let hit = self.faults.ask(Calls::FLUSH, at.0, len);
        if hit.is_none_or(|hit| hit.moved == Moved::All) {
            self.both(|media| media.flush(at, len))?;
        }
        hit.map_or(Ok(()), |hit| Err(self.error("flush", &hit)))
    }

    fn drain(&self) -> Result<()> {
        let hit = self.faults.ask(Calls::DRAIN, 0, 0);
        self.refuse_after_end("drain")?;
        let Some(hit) = hit else { return self.both(|media| media.drain()) };
        if hit.moved == Moved::All {
            self.both(|media| media.drain())?;
        } else if let Some(shadow) = &self.shadow {
            let _turn = shadow.turn.lock().unwrap_or_else(PoisonError::into_inner);
            shadow.state.failing.store(true, Ordering::Relaxed);
            let _ = shadow.sim.drain();
            shadow.state.failing.store(false, Ordering::Relaxed);
        }
        if self.domain() == Domain::PageCache && !self.forgetful {
            self.ended.store(true, Ordering::Relaxed);
        }
        Err(self.error("drain", &hit))
    }

    fn badblocks(&self, at: MediaOffset, len: u64) -> Vec<(u64, u64)> {
        self.inner.badblocks(at, len)
    }

    fn is_poisoned(&self, at: MediaOffset, len: u64) -> bool {
        self.inner.is_poisoned(at, len)
    }

    fn inject_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        match self.faults.ask(Calls::POISON, at.0, len) {
            Some(hit) => Err(self.error("inject poison", &hit)),
            None => self.both(|media| media.inject_poison(at, len)),
        }
    }

    fn clear_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        match self.faults.ask(Calls::HEAL, at.0, len) {
            Some(hit) => Err(self.error("clear poison", &hit)),
            None => self.both(|media| media.clear_poison(at, len)),
        }
    }

    fn extent(&self, at: MediaOffset, len: u64) -> Result<Extent> {
        match self.faults.ask(Calls::EXTENT, at.0, len) {
            Some(hit) => Err(self.error("look for holes", &hit)),
            None => self.inner.extent(at, len),
        }
    }

    fn name(&self) -> String {
        self.inner.name()
    }
}
