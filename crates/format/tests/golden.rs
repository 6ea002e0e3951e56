// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every structure in images that Linux wrote: read with the right fields, and written again byte for byte.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{list, number, parts};
use nvstack_format::btt::{self, ArenaLayout};
use nvstack_format::guid::{self, ClaimClass};
use nvstack_format::label::{AreaLayout, Index, IndexHeader, Label, Version, select};
use nvstack_format::pfn::{self, Geometry, Mode, Place};
use nvstack_format::{SetMember, cookies};
use serde_json::Value;
use uuid::Uuid;

fn uuid(value: &Value) -> Uuid {
    value.as_str().unwrap().parse().unwrap()
}

/// The blocks of a namespace, one or several.
fn blocks<'a>(namespace: &'a Value, key: &str) -> Vec<&'a Value> {
    match &namespace[key] {
        Value::Null => Vec::new(),
        Value::Array(list) => list.iter().collect(),
        one => vec![one],
    }
}

#[test]
fn btt_info_blocks() {
    let mut seen = 0;
    for (name, image) in list("golden.json") {
        for namespace in image["namespaces"].as_array().unwrap() {
            for block in blocks(namespace, "btt") {
                let version = match (number(&block["major"]), number(&block["minor"])) {
                    (1, 1) => btt::Version::V1_1,
                    (2, 0) => btt::Version::V2_0,
                    other => panic!("{name}: {other:?}"),
                };
                let (start, size) = (number(&namespace["start"]), number(&namespace["size"]));
                let place = start + version.start();
                let [raw, copy] =
                    parts("golden", &image, &[(place, 4096), (place + number(&block["info2off"]), 4096)])
                        .try_into()
                        .unwrap();
                let raw: [u8; 4096] = raw.try_into().unwrap();
                let parent = uuid(&block["parent_uuid"]);
                let room = size - version.start();
                let info =
                    btt::Info::parse(&raw, version, parent, room).unwrap_or_else(|e| panic!("{name}: {e}"));
                assert_eq!(info.uuid, uuid(&block["uuid"]), "{name}");
                assert_eq!(info.parent, parent, "{name}");
                let layout = info.layout;
                for (field, value) in [
                    ("flags", info.flags.into()),
                    ("ext_lbasize", layout.lbasize.external().into()),
                    ("int_lbasize", layout.lbasize.internal().into()),
                    ("ext_nlba", layout.external_nlba.into()),
                    ("int_nlba", layout.internal_nlba.into()),
                    ("nfree", layout.nfree.into()),
                    ("nextoff", layout.nextoff),
                    ("dataoff", layout.dataoff),
                    ("mapoff", layout.mapoff),
                    ("logoff", layout.logoff),
                    ("info2off", layout.info2off),
                ] {
                    assert_eq!(value, number(&block[field]), "{name}: {field}");
                }
                assert_eq!(ArenaLayout::compute(room, layout.lbasize, 0).unwrap(), layout, "{name}");
                assert_eq!(info.encode(), raw, "{name}: written again");
                assert_eq!(copy, raw, "{name}: backup");

                // The same block in other hands is not theirs.
                let other = Uuid::from_u128(1);
                let elsewhere = btt::Info::parse(&raw, version, other, room);
                assert_eq!(
                    elsewhere.is_ok(),
                    parent.is_nil(),
                    "{name}: only a nil parent goes with any namespace"
                );
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 19);
}

#[test]
fn pfn_and_dax_info_blocks() {
    let mut seen = 0;
    for (name, image) in list("golden.json") {
        for namespace in image["namespaces"].as_array().unwrap() {
            for block in blocks(namespace, "pfn") {
                let (start, size) = (number(&namespace["start"]), number(&namespace["size"]));
                let raw = parts("golden", &image, &[(start + pfn::INFO_OFFSET, 4096)]).remove(0);
                let raw: [u8; 4096] = raw.try_into().unwrap();
                let kind = if raw.starts_with(b"NVDIMM_DAX") { pfn::Kind::Devdax } else { pfn::Kind::Fsdax };
                let parent = uuid(&block["parent_uuid"]);
                let place = Place { start: None, size };
                let info =
                    pfn::Info::parse(&raw, kind, parent, place).unwrap_or_else(|e| panic!("{name}: {e}"));
                assert_eq!(info.uuid, uuid(&block["uuid"]), "{name}");
                let geometry = info.geometry;
                for (field, value) in [
                    ("dataoff", geometry.dataoff),
                    ("npfns", geometry.npfns),
                    ("start_pad", geometry.start_pad.into()),
                    ("end_trunc", geometry.end_trunc.into()),
                    ("align", geometry.align.into()),
                    ("mode", if info.mode == Mode::Ram { 1 } else { 2 }),
                    ("major", info.version.0.into()),
                    ("minor", info.version.1.into()),
                ] {
                    assert_eq!(value, number(&block[field]), "{name}: {field}");
                }
                assert_eq!(geometry.data_len(size), geometry.npfns * 4096, "{name}");
                assert_eq!(info.encode(), raw, "{name}: written again");
                // These regions start at a multiple of 2 MiB, so that an unknown start counts right.
                assert_eq!(Geometry::compute(place, info.mode, geometry.align).unwrap(), geometry, "{name}");
                assert_eq!(
                    pfn::Info::new(kind, info.uuid, parent, info.mode, geometry).encode(),
                    raw,
                    "{name}"
                );
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 9);
}

/// The valid index blocks of an image's label area, its current one, and the whole area.
fn area(name: &str, image: &Value) -> Option<(Vec<u8>, Version, Index)> {
    let size = number(&image["label_size"]);
    if size == 0 {
        return None;
    }
    let start = number(&image["raw_size"]) - size;
    let bytes = parts("golden", image, &[(start, usize::try_from(size).unwrap())]).remove(0);
    for version in Version::ALL {
        let layout = AreaLayout::compute(size, version).unwrap();
        let len = usize::try_from(layout.index_len).unwrap();
        let [first, second] = [0, 1].map(|n| Index::parse(&bytes[n * len..][..len], &layout, n));
        let header = IndexHeader::decode(&bytes).unwrap();
        if header.label_len != u64::from(version.label_len()) {
            assert!(first.is_err() && second.is_err(), "{name}: of the other version");
            continue;
        }
        for (number, index) in [&first, &second].into_iter().enumerate() {
            let index = index.as_ref().unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(index.encode(), bytes[number * len..][..len], "{name}: written again");
        }
        assert!(layout.made_for(header.nslot), "{name}");
        let current = select(first.as_ref().ok(), second.as_ref().ok()).unwrap();
        return Some((bytes, version, [first, second].into_iter().nth(current).unwrap().unwrap()));
    }
    panic!("{name}: no index block");
}

#[test]
fn label_areas() {
    let mut seen = 0;
    for (name, image) in list("golden.json") {
        let wanted = image["labels"].as_array().unwrap();
        let Some((bytes, version, index)) = area(&name, &image) else {
            assert!(wanted.is_empty());
            continue;
        };
        let used: Vec<u32> = index.used().collect();
        assert_eq!(used.len(), wanted.len(), "{name}");
        for (slot, json) in used.into_iter().zip(wanted) {
            assert_eq!(u64::from(slot), number(&json["slot_idx"]), "{name}");
            let at = usize::try_from(index.layout().slot(slot).unwrap()).unwrap();
            let raw = &bytes[at..][..usize::try_from(version.label_len()).unwrap()];
            let label = Label::parse(raw, version, slot).unwrap_or_else(|e| panic!("{name}: {e}"));
            label.check(version).unwrap();
            assert_eq!(label.uuid, uuid(&json["uuid"]), "{name}");
            assert_eq!(label.name.to_string(), json["name"].as_str().unwrap(), "{name}");
            for (field, value) in [
                ("flags", u64::from(label.flags.bits())),
                ("nlabel", label.nlabel.into()),
                ("position", label.position.into()),
                ("isetcookie", label.isetcookie),
                ("lbasize", label.lbasize),
                ("dpa", label.dpa.0),
                ("rawsize", label.rawsize),
                ("slot", label.slot.into()),
            ] {
                assert_eq!(value, number(&json[field]), "{name}: {field}");
            }
            if version == Version::V1_2 {
                assert_eq!(label.type_guid, uuid(&json["type_guid"]), "{name}");
                assert_eq!(label.abstraction, uuid(&json["abstraction_guid"]), "{name}");
            }
            assert_eq!(label.encode(version), raw, "{name}: written again");
            assert!(Label::parse(raw, version, slot + 1).is_err(), "{name}: a stray copy");

            // What the label allows is what the namespace holds.
            let start = label.dpa.0;
            if let Some(namespace) =
                image["namespaces"].as_array().unwrap().iter().find(|n| number(&n["start"]) == start)
            {
                for block in blocks(namespace, "btt") {
                    assert_eq!(
                        label.claim().btt().map(|v| u64::from(v.major())),
                        Some(number(&block["major"]))
                    );
                }
                if !blocks(namespace, "pfn").is_empty() {
                    assert_eq!([guid::PFN, guid::DAX].contains(&label.abstraction), version == Version::V1_2);
                    let kind =
                        if label.claim() == ClaimClass::Dax { pfn::Kind::Devdax } else { pfn::Kind::Fsdax };
                    assert!(label.claim().holds(kind), "{name}");
                }
            }
            seen += 1;
        }
    }
    assert_eq!(seen, 31);
}

#[test]
fn cookies_of_qemu_and_of_an_interleave_set() {
    for (name, image) in list("golden.json") {
        let dimm = u32::try_from(number(&image["dimm"])).unwrap_or(0);
        for label in image["labels"].as_array().unwrap() {
            let two = [0, 1].map(|i| SetMember { region_offset: u64::from(i) * 256, ..SetMember::qemu(i) });
            let set = match number(&label["nlabel"]) {
                1 => cookies(&[SetMember::qemu(dimm - 1)]),
                _ => cookies(&[two[1], two[0]]),
            };
            let v1_2 = label.get("type_guid").is_some();
            let cookie = if v1_2 { set.v1_2 } else { set.v1_1 };
            assert_eq!(cookie, number(&label["isetcookie"]), "{name}");
        }
    }
}
