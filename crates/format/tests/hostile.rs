// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes that nobody should believe: parsers neither panic nor give out a structure that does not hold together.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use nvstack_format::btt::{
    self, ARENA_MAX, ARENA_MIN, ArenaLayout, FlogRecord, LbaSize, detect_padding, judge,
};
use nvstack_format::label::{AreaLayout, Flags, Index, IndexHeader, Label, Name, Version, next_seq};
use nvstack_format::pfn::{self, Geometry, Mode, Place};
use nvstack_format::{Block, Dpa, Premap, fletcher64_without};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use uuid::Uuid;

const PARENT: Uuid = Uuid::from_u128(7);

fn versions() -> impl Strategy<Value = btt::Version> {
    select(vec![btt::Version::V1_1, btt::Version::V2_0])
}

fn btt_infos() -> impl Strategy<Value = (btt::Info, u64)> {
    let sizes = prop_oneof![ARENA_MIN..ARENA_MIN * 64, ARENA_MIN..=ARENA_MAX];
    (sizes, select(LbaSize::ALL.to_vec()), versions(), any::<(u128, bool, u32, bool)>()).prop_map(
        |(size, lbasize, version, (uuid, parent, flags, more))| {
            let size = if more { size - size % 4096 } else { size };
            let nextoff = if more { size } else { 0 };
            let layout = ArenaLayout::compute(size, lbasize, nextoff).unwrap();
            let parent = if parent { PARENT } else { Uuid::nil() };
            let room = if more { size + ARENA_MIN } else { size };
            (btt::Info { uuid: Uuid::from_u128(uuid), parent, flags, version, layout }, room)
        },
    )
}

/// Numbers that tend to break arithmetic, and small ones.
fn numbers() -> impl Strategy<Value = u64> {
    let edges = [
        0,
        1,
        255,
        256,
        511,
        512,
        4095,
        4096,
        0xffff_ffff,
        1 << 30,
        1 << 32,
        1 << 39,
        u64::MAX,
        u64::MAX - 4095,
    ];
    prop_oneof![select(edges.to_vec()), any::<u64>(), 0..1u64 << 40, (0..1u64 << 27).prop_map(|n| n << 12)]
}

/// Everything that an accepted arena promises.
fn holds_together(layout: &ArenaLayout, room: u64) {
    let end =
        |start: u64, count: u64, step: u64| start.checked_add(count.checked_mul(step).unwrap()).unwrap();
    let blocks = u64::from(layout.internal_nlba);
    assert!(layout.external_nlba > 0 && layout.external_nlba + layout.nfree == layout.internal_nlba);
    assert!(layout.nfree >= 256 && blocks <= 1 << 30);
    assert!(layout.dataoff >= 4096);
    assert!(end(layout.dataoff, blocks, layout.lbasize.internal().into()) <= layout.mapoff);
    assert!(end(layout.mapoff, layout.external_nlba.into(), 4) <= layout.logoff);
    assert!(end(layout.logoff, layout.nfree.into(), 64) <= layout.info2off);
    assert!(layout.info2off + 4096 <= layout.size && layout.size <= room && layout.size <= ARENA_MAX);
    if layout.nextoff != 0 {
        assert!(layout.nextoff == layout.size && layout.nextoff + ARENA_MIN <= room);
    }
    for offset in [layout.dataoff, layout.mapoff, layout.logoff, layout.info2off, layout.nextoff] {
        assert_eq!(offset % 4096, 0);
    }
    let last = layout.data(Block(layout.internal_nlba - 1)).unwrap();
    assert!(last + u64::from(layout.lbasize.internal()) <= layout.mapoff);
    assert!(layout.map_entry(Premap(layout.external_nlba - 1)).unwrap() + 4 <= layout.logoff);
    assert!(layout.flog_group(layout.nfree - 1).unwrap() + 64 <= layout.info2off);
}

fn seal(raw: &mut [u8], at: usize) {
    let sum = fletcher64_without(raw, at);
    raw[at..at + 8].copy_from_slice(&sum.to_le_bytes());
}

