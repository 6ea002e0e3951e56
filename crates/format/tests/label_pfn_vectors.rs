// SPDX-License-Identifier: MIT OR Apache-2.0
//! Label area geometry, index rules, cookies, GUIDs and PFN geometry against precomputed vectors.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use nvstack_format::btt::Version as BttVersion;
use nvstack_format::guid::{self, ClaimClass};
use nvstack_format::label::{AreaLayout, Flags, Index, Label, Name, Version, next_seq, select};
use nvstack_format::pfn::{self, Geometry, Info, Kind, Mode, Place, Rejected};
use nvstack_format::{Dpa, SetMember, cookies, fletcher64_without};
use uuid::Uuid;

#[test]
fn label_area_geometry() {
    for (size, slots128, index128, slots256, index256) in [
        (1024, 4, 256, 2, 256),
        (2048, 12, 256, 6, 256),
        (4096, 28, 256, 14, 256),
        (16384, 124, 256, 62, 256),
        (65536, 508, 256, 254, 256),
        (131_072, 1020, 256, 510, 256),
        (262_144, 2040, 512, 1022, 256),
        (1_048_576, 8172, 1280, 4090, 768),
    ] {
        let area = |version| AreaLayout::compute(size, version).unwrap();
        let (one, two) = (area(Version::V1_1), area(Version::V1_2));
        assert_eq!([u64::from(one.slots), one.index_len], [slots128, index128], "{size}");
        assert_eq!([u64::from(two.slots), two.index_len], [slots256, index256], "{size}");
        for area in [one, two] {
            assert_eq!(area.slot(0), Some(2 * area.index_len));
            let end = area.slot(area.slots - 1).unwrap() + u64::from(area.version.label_len());
            assert!(end <= size && size - end < u64::from(area.version.label_len()), "{size}");
            assert_eq!(area.slot(area.slots), None);
        }
    }
    for size in [0, 1, 512, 1023, 1 << 32, u64::MAX] {
        for version in Version::ALL {
            let refused = AreaLayout::compute(size, version).unwrap_err().to_string();
            assert!(refused.contains("accepted 1024 to 4294967295 bytes"), "{refused}");
        }
    }
}

#[test]
fn areas_of_older_kernels_are_known_by_their_slots() {
    let area = |version| AreaLayout::compute(131_072, version).unwrap();
    assert!([1020, 1016].iter().all(|n| area(Version::V1_1).made_for(*n)));
    assert!([510, 1016].iter().all(|n| area(Version::V1_2).made_for(*n)));
    assert!(![1019, 1021, 0, 511].iter().any(|n| area(Version::V1_1).made_for(*n)));
}

fn pair(seqs: [u32; 2]) -> [Index; 2] {
    let layout = AreaLayout::compute(131_072, Version::V1_2).unwrap();
    [Index::fresh(layout, 0, seqs[0]), Index::fresh(layout, 1, seqs[1])]
}

#[test]
fn the_newer_index_block() {
    for (first, second, current) in
        [(3, 2, 0), (3, 1, 1), (2, 1, 0), (2, 3, 1), (1, 3, 0), (1, 2, 1), (1, 1, 1), (2, 2, 1), (3, 3, 1)]
    {
        let [a, b] = pair([first, second]);
        assert_eq!(select(Some(&a), Some(&b)), Some(current), "({first},{second})");
        let next = [&a, &b][current].successor();
        assert_eq!(next.number(), 1 - current);
        let after = if current == 0 { select(Some(&a), Some(&next)) } else { select(Some(&next), Some(&b)) };
        assert_eq!(after, Some(1 - current), "an update counts");
        assert_eq!(
            (select(Some(&a), None), select(None, Some(&b)), select(None, None)),
            (Some(0), Some(1), None)
        );
    }
    assert_eq!([1, 2, 3, 5].map(next_seq), [2, 3, 1, 2]);
}

/// An index block with some bytes changed and its checksum made good again.
fn patched(index: &Index, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut raw = index.encode();
    raw[at..at + bytes.len()].copy_from_slice(bytes);
    let sum = fletcher64_without(&raw, 64);
    raw[64..72].copy_from_slice(&sum.to_le_bytes());
    raw
}

