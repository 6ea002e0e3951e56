// SPDX-License-Identifier: MIT OR Apache-2.0
//! A medium with one small arena, whose copies can be interrupted.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use nvstack_format::btt::{
    ARENA_MIN, ArenaLayout, FlogRecord, Info, LbaSize, MapEntry, MapState, Version, fresh_flog,
};
use nvstack_format::{MediaOffset, Premap};
use nvstack_media::{Domain, Error, Media, Result};
use uuid::Uuid;

use crate::Btt;
use crate::open::{OpenOptions, attach};
use crate::sync::{Break, broken, thread_number};

/// Bytes of a sector.
pub(crate) const SECTOR: usize = 512;

fn layout(sectors: u32, lanes: u32) -> ArenaLayout {
    let mut layout = ArenaLayout::compute(ARENA_MIN, LbaSize::new(512).unwrap(), 0).unwrap();
    layout.external_nlba = sectors;
    layout.nfree = lanes;
    layout.internal_nlba = sectors + lanes;
    layout.dataoff = 0;
    layout.mapoff = u64::from(layout.internal_nlba) * 512;
    layout.logoff = (layout.mapoff + u64::from(sectors) * 4).next_multiple_of(64);
    layout.info2off = layout.logoff + u64::from(lanes) * 64;
    layout.size = layout.info2off;
    layout
}

std::thread_local! {
    /// By thread: the entry that it looked at last.
    static LOOKED: Cell<[Option<(u64, u32)>; 8]> = const { Cell::new([None; 8]) };
}

/// The medium. All clones are the same one.
#[derive(Clone)]
pub(crate) struct Medium(Arc<Inner>);

struct Inner {
    layout: ArenaLayout,
    domain: Domain,
    memory: Vec<AtomicU64>,
    /// As far as it has reached the file. Nobody holds it while others run.
    file: Mutex<Vec<u64>>,
    /// Where threads may be interrupted.
    turns: shuttle::sync::atomic::AtomicUsize,
}

impl Medium {
    /// A fresh arena: all sectors zero. It has as many sectors as lanes at least.
    pub(crate) fn new(sectors: u32, lanes: u32, domain: Domain) -> Medium {
        LOOKED.set([None; 8]);
        let layout = layout(sectors, lanes);
        let memory: Vec<_> = (0..layout.size / 8).map(|_| AtomicU64::new(0)).collect();
        for lane in 0..lanes {
            let at = usize::try_from(layout.flog_group(lane).unwrap() / 8).unwrap();
            let halves = fresh_flog(&layout, lane).into_iter().flat_map(FlogRecord::halves);
            for (word, half) in memory[at..].iter().zip(halves) {
                word.store(half, Ordering::Relaxed);
            }
        }
        let turns = shuttle::sync::atomic::AtomicUsize::new(0);
        let medium = Medium(Arc::new(Inner { layout, domain, memory, file: Mutex::default(), turns }));
        medium.sync();
        medium
    }

    /// Attaches to it.
    pub(crate) fn open(&self, zero_entries: bool) -> Result<Btt<Medium>> {
        let layout = self.0.layout;
        let info = Info { uuid: Uuid::nil(), parent: Uuid::nil(), flags: 0, version: Version::V2_0, layout };
        let mut options = OpenOptions::new("shuttle", Version::V2_0, Uuid::nil());
        options.zero_entries = zero_entries;
        attach(self.clone(), options, vec![info], false)
    }

    /// What a power cut would leave, with the power back.
    pub(crate) fn after_power_cut(&self) -> Medium {
        let memory = self.kept().into_iter().map(AtomicU64::new).collect();
        let file = Mutex::new(self.kept());
        let (layout, domain) = (self.0.layout, self.0.domain);
        let turns = shuttle::sync::atomic::AtomicUsize::new(0);
        Medium(Arc::new(Inner { layout, domain, memory, file, turns }))
    }

    fn kept(&self) -> Vec<u64> {
        match self.0.domain {
            Domain::PageCache => self.0.file.lock().unwrap().clone(),
            _ => self.words(),
        }
    }

    fn words(&self) -> Vec<u64> {
        self.0.memory.iter().map(|word| word.load(Ordering::Relaxed)).collect()
    }

    fn sync(&self) {
        *self.0.file.lock().unwrap() = self.words();
    }

    /// The sectors that recovery would find after a power cut now. Proves on the way that each block has one owner.
    pub(crate) fn recovered(&self) -> Vec<u64> {
        Frozen(self.kept().into_iter().flat_map(u64::to_le_bytes).collect()).sectors(&self.0.layout)
    }

    fn turn(&self) {
        self.0.turns.load(Ordering::SeqCst);
    }

    fn words_at(&self, at: MediaOffset) -> &[AtomicU64] {
        &self.0.memory[usize::try_from(at.0 / 8).unwrap()..]
    }

    fn looked(entry: Option<(u64, u32)>) -> Option<(u64, u32)> {
        let mut all = LOOKED.get();
        let before = std::mem::replace(&mut all[thread_number()], entry);
        LOOKED.set(all);
        before
    }
}

impl Media for Medium {
    fn len(&self) -> u64 {
        self.0.layout.size
    }

    fn read_only(&self) -> bool {
        false
    }

    fn domain(&self) -> Domain {
        self.0.domain
    }

    fn read(&self, at: MediaOffset, into: &mut [u8]) -> Result<()> {
        Medium::looked(None);
        let half = into.len() / 16;
        for (n, (to, from)) in into.chunks_mut(8).zip(self.words_at(at)).enumerate() {
            if n == 0 || n == half {
                self.turn();
            }
            to.copy_from_slice(&from.load(Ordering::Relaxed).to_le_bytes()[..to.len()]);
        }
        self.turn();
        Ok(())
    }

