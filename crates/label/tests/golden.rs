// SPDX-License-Identifier: MIT OR Apache-2.0
//! Label areas that Linux wrote: found, read, left as they are, and written by us to the same bytes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{all, image, label, list, number, tail};
use nvstack_format::label::{Flags, Label, Version};
use nvstack_label::{LabelArea, find_area};
use nvstack_media::{Anon, Media};
use serde_json::Value;

#[test]
fn areas_are_found_and_read() {
    let mut seen = 0;
    for (name, entry) in list("golden.json") {
        let media = image("golden", &entry);
        let size = number(&entry["label_size"]);
        let found = find_area(&media).unwrap();
        assert_eq!(found, (size != 0).then_some(size), "{name}");
        let Some(size) = found else { continue };

        let bytes = tail(&media, size);
        let before = all(&bytes);
        let area = LabelArea::open(&bytes).unwrap();
        let wanted: Vec<Label> =
            entry["labels"].as_array().unwrap().iter().map(|json| label(json).1).collect();
        let slots = area.slots().unwrap();
        assert_eq!(slots.iter().map(|s| s.label.clone().unwrap()).collect::<Vec<_>>(), wanted, "{name}");
        assert!(slots.iter().zip(&wanted).all(|(slot, label)| slot.number == label.slot), "{name}");
        let version = if name.contains("v1.1") || name == "lsa256K" { Version::V1_1 } else { Version::V1_2 };
        assert_eq!(area.version(), Some(version), "{name}");
        let headers = area.headers().unwrap();
        let current = area.index().unwrap();
        assert_eq!(headers[current.number()].seq, current.seq(), "{name}");
        assert!(area.blocks().iter().all(Result::is_ok), "{name}");

        let mut by_address = wanted.clone();
        by_address.sort_by_key(|label| label.dpa);
        assert_eq!(area.namespaces(media.len() - size).unwrap(), by_address, "{name}");
        let starts: Vec<u64> = by_address.iter().map(|label| label.dpa.0).collect();
        let known = entry["namespaces"].as_array().unwrap();
        // Without labels Linux shows one namespace over everything; in a set the other DIMM has a part.
        if !starts.is_empty() && !known.is_empty() {
            assert_eq!(starts, known.iter().map(|n| number(&n["start"])).collect::<Vec<_>>(), "{name}");
        }
        // Every slot whose number is its own is shown, stale ones too.
        let shown = area.all_labels().unwrap();
        assert!(wanted.iter().all(|label| shown.contains(label)), "{name}");
        if name == "destroyed-v1.2" {
            assert_eq!(
                shown.iter().map(|l| (l.slot, l.flags)).collect::<Vec<_>>(),
                [(0, Flags::UPDATING), (1, Flags::empty()), (2, Flags::empty())]
            );
        }
        assert_eq!(all(&bytes), before, "{name}: reading wrote");
        seen += 1;
    }
    assert_eq!(seen, 25);
}

/// The area of an image, and one of the same size made by us, with the image's labels by name.
struct Twin {
    name: String,
    wanted: Vec<u8>,
    area: LabelArea<Anon>,
    labels: Vec<Label>,
}

impl Twin {
    fn new(name: &str) -> Twin {
        let entry: Value = list("golden.json")[name].clone();
        let size = number(&entry["label_size"]);
        let wanted = all(&tail(&image("golden", &entry), size));
        let labels: Vec<_> = entry["labels"].as_array().unwrap().iter().map(label).collect();
        let version = if wanted[19] == 0 { Version::V1_1 } else { Version::V1_2 };
        assert!(labels.iter().all(|(of, _)| *of == version));
        let area = LabelArea::init(Anon::new(size).unwrap(), version).unwrap();
        Twin { name: name.to_owned(), wanted, area, labels: labels.into_iter().map(|(_, l)| l).collect() }
    }

    fn write(&mut self, name: &str) {
        let label = *self.labels.iter().find(|l| l.name.to_string() == name).unwrap();
        self.area.write_namespace(&label).unwrap();
    }

    fn compare(self) {
        let found = all(&self.area.into_media());
        let differs = found.iter().zip(&self.wanted).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{}: first byte that differs from Linux's", self.name);
    }
}

#[test]
fn a_new_area_is_linuxs_byte_for_byte() {
    Twin::new("empty-v1.2").compare();
}

#[test]
fn a_first_namespace_is_linuxs_byte_for_byte() {
    for (image, name) in [
        ("raw-v1.1", "rawns11"),
        ("raw-v1.2", "rawns"),
        ("sec512-v1.1", "sec512"),
        ("sec4096-v1.1", "sec4096"),
        ("sec512-v1.2", "sec512"),
        ("sec4096-v1.2", "sec4096"),
        ("fsdax-dev-2M", "fd2m"),
        ("fsdax-mem-4K", "fm4k"),
        ("fsdax-dev-v1.1", "fd11"),
        ("devdax-dev-2M", "dd2m"),
        ("lsa256K", "l256"),
        ("base-v1.1", "p11"),
        ("base-v1.2", "p12"),
        ("base-v1.2-fsdax", "pfn"),
    ] {
        let mut twin = Twin::new(image);
        twin.write(name);
        twin.compare();
    }
}

#[test]
fn labels_of_sector_sizes_with_metadata_are_linuxs_byte_for_byte() {
    for (image, name) in [("sec520-v1.1", "sec520"), ("sec4160-v1.1", "sec4160"), ("sec4104-v1.2", "sec4104")]
    {
        let mut twin = Twin::new(image);
        // ndctl had the label written three times here, as the sequence numbers on these images tell.
        for _ in 0..3 {
            twin.write(name);
        }
        twin.compare();
    }
}

#[test]
fn several_namespaces_are_linuxs_byte_for_byte() {
    for (image, names) in [
        ("multi4-v1.2", &["alpha", "beta", "gamma", "delta"][..]),
        ("multi3-v1.1", &["one", "two", "three"]),
        ("il0", &["ilsec", "ilfs"]),
        ("il1", &["ilsec", "ilfs"]),
    ] {
        let mut twin = Twin::new(image);
        for name in names {
            twin.write(name);
        }
        twin.compare();
    }
}

#[test]
fn creating_renaming_and_destroying_is_linuxs_byte_for_byte() {
    let mut twin = Twin::new("steps-v1.2");
    let [s1, s3] = ["s1new", "s3"].map(|n| *twin.labels.iter().find(|l| l.name.to_string() == n).unwrap());
    let s2 = Label { uuid: uuid::Uuid::from_u128(2), ..s3 };
    twin.write("s1new");
    twin.area.write_namespace(&s2).unwrap();
    // Linux rewrote the label twice for the new name: its sysfs takes the name and then something else.
    twin.area.write_namespace(&s1).unwrap();
    twin.area.write_namespace(&s1).unwrap();
    twin.area.delete(s2.uuid).unwrap();
    twin.write("s3");
    twin.compare();
}
