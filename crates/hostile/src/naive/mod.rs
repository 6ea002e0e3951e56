// SPDX-License-Identifier: MIT OR Apache-2.0
//! A second reader of the formats, written from the documents about them (UEFI, and what is known of Linux), as plainly as can be.
//! Shares no code with `format` or an engine, not even the checksum.
//!
//! It says what Linux would do and, apart from that, where ours refuses more on purpose: the `Stricter` lists. Where neither
//! refuses, every value must be the same.

pub mod btt;
pub mod label;

/// Sums of sums, 32 bits at a time; the eight bytes at `hole` count as zero.
#[must_use]
pub fn fletcher64(bytes: &[u8], hole: usize) -> u64 {
    let mut lo: u64 = 0;
    let mut hi: u64 = 0;
    for (at, word) in bytes.chunks(4).enumerate() {
        let at = at * 4;
        let mut value: u64 = 0;
        for (shift, byte) in word.iter().enumerate() {
            if !(hole..hole + 8).contains(&(at + shift)) {
                value += u64::from(*byte) << (8 * shift);
            }
        }
        lo = (lo + value) % (1 << 32);
        hi = (hi + lo) % (1 << 32);
    }
    hi * (1 << 32) + lo
}

/// A little-endian number of `len` bytes.
#[must_use]
pub fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes[at..at + len].iter().rev().fold(0, |n, byte| n * 256 + u64::from(*byte))
}
