// SPDX-License-Identifier: MIT OR Apache-2.0
//! BTT geometry, arena splits, checksums and flog rules against precomputed vectors.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use nvstack_format::btt::{
    ARENA_MAX, ARENA_MIN, ArenaLayout, FlogRecord, Info, LbaSize, MapEntry, MapState, Padding, Span, Version,
    detect_padding, fresh_flog, judge, next_seq, split,
};
use nvstack_format::{Block, Premap, fletcher64, fletcher64_without};
use uuid::Uuid;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Arena size, sector size, internal size, internal and external counts, map, flog and backup offsets, bytes of the
/// map, bytes between the last block and the map.
const ARENAS: [[u64; 10]; 42] = [
    [16 * MIB, 512, 512, 32458, 32202, 0xfdb000, 0xffb000, 0xfff000, 131072, 3072],
    [16 * MIB, 520, 576, 28876, 28620, 0xfdf000, 0xffb000, 0xfff000, 114688, 5376],
    [16 * MIB, 528, 576, 28876, 28620, 0xfdf000, 0xffb000, 0xfff000, 114688, 5376],
    [16 * MIB, 4096, 4096, 4085, 3829, 0xff7000, 0xffb000, 0xfff000, 16384, 4096],
    [16 * MIB, 4104, 4160, 4022, 3766, 0xff7000, 0xffb000, 0xfff000, 16384, 4736],
    [16 * MIB, 4160, 4160, 4022, 3766, 0xff7000, 0xffb000, 0xfff000, 16384, 4736],
    [16 * MIB, 4224, 4224, 3961, 3705, 0xff7000, 0xffb000, 0xfff000, 16384, 4992],
    [32 * MIB - 4096, 512, 512, 64964, 64708, 0x1fba000, 0x1ffa000, 0x1ffe000, 262144, 2048],
    [32 * MIB - 4096, 520, 576, 57795, 57539, 0x1fc1000, 0x1ffa000, 0x1ffe000, 233472, 2368],
    [32 * MIB - 4096, 528, 576, 57795, 57539, 0x1fc1000, 0x1ffa000, 0x1ffe000, 233472, 2368],
    [32 * MIB - 4096, 4096, 4096, 8176, 7920, 0x1ff2000, 0x1ffa000, 0x1ffe000, 32768, 4096],
    [32 * MIB - 4096, 4104, 4160, 8050, 7794, 0x1ff2000, 0x1ffa000, 0x1ffe000, 32768, 4992],
    [32 * MIB - 4096, 4160, 4160, 8050, 7794, 0x1ff2000, 0x1ffa000, 0x1ffe000, 32768, 4992],
    [32 * MIB - 4096, 4224, 4224, 7928, 7672, 0x1ff2000, 0x1ffa000, 0x1ffe000, 32768, 5120],
    [64 * MIB, 512, 512, 130000, 129744, 0x3f7c000, 0x3ffb000, 0x3fff000, 520192, 4096],
    [64 * MIB, 520, 576, 115655, 115399, 0x3f8a000, 0x3ffb000, 0x3fff000, 462848, 4160],
    [64 * MIB, 528, 576, 115655, 115399, 0x3f8a000, 0x3ffb000, 0x3fff000, 462848, 4160],
    [64 * MIB, 4096, 4096, 16361, 16105, 0x3feb000, 0x3ffb000, 0x3fff000, 65536, 4096],
    [64 * MIB, 4104, 4160, 16109, 15853, 0x3feb000, 0x3ffb000, 0x3fff000, 65536, 5312],
    [64 * MIB, 4160, 4160, 16109, 15853, 0x3feb000, 0x3ffb000, 0x3fff000, 65536, 5312],
    [64 * MIB, 4224, 4224, 15865, 15609, 0x3feb000, 0x3ffb000, 0x3fff000, 65536, 4992],
    [1024 * MIB, 512, 512, 2080839, 2080583, 0x3f80b000, 0x3fffb000, 0x3ffff000, 8323072, 4608],
    [1024 * MIB, 520, 576, 1851229, 1850973, 0x3f8eb000, 0x3fffb000, 0x3ffff000, 7405568, 3776],
    [1024 * MIB, 528, 576, 1851229, 1850973, 0x3f8eb000, 0x3fffb000, 0x3ffff000, 7405568, 3776],
    [1024 * MIB, 4096, 4096, 261881, 261625, 0x3fefb000, 0x3fffb000, 0x3ffff000, 1048576, 4096],
    [1024 * MIB, 4104, 4160, 257856, 257600, 0x3feff000, 0x3fffb000, 0x3ffff000, 1032192, 4096],
    [1024 * MIB, 4160, 4160, 257856, 257600, 0x3feff000, 0x3fffb000, 0x3ffff000, 1032192, 4096],
    [1024 * MIB, 4224, 4224, 253952, 253696, 0x3ff03000, 0x3fffb000, 0x3ffff000, 1015808, 8192],
    [1024 * MIB - 4096, 512, 512, 2080831, 2080575, 0x3f80a000, 0x3fffa000, 0x3fffe000, 8323072, 4608],
    [1024 * MIB - 4096, 520, 576, 1851222, 1850966, 0x3f8ea000, 0x3fffa000, 0x3fffe000, 7405568, 3712],
    [1024 * MIB - 4096, 528, 576, 1851222, 1850966, 0x3f8ea000, 0x3fffa000, 0x3fffe000, 7405568, 3712],
    [1024 * MIB - 4096, 4096, 4096, 261880, 261624, 0x3fefa000, 0x3fffa000, 0x3fffe000, 1048576, 4096],
    [1024 * MIB - 4096, 4104, 4160, 257855, 257599, 0x3fefe000, 0x3fffa000, 0x3fffe000, 1032192, 4160],
    [1024 * MIB - 4096, 4160, 4160, 257855, 257599, 0x3fefe000, 0x3fffa000, 0x3fffe000, 1032192, 4160],
    [1024 * MIB - 4096, 4224, 4224, 253952, 253696, 0x3ff02000, 0x3fffa000, 0x3fffe000, 1015808, 4096],
    [
        512 * 1024 * MIB,
        512,
        512,
        1065418188,
        1065417932,
        0x7f01fbb000,
        0x7fffffb000,
        0x7ffffff000,
        4261675008,
        2048,
    ],
    [
        512 * 1024 * MIB,
        520,
        576,
        947854802,
        947854546,
        0x7f1e033000,
        0x7fffffb000,
        0x7ffffff000,
        3791421440,
        1920,
    ],
    [
        512 * 1024 * MIB,
        528,
        576,
        947854802,
        947854546,
        0x7f1e033000,
        0x7fffffb000,
        0x7ffffff000,
        3791421440,
        1920,
    ],
    [
        512 * 1024 * MIB,
        4096,
        4096,
        134086776,
        134086520,
        0x7fe007b000,
        0x7fffffb000,
        0x7ffffff000,
        536346624,
        8192,
    ],
    [
        512 * 1024 * MIB,
        4104,
        4160,
        132025885,
        132025629,
        0x7fe0857000,
        0x7fffffb000,
        0x7ffffff000,
        528105472,
        2240,
    ],
    [
        512 * 1024 * MIB,
        4160,
        4160,
        132025885,
        132025629,
        0x7fe0857000,
        0x7fffffb000,
        0x7ffffff000,
        528105472,
        2240,
    ],
    [
        512 * 1024 * MIB,
        4224,
        4224,
        130027385,
        130027129,
        0x7fe0ff7000,
        0x7fffffb000,
        0x7ffffff000,
        520110080,
        4992,
    ],
];

