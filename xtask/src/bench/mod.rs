// SPDX-License-Identifier: MIT OR Apache-2.0
//! Benchmarks: side by side, in one run, as medians of paired rounds. `cargo xtask bench` prints the tables, and with
//! `--write` puts them into `BENCHMARKS.md`.

mod bus;
mod client;
mod engines;
mod servers;
mod stats;

use std::fmt::Write as _;
use std::path::Path;

use clap::ValueEnum;

use crate::packages::{BENCH, Packages};
use crate::report::{Context, Result};

/// Where the media lie: memory, so that the engines are measured and not a disk.
const FOLDER: &str = "/dev/shm";
/// Where the figures go.
const FILE: &str = "BENCHMARKS.md";

/// What to run.
pub(crate) struct Options {
    /// Paired rounds.
    pub(crate) rounds: usize,
    /// This part alone.
    pub(crate) part: Option<Part>,
    /// Write `BENCHMARKS.md` in the current folder.
    pub(crate) write: bool,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// The block engines beside libpmemblk
    Engines,
    /// The server beside nbdkit and qemu-nbd
    Servers,
    /// A bus with many namespaces
    Bus,
}

/// Runs it.
pub(crate) fn run(options: &Options, packages: &mut Packages) -> Result<()> {
    let folder = tempfile::tempdir_in(FOLDER).context(FOLDER)?;
    if options.part != Some(Part::Bus) {
        packages.provide(BENCH)?;
    }
    let measure = |part| match part {
        Part::Engines => engines::run(folder.path(), options.rounds),
        Part::Servers => servers::run(folder.path(), options.rounds),
        Part::Bus => bus::run(options.rounds),
    };
    let text = match options.part {
        None => {
            let mut text = String::from(PREFACE);
            let _ = writeln!(text, "{}\n", machine());
            let parts = Part::value_variants().iter().map(|part| measure(*part));
            let tables: Vec<String> = parts.collect::<Result<_>>()?;
            text + tables.join("\n").as_str()
        }
        Some(part) => {
            let mut section = measure(part)?;
            let before = std::fs::read_to_string(FILE).unwrap_or_default();
            // The head of the file tells of the machine that all of it ran on.
            if !before.contains(&machine()) {
                section = format!("{}\n\n{}\n", section.trim_end(), machine());
            }
            print!("{section}");
            with_section(&before, &section)
        }
    };
    if options.part.is_none() {
        print!("{text}");
    }
    if options.write {
        std::fs::write(FILE, text).context(FILE)?;
    }
    Ok(())
}

/// A text in which a section, from its `## ` on, stands in place of the one with the same heading, or at the end.
fn with_section(text: &str, section: &str) -> String {
    let heading = section.lines().next().unwrap_or_default();
    let section = section.trim_end();
    let Some(from) = text.lines().position(|line| line == heading) else {
        return format!("{}\n\n{section}\n", text.trim_end());
    };
    let lines: Vec<&str> = text.lines().collect();
    let (before, rest) = lines.split_at(from);
    let next = rest.iter().skip(1).position(|line| line.starts_with("## ")).map(|n| n + 1);
    let after =
        next.map_or(String::new(), |n| format!("\n{}\n", rest.get(n..).unwrap_or_default().join("\n")));
    format!("{}\n{section}\n{after}", before.join("\n"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_takes_the_place_of_its_like() {
        let text = "# Head\n\n## A\n\nold a\n\n## B\n\nold b\n";
        let with = |section| with_section(text, section);
        assert_eq!(with("## A\n\nnew\n\n"), "# Head\n\n## A\n\nnew\n\n## B\n\nold b\n");
        assert_eq!(with("## B\n\nnew\n"), "# Head\n\n## A\n\nold a\n\n## B\n\nnew\n");
        assert_eq!(with("## C\n\nnew\n"), "# Head\n\n## A\n\nold a\n\n## B\n\nold b\n\n## C\n\nnew\n");
    }
}
