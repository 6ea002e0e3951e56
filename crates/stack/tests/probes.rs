// SPDX-License-Identifier: MIT OR Apache-2.0
//! Images with damaged labels and info blocks, of which it is known what Linux did with them: each comes up as it does there, or is
//! held back and says why; its healthy neighbours stay up; no byte changes. The list is that of the fixtures.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::as_conversions, clippy::cast_possible_truncation, reason = "sizes fit")]

mod common;

use std::sync::Arc;

use common::{contents, fixture, fixture_image, get, open, read, refused};
use nvstack_media::{Kind, Media};
use nvstack_stack::provider::ImageProvider;
use nvstack_stack::{OpenOptions, Stack, Tree};

/// What is not as in Linux: which image, what it comes up as here, and a word of what is said.
///
/// Where Linux serves a namespace raw although something of another kind was on it, or the labels of a DIMM are damaged, it
/// shows bytes that mean something else; here it is held back. Where it drops a whole region for one label, the others stay.
const OTHERWISE: &[(&str, &str, &str)] = &[
    ("p4a-v12-parent-mismatch", "none", "parent_uuid"),
    ("p4a-v11-ver-2.0-at-4K", "none", "BTT"),
    ("p4a-v11-moved-to-0-as-2.0", "none", "BTT"),
    ("p4a-v12-primary-bitflip", "none", "BTT"),
    ("p4a-v12-primary-zero", "none", "BTT"),
    ("p4a-v12-absguid-pfn", "none", "BTT"),
    ("p4c-v12-seq-0-both", "none", "index block"),
    ("p5b-both-slots-used", "none", "slot"),
    ("p5b-two-distinct-overlap", "none", "slot"),
    ("p5b-two-distinct-ok", "none+raw", "BTT"),
    ("p9-good+good", "none+raw", "BTT"),
    ("p9-good+typeguid", "raw", ""),
    ("p9-good+nlabel0", "raw", ""),
];

/// Linux zeroes a block that is in use here, and its data are lost.
const LOST_IN_LINUX: &[&str] = &["p8-old-eq-new-flags"];

fn up(image: &Arc<dyn Media>, dimm: u32, labels: u64) -> (Stack, Tree) {
    let provider = ImageProvider::new(Arc::clone(image), Some(labels)).unwrap().as_qemu(dimm);
    let stack = Stack::new();
    stack.register(provider.bus());
    stack.settle();
    let tree = stack.tree();
    (stack, tree)
}

/// The namespaces that have bytes.
fn namespaces(tree: &Tree) -> Vec<String> {
    let all = tree.list("region0").unwrap().into_iter().map(|(name, _)| name);
    all.filter(|n| n.starts_with("namespace0.") && get(tree, &format!("{n}/size")) != "0").collect()
}

/// All that is said to be wrong.
fn said(tree: &Tree) -> String {
    let mut text = get(tree, "region0/nvstack/error");
    for dev in tree.list("bus/nd/devices").unwrap() {
        if let Ok(more) = tree.read(&format!("{}/nvstack/error", dev.0)) {
            text.push_str(&more);
        }
    }
    text
}

fn describe(sector: &[u8]) -> String {
    if sector.iter().all(|b| *b == 0) {
        return "ZEROS".into();
    }
    let text = String::from_utf8_lossy(&sector[..22]).into_owned();
    let number =
        |at: usize| u64::from_str_radix(text.get(at..at + if at == 4 { 8 } else { 4 }).unwrap_or(""), 16);
    match (number(4), number(17)) {
        (Ok(lba), Ok(generation)) => format!("PAT lba={lba} gen={generation} whole"),
        _ => text,
    }
}