#[test]
fn arena_geometry() {
    for row in ARENAS {
        let [size, lba, internal, internal_nlba, external_nlba, mapoff, logoff, info2off, map, slack] = row;
        let lbasize = LbaSize::new(u32::try_from(lba).unwrap()).unwrap();
        let arena = ArenaLayout::compute(size, lbasize, 0).unwrap();
        assert_eq!(u64::from(lbasize.internal()), internal, "{row:?}");
        assert_eq!(u64::from(arena.internal_nlba), internal_nlba, "{row:?}");
        assert_eq!(u64::from(arena.external_nlba), external_nlba, "{row:?}");
        assert_eq!([arena.dataoff, arena.mapoff], [4096, mapoff], "{row:?}");
        assert_eq!([arena.logoff, arena.info2off], [logoff, info2off], "{row:?}");
        assert_eq!(arena.map_len(), map, "{row:?}");
        assert_eq!(arena.mapoff - arena.dataoff - internal_nlba * internal, slack, "{row:?}");
        assert_eq!((arena.nfree, arena.flog_len(), arena.size), (256, 16384, size), "{row:?}");
    }
}

#[test]
fn places_lie_in_their_regions_and_nowhere_else() {
    for row in ARENAS {
        let lbasize = LbaSize::new(u32::try_from(row[1]).unwrap()).unwrap();
        let arena = ArenaLayout::compute(row[0], lbasize, 0).unwrap();
        assert_eq!(arena.data(Block(0)), Some(arena.dataoff));
        let last = arena.data(Block(arena.internal_nlba - 1)).unwrap();
        assert!(last + u64::from(lbasize.internal()) <= arena.mapoff);
        assert_eq!(arena.data(Block(arena.internal_nlba)), None);
        assert_eq!(arena.map_entry(Premap(1)), Some(arena.mapoff + 4));
        assert!(arena.map_entry(Premap(arena.external_nlba - 1)).unwrap() + 4 <= arena.logoff);
        assert_eq!(arena.map_entry(Premap(arena.external_nlba)), None);
        assert_eq!(arena.flog_group(255), Some(arena.logoff + 255 * 64));
        assert_eq!(arena.flog_group(256), None);
        assert_eq!(arena.data_bytes(), u64::from(arena.external_nlba) * u64::from(lbasize.data()));
    }
}

