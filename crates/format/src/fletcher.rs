// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one checksum of every structure here.

/// Fletcher64 over little-endian 32-bit words. A tail shorter than a word is ignored. (Linux `nd_fletcher64`,
/// UEFI "BTT: Fletcher64".)
#[must_use]
pub fn fletcher64(bytes: &[u8]) -> u64 {
    sum(bytes.as_chunks::<4>().0.iter().copied())
}

/// [`fletcher64`] with the 8 bytes from `field` counted as zeros: the checksum of a structure that holds its own
/// checksum there. `field` must be a multiple of 4.
#[must_use]
pub fn fletcher64_without(bytes: &[u8], field: usize) -> u64 {
    let (before, rest) = bytes.split_at_checked(field).unwrap_or((bytes, &[]));
    let after = rest.get(8..).unwrap_or(&[]);
    let (before, after) = (before.as_chunks::<4>().0, after.as_chunks::<4>().0);
    sum(before.iter().copied().chain([[0; 4]; 2]).chain(after.iter().copied()))
}

fn sum(words: impl Iterator<Item = [u8; 4]>) -> u64 {
    let (low, high) = words.fold((0u32, 0u32), |(low, high), word| {
        let low = low.wrapping_add(u32::from_le_bytes(word));
        (low, high.wrapping_add(low))
    });
    u64::from(high) << 32 | u64::from(low)
}
