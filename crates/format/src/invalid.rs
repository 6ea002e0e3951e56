// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is wrong with a structure, in terms that a person can act on.

use alloc::string::{String, ToString};
use core::fmt;

/// A field of a structure that does not hold what it must.
///
/// Reads as "BTT info block: nfree at byte 72: found 0, accepted 256 to 65536".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The structure: "BTT info block", "label index block 1" ...
    pub structure: &'static str,
    /// The field, by its name in the specification.
    pub field: &'static str,
    /// Where the field lies, in bytes from the start of the structure.
    pub offset: u64,
    /// What is there.
    pub found: String,
    /// What would be accepted.
    pub accepted: String,
}

impl Invalid {
    /// A finding about `field` of `structure`, `offset` bytes into it.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers hand over literals, numbers and format_args alike"
    )]
    pub fn new(
        structure: &'static str,
        field: &'static str,
        offset: u64,
        found: impl ToString,
        accepted: impl ToString,
    ) -> Invalid {
        Invalid { structure, field, offset, found: found.to_string(), accepted: accepted.to_string() }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} at byte {}: found {}, accepted {}",
            self.structure, self.field, self.offset, self.found, self.accepted
        )
    }
}

impl core::error::Error for Invalid {}
