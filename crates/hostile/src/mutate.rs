// SPDX-License-Identifier: MIT OR Apache-2.0
//! A small mutator, for test runs without libFuzzer: no coverage, but it knows fields, words and numbers.

use crate::Target;

/// A generator of random numbers (xorshift64*), the same everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`, 0 for none.
    pub fn below(&mut self, limit: usize) -> usize {
        ((self.any() >> 16) as usize).checked_rem(limit).unwrap_or(0)
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

const NUMBERS: [u64; 20] = [
    0,
    1,
    255,
    256,
    511,
    512,
    4095,
    4096,
    0xffff,
    0x1_0000,
    0x3fff_ffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 24,
    1 << 32,
    1 << 39,
    1 << 63,
    u64::MAX - 4095,
    u64::MAX - 1,
    u64::MAX,
];

/// A new input out of those that there are.
pub fn mutate(random: &mut Random, target: &Target, pool: &[Vec<u8>]) -> Vec<u8> {
    let pick = |random: &mut Random| pool.get(random.below(pool.len())).cloned().unwrap_or_default();
    let mut input = pick(random);
    for _ in 0..=random.below(6) {
        once(random, target, &mut input, &pick);
    }
    input.truncate(target.longest);
    input
}

fn once(random: &mut Random, target: &Target, input: &mut Vec<u8>, pick: &dyn Fn(&mut Random) -> Vec<u8>) {
    let at = random.below(input.len());
    if !target.fields.is_empty() && !random.one_in(3) {
        let (at, len) = target.fields[random.below(target.fields.len())];
        if let Some(field) = input.get_mut(at..at + len) {
            let value = number(random, field);
            field.copy_from_slice(&value.to_le_bytes()[..len.min(8)]);
        }
        return;
    }
    match random.below(12) {
        0 | 1 if !input.is_empty() => input[at] ^= 1 << random.below(8),
        2 if !input.is_empty() => input[at] = random.any() as u8,
        3 if !input.is_empty() => input[at] = input[at].wrapping_add([1, 255, 2, 16][random.below(4)]),
        4 => {
            let len = [1, 2, 4, 8][random.below(4)].min(input.len() - at);
            let value = number(random, &input[at..at + len]);
            let value = if random.one_in(2) { value } else { value.swap_bytes() >> (64 - 8 * len.max(1)) };
            input[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
        }
        5 => {
            let end = (at + 1 + random.below(16)).min(input.len());
            input.drain(at..end);
        }
        6 => {
            let new: Vec<u8> = (0..=random.below(12)).map(|_| random.any() as u8).collect();
            input.splice(at..at, new);
        }
        7 => {
            // The head of one, the tail of another.
            let other = pick(random);
            input.truncate(at);
            input.extend_from_slice(&other[random.below(other.len()).min(other.len())..]);
        }
        8 => {
            let other = pick(random);
            let from = random.below(other.len());
            let end = (from + 1 + random.below(24)).min(other.len());
            input.splice(at..at, other[from..end].iter().copied());
        }
        9 => {
            let end = (at + 1 + random.below(24)).min(input.len());
            let again = input[at..end].to_vec();
            input.splice(at..at, again);
        }
        10 if !target.words.is_empty() => {
            let word = target.words[random.below(target.words.len())];
            input.splice(at..at, word.bytes());
        }
        _ => {
            let new: Vec<u8> = (0..4 + random.below(12)).map(|_| random.any() as u8).collect();
            input.extend(new);
        }
    }
}

/// An edge, something near what is there, or anything.
fn number(random: &mut Random, old: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let len = old.len().min(8);
    bytes[..len].copy_from_slice(&old[..len]);
    let old = u64::from_le_bytes(bytes);
    match random.below(8) {
        0..=2 => NUMBERS[random.below(NUMBERS.len())],
        3 => old.wrapping_add([1, 4096, 64, 512, 1 << 24][random.below(5)]),
        4 => old.wrapping_sub([1, 4096, 64, 512, 1 << 24][random.below(5)]),
        5 => old ^ 1 << random.below(64),
        6 => old << 1,
        _ => random.any(),
    }
}

/// Makes a finding shorter for as long as it stays one.
pub fn minimise(input: &[u8], fails: &dyn Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut best = input.to_vec();
    let mut len = best.len().next_power_of_two();
    let mut tries = 2000;
    while len > 0 && tries > 0 {
        let mut at = 0;
        while at < best.len() && tries > 0 {
            tries -= 1;
            let mut shorter = best.clone();
            shorter.drain(at..(at + len).min(best.len()));
            if fails(&shorter) {
                best = shorter;
            } else {
                at += len;
            }
        }
        len /= 2;
    }
    best
}
