// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes from media, made fit for a message.

use alloc::string::String;

/// Printable ASCII as it is, other bytes escaped, trailing zeros left out: `"BTT_ARENA_INFO"`.
pub(crate) fn ascii(bytes: &[u8]) -> String {
    let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last.saturating_add(1));
    let text = bytes.get(..end).unwrap_or(bytes).escape_ascii();
    alloc::format!("\"{text}\"")
}
