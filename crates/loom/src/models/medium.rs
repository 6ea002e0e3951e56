// SPDX-License-Identifier: MIT OR Apache-2.0
//! A medium with one small arena, that knows when two threads are at the same bytes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU32;
use nvstack_format::btt::{
    ARENA_MIN, ArenaLayout, FlogRecord, Info, LbaSize, MapEntry, MapState, Version, fresh_flog,
};
use nvstack_format::{MediaOffset, Premap};
use nvstack_media::{Domain, Media, Result};
use uuid::Uuid;

use crate::Btt;
use crate::open::{OpenOptions, attach};
use crate::sync::{Break, broken, thread_number};

/// Bytes of a sector.
pub(crate) const SECTOR: usize = 512;

/// A small arena: no info blocks, and a few sectors and lanes.
pub(crate) fn layout(sectors: u32, lanes: u32) -> ArenaLayout {
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

/// Who is at which block and which flog group. Beside the medium and not in it: a medium can be shared between threads, and
/// these cannot, though loom runs all threads of a model on one.
struct Cells {
    blocks: Vec<UnsafeCell<()>>,
    flog: Vec<UnsafeCell<()>>,
}

thread_local! {
    static CELLS: RefCell<Rc<Cells>> = RefCell::new(Rc::new(Cells { blocks: Vec::new(), flog: Vec::new() }));
    /// By thread: the entry that it looked at last.
    static LOOKED: Cell<[Option<(u64, u32)>; 8]> = const { Cell::new([None; 8]) };
}

/// The medium.
#[derive(Clone)]
pub(crate) struct Words {
    inner: Arc<Inner>,
}

struct Inner {
    layout: ArenaLayout,
    domain: Domain,
    /// All bytes.
    memory: Vec<AtomicU64>,
    /// The same, as far as they have reached the file.
    file: Vec<AtomicU64>,
    /// The map, as threads see it.
    map: Vec<AtomicU32>,
    /// Stores and msyncs, in whose order lies what reaches the file.
    turns: AtomicU32,
}

impl Words {
    /// A fresh arena: all sectors zero. It has as many sectors as lanes at least.
    pub(crate) fn new(sectors: u32, lanes: u32, domain: Domain) -> Words {
        let layout = layout(sectors, lanes);
        let words = || (0..layout.size / 8).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let cells = |count: u32| (0..count).map(|_| UnsafeCell::new(())).collect();
        CELLS.set(Rc::new(Cells { blocks: cells(layout.internal_nlba), flog: cells(lanes) }));
        LOOKED.set([None; 8]);
        let map = (0..sectors).map(|_| AtomicU32::new(0)).collect();
        let (memory, file) = (words(), words());
        let words =
            Words { inner: Arc::new(Inner { layout, domain, memory, file, map, turns: AtomicU32::new(0) }) };
        for lane in 0..lanes {
            let at = layout.flog_group(lane).unwrap() / 8;
            let halves = fresh_flog(&layout, lane).into_iter().flat_map(FlogRecord::halves);
            for (n, half) in (0..).zip(halves) {
                words.put(at + n, half);
            }
        }
        words.sync();
        words
    }

    /// Attaches to it.
    pub(crate) fn open(&self) -> Btt<Words> {
        let layout = self.inner.layout;
        let info = Info { uuid: Uuid::nil(), parent: Uuid::nil(), flags: 0, version: Version::V2_0, layout };
        let mut options = OpenOptions::new("model", Version::V2_0, Uuid::nil());
        options.zero_entries = true;
        attach(self.clone(), options, vec![info], false).unwrap()
    }

    fn put(&self, word: u64, value: u64) {
        self.inner.memory[usize::try_from(word).unwrap()].store(value, Ordering::Relaxed);
    }

    /// A place where it matters for the file who comes first.
    #[track_caller]
    fn turn(&self) {
        if self.inner.domain == Domain::PageCache {
            self.inner.turns.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What an msync does.
    fn sync(&self) {
        for (from, to) in self.inner.memory.iter().zip(&self.inner.file) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// The sectors that recovery would find now, in memory or in the file. Proves the tables one-to-one on the way.
    pub(crate) fn recovered(&self) -> Vec<u8> {
        let inner = &self.inner;
        let words = if inner.domain == Domain::PageCache { &inner.file } else { &inner.memory };
        let bytes = words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect();
        Frozen(bytes).sectors(&inner.layout)
    }

    fn block(&self, at: MediaOffset) -> Option<usize> {
        (at.0 < self.inner.layout.mapoff).then(|| usize::try_from(at.0).unwrap() / SECTOR)
    }

    fn sector(&self, at: MediaOffset) -> usize {
        usize::try_from(at.0 - self.inner.layout.mapoff).unwrap() / 4
    }

    /// Says that this thread is at these bytes, for change or not. loom panics if another one may be.
    #[track_caller]
    fn touch(&self, at: MediaOffset, change: bool) {
        let cells = CELLS.with_borrow(Rc::clone);
        let cell = match self.block(at) {
            Some(block) => &cells.blocks[block],
            // The map is read as a whole when nobody else is there yet.
            None if at.0 < self.inner.layout.logoff => return,
            None => &cells.flog[usize::try_from(at.0 - self.inner.layout.logoff).unwrap() / 64],
        };
        if change { cell.with_mut(|_| ()) } else { cell.with(|_| ()) }
    }

    fn looked(entry: Option<(u64, u32)>) -> Option<(u64, u32)> {
        let mut all = LOOKED.get();
        let before = std::mem::replace(&mut all[thread_number()], entry);
        LOOKED.set(all);
        before
    }
}

impl Media for Words {
    fn len(&self) -> u64 {
        self.inner.layout.size
    }

    fn read_only(&self) -> bool {
        false
    }

    fn domain(&self) -> Domain {
        self.inner.domain
    }

    fn read(&self, at: MediaOffset, into: &mut [u8]) -> Result<()> {
        Words::looked(None);
        self.touch(at, false);
        for (n, word) in into.chunks_mut(8).enumerate() {
            let from = &self.inner.memory[usize::try_from(at.0 / 8).unwrap() + n];
            word.copy_from_slice(&from.load(Ordering::Relaxed).to_le_bytes()[..word.len()]);
        }
        Ok(())
    }

    fn store(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.stream(at, from)
    }

    fn stream(&self, at: MediaOffset, from: &[u8]) -> Result<()> {
        self.turn();
        self.touch(at, true);
        for (n, word) in (0..).zip(from.chunks_exact(8)) {
            self.put(at.0 / 8 + n, u64::from_le_bytes(word.try_into().unwrap()));
        }
        Ok(())
    }

    fn zero(&self, _: MediaOffset, _: u64) -> Result<()> {
        unreachable!("nothing is lost in a model")
    }

    fn load_u32(&self, at: MediaOffset) -> Result<u32> {
        let seen = self.inner.map[self.sector(at)].load(Ordering::Acquire);
        match Words::looked(Some((at.0, seen))) {
            Some((before, first)) if before == at.0 && broken(Break::Look) => Ok(first),
            _ => Ok(seen),
        }
    }

    fn store_u32(&self, at: MediaOffset, value: u32) -> Result<()> {
        Words::looked(None);
        self.turn();
        // As in memory, as the file will have it. Whoever stores has claimed the entry.
        let word = &self.inner.memory[usize::try_from(at.0 / 8).unwrap()];
        let shift = (at.0 % 8) * 8;
        let others = word.load(Ordering::Relaxed) & !(u64::from(u32::MAX) << shift);
        word.store(others | u64::from(value) << shift, Ordering::Relaxed);
        self.inner.map[self.sector(at)].store(value, Ordering::Release);
        Ok(())
    }

    fn load_u64(&self, _: MediaOffset) -> Result<u64> {
        unreachable!("the engine loads no u64")
    }

    fn store_u64(&self, at: MediaOffset, value: u64) -> Result<()> {
        self.turn();
        self.touch(at, true);
        self.put(at.0 / 8, value);
        Ok(())
    }

    fn flush(&self, _: MediaOffset, _: u64) -> Result<()> {
        Ok(())
    }

    fn drain(&self) -> Result<()> {
        if self.inner.domain == Domain::PageCache {
            self.turn();
            self.sync();
        }
        Ok(())
    }

    fn badblocks(&self, _: MediaOffset, _: u64) -> Vec<(u64, u64)> {
        Vec::new()
    }

    fn name(&self) -> String {
        "model".to_owned()
    }
}

/// Bytes at a moment.
struct Frozen(Vec<u8>);

impl Frozen {
    fn at(&self, at: MediaOffset, len: usize) -> &[u8] {
        let at = usize::try_from(at.0).unwrap();
        &self.0[at..at + len]
    }

    /// What recovery makes of them.
    fn sectors(&self, layout: &ArenaLayout) -> Vec<u8> {
        let start = MediaOffset(0);
        let found = crate::recover::recover(self, start, layout).unwrap();
        crate::audit::audit(self, start, layout, &found.redo, &found.free).unwrap();
        let sectors = (0..layout.external_nlba).map(Premap).map(|premap| {
            let entry = found.redo.get(&premap).copied().unwrap_or_else(|| {
                MapEntry(self.load_u32(MediaOffset(layout.map_entry(premap).unwrap())).unwrap())
            });
            if matches!(entry.state(), MapState::Zero(_)) {
                return 0;
            }
            let data = self.at(MediaOffset(layout.data(entry.block(premap)).unwrap()), SECTOR);
            assert!(data.iter().all(|byte| *byte == data[0]), "sector {premap} is torn");
            data[0]
        });
        sectors.collect()
    }
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
        into.copy_from_slice(self.at(at, into.len()));
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
        Ok(u32::from_le_bytes(self.at(at, 4).try_into().unwrap()))
    }
    fn store_u32(&self, _: MediaOffset, _: u32) -> Result<()> {
        unreachable!("frozen")
    }
    fn load_u64(&self, at: MediaOffset) -> Result<u64> {
        Ok(u64::from_le_bytes(self.at(at, 8).try_into().unwrap()))
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
        "model".to_owned()
    }
}
