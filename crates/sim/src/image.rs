// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes of a medium at one moment.

use std::fmt;
use std::sync::Arc;

use crate::mix;

/// Bytes of a unit: what persists whole.
pub(crate) const UNIT: u64 = 8;
const UNITS: usize = 512;
const PAGE: u64 = 4096;

type Page = [u64; UNITS];

/// Bytes, in pages that copies share until one of them changes. Pages of zeros take no space.
///
/// Its hash follows each change at the cost of that change, so images are told apart without being looked at. Two images
/// of one size with the same hash are taken to be the same: 128 bits, no secret in them.
#[derive(Clone)]
pub struct Image {
    pages: Arc<Vec<Option<Arc<Page>>>>,
    len: u64,
    hash: u128,
    /// Blocks of 512 bytes that can't be read, in order.
    lost: Vec<u64>,
}

/// Bytes of a block that is lost and healed as one.
const BLOCK: u64 = 512;

/// What a unit adds to the hash. Nothing if it is zero, so that zeros needn't be visited.
fn unit_hash(unit: u64, value: u64) -> u128 {
    if value == 0 {
        return 0;
    }
    let place = mix(unit.wrapping_mul(0xd6e8_feb8_6659_fd93));
    let high = mix(value ^ place);
    let low = mix(value.wrapping_mul(0xff51_afd7_ed55_8ccd) ^ place.rotate_left(32));
    u128::from(high) << 64 | u128::from(low)
}

impl Image {
    /// `len` bytes of zeros.
    #[must_use]
    pub fn zeros(len: u64) -> Image {
        let pages = usize::try_from(len.div_ceil(PAGE)).unwrap_or(usize::MAX);
        Image { pages: Arc::new(vec![None; pages]), len, hash: 0, lost: Vec::new() }
    }

