// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every power cut while labels are changed, on one DIMM and on sets.
//!
//! A [`Workload`] is a set of DIMMs with small label areas and a few [`Change`]s, made by the engine of label areas on
//! simulated media. Before each store, flush and drain of any DIMM the power is cut on all of them in every way that the
//! model allows (`moment`). Each set of images is read by the engine and by a naive second reader with Linux's rules
//! (`naive`), settled, cut again inside that, done once more, and deleted (`judge`).
//!
//! * [`run`] explores what a [`Config`] says and gives a [`Summary`].
//! * [`replay`] shows one failure again, from the line that names it.
//! * [`Config::mutant`] leaves out a part of the protocol, and the exploration must notice.

mod case;
mod damage;
mod explorer;
mod judge;
pub(crate) mod moment;
pub(crate) mod naive;
mod run;
mod workload;

pub use case::{Case, Violation, mutant};
pub use explorer::Counts;
pub use nvstack_label_sim::sim::Mutant;
pub use run::{Config, Progress, Replay, Scope, Summary, replay, run};
pub use workload::{Change, Workload, random};