#[test]
fn index_blocks_are_judged_as_linux_does() {
    let [index, _] = pair([1, 2]);
    let layout = *index.layout();
    let parse = |at, bytes: &[u8]| Index::parse(&patched(&index, at, bytes), &layout, 0);
    for (at, bytes, field) in [
        (0, &[b'X'][..], "sig"),
        (19, &[0], "labelsize"),
        (19, &[255], "labelsize"),
        (62, &[1], "labelsize"),
        (20, &[0], "seq"),
        (20, &[4], "seq"),
        (24, &[1], "myoff"),
        (40, &[1], "otheroff"),
        (48, &[1], "labeloff"),
        (32, &[71, 0], "mysize"),
        (32, &[1, 1], "mysize"),
        (56, &[0xff, 1], "nslot"),
    ] {
        let refused = parse(at, bytes).unwrap_err();
        assert_eq!(refused.field, field, "{refused}");
    }
    let mut torn = index.encode();
    torn[80] ^= 1;
    assert_eq!(Index::parse(&torn, &layout, 0).unwrap_err().field, "checksum");
    assert_eq!(Index::parse(&index.encode(), &layout, 1).unwrap_err().field, "myoff");
    assert_eq!(Index::parse(&index.encode()[..71], &layout, 0).unwrap_err().field, "size");

    // Accepted: any major version and flags, fewer slots, a larger number in seq whose low bits count.
    assert_eq!(parse(20, &[5]).unwrap().seq(), 1);
    assert_eq!(parse(60, &[9]).unwrap().seq(), 1);
    assert_eq!(parse(16, &[1]).unwrap().seq(), 1);
    let fewer = parse(56, &[10, 0]).unwrap();
    assert_eq!((fewer.nslot(), fewer.free().count(), fewer.is_free(10)), (10, 10, false));
}

#[test]
fn slots_of_an_index_block() {
    let [mut index, _] = pair([1, 2]);
    assert_eq!((index.free().count(), index.used().count()), (510, 0));
    for slot in [0, 9, 509, 510, u32::MAX] {
        index.mark(slot, false);
    }
    assert_eq!(index.used().collect::<Vec<_>>(), [0, 9, 509]);
    assert_eq!(index.free().next(), Some(1));
    index.mark(9, true);
    assert_eq!(index.used().collect::<Vec<_>>(), [0, 509]);
    let again = Index::parse(&index.encode(), index.layout(), 0).unwrap();
    assert_eq!(again, index);
}

fn label() -> Label {
    Label {
        uuid: Uuid::from_u128(1),
        name: Name::new("vol").unwrap(),
        flags: Flags::empty(),
        nlabel: 1,
        position: 0,
        isetcookie: 7,
        lbasize: 512,
        dpa: Dpa(0),
        rawsize: 1 << 24,
        slot: 3,
        align: 0,
        type_guid: guid::PERSISTENT_MEMORY,
        abstraction: guid::BTT2,
    }
}

#[test]
fn labels_that_cannot_be() {
    let good = label();
    good.check(Version::V1_2).unwrap();
    for (label, field) in [
        (Label { uuid: Uuid::nil(), ..good }, "uuid"),
        (Label { nlabel: 0, ..good }, "nlabel"),
        (Label { position: 1, ..good }, "position"),
        (Label { rawsize: 0, ..good }, "rawsize"),
        (Label { dpa: Dpa(u64::MAX), rawsize: 2, ..good }, "rawsize"),
        (Label { type_guid: guid::BTT, ..good }, "type_guid"),
    ] {
        assert_eq!(label.check(Version::V1_2).unwrap_err().field, field);
    }
    let raw = good.encode(Version::V1_2);
    assert_eq!(Label::parse(&raw, Version::V1_2, 3), Ok(good));
    assert_eq!(Label::parse(&raw, Version::V1_2, 2).unwrap_err().field, "slot");
    assert_eq!(Label::parse(&raw[..255], Version::V1_2, 3).unwrap_err().field, "size");
    let mut torn = raw.clone();
    torn[170] = 1;
    assert_eq!(Label::parse(&torn, Version::V1_2, 3).unwrap_err().field, "checksum");
    // A 1.1 label has neither checksum nor GUIDs.
    let old = Label { type_guid: Uuid::nil(), abstraction: Uuid::nil(), ..good };
    assert_eq!(Label::parse(&good.encode(Version::V1_1), Version::V1_1, 3), Ok(old));
    old.check(Version::V1_1).unwrap();
}

