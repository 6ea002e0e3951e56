// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lost bytes, as Linux `badblocks` and `nsio_rw_bytes` treat them; and the same through a part of a medium.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::File;

use nvstack_media::{Access, Anon, Error, Kind, Mapping, Media, MediaOffset, Part};

const SIZE: u64 = 256 * 1024;

fn at(offset: u64) -> MediaOffset {
    MediaOffset(offset)
}

/// The same questions to each kind of medium: its bytes, and a way to lose some.
fn on_each(ask: impl Fn(&dyn Media, &dyn Fn(u64, u64))) {
    for memory in [Anon::new(SIZE).unwrap(), Anon::new(SIZE).unwrap().assume_cache()] {
        ask(&memory, &|offset, len| memory.inject_poison(at(offset), len).unwrap());
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(SIZE).unwrap();
    let mapping = Mapping::open(file.path(), Access::ReadWrite).unwrap();
    ask(&mapping, &|offset, len| mapping.inject_poison(at(offset), len).unwrap());
}

fn lost(done: Result<(), Error>, unit: u64) {
    let error = done.unwrap_err();
    assert_eq!((error.kind(), error.offset()), (Kind::Poison, Some(at(unit * 512))), "{error}");
}

#[test]
fn reads_over_lost_bytes_fail_and_name_the_first_lost_unit() {
    on_each(|medium, lose| {
        medium.store(at(0), &[1; 8192]).unwrap();
        lose(1030, 1);
        lose(4096, 512);
        assert_eq!(medium.badblocks(at(0), SIZE), [(2, 1), (8, 1)]);
        assert_eq!(medium.badblocks(at(1535), 1), [(2, 1)]);
        assert_eq!(medium.badblocks(at(1536), 2560), []);
        lost(medium.read(at(0), &mut [0; 8192]), 2);
        lost(medium.read(at(1535), &mut [0; 1]), 2);
        lost(medium.read(at(1536), &mut [0; 8000]), 8);
        lost(medium.load_u32(at(1024)).map(drop), 2);
        lost(medium.load_u64(at(4600)).map(drop), 8);
        medium.read(at(0), &mut [0; 1024]).unwrap();
        medium.read(at(1536), &mut [0; 2560]).unwrap();
        medium.load_u64(at(4608)).unwrap();
        assert!(medium.is_poisoned(at(0), 1025) && !medium.is_poisoned(at(0), 1024));
    });
}

#[test]
fn a_store_heals_what_it_covers_and_tells_what_it_could_not() {
    type Store = fn(&dyn Media, u64, usize) -> Result<(), Error>;
    let ways: [(Store, u8); 3] = [
        (|m, offset, len| m.store(at(offset), &vec![7; len]), 7),
        (|m, offset, len| m.stream(at(offset), &vec![7; len]), 7),
        (|m, offset, len| m.zero(at(offset), len as u64), 0),
    ];
    for (store, byte) in ways {
        on_each(|medium, lose| {
            lose(512, 1024);
            store(medium, 512, 512).unwrap();
            assert_eq!(medium.badblocks(at(0), SIZE), [(2, 1)]);
            store(medium, 0, 2048).unwrap();
            assert_eq!(medium.badblocks(at(0), SIZE), []);

            // Ragged: the covered unit is healed, the touched ones are not, and every byte is moved.
            lose(0, 2048);
            lost(store(medium, 100, 1000), 0);
            assert_eq!(medium.badblocks(at(0), SIZE), [(0, 1), (2, 2)]);
            medium.store(at(1024), &[9; 1024]).unwrap_or_else(|e| panic!("{e}"));
            medium.store(at(0), &[9; 512]).unwrap();
            let mut healed = [1; 512];
            medium.read(at(512), &mut healed).unwrap();
            assert!(healed.iter().all(|b| *b == byte));

            // Large enough for whole pages to be given up.
            lose(0, SIZE);
            lost(store(medium, 100, 200_000), 0);
            assert_eq!(
                medium.badblocks(at(0), SIZE),
                [(0, 1), (200_100 / 512, (SIZE - 200_100 / 512 * 512) / 512)]
            );
            store(medium, 0, SIZE as usize).unwrap();
            let mut all = vec![1; SIZE as usize];
            medium.read(at(0), &mut all).unwrap();
            assert!(all.iter().all(|b| *b == byte));
        });
    }
}

#[test]
fn bytes_are_moved_into_units_that_stay_lost() {
    on_each(|medium, lose| {
        lose(0, 512);
        lost(medium.store(at(8), b"kept"), 0);
        lost(medium.store_u32(at(16), 0x6161_6161), 0);
        lost(medium.store_u64(at(24), 0x6262_6262_6262_6262), 0);
        lost(medium.stream(at(100), &[3; 100]), 0);
        // Healing without moving a byte is not to be had through the trait, so look from beside it.
        medium.zero(at(0), 8).unwrap_err();
    });
    let memory = Anon::new(4096).unwrap();
    memory.inject_poison(at(0), 512).unwrap();
    memory.store(at(8), b"kept").unwrap_err();
    memory.store_u32(at(16), 0x6161_6161).unwrap_err();
    memory.clear_poison(at(0), 512).unwrap();
    let mut bytes = [0; 20];
    memory.read(at(0), &mut bytes).unwrap();
    assert_eq!(&bytes, b"\0\0\0\0\0\0\0\0kept\0\0\0\0aaaa");
}

#[test]
fn clearing_takes_whole_units_only() {
    let memory = Anon::new(4096).unwrap();
    memory.inject_poison(at(0), 4096).unwrap();
    memory.clear_poison(at(1), 1535).unwrap();
    assert_eq!(memory.badblocks(at(0), 4096), [(0, 1), (3, 5)]);
    memory.clear_poison(at(1536), 511).unwrap();
    assert_eq!(memory.badblocks(at(0), 4096), [(0, 1), (3, 5)]);
}

#[test]
fn the_short_last_unit_can_be_healed() {
    let memory = Anon::new(700).unwrap();
    memory.inject_poison(at(699), 1).unwrap();
    assert_eq!(memory.badblocks(at(0), 700), [(1, 1)]);
    memory.store(at(512), &[1; 188]).unwrap();
    assert_eq!(memory.badblocks(at(0), 700), []);
}

#[test]
fn a_part_counts_from_its_start_and_blames_the_whole() {
    let memory = Anon::new(SIZE).unwrap();
    let part = Part::new(&memory, at(8192), 4096).unwrap();
    assert_eq!((part.len(), part.base()), (4096, at(8192)));
    part.store(at(10), b"inside").unwrap();
    part.store_u64(at(64), 77).unwrap();
    let mut six = [0; 6];
    memory.read(at(8202), &mut six).unwrap();
    assert_eq!(&six, b"inside");
    assert_eq!((memory.load_u64(at(8256)).unwrap(), part.load_u64(at(64)).unwrap()), (77, 77));

    memory.inject_poison(at(8192 - 512), 1024).unwrap();
    memory.inject_poison(at(8192 + 1024), 1).unwrap();
    memory.inject_poison(at(8192 + 4000), 9000).unwrap();
    assert_eq!(part.badblocks(at(0), 4096), [(0, 1), (2, 1), (7, 1)]);
    assert_eq!(part.badblocks(at(512), u64::MAX), [(2, 1), (7, 1)]);
    assert_eq!(part.badblocks(at(4096), 1), []);
    assert!(part.is_poisoned(at(511), 1) && !part.is_poisoned(at(512), 512));
    lost(part.read(at(600), &mut [0; 600]), (8192 + 1024) / 512);

    for error in [
        part.read(at(4090), &mut [0; 7]).unwrap_err(),
        part.zero(at(4090), 7).unwrap_err(),
        part.persist(at(4090), 7).unwrap_err(),
    ] {
        assert_eq!((error.kind(), error.offset()), (Kind::OutOfRange, Some(at(8192 + 4090))), "{error}");
        assert!(error.to_string().contains("accepted bytes 8192 to 12288"), "{error}");
    }
    let error = part.load_u64(at(4)).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (Kind::Invalid, Some(at(8196))));
    assert_eq!(part.load_u64(at(u64::MAX - 2)).unwrap_err().kind(), Kind::OutOfRange);
    assert_eq!(Part::new(&memory, at(SIZE - 1), 2).unwrap_err().kind(), Kind::OutOfRange);
    assert_eq!(Part::new(&memory, at(u64::MAX), 2).unwrap_err().kind(), Kind::OutOfRange);

    let inner = Part::new(part, at(1024), 512).unwrap();
    assert_eq!(inner.badblocks(at(0), 512), [(0, 1)]);
    lost(inner.read(at(0), &mut [0; 1]), (8192 + 1024) / 512);
}

