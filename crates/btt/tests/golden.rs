// SPDX-License-Identifier: MIT OR Apache-2.0
//! Images that Linux wrote: they open, hold what was recorded when they were made, and stay as they are.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Sim, describe, image, json, pattern, read};
use nvstack_block::BlockDevice;
use nvstack_btt::{Btt, OpenOptions};
use nvstack_format::btt::Version;
use uuid::Uuid;

/// What is recorded of an image's contents, sector by sector: `lba -> generation`.
fn expected(text: &str, last: u64) -> Vec<(u64, u64)> {
    let mut map = std::collections::BTreeMap::new();
    // "5..12 gen 1 except 7 gen 6", "lba 40..49 gen 5", "last lba gen 4" ...
    for part in text.replace(" except ", ",").replace(';', ",").split(',') {
        let part =
            part.replace("sector 512:", "").replace("lba", "").replace("4K-unit", "").replace("4K block", "");
        let Some((range, generation)) = part.split_once("gen") else { continue };
        let Ok(generation) = generation.trim().parse::<u64>() else { continue };
        let range = range.trim();
        let (from, to) = match range.split_once("..") {
            _ if range == "last" => (last, last),
            Some((a, b)) => (a.parse().unwrap(), b.parse().unwrap()),
            None => (range.parse().unwrap(), range.parse().unwrap()),
        };
        for lba in from..=to {
            map.insert(lba, generation);
        }
    }
    map.into_iter().collect()
}

/// The namespaces of an image that hold a BTT: start, size, version, label uuid, and what is expected of it.
fn btts(entry: &serde_json::Value) -> Vec<(usize, usize, Version, Uuid, String)> {
    let mut found = Vec::new();
    for namespace in entry["namespaces"].as_array().unwrap() {
        let Some(btt) = namespace["btt"].as_array().and_then(|b| b.first()) else { continue };
        let version = if btt["major"] == 2 { Version::V2_0 } else { Version::V1_1 };
        let name = namespace["name"].as_str().unwrap();
        let label = entry["labels"].as_array().into_iter().flatten().find(|l| l["name"] == name);
        let parent = label.map_or(Uuid::nil(), |l| l["uuid"].as_str().unwrap().parse().unwrap());
        let text = entry["expect"].as_array().unwrap()[0][1].as_str().unwrap().to_owned();
        let number = |key: &str| usize::try_from(namespace[key].as_u64().unwrap()).unwrap();
        found.push((number("start"), number("size"), version, parent, text));
    }
    found
}

fn open(bytes: &[u8], version: Version, parent: Uuid, read_only: bool) -> Btt<Sim> {
    let mut sim = Sim::memory(bytes.to_vec());
    sim.read_only = read_only;
    let mut options = OpenOptions::new("test", version, parent);
    options.read_only = read_only;
    Btt::open(sim, options).unwrap()
}

/// Compares a device with the record of it.
fn check(name: &str, device: &Btt<Sim>, text: &str) -> usize {
    let g = device.geometry();
    let size = g.sector_size as usize;
    if text.contains("some gen each") {
        // Killed while writing: which generation is not known, but each sector is whole.
        let mut seen = 0;
        for lba in (0..3).flat_map(|j| j * 1000..(j + 1) * 1000) {
            let data = read(device, lba).unwrap();
            let said = describe(&data);
            let whole = said.starts_with(&format!("PAT lba={lba} gen=")) && said.ends_with("whole");
            assert!(whole || said == "ZEROS", "{name} LBA {lba}: {said}");
            seen += usize::from(whole);
        }
        return seen;
    }
    let four_k_units = text.contains("4K-unit");
    let unit = if four_k_units { 4096 } else { size };
    let last = g.bytes() / unit as u64 - 1;
    let wanted = expected(text, last);
    for (lba, generation) in &wanted {
        let per = unit / size;
        let data: Vec<u8> =
            (0..per as u64).flat_map(|i| read(device, lba * per as u64 + i).unwrap()).collect();
        let want = pattern(*lba, *generation, unit);
        assert!(data == want, "{name} unit {lba}: {} instead of gen {generation}", describe(&data));
    }
    wanted.len()
}

#[test]
fn every_image_that_linux_wrote_has_the_right_contents_and_stays_as_it_is() {
    let golden = json("golden.json");
    let mut devices = 0;
    let mut sectors = 0;
    for (name, entry) in golden.as_object().unwrap() {
        for (start, size, version, parent, text) in btts(entry) {
            let bytes = image(&format!("golden/{}", entry["file"].as_str().unwrap()));
            let part = &bytes[start..start + size];
            let device = open(part, version, parent, true);
            sectors += check(name, &device, &text);
            assert!(device.media().bytes() == part, "{name}: read-only open changed the medium");

            // Read-write it recovers on the medium, shows the same, and needs no recovery when it is opened again.
            let device = open(part, version, parent, false);
            check(name, &device, &text);
            let after = device.media().bytes();
            assert_eq!(open(&after, version, parent, false).recovered(), 0, "{name}");
            devices += 1;
        }
    }
    assert_eq!((devices, sectors > 7000), (19, true), "{sectors} sectors");
}

#[test]
fn a_killed_guest_left_work_that_read_only_does_in_memory_alone() {
    let golden = json("golden.json");
    let mut recovered = 0;
    for name in ["crash-1-0", "crash-2-1", "crash-3-2"] {
        let bytes = image(&format!("golden/{}", golden[name]["file"].as_str().unwrap()));
        let device = open(&bytes, Version::V1_1, Uuid::nil(), true);
        recovered += device.recovered();
        let writable = open(&bytes, Version::V1_1, Uuid::nil(), false);
        assert_eq!(writable.recovered(), device.recovered());
        for lba in 0..3000 {
            assert!(read(&device, lba).unwrap() == read(&writable, lba).unwrap(), "{name} LBA {lba}");
        }
        assert!(device.media().bytes() == bytes);
        assert_eq!(writable.media().bytes() == bytes, writable.recovered() == 0);
    }
    println!("{recovered} writes recovered");
}

#[test]
fn half_of_a_real_interleave_set_in_linear_order_opens() {
    // The guest that wrote it saw the two files one after the other, so each namespace lies in one of them.
    let golden = json("golden.json");
    let bytes = image("golden/il0.img.zst");
    let parent = golden["il0"]["labels"][0]["uuid"].as_str().unwrap().parse().unwrap();
    let device = open(&bytes[..32 << 20], Version::V2_0, parent, true);
    assert_eq!(check("il0", &device, golden["il0"]["expect"][0][1].as_str().unwrap()), 21);
}
