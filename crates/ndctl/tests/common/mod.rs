// SPDX-License-Identifier: MIT OR Apache-2.0
//! Trees for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, reason = "sizes fit")]
#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod fake;

use std::path::PathBuf;

use nvstack_ndctl::dump::Dump;

pub(crate) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/sysfs").join(name)
}

/// A tree that a real Linux had, or `made-lab`: two buses, interleaving, lost bytes, things disabled and failing.
pub(crate) fn dump(name: &str) -> Dump {
    Dump::parse(&std::fs::read_to_string(fixture(&format!("{name}.txt"))).unwrap()).unwrap()
}