#[test]
fn sector_sizes() {
    let parts: Vec<[u32; 4]> =
        LbaSize::ALL.map(|s| [s.external(), s.internal(), s.data(), s.metadata()]).to_vec();
    assert_eq!(
        parts,
        [
            [512, 512, 512, 0],
            [520, 576, 512, 8],
            [528, 576, 512, 16],
            [4096, 4096, 4096, 0],
            [4104, 4160, 4096, 8],
            [4160, 4160, 4096, 64],
            [4224, 4224, 4096, 128],
        ]
    );
    for wrong in [0, 1, 511, 576, 1024, 4097, 4100, u32::MAX] {
        let refused = LbaSize::new(wrong).unwrap_err().to_string();
        assert!(refused.contains(&format!("found {wrong}, accepted 512 520 528 4096")), "{refused}");
    }
}

#[test]
fn sizes_that_no_arena_can_have() {
    for size in [0, 1, 4096, ARENA_MIN - 1, ARENA_MAX + 1, u64::MAX] {
        for lbasize in LbaSize::ALL {
            assert!(ArenaLayout::compute(size, lbasize, 0).is_err(), "{size}");
        }
    }
    // Bytes past the last full page change nothing, and a successor must start where this arena ends.
    let lbasize = LbaSize::new(512).unwrap();
    let whole = ArenaLayout::compute(ARENA_MIN, lbasize, 0).unwrap();
    assert_eq!(ArenaLayout::compute(ARENA_MIN + 4095, lbasize, 0).unwrap(), whole);
    assert_eq!(ArenaLayout::compute(ARENA_MAX, lbasize, ARENA_MAX).unwrap().nextoff, ARENA_MAX);
    assert!(ArenaLayout::compute(ARENA_MAX, lbasize, ARENA_MIN).is_err());
}