#[test]
fn units_of_a_part_that_starts_between_units_are_bad_if_any_byte_is() {
    let memory = Anon::new(16 * 512).unwrap();
    let part = Part::new(&memory, at(700), 4000).unwrap();
    for unit in 0..16u64 {
        memory.inject_poison(at(unit * 512), 512).unwrap();
        let bad = |n: u64| {
            let (start, end) = (700 + n * 512, (700 + (n + 1) * 512).min(4700));
            start < (unit + 1) * 512 && end > unit * 512
        };
        let told: Vec<u64> =
            part.badblocks(at(0), 4000).iter().flat_map(|(n, count)| *n..n + count).collect();
        assert_eq!(told, (0..8).filter(|n| bad(*n)).collect::<Vec<_>>(), "unit {unit}");
        for n in 0..8 {
            assert_eq!(part.badblocks(at(n * 512), 1) == [(n, 1)], bad(n), "unit {unit}");
        }
        memory.clear_poison(at(unit * 512), 512).unwrap();
    }
    // Two runs of the whole meet when they are rounded outward: they are told as one.
    memory.inject_poison(at(3 * 512), 512).unwrap();
    memory.inject_poison(at(5 * 512), 512).unwrap();
    assert_eq!(part.badblocks(at(0), 4000), [(1, 4)]);
}

#[test]
fn a_part_of_a_file_tells_its_path_and_the_place_in_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(64 * 1024).unwrap();
    let mapping = Mapping::open(file.path(), Access::ReadWrite).unwrap();
    let part = Part::new(mapping, at(32 * 1024), 16 * 1024).unwrap();
    assert!(
        part.name().starts_with(file.path().to_str().unwrap()) && part.name().contains("32768"),
        "{}",
        part.name()
    );
    part.zero(at(0), 16 * 1024).unwrap();
    part.store(at(0), &[1; 4096]).unwrap();
    let run = part.extent(at(0), 16 * 1024).unwrap();
    assert_eq!((run.at, run.hole), (at(0), false));
    File::options().write(true).open(file.path()).unwrap().set_len(32 * 1024).unwrap();
    let error = part.load_u32(at(8)).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (Kind::Fault, Some(at(32 * 1024 + 8))));
    assert!(error.to_string().contains("shrank to 32768 bytes"), "{error}");
}
