// SPDX-License-Identifier: MIT OR Apache-2.0
//! Inputs to begin with: everything in health, and one damage of each kind.

use nvstack_format::btt::Version::V2_0;
use nvstack_format::label::Version;

use crate::btt::Made;

/// A healthy info block of each BTT, as [`crate::info_block`] takes it.
pub(crate) fn info_block() -> Vec<Vec<u8>> {
    let seed = |which| {
        let made = Made::of(which);
        made.arenas
            .iter()
            .map(|(base, info)| {
                let version = if made.version == V2_0 { 2 } else { 0 };
                let parent = if made.parent == [0; 16] { 0 } else { 4 };
                let room = info.info2 + 4096 + info.next;
                let mut input = vec![1 | version | parent];
                input.extend_from_slice(&room.to_le_bytes());
                input.extend_from_slice(&made.medium.get::<120>(*base));
                input
            })
            .collect::<Vec<_>>()
    };
    (0..8).flat_map(seed).collect()
}

/// Edits of each kind, as bytes.
const EDITS: [&[u8]; 16] = [
    &[],
    // nextoff, dataoff, mapoff, info2off, nfree; nearby and at edges.
    &[0, 12 << 3, 171],
    &[0, 13 << 3 | 4, 147, 0],
    &[0, 14 << 3 | 5, 0, 147],
    &[0, 16 << 3, 173],
    &[0, 10 << 3, 142],
    // A copy that is the backup's, without its checksum; flags.
    &[0, 7 << 3 | 3, 1, 16, 3 << 3, 1],
    // Map entries: zero, error, one that is another's, one that is nobody's.
    &[1, 5, 128, 3, 1, 6, 64, 4, 1, 7, 192, 7, 1, 8, 193, 165],
    // Records: within, and not; equal sequence numbers.
    &[2, 9, 1, 5, 100, 5, 2, 2, 10, 1 | 4, 165, 1, 2, 3, 2, 11, 1, 1, 2, 3, 1],
    // The power fails after one, two, three steps.
    &[3, 0, 20, 1, 3, 1, 21, 2, 3, 2, 22, 3, 3, 3, 22, 4],
    &[7, 3, 0, 20, 3, 3, 1, 21, 9],
    &[5, 4, 0, 8, 5, 1, 0, 1, 5, 2, 0, 1],
    &[6, 0, 1],
    &[6, 1, 0],
    &[4, 1, 0, 16, 255, 255, 255, 255, 1, 0, 0, 192, 1, 0, 0, 192, 5, 0, 0, 128],
    &[7, 7, 2, 3, 3, 1, 2, 3, 2],
];

fn programs(kinds: impl IntoIterator<Item = u8> + Clone) -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (n, edits) in EDITS.iter().enumerate() {
        for kind in kinds.clone() {
            // Two sectors are written afterwards; memory or a file, in turn.
            let mut input = vec![kind, 0x20 | (n as u8 & 3)];
            input.extend_from_slice(&[1, 0x33, 20, 0x44]);
            input.extend_from_slice(edits);
            seeds.push(input);
        }
    }
    seeds
}

pub(crate) fn arena_chain() -> Vec<Vec<u8>> {
    programs([0, 1, 2, 3])
}

pub(crate) fn btt_tables() -> Vec<Vec<u8>> {
    programs([0, 1, 3, 7])
}

/// Areas of each size, each with some labels, and with damage.
pub(crate) fn label_area() -> Vec<Vec<u8>> {
    let labels: &[u8] = &[3, 0, 0, 0x01, 1, 1, 3, 1, 0, 0x02, 8, 0, 67, 2, 0, 0x43, 16, 3];
    let damage: [&[u8]; 12] = [
        &[],
        &[0, 3, 2],
        &[64, 3, 3],
        &[0, 8, 130],
        &[128, 3, 2],
        &[1, 1, 129, 1],
        &[2, 0, 9, 171],
        &[2, 1, 10, 191, 130, 1, 0, 1],
        &[6],
        &[64 | 6, 128 | 6],
        &[7, 0, 7, 171],
        &[5, 0, 20, 78, 65, 77, 69, 83, 80, 65, 67, 69, 95, 73, 78, 68, 69, 88, 0, 0, 0, 0, 0],
    ];
    let mut seeds = Vec::new();
    for kind in [4u8, 0, 1, 12, 8, 48, 128 + 4] {
        for damage in damage {
            seeds.push([&[kind], labels, damage, &[0, 4, 30, 2, 0, 0]].concat());
        }
    }
    // Of several DIMMs: how many, then each area.
    seeds.push([&[1u8, 4], labels, &[0xff, 4], labels, &[0xff, 1, 1, 30, 2, 0, 0]].concat());
    seeds.push([&[1u8, 4], labels, &[0xff, 12], &labels[..6], &[0xff, 2, 0, 8, 1, 1, 2]].concat());
    seeds
}

