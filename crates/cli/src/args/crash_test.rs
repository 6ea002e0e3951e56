// SPDX-License-Identifier: MIT OR Apache-2.0
//! The options of `crash-test`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueHint};
use nvstack_explore::Model;

use crate::crash_test::{Case, Mutant, Part};

fn named_mutant(text: &str) -> Result<Mutant, String> {
    let named = Mutant::all().find(|mutant| mutant.name() == text);
    named.ok_or_else(|| "accepted a name that --list-mutants prints".into())
}

/// A seed as a failure shows it.
fn case(text: &str) -> Result<Case, String> {
    Case::from_str(text).map_err(|e| e.to_string())
}

fn model(text: &str) -> Result<Model, String> {
    text.parse().map_err(|_| "accepted x86, arm, adversarial or pages".to_owned())
}

/// Cut the power at every moment of small workloads, and judge every image that a cut could leave.
///
/// The engine that serves BTT devices runs on a simulated medium, a few tasks at once, in every order that they can have. At each
/// moment the power is cut in every way that the model of the medium allows; each image is recovered by the engine, cut again inside
/// that recovery, and read by a second reader that follows Linux's rules. Every sector must be old or new, every acknowledged
/// write there, every block mapped or free exactly once. So are the engines of label areas, on one DIMM and on sets, and of the
/// info blocks and page descriptors of fsdax and devdax. Nothing but the memory of this program is touched.
///
/// A JSON summary goes to stdout. The status is 0 if nothing was violated, 1 if something was; 130 if SIGINT came first, and the
/// summary is of what was done until then.
#[derive(Args)]
#[command(after_help = "Models:
  x86          each line of 64 bytes keeps a prefix of its stores, lines in any order, until a drain
  arm          any subset of the stores of a line
  adversarial  any subset of whatever is not drained, in units of 8 bytes
  pages        the page cache of a plain file: pages of 4096 bytes in any order, at any time, until msync

A workload is a line LANES.near|far.START:TASK[/TASK...], such as 2.near.fresh:w0,w1/r0: two lanes, map entries in one cache line
(far: each in its own), a new arena (or worn, cut, old, lost, bad), and what each task does: w0 writes sector 0, u0 writes it with
FUA, z0 zeroes it, r0 reads it, f flushes, p0 loses its block, c makes it readable again. One of labels is a line
VERSION/DIMMSxBYTES/turnN/besideN/CHANGE[+CHANGE...], such as 1.2/2x2048/turn0/beside2/create+rename; one of pfn is fsdax-dev/whole
(what is laid out, and over what). A FILE has one a line; # begins a comment.

Examples:
  nvstack crash-test --quick                          a minute, more than a million images
  nvstack crash-test --mutant lane-race               what Linux did from 2023 to 2026, and the shortest case that shows it
  nvstack crash-test --part labels --time 600         label areas alone, for ten minutes at most
  nvstack crash-test --replay SEED --image cut.img    one failure again, step by step, and the image that the cut left")]
pub(crate) struct CrashTestArgs {
    /// At most a minute.
    #[arg(long, conflicts_with_all = ["workload", "replay", "list_mutants"])]
    pub(crate) quick: bool,

    /// Only the workloads in this file.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["replay", "list_mutants"])]
    pub(crate) workload: Option<PathBuf>,

    /// Only this part (may be repeated).
    #[arg(long, value_enum, value_name = "PART", conflicts_with_all = ["replay", "list_mutants"])]
    pub(crate) part: Vec<Part>,

    /// Only this model (may be repeated): x86, arm, adversarial or pages.
    #[arg(long, value_parser = model, value_name = "MODEL")]
    pub(crate) model: Vec<Model>,

    /// For what is chosen at random.
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    pub(crate) seed: u64,

    /// How often the power is cut again inside a recovery; once without this option, or as often as a mutant of labels needs.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(0..=3))]
    pub(crate) depth: Option<u32>,

    /// Begin nothing more after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) time: Option<u64>,

    /// Threads; as many as there are CPUs without this option.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,

    /// Judge also what is equal to something that was judged.
    #[arg(long)]
    pub(crate) no_prune: bool,

    /// Leave out this part of the protocol, to see that it is noticed.
    #[arg(long, value_parser = named_mutant, value_name = "NAME", conflicts_with_all = ["replay", "list_mutants"])]
    pub(crate) mutant: Option<Mutant>,

    /// Print the names that --mutant takes, and what each leaves out.
    #[arg(long)]
    pub(crate) list_mutants: bool,

    /// Run one failure again, from the seed that it was shown with.
    #[arg(long, value_parser = case, value_name = "SEED")]
    pub(crate) replay: Option<Case>,

    /// Write the image of the first failure, or that of --replay, to this new file.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) image: Option<PathBuf>,
}