#[test]
fn names_of_namespaces() {
    let longest = "n".repeat(63);
    assert_eq!(Name::new(&longest).unwrap().to_string(), longest);
    assert_eq!(Name::new("").unwrap().to_string(), "");
    for wrong in ["n".repeat(64), "a\0b".into(), "n".repeat(1000)] {
        assert_eq!(Name::new(&wrong).unwrap_err().field, "name");
    }
    // On media all 64 bytes may be in use, and need not be text.
    let mut raw = label().encode(Version::V1_1);
    raw[16..80].fill(b'n');
    assert_eq!(Label::decode(&raw, Version::V1_1).unwrap().name.to_string(), "n".repeat(64));
    raw[16..80].fill(0xff);
    assert_eq!(Label::decode(&raw, Version::V1_1).unwrap().name.to_string().chars().count(), 64);
}

#[test]
fn guids() {
    for (guid, media, class) in [
        (guid::BTT, [0xa2, 0x63, 0xed, 0x8a, 0xa2, 0x29, 0x66, 0x4c], ClaimClass::Btt),
        (guid::BTT2, [0xfc, 0x3b, 0x63, 0x18, 0x35, 0x17, 0x17, 0x42], ClaimClass::Btt2),
        (guid::PFN, [0xba, 0x00, 0x64, 0x26, 0x9f, 0xfb, 0x77, 0x46], ClaimClass::Pfn),
        (guid::DAX, [0x9c, 0x6d, 0xa8, 0x97, 0xdd, 0x3c, 0xda, 0x4e], ClaimClass::Dax),
        (Uuid::nil(), [0; 8], ClaimClass::None),
        (
            guid::PERSISTENT_MEMORY,
            [0x79, 0xd3, 0xf0, 0x66, 0xf3, 0xb4, 0x74, 0x40],
            ClaimClass::Unknown(guid::PERSISTENT_MEMORY),
        ),
    ] {
        assert_eq!(guid::to_media(guid)[..8], media);
        assert_eq!(guid::from_media(guid::to_media(guid)), guid);
        assert_eq!((ClaimClass::from_guid(guid), class.guid()), (class, guid));
    }
    assert_eq!(guid::to_media(guid::BTT2)[8..], [0x8a, 0xc9, 0x17, 0x23, 0x92, 0x82, 0xd3, 0xf8]);
    assert_eq!(guid::BTT2.to_string(), "18633bfc-1735-4217-8ac9-17239282d3f8");
    for (class, version, fsdax, devdax) in [
        (ClaimClass::None, Some(BttVersion::V1_1), true, true),
        (ClaimClass::Btt, Some(BttVersion::V1_1), false, false),
        (ClaimClass::Btt2, Some(BttVersion::V2_0), false, false),
        (ClaimClass::Pfn, None, true, false),
        (ClaimClass::Dax, None, false, true),
        (ClaimClass::Unknown(guid::BTT), None, false, false),
    ] {
        assert_eq!(
            (class.btt(), class.holds(Kind::Fsdax), class.holds(Kind::Devdax)),
            (version, fsdax, devdax)
        );
    }
}

#[test]
fn interleave_set_cookies() {
    let members = [0x7856_3412, 0x7956_3412].map(|serial| SetMember {
        region_offset: if serial == 0x7856_3412 { 0 } else { 0x1000 },
        serial,
        vendor: 0x8980,
        date: 0x2018,
        location: 1,
    });
    let set = cookies(&members);
    assert_eq!((set.v1_1, set.v1_2), (0xc4b1_e090_f1ac_7824, 0xd7a7_5f5c_31dd_8b26));
    assert_eq!(cookies(&[members[1], members[0]]), set, "in any order");
    assert_eq!(set.alternative, set.v1_1, "0 and 0x1000 sort alike by number and by bytes");
    // By the bytes of little-endian numbers, 0x100 comes before 0x1.
    let skewed = [1, 0x100].map(|region_offset| SetMember { region_offset, ..members[0] });
    let [as_numbers, as_bytes] = [cookies(&skewed).v1_1, cookies(&skewed).alternative];
    assert_ne!(as_numbers, as_bytes);
}

