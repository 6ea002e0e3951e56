// SPDX-License-Identifier: MIT OR Apache-2.0
//! For tests: how much is to be tried, and how much was.
//!
//! `cargo xtask` runs tests with [`COUNTS`] set and makes the tables of `TESTING.md` of what they count; without it nothing is kept.
#![forbid(unsafe_code)]

use std::io::Write;

use serde::{Deserialize, Serialize};

/// The environment variable that names the file to which counts are appended, one JSON object a line.
pub const COUNTS: &str = "NVSTACK_COUNTS";
/// The environment variable that asks for long runs.
pub const LONG: &str = "NVSTACK_LONG";

/// So much of something was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// The part that counts: `explore`, `mutants`, `concurrency`, `fuzz`, `faults`, `kill`, `guest`.
    pub part: String,
    /// What was tried, in few words.
    pub case: String,
    /// What is counted: `crash images`, `interleavings`, `executions`.
    pub unit: String,
    /// How many.
    pub count: u64,
}

/// Whether much is to be tried: in `cargo xtask test --long` and `cargo xtask trust`.
#[must_use]
pub fn long() -> bool {
    std::env::var_os(LONG).is_some_and(|value| value != "0")
}

/// Counts: `unit` of `case` in `part`. A test calls it once, when it has passed.
pub fn tally(part: &str, case: &str, unit: &str, count: u64) {
    eprintln!("{part}: {case}: {count} {unit}");
    let Some(path) = std::env::var_os(COUNTS) else { return };
    let count = Count { part: part.into(), case: case.into(), unit: unit.into(), count };
    let Ok(mut line) = serde_json::to_string(&count) else { return };
    line.push('\n');
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
    // One write a line: tests of several processes append to the file at once.
    if let Err(e) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
        eprintln!("{}: {e}", path.to_string_lossy());
    }
}
