// SPDX-License-Identifier: MIT OR Apache-2.0
//! Images that Linux wrote: they open, hold what was recorded when they were made, and would be made the same by us.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Sim, describe, image, json, pattern};
use nvstack_block::{BlockDevice, Lba};
use nvstack_media::{Media, MediaOffset};
use nvstack_pfn::{CreateOptions, Kind, Mode, OpenOptions, Pages, Place, create};
use std::io::IoSliceMut;
use std::sync::OnceLock;
use uuid::Uuid;

struct Namespace {
    name: String,
    bytes: Vec<u8>,
    kind: Kind,
    pfn: serde_json::Value,
    parent: Uuid,
    /// 4 KiB units of the data: (number, generation).
    holds: Vec<(u64, u64)>,
}

/// "4K-unit lba 0 gen 1, lba 3 gen 2, last 4K block gen 3" and the like.
fn recorded(text: &str, last: u64) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    for part in text.split([',', ';']) {
        let Some((at, generation)) = part.split_once("gen") else { continue };
        let Ok(generation) = generation.trim().parse() else { continue };
        let words: Vec<&str> = at.split_whitespace().collect();
        let number = words.last().unwrap();
        if at.contains("last") {
            found.push((last, generation));
        } else if let Some((from, to)) = number.split_once("..") {
            let numbers = from.parse::<u64>().unwrap()..=to.parse().unwrap();
            found.extend(numbers.map(|n| (n, generation)));
        } else {
            found.push((number.parse().unwrap(), generation));
        }
    }
    found
}

fn namespaces() -> &'static [Namespace] {
    static ALL: OnceLock<Vec<Namespace>> = OnceLock::new();
    ALL.get_or_init(read_namespaces)
}

fn read_namespaces() -> Vec<Namespace> {
    let mut all = Vec::new();
    for (image_name, entry) in json("golden.json").as_object().unwrap() {
        let mut whole = None;
        for n in entry["namespaces"].as_array().unwrap() {
            let pfn = &n["pfn"];
            if pfn.is_null() {
                continue;
            }
            let number = |key: &str| usize::try_from(n[key].as_u64().unwrap()).unwrap();
            let bytes =
                whole.get_or_insert_with(|| image(&format!("golden/{}", entry["file"].as_str().unwrap())));
            let name = n["name"].as_str().unwrap();
            let last = pfn["npfns"].as_u64().unwrap() - 1;
            let expect = entry["expect"].as_array().unwrap();
            let kind = if pfn["sig"] == "NVDIMM_DAX_INFO" { Kind::Devdax } else { Kind::Fsdax };
            // A record of "each block device" says nothing of a devdax.
            let about = |e: &&serde_json::Value| e[0] == "*" || kind == Kind::Fsdax;
            let text = expect.first().filter(about).map_or("", |e| e[1].as_str().unwrap());
            all.push(Namespace {
                name: format!("{image_name}/{name}"),
                bytes: bytes[number("start")..number("start") + number("size")].to_vec(),
                kind,
                parent: pfn["parent_uuid"].as_str().unwrap().parse().unwrap(),
                pfn: pfn.clone(),
                holds: recorded(text, last),
            });
        }
    }
    all
}

fn open(n: &Namespace, read_only: bool) -> Pages<Sim> {
    let mut sim = Sim::memory(n.bytes.clone());
    sim.read_only = read_only;
    // These regions began at a multiple of 2 MiB.
    let place = Place { start: Some(1 << 32), size: n.bytes.len() as u64 };
    Pages::open(sim, OpenOptions::new("test", n.kind, n.parent, place))
        .unwrap_or_else(|e| panic!("{}: {e}", n.name))
}

#[test]
fn every_image_that_linux_wrote_holds_what_was_recorded() {
    let mut checked = 0;
    for n in namespaces() {
        for read_only in [true, false] {
            let pages = open(n, read_only);
            assert_eq!(pages.npfns(), n.pfn["npfns"].as_u64().unwrap(), "{}", n.name);
            assert_eq!(pages.info().uuid.to_string(), n.pfn["uuid"].as_str().unwrap(), "{}", n.name);
            assert_eq!(
                (pages.data_range().start, pages.truncated()),
                (n.pfn["dataoff"].as_u64().unwrap(), None)
            );
            let whole = pages.map(0, pages.npfns() * 4096).unwrap();
            for (unit, generation) in &n.holds {
                let mut data = vec![0; 4096];
                whole.read(MediaOffset(unit * 4096), &mut data).unwrap();
                let want = pattern(*unit, *generation, 4096);
                assert!(data == want, "{} unit {unit}: {}", n.name, describe(&data));
                if n.kind == Kind::Fsdax {
                    let mut again = vec![0; 4096];
                    let disk = pages.disk().unwrap();
                    disk.read(Lba(unit * 8), &mut [IoSliceMut::new(&mut again)]).unwrap();
                    assert!(again == data, "{} unit {unit}: the disk differs", n.name);
                }
                checked += 1;
            }
            assert!(pages.media().bytes() == n.bytes, "{}: reading changed it", n.name);
        }
    }
    println!("{checked} units");
    assert!(checked >= 36, "{checked}");
}

#[test]
fn what_we_make_differs_from_linux_in_no_byte_of_the_info_block() {
    let mut seen = 0;
    for n in namespaces() {
        let media = Sim::memory(vec![0; n.bytes.len()]);
        let options = CreateOptions {
            kind: n.kind,
            uuid: n.pfn["uuid"].as_str().unwrap().parse().unwrap(),
            parent: n.parent,
            mode: if n.pfn["mode"] == 2 { Mode::Pmem } else { Mode::Ram },
            align: u32::try_from(n.pfn["align"].as_u64().unwrap()).unwrap(),
            place: Place { start: Some(1 << 32), size: n.bytes.len() as u64 },
            overwrite: false,
        };
        create(&media, &options).unwrap();
        assert!(media.bytes()[4096..8192] == n.bytes[4096..8192], "{}", n.name);
        seen += 1;
    }
    assert_eq!(seen, 9);
}
