// SPDX-License-Identifier: MIT OR Apache-2.0
//! Damaged images that Linux was made to attach: each info block and flog is used, or refused by name, at least as
//! carefully as Linux does.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{list, number, parts};
use nvstack_format::btt::{self, FlogRecord, detect_padding, judge};
use nvstack_format::pfn::{self, Place};
use serde_json::Value;
use uuid::Uuid;

const SIZE: u64 = 32 << 20;

/// The info block of a probe, read as Linux would for the label it has.
fn btt_info(image: &Value, golden: &Value) -> Result<btt::Info, btt::Rejected> {
    let labels = golden["labels"].as_array().unwrap();
    let parent = labels.first().map_or(Uuid::nil(), |l| l["uuid"].as_str().unwrap().parse().unwrap());
    let v1_2 = labels.first().is_some_and(|l| l.get("type_guid").is_some());
    let version = if v1_2 { btt::Version::V2_0 } else { btt::Version::V1_1 };
    let raw = parts("probes", image, &[(version.start(), 4096)]).remove(0);
    btt::Info::parse(&raw.try_into().unwrap(), version, parent, SIZE - version.start())
}

#[test]
fn btt_info_blocks() {
    let golden = list("golden.json");
    // What is refused, and by which field. `raw` is what Linux leaves raw; the rest it attaches or trips over.
    let refused = [
        ("p1-primary-zeroed", true, "signature"),
        ("p3a-nl-ver-1.2", true, "version"),
        ("p3a-nl-ver-2.0-at-4K", true, "version"),
        ("p3a-nl-ver-2.0-at-0", true, "signature"),
        ("p3b-nl-nfree-1", false, "nfree"),
        ("p3b-nl-nfree-0", false, "nfree"),
        ("p3b-nl-extlba-4100", false, "external_lbasize"),
        ("p3b-nl-intnlba-small", false, "internal_nlba"),
        ("p3b-nl-nextoff-garbage", false, "nextoff"),
        ("p3b-nl-mapoff-garbage", false, "mapoff"),
        ("p3b-nl-infosize-512", false, "infosize"),
        ("p4a-v12-parent-mismatch", true, "parent_uuid"),
        ("p4a-v11-ver-2.0-at-4K", true, "version"),
        ("p4a-v11-moved-to-0-as-2.0", true, "signature"),
        ("p4a-v12-primary-bitflip", true, "checksum"),
        ("p4a-v12-primary-zero", true, "signature"),
    ];
    let mut seen = 0;
    for (name, image) in list("probes.json") {
        if !["btt", "btt-info", "labelled-btt"].contains(&image["kind"].as_str().unwrap()) {
            continue;
        }
        let found = btt_info(&image, &golden[image["base"].as_str().unwrap()]);
        if let Some((_, raw, field)) = refused.iter().find(|r| r.0 == name) {
            let rejected = found.expect_err(&name);
            assert_eq!(rejected.invalid().field, *field, "{name}: {rejected}");
            assert_eq!(matches!(rejected, btt::Rejected::NotBtt(_)), *raw, "{name}: {rejected}");
            let linux = image["kernel"]["attach"].as_str();
            assert!(!raw || linux == Some("raw") || linux.is_none(), "{name}: Linux attaches it");
            seen += 1;
        } else {
            let info = found.unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(info.error(), name == "p4a-v12-flags-error", "{name}");
        }
    }
    assert_eq!(seen, refused.len());
}

#[test]
fn flogs() {
    let golden = list("golden.json");
    // Lane 0's pair, and what is wrong with it.
    let refused = [
        ("p2a-seq-0-0", "seq"),
        ("p2a-seq-7-1", "seq"),
        ("p2a-seq-4-1", "seq"),
        ("p2b-mixed-pad", "padding"),
    ];
    let mut seen = 0;
    for (name, image) in list("probes.json") {
        if image["kind"] != "btt" || image["base"] != "base-nolabel" {
            continue;
        }
        let Ok(info) = btt_info(&image, &golden["base-nolabel"]) else { continue };
        let at = btt::Version::V1_1.start() + info.layout.logoff;
        let bytes = parts("probes", &image, &[(at, 256 * 64)]).remove(0);
        let groups: Vec<[FlogRecord; 4]> = bytes
            .chunks(64)
            .map(|group| {
                std::array::from_fn(|i| {
                    let half = |n| u64::from_le_bytes(group[i * 16 + n..][..8].try_into().unwrap());
                    FlogRecord::from_halves([half(0), half(8)])
                })
            })
            .collect();
        let found = detect_padding(groups.iter().copied()).and_then(|padding| judge(padding.pick(groups[0])));
        match refused.iter().find(|r| r.0 == name) {
            Some((_, field)) => assert_eq!(found.expect_err(&name).field, *field, "{name}"),
            None => {
                let state = found.unwrap_or_else(|e| panic!("{name}: {e}"));
                // Linux wrote its next record, if any, over the other one of the two.
                let linux = &image["after"]["flog0"][1 - state.current];
                if linux[0] == 100 && number(&linux[3]) != 0 {
                    assert_eq!(number(&linux[3]), u64::from(state.next_seq), "{name}");
                    assert_eq!(number(&linux[2]), u64::from(state.record.old().0), "{name}: its free block");
                    seen += 1;
                }
            }
        }
    }
    assert!(seen >= 9, "{seen}");
}

#[test]
fn pfn_info_blocks() {
    let golden = list("golden.json");
    let mut seen = 0;
    for (name, image) in list("probes.json") {
        if image["kind"] != "pfn" {
            continue;
        }
        let parent = golden["base-v1.2-fsdax"]["labels"][0]["uuid"].as_str().unwrap().parse().unwrap();
        let raw = parts("probes", &image, &[(pfn::INFO_OFFSET, 4096)]).remove(0);
        // The region of these probes started at a multiple of 2 MiB; nothing here depends on more.
        let place = Place { start: Some(1 << 32), size: SIZE };
        let found = pfn::Info::parse(&raw.try_into().unwrap(), pfn::Kind::Fsdax, parent, place);
        let linux = image["kernel"]["attach"].as_str().unwrap();
        match found {
            Ok(info) => {
                assert_eq!(linux, "pfn", "{name}");
                assert_eq!(number(&image["kernel"]["size"]), info.geometry.data_len(SIZE), "{name}");
            }
            Err(pfn::Rejected::NotPfn(_)) => assert_eq!(linux, "raw", "{name}"),
            // Linux takes an alignment of 3 as it tests it with a mask.
            Err(refusal) if name == "p7a-align-3" => assert_eq!(refusal.invalid().field, "align"),
            Err(refusal) => assert!(["none", "claimed, probe failed"].contains(&linux), "{name}: {refusal}"),
        }
        seen += 1;
    }
    assert!(seen >= 18, "{seen}");
}
