// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sizes on the command line: as `ndctl` reads them.

/// A number of bytes, or one with k, m, g or t.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    nvstack_ndctl::size::parse(text)
}