    /// These bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Image {
        let mut image = Image::zeros(bytes.len() as u64);
        for (unit, chunk) in bytes.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            image.set_unit(unit as u64, u64::from_le_bytes(word));
        }
        image
    }

    /// All bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.len).unwrap_or(0)];
        self.read(0, &mut bytes);
        bytes
    }

    /// Size in bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no byte at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The hash of all bytes.
    #[must_use]
    pub const fn hash(&self) -> u128 {
        self.hash
    }

    /// Eight aligned bytes, by their number, as a little-endian word; 0 past the end.
    #[inline]
    #[must_use]
    pub fn unit(&self, unit: u64) -> u64 {
        let (page, at) = place(unit);
        self.pages.get(page).and_then(Option::as_ref).map_or(0, |p| p[at])
    }

    /// Changes eight aligned bytes. What lies past the end is left out.
    #[inline]
    pub fn set_unit(&mut self, unit: u64, value: u64) {
        let before = self.unit(unit);
        if before == value {
            return;
        }
        let (page, at) = place(unit);
        let Some(slot) = Arc::make_mut(&mut self.pages).get_mut(page) else { return };
        let page = slot.get_or_insert_with(|| Arc::new([0; UNITS]));
        Arc::make_mut(page)[at] = value;
        self.hash ^= unit_hash(unit, before) ^ unit_hash(unit, value);
    }

    /// Copies bytes out, from `at` on; zeros past the end.
    pub fn read(&self, at: u64, into: &mut [u8]) {
        if at.is_multiple_of(UNIT) && into.len().is_multiple_of(8) {
            let (words, _) = into.as_chunks_mut::<8>();
            for (unit, word) in (at / UNIT..).zip(words) {
                *word = self.unit(unit).to_le_bytes();
            }
            return;
        }
        let mut done = 0;
        while done < into.len() {
            let byte = at + done as u64;
            let skip = (byte % UNIT) as usize;
            let word = self.unit(byte / UNIT).to_le_bytes();
            let step = (8 - skip).min(into.len() - done);
            into[done..done + step].copy_from_slice(&word[skip..skip + step]);
            done += step;
        }
    }

    /// Copies bytes in, from `at` on.
    pub fn write(&mut self, at: u64, from: &[u8]) {
        for (unit, value, mask) in units(at, from) {
            self.set_unit(unit, merge(self.unit(unit), value, mask));
        }
    }

    /// Loses the blocks of 512 bytes that a range touches: from now on they can't be read, until they are healed.
    pub fn lose(&mut self, at: u64, len: u64) {
        let end = at.saturating_add(len).min(self.len);
        for block in at / BLOCK..end.div_ceil(BLOCK) {
            if let Err(place) = self.lost.binary_search(&block) {
                self.lost.insert(place, block);
                self.hash ^= unit_hash(!block, 1);
            }
        }
    }

    /// Heals the blocks of 512 bytes that a range covers. Their bytes are what they were.
    pub fn heal(&mut self, at: u64, len: u64) {
        if self.lost.is_empty() {
            return;
        }
        let covered = at.div_ceil(BLOCK)..at.saturating_add(len) / BLOCK;
        let hash = &mut self.hash;
        self.lost.retain(|block| {
            let healed = covered.contains(block);
            if healed {
                *hash ^= unit_hash(!*block, 1);
            }
            !healed
        });
    }

    /// The first lost byte of a range.
    #[must_use]
    pub fn first_lost(&self, at: u64, len: u64) -> Option<u64> {
        let end = at.saturating_add(len);
        let touches = |block: &&u64| **block * BLOCK < end && (**block + 1) * BLOCK > at;
        self.lost.iter().find(touches).map(|block| (block * BLOCK).max(at))
    }

    /// The lost blocks of 512 bytes that a range touches, as runs: number and count.
    #[must_use]
    pub fn lost(&self, at: u64, len: u64) -> Vec<(u64, u64)> {
        let touched = at / BLOCK..at.saturating_add(len).div_ceil(BLOCK);
        let lost: Vec<u64> = self.lost.iter().copied().filter(|b| touched.contains(b)).collect();
        let runs = lost.chunk_by(|a, b| a + 1 == *b);
        runs.map(|run| (run.first().copied().unwrap_or(0), run.len() as u64)).collect()
    }

    /// Where the pages begin that take space: those that ever held anything but zeros.
    pub fn pages(&self) -> impl Iterator<Item = u64> + '_ {
        (0..)
            .step_by(PAGE as usize)
            .zip(self.pages.iter())
            .filter(|(_, page)| page.is_some())
            .map(|(at, _)| at)
    }

    /// Bytes of those pages.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        self.pages().count() as u64 * PAGE
    }

    /// Whether the page with this byte is zeros that take no space.
    pub(crate) fn is_hole(&self, byte: u64) -> bool {
        self.pages.get(place(byte / UNIT).0).is_none_or(Option::is_none)
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({} bytes, {:032x})", self.len, self.hash)
    }
}

impl PartialEq for Image {
    fn eq(&self, other: &Image) -> bool {
        self.len == other.len && self.hash == other.hash
    }
}

impl Eq for Image {}

fn place(unit: u64) -> (usize, usize) {
    let page = usize::try_from(unit / UNITS as u64).unwrap_or(usize::MAX);
    (page, (unit % UNITS as u64) as usize)
}

/// Some bytes of one word over another.
pub(crate) const fn merge(under: u64, over: u64, mask: u64) -> u64 {
    under & !mask | over & mask
}

/// The units that bytes at an offset touch: number, value, and which of its bytes count.
pub(crate) fn units(at: u64, from: &[u8]) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
    let mut done = 0usize;
    std::iter::from_fn(move || {
        if done >= from.len() {
            return None;
        }
        if (at + done as u64).is_multiple_of(UNIT)
            && let Some(word) = from.get(done..).and_then(<[u8]>::first_chunk::<8>)
        {
            let unit = (at + done as u64) / UNIT;
            done += 8;
            return Some((unit, u64::from_le_bytes(*word), u64::MAX));
        }
        let byte = at + done as u64;
        let skip = (byte % UNIT) as usize;
        let step = (8 - skip).min(from.len() - done);
        let (mut value, mut mask) = ([0; 8], [0; 8]);
        value[skip..skip + step].copy_from_slice(&from[done..done + step]);
        mask[skip..skip + step].fill(0xff);
        done += step;
        Some((byte / UNIT, u64::from_le_bytes(value), u64::from_le_bytes(mask)))
    })
}
