// SPDX-License-Identifier: MIT OR Apache-2.0
//! A second, independent reading of the BTT layout, for judging what a writer changed in an image. It trusts the image
//! (which a test made) and shares no code with the crates that it judges. All offsets are those of the image file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::report::{Context, Failure, Result, ensure};

/// Where the info block of the first arena lies: BTT 1.1 (label-less and labels 1.1) or BTT 2.0 (labels 1.2).
const INFO_OFFSETS: [u64; 2] = [4096, 0];
const SIGNATURE: &[u8] = b"BTT_ARENA_INFO\0\0";
const FLOG_GROUP: u64 = 64;

/// How many sectors the arenas of a device have, by the format's own arithmetic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// External LBAs of each arena.
    pub(crate) arenas: Vec<u64>,
}

impl Geometry {
    /// For this many bytes from the first info block to the end of the namespace.
    pub(crate) fn of(mut bytes: u64, sector_size: u64) -> Geometry {
        const ARENA_MIN: u64 = 16 << 20;
        const ARENA_MAX: u64 = 512 << 30;
        const PAGE: u64 = 4096;
        const NFREE: u64 = 256;
        let mut arenas = Vec::new();
        while bytes >= ARENA_MIN {
            let arena = bytes.min(ARENA_MAX);
            // Two info blocks, the flog, and a page for rounding the map.
            let usable = arena / PAGE * PAGE - 2 * PAGE - (NFREE * FLOG_GROUP).next_multiple_of(PAGE) - PAGE;
            arenas.push(usable / (sector_size.next_multiple_of(64) + 4) - NFREE);
            bytes -= arena;
        }
        Geometry { arenas }
    }

    /// External LBAs of all arenas together.
    pub(crate) fn sectors(&self) -> u64 {
        self.arenas.iter().sum()
    }
}

/// One arena of one image.
#[derive(Debug)]
pub(crate) struct Arena {
    bytes: Vec<u8>,
    start: u64,
    external_nlba: u64,
    internal_size: u64,
    nfree: u64,
    data: u64,
    map: u64,
    flog: u64,
}

impl Arena {
    /// Reads the first arena of a small image.
    pub(crate) fn read(path: &Path) -> Result<Arena> {
        let bytes = std::fs::read(path).context(path.display())?;
        for start in INFO_OFFSETS {
            let field = |at: u64| u64::from(word(&bytes, start + at));
            let long = |at: u64| start + field(at) + (field(at + 4) << 32);
            if bytes.get(index(start)..).is_some_and(|tail| tail.starts_with(SIGNATURE)) {
                let (external_nlba, internal_size, nfree) = (field(60), field(64), field(72));
                let (data, map, flog) = (long(88), long(96), long(104));
                return Ok(Arena { start, external_nlba, internal_size, nfree, data, map, flog, bytes });
            }
        }
        Err(format!("{}: no BTT info block at 4096 or 0", path.display()).into())
    }

    /// The internal block that holds this LBA.
    fn block_of(&self, lba: u64) -> u64 {
        let entry = word(&self.bytes, self.map + lba * 4);
        if entry >> 30 == 0 { lba } else { u64::from(entry & 0x3fff_ffff) }
    }

    /// The free block of this lane: what the newer flog record calls old.
    fn free_block(&self, lane: u64) -> u64 {
        let record = |slot: u64| {
            let at = self.flog + lane * FLOG_GROUP + slot * 16;
            (word(&self.bytes, at + 4), word(&self.bytes, at + 12))
        };
        let second = if record(1).1 == 0 && record(2).1 != 0 { 2 } else { 1 };
        let (first, second) = (record(0), record(second));
        let newer = match (first.1, second.1) {
            (1, 2) | (2, 3) | (3, 1) | (0, _) => second,
            _ => first,
        };
        u64::from(newer.0 & 0x3fff_ffff)
    }

