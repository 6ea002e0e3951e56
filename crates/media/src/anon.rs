// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory without a file.

use std::fmt;

use crate::medium::check_range;
use crate::window::Window;
use crate::{Domain, Media, MediaOffset, Result};

/// Anonymous memory, zero at first. It takes space as it is written, so a terabyte costs nothing until then. Its
/// contents end with it.
pub struct Anon {
    window: Window,
}

impl Anon {
    /// Memory of `len` bytes. [`Invalid`](crate::Kind::Invalid) for none, [`NoMemory`](crate::Kind::NoMemory) if there is no such room.
    pub fn new(len: u64) -> Result<Anon> {
        Ok(Anon { window: Window::anonymous(len)? })
    }

    /// Treats the memory as persistent behind the CPU's caches ([`Domain::Cache`]): stores are streamed, flushed and
    /// fenced as on a DAX file. For measurements, and for tests of what a file system here may not grant.
    #[must_use]
    pub fn assume_cache(mut self) -> Anon {
        self.window.domain = Domain::Cache;
        self
    }
}

impl fmt::Debug for Anon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Anon({} bytes, {})", self.len(), self.domain())
    }
}

impl Media for Anon {
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
        self.window.read(at, into)
    }

    fn store(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.window.store(at, from)
    }

    fn stream(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.window.stream(at, from)
    }

    fn zero(&self, at: MediaOffset, len: u64) -> Result<()> {
        // Private memory that was given back reads as zeros.
        self.window.zero(at, len, |pages| Ok(self.window.discard(pages).is_ok()))
    }

    fn load_u32(&self, at: MediaOffset) -> Result<u32> {
        self.window.load_u32(at)
    }

    fn store_u32(&self, at: MediaOffset, value: u32) -> Result<()> {
        self.window.store_u32(at, value)
    }

    fn load_u64(&self, at: MediaOffset) -> Result<u64> {
        self.window.load_u64(at)
    }

    fn store_u64(&self, at: MediaOffset, value: u64) -> Result<()> {
        self.window.store_u64(at, value)
    }

    fn flush(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.window.flush(at, len)
    }

    fn drain(&self) -> Result<()> {
        self.window.fence();
        Ok(())
    }

    fn badblocks(&self, at: MediaOffset, len: u64) -> Vec<(u64, u64)> {
        self.window.poison.list(at, len)
    }

    fn is_poisoned(&self, at: MediaOffset, len: u64) -> bool {
        self.window.poison.first(at, len).is_some()
    }

    fn inject_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        check_range(self.len(), "inject poison", at, len)?;
        self.window.poison.add(at, len);
        Ok(())
    }

    fn clear_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        check_range(self.len(), "clear poison", at, len)?;
        self.window.poison.clear(at, len);
        Ok(())
    }

    fn name(&self) -> String {
        format!("memory of {} bytes", self.len())
    }
}
