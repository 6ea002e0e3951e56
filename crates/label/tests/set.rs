// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changing namespaces over several DIMMs: what is refused is refused before anything is written, on any of them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{all, image, label, list, number, tail};
use nvstack_format::guid::{self, ClaimClass};
use nvstack_format::label::{Flags, Label, Name, Version};
use nvstack_format::{Cookies, Dpa, SetMember, cookies};
use nvstack_label::{FindingKind, LabelArea, LabelSet, NamespaceLabel, SetArea};
use nvstack_media::{Access, Anon, Error, Kind, Mapping, Media, MediaOffset, Result};
use uuid::Uuid;

const COOKIES: Cookies = Cookies { v1_1: 11, v1_2: 12, alternative: 13 };
const MIB: u64 = 1 << 20;
/// Bytes of each DIMM's mapping.
const SIZE: u64 = 64 * MIB;

fn areas(kinds: &[(u64, Version)]) -> Vec<LabelArea<Anon>> {
    kinds
        .iter()
        .map(|(size, version)| LabelArea::init(Anon::new(*size).unwrap(), *version).unwrap())
        .collect()
}

fn set<M: Media>(areas: &mut [LabelArea<M>]) -> LabelSet<'_, M> {
    let areas = areas.iter_mut().map(|area| SetArea { area, start: Dpa(MIB), size: SIZE }).collect();
    LabelSet::new(areas, COOKIES).unwrap()
}

/// A namespace over two DIMMs, of `mib` MiB on each, from `at`.
fn namespace(id: u8, at: u64, mib: u64) -> NamespaceLabel {
    NamespaceLabel {
        uuid: Uuid::from_bytes([id; 16]),
        name: Name::new(&format!("n{id}")).unwrap(),
        class: ClaimClass::None,
        lbasize: 512,
        start: at * MIB * 2,
        size: mib * MIB * 2,
    }
}