fn labels() -> impl Strategy<Value = Label> {
    let name = "[a-z0-9]{0,63}";
    (any::<([u8; 16], u32, u16, u16, [u64; 4], u32)>(), name, any::<(u8, u128, u128)>()).prop_map(
        |(
            (uuid, flags, nlabel, position, [cookie, lbasize, dpa, rawsize], slot),
            name,
            (align, kind, class),
        )| Label {
            uuid: Uuid::from_bytes(uuid),
            name: Name::new(&name).unwrap(),
            flags: Flags::from_bits_retain(flags),
            nlabel,
            position,
            isetcookie: cookie,
            lbasize,
            dpa: Dpa(dpa),
            rawsize,
            slot,
            align,
            type_guid: Uuid::from_u128(kind),
            abstraction: Uuid::from_u128(class),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn btt_round_trip((info, room) in btt_infos(), extra in 0..1u64 << 40) {
        holds_together(&info.layout, room);
        prop_assert_eq!(btt::Info::parse(&info.encode(), info.version, PARENT, room), Ok(info.clone()));
        let more = btt::Info::parse(&info.encode(), info.version, PARENT, room + extra);
        prop_assert_eq!(more.unwrap().layout, info.layout);
        let least = info.layout.info2off + 4096 + if info.layout.nextoff == 0 { 0 } else { ARENA_MIN };
        let short = btt::Info::parse(&info.encode(), info.version, PARENT, least - 1);
        prop_assert!(matches!(short, Err(btt::Rejected::Corrupt(_))), "an arena larger than its namespace");
    }

    /// Fields changed under a good checksum: an arena that is accepted all the same holds together.
    #[test]
    fn btt_fields_are_checked_against_each_other(
        (info, room) in btt_infos(),
        fields in vec((0usize..17, numbers()), 1..4),
        cut in any::<bool>(),
    ) {
        let places = [(56, 4), (60, 4), (64, 4), (68, 4), (72, 4), (76, 4), (80, 8), (88, 8), (96, 8), (104, 8), (112, 8)];
        let mut raw = info.encode();
        for (field, value) in fields {
            // Each field is met more often than the many bytes that do not matter.
            let (at, len) = *places.get(field % 12).unwrap_or(&(4000, 8));
            raw[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
        }
        seal(&mut raw, 4088);
        let room = if cut { room / 2 } else { room };
        match btt::Info::parse(&raw, info.version, PARENT, room) {
            Ok(found) => holds_together(&found.layout, room),
            Err(refusal) => prop_assert!(matches!(refusal, btt::Rejected::Corrupt(_)), "{}", refusal),
        }
    }

    #[test]
    fn one_flipped_bit_is_seen((info, room) in btt_infos(), bit in 0usize..4096 * 8) {
        let mut raw = info.encode();
        raw[bit / 8] ^= 1 << (bit % 8);
        let refused = btt::Info::parse(&raw, info.version, PARENT, room);
        prop_assert!(matches!(refused, Err(btt::Rejected::NotBtt(_))));
    }

    #[test]
    fn random_info_blocks(bytes in vec(any::<u8>(), 4096), sealed in any::<bool>(), room in numbers(), kind in 0..3) {
        let mut raw: [u8; 4096] = bytes.try_into().unwrap();
        let signature = [btt::SIGNATURE, pfn::Kind::Fsdax.signature(), pfn::Kind::Devdax.signature()];
        raw[..16].copy_from_slice(&signature[usize::try_from(kind).unwrap()]);
        raw[52..54].copy_from_slice(&1u16.to_le_bytes());
        raw[32..48].copy_from_slice(PARENT.as_bytes());
        if sealed {
            seal(&mut raw, 4088);
        }
        let _ = btt::Info::parse(&raw, btt::Version::V1_1, PARENT, room);
        for (kind, start) in [(pfn::Kind::Fsdax, None), (pfn::Kind::Devdax, Some(room))] {
            let _ = pfn::Info::parse(&raw, kind, PARENT, Place { start, size: room });
        }
    }

    #[test]
    fn pfn_fields_are_checked_against_each_other(
        fields in vec((0usize..9, numbers()), 1..4),
        mode in 1u32..3,
        start in prop_oneof![Just(None), Just(Some(1u64 << 32)), numbers().prop_map(Some)],
        size in prop_oneof![Just(64u64 << 20), numbers()],
    ) {
        let geometry = Geometry::compute(Place { start: None, size: 64 << 20 }, Mode::Pmem, 2 << 20).unwrap();
        let mut raw = pfn::Info::new(pfn::Kind::Fsdax, PARENT, PARENT, Mode::Pmem, geometry).encode();
        raw[72..76].copy_from_slice(&mode.to_le_bytes());
        let places = [(54, 2), (56, 8), (64, 8), (76, 4), (80, 4), (84, 4), (88, 4), (92, 2), (48, 4)];
        for (field, value) in fields {
            let (at, len) = places[field];
            raw[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
        }
        seal(&mut raw, 4088);
        if let Ok(info) = pfn::Info::parse(&raw, pfn::Kind::Fsdax, PARENT, Place { start, size }) {
            let (from, len) = (info.geometry.data_start(), info.geometry.data_len(size));
            prop_assert!(len > 0 && from >= 8192 && from.checked_add(len).unwrap() <= size);
            prop_assert_eq!(pfn::Info::parse(&info.encode(), pfn::Kind::Fsdax, PARENT, Place { start, size }), Ok(info));
        }
    }

    #[test]
    fn flogs_of_any_bytes(words in vec(any::<[u64; 2]>(), 8), zeros in vec(any::<bool>(), 8), seqs in any::<[u8; 2]>()) {
        let records: Vec<FlogRecord> = words.iter().zip(&zeros)
            .map(|(halves, zero)| if *zero { FlogRecord::default() } else { FlogRecord::from_halves(*halves) })
            .collect();
        for (record, halves) in records.iter().zip(&words).filter(|(r, _)| !r.is_padding()) {
            prop_assert_eq!(record.halves(), *halves);
        }
        let groups = records.chunks(4).map(|g| <[FlogRecord; 4]>::try_from(g).unwrap());
        let _ = detect_padding(groups);
        let pair = [0, 1].map(|i| FlogRecord { seq: u32::from(seqs[i] % 6), ..records[i] });
        if let Ok(state) = judge(pair) {
            prop_assert_eq!(pair[state.current], state.record);
            prop_assert!((1..=3).contains(&state.next_seq));
        }
    }

    #[test]
    fn label_round_trip(label in labels()) {
        let raw = label.encode(Version::V1_2);
        prop_assert_eq!(raw.len(), 256);
        prop_assert_eq!(Label::parse(&raw, Version::V1_2, label.slot), Ok(label));
        let _ = label.check(Version::V1_2);
        let old = Label { align: 0, type_guid: Uuid::nil(), abstraction: Uuid::nil(), ..label };
        let raw = label.encode(Version::V1_1);
        prop_assert_eq!(raw.len(), 128);
        prop_assert_eq!(Label::parse(&raw, Version::V1_1, label.slot), Ok(old));
    }

    #[test]
    fn random_labels(bytes in vec(any::<u8>(), 0..300), slot in any::<u32>()) {
        let _ = IndexHeader::decode(&bytes);
        for version in Version::ALL {
            let _ = Label::parse(&bytes, version, slot);
            if let Some(label) = Label::decode(&bytes, version) {
                let _ = (label.check(version), label.end(), label.claim(), label.name.to_string());
                prop_assert!(Label::decode(&label.encode(version), version) == Some(label));
            }
        }
    }

    #[test]
    fn index_blocks(
        size in prop_oneof![1024u64..4096, 1024u64..4 << 20],
        second in any::<bool>(),
        seq in 1u32..4,
        marks in vec(any::<u32>(), 0..20),
        fields in vec((0usize..10, numbers()), 0..3),
    ) {
        for version in Version::ALL {
            let layout = AreaLayout::compute(size, version).unwrap();
            let number = usize::from(second);
            let mut index = Index::fresh(layout, number, seq);
            for slot in &marks {
                index.mark(slot % (layout.slots + 1), false);
            }
            let mut raw = index.encode();
            prop_assert_eq!(u64::try_from(raw.len()).unwrap(), layout.index_len);
            prop_assert_eq!(Index::parse(&raw, &layout, number), Ok(index.clone()));
            prop_assert!(index.used().count() <= marks.len());
            prop_assert_eq!(index.used().count() + index.free().count(), usize::try_from(layout.slots).unwrap());
            let next = index.successor();
            prop_assert_eq!((next.number(), next.seq()), (1 - number, next_seq(seq)));
            prop_assert!(next.used().eq(index.used()));

            let places = [(16, 3), (19, 1), (20, 4), (24, 8), (32, 8), (40, 8), (48, 8), (56, 4), (60, 2), (62, 2)];
            for (field, value) in &fields {
                let (at, len) = places[*field];
                raw[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
            }
            seal(&mut raw, 64);
            if let Ok(found) = Index::parse(&raw, &layout, number) {
                prop_assert!(found.nslot() <= layout.slots && (1..=3).contains(&found.seq()));
                prop_assert!(found.used().all(|slot| layout.slot(slot).is_some()));
            }
        }
    }

    #[test]
    fn geometry_of_any_numbers(size in numbers(), start in numbers(), align in any::<u32>(), lbasize in any::<u32>()) {
        let _ = Geometry::compute(Place { start: Some(start), size }, Mode::Pmem, align);
        let _ = Geometry::compute(Place { start: None, size }, Mode::Ram, 1 << (align % 32));
        for version in Version::ALL {
            if let Ok(area) = AreaLayout::compute(size, version) {
                let end = area.slot(area.slots - 1).unwrap() + u64::from(version.label_len());
                prop_assert!(end <= size);
                let _ = area.made_for(align);
            }
        }
        let _ = LbaSize::new(lbasize);
        for lbasize in LbaSize::ALL {
            if let Ok(arena) = ArenaLayout::compute(size, lbasize, if start % 2 == 0 { 0 } else { start }) {
                holds_together(&arena, size.saturating_add(ARENA_MIN));
            }
        }
    }
}
