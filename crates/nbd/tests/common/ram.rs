// SPDX-License-Identifier: MIT OR Apache-2.0
//! A block device in memory that does as it is told, errors included.

use std::collections::BTreeSet;
use std::io::{IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use nvstack_block::{
    BlockDevice, Error, Extent, ExtentFlags, Geometry, Kind, Lba, Result, WriteFlags, in_range, sectors_of,
};

pub struct Ram {
    pub geometry: Geometry,
    pub state: Mutex<State>,
    /// Each read and write takes so many microseconds longer.
    pub slow: AtomicU64,
    pub flush_fails: AtomicBool,
    /// The device refuses fast zeroing.
    pub zeroing_is_slow: AtomicBool,
    /// The device refuses all zeroing.
    pub no_zeroing: AtomicBool,
    pub extents_fail: AtomicBool,
    /// Extents are told one sector at a time, and the last goes far beyond what was asked for.
    pub extents_ramble: AtomicBool,
}

#[derive(Default)]
pub struct State {
    pub data: Vec<u8>,
    /// What is durable: a copy of the data at the last flush.
    pub durable: Vec<u8>,
    pub bad: BTreeSet<u64>,
    pub holes: BTreeSet<u64>,
    /// Every call that changes something, in order.
    pub calls: Vec<String>,
}

impl Ram {
    pub fn new(sectors: u64, sector_size: u32) -> Ram {
        let geometry = Geometry {
            sectors,
            sector_size,
            preferred: 4096,
            read_only: false,
            volatile_cache: true,
            atomic: true,
            discard: true,
        };
        let bytes = usize::try_from(geometry.bytes()).unwrap();
        let state = State { data: vec![0; bytes], durable: vec![0; bytes], ..State::default() };
        Ram {
            geometry,
            state: Mutex::new(state),
            slow: AtomicU64::new(0),
            flush_fails: AtomicBool::new(false),
            zeroing_is_slow: AtomicBool::new(false),
            no_zeroing: AtomicBool::new(false),
            extents_fail: AtomicBool::new(false),
            extents_ramble: AtomicBool::new(false),
        }
    }

    pub fn read_only(mut self) -> Ram {
        self.geometry.read_only = true;
        self
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state().calls)
    }

    fn at(&self, at: Lba) -> usize {
        usize::try_from(at.0 * u64::from(self.geometry.sector_size)).unwrap()
    }

    fn rest(&self) {
        let slow = self.slow.load(SeqCst);
        if slow > 0 {
            std::thread::sleep(Duration::from_micros(slow));
        }
    }
}

impl BlockDevice for Ram {
    fn name(&self) -> String {
        "ram".into()
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, at: Lba, into: &mut [IoSliceMut<'_>]) -> Result<()> {
        let sectors = sectors_of(&self.geometry, "read", at, into.iter().map(|b| b.len()))?;
        self.rest();
        let state = self.state();
        if let Some(bad) = state.bad.range(at.0..at.0 + sectors).next() {
            return Err(Error::new(Kind::Poison, format!("read LBA {bad}")));
        }
        let mut from = self.at(at);
        for buffer in into {
            let len = buffer.len();
            buffer.copy_from_slice(&state.data[from..from + len]);
            from += len;
        }
        Ok(())
    }

    fn write(&self, at: Lba, from: &[IoSlice<'_>], flags: WriteFlags) -> Result<()> {
        let sectors = sectors_of(&self.geometry, "write", at, from.iter().map(|b| b.len()))?;
        self.rest();
        let mut state = self.state();
        state.calls.push(format!("write {at}+{sectors}{}", if flags.is_empty() { "" } else { " fua" }));
        if let Some(bad) = state.bad.range(at.0..at.0 + sectors).next() {
            return Err(Error::new(Kind::Io, format!("write LBA {bad}")));
        }
        let mut to = self.at(at);
        for buffer in from {
            state.data[to..to + buffer.len()].copy_from_slice(buffer);
            if flags.contains(WriteFlags::FUA) {
                state.durable[to..to + buffer.len()].copy_from_slice(buffer);
            }
            to += buffer.len();
        }
        for lba in at.0..at.0 + sectors {
            state.holes.remove(&lba);
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        let mut state = self.state();
        state.calls.push("flush".into());
        if self.flush_fails.load(SeqCst) {
            return Err(Error::new(Kind::Io, "flush"));
        }
        state.durable = state.data.clone();
        Ok(())
    }

    fn write_zeroes(&self, at: Lba, sectors: u64, flags: WriteFlags) -> Result<()> {
        in_range(&self.geometry, "write zeroes", at, sectors)?;
        let mut state = self.state();
        state.calls.push(format!("zero {at}+{sectors} {flags:?}"));
        if self.no_zeroing.load(SeqCst)
            || flags.contains(WriteFlags::FAST) && self.zeroing_is_slow.load(SeqCst)
        {
            return Err(Error::new(Kind::Unsupported, "write zeroes"));
        }
        let (from, to) = (self.at(at), self.at(at.plus(sectors)));
        state.data[from..to].fill(0);
        if flags.contains(WriteFlags::FUA) {
            state.durable[from..to].fill(0);
        }
        if !flags.contains(WriteFlags::NO_HOLE) {
            state.holes.extend(at.0..at.0 + sectors);
        }
        Ok(())
    }

    fn discard(&self, at: Lba, sectors: u64) -> Result<()> {
        in_range(&self.geometry, "discard", at, sectors)?;
        self.state().calls.push(format!("discard {at}+{sectors}"));
        Ok(())
    }

    fn extents(&self, at: Lba, sectors: u64, found: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        in_range(&self.geometry, "extents", at, sectors)?;
        if self.extents_fail.load(SeqCst) {
            return Err(Error::new(Kind::Io, "extents"));
        }
        let ramble = self.extents_ramble.load(SeqCst);
        let state = self.state();
        let flags = |lba: u64| {
            let mut flags = ExtentFlags::empty();
            flags.set(ExtentFlags::HOLE | ExtentFlags::ZERO, state.holes.contains(&lba));
            flags.set(ExtentFlags::BAD, state.bad.contains(&lba));
            flags
        };
        let end = at.0 + sectors;
        let mut lba = at.0;
        while lba < end {
            let state = flags(lba);
            let mut run = 1;
            while !ramble && lba + run < end && flags(lba + run) == state {
                run += 1;
            }
            if ramble && lba + 1 == end {
                run = 1 << 40;
            }
            if !found(Extent { sectors: run, flags: state }) {
                break;
            }
            lba += run;
        }
        Ok(())
    }
}
