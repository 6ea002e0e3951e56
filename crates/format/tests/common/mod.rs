// SPDX-License-Identifier: MIT OR Apache-2.0
//! Images that Linux wrote, and what is in them.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// A list of images with what is known of each, by name.
pub(crate) fn list(name: &str) -> serde_json::Map<String, Value> {
    let text = std::fs::read_to_string(fixture(name)).expect("list of fixtures");
    serde_json::from_str(&text).expect("list of fixtures is JSON")
}

/// Parts of an image, each an offset and a length in rising order, without holding the image in memory.
pub(crate) fn parts(folder: &str, entry: &Value, wanted: &[(u64, usize)]) -> Vec<Vec<u8>> {
    // One list gives bare file names, the other gives them with the folder.
    let name = Path::new(entry["file"].as_str().unwrap()).file_name().unwrap();
    let file = File::open(fixture(folder).join(name)).expect("image");
    let mut image = ruzstd::decoding::StreamingDecoder::new(file).expect("image is compressed");
    let mut at = 0;
    let mut found = Vec::new();
    for (offset, len) in wanted {
        let skip = offset.checked_sub(at).expect("parts in rising order");
        let skipped = std::io::copy(&mut (&mut image).take(skip), &mut std::io::sink()).expect("image");
        assert_eq!(skipped, skip, "the image is shorter");
        let mut part = vec![0; *len];
        image.read_exact(&mut part).expect("image");
        at = offset + u64::try_from(*len).unwrap();
        found.push(part);
    }
    found
}

pub(crate) fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}
