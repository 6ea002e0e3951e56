// SPDX-License-Identifier: MIT OR Apache-2.0
//! Damaged label areas that Linux was made to read: the same index block counts, and nothing is offered that Linux
//! refuses, but for labels that stand beside a bad one.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{all, image, list, number, tail};
use nvstack_label::{LabelArea, find_area};
use nvstack_media::{Kind, Media};

/// Where we may and do offer something else than Linux.
const OTHERWISE: &[(&str, &[&str])] = &[
    // Linux gives up the whole region for one label that cannot be.
    ("p9-good+typeguid", &["GOOD"]),
    ("p9-good+nlabel0", &["GOOD"]),
    // The cookie is for the caller to judge.
    ("p9-good+cookie", &["GOOD", "p12"]),
];

#[test]
fn labels_are_used_or_dropped_as_by_linux() {
    let mut seen = 0;
    for (name, entry) in list("probes.json") {
        let size = number(&entry["label_size"]);
        if size == 0 {
            continue;
        }
        let media = image("probes", &entry);
        let found = find_area(&media).unwrap();
        let area = LabelArea::open(tail(&media, size)).unwrap();
        let before = all(area.media());
        assert_eq!(found.is_some(), area.index().is_some(), "{name}");
        assert_eq!(found.unwrap_or(size), size, "{name}");
        let names = area.namespaces(media.len() - size).map(|labels| {
            let mut names: Vec<String> = labels.iter().map(|label| label.name.to_string()).collect();
            names.sort();
            names
        });
        match name.as_str() {
            // Linux then takes the whole DIMM as one namespace, over the data of both.
            "p5b-both-slots-used" | "p5b-two-distinct-overlap" => {
                let refused = names.unwrap_err();
                assert_eq!(refused.kind(), Kind::Corrupt);
                let text = refused.to_string();
                assert!(text.contains("slot 0") && text.contains("slot 1"), "{text}");
            }
            _ => {
                let names = names.unwrap_or_else(|e| panic!("{name}: {e}"));
                let mut linux: Vec<&str> = entry["kernel"]["names"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|n| n.as_str().unwrap())
                    .collect();
                if let Some((_, other)) = OTHERWISE.iter().find(|(probe, _)| *probe == name) {
                    linux = other.to_vec();
                }
                // Here the damage is not in the label: Linux sees the namespace and refuses what is in it.
                if entry["kind"] == "pfn" {
                    linux = vec!["pfn"];
                }
                linux.sort_unstable();
                // Past a full name, without a NUL, Linux prints what lies behind it.
                if name == "p4c-v12-name-64-nonul" {
                    assert!(linux[0].starts_with(&names[0]) && names[0].len() == 64, "{names:?}");
                } else {
                    assert_eq!(names, linux, "{name}");
                }
            }
        }
        assert_eq!(all(area.media()), before, "{name}: reading wrote");
        seen += 1;
    }
    assert!(seen >= 50, "{seen}");
}

#[test]
fn what_is_wrong_is_told() {
    for (name, block, field) in [
        ("p5a-idx1-csum-bad", 1, "checksum"),
        ("p4b-v12-idx1-csum-bad", 1, "checksum"),
        ("p4b-v12-idx0-seq0", 0, "seq"),
        ("p4c-v12-seq-0-both", 1, "seq"),
        ("p5a-idx0-otheroff", 0, "otheroff"),
        ("p5a-idx0-nslot-big", 0, "nslot"),
        ("p8-idx0-myoff256", 0, "myoff"),
        ("p8-idx0-mysize512-sum512", 0, "checksum"),
    ] {
        let entry = &list("probes.json")[name];
        let area = LabelArea::open(tail(&image("probes", entry), number(&entry["label_size"]))).unwrap();
        let finding = area.blocks()[block].as_ref().unwrap_err();
        assert_eq!(finding.field, field, "{name}: {finding}");
        assert!(area.blocks()[1 - block].is_ok() || name == "p4c-v12-seq-0-both");
    }
    let entry = &list("probes.json")["p4b-v12-label-csum-bad"];
    let area = LabelArea::open(tail(&image("probes", entry), number(&entry["label_size"]))).unwrap();
    let slots = area.slots().unwrap();
    assert_eq!(
        slots.iter().filter_map(|slot| slot.label.as_ref().err()).map(|e| e.field).collect::<Vec<_>>(),
        ["checksum"]
    );
}
