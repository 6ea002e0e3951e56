// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes as a program.

/// Numbers that tend to break arithmetic, and those that the formats are made of.
const EDGES: [u64; 64] = {
    let mut all = [0u64; 64];
    let some = [
        0,
        1,
        2,
        3,
        4,
        5,
        7,
        8,
        63,
        64,
        65,
        127,
        128,
        255,
        256,
        257,
        511,
        512,
        520,
        528,
        576,
        4095,
        4096,
        4097,
        4104,
        4160,
        4224,
        8192,
        0xffff,
        0x1_0000,
        0x1_0001,
        0x0fff_f000,
        0x1000_0000,
        0x3fff_ffff,
        0x4000_0000,
        0x7fff_ffff,
        0x8000_0000,
        0xc000_0000,
        0xffff_f000,
        0xffff_ffff,
        0x1_0000_0000,
        1 << 24,
        (1 << 24) - 4096,
        (1 << 24) + 4096,
        1 << 25,
        1 << 21,
        1 << 39,
        (1 << 39) - 4096,
        (1 << 39) + 4096,
        1 << 40,
        1 << 62,
        (1 << 63) - 1,
        1 << 63,
        u64::MAX - 4096,
        u64::MAX - 4095,
        u64::MAX - 511,
        u64::MAX - 1,
        u64::MAX,
        100,
        1000,
        16,
        32,
        12,
        48,
    ];
    let mut i = 0;
    while i < 64 {
        all[i] = some[i];
        i += 1;
    }
    all
};

/// Reads values off the front of bytes. At the end everything is zero.
#[derive(Clone, Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// From the first byte on.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Input<'a> {
        Input(bytes)
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is left.
    #[must_use]
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// At most `len` bytes.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn wide<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let taken = self.take(N);
        bytes[..taken.len()].copy_from_slice(taken);
        bytes
    }

    /// A byte.
    pub fn u8(&mut self) -> u8 {
        self.wide::<1>()[0]
    }

    /// Two bytes, little-endian.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.wide())
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.wide())
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.wide())
    }

    /// A number in as few bytes as it takes: small ones and edges in one.
    pub fn number(&mut self) -> u64 {
        match self.u8() {
            small @ 0..=127 => small.into(),
            edge @ 128..=191 => EDGES[usize::from(edge - 128)],
            192..=207 => self.u16().into(),
            208..=231 => self.u32().into(),
            232..=239 => u64::from(self.u32()) << 12,
            _ => self.u64(),
        }
    }

    /// A number below `limit`, 0 if there is none.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.number().checked_rem(limit).unwrap_or(0)
    }
}
