// SPDX-License-Identifier: MIT OR Apache-2.0
//! NVDIMM on-media layouts as data.
//!
//! No I/O, no `unsafe`, no allocation on the say-so of the medium. Each structure comes in two forms: raw bytes,
//! and a validated type that only its parser can make. Whoever holds the validated type may compute with its fields.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::as_conversions, clippy::arithmetic_side_effects)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::as_conversions, clippy::arithmetic_side_effects))]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod btt;
mod cookie;
mod fletcher;
pub mod guid;
mod invalid;
pub mod label;
pub mod pfn;
pub mod size;
mod text;
mod units;

pub use cookie::{Cookies, SetMember, cookies};
pub use fletcher::{fletcher64, fletcher64_without};
pub use invalid::Invalid;
pub use units::{Block, Dpa, Lba, MediaOffset, Premap};
