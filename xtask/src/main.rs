// SPDX-License-Identifier: MIT OR Apache-2.0
//! The project's own chores. `cargo xtask test` runs every lane of test on a machine that has Rust and Debian's base,
//! installing what else it needs; `cargo xtask test --lane NAME` runs one.

mod bench;
mod content;
mod fixtures;
mod guest;
mod layout;
mod nbd;
mod packages;
mod process;
mod report;
mod server;
mod unit;
mod verdict;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::packages::Packages;
use crate::report::Report;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own chores")]
struct Args {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Run the lanes of test. Ends 0 only if every lane ran and every case passed
    Test {
        /// Run this lane only (may be repeated)
        #[arg(long, value_enum)]
        lane: Vec<LaneName>,
        /// Never install a Debian package, not even as root
        #[arg(long)]
        no_install: bool,
    },
    /// Measure the engines and the server beside their peers, in one run
    Bench {
        /// Paired rounds of each measurement
        #[arg(long, default_value_t = 7)]
        rounds: usize,
        /// Run this part only; the others' figures in BENCHMARKS.md stay as they are
        #[arg(long, value_enum)]
        part: Option<bench::Part>,
        /// Write BENCHMARKS.md
        #[arg(long)]
        write: bool,
    },
    /// Have Linux and ndctl state again the facts about DIMMs that are in fixtures/lab
    Record {
        /// Record this scene only (may be repeated)
        #[arg(long)]
        scene: Vec<String>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LaneName {
    /// Format, lints, documentation, unit and property tests
    Unit,
    /// Real NBD clients against `nvstack serve`, and kill -9 under load
    Nbd,
    /// A real Linux kernel under QEMU reads what we write, and the reverse
    Guest,
}

fn main() -> ExitCode {
    match Args::parse().chore {
        Chore::Test { lane, no_install } => test(&lane, no_install),
        Chore::Bench { rounds, part, write } => {
            match bench::run(&bench::Options { rounds, part, write }, &mut Packages::new(true)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("bench: {error}");
                    ExitCode::FAILURE
                }
            }
        }
        Chore::Record { scene } => match guest::record::run(&mut Packages::new(true), &scene) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("record: {error}");
                ExitCode::FAILURE
            }
        },
    }
}

fn test(wanted: &[LaneName], no_install: bool) -> ExitCode {
    let mut packages = Packages::new(!no_install);
    let mut report = Report::default();
    for lane in [LaneName::Unit, LaneName::Nbd, LaneName::Guest] {
        if wanted.is_empty() || wanted.contains(&lane) {
            match lane {
                LaneName::Unit => report.run("unit", |lane| unit::run(lane, &packages)),
                LaneName::Nbd => report.run("nbd", |lane| nbd::run(lane, &mut packages)),
                LaneName::Guest => report.run("guest", |lane| guest::run(lane, &mut packages)),
            }
        }
    }
    report.finish()
}
