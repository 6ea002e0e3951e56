// SPDX-License-Identifier: MIT OR Apache-2.0
//! What sectors hold in a workload, told by one number.
//!
//! A sector of content `n` has it in its first eight bytes and in its last eight, and zeros between: a mixture of two
//! contents is neither. That only two units of a block ever change is what keeps the images of a cut in the middle of a
//! sector down to four: old, new, and two torn ones. Any other torn state reads no differently.

use nvstack_sim::Image;

/// A sector whose bytes are lost.
pub(crate) const LOST: u8 = 0xfe;
/// A sector that is neither one content nor another.
pub(crate) const TORN: u8 = 0xff;

/// Contents of some sectors, at most eight, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Contents(u64);

impl Contents {
    /// The content of a sector, by its number in the workload.
    #[must_use]
    pub(crate) const fn get(self, sector: u8) -> u8 {
        self.0.to_le_bytes()[(sector & 7) as usize]
    }
}

impl FromIterator<u8> for Contents {
    fn from_iter<I: IntoIterator<Item = u8>>(contents: I) -> Contents {
        let mut bytes = [0; 8];
        for (slot, content) in bytes.iter_mut().zip(contents) {
            *slot = content;
        }
        Contents(u64::from_le_bytes(bytes))
    }
}

fn unit(content: u8) -> u64 {
    if content == 0 { 0 } else { 0x5ec7_0000_0000_0000 | u64::from(content) }
}

/// The bytes of a sector.
#[must_use]
pub(crate) fn sector(content: u8) -> [u8; 512] {
    let mut bytes = [0; 512];
    let word = unit(content).to_le_bytes();
    bytes[..8].copy_from_slice(&word);
    bytes[504..].copy_from_slice(&word);
    bytes
}

/// What the bytes of a sector say.
#[must_use]
pub(crate) fn of_sector(bytes: &[u8]) -> u8 {
    let content = bytes.first().copied().unwrap_or(TORN);
    if bytes == sector(content) { content } else { TORN }
}

/// What a block of an image says.
#[must_use]
pub(crate) fn of_block(image: &Image, at: u64) -> u8 {
    let (first, last) = (image.unit(at / 8), image.unit(at / 8 + 63));
    let content = first as u8;
    let whole = first == last && first == unit(content) && (1..63).all(|i| image.unit(at / 8 + i) == 0);
    if whole { content } else { TORN }
}

/// In words.
#[must_use]
pub(crate) fn describe(content: u8) -> String {
    match content {
        TORN => "torn".to_owned(),
        LOST => "lost".to_owned(),
        0 => "zeros".to_owned(),
        n => format!("content {n}"),
    }
}