    fn store(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.stream(at, from)
    }

    fn stream(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        let half = from.len() / 16;
        for (n, (from, to)) in from.chunks_exact(8).zip(self.words_at(at)).enumerate() {
            if n == 0 || n == half {
                self.turn();
            }
            to.store(u64::from_le_bytes(from.try_into().unwrap()), Ordering::Relaxed);
        }
        Ok(())
    }

    fn zero(&self, at: MediaOffset, _: u64) -> Result<()> {
        Err(Error::new(nvstack_media::Kind::Unsupported, "zero").at(at))
    }

    fn load_u32(&self, at: MediaOffset) -> Result<u32> {
        self.turn();
        let word = self.words_at(at)[0].load(Ordering::Relaxed).to_le_bytes();
        let half = usize::try_from(at.0 % 8).unwrap();
        let seen = u32::from_le_bytes(word[half..half + 4].try_into().unwrap());
        match Medium::looked(Some((at.0, seen))) {
            Some((before, first)) if before == at.0 && broken(Break::Look) => Ok(first),
            _ => Ok(seen),
        }
    }

    fn store_u32(&self, at: MediaOffset, value: u32) -> Result<()> {
        Medium::looked(None);
        self.turn();
        let shift = (at.0 % 8) * 8;
        let word = &self.words_at(at)[0];
        let others = word.load(Ordering::Relaxed) & !(u64::from(u32::MAX) << shift);
        word.store(others | u64::from(value) << shift, Ordering::Relaxed);
        Ok(())
    }

    fn load_u64(&self, at: MediaOffset) -> Result<u64> {
        self.turn();
        Ok(self.words_at(at)[0].load(Ordering::Relaxed))
    }

    fn store_u64(&self, at: MediaOffset, value: u64) -> Result<()> {
        self.turn();
        self.words_at(at)[0].store(value, Ordering::Relaxed);
        Ok(())
    }

    fn flush(&self, _: MediaOffset, _: u64) -> Result<()> {
        Ok(())
    }

    fn drain(&self) -> Result<()> {
        self.turn();
        if self.0.domain == Domain::PageCache {
            self.sync();
            self.turn();
        }
        Ok(())
    }

    fn badblocks(&self, _: MediaOffset, _: u64) -> Vec<(u64, u64)> {
        Vec::new()
    }

    fn name(&self) -> String {
        "shuttle".to_owned()
    }
}

/// Bytes at a moment.
struct Frozen(Vec<u8>);

impl Frozen {
    fn at(&self, at: u64, len: usize) -> &[u8] {
        let at = usize::try_from(at).unwrap();
        &self.0[at..at + len]
    }

    fn sectors(&self, layout: &ArenaLayout) -> Vec<u64> {
        let start = MediaOffset(0);
        let found = crate::recover::recover(self, start, layout).unwrap();
        crate::audit::audit(self, start, layout, &found.redo, &found.free).unwrap();
        let sectors = (0..layout.external_nlba).map(Premap).map(|premap| {
            let on_medium =
                || MapEntry(self.load_u32(MediaOffset(layout.map_entry(premap).unwrap())).unwrap());
            let entry = found.redo.get(&premap).copied().unwrap_or_else(on_medium);
            if matches!(entry.state(), MapState::Zero(_)) {
                return 0;
            }
            whole(self.at(layout.data(entry.block(premap)).unwrap(), SECTOR))
        });
        sectors.collect()
    }
}

/// The number that a sector holds from end to end.
pub(crate) fn whole(sector: &[u8]) -> u64 {
    let words: Vec<_> = sector.chunks_exact(8).map(|w| u64::from_le_bytes(w.try_into().unwrap())).collect();
    assert!(words.iter().all(|word| *word == words[0]), "a torn sector: {} and {}", words[0], words[63]);
    words[0]
}

impl Media for Frozen {
    fn len(&self) -> u64 {
        u64::try_from(self.0.len()).unwrap()
    }
    fn read_only(&self) -> bool {
        true
    }
    fn domain(&self) -> Domain {
        Domain::Memory
    }
    fn read(&self, at: MediaOffset, into: &mut [u8]) -> Result<()> {
        into.copy_from_slice(self.at(at.0, into.len()));
        Ok(())
    }
    fn store(&self, _: MediaOffset, _: &[u8]) -> Result<()> {
        unreachable!("frozen")
    }
    fn stream(&self, _: MediaOffset, _: &[u8]) -> Result<()> {
        unreachable!("frozen")
    }
    fn zero(&self, _: MediaOffset, _: u64) -> Result<()> {
        unreachable!("frozen")
    }
    fn load_u32(&self, at: MediaOffset) -> Result<u32> {
        Ok(u32::from_le_bytes(self.at(at.0, 4).try_into().unwrap()))
    }
    fn store_u32(&self, _: MediaOffset, _: u32) -> Result<()> {
        unreachable!("frozen")
    }
    fn load_u64(&self, at: MediaOffset) -> Result<u64> {
        Ok(u64::from_le_bytes(self.at(at.0, 8).try_into().unwrap()))
    }
    fn store_u64(&self, _: MediaOffset, _: u64) -> Result<()> {
        unreachable!("frozen")
    }
    fn flush(&self, _: MediaOffset, _: u64) -> Result<()> {
        Ok(())
    }
    fn drain(&self) -> Result<()> {
        Ok(())
    }
    fn badblocks(&self, _: MediaOffset, _: u64) -> Vec<(u64, u64)> {
        Vec::new()
    }
    fn name(&self) -> String {
        "frozen".to_owned()
    }
}
