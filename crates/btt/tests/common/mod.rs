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

mod image;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IoSlice, IoSliceMut, Read};
use std::path::PathBuf;
use std::sync::Mutex;

use nvstack_block::{BlockDevice, Lba, WriteFlags};
use nvstack_media::{Domain, Error, Extent, Kind, Media, MediaOffset, Result};

pub use image::Image;

/// The unit of the simulated power cut: eight aligned bytes are whole, old or new.
pub const UNIT: usize = 8;

/// A unit as a store left it.
#[derive(Clone, Copy)]
struct Piece {
    /// The number of the store.
    store: u64,
    at: usize,
    value: [u8; UNIT],
}

#[derive(Clone)]
struct State {
    /// What readers see.
    now: Image,
    /// What is on the medium for sure.
    durable: Image,
    /// What was stored since the last drain, oldest first.
    pending: Vec<Piece>,
    /// Units that were stored plainly and not flushed: a drain does not cover them (domain `Cache`).
    unflushed: BTreeMap<usize, ()>,
    poison: Vec<u64>,
    stores: u64,
    drains: u64,
    /// After so many stores and drains, everything fails: the power is off.
    fuse: Option<u64>,
    /// The next store past the cache moves half of its bytes and fails.
    fail_stream: bool,
}

/// A medium in plain memory. It remembers what a power cut could take.
pub struct Sim {
    state: Mutex<State>,
    domain: Domain,
    pub read_only: bool,
}

impl Sim {
    pub fn new(bytes: impl Into<Image>, domain: Domain) -> Sim {
        let bytes = bytes.into();
        let state = State {
            durable: bytes.clone(),
            now: bytes,
            pending: Vec::new(),
            unflushed: BTreeMap::new(),
            poison: Vec::new(),
            stores: 0,
            drains: 0,
            fuse: None,
            fail_stream: false,
        };
        Sim { state: Mutex::new(state), domain, read_only: false }
    }

    pub fn memory(bytes: impl Into<Image>) -> Sim {
        Sim::new(bytes, Domain::Memory)
    }

    /// Lets `steps` more stores and drains happen.
    pub fn set_fuse(&self, steps: u64) {
        let mut s = self.state.lock().unwrap();
        s.fuse = Some(s.stores + s.drains + steps);
    }

    /// The next store past the cache moves half of its bytes and fails.
    pub fn fail_next_stream(&self) {
        self.state.lock().unwrap().fail_stream = true;
    }

    /// The same bytes in the hands of another process, after the one that stored them was killed: what it flushed and did not
    /// drain counts as not flushed.
    pub fn survivor(&self) -> Sim {
        let mut state = self.state.lock().unwrap().clone();
        state.unflushed = state.pending.iter().map(|piece| (piece.at, ())).collect();
        state.fuse = None;
        Sim { state: Mutex::new(state), domain: self.domain, read_only: false }
    }

    pub fn steps(&self) -> u64 {
        let s = self.state.lock().unwrap();
        s.stores + s.drains
    }

    pub fn drains(&self) -> u64 {
        self.state.lock().unwrap().drains
    }

    pub fn poison(&self, unit: u64) {
        self.state.lock().unwrap().poison.push(unit);
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.image().bytes()
    }

    pub fn image(&self) -> Image {
        self.state.lock().unwrap().now.clone()
    }

    /// Images that a power cut now could leave, none of them twice.
    ///
    /// What was stored and is not durable goes in parts: of a long store its first unit, its last one, and what lies between,
    /// of others each unit; on a page cache whole pages, each as it was at one moment since it was last surely written. Of
    /// few parts all subsets are tried; of many none, all, each alone, all but each, as many as were stored first, pairs of
    /// neighbours, and some at random.
    pub fn cuts(&self, seed: u64) -> Vec<Image> {
        let s = self.state.lock().unwrap();
        let chosen = if self.domain == Domain::PageCache {
            page_cuts(&s.pending, seed)
        } else {
            unit_cuts(&s.pending, seed)
        };
        let mut seen = BTreeSet::new();
        let mut images = Vec::new();
        for chosen in chosen {
            let mut image = s.durable.clone();
            for (piece, _) in s.pending.iter().zip(&chosen).filter(|(_, chosen)| **chosen) {
                image.write(piece.at, &piece.value);
            }
            if seen.insert(image.digest()) {
                images.push(image);
            }
        }
        images
    }

