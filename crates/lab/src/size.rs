// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sizes as `ndctl` reads them.

/// Reads a size: digits as C's `strtoull` with base 0 takes them (0x for hexadecimal, a leading 0 for octal), then at
/// most one of k K m M g G t T, powers of 1024. Nothing else may follow.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    const ACCEPTED: &str = "a number (0x for hexadecimal), then at most one of k K m M g G t T";
    let shift = match text.bytes().last() {
        Some(b'k' | b'K') => 10,
        Some(b'm' | b'M') => 20,
        Some(b'g' | b'G') => 30,
        Some(b't' | b'T') => 40,
        _ => 0,
    };
    let digits = if shift == 0 { text } else { text.get(..text.len().saturating_sub(1)).unwrap_or_default() };
    let (digits, radix) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (digits.get(2..).unwrap_or_default(), 16),
        [b'0', _, ..] => (digits.get(1..).unwrap_or_default(), 8),
        _ => (digits, 10),
    };
    // from_str_radix takes a sign; a size has none.
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(format!("accepted {ACCEPTED}"));
    }
    u64::from_str_radix(digits, radix)
        .ok()
        .and_then(|n| n.checked_mul(1 << shift))
        .ok_or_else(|| "accepted sizes below 16 EiB".to_string())
}
