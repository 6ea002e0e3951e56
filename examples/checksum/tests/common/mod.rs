// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests share: a medium that can lose power, and machines.
#![allow(dead_code, unreachable_pub, missing_docs)]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IoSlice, IoSliceMut};
use std::sync::Mutex;

use nvstack_block::{BlockDevice, Lba, WriteFlags};
use nvstack_media::{Domain, Error, Kind, Media, MediaOffset, Result};

/// Eight aligned bytes are whole in a power cut, old or new.
const UNIT: usize = 8;

struct State {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Units stored since the last drain, oldest first.
    pending: Vec<(usize, [u8; UNIT])>,
    /// Units stored plainly and not flushed: a drain does not cover them.
    unflushed: BTreeSet<usize>,
    /// So many more stores and drains happen; then the power is off.
    fuse: u64,
    /// Done once, before a block or more is read.
    before_data: Option<Box<dyn FnOnce() + Send>>,
}

/// Persistent memory behind the CPU's caches. It remembers what a power cut could take.
pub struct Sim(Mutex<State>);

impl Sim {
    pub fn new(bytes: Vec<u8>) -> Sim {
        Sim(Mutex::new(State {
            durable: bytes.clone(),
            now: bytes,
            pending: Vec::new(),
            unflushed: BTreeSet::new(),
            fuse: u64::MAX,
            before_data: None,
        }))
    }

    /// Lets so many more stores and drains happen.
    pub fn set_fuse(&self, steps: u64) {
        self.0.lock().unwrap().fuse = steps;
    }

    /// Does something once, before the next read of a block or more.
    pub fn before_data(&self, work: Box<dyn FnOnce() + Send>) {
        self.0.lock().unwrap().before_data = Some(work);
    }

    /// What a power cut now could leave: of each unit any value that it had since it was last surely written. The units of
    /// each `grain` bytes go together: so blocks are torn or not.
    pub fn cut(&self, grain: usize, choose: &mut dyn FnMut() -> usize) -> Vec<u8> {
        let state = self.0.lock().unwrap();
        let mut image = state.durable.clone();
        let mut values: BTreeMap<usize, Vec<[u8; UNIT]>> = BTreeMap::new();
        for (at, value) in &state.pending {
            values.entry(*at).or_default().push(*value);
        }
        let mut chosen = BTreeMap::new();
        for (at, values) in values {
            let pick = *chosen.entry(at / grain).or_insert_with(&mut *choose) % (values.len() + 1);
            if pick > 0 {
                image[at..at + UNIT].copy_from_slice(&values[pick - 1]);
            }
        }
        image
    }

    fn put(&self, at: MediaOffset, from: &[u8], flushed: bool) -> Result<()> {
        let mut state = self.0.lock().unwrap();
        let start = range(&state, at, from.len())?;
        step(&mut state)?;
        state.now[start..start + from.len()].copy_from_slice(from);
        for unit in start / UNIT..(start + from.len()).div_ceil(UNIT) {
            let value = state.now[unit * UNIT..][..UNIT].try_into().unwrap();
            state.pending.push((unit * UNIT, value));
            if !flushed {
                state.unflushed.insert(unit * UNIT);
            }
        }
        Ok(())
    }
}

fn step(state: &mut State) -> Result<()> {
    if state.fuse == 0 {
        return Err(Error::new(Kind::Io, "power is off"));
    }
    state.fuse -= 1;
    Ok(())
}

fn range(state: &State, at: MediaOffset, len: usize) -> Result<usize> {
    let start = usize::try_from(at.0).unwrap();
    if start + len > state.now.len() {
        return Err(Error::new(Kind::OutOfRange, "access").at(at).found(len).accepted(state.now.len()));
    }
    Ok(start)
}

impl Media for Sim {
    fn len(&self) -> u64 {
        self.0.lock().unwrap().now.len() as u64
    }
    fn read_only(&self) -> bool {
        false
    }
    fn domain(&self) -> Domain {
        Domain::Cache
    }
    fn read(&self, at: MediaOffset, into: &mut [u8]) -> Result<()> {
        let work = self.0.lock().unwrap().before_data.take_if(|_| into.len() >= 512);
        if let Some(work) = work {
            work();
        }
        let state = self.0.lock().unwrap();
        let start = range(&state, at, into.len())?;
        into.copy_from_slice(&state.now[start..start + into.len()]);
        Ok(())
    }
    fn store(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.put(at, from, false)
    }
    fn stream(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.put(at, from, true)
    }
    fn zero(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.put(at, &vec![0; usize::try_from(len).unwrap()], true)
    }
    fn load_u32(&self, at: MediaOffset) -> Result<u32> {
        let mut word = [0; 4];
        self.read(at, &mut word)?;
        Ok(u32::from_le_bytes(word))
    }
    fn store_u32(&self, at: MediaOffset, value: u32) -> Result<()> {
        self.store(at, &value.to_le_bytes())
    }
    fn load_u64(&self, at: MediaOffset) -> Result<u64> {
        let mut word = [0; 8];
        self.read(at, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }
    fn store_u64(&self, at: MediaOffset, value: u64) -> Result<()> {
        self.store(at, &value.to_le_bytes())
    }
    fn flush(&self, at: MediaOffset, len: u64) -> Result<()> {
        // It takes whole lines of 64 bytes.
        let (start, end) = (at.0 as usize / 64 * 64, (at.0 + len).div_ceil(64) as usize * 64);
        self.0.lock().unwrap().unflushed.retain(|unit| *unit < start || *unit >= end);
        Ok(())
    }
    fn drain(&self) -> Result<()> {
        let mut state = self.0.lock().unwrap();
        step(&mut state)?;
        for (at, value) in std::mem::take(&mut state.pending) {
            if state.unflushed.contains(&at) {
                state.pending.push((at, value));
            } else {
                state.durable[at..at + UNIT].copy_from_slice(&value);
            }
        }
        Ok(())
    }
    fn badblocks(&self, _: MediaOffset, _: u64) -> Vec<(u64, u64)> {
        Vec::new()
    }
    fn name(&self) -> String {
        "sim".into()
    }
}

pub fn read(device: &dyn BlockDevice, lba: u64) -> Result<Vec<u8>> {
    let mut block = vec![0xa5; device.geometry().sector_size as usize];
    device.read(Lba(lba), &mut [IoSliceMut::new(&mut block)])?;
    Ok(block)
}

pub fn write(device: &dyn BlockDevice, lba: u64, data: &[u8]) -> Result<()> {
    device.write(Lba(lba), &[IoSlice::new(data)], WriteFlags::empty())
}

/// A small generator of numbers, the same for the same seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as usize
    }
}