#[test]
fn probes_come_up_as_in_linux_or_are_held_back_with_a_reason() {
    let probes: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixture("probes.json")).unwrap()).unwrap();
    let mut seen = 0;
    let mut wrong = Vec::new();
    for (name, probe) in probes.as_object().unwrap() {
        if !["p4", "p5", "p8", "p9"].iter().any(|p| name.starts_with(p)) {
            continue;
        }
        seen += 1;
        let image = fixture_image(probe["file"].as_str().unwrap());
        let before = contents(&*image);
        let dimm = u32::try_from(probe["dimm"].as_u64().unwrap()).unwrap();
        let (stack, tree) = up(&image, dimm, probe["label_size"].as_u64().unwrap());
        let all = namespaces(&tree);
        let modes: Vec<String> = all
            .iter()
            .map(|ns| match stack.open(ns, &OpenOptions { read_only: true, ..OpenOptions::default() }) {
                Ok(_) => match get(&tree, &format!("{ns}/mode")).as_str() {
                    "safe" => "btt".to_owned(),
                    other => other.to_owned(),
                },
                Err(error) => {
                    assert_eq!(error.kind(), Kind::NoDevice, "{name}: {error}");
                    "none".to_owned()
                }
            })
            .collect();
        let linux = match probe["kernel"]["attach"].as_str().unwrap() {
            "claimed, probe failed" => "none",
            other => other,
        };
        let other = OTHERWISE.iter().find(|o| o.0 == name);
        let expected = other.map_or(linux, |o| o.1);
        let mut kinds = modes.clone();
        kinds.dedup();
        let ours = if kinds.is_empty() { "none".to_owned() } else { kinds.join("+") };
        if ours != expected {
            wrong
                .push(format!("{name}: Linux {linux}, expected {expected}, ours {modes:?}; {}", said(&tree)));
            continue;
        }
        if ours.contains("none")
            && (said(&tree).trim().is_empty() || other.is_some_and(|o| !said(&tree).contains(o.2)))
        {
            wrong.push(format!("{name}: held back without a reason: {:?}", said(&tree)));
        }
        let mut names: Vec<String> = all
            .iter()
            .filter_map(|ns| tree.read(&format!("{ns}/alt_name")).ok())
            .map(|n| n.trim().to_owned())
            .collect();
        names.sort();
        let mut linux_names: Vec<&str> =
            probe["kernel"]["names"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
        linux_names.sort_unstable();
        // Linux shows the 64th byte of a name and what follows it on the medium.
        let same = names.iter().zip(&linux_names).all(|(a, b)| b.starts_with(a.as_str()));
        if other.is_none() && (names.len() != linux_names.len() || !same) {
            wrong.push(format!("{name}: names {names:?}, Linux {linux_names:?}"));
        }
        // What Linux read before it wrote, we read.
        for op in probe["kernel"]["ops"].as_array().into_iter().flatten().map(|o| o.as_str().unwrap()) {
            if op.starts_with("write") || ours != "btt" {
                break;
            }
            if let Some((lba, what)) = op.strip_prefix("read lba ").and_then(|o| o.split_once(" -> ")) {
                let sector = read(&*open_read_only(&stack, &all[0]), lba.parse().unwrap()).unwrap();
                if describe(&sector) != what && !LOST_IN_LINUX.contains(&name.as_str()) {
                    wrong.push(format!("{name}: LBA {lba} {}, Linux {what}", describe(&sector)));
                }
            }
        }
        for (path, _) in tree.walk() {
            let _ = tree.read(&path);
        }
        assert!(contents(&*image) == before, "{name}: bytes changed");
    }
    assert!(wrong.is_empty(), "{} of {seen}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(seen > 35, "{seen}");
}

fn open_read_only(stack: &Stack, name: &str) -> Arc<dyn nvstack_block::BlockDevice> {
    stack.open(name, &OpenOptions { read_only: true, ..OpenOptions::default() }).unwrap()
}

#[test]
fn probes_a_name_of_64_bytes_without_nul_is_read_and_kept() {
    let image = fixture_image("probes/p4c-v12-name-64-nonul.img.zst");
    let (stack, tree) = up(&image, 15, 128 << 10);
    let name = get(&tree, "namespace0.0/alt_name");
    assert_eq!(name.len(), 64);
    // It can be used, and gets a shorter one where somebody gives it one.
    read(&*open(&stack, "namespace0.0"), 7).unwrap();
    let holder = get(&tree, "namespace0.0/holder");
    common::unbind(&tree, &holder).unwrap();
    tree.write(&format!("{holder}/namespace"), "").unwrap();
    refused(tree.write("namespace0.0/alt_name", &name), Kind::Invalid, &["63"]);
    tree.write("namespace0.0/alt_name", "short").unwrap();
    let (_stack, tree) = up(&image, 15, 128 << 10);
    assert_eq!(get(&tree, "namespace0.0/alt_name"), "short");
}

/// All of them on one bus, with healthy ones between them: each healthy one comes up, whatever the others are.
#[test]
fn probes_leave_their_healthy_neighbours_alone() {
    let probes: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixture("probes.json")).unwrap()).unwrap();
    let mut whole: Option<nvstack_stack::BusSpec> = None;
    let mut healthy = Vec::new();
    let mut add = |image: &Arc<dyn Media>, dimm: u32, labels: u64| {
        let mut spec = ImageProvider::new(Arc::clone(image), Some(labels)).unwrap().as_qemu(dimm).bus();
        let all = whole.get_or_insert_with(|| nvstack_stack::BusSpec {
            provider: nvstack_stack::Provider::Nfit,
            dimms: Vec::new(),
            regions: Vec::new(),
            idle: nvstack_stack::Idle::default(),
        });
        for region in &mut spec.regions {
            region.start += (all.regions.len() as u64) << 30;
            region.mappings.iter_mut().for_each(|m| m.dimm += all.dimms.len());
        }
        all.dimms.extend(spec.dimms);
        all.regions.extend(spec.regions);
        all.regions.len() - 1
    };
    for (n, (name, probe)) in probes.as_object().unwrap().iter().enumerate() {
        if !["p4", "p5", "p8"].iter().any(|p| name.starts_with(p)) {
            continue;
        }
        let dimm = u32::try_from(probe["dimm"].as_u64().unwrap()).unwrap();
        add(&fixture_image(probe["file"].as_str().unwrap()), dimm, probe["label_size"].as_u64().unwrap());
        if n % 8 == 0 {
            healthy.push(add(&fixture_image("golden/base-v1.2.img.zst"), 2, 128 << 10));
        }
    }
    let stack = Stack::new();
    stack.register(whole.unwrap());
    stack.settle();
    assert!(healthy.len() >= 4);
    for region in healthy {
        let sector = read(&*open(&stack, &format!("namespace{region}.0")), 7).unwrap();
        assert_eq!(describe(&sector), "PAT lba=7 gen=4 whole", "region{region}");
    }
}