    /// The image that a power cut leaves of which nothing is spared that was not surely written.
    pub fn durable(&self) -> Image {
        self.state.lock().unwrap().durable.clone()
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
        let store = s.stores;
        s.now.write(start, from);
        for unit in start / UNIT..(start + from.len()).div_ceil(UNIT) {
            let mut value = [0; UNIT];
            s.now.read(unit * UNIT, &mut value);
            s.pending.push(Piece { store, at: unit * UNIT, value });
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
        s.now.read(start, into);
        Ok(())
    }
    fn store(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.put(at, from, false)
    }
    fn stream(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        if std::mem::take(&mut self.state.lock().unwrap().fail_stream) {
            self.put(at, &from[..from.len() / 2], true)?;
            return Err(Error::new(Kind::Fault, "store").at(at).found("a failure that was asked for"));
        }
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
        for piece in pending {
            if keep && s.unflushed.contains_key(&piece.at) {
                s.pending.push(piece);
            } else {
                s.durable.write(piece.at, &piece.value);
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
    fn extent(&self, at: MediaOffset, len: u64) -> Result<Extent> {
        // Holes are pages of zeros.
        let s = self.state.lock().unwrap();
        let start = self.range(&s, at, usize::try_from(len).unwrap())?;
        let end = start + usize::try_from(len).unwrap();
        let zero = |p: usize| {
            let mut page = vec![0; 4096.min(s.now.len() - p * 4096)];
            s.now.read(p * 4096, &mut page);
            page.iter().all(|b| *b == 0)
        };
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

/// Which of the pending pieces reach the medium.
type Chosen = Vec<bool>;

/// Parts of which all subsets are tried.
const FEW: usize = 6;
/// Of more parts than this, those in the middle are not tried one by one.
const MANY: usize = 24;

/// The numbers of the parts that are worth a look by themselves.
fn looked_at(count: usize) -> Vec<usize> {
    if count <= MANY { (0..count).collect() } else { (0..MANY / 2).chain(count - MANY / 2..count).collect() }
}

/// Cuts where each unit goes by itself.
fn unit_cuts(pending: &[Piece], seed: u64) -> Vec<Chosen> {
    // The part of each piece, in the order of the stores.
    let mut parts: Vec<usize> = Vec::new();
    let mut count = 0;
    for store in pending.chunk_by(|a, b| a.store == b.store) {
        if store.len() <= 2 {
            parts.extend(count..count + store.len());
            count += store.len();
        } else {
            parts.push(count);
            parts.extend(std::iter::repeat_n(count + 1, store.len() - 2));
            parts.push(count + 2);
            count += 3;
        }
    }
    let by_part = |with: &dyn Fn(usize) -> bool| -> Chosen { parts.iter().map(|part| with(*part)).collect() };
    let mut ways = vec![by_part(&|_| false), by_part(&|_| true)];
    if count <= FEW {
        ways.extend((0..1usize << count).map(|subset| by_part(&|part| subset >> part & 1 == 1)));
    } else {
        for one in looked_at(count) {
            ways.push(by_part(&|part| part == one));
            ways.push(by_part(&|part| part != one));
            ways.push(by_part(&|part| part < one));
            ways.push(by_part(&|part| part >= one));
            ways.push(by_part(&|part| part == one || part == one + 1));
        }
    }
    let mut dice = Dice(seed);
    for _ in 0..2 {
        ways.push(pending.iter().map(|_| dice.roll() & 1 == 1).collect());
        let halves: Vec<bool> = (0..count).map(|_| dice.roll() & 1 == 1).collect();
        ways.push(by_part(&|part| halves[part]));
    }
    ways
}

/// Cuts where whole pages go, each with the first so many of its pieces.
fn page_cuts(pending: &[Piece], seed: u64) -> Vec<Chosen> {
    let mut pages: BTreeMap<usize, Vec<Piece>> = BTreeMap::new();
    for piece in pending {
        pages.entry(piece.at / 4096).or_default().push(*piece);
    }
    let order: Vec<usize> = pages.keys().copied().collect();
    let full: Vec<usize> = pages.values().map(Vec::len).collect();
    let at_moments = |moments: &[usize]| -> Chosen {
        let mut left: BTreeMap<usize, usize> = order.iter().copied().zip(moments.iter().copied()).collect();
        let mut take = |piece: &Piece| {
            let left = left.get_mut(&(piece.at / 4096)).unwrap();
            let taken = *left > 0;
            *left = left.saturating_sub(1);
            taken
        };
        pending.iter().map(&mut take).collect()
    };
    let count = order.len();
    let none = vec![0; count];
    let mut ways = vec![at_moments(&none), at_moments(&full)];
    if count <= FEW {
        for subset in 0..1usize << count {
            let moments: Vec<usize> =
                full.iter().enumerate().map(|(i, n)| if subset >> i & 1 == 1 { *n } else { 0 }).collect();
            ways.push(at_moments(&moments));
        }
    }
    for one in looked_at(count) {
        // Each moment between two stores, and some within them, with nothing and with everything else.
        let mut moments: BTreeSet<usize> = [0, 1, full[one] - 1, full[one]].into();
        let pieces = &pages[&order[one]];
        moments.extend((1..pieces.len()).filter(|i| pieces[*i].store != pieces[i - 1].store));
        for moment in moments {
            for rest in [&none, &full] {
                let mut moments = rest.clone();
                moments[one] = moment;
                ways.push(at_moments(&moments));
            }
        }
    }
    let mut dice = Dice(seed);
    for _ in 0..3 {
        let some: Vec<usize> =
            full.iter().map(|n| usize::try_from(dice.roll() % (*n as u64 + 1)).unwrap()).collect();
        ways.push(at_moments(&some));
    }
    ways
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
