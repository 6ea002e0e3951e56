// SPDX-License-Identifier: MIT OR Apache-2.0
//! The project's own chores. `cargo xtask test` runs every lane of test on a machine that has Rust and Debian's base,
//! installing what else it needs; `cargo xtask test --lane NAME` runs one.

mod apart;
mod bench;
mod breaks;
mod content;
mod counts;
mod crash;
mod fixtures;
mod fuzz;
mod guest;
mod layout;
mod nbd;
mod packages;
mod process;
mod report;
mod server;
mod trust;
mod unit;
mod verdict;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::apart::Apart;
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
        /// Of the guest lane, run this part only (may be repeated)
        #[arg(long, value_enum)]
        part: Vec<guest::Part>,
        /// Never install a Debian package, not even as root
        #[arg(long)]
        no_install: bool,
        /// Try as much as `cargo xtask trust` does
        #[arg(long)]
        long: bool,
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
    /// Break what each promise rests on, one thing at a time, and see its test fail
    Breaks {
        /// Only tests whose names contain this
        #[arg(long)]
        only: Option<String>,
        /// Also those that were seen to fail before
        #[arg(long)]
        anew: bool,
        /// Leave what was built for the next run
        #[arg(long)]
        keep: bool,
    },
    /// Run the fuzz targets under libFuzzer, two at a time. Ends 0 only if nothing is found
    Fuzz {
        /// Minutes for all of them together [default: 10; 30 in a long run]
        #[arg(long)]
        minutes: Option<f64>,
        /// Run this target only (may be repeated)
        #[arg(long)]
        target: Vec<String>,
    },
    /// Have Linux and ndctl state again the facts about DIMMs that are in fixtures/lab
    Record {
        /// Record this scene only (may be repeated)
        #[arg(long)]
        scene: Vec<String>,
    },
    /// Try everything, for as long as it can be tried, and write TESTING.md
    Trust {
        /// Run this lane only (may be repeated); what is known of the others stays
        #[arg(long)]
        lane: Vec<String>,
        /// Only write TESTING.md from what is known
        #[arg(long)]
        render: bool,
    },
    /// What the guest lane runs in its guest
    #[command(hide = true)]
    Stamp(guest::writers::Options),
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LaneName {
    /// Format, lints, documentation, unit and property tests
    Unit,
    /// Power cuts: every interleaving, every image; and that each part of the protocols that is left out is missed
    Explore,
    /// Threads: every interleaving of small cases, random ones of larger
    Concurrency,
    /// `nvstack crash-test` as its users run it
    Crash,
    /// Hostile bytes: every target with inputs that are mutated here, and every input that was kept
    Fuzz,
    /// Real NBD clients against `nvstack serve`, and kill -9 under load
    Nbd,
    /// A real Linux kernel under QEMU reads what we write, and the reverse
    Guest,
}

impl LaneName {
    /// In the order in which they run.
    const ALL: [LaneName; 7] = [
        LaneName::Unit,
        LaneName::Explore,
        LaneName::Concurrency,
        LaneName::Crash,
        LaneName::Fuzz,
        LaneName::Nbd,
        LaneName::Guest,
    ];

    /// As in `--lane`.
    fn name(self) -> &'static str {
        match self {
            LaneName::Unit => "unit",
            LaneName::Explore => "explore",
            LaneName::Concurrency => "concurrency",
            LaneName::Crash => "crash",
            LaneName::Fuzz => "fuzz",
            LaneName::Nbd => "nbd",
            LaneName::Guest => "guest",
        }
    }

    /// Whether this workspace has what the lane tests.
    fn present(self) -> report::Result<bool> {
        match self {
            LaneName::Explore => Ok(!Apart::Explore.packages()?.is_empty()),
            LaneName::Concurrency => Ok(!Apart::Concurrency.packages()?.is_empty()),
            LaneName::Crash => crash::present(),
            LaneName::Unit | LaneName::Fuzz | LaneName::Nbd | LaneName::Guest => Ok(true),
        }
    }
}

fn main() -> ExitCode {
    let (name, done) = match Args::parse().chore {
        Chore::Test { lane, part, no_install, .. } if counts::counting() => {
            return test(&lane, &part, no_install);
        }
        Chore::Test { long, .. } => match counted(long) {
            Ok(code) => return code,
            Err(error) => ("test", Err(error)),
        },
        Chore::Bench { rounds, part, write } => {
            ("bench", bench::run(&bench::Options { rounds, part, write }, &mut Packages::new(true)))
        }
        Chore::Breaks { only, anew, keep } => {
            ("breaks", breaks::breaks(&breaks::Options { only, anew, keep }))
        }
        Chore::Fuzz { minutes, target } => ("fuzz", fuzz::run(&fuzz::Options { minutes, targets: target })),
        Chore::Trust { render: true, .. } => ("trust", trust::write()),
        Chore::Trust { render: false, lane } => ("trust", trust::run(&lane)),
        Chore::Stamp(options) => ("stamp", guest::writers::run(&options)),
        Chore::Record { scene } => ("record", guest::record::run(&mut Packages::new(true), &scene)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the lanes in a process whose tests count, and shows what they counted.
fn counted(long: bool) -> report::Result<ExitCode> {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let (status, counts) = counts::counted(&args, long)?;
    counts::show(&counts);
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn test(wanted: &[LaneName], parts: &[guest::Part], no_install: bool) -> ExitCode {
    let mut packages = Packages::new(!no_install);
    let mut report = Report::default();
    for name in LaneName::ALL.into_iter().filter(|name| wanted.is_empty() || wanted.contains(name)) {
        match name.present() {
            Ok(true) => {}
            Ok(false) => {
                println!("{:<12} is not here", name.name());
                continue;
            }
            Err(error) => {
                report.run(name.name(), |_| Err(error));
                continue;
            }
        }
        report.run(name.name(), |lane| match name {
            LaneName::Unit => unit::run(lane, &packages),
            LaneName::Explore => Apart::Explore.run(lane),
            LaneName::Concurrency => Apart::Concurrency.run(lane),
            LaneName::Crash => crash::lane(lane),
            LaneName::Fuzz => fuzz::lane(lane),
            LaneName::Nbd => nbd::run(lane, &mut packages),
            LaneName::Guest => guest::run(lane, &mut packages, parts),
        });
    }
    report.finish()
}
