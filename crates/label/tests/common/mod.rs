// SPDX-License-Identifier: MIT OR Apache-2.0
//! Images that Linux wrote, in memory.
#![allow(dead_code)]

pub(crate) mod cut;
pub(crate) mod shape;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use nvstack_format::label::{Flags, Label, Name, Version};
use nvstack_format::{Dpa, guid};
use nvstack_media::{Anon, Media, MediaOffset};
use serde_json::Value;
use uuid::Uuid;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// A list of images with what is known of each, by name.
pub(crate) fn list(name: &str) -> serde_json::Map<String, Value> {
    let text = std::fs::read_to_string(fixture(name)).expect("list of fixtures");
    serde_json::from_str(&text).expect("list of fixtures is JSON")
}

pub(crate) fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

/// A whole image. Zeros are not stored, so that it takes no more memory than it must.
pub(crate) fn image(folder: &str, entry: &Value) -> Anon {
    // One list gives bare file names, the other gives them with the folder.
    let name = Path::new(entry["file"].as_str().unwrap()).file_name().unwrap();
    let file = File::open(fixture(folder).join(name)).expect("image");
    let mut packed = ruzstd::decoding::StreamingDecoder::new(file).expect("image is compressed");
    let media = Anon::new(size(folder, entry)).unwrap();
    let mut chunk = vec![0; 64 << 10];
    let mut at = 0;
    while at < media.len() {
        let len = chunk.len().min(usize::try_from(media.len() - at).unwrap());
        packed.read_exact(&mut chunk[..len]).expect("image is complete");
        if chunk[..len].iter().any(|byte| *byte != 0) {
            media.store(MediaOffset(at), &chunk[..len]).unwrap();
        }
        at += u64::try_from(len).unwrap();
    }
    media
}

fn size(folder: &str, entry: &Value) -> u64 {
    // Probes are as large as the healthy image that they were made of.
    if folder == "golden" {
        number(&entry["raw_size"])
    } else {
        number(&list("golden.json")[entry["base"].as_str().unwrap()]["raw_size"])
    }
}

/// The last bytes of a medium, as a medium.
pub(crate) fn tail(media: &Anon, len: u64) -> Anon {
    let bytes = bytes(media, media.len() - len, len);
    let area = Anon::new(len).unwrap();
    area.store(MediaOffset(0), &bytes).unwrap();
    area
}

pub(crate) fn bytes(media: &impl Media, at: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    media.read(MediaOffset(at), &mut bytes).unwrap();
    bytes
}

pub(crate) fn all(media: &impl Media) -> Vec<u8> {
    bytes(media, 0, media.len())
}

/// A label as a list of fixtures tells it.
pub(crate) fn label(json: &Value) -> (Version, Label) {
    let uuid = |key: &str| json.get(key).map_or(Uuid::nil(), |v| v.as_str().unwrap().parse().unwrap());
    let small = |key: &str| u32::try_from(number(&json[key])).unwrap();
    let label = Label {
        uuid: uuid("uuid"),
        name: Name::new(json["name"].as_str().unwrap()).unwrap(),
        flags: Flags::from_bits_retain(small("flags")),
        nlabel: u16::try_from(small("nlabel")).unwrap(),
        position: u16::try_from(small("position")).unwrap(),
        isetcookie: number(&json["isetcookie"]),
        lbasize: number(&json["lbasize"]),
        dpa: Dpa(number(&json["dpa"])),
        rawsize: number(&json["rawsize"]),
        slot: small("slot"),
        align: 0,
        type_guid: uuid("type_guid"),
        abstraction: uuid("abstraction_guid"),
    };
    (if json.get("type_guid").is_some() { Version::V1_2 } else { Version::V1_1 }, label)
}

/// A label of 16 MiB, place `number` on the DIMM.
pub(crate) fn sample(number: u8, name: &str) -> Label {
    Label {
        uuid: Uuid::from_bytes([number + 1; 16]),
        name: Name::new(name).unwrap(),
        flags: Flags::empty(),
        nlabel: 1,
        position: 0,
        isetcookie: 0x1234,
        lbasize: 4096,
        dpa: Dpa(u64::from(number) << 24),
        rawsize: 1 << 24,
        slot: 0,
        align: 0,
        type_guid: guid::PERSISTENT_MEMORY,
        abstraction: Uuid::nil(),
    }
}