/// A change that must fail and write nothing on any DIMM.
fn refused(
    areas: &mut [LabelArea<Anon>],
    change: impl FnOnce(&mut LabelSet<'_, Anon>) -> Result<()>,
) -> Error {
    let before: Vec<Vec<u8>> = areas.iter().map(|area| all(area.media())).collect();
    let error = change(&mut set(areas)).unwrap_err();
    let after: Vec<Vec<u8>> = areas.iter().map(|area| all(area.media())).collect();
    assert!(before == after, "written all the same: {error}");
    error
}

fn names<M: Media>(areas: &mut [LabelArea<M>]) -> Vec<String> {
    set(areas).assemble().unwrap().namespaces.iter().map(|n| n.name.to_string()).collect()
}

const TWO: [(u64, Version); 2] = [(4096, Version::V1_2); 2];

#[test]
fn a_namespace_on_two_dimms_is_linuxs_byte_for_byte() {
    let golden = list("golden.json");
    let of = |i| SetMember { region_offset: u64::from(i) * 256, ..SetMember::qemu(i) };
    let mut areas = areas(&[(128 << 10, Version::V1_2); 2]);
    let members = areas.iter_mut().map(|area| SetArea { area, start: Dpa(0), size: 32 * MIB }).collect();
    let mut ours = LabelSet::new(members, cookies(&[of(0), of(1)])).unwrap();
    for json in golden["il0"]["labels"].as_array().unwrap() {
        let (_, label) = label(json);
        let (start, size) = (label.dpa.0 * 2, label.rawsize * 2);
        let (uuid, name, lbasize) = (label.uuid, label.name, label.lbasize);
        ours.write(&NamespaceLabel { uuid, name, class: label.claim(), lbasize, start, size }).unwrap();
    }
    for (name, ours) in ["il0", "il1"].into_iter().zip(&areas) {
        let linux = tail(&image("golden", &golden[name]), number(&golden[name]["label_size"]));
        let linux = LabelArea::open(linux).unwrap();
        let labels = |area: &LabelArea<Anon>| {
            let mut labels = area.namespaces(32 * MIB).unwrap();
            // Linux made these in several steps, with other things between.
            labels.iter_mut().for_each(|label| label.slot = 0);
            labels.iter().map(|label| label.encode(Version::V1_2)).collect::<Vec<_>>()
        };
        assert_eq!(labels(ours), labels(&linux), "{name}");
    }
}

#[test]
fn a_change_reaches_every_dimm_with_the_cookie_of_its_version() {
    let mut areas = areas(&[(4096, Version::V1_2), (4096, Version::V1_1)]);
    let uuid = namespace(1, 0, 8).uuid;
    set(&mut areas).write(&namespace(1, 0, 8)).unwrap();
    set(&mut areas).rename(uuid, Name::new("x").unwrap()).unwrap();
    set(&mut areas).resize(uuid, 24 * MIB).unwrap();
    set(&mut areas).set_lbasize(uuid, 4096).unwrap();
    let found = set(&mut areas).assemble().unwrap();
    assert_eq!(found.findings, []);
    assert_eq!(found.free(), vec![24 * MIB..128 * MIB; 1]);
    let shown: Vec<_> = found.namespaces[0]
        .labels
        .iter()
        .map(|l| (l.isetcookie, l.position, l.nlabel, l.dpa.0, l.rawsize, l.lbasize, l.type_guid))
        .collect();
    let pm = guid::PERSISTENT_MEMORY;
    assert_eq!(shown, [(12, 0, 2, MIB, 12 * MIB, 4096, pm), (11, 1, 2, MIB, 12 * MIB, 4096, Uuid::nil())]);
    let error = refused(&mut areas, |set| set.set_class(uuid, ClaimClass::Btt));
    assert!(error.to_string().starts_with("DIMM 1: write label: found abstraction"), "{error}");
    set(&mut areas).delete(uuid).unwrap();
    assert!(areas.iter().all(|area| area.slots().unwrap().is_empty()));
    assert_eq!(refused(&mut areas, |set| set.delete(uuid)).kind(), Kind::NotFound);
    assert_eq!(refused(&mut areas, |set| set.rename(uuid, Name::new("").unwrap())).kind(), Kind::NotFound);
    assert_eq!(refused(&mut areas, |set| set.settle(uuid).map(drop)).kind(), Kind::NotFound);
}

#[test]
fn one_dimm_that_cannot_take_it_stops_all() {
    // Slots: two on DIMM 1, which hold one namespace.
    let mut full = areas(&[(4096, Version::V1_2), (1024, Version::V1_2)]);
    assert_eq!(set(&mut full).available_slots(), 1);
    set(&mut full).write(&namespace(1, 0, 8)).unwrap();
    assert_eq!(set(&mut full).available_slots(), 0);
    let error = refused(&mut full, |set| set.write(&namespace(2, 8, 8)));
    assert_eq!(error.kind(), Kind::NoSpace);
    let text = error.to_string();
    assert!(text.starts_with("DIMM 1: write label") && text.contains("found 1 free slots of 2"), "{text}");
    // What is there can still change.
    set(&mut full).rename(namespace(1, 0, 0).uuid, Name::new("renamed").unwrap()).unwrap();
    assert_eq!(names(&mut full), ["renamed"]);

    // No index block.
    let mut blank = areas(&TWO);
    set(&mut blank).write(&namespace(1, 0, 8)).unwrap();
    blank[0].zero(MediaOffset(0), 4096).unwrap();
    for error in [
        refused(&mut blank, |set| set.write(&namespace(2, 8, 8))),
        refused(&mut blank, |set| set.delete(Uuid::from_bytes([1; 16]))),
    ] {
        assert_eq!(error.kind(), Kind::Unrecognised);
        assert!(error.to_string().starts_with("DIMM 0: "), "{error}");
    }
}

#[test]
fn a_dimm_that_may_not_be_written_stops_all() {
    let dir = std::env::temp_dir().join(format!("nvstack-label-set-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let mut made = areas(&TWO);
    set(&mut made).write(&namespace(1, 0, 8)).unwrap();
    let paths: Vec<_> = (0..2).map(|i| dir.join(format!("{i}"))).collect();
    for (path, area) in paths.iter().zip(&made) {
        std::fs::write(path, all(area.media())).unwrap();
    }
    let access = [Access::ReadOnly, Access::ReadWrite];
    let mut files: Vec<LabelArea<Mapping>> = paths
        .iter()
        .zip(access)
        .map(|(path, access)| LabelArea::open(Mapping::open(path, access).unwrap()).unwrap())
        .collect();
    let uuid = Uuid::from_bytes([1; 16]);
    let errors = [
        set(&mut files).write(&namespace(2, 8, 8)).unwrap_err(),
        set(&mut files).delete(uuid).unwrap_err(),
        set(&mut files).rename(uuid, Name::new("x").unwrap()).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), Kind::ReadOnly);
        assert!(error.to_string().starts_with("DIMM 0: "), "{error}");
    }
    assert_eq!(names(&mut files), ["n1"]);
    for (path, area) in paths.iter().zip(&made) {
        assert_eq!(std::fs::read(path).unwrap(), all(area.media()));
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn bytes_that_a_namespace_cannot_have() {
    let mut areas = areas(&TWO);
    set(&mut areas).write(&namespace(1, 16, 16)).unwrap();
    let odd = NamespaceLabel { size: MIB + 1, ..namespace(2, 0, 1) };
    let odd_start = NamespaceLabel { start: MIB + 1, ..namespace(2, 0, 1) };
    for (bad, text) in [
        (namespace(2, 0, 0), "at least one byte"),
        (namespace(2, 60, 5), "up to 0x4000000"),
        (namespace(2, 70, 5), "up to 0x4000000"),
        (odd, "found size 1048577, accepted a multiple of 2"),
        (odd_start, "found start 1048577"),
        (namespace(2, 15, 2), "bytes outside 0x1100000 to 0x2100000"),
        (namespace(2, 31, 2), "bytes outside 0x1100000 to 0x2100000"),
        (namespace(2, 0, 64), "bytes outside 0x1100000 to 0x2100000"),
        (NamespaceLabel { uuid: Uuid::nil(), ..namespace(2, 0, 1) }, "uuid"),
        (NamespaceLabel { size: u64::MAX - 1, ..namespace(2, 0, 1) }, "up to 0x4000000"),
    ] {
        let error = refused(&mut areas, |set| set.write(&bad));
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains(text), "{error}");
    }
    for at in [0, 32] {
        set(&mut areas).write(&namespace(u8::try_from(at).unwrap() + 3, at, 16)).unwrap();
    }
    assert_eq!(names(&mut areas), ["n3", "n1", "n35"]);
}

/// A label on one DIMM alone, as a tool that knows no sets would write it.
fn alone(id: u8, at: u64, mib: u64) -> Label {
    Label {
        uuid: Uuid::from_bytes([id; 16]),
        name: Name::new("alone").unwrap(),
        flags: Flags::empty(),
        nlabel: 2,
        position: 0,
        isetcookie: 12,
        lbasize: 512,
        dpa: Dpa((at + 1) * MIB),
        rawsize: mib * MIB,
        slot: 0,
        align: 0,
        type_guid: guid::PERSISTENT_MEMORY,
        abstraction: Uuid::nil(),
    }
}

#[test]
fn bytes_of_any_label_on_any_dimm_stay_its_own() {
    let mut areas = areas(&TWO);
    // Half of a namespace, and two of other sets; none of them is served.
    areas[0].write_namespace(&alone(1, 0, 8)).unwrap();
    areas[1].write_namespace(&Label { isetcookie: 99, ..alone(2, 16, 8) }).unwrap();
    areas[1].write_namespace(&Label { isetcookie: 98, ..alone(3, 32, 8) }).unwrap();
    assert_eq!(names(&mut areas), [""; 0]);
    for at in [4, 20, 36] {
        let error = refused(&mut areas, |set| set.write(&namespace(9, at, 1)));
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
    }
    let free = set(&mut areas).assemble().unwrap().free();
    assert_eq!(free, [16 * MIB..32 * MIB, 48 * MIB..64 * MIB, 80 * MIB..128 * MIB]);
    set(&mut areas).write(&namespace(9, 8, 8)).unwrap();
    // A uuid that means something else on one DIMM, or lies in another region.
    areas[1].write_namespace(&Label { dpa: Dpa(0), rawsize: MIB, ..alone(4, 0, 1) }).unwrap();
    let error = refused(&mut areas, |set| set.write(&namespace(4, 48, 1)));
    assert_eq!(error.kind(), Kind::Exists, "{error}");
    // What is of another region is not deleted from this one.
    assert_eq!(refused(&mut areas, |set| set.delete(Uuid::from_bytes([4; 16]))).kind(), Kind::NotFound);
    for id in [1, 2, 3] {
        set(&mut areas).delete(Uuid::from_bytes([id; 16])).unwrap();
    }
    let found = set(&mut areas).assemble().unwrap();
    assert_eq!((found.namespaces.len(), found.findings), (1, vec![]));
}

#[test]
fn settling_ends_what_linux_left_half_way() {
    // Linux begins at position 0.
    let mut created = areas(&TWO);
    created[0].write_namespace(&alone(1, 0, 8)).unwrap();
    let found = set(&mut created).assemble().unwrap();
    assert_eq!((found.findings.len(), found.findings[0].kind), (1, FindingKind::Missing));
    assert!(set(&mut created).settle(Uuid::from_bytes([1; 16])).unwrap());
    assert!(!set(&mut created).settle(Uuid::from_bytes([1; 16])).unwrap());
    let found = set(&mut created).assemble().unwrap();
    assert_eq!((found.findings, found.namespaces[0].size), (vec![], 16 * MIB));

    // Not into somebody else's bytes.
    let mut taken = areas(&TWO);
    taken[0].write_namespace(&alone(1, 0, 8)).unwrap();
    taken[1].write_namespace(&Label { position: 1, ..alone(2, 4, 8) }).unwrap();
    for id in [1, 2] {
        let error = refused(&mut taken, |set| set.settle(Uuid::from_bytes([id; 16])).map(drop));
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
    }
    // No cut leaves two places without UPDATING.
    let mut torn = areas(&TWO);
    torn[0].write_namespace(&alone(1, 0, 8)).unwrap();
    torn[1].write_namespace(&Label { position: 1, ..alone(1, 0, 16) }).unwrap();
    assert_eq!(set(&mut torn).assemble().unwrap().findings[0].kind, FindingKind::Disagree);
    let error = refused(&mut torn, |set| set.settle(Uuid::from_bytes([1; 16])).map(drop));
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    // Who knows better writes what it should be.
    set(&mut torn).write(&namespace(1, 0, 16)).unwrap();
    assert_eq!(names(&mut torn), ["n1"]);
}

#[test]
fn positions_in_another_order_stay() {
    let mut areas = areas(&TWO);
    areas[0].write_namespace(&Label { position: 1, ..alone(1, 0, 8) }).unwrap();
    areas[1]
        .write_namespace(&Label { isetcookie: 13, align: 9, flags: Flags::READ_ONLY, ..alone(1, 0, 8) })
        .unwrap();
    set(&mut areas).rename(Uuid::from_bytes([1; 16]), Name::new("x").unwrap()).unwrap();
    let found = set(&mut areas).assemble().unwrap();
    let shown: Vec<_> =
        found.namespaces[0].labels.iter().map(|l| (l.position, l.isetcookie, l.align, l.flags)).collect();
    assert_eq!(shown, [(1, 12, 0, Flags::empty()), (0, 12, 9, Flags::READ_ONLY)]);
    assert_eq!(names(&mut areas), ["x"]);
}

#[test]
fn another_uuid_takes_the_labels_as_they_are() {
    let mut areas = areas(&[(4096, Version::V1_2), (4096, Version::V1_1)]);
    areas[0].write_namespace(&Label { position: 1, align: 9, ..alone(1, 0, 8) }).unwrap();
    areas[1].write_namespace(&Label { isetcookie: 11, flags: Flags::READ_ONLY, ..alone(1, 0, 8) }).unwrap();
    set(&mut areas).write(&namespace(3, 32, 8)).unwrap();
    let old = Some(Uuid::from_bytes([1; 16]));
    set(&mut areas).write_as(old, &namespace(2, 0, 8)).unwrap();
    let found = set(&mut areas).assemble().unwrap();
    assert_eq!(found.findings, []);
    let shown: Vec<_> =
        found.namespaces[0].labels.iter().map(|l| (l.position, l.isetcookie, l.align, l.flags)).collect();
    assert_eq!(shown, [(1, 12, 9, Flags::empty()), (0, 11, 0, Flags::READ_ONLY)]);
    assert_eq!(names(&mut areas), ["n2", "n3"]);

    // Once more: the old one is gone, so it is a plain write. The same uuid is a plain write, too.
    set(&mut areas).write_as(old, &namespace(2, 0, 8)).unwrap();
    set(&mut areas).write_as(Some(Uuid::from_bytes([2; 16])), &namespace(2, 40, 8)).unwrap();
    assert_eq!(names(&mut areas), ["n3", "n2"]);
    set(&mut areas).write_as(Some(Uuid::from_bytes([9; 16])), &namespace(4, 0, 8)).unwrap();
    assert_eq!(names(&mut areas), ["n4", "n3", "n2"]);
}

#[test]
fn another_uuid_that_cannot_be() {
    let mut areas = areas(&TWO);
    for (id, at) in [(1, 0), (2, 16), (3, 32)] {
        set(&mut areas).write(&namespace(id, at, 8)).unwrap();
    }
    areas[1].write_namespace(&Label { dpa: Dpa(0), rawsize: MIB, ..alone(5, 0, 1) }).unwrap();
    let [one, five] = [1, 5].map(|id| Some(Uuid::from_bytes([id; 16])));
    for (old, new, kind, text) in [
        // Two namespaces do not become one.
        (one, namespace(2, 0, 8), Kind::Exists, "a new uuid"),
        (one, namespace(2, 16, 8), Kind::Exists, "a new uuid"),
        // Bytes of others are nobody else's, those of the old one are.
        (one, namespace(4, 0, 17), Kind::Invalid, "bytes outside 0x1100000 to 0x1900000"),
        (None, namespace(4, 0, 8), Kind::Invalid, "bytes outside 0x100000 to 0x900000"),
        // None in common.
        (one, namespace(4, 8, 8), Kind::Invalid, "some of the 16777216 bytes from 0"),
        // What is of another region stays, whether it is the old one or the new one.
        (five, namespace(4, 48, 8), Kind::Exists, "a uuid that the label"),
        (one, namespace(5, 0, 8), Kind::Exists, "a uuid that the label"),
    ] {
        let error = refused(&mut areas, |set| set.write_as(old, &new));
        assert!(error.kind() == kind && error.to_string().contains(text), "{error}");
    }
    // On one DIMM there is no between.
    let mut single = areas.split_off(1);
    single[0].zero(MediaOffset(0), 4096).unwrap();
    let mut single = vec![LabelArea::init(single.remove(0).into_media(), Version::V1_2).unwrap()];
    set(&mut single).write(&namespace(1, 0, 8)).unwrap();
    set(&mut single).write_as(one, &namespace(2, 8, 8)).unwrap();
    assert_eq!(names(&mut single), ["n2"]);
}

#[test]
fn sets_that_cannot_be() {
    assert_eq!(LabelSet::<Anon>::new(Vec::new(), COOKIES).unwrap_err().kind(), Kind::Invalid);
}
