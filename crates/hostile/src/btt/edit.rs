// SPDX-License-Identifier: MIT OR Apache-2.0
//! Edits of a BTT: a byte that says what is done, then its operands. Sixty at most.
//!
//! | | |
//! |---|---|
//! | 0 | a field of an info block, of one or of both, with the checksum put right or not |
//! | 1 | a map entry |
//! | 2 | a flog record: all of its fields, within the arena or not |
//! | 3 | a write of a sector that ends after so many of its four steps |
//! | 4 | bytes anywhere in a part of the arena |
//! | 5 | lost bytes |
//! | 6 | an info block put in another's place |
//! | 7 | the second record of every lane moved to where older Linux kept it |

use nvstack_media::{Media, MediaOffset};

use super::Made;
use crate::naive::btt::Info;
use crate::naive::{fletcher64, number};
use crate::{Input, Sparse};

const FIELDS: [(u64, usize); 16] = [
    (0, 4),
    (16, 4),
    (32, 4),
    (48, 4),
    (52, 2),
    (54, 2),
    (56, 4),
    (60, 4),
    (64, 4),
    (68, 4),
    (72, 4),
    (76, 4),
    (80, 8),
    (88, 8),
    (96, 8),
    (104, 8),
];

/// Applies all edits of an input.
pub(super) fn all(input: &mut Input<'_>, medium: &Sparse, made: &Made, may_lose: bool) {
    for _ in 0..60 {
        if input.is_empty() {
            return;
        }
        one(input, medium, made, may_lose);
    }
}

fn one(input: &mut Input<'_>, medium: &Sparse, made: &Made, may_lose: bool) {
    let operation = input.u8();
    let (base, info) = &made.arenas[usize::from(operation >> 4) % made.arenas.len()];
    let (base, arena) = (*base, (*base, info.clone()));
    match operation % 8 {
        0 => {
            let which = input.u8();
            let (at, len) = match which >> 3 {
                n @ 0..=15 => FIELDS[usize::from(n)],
                16 => (112, 8),
                n => (u64::from(n) * 128, 4),
            };
            let old = number(&medium.get::<8>(base + at), 0, len);
            let value = match which & 4 {
                0 => input.number(),
                // Near what is there.
                _ => old.wrapping_add(input.number()).wrapping_sub(input.number()),
            };
            let copies = [base, base + info.info2];
            for place in copies.into_iter().skip(usize::from(which & 3 == 3)).take(1 + usize::from(which & 1))
            {
                medium.poke(place + at, &value.to_le_bytes()[..len]);
                if which & 3 != 2 {
                    seal(medium, place, 4096, 4088);
                }
            }
        }
        1 => {
            let sector = input.below(info.sectors);
            let kind = input.u8();
            let block = if kind & 1 == 0 { input.below(info.blocks) } else { input.number() } as u32;
            let entry = u32::from(kind >> 6) << 30 | block & 0x3fff_ffff;
            medium.poke(base + info.map + sector * 4, &entry.to_le_bytes());
        }
        2 => {
            let lane = input.below(info.nfree);
            let kind = input.u8();
            let mut within = |bit: u8, limit: u64| match kind & bit {
                0 => input.below(limit),
                _ => input.number(),
            };
            let record =
                [within(4, info.sectors), within(8, info.blocks), within(16, info.blocks), within(32, 4)];
            let at = base + info.flog + lane * 64 + u64::from(kind & 3) * 16;
            for (field, value) in record.into_iter().enumerate() {
                medium.poke(at + field as u64 * 4, &(value as u32).to_le_bytes());
            }
        }
        3 => {
            let (lane, sector) = (input.below(info.nfree), input.below(info.sectors));
            let how = input.u8();
            write(medium, &arena, lane, sector, how, how % 5);
        }
        4 => {
            let parts = [base, base + info.map, base + info.flog, base + info.info2, base + info.data, 0];
            let at = parts[usize::from(input.u8()) % parts.len()].saturating_add(input.number());
            let len = usize::from(input.u8() % 64);
            medium.poke(at, input.take(len));
        }
        5 => {
            let parts = [base, base + info.map, base + info.flog, base + info.info2, base + info.data];
            let at = parts[usize::from(input.u8()) % parts.len()].saturating_add(input.number());
            let len = u64::from(input.u8()) * 128;
            if may_lose {
                let _ = medium.inject_poison(MediaOffset(at), len.max(1));
            }
        }
        6 => {
            let places: Vec<u64> = made
                .arenas
                .iter()
                .flat_map(|(base, info)| [*base, *base + info.info2])
                .chain([0, 4096])
                .collect();
            let place = |n: u8| places[usize::from(n) % places.len()];
            let raw = medium.get::<4096>(place(input.u8()));
            medium.poke(place(input.u8()), &raw);
        }
        _ => {
            for lane in 0..info.nfree.min(512) {
                let at = base + info.flog + lane * 64;
                let (second, third) = (medium.get::<16>(at + 16), medium.get::<16>(at + 32));
                medium.poke(at + 16, &third);
                medium.poke(at + 32, &second);
            }
        }
    }
}

/// Puts the checksum of `len` bytes right, which lies `sum` bytes into them.
pub(crate) fn seal(medium: &Sparse, at: u64, len: usize, sum: usize) {
    let mut raw = vec![0; len];
    medium.peek(at, &mut raw);
    medium.poke(at + sum as u64, &fletcher64(&raw, sum).to_le_bytes());
}

/// Writes a sector as Linux does, as far as `steps` of: data, first half of the record, second half, map entry.
pub(super) fn write(
    medium: &Sparse,
    (base, info): &(u64, Info),
    lane: u64,
    sector: u64,
    fill: u8,
    steps: u8,
) {
    let group = base + info.flog + lane * 64;
    let word = |at: u64| number(&medium.get::<4>(at), 0, 4) as u32;
    // Where the second record is, by what the first lane says.
    let old_kind = word(base + info.flog + 16 + 12) == 0 && word(base + info.flog + 32 + 12) != 0;
    let records = [group, group + if old_kind { 32 } else { 16 }];
    let seq = records.map(|record| word(record + 12));
    let newer = usize::from(seq[1] == seq[0] % 3 + 1 && seq[1] != 0);
    let free = word(records[newer] + 4) & 0x3fff_ffff;
    let map = base + info.map + sector * 4;
    let entry = word(map);
    let old = if entry >> 30 == 0 { sector as u32 } else { entry & 0x3fff_ffff };
    let block = base + info.data + u64::from(free) * info.stride;
    let place = records[1 - newer];
    if steps > 0 && u64::from(free) < info.blocks {
        medium.poke(block, &vec![fill; if info.lbasize < 4096 { 512 } else { 4096 }]);
    }
    if steps > 1 {
        medium.poke(place, &(sector as u32).to_le_bytes());
        medium.poke(place + 4, &old.to_le_bytes());
    }
    if steps > 2 {
        medium.poke(place + 8, &free.to_le_bytes());
        medium.poke(place + 12, &(seq[newer] % 3 + 1).to_le_bytes());
    }
    if steps > 3 {
        medium.poke(map, &(0xc000_0000 | free).to_le_bytes());
    }
}