#[test]
fn namespaces_split_into_arenas() {
    let spans =
        |raw| split(raw).map(|Span { offset, size, nextoff }| (offset, size, nextoff)).collect::<Vec<_>>();
    assert_eq!(spans(512 * GIB + 8 * MIB), [(0, 512 * GIB, 0)]);
    assert_eq!(spans(512 * GIB + 16 * MIB - 4096), [(0, 512 * GIB, 0)]);
    assert_eq!(spans(512 * GIB + 16 * MIB), [(0, 512 * GIB, 512 * GIB), (512 * GIB, 16 * MIB, 0)]);
    assert_eq!(
        spans(1024 * GIB + 32 * MIB),
        [(0, 512 * GIB, 512 * GIB), (512 * GIB, 512 * GIB, 512 * GIB), (1024 * GIB, 32 * MIB, 0)]
    );
    assert_eq!(spans(16 * MIB), [(0, 16 * MIB, 0)]);
    assert_eq!(spans(16 * MIB - 1), []);
    assert_eq!(spans(0), []);
    // Lazy: the largest number costs as much as one takes.
    assert_eq!(split(u64::MAX).nth(1).unwrap().offset, 512 * GIB);
    assert_eq!(split(u64::MAX).count(), 1 << 25);
}

#[test]
fn sum_of_words() {
    assert_eq!(fletcher64(&[1, 0, 0, 0]), 0x0000_0001_0000_0001);
    let counting: Vec<u8> = (0..16).collect();
    assert_eq!(fletcher64(&counting), 0x463c_3228_2420_1c18);
    assert_eq!(fletcher64(&[0xff; 4096]), 0xfff7_fe00_ffff_fc00);
    assert_eq!(fletcher64(&[0; 4096]), 0);
    assert_eq!(fletcher64(&[1, 0, 0, 0, 9, 9, 9]), fletcher64(&[1, 0, 0, 0]), "the tail does not count");
    let mut holed = counting.clone();
    holed[4..12].fill(0);
    assert_eq!(fletcher64_without(&counting, 4), fletcher64(&holed));
}

#[test]
fn info_block_checksums() {
    let uuid = Uuid::from_bytes(std::array::from_fn(|i| u8::try_from(i).unwrap()));
    for (size, lba, version, sum) in [
        (32 * MIB - 4096, 512, Version::V1_1, 0xa56b_b746_2601_b0ab_u64),
        (32 * MIB - 4096, 4096, Version::V1_1, 0xacb3_2dc6_2603_9103),
        (32 * MIB, 512, Version::V2_0, 0xa234_1a39_2600_e0bc),
        (32 * MIB, 4096, Version::V2_0, 0xa97b_5999_2602_c106),
    ] {
        let layout = ArenaLayout::compute(size, LbaSize::new(lba).unwrap(), 0).unwrap();
        let info = Info { uuid, parent: Uuid::nil(), flags: 0, version, layout };
        let raw = info.encode();
        assert_eq!(u64::from_le_bytes(raw[4088..].try_into().unwrap()), sum);
        assert_eq!(Info::parse(&raw, version, Uuid::nil(), size), Ok(info));
    }
}