    /// Every internal block is either mapped once or free once.
    fn check(&self) -> Result<()> {
        let mut seen = BTreeSet::new();
        let blocks = (0..self.external_nlba).map(|lba| self.block_of(lba));
        for block in blocks.chain((0..self.nfree).map(|lane| self.free_block(lane))) {
            ensure(seen.insert(block), || format!("internal block {block} is used twice"))?;
            ensure(block < self.external_nlba + self.nfree, || {
                format!("internal block {block} does not exist")
            })?;
        }
        Ok(())
    }
}

/// Checks that every internal block of a small image's first arena is either mapped once or free once.
pub(crate) fn audit(path: &Path) -> Result<()> {
    Arena::read(path)?.check().context(path.display())
}

/// What a writer changed, when all of it was its to change.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) map_entries: usize,
    pub(crate) flog_groups: usize,
    pub(crate) blocks: usize,
}

/// Compares the same image before and after a writer wrote `written` and nothing else. Allowed to differ are the map
/// entries of these LBAs, the flog groups of the first `lanes` lanes (Linux: one for each CPU), and blocks that were free on
/// these lanes or held one of these LBAs before. Anything else
/// is named with its offset.
pub(crate) fn changes(before: &Path, after: &Path, written: &BTreeSet<u64>, lanes: u64) -> Result<Changes> {
    let (old, new) = (Arena::read(before)?, Arena::read(after)?);
    ensure(old.bytes.len() == new.bytes.len(), || "the length changed".to_owned())?;
    let geometry = |arena: &Arena| (arena.start, arena.data, arena.map, arena.flog, arena.external_nlba);
    ensure(geometry(&old) == geometry(&new), || "the geometry changed".to_owned())?;
    new.check().context(format!("{} after", after.display()))?;

    // Who held each internal block before: an LBA, or (None) one of the lanes in use.
    let mut holder: BTreeMap<u64, Option<u64>> =
        (0..lanes).map(|lane| (old.free_block(lane), None)).collect();
    holder.extend((0..old.external_nlba).map(|lba| (old.block_of(lba), Some(lba))));

    let map_end = old.map + old.external_nlba * 4;
    let (data_end, flog_end) = (old.map, old.flog + old.nfree * FLOG_GROUP);
    let mut touched: [BTreeSet<u64>; 3] = Default::default();
    for (at, _) in old.bytes.iter().zip(&new.bytes).enumerate().filter(|(_, (old, new))| old != new) {
        let at = at as u64;
        let stray = |what: String| -> Failure { format!("offset {at}: {what} changed").into() };
        let [map, flog, blocks] = &mut touched;
        if (old.data..data_end).contains(&at) {
            let block = (at - old.data) / old.internal_size;
            match holder.get(&block) {
                Some(None) => {}
                Some(Some(lba)) if written.contains(lba) => {}
                Some(Some(lba)) => {
                    return Err(stray(format!("block {block} of LBA {lba}, which was not written,")));
                }
                None => {
                    return Err(stray(format!("block {block}, free on an unused lane or behind the last,")));
                }
            }
            blocks.insert(block);
        } else if (old.map..map_end).contains(&at) {
            let lba = (at - old.map) / 4;
            if !written.contains(&lba) {
                return Err(stray(format!("the map entry of LBA {lba}, which was not written,")));
            }
            map.insert(lba);
        } else if (old.flog..flog_end).contains(&at) {
            let lane = (at - old.flog) / FLOG_GROUP;
            if lane >= lanes {
                return Err(stray(format!("the flog of lane {lane}, which nobody used,")));
            }
            flog.insert(lane);
        } else {
            return Err(stray("a byte that is neither block, map nor flog".to_owned()));
        }
    }
    let [map, flog, blocks] = touched;
    Ok(Changes { map_entries: map.len(), flog_groups: flog.len(), blocks: blocks.len() })
}

