// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests share: a medium in plain memory that can lose power, the images that Linux wrote, and their pattern.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut, Read};
use std::path::PathBuf;
use std::sync::Mutex;

use nvstack_block::{BlockDevice, Lba, WriteFlags};
use nvstack_media::{Domain, Error, Extent, Kind, Media, MediaOffset, Result};

/// The unit of the simulated power cut: eight aligned bytes are whole, old or new.
pub const UNIT: usize = 8;

/// One of `0..=all`.
fn pick(choice: u64, all: u64) -> u64 {
    if choice == u64::MAX { all } else { choice % (all + 1) }
}

#[derive(Clone)]
struct State {
    /// What readers see.
    now: Vec<u8>,
    /// What is on the medium for sure.
    durable: Vec<u8>,
    /// Bytes that were stored since the last drain: value of each unit, oldest first.
    pending: Vec<(usize, [u8; UNIT])>,
    /// Units that were stored plainly and not flushed: a drain does not cover them (domain `Cache`).
    unflushed: BTreeMap<usize, ()>,
    poison: Vec<u64>,
    stores: u64,
    drains: u64,
    /// After so many stores and drains, everything fails: the power is off.
    fuse: Option<u64>,
}

/// A medium in plain memory. It remembers what a power cut could take.
pub struct Sim {
    state: Mutex<State>,
    domain: Domain,
    pub read_only: bool,
}

impl Sim {
    pub fn new(bytes: Vec<u8>, domain: Domain) -> Sim {
        let state = State {
            durable: bytes.clone(),
            now: bytes,
            pending: Vec::new(),
            unflushed: BTreeMap::new(),
            poison: Vec::new(),
            stores: 0,
            drains: 0,
            fuse: None,
        };
        Sim { state: Mutex::new(state), domain, read_only: false }
    }

    pub fn memory(bytes: Vec<u8>) -> Sim {
        Sim::new(bytes, Domain::Memory)
    }

    /// Lets `steps` more stores and drains happen.
    pub fn set_fuse(&self, steps: u64) {
        let mut s = self.state.lock().unwrap();
        s.fuse = Some(s.stores + s.drains + steps);
    }

    pub fn steps(&self) -> u64 {
        let s = self.state.lock().unwrap();
        s.stores + s.drains
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.state.lock().unwrap().now.clone()
    }

    /// An image that a power cut now could leave: by `choose`, any subset of what is pending; 0 is nothing of a unit,
    /// `u64::MAX` all of it.
    /// On a page cache whole pages go, each as it was at one moment since it was last surely written.
    pub fn cut(&self, choose: &mut dyn FnMut() -> u64) -> Vec<u8> {
        let s = self.state.lock().unwrap();
        let mut image = s.durable.clone();
        if self.domain == Domain::PageCache {
            let mut moments: BTreeMap<usize, u64> = BTreeMap::new();
            let mut seen: BTreeMap<usize, u64> = BTreeMap::new();
            for (at, _) in &s.pending {
                *seen.entry(at / 4096).or_default() += 1;
            }
            for (page, n) in seen {
                moments.insert(page, pick(choose(), n));
            }
            for (at, value) in &s.pending {
                let left = moments.get_mut(&(at / 4096)).unwrap();
                if *left > 0 {
                    *left -= 1;
                    image[*at..*at + UNIT].copy_from_slice(value);
                }
            }
        } else {
            // For each unit, one of the values that it had since.
            let mut by_unit: BTreeMap<usize, Vec<[u8; UNIT]>> = BTreeMap::new();
            for (at, value) in &s.pending {
                by_unit.entry(*at).or_default().push(*value);
            }
            for (at, values) in by_unit {
                let pick = usize::try_from(pick(choose(), values.len() as u64)).unwrap();
                if pick > 0 {
                    image[at..at + UNIT].copy_from_slice(&values[pick - 1]);
                }
            }
        }
        image
    }

    fn step(s: &mut State) -> Result<()> {
        if s.fuse.is_some_and(|f| s.stores + s.drains >= f) {
            return Err(Error::new(Kind::Io, "power is off"));
        }
        Ok(())
    }

