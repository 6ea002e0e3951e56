// SPDX-License-Identifier: MIT OR Apache-2.0
//! Benchmarks: side by side, in one run, as medians of paired rounds. `cargo xtask bench` prints the tables, and with
//! `--write` puts them into `BENCHMARKS.md`.

mod client;
mod engines;
mod servers;
mod stats;

use std::fmt::Write as _;
use std::path::Path;

use crate::packages::{BENCH, Packages};
use crate::report::{Context, Result};

/// Where the media lie: memory, so that the engines are measured and not a disk.
const FOLDER: &str = "/dev/shm";

/// What to run.
pub(crate) struct Options {
    /// Paired rounds.
    pub(crate) rounds: usize,
    /// Write `BENCHMARKS.md` in the current folder.
    pub(crate) write: bool,
}

/// Runs all of it.
pub(crate) fn run(options: &Options, packages: &mut Packages) -> Result<()> {
    packages.provide(BENCH)?;
    let folder = tempfile::tempdir_in(FOLDER).context(FOLDER)?;
    let mut text = String::from(PREFACE);
    let _ = writeln!(text, "{}\n", machine());
    text.push_str(&engines::run(folder.path(), options.rounds)?);
    text.push_str(&servers::run(folder.path(), options.rounds)?);
    print!("{text}");
    if options.write {
        std::fs::write("BENCHMARKS.md", text).context("BENCHMARKS.md")?;
    }
    Ok(())
}

const PREFACE: &str = "\
# Benchmarks

Made by `cargo xtask bench --write`; not edited by hand. All contestants run in the same process run, round by round in
turn, on media in `/dev/shm`. Absolute figures hold for one machine and one hour; the ratios are what to look at. Each
figure is the median over the rounds, with the smallest and the largest; a ratio is taken within each round first.

";

/// What it ran on.
fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        cpu.lines()
            .find(|l| l.starts_with(name))
            .and_then(|l| l.split_once(':'))
            .map_or("?", |(_, v)| v.trim())
    };
    let flags = field("flags");
    let flush: Vec<&str> =
        ["clwb", "clflushopt", "avx512f"].into_iter().filter(|f| flags.split(' ').any(|g| g == *f)).collect();
    let cpus = cpu.lines().filter(|l| l.starts_with("processor")).count();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Machine: {cpus} x {}, {}; Linux {}.", field("model name"), flush.join(" "), kernel.trim())
}

/// A file of `bytes` in the folder, all of its memory there already.
fn filled_file(path: &Path, bytes: u64) -> Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::create(path).context(path.display())?;
    let zeros = vec![0u8; 1 << 20];
    for _ in 0..bytes >> 20 {
        file.write_all(&zeros).context(path.display())?;
    }
    Ok(())
}
