// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests share: a medium that knows what is not durable yet, and sectors in short.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use nvstack_block::{BlockDevice, Lba, WriteFlags};
use nvstack_media::{Anon, Domain, Media, MediaOffset, Result};

/// Memory that remembers what was stored and neither flushed nor drained.
pub struct Traced {
    memory: Anon,
    pending: Mutex<Pending>,
    words: AtomicUsize,
}

#[derive(Default)]
struct Pending {
    unflushed: Vec<Range<u64>>,
    undrained: usize,
}

impl Traced {
    pub fn new(len: u64) -> Traced {
        Traced { memory: Anon::new(len).unwrap(), pending: Mutex::default(), words: AtomicUsize::new(0) }
    }

    /// Whether everything that was stored is durable.
    pub fn is_durable(&self) -> bool {
        let pending = self.pending.lock().unwrap();
        pending.unflushed.is_empty() && pending.undrained == 0
    }

    /// How many words were moved in one piece.
    pub fn words(&self) -> usize {
        self.words.load(Ordering::Relaxed)
    }

    /// Notes a word that was moved.
    fn word<T>(&self, moved: Result<T>) -> Result<T> {
        self.words.fetch_add(usize::from(moved.is_ok()), Ordering::Relaxed);
        moved
    }

    /// Every byte, the lost ones too.
    pub fn all(&self) -> Vec<u8> {
        let bad = self.badblocks(MediaOffset(0), self.len());
        self.memory.clear_poison(MediaOffset(0), self.len()).unwrap();
        let mut bytes = vec![0; self.len() as usize];
        self.memory.read(MediaOffset(0), &mut bytes).unwrap();
        for (unit, count) in bad {
            let end = ((unit + count) * 512).min(self.len());
            self.memory.inject_poison(MediaOffset(unit * 512), end - unit * 512).unwrap();
        }
        bytes
    }

    fn stored(&self, at: MediaOffset, len: u64) {
        self.pending.lock().unwrap().unflushed.push(at.0..at.0 + len);
    }

    fn streamed(&self) {
        self.pending.lock().unwrap().undrained += 1;
    }
}

impl Media for Traced {
    fn len(&self) -> u64 {
        self.memory.len()
    }
    fn read_only(&self) -> bool {
        false
    }
    fn domain(&self) -> Domain {
        Domain::Cache
    }
    fn read(&self, at: MediaOffset, into: &mut [u8]) -> Result<()> {
        self.memory.read(at, into)
    }
    fn store(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.stored(at, from.len() as u64);
        self.memory.store(at, from)
    }
    fn stream(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.streamed();
        self.memory.stream(at, from)
    }
    fn zero(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.streamed();
        self.memory.zero(at, len)
    }
    fn load_u32(&self, at: MediaOffset) -> Result<u32> {
        self.word(self.memory.load_u32(at))
    }
    fn store_u32(&self, at: MediaOffset, value: u32) -> Result<()> {
        self.stored(at, 4);
        self.word(self.memory.store_u32(at, value))
    }
    fn load_u64(&self, at: MediaOffset) -> Result<u64> {
        self.word(self.memory.load_u64(at))
    }
    fn store_u64(&self, at: MediaOffset, value: u64) -> Result<()> {
        self.stored(at, 8);
        self.word(self.memory.store_u64(at, value))
    }
    fn flush(&self, at: MediaOffset, len: u64) -> Result<()> {
        let mut pending = self.pending.lock().unwrap();
        let before = pending.unflushed.len();
        pending.unflushed.retain(|r| r.start < at.0 || r.end > at.0 + len);
        pending.undrained += before - pending.unflushed.len();
        Ok(())
    }
    fn drain(&self) -> Result<()> {
        self.pending.lock().unwrap().undrained = 0;
        Ok(())
    }
    fn badblocks(&self, at: MediaOffset, len: u64) -> Vec<(u64, u64)> {
        self.memory.badblocks(at, len)
    }
    fn inject_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.memory.inject_poison(at, len)
    }
    fn clear_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.memory.clear_poison(at, len)
    }
    fn name(&self) -> String {
        "traced memory".into()
    }
}

pub fn read(device: &dyn BlockDevice, lba: u64, sectors: u64) -> Result<Vec<u8>> {
    let mut buffer = vec![0xa5; sectors as usize * device.geometry().sector_size as usize];
    device.read(Lba(lba), &mut [IoSliceMut::new(&mut buffer)])?;
    Ok(buffer)
}

pub fn write(device: &dyn BlockDevice, lba: u64, data: &[u8]) -> Result<()> {
    device.write(Lba(lba), &[IoSlice::new(data)], WriteFlags::empty())
}