#[test]
fn regions_that_do_not_hold_what_they_must() {
    const PAGE: u64 = 4096;
    let layout = ArenaLayout::compute(16 * MIB, LbaSize::new(512).unwrap(), 0).unwrap();
    let info =
        Info { uuid: Uuid::from_u128(1), parent: Uuid::nil(), flags: 0, version: Version::V2_0, layout };
    let judged = |patches: &[(usize, u64, usize)]| {
        let mut raw = info.encode();
        for (at, value, len) in patches {
            raw[*at..at + len].copy_from_slice(&value.to_le_bytes()[..*len]);
        }
        let sum = fletcher64_without(&raw, 4088);
        raw[4088..].copy_from_slice(&sum.to_le_bytes());
        Info::parse(&raw, Version::V2_0, Uuid::nil(), 16 * MIB)
    };
    let ArenaLayout { dataoff, mapoff, logoff, info2off, .. } = layout;
    // Less than a page is to spare anywhere in this arena, so that each region can move neither way.
    for (at, value, field) in [
        (88, dataoff - PAGE, "dataoff"),
        (88, dataoff + PAGE, "dataoff"),
        (88, dataoff + 512, "dataoff"),
        (88, u64::MAX - 4095, "dataoff"),
        (96, mapoff - PAGE, "dataoff"),
        (96, mapoff + PAGE, "mapoff"),
        (96, mapoff - 8, "mapoff"),
        (96, 0, "mapoff"),
        (104, logoff - PAGE, "mapoff"),
        (104, logoff + PAGE, "logoff"),
        (104, logoff - 64, "logoff"),
        (112, info2off - PAGE, "info2off"),
        (112, info2off + PAGE, "info2off"),
        (112, 0, "info2off"),
        (80, 16 * MIB, "nextoff"),
        (80, PAGE, "nextoff"),
        (80, u64::MAX, "nextoff"),
    ] {
        let refused = judged(&[(at, value, 8)]).unwrap_err();
        assert_eq!(refused.invalid().field, field, "{refused}");
    }
    let counts =
        |external: u64, nfree: u64| judged(&[(60, external, 4), (68, external + nfree, 4), (72, nfree, 4)]);
    let external = u64::from(layout.external_nlba);
    let held = counts(external - 1, 256).unwrap().layout;
    assert_eq!((held.external_nlba, held.data(Block(held.internal_nlba))), (layout.external_nlba - 1, None));
    for (external, nfree, field) in [
        (external + 7, 256, "dataoff"),
        (32769, 256, "mapoff"),
        (external - 1, 257, "logoff"),
        (external, 255, "nfree"),
        (external, 0, "nfree"),
        (external, 65537, "nfree"),
        (0, 256, "external_nlba"),
        ((1 << 30) - 255, 256, "internal_nlba"),
        (0xffff_ffff, 256, "internal_nlba"),
    ] {
        let refused = counts(external, nfree).unwrap_err();
        assert_eq!(refused.invalid().field, field, "{external} {nfree}: {refused}");
    }
}

#[test]
fn map_entries() {
    let premap = Premap(7);
    for (raw, state, block) in [
        (0, MapState::Initial, 7),
        (5, MapState::Initial, 7),
        (0x4000_0005, MapState::Error(Block(5)), 5),
        (0x8000_0005, MapState::Zero(Block(5)), 5),
        (0xc000_0005, MapState::Normal(Block(5)), 5),
        (0xffff_ffff, MapState::Normal(Block(0x3fff_ffff)), 0x3fff_ffff),
    ] {
        assert_eq!(MapEntry(raw).state(), state);
        assert_eq!(MapEntry(raw).block(premap), Block(block));
    }
    assert_eq!(MapEntry::normal(Block(5)), MapEntry(0xc000_0005));
    assert_eq!(MapEntry::error(Block(5)), MapEntry(0x4000_0005));
    assert_eq!(MapEntry::zero(Block(5)), MapEntry(0x8000_0005));
}

fn record(seq: u32) -> FlogRecord {
    FlogRecord { lba: 1, old_map: 2, new_map: 3, seq }
}

#[test]
fn flog_records() {
    let r = FlogRecord { lba: 0x0403_0201, old_map: 0x4000_0002, new_map: 0xc000_0003, seq: 1 };
    assert_eq!(r.halves(), [0x4000_0002_0403_0201, 0x0000_0001_c000_0003]);
    assert_eq!(FlogRecord::from_halves(r.halves()), r);
    assert_eq!((r.old(), r.new(), r.old_had_error()), (Block(2), Block(3), true));
    // Both bits mean "normal" to those who store them; only E alone is an error.
    assert!(!FlogRecord { old_map: 0xc000_0002, ..r }.old_had_error());
    assert!(!FlogRecord { old_map: 0x8000_0002, ..r }.old_had_error());
    assert!(FlogRecord::default().is_padding() && !record(0).is_padding());
}

#[test]
fn the_newer_of_two_records() {
    // The first three are the only pairs in normal operation; then the mirror images.
    for (a, b, current, next) in
        [(1, 2, 1, 3), (2, 3, 1, 1), (3, 1, 1, 2), (2, 1, 0, 3), (3, 2, 0, 1), (1, 3, 0, 2), (1, 0, 0, 2)]
    {
        let state = judge([record(a), record(b)]).unwrap();
        assert_eq!((state.current, state.next_seq), (current, next), "({a},{b})");
        assert_eq!(state.record.seq, [a, b][current]);
    }
    // A first record that counts as never written, whatever the second one holds.
    for b in 1..=3 {
        let state = judge([record(0), record(b)]).unwrap();
        assert_eq!((state.current, state.next_seq), (1, next_seq(b)));
    }
    assert_eq!([1, 2, 3].map(next_seq), [2, 3, 1]);
}