    fn put(&self, at: MediaOffset, from: &[u8], flushed: bool) -> Result<()> {
        if self.read_only {
            return Err(Error::new(Kind::ReadOnly, "store"));
        }
        let mut s = self.state.lock().unwrap();
        let start = self.range(&s, at, from.len())?;
        Self::step(&mut s)?;
        s.stores += 1;
        s.now[start..start + from.len()].copy_from_slice(from);
        for unit in start / UNIT..(start + from.len()).div_ceil(UNIT) {
            let value = s.now[unit * UNIT..][..UNIT].try_into().unwrap();
            s.pending.push((unit * UNIT, value));
            if !flushed {
                s.unflushed.insert(unit * UNIT, ());
            }
        }
        // Whole 512-byte units are healed; parts are an error, though the bytes went in.
        let (first, last) = (start as u64 / 512, (start + from.len()).div_ceil(512) as u64);
        let whole = |u: u64| u * 512 >= start as u64 && (u + 1) * 512 <= (start + from.len()) as u64;
        s.poison.retain(|u| !whole(*u));
        if s.poison.iter().any(|u| (first..last).contains(u)) {
            return Err(Error::new(Kind::Poison, "store").at(at));
        }
        Ok(())
    }

    fn range(&self, s: &State, at: MediaOffset, len: usize) -> Result<usize> {
        let start =
            usize::try_from(at.0).ok().filter(|a| a.checked_add(len).is_some_and(|e| e <= s.now.len()));
        start.ok_or_else(|| Error::new(Kind::OutOfRange, "access").at(at).found(len).accepted(s.now.len()))
    }
}

impl Media for Sim {
    fn len(&self) -> u64 {
        self.state.lock().unwrap().now.len() as u64
    }
    fn read_only(&self) -> bool {
        self.read_only
    }
    fn domain(&self) -> Domain {
        self.domain
    }
    fn read(&self, at: MediaOffset, into: &mut [u8]) -> Result<()> {
        let s = self.state.lock().unwrap();
        let start = self.range(&s, at, into.len())?;
        let units = start as u64 / 512..(start + into.len()).div_ceil(512) as u64;
        if s.poison.iter().any(|u| units.contains(u)) {
            return Err(Error::new(Kind::Poison, "read").at(at));
        }
        into.copy_from_slice(&s.now[start..start + into.len()]);
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
        let mut b = [0; 4];
        self.read(at, &mut b)?;
        Ok(u32::from_le_bytes(b))
    }
    fn store_u32(&self, at: MediaOffset, value: u32) -> Result<()> {
        self.store(at, &value.to_le_bytes())
    }
    fn load_u64(&self, at: MediaOffset) -> Result<u64> {
        let mut b = [0; 8];
        self.read(at, &mut b)?;
        Ok(u64::from_le_bytes(b))
    }
    fn store_u64(&self, at: MediaOffset, value: u64) -> Result<()> {
        self.store(at, &value.to_le_bytes())
    }
    fn flush(&self, at: MediaOffset, len: u64) -> Result<()> {
        let mut s = self.state.lock().unwrap();
        let start = self.range(&s, at, usize::try_from(len).unwrap())?;
        let end = start + usize::try_from(len).unwrap();
        // A flush takes whole 64-byte lines.
        s.unflushed.retain(|u, ()| *u < start / 64 * 64 || *u >= end.div_ceil(64) * 64);
        Ok(())
    }
    fn drain(&self) -> Result<()> {
        let mut s = self.state.lock().unwrap();
        Self::step(&mut s)?;
        s.drains += 1;
        let keep = self.domain == Domain::Cache;
        let pending = std::mem::take(&mut s.pending);
        for (at, value) in pending {
            if keep && s.unflushed.contains_key(&at) {
                s.pending.push((at, value));
            } else {
                s.durable[at..at + UNIT].copy_from_slice(&value);
            }
        }
        if !keep {
            s.unflushed.clear();
        }
        Ok(())
    }
    fn badblocks(&self, at: MediaOffset, len: u64) -> Vec<(u64, u64)> {
        let s = self.state.lock().unwrap();
        let mut units: Vec<u64> =
            s.poison.iter().copied().filter(|u| u * 512 < at.0 + len && (u + 1) * 512 > at.0).collect();
        units.sort_unstable();
        units.into_iter().map(|u| (u, 1)).collect()
    }
    fn inject_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        let mut s = self.state.lock().unwrap();
        s.poison.extend(at.0 / 512..(at.0 + len).div_ceil(512));
        s.poison.sort_unstable();
        s.poison.dedup();
        Ok(())
    }
    fn clear_poison(&self, at: MediaOffset, len: u64) -> Result<()> {
        self.state.lock().unwrap().poison.retain(|u| u * 512 < at.0 || (u + 1) * 512 > at.0 + len);
        Ok(())
    }
    fn extent(&self, at: MediaOffset, len: u64) -> Result<Extent> {
        // Holes are pages of zeros.
        let s = self.state.lock().unwrap();
        let start = self.range(&s, at, usize::try_from(len).unwrap())?;
        let end = start + usize::try_from(len).unwrap();
        let zero = |p: usize| s.now[p * 4096..(p * 4096 + 4096).min(s.now.len())].iter().all(|b| *b == 0);
        let hole = zero(start / 4096);
        let mut to = start;
        while to < end && zero(to / 4096) == hole {
            to = ((to / 4096 + 1) * 4096).min(end);
        }
        Ok(Extent { at, len: (to - start) as u64, hole })
    }
    fn name(&self) -> String {
        "sim".into()
    }
}

