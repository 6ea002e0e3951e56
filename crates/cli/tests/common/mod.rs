// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests share: the binary, and images that Linux wrote.
#![allow(dead_code, clippy::cast_possible_truncation, reason = "each test file uses its part; sizes fit")]

use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// A directory of images that goes away with the test.
pub(crate) struct Dir(TempDir);

impl Dir {
    pub(crate) fn new() -> Dir {
        Dir(tempfile::tempdir().unwrap())
    }

    /// One in memory where there is such a place: for many commands that each make things durable.
    pub(crate) fn quick() -> Dir {
        tempfile::tempdir_in("/dev/shm").map_or_else(|_| Dir::new(), Dir)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Unpacks a fixture (`golden/base-v1.2`, `probes/p1-ebit`).
    pub(crate) fn fixture(&self, name: &str) -> PathBuf {
        let packed = fixtures().join(format!("{name}.img.zst"));
        let path = self.path(&format!("{}.img", name.rsplit('/').next().unwrap()));
        let mut file = std::fs::File::open(&packed).unwrap_or_else(|e| panic!("{}: {e}", packed.display()));
        let mut unpacked = ruzstd::decoding::StreamingDecoder::new(&mut file).unwrap();
        // Blocks of zeros become holes: the images are nearly all hole, and stay quick to read.
        let out = std::fs::File::create(&path).unwrap();
        let (mut at, mut block) = (0u64, Vec::with_capacity(BLOCK));
        loop {
            block.clear();
            let len = unpacked.by_ref().take(BLOCK as u64).read_to_end(&mut block).unwrap();
            if block.iter().any(|b| *b != 0) {
                out.write_all_at(&block, at).unwrap();
            }
            at += len as u64;
            if len < BLOCK {
                out.set_len(at).unwrap();
                return path;
            }
        }
    }
}

const BLOCK: usize = 65536;

/// A file's size, time of change, and the blocks in it that are not zero.
#[derive(PartialEq)]
struct Snapshot(u64, std::time::SystemTime, Vec<(u64, Vec<u8>)>);

fn snapshot(path: &Path) -> Snapshot {
    let file = std::fs::File::open(path).unwrap();
    let meta = file.metadata().unwrap();
    let (mut blocks, mut at) = (Vec::new(), 0);
    while let Ok(data) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
        at = data / BLOCK as u64 * BLOCK as u64;
        let mut block = vec![0; BLOCK.min((meta.len() - at) as usize)];
        file.read_exact_at(&mut block, at).unwrap();
        if block.iter().any(|b| *b != 0) {
            blocks.push((at, block));
        }
        at += BLOCK as u64;
    }
    Snapshot(meta.len(), meta.modified().unwrap(), blocks)
}

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// `golden.json` or `probes.json`.
pub(crate) fn facts(name: &str) -> serde_json::Map<String, Value> {
    let text = std::fs::read_to_string(fixtures().join(name)).unwrap();
    let Value::Object(map) = serde_json::from_str(&text).unwrap() else { panic!("{name} is no object") };
    map
}

/// The binary, not yet run.
pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nvstack"));
    command.args(args);
    command
}

/// What a run gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) bytes: Vec<u8>,
}

impl Ran {
    /// stdout as JSON.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.status, 0, "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            status: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into(),
            err: String::from_utf8_lossy(&output.stderr).into(),
            bytes: output.stdout,
        }
    }
}

/// Runs `nvstack ARGS`.
pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    command(args).output().unwrap().into()
}

/// Runs `nvstack VERB TARGET ARGS` and checks that the file at `path` keeps every byte, its size and its time.
pub(crate) fn harmless(verb: &str, path: &Path, args: &[&str]) -> Ran {
    let before = snapshot(path);
    let mut all = vec![verb, path.to_str().unwrap()];
    all.extend(args);
    let ran = run(&all);
    let after = snapshot(path);
    assert!(before == after, "{all:?} changed the image: {ran:?}");
    assert!(!ran.err.contains("panicked"), "{all:?}: {ran:?}");
    ran
}