#[test]
fn pfn_geometry() {
    const GIB: u64 = 1 << 30;
    for (size, mode, align, expected) in [
        (GIB, Mode::Pmem, 4096, Some((18_874_368, 0, 257_536))),
        (GIB, Mode::Pmem, 2_097_152, Some((18_874_368, 0, 257_536))),
        (GIB, Mode::Pmem, 1_073_741_824, None),
        (GIB, Mode::Ram, 4096, Some((2_097_152, 0, 261_632))),
        (GIB, Mode::Ram, 2_097_152, Some((2_097_152, 0, 261_632))),
        (GIB, Mode::Ram, 1_073_741_824, None),
        (16 * GIB, Mode::Pmem, 4096, Some((270_532_608, 0, 4_128_256))),
        (16 * GIB, Mode::Pmem, 2_097_152, Some((270_532_608, 0, 4_128_256))),
        (16 * GIB, Mode::Pmem, 1_073_741_824, Some((1_073_741_824, 0, 3_932_160))),
        (16 * GIB, Mode::Ram, 4096, Some((2_097_152, 0, 4_193_792))),
        (16 * GIB, Mode::Ram, 2_097_152, Some((2_097_152, 0, 4_193_792))),
        (16 * GIB, Mode::Ram, 1_073_741_824, Some((1_073_741_824, 0, 3_932_160))),
        (GIB + (1 << 20), Mode::Pmem, 4096, Some((18_874_368, 1_048_576, 257_536))),
        (GIB + (1 << 20), Mode::Pmem, 2_097_152, Some((18_874_368, 1_048_576, 257_536))),
        (GIB + (1 << 20), Mode::Pmem, 1_073_741_824, None),
        (GIB + (1 << 20), Mode::Ram, 4096, Some((2_097_152, 1_048_576, 261_632))),
        (GIB + (1 << 20), Mode::Ram, 2_097_152, Some((2_097_152, 1_048_576, 261_632))),
        (GIB + (1 << 20), Mode::Ram, 1_073_741_824, None),
    ] {
        let found = Geometry::compute(Place { start: Some(0), size }, mode, align);
        let found = found.ok().map(|g| (g.dataoff, g.end_trunc, g.npfns));
        assert_eq!(found, expected, "{size} {mode} {align}");
    }
    // The physical address counts: 3 GiB from 0x130000000, aligned to 1 GiB.
    let place = Place { start: Some(0x1_3000_0000), size: 3 * GIB };
    let found = Geometry::compute(place, Mode::Pmem, 1 << 30).unwrap();
    assert_eq!((found.dataoff, found.end_trunc), (256 << 20, 768 << 20));
    let info = Info::new(Kind::Fsdax, Uuid::from_u128(1), Uuid::nil(), Mode::Pmem, found);
    assert_eq!(Info::parse(&info.encode(), Kind::Fsdax, Uuid::nil(), place).unwrap(), info);
    for start in [1, 4096, 1 << 20] {
        assert!(Geometry::compute(Place { start: Some(start), size: GIB }, Mode::Ram, 4096).is_err());
    }
    for align in [0, 1, 512, 6144, 3 << 20] {
        assert!(Geometry::compute(Place { start: None, size: GIB }, Mode::Ram, align).is_err());
    }
    for size in [0, 4096, 8192, u64::MAX] {
        let extreme = Place { start: Some(1 << 21), size };
        assert!(Geometry::compute(extreme, Mode::Pmem, 4096).is_err(), "{size}");
    }
}

/// What becomes of an info block with one field changed: made for 64 MiB at a multiple of 1 GiB.
fn pfn_judged(at: usize, bytes: &[u8]) -> Result<Info, Rejected> {
    pfn_patched(&[(at, bytes)])
}