pub(crate) fn pfn_info() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for how in [0u8, 1, 2, 3, 32, 34, 64 | 8 | 2, 128 | 3, 4, 16] {
        let start: &[u8] = if how & 16 == 0 { &[] } else { &[216, 0, 0, 16, 0] };
        seeds.push([&[how], start].concat());
        for field in [6u8, 7, 8, 9, 10, 11, 12, 13, 5, 4] {
            seeds.push([&[how], start, &[128 | field, 147], &[120, 160, 3, 1, 2, 3]].concat());
        }
    }
    seeds
}

pub(crate) fn whole_image() -> Vec<Vec<u8>> {
    let damage: [&[u8]; 8] = [
        &[],
        &[0, 3, 2],
        &[3, 12, 150],
        &[3 | 16, 20, 147, 131, 8, 1],
        &[1, 2, 0, 9, 171],
        &[5, 2, 0, 4, 255, 255, 0, 192],
        &[6, 1],
        &[7, 0],
    ];
    (0..8u8).flat_map(|image| damage.map(|damage| [&[image, image & 1], damage].concat())).collect()
}

pub(crate) fn partition_table() -> Vec<Vec<u8>> {
    let damage: [&[u8]; 7] = [
        &[],
        &[0, 20, 173],
        &[3, 16 + 8, 0, 3, 16 + 12, 1],
        &[128 | 6, 72, 0],
        &[6, 72, 191, 128 | 6, 80, 175],
        &[10, 32, 191, 128 | 10, 40, 171],
        &[128 | 64 | 6, 24, 9],
    ];
    [0u8, 2, 3, 4, 5].into_iter().flat_map(|how| damage.map(|damage| [&[how], damage].concat())).collect()
}

pub(crate) fn lab_text() -> Vec<Vec<u8>> {
    let readme = include_str!("../../lab/README.md");
    let examples = readme.split("```toml\n").skip(1).filter_map(|text| text.split("```").next());
    let all = "[[bus]]\nrange = [{ memory = '4M', start = 0x100000000 }]\nram = [{ memory = '4M' }]\n";
    examples.chain([all]).map(|text| text.as_bytes().to_vec()).collect()
}

const FLAGS: &[u8] = &[0, 0, 0, 3];
const GO: &[u8] = b"IHAVEOPT\0\0\0\x07\0\0\0\x09\0\0\0\x03ram\0\0";

pub(crate) fn nbd_handshake() -> Vec<Vec<u8>> {
    let read = b"\x25\x60\x95\x13\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\x02\0";
    let disc = b"\x25\x60\x95\x13\0\0\0\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0";
    let option = |code: u8, data: &[u8]| {
        [b"IHAVEOPT\0\0\0", &[code][..], &(data.len() as u32).to_be_bytes(), data].concat()
    };
    let set = option(10, b"\0\0\0\x03ram\0\0\0\x01\0\0\0\x0fbase:allocation");
    let list = option(9, b"\0\0\0\x03ram\0\0\0\0");
    let info = option(6, b"\0\0\0\0\0\x02\0\x01\0\x02");
    [
        [FLAGS, GO, read, disc].concat(),
        [FLAGS, &option(8, b""), &list, &set, GO, read, disc].concat(),
        [FLAGS, &option(3, b""), &info, &option(2, b"")].concat(),
        [&[0, 0, 0, 1], &option(1, b"ram")[..], read, disc].concat(),
        [FLAGS, &option(1, b""), read].concat(),
        [FLAGS, &option(5, b""), &option(99, b"what"), &option(7, b"\0\0\0\x05other\0\0")].concat(),
        [&[0, 0, 0, 4], GO].concat(),
        [FLAGS, b"IHAVEOPT\0\0\0\x07\0\x01\0\x01"].concat(),
    ]
    .to_vec()
}