fn index(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

fn word(bytes: &[u8], at: u64) -> u32 {
    let at = index(at);
    bytes
        .get(at..at.saturating_add(4))
        .and_then(|four| <[u8; 4]>::try_from(four).ok())
        .map_or(0, u32::from_le_bytes)
}

/// Flips one bit of a file.
pub(crate) fn damage(path: &Path, at: u64) -> Result<()> {
    let file = File::options().read(true).write(true).open(path).context(path.display())?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).context(path.display())?;
    file.write_all_at(&byte.map(|byte| byte ^ 1), at).context(path.display())
}

/// The offset in the image of the first data byte of this LBA.
pub(crate) fn data_offset(path: &Path, lba: u64) -> Result<u64> {
    let arena = Arena::read(path)?;
    Ok(arena.data + arena.block_of(lba) * arena.internal_size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{recorded, unpack};

    #[test]
    fn geometry_is_what_linux_made() {
        for (name, start) in
            [("sec512-v1.1", 4096), ("sec512-v1.2", 0), ("sec520-v1.1", 4096), ("sec4104-v1.2", 0)]
        {
            let about = recorded(name).expect("recorded");
            let geometry = Geometry::of((32 << 20) - start, about.sector_size);
            assert_eq!(geometry.arenas, [about.sectors], "{name}");
        }
        let two = Geometry::of((512 << 30) + (32 << 20) - 4096, 4096);
        assert_eq!(two.arenas, [134_086_520, 7920]);
    }

    fn put(path: &Path, at: u64, word: u32) {
        let file = File::options().write(true).open(path).expect("open");
        file.write_all_at(&word.to_le_bytes(), at).expect("write");
    }

    #[test]
    fn each_kind_of_stray_change_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let (before, after) = (folder.path().join("before"), folder.path().join("after"));
        let written = BTreeSet::from([7, 200]);
        for name in ["sec4096-v1.2", "sec512-v1.1", "sec520-v1.1"] {
            unpack(&format!("golden/{name}"), &before).expect("unpacks");
            let arena = Arena::read(&before).expect("a BTT");
            let fresh = || {
                std::fs::copy(&before, &after).expect("a copy");
            };
            let verdict = |lanes| changes(&before, &after, &written, lanes).map_err(|why| why.to_string());
            let stray = |at, words: &str| {
                fresh();
                damage(&after, at).expect("a bit");
                let why = verdict(256).expect_err(words);
                assert!(why.contains(words), "{name}: {why}");
            };
            fresh();
            assert_eq!(verdict(2).expect("nothing changed").blocks, 0);
            stray(data_offset(&before, 8).expect("offset"), "LBA 8, which was not written");
            stray(arena.map + 4 * 8, "");
            stray(arena.start + 200, "neither block, map nor flog");
            stray(std::fs::metadata(&before).expect("there").len() - 1, "neither block, map nor flog");

            // A write as a kernel does it on lane 1: data into the free block, flog, map.
            fresh();
            let (free, old) = (arena.free_block(1), arena.block_of(200));
            damage(&after, arena.data + free * arena.internal_size).expect("data");
            let group = arena.flog + FLOG_GROUP;
            let seq = |slot: u64| word(&arena.bytes, group + slot * 16 + 12);
            let (slot, next) = match (seq(0), seq(1)) {
                (1, 0) => (1, 2),
                (1, 2) | (2, 3) | (3, 1) => (0, seq(1) % 3 + 1),
                _ => (1, seq(0) % 3 + 1),
            };
            let old_word = u32::try_from(old).expect("fits");
            let free_word = u32::try_from(free).expect("fits");
            for (at, value) in [(0, 200), (4, old_word), (8, free_word), (12, next)] {
                put(&after, group + slot * 16 + at, value);
            }
            let torn = verdict(2).expect_err("the map does not follow the flog yet");
            assert!(torn.contains("used twice"), "{name}: {torn}");
            put(&after, arena.map + 200 * 4, 0xc000_0000 | free_word);
            let seen = verdict(2).expect("a whole write");
            assert_eq!((seen.map_entries, seen.flog_groups, seen.blocks), (1, 1, 1), "{name}");
            assert!(verdict(1).expect_err("lane 1 is not in use").contains("unused lane"), "{name}");
        }
    }
}