fn pfn_patched(patches: &[(usize, &[u8])]) -> Result<Info, Rejected> {
    let place = Place { start: Some(1 << 32), size: 64 << 20 };
    let geometry = Geometry::compute(place, Mode::Pmem, 2 << 20).unwrap();
    let info = Info::new(Kind::Fsdax, Uuid::from_u128(1), Uuid::from_u128(2), Mode::Pmem, geometry);
    let mut raw = info.encode();
    for (at, bytes) in patches {
        raw[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    let sum = fletcher64_without(&raw, 4088);
    raw[4088..].copy_from_slice(&sum.to_le_bytes());
    Info::parse(&raw, Kind::Fsdax, Uuid::from_u128(2), place)
}

#[test]
fn pfn_blocks_are_judged_as_linux_does() {
    type Reason = fn(Rejected) -> Option<nvstack_format::Invalid>;
    let not_pfn: Reason = |r| if let Rejected::NotPfn(i) = r { Some(i) } else { None };
    let unsupported: Reason = |r| if let Rejected::Unsupported(i) = r { Some(i) } else { None };
    let corrupt: Reason = |r| if let Rejected::Corrupt(i) = r { Some(i) } else { None };
    for (at, bytes, reason, field) in [
        (0, &b"NVDIMM_DAX_INFO"[..], not_pfn, "signature"),
        (32, &[9; 16], not_pfn, "parent_uuid"),
        (32, &[0; 16], not_pfn, "parent_uuid"),
        (72, &[0], corrupt, "mode"),
        (72, &[3], corrupt, "mode"),
        (88, &[0, 0x20], unsupported, "page_size"),
        (92, &[63], unsupported, "page_struct_size"),
        (84, &[3, 0, 0], unsupported, "align"),
        (84, &[0, 0, 0, 0x40], unsupported, "align"),
        (56, &[0, 0x20, 0], unsupported, "dataoff"),
        (56, &[1], unsupported, "dataoff"),
        (56, &[0, 0, 0, 4], unsupported, "dataoff"),
        (56, &[0, 0, 0, 0, 0, 0, 0, 0xff], unsupported, "dataoff"),
        (56, &[0, 0, 0], corrupt, "dataoff"),
        (76, &[0, 0x10], unsupported, "dataoff"),
        (80, &[0, 0x10], unsupported, "end_trunc"),
        (80, &[0xff; 4], unsupported, "dataoff"),
    ] {
        let rejected = pfn_judged(at, bytes).unwrap_err();
        let text = rejected.to_string();
        assert_eq!(reason(rejected).unwrap_or_else(|| panic!("{at}: {text}")).field, field, "{text}");
    }
    let size = 64 << 20;
    // Accepted: other versions and flags, a wrong count of pages, the other mode, larger map entries, whole 2 MiB pads.
    for (at, bytes) in
        [(48, &[1][..]), (52, &[9]), (54, &[9]), (64, &[0; 8]), (72, &[1]), (92, &[128]), (16, &[0; 16])]
    {
        assert_eq!(pfn_judged(at, bytes).unwrap().geometry.data_len(size), 62 << 20, "{at}");
    }
    let padded = pfn_judged(76, &[0, 0, 0x20]).unwrap().geometry;
    assert_eq!((padded.data_start(), padded.data_len(size)), (4 << 20, 60 << 20));
    let cut = pfn_judged(80, &[0, 0, 0x20]).unwrap().geometry;
    assert_eq!((cut.data_start(), cut.data_len(size)), (2 << 20, 60 << 20));
    // What older minors did not have reads as its default, whatever the bytes hold.
    let old = pfn_judged(54, &[0]).unwrap();
    assert_eq!((old.geometry.align, old.geometry.start_pad, old.page_size), (2 << 20, 0, 4096));
    // Minor 1 has the pads, 2 the alignment, 4 the page sizes.
    let strange: [(usize, &[u8]); 4] =
        [(76, &[0, 0, 0x20]), (84, &[0, 0x10, 0]), (88, &[0, 0x20]), (92, &[1])];
    for (minor, pad, align) in
        [(0, 0, 2 << 20), (1, 2 << 20, 2 << 20), (2, 2 << 20, 4096), (3, 2 << 20, 4096)]
    {
        let found = pfn_patched(&[&[(54, &[minor][..])][..], &strange[..]].concat()).unwrap();
        assert_eq!((found.geometry.start_pad, found.geometry.align), (pad, align), "minor {minor}");
        assert_eq!((found.page_size, found.page_struct_size), (4096, 64), "minor {minor}");
    }
    assert!(pfn_patched(&strange).is_err());
    assert_eq!(pfn_judged(84, &[0; 4]).unwrap().geometry.align, 2 << 20);
    assert_eq!(pfn::INFO_OFFSET + 4096, pfn::RESERVE);
}