#[test]
fn what_linux_would_lose_is_refused_or_made_whole() {
    for (a, b) in [(0, 0), (1, 1), (2, 2), (3, 3), (7, 1), (2, 5), (4, 1), (1, 4), (0, 4), (u32::MAX, 1)] {
        let refused = judge([record(a), record(b)]).unwrap_err().to_string();
        assert!(refused.contains(&format!("seq at byte 12: found {a} and {b}, accepted")), "{refused}");
    }
    for a in 2..=3 {
        let state = judge([record(a), record(0)]).unwrap();
        assert_eq!((state.current, state.next_seq), (1, 1), "as Linux judges, but not stuck at 0");
        assert!(judge([record(a), FlogRecord::default()]).is_err(), "a block that nobody freed");
    }
}

#[test]
fn the_next_record_is_newer_to_every_reader() {
    // Linux, as observed: 0 in the first is older, a difference of one makes the larger newer, any other the smaller.
    let linux = |a: u32, b: u32| if a == 0 || (a < b) == (a.abs_diff(b) == 1) { 1 } else { 0 };
    for a in 0..=3 {
        for b in 0..=3 {
            let Ok(state) = judge([record(a), record(b)]) else { continue };
            assert_eq!(state.current, linux(a, b), "({a},{b})");
            let mut pair = [record(a), record(b)];
            pair[1 - state.current] = record(state.next_seq);
            assert_eq!(judge(pair).unwrap().current, 1 - state.current, "({a},{b})");
            assert_eq!(linux(pair[0].seq, pair[1].seq), 1 - state.current, "({a},{b})");
        }
    }
}

fn group(used: [u8; 4]) -> [FlogRecord; 4] {
    used.map(|u| if u == 0 { FlogRecord::default() } else { record(1) })
}

#[test]
fn padding_of_flogs() {
    let detect = |groups: &[[u8; 4]]| detect_padding(groups.iter().map(|g| group(*g)));
    assert_eq!(detect(&[[1, 0, 0, 0]; 256]), Ok(Padding::New));
    assert_eq!(detect(&[[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]]), Ok(Padding::New));
    assert_eq!(detect(&[[1, 0, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0]]), Ok(Padding::Old));
    assert_eq!(Padding::New.slots(), [0, 16]);
    assert_eq!(Padding::Old.slots(), [0, 32]);
    for (groups, place) in [
        (vec![[0, 0, 0, 0]; 4], 0),
        (vec![[1, 1, 0, 0], [1, 0, 1, 0]], 64),
        (vec![[1, 0, 0, 0], [1, 0, 0, 1]], 64),
        (vec![[1, 1, 0, 0], [0, 1, 0, 0]], 64),
        (vec![[1, 1, 1, 0]], 0),
        (vec![[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], 128),
    ] {
        let refused = detect(&groups).unwrap_err();
        assert_eq!((refused.field, refused.offset), ("padding", place), "{refused}");
    }
}

#[test]
fn a_new_flog() {
    let layout = ArenaLayout::compute(32 * MIB - 4096, LbaSize::new(4096).unwrap(), 0).unwrap();
    let lane = fresh_flog(&layout, 255);
    assert_eq!(lane[0], FlogRecord { lba: 255, old_map: 7920 + 255, new_map: 7920 + 255, seq: 1 });
    assert!(lane[1..].iter().all(|r| r.is_padding()));
    let state = judge([lane[0], lane[1]]).unwrap();
    assert_eq!((state.current, state.next_seq), (0, 2));
    assert_eq!(detect_padding((0..256).map(|lane| fresh_flog(&layout, lane))), Ok(Padding::New));
}
