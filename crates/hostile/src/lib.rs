// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hostile bytes: one function for each thing that reads bytes of strangers, `fn(&[u8])`, that must return.
//!
//! A target makes something of its input (a damaged image, a label area, a conversation), has our code read and use it, and panics
//! where a promise is broken: a panic of ours, bytes changed by who only looked, data of a sector that nobody wrote changed, a reply
//! that is none. `fuzz/` runs the targets under libFuzzer; `tests/fuzz.rs` runs them with the mutator here, so that a plain test
//! run fuzzes too; `tests/corpus.rs` replays what was found worth keeping.
//!
//! Inputs are programs, not images: "lay this out, then change field 7 of info block 1, then let the power fail in a write". Any bytes
//! are such a program (see [`Input`]), so a fuzzer that knows nothing of formats reaches past checksums, and a finding fits in a
//! line. Where bytes are the format itself, the first byte says whether to put the checksum right.
//!
//! [`naive`] is a second reader, written from the documents alone; it shares no code with `format`, and must agree.
#![forbid(unsafe_code)]
// A finding is a panic. Nothing here is shipped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::missing_panics_doc)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod btt;
mod cli;
mod image;
mod input;
mod lab;
mod labels;
mod medium;
pub mod mutate;
pub mod naive;
mod nbd;
mod partitions;
mod pfn;
mod seeds;
mod target;

pub use btt::{arena_chain, btt_tables, differential_btt, info_block};
pub use cli::{control_lines, state_file};
pub use image::whole_image;
pub use input::Input;
pub use lab::lab_text;
pub use labels::{differential_labels, label_area, label_set};
pub use medium::Sparse;
pub use nbd::{nbd_handshake, nbd_transmission};
pub use partitions::partition_table;
pub use pfn::pfn_info;
pub use seeds::area_as_edits;
pub use target::{TARGETS, Target, target};
