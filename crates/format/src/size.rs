// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sizes as `ndctl` reads and prints them: the one spelling for options, lab files and lists.

use alloc::format;
use alloc::string::{String, ToString};

/// Reads a size: digits as C's `strtoull` with base 0 takes them (0x for hexadecimal, a leading 0 for octal), then at
/// most one of k K m M g G t T, powers of 1024. Nothing else may follow. The error is what would be accepted.
pub fn parse(text: &str) -> Result<u64, String> {
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

/// Bytes for a person: binary and decimal units, two decimals, M below 2 GiB, then G, then T.
#[must_use]
pub fn human(bytes: u64) -> String {
    let (binary, decimal, unit) = match bytes {
        0..0x8000_0000 => (1u64 << 20, 1_000_000u64, 'M'),
        0x8000_0000..0x200_0000_0000 => (1 << 30, 1_000_000_000, 'G'),
        _ => (1 << 40, 1_000_000_000_000, 'T'),
    };
    let text = |one: u64| {
        let half = u128::from(one).div_euclid(2);
        let hundredths = u128::from(bytes).saturating_mul(100).saturating_add(half).div_euclid(one.into());
        format!("{}.{:02}", hundredths.div_euclid(100), hundredths.rem_euclid(100))
    };
    format!("{} {unit}iB ({} {unit}B)", text(binary), text(decimal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_ndctl_reads_them() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("0x1000", 4096),
            ("0X10k", 16384),
            ("010", 8),
            ("256M", 256 << 20),
            ("1g", 1 << 30),
            ("2T", 2 << 40),
            ("128K", 131_072),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "M",
            "-1",
            "+1",
            "1 M",
            "1MB",
            "1MiB",
            "0x",
            "08",
            "1e3",
            "16777216T",
            "18446744073709551616",
            "é",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn people_see_binary_and_decimal_units() {
        assert_eq!(human((512 << 20) - (128 << 10)), "511.88 MiB (536.74 MB)");
        assert_eq!(human(5_120_000), "4.88 MiB (5.12 MB)");
        assert_eq!(human((2 << 30) - 1), "2048.00 MiB (2147.48 MB)");
        assert_eq!(human(2 << 30), "2.00 GiB (2.15 GB)");
        assert_eq!(human(2 << 40), "2.00 TiB (2.20 TB)");
        assert_eq!(human(u64::MAX), "16777216.00 TiB (18446744.07 TB)");
    }
}
