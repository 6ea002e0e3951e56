// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests share: the binary, and images that Linux wrote.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// A directory of images that goes away with the test.
pub struct Dir(TempDir);

impl Dir {
    pub fn new() -> Dir {
        Dir(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Unpacks a fixture (`golden/base-v1.2`, `probes/p1-ebit`).
    pub fn fixture(&self, name: &str) -> PathBuf {
        let packed = fixtures().join(format!("{name}.img.zst"));
        let path = self.path(&format!("{}.img", name.rsplit('/').next().unwrap()));
        let mut file = std::fs::File::open(&packed).unwrap_or_else(|e| panic!("{}: {e}", packed.display()));
        let mut bytes = Vec::new();
        ruzstd::decoding::StreamingDecoder::new(&mut file).unwrap().read_to_end(&mut bytes).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// `golden.json` or `probes.json`.
pub fn facts(name: &str) -> serde_json::Map<String, Value> {
    let text = std::fs::read_to_string(fixtures().join(name)).unwrap();
    let Value::Object(map) = serde_json::from_str(&text).unwrap() else { panic!("{name} is no object") };
    map
}

/// The binary, not yet run.
pub fn command<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nvstack"));
    command.args(args);
    command
}

/// What a run gave.
#[derive(Debug)]
pub struct Ran {
    pub status: i32,
    pub out: String,
    pub err: String,
    pub bytes: Vec<u8>,
}

impl Ran {
    /// stdout as JSON.
    pub fn json(&self) -> Value {
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
pub fn run<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    command(args).output().unwrap().into()
}

/// Runs `nvstack VERB TARGET ARGS` and checks that the file at `path` keeps every byte, its size and its time.
pub fn harmless(verb: &str, path: &Path, args: &[&str]) -> Ran {
    let before = (std::fs::read(path).unwrap(), path.metadata().unwrap().modified().unwrap());
    let mut all = vec![verb, path.to_str().unwrap()];
    all.extend(args);
    let ran = run(&all);
    let after = (std::fs::read(path).unwrap(), path.metadata().unwrap().modified().unwrap());
    assert!(before == after, "{all:?} changed the image: {ran:?}");
    assert!(!ran.err.contains("panicked"), "{all:?}: {ran:?}");
    ran
}