pub(crate) fn nbd_transmission() -> Vec<Vec<u8>> {
    let all: &[u8] =
        &[1, 0, 4, 2, 0, 0, 4, 2, 3, 0, 0, 0, 4, 0, 8, 8, 5, 0, 9, 2, 6, 2, 10, 4, 7, 0, 0, 126, 2, 0, 0, 0];
    let odd: &[u8] =
        &[128, 0, 191, 191, 129, 0, 0, 181, 8, 0, 0, 1, 9, 31, 0, 0, 0x41, 255, 255, 1, 1, 0xff, 3, 1, 2, 3];
    (0..16u8).flat_map(|how| [[&[how], all].concat(), [&[how], odd].concat()]).collect()
}

pub(crate) fn control_lines() -> Vec<Vec<u8>> {
    [
        "{\"op\":\"list\",\"path\":\"bus/nd/devices\"}\n{\"op\":\"read\",\"path\":\"region0/size\"}\n",
        "{\"op\":\"write\",\"path\":\"namespace0.0/size\",\"text\":\"0x1000000\\n\"}\n{\"op\":\"link\",\"path\":\"region0/driver\"}\n",
        "{\"op\":\"label_size\",\"dimm\":\"nmem0\"}\n{\"op\":\"label_read\",\"dimm\":\"nmem0\",\"at\":0,\"len\":256}\n",
        "{\"op\":\"label_write\",\"dimm\":\"nmem0\",\"at\":8,\"data\":\"00ff\"}\n{\"op\":\"idle_dev\",\"dev\":\"pmem0\"}\n",
        "{\"op\":\"inject_error\",\"region\":\"region0\",\"at\":512,\"len\":512}\n{\"op\":\"clear_error\",\"region\":\"region0\",\"at\":0,\"len\":4096}\n",
        "{\"op\":\"write\",\"path\":\"namespace0.0/uuid\",\"text\":\"11111111-2222-3333-4444-555555555555\"}\n\
         {\"op\":\"write\",\"path\":\"namespace0.0/size\",\"text\":\"16777216\"}\n{\"op\":\"write\",\"path\":\"bus/nd/drivers/nd_pmem/bind\",\"text\":\"namespace0.0\"}\n\
         {\"op\":\"read_dev\",\"dev\":\"pmem0\",\"at\":4096,\"len\":512}\n{\"op\":\"write_dev\",\"dev\":\"pmem0\",\"at\":0,\"data\":\"00\"}\n",
        "{\"op\":\"read\"}\n[]\n\n{\"op\":\"read_dev\",\"dev\":\"pmem0\",\"at\":0,\"len\":18446744073709551615}\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

pub(crate) fn state_file() -> Vec<Vec<u8>> {
    [
        "{\"version\":1}",
        "{\"version\":1,\"disabled\":{\"dimms\":[[0,0]],\"regions\":[4294967296],\"namespaces\":[\"11111111-2222-3333-4444-555555555555\"],\"ranges\":[0]}}",
        "{\"version\":1,\"read_only_regions\":[4294967296],\"poison\":[[4294967296,0,8],[4294967296,65535,1]]}",
        "{\"version\":1,\"poison\":[[4294967296,18446744073709551615,18446744073709551615]]}",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// An area of Linux's as edits of one that was never initialised; for the corpus.
#[must_use]
pub fn area_as_edits(area: &[u8], version: Version) -> Vec<u8> {
    // 128 KiB, not initialised, as many edits as there may be.
    let mut input = vec![if version == Version::V1_1 { 8 } else { 0 } | 4 | 48 | 192];
    for (number, piece) in area.chunks(60).enumerate() {
        let len = piece.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if len > 0 {
            input.extend_from_slice(&[5, 208]);
            input.extend_from_slice(&(number as u32 * 60).to_le_bytes());
            input.push(len as u8);
            input.extend_from_slice(&piece[..len]);
        }
    }
    input.extend_from_slice(&[0, 4, 30, 2, 0, 0]);
    input
}
