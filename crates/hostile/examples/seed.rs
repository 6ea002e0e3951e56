// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes what fuzzers begin with, made from the images of `fixtures/golden` and by hand: `... --example seed -- fuzz/corpus`
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use nvstack_format::label::Version;
use nvstack_hostile::{TARGETS, area_as_edits};

fn write(folder: &Path, target: &str, name: &str, input: &[u8]) {
    let folder = folder.join(target);
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join(name), input).expect("a file");
}

fn main() {
    let folder = PathBuf::from(std::env::args_os().nth(1).expect("a folder"));
    for target in TARGETS {
        for (number, input) in (target.seeds)().into_iter().enumerate() {
            write(&folder, target.name, &format!("made-{number:02}"), &input);
        }
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden");
    for entry in fs::read_dir(&golden).expect("fixtures") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap().to_string_lossy().replace(".img.zst", "");
        let packed = fs::read(&path).expect("an image");
        let mut bytes = Vec::new();
        ruzstd::decoding::StreamingDecoder::new(&packed[..])
            .expect("zstd")
            .read_to_end(&mut bytes)
            .expect("zstd");
        info_blocks(&folder, &name, &bytes);
        let area = &bytes[bytes.len().saturating_sub(128 << 10)..];
        if let Some(found) = nvstack_hostile::naive::label::area(area) {
            let version = if found.shape.label == 128 { Version::V1_1 } else { Version::V1_2 };
            let input = area_as_edits(&area[..8192], version);
            if input.len() <= 3000 {
                write(&folder, "label_area", &format!("linux-{name}"), &input);
                write(&folder, "differential_labels", &format!("linux-{name}"), &input);
            }
        }
    }
}

/// Info blocks of BTTs, wherever they are, without the zeros behind their fields.
fn info_blocks(folder: &Path, name: &str, image: &[u8]) {
    for (number, block) in image.chunks_exact(4096).enumerate() {
        if block.starts_with(b"BTT_ARENA_INFO") {
            let labelled = block[32..48] != [0; 16];
            let flags = 1 | if block[52] == 2 { 2 } else { 0 } | if labelled { 4 } else { 0 };
            let mut input = vec![flags];
            input.extend_from_slice(&(image.len() as u64).to_le_bytes());
            input.extend_from_slice(&block[..120]);
            if labelled {
                // The namespace of the target.
                input[9 + 32..9 + 48].fill(7);
            }
            write(folder, "info_block", &format!("linux-{name}-{number}"), &input);
        }
    }
}