/// A file of the project's fixtures.
pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// A decompressed image of the fixtures.
pub fn image(name: &str) -> Vec<u8> {
    let path = fixture(name);
    let file = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut bytes = Vec::new();
    ruzstd::decoding::StreamingDecoder::new(file).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

pub fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

/// What the images hold: `(lba, gen)` as a line, repeated.
pub fn pattern(lba: u64, generation: u64, len: usize) -> Vec<u8> {
    format!("LBA={lba:08x} GEN={generation:04x}\n").into_bytes().into_iter().cycle().take(len).collect()
}

/// Says in words what a sector holds.
pub fn describe(data: &[u8]) -> String {
    if data.iter().all(|b| *b == 0) {
        return "ZEROS".into();
    }
    let text = String::from_utf8_lossy(&data[..22.min(data.len())]).into_owned();
    let field = |r: std::ops::Range<usize>| text.get(r).and_then(|t| u64::from_str_radix(t, 16).ok());
    match (field(4..12), field(17..21)) {
        (Some(lba), Some(generation)) if data == pattern(lba, generation, data.len()) => {
            format!("PAT lba={lba} gen={generation} whole")
        }
        (Some(lba), Some(generation)) => format!("PAT lba={lba} gen={generation} TORN"),
        _ => "OTHER".into(),
    }
}

pub fn read(device: &dyn BlockDevice, lba: u64) -> Result<Vec<u8>> {
    let mut buffer = vec![0xa5; device.geometry().sector_size as usize];
    device.read(Lba(lba), &mut [IoSliceMut::new(&mut buffer)])?;
    Ok(buffer)
}

pub fn write(device: &dyn BlockDevice, lba: u64, data: &[u8]) -> Result<()> {
    device.write(Lba(lba), &[IoSlice::new(data)], WriteFlags::empty())
}

/// A small generator of numbers, the same for the same seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// What decides how much of each unit reaches the medium.
pub type Choice = Box<dyn FnMut() -> u64>;

/// Power cuts worth a look when stores to a block of `block` units at the lowest place and stores behind it are pending:
/// the first unit, the rest of the block, and what lies behind are each old or new, in all combinations; then some at
/// random.
pub fn cuts(block: usize, seed: u64) -> Vec<Choice> {
    let mut ways: Vec<Choice> = Vec::new();
    for which in 0..8u32 {
        let mut n = 0;
        ways.push(Box::new(move || {
            let part = if n == 0 {
                0
            } else if n < block {
                1
            } else {
                2
            };
            n += 1;
            if which >> part & 1 == 1 { u64::MAX } else { 0 }
        }));
    }
    let mut dice = Dice(seed);
    for _ in 0..2 {
        let mut dice = Dice(dice.roll());
        ways.push(Box::new(move || dice.roll() >> 1));
    }
    ways
}

/// A namespace of zeros, laid out at address 0.
pub fn made(kind: nvstack_pfn::Kind, mode: nvstack_pfn::Mode, align: u32, size: usize) -> Vec<u8> {
    let media = Sim::memory(vec![0; size]);
    let options = nvstack_pfn::CreateOptions {
        kind,
        uuid: uuid::Uuid::from_u128(7),
        parent: uuid::Uuid::nil(),
        mode,
        align,
        place: nvstack_pfn::Place { start: Some(0), size: size as u64 },
        overwrite: false,
    };
    nvstack_pfn::create(&media, &options).unwrap();
    media.bytes()
}

/// Attaches to what `made` makes.
pub fn attach<M: Media>(media: M, kind: nvstack_pfn::Kind, read_only: bool) -> Result<nvstack_pfn::Pages<M>> {
    let place = nvstack_pfn::Place { start: Some(0), size: media.len() };
    let mut options = nvstack_pfn::OpenOptions::new("pmem0", kind, uuid::Uuid::nil(), place);
    options.read_only = read_only;
    nvstack_pfn::Pages::open(media, options)
}
