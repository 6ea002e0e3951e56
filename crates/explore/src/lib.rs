// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every interleaving, every power cut, every image.
//!
//! A [`Workload`] is a few tasks with a few requests each. The real engine runs them on a simulated medium, one at a
//! time, and before each operation on the medium somebody else decides who goes on: so all orders can be gone through
//! (`explorer`). At each moment the power is cut in every way that the [`Model`] allows, and each image is recovered by
//! the real engine, read by a naive second reader that follows Linux's rule, and cut again inside its recovery (`judge`).
//! What each sector may hold then follows from what was answered (`oracle`).
//!
//! * [`run`] explores what a [`Config`] says and gives a [`Summary`].
//! * [`replay`] shows one failure again, from the line that names it.
//! * [`Config::mutant`] leaves out a part of the protocol, and the exploration must notice. The engine here is `nvstack-btt-sim`,
//!   the source of `nvstack-btt` compiled once more: the one that serves data has no such switch.
#![forbid(unsafe_code)]
// Counts and offsets here are those of small simulated arenas.
#![allow(clippy::cast_possible_truncation)]

mod case;
mod content;
mod creation;
mod damage;
mod explorer;
mod judge;
mod kill;
pub mod labels;
mod naive;
mod oracle;
pub mod pages;
mod run;
mod schedule;
mod share;
mod workload;

pub use case::{Case, Violation, mutant};
pub use explorer::{Bounds, Counts};
pub use nvstack_btt_sim::sim::{MUTANTS, Mutant};
pub use nvstack_sim::Model;
pub use run::{Config, Progress, Replay, Scope, Summary, reachable, replay, run};
pub use share::ViolationSummary;
pub use workload::{Op, Start, Workload, all_tasks, random};
