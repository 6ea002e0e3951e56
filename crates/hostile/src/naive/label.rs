// SPDX-License-Identifier: MIT OR Apache-2.0
//! A label area as Linux reads it. Ours is nowhere stricter.

use super::{fletcher64, number};

/// An area's geometry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of a label.
    pub label: u64,
    /// Bytes of an index block.
    pub index: u64,
    /// Slots that fit.
    pub slots: u64,
}

/// The geometry of an area of `size` bytes with labels of `label` bytes.
#[must_use]
pub fn shape(size: u64, label: u64) -> Shape {
    let index = |slots: u64| (72 + slots.div_ceil(8)).div_ceil(256) * 256;
    let slots = (size - 2 * index(size / label)) / label;
    Shape { label, index: index(slots), slots }
}

/// What a valid index block says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// 1 to 3.
    pub seq: u64,
    /// Slots that it counts.
    pub nslot: u64,
    /// Those in use.
    pub used: Vec<u64>,
}

/// Index block `number` of an area, if it is valid.
#[must_use]
pub fn index(area: &[u8], shape: Shape, which: u64) -> Option<Index> {
    let at = (which * shape.index) as usize;
    let block = &area[at..at + shape.index as usize];
    let other = shape.index - which * shape.index;
    let version = number(block, 60, 2) * 100 + number(block, 62, 2);
    let label = if version < 102 { 128 } else { 128u128 << block[19].min(64) };
    let valid = &block[..16] == b"NAMESPACE_INDEX\0"
        && label == u128::from(shape.label)
        && number(block, 64, 8) == fletcher64(block, 64)
        && !number(block, 20, 4).is_multiple_of(4)
        && number(block, 24, 8) == which * shape.index
        && number(block, 40, 8) == other
        && number(block, 48, 8) == 2 * shape.index
        && (72..=shape.index).contains(&number(block, 32, 8))
        && number(block, 56, 4) * shape.label + 2 * shape.index <= area.len() as u64;
    let nslot = number(block, 56, 4);
    let free = |slot: u64| block[72 + (slot / 8) as usize] >> (slot % 8) & 1 == 1;
    valid.then(|| Index {
        seq: number(block, 20, 4) % 4,
        nslot,
        used: (0..nslot).filter(|slot| !free(*slot)).collect(),
    })
}

/// What an area holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Area {
    /// Its geometry.
    pub shape: Shape,
    /// Both index blocks.
    pub blocks: [Option<Index>; 2],
    /// The one that counts.
    pub current: usize,
    /// The slots in use; the bytes of those that hold a label.
    pub slots: Vec<(u64, Option<Vec<u8>>)>,
}

/// Reads an area; none if no index block is valid.
#[must_use]
pub fn area(bytes: &[u8]) -> Option<Area> {
    for label in [128, 256] {
        let shape = shape(bytes.len() as u64, label);
        let blocks = [index(bytes, shape, 0), index(bytes, shape, 1)];
        let current = match &blocks {
            [None, None] => continue,
            [Some(_), None] => 0,
            [None, Some(_)] => 1,
            // 1, 2, 3, 1 ...; a tie is the second one's.
            [Some(a), Some(b)] if a.seq == b.seq || a.seq % 3 + 1 == b.seq => 1,
            [Some(_), Some(_)] => 0,
        };
        let used = blocks[current].as_ref().map(|index| index.used.clone()).unwrap_or_default();
        let slots = used.into_iter().map(|slot| (slot, slot_bytes(bytes, shape, slot))).collect();
        return Some(Area { shape, blocks, current, slots });
    }
    None
}

/// The bytes of a slot, if they are a label.
fn slot_bytes(area: &[u8], shape: Shape, slot: u64) -> Option<Vec<u8>> {
    let at = (2 * shape.index + slot * shape.label) as usize;
    let bytes = &area[at..at + shape.label as usize];
    let good = number(bytes, 120, 4) == slot
        && (shape.label == 128 || number(bytes, 248, 8) == fletcher64(bytes, 248));
    good.then(|| bytes.to_vec())
}
