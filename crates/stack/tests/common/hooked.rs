// SPDX-License-Identifier: MIT OR Apache-2.0
//! A medium that tells of each access before it happens: to write it down, to be slow, to hang, to fail.

use std::sync::{Arc, Condvar, Mutex};

use nvstack_media::{Domain, Error, Kind, Media, MediaOffset, Result};

/// An access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub operation: &'static str,
    pub at: u64,
    pub len: u64,
    /// It may change bytes, or what is lost of them.
    pub changes: bool,
}

type Hook = Box<dyn Fn(Access) -> Result<()> + Send + Sync>;

pub struct Hooked {
    pub inner: Arc<dyn Media>,
    hook: Hook,
}

impl Hooked {
    pub fn new(
        inner: Arc<dyn Media>,
        hook: impl Fn(Access) -> Result<()> + Send + Sync + 'static,
    ) -> Arc<Hooked> {
        Arc::new(Hooked { inner, hook: Box::new(hook) })
    }

    fn tell(&self, operation: &'static str, at: MediaOffset, len: u64, changes: bool) -> Result<()> {
        (self.hook)(Access { operation, at: at.0, len, changes })
    }
}

/// Writes down what was accessed.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<Access>>>);

impl Log {
    pub fn over(&self, inner: Arc<dyn Media>) -> Arc<Hooked> {
        let log = self.clone();
        Hooked::new(inner, move |access| {
            log.0.lock().unwrap().push(access);
            Ok(())
        })
    }

    pub fn take(&self) -> Vec<Access> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// A door that is closed until somebody opens it.
#[derive(Clone, Default)]
pub struct Door(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    open: bool,
    waiting: usize,
}

impl Door {
    /// Waits for it to open.
    pub fn pass(&self) {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        state.waiting += 1;
        changed.notify_all();
        while !state.open {
            state = changed.wait(state).unwrap();
        }
        state.waiting -= 1;
    }

    pub fn open(&self) {
        let (state, changed) = &*self.0;
        state.lock().unwrap().open = true;
        changed.notify_all();
    }

    /// Opens it when this is dropped, so that a test that fails ends.
    #[must_use]
    pub fn opened_at_end(&self) -> OpenAtEnd {
        OpenAtEnd(self.clone())
    }

    pub fn close(&self) {
        self.0.0.lock().unwrap().open = false;
    }

    /// Waits until so many stand before it.
    pub fn wait_for(&self, waiting: usize) {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        while state.waiting < waiting {
            state = changed.wait(state).unwrap();
        }
    }
}

pub struct OpenAtEnd(Door);

impl Drop for OpenAtEnd {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// The failure of a medium.
pub fn broken() -> Error {
    Error::new(Kind::Io, "read").found("a medium that fails")
}

impl Media for Hooked {
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
        self.tell("read", at, into.len() as u64, false)?;
        self.inner.read(at, into)
    }
    fn store(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.tell("store", at, from.len() as u64, true)?;
        self.inner.store(at, from)
    }
    fn stream(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.tell("stream", at, from.len() as u64, true)?;
        self.inner.stream(at, from)
    }
    fn zero(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.tell("zero", at, len, true)?;
        self.inner.zero(at, len)
    }
    fn load_u32(&self, at: MediaOffset) -> Result<u32> {
        self.tell("read", at, 4, false)?;
        self.inner.load_u32(at)
    }
    fn store_u32(&self, at: MediaOffset, value: u32) -> Result<()> {
        self.tell("store", at, 4, true)?;
        self.inner.store_u32(at, value)
    }
    fn load_u64(&self, at: MediaOffset) -> Result<u64> {
        self.tell("read", at, 8, false)?;
        self.inner.load_u64(at)
    }
    fn store_u64(&self, at: MediaOffset, value: u64) -> Result<()> {
        self.tell("store", at, 8, true)?;
        self.inner.store_u64(at, value)
    }
    fn flush(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.tell("flush", at, len, true)?;
        self.inner.flush(at, len)
    }
    fn drain(&self) -> Result<()> {
        self.tell("drain", MediaOffset(0), 0, true)?;
        self.inner.drain()
    }
    fn badblocks(&self, at: MediaOffset, len: u64) -> Vec<(u64, u64)> {
        self.inner.badblocks(at, len)
    }
    fn is_poisoned(&self, at: MediaOffset, len: u64) -> bool {
        self.inner.is_poisoned(at, len)
    }
    fn inject_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.tell("poison", at, len, true)?;
        self.inner.inject_poison(at, len)
    }
    fn clear_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.tell("heal", at, len, true)?;
        self.inner.clear_poison(at, len)
    }
    fn name(&self) -> String {
        self.inner.name()
    }
}
