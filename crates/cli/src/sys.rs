// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tree of a machine in this process, as verbs take it.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use nvstack_block::{BlockDevice, ByteFlags, Bytes, Lba, WriteFlags};
use nvstack_media::{Error, Kind, Media, MediaOffset, Result};
use nvstack_ndctl::Sys;
use nvstack_stack::{Entry, OpenOptions, Stack};

/// Whether somebody uses a disk.
pub(crate) type InUse = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// A machine in this process.
pub(crate) struct LocalSys {
    stack: Stack,
    writable: bool,
    in_use: Option<InUse>,
}

impl LocalSys {
    pub(crate) fn new(stack: Stack, writable: bool) -> LocalSys {
        LocalSys { stack, writable, in_use: None }
    }

    /// With somebody to ask whether a disk is in use.
    pub(crate) fn in_use(self, in_use: InUse) -> LocalSys {
        LocalSys { in_use: Some(in_use), ..self }
    }

    fn disk(&self, dev: &str, write: bool) -> Result<Arc<dyn BlockDevice>> {
        if write && !self.writable {
            return Err(Error::new(Kind::ReadOnly, "write disk")
                .path(dev)
                .found("a machine that was opened to be looked at"));
        }
        self.stack.open(dev, &OpenOptions { read_only: !self.writable, ..OpenOptions::default() })
    }
}

/// The sectors that bytes touch: where they begin, and all of their bytes.
fn sectors(device: &dyn BlockDevice, at: u64, len: usize) -> (Lba, usize, Vec<u8>) {
    let size = u64::from(device.geometry().sector_size.max(1));
    let (first, lead) = (at / size, at % size);
    let whole = lead.saturating_add(len as u64).div_ceil(size).saturating_mul(size);
    let native = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    (Lba(first), native(lead), vec![0; native(whole)])
}

impl Sys for LocalSys {
    fn read(&self, path: &str) -> Result<String> {
        self.stack.tree().read(path)
    }

    fn write(&self, path: &str, text: &str) -> Result<()> {
        self.stack.tree().write(path, text)
    }

    fn list(&self, path: &str) -> Result<Vec<String>> {
        Ok(self.stack.tree().list(path)?.into_iter().map(|(name, _)| name).collect())
    }

    fn link(&self, path: &str) -> Result<String> {
        match self.stack.tree().entry(path)? {
            Entry::Link { target } => Ok(target),
            _ => Err(Error::new(Kind::NotFound, "read link").path(path)),
        }
    }

    fn read_dev(&self, dev: &str, at: u64, into: &mut [u8]) -> Result<()> {
        let device = self.disk(dev, false)?;
        if let Ok(bytes) = device.bytes() {
            return bytes.rw_bytes(MediaOffset(at), Bytes::Read(into), ByteFlags::empty());
        }
        let (lba, lead, mut whole) = sectors(device.as_ref(), at, into.len());
        device.read(lba, &mut [IoSliceMut::new(&mut whole)])?;
        into.copy_from_slice(&whole[lead..lead + into.len()]);
        Ok(())
    }

    fn write_dev(&self, dev: &str, at: u64, from: &[u8]) -> Result<()> {
        let device = self.disk(dev, true)?;
        if let Ok(bytes) = device.bytes() {
            return bytes.rw_bytes(MediaOffset(at), Bytes::Write(from), ByteFlags::empty());
        }
        let (lba, lead, mut whole) = sectors(device.as_ref(), at, from.len());
        device.read(lba, &mut [IoSliceMut::new(&mut whole)])?;
        whole[lead..lead + from.len()].copy_from_slice(from);
        device.write(lba, &[IoSlice::new(&whole)], WriteFlags::FUA)
    }

    fn label_size(&self, dimm: &str) -> Result<u64> {
        Ok(self.stack.label_area(dimm, false)?.len())
    }

    fn label_read(&self, dimm: &str, at: u64, into: &mut [u8]) -> Result<()> {
        self.stack.label_area(dimm, false)?.read(MediaOffset(at), into)
    }

    fn label_write(&self, dimm: &str, at: u64, from: &[u8]) -> Result<()> {
        let area = self.stack.label_area(dimm, true)?;
        area.store(MediaOffset(at), from)?;
        area.persist(MediaOffset(at), from.len() as u64)
    }

    fn inject_error(&self, region: &str, at: u64, len: u64) -> Result<()> {
        self.stack.inject_error(region, at, len)
    }

    fn clear_error(&self, region: &str, at: u64, len: u64) -> Result<()> {
        self.stack.clear_error(region, at, len)
    }

    fn idle_dev(&self, dev: &str) -> Result<()> {
        match &self.in_use {
            Some(in_use) if in_use(dev) => Err(Error::new(Kind::Busy, "open disk")
                .path(dev)
                .found("clients that use it")
                .accepted("nobody")),
            _ => Ok(()),
        }
    }
}
