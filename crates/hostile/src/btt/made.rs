// SPDX-License-Identifier: MIT OR Apache-2.0
//! The BTTs that are damaged. They are laid out here byte by byte, and not by the engine.

use std::sync::OnceLock;

use nvstack_btt::{CreateOptions, create};
use nvstack_format::btt::{LbaSize, Version};
use uuid::Uuid;

use super::info::PARENT;
use crate::Sparse;
use crate::naive::{btt::Info, fletcher64};

/// Bytes of all arenas but the huge one: the smallest that there are.
const SMALL: u64 = 16 << 20;
/// The BTT's own uuid.
const OWN: [u8; 16] = [9; 16];

/// A BTT without a fault.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) version: Version,
    pub(crate) parent: [u8; 16],
    pub(crate) medium: Sparse,
    /// Where each arena begins, and what its info block says.
    pub(crate) arenas: Vec<(u64, Info)>,
}

impl Made {
    /// One of eight: sizes of sectors, chains, a namespace with and without labels, more lanes than Linux makes.
    pub(crate) fn of(which: u8) -> &'static Made {
        static ALL: [OnceLock<Made>; 8] = [const { OnceLock::new() }; 8];
        let which = usize::from(which % 8);
        ALL[which].get_or_init(|| match which {
            0 => small(Version::V1_1, [0; 16], 4096, 256, 1),
            1 => small(Version::V2_0, PARENT, 4096, 256, 1),
            2 => small(Version::V1_1, PARENT, 512, 256, 1),
            3 => small(Version::V2_0, PARENT, 4104, 256, 2),
            4 => small(Version::V2_0, PARENT, 4096, 256, 2),
            5 => small(Version::V1_1, [0; 16], 4224, 256, 3),
            6 => huge(),
            _ => small(Version::V2_0, PARENT, 4160, 300, 1),
        })
    }
}

fn small(version: Version, parent: [u8; 16], lbasize: u64, nfree: u64, count: u64) -> Made {
    let start = version.start();
    let medium = Sparse::new(start + count * SMALL);
    let stride = lbasize.div_ceil(64) * 64;
    let flog_len = (nfree * 64).div_ceil(4096) * 4096;
    let room = SMALL - 2 * 4096 - flog_len;
    let blocks = (room - 4096) / (stride + 4);
    let sectors = blocks - nfree;
    let flog = 4096 + room;
    let mut arenas = Vec::new();
    for n in 0..count {
        let info = Info {
            uuid: OWN,
            parent,
            flags: 0,
            lbasize,
            sectors,
            stride,
            blocks,
            nfree,
            infosize: 4096,
            next: if n + 1 < count { SMALL } else { 0 },
            data: 4096,
            map: flog - (sectors * 4).div_ceil(4096) * 4096,
            flog,
            info2: flog + flog_len,
        };
        let base = start + n * SMALL;
        for lane in 0..nfree {
            let spare = (sectors + lane) as u32;
            for (field, value) in [lane as u32, spare, spare, 1].into_iter().enumerate() {
                medium.poke(base + flog + lane * 64 + field as u64 * 4, &value.to_le_bytes());
            }
        }
        let raw = block(&info, version);
        medium.poke(base, &raw);
        medium.poke(base + info.info2, &raw);
        arenas.push((base, info));
    }
    // Some sectors that were written, by some lanes, so that edits meet more than what was never used.
    let made = Made { version, parent, medium, arenas };
    for n in 0..24u64 {
        super::edit::write(
            &made.medium,
            &made.arenas[(n % count) as usize],
            n % 5,
            n * 7 % sectors,
            n as u8,
            4,
        );
    }
    made
}

/// As large as an arena can be, and a second one behind it; laid out by the engine.
fn huge() -> Made {
    let (version, parent) = (Version::V1_1, [0; 16]);
    let medium = Sparse::new(4096 + (1 << 39) + SMALL);
    let options = CreateOptions {
        version,
        parent: Uuid::nil(),
        uuid: Uuid::from_bytes(OWN),
        lbasize: LbaSize::new(4096).expect("a size"),
        overwrite: false,
    };
    create(&medium, &options).expect("a BTT");
    let mut arenas = Vec::new();
    for base in [4096, 4096 + (1 << 39)] {
        let raw = medium.get::<4096>(base);
        match crate::naive::btt::info(&raw, 1, parent, 4096 + (1 << 39) + SMALL - base) {
            crate::naive::btt::Verdict::Good(info) => arenas.push((base, info)),
            other => panic!("{other:?}"),
        }
    }
    Made { version, parent, medium, arenas }
}

/// The bytes of an info block.
fn block(info: &Info, version: Version) -> [u8; 4096] {
    let mut raw = [0; 4096];
    raw[..16].copy_from_slice(b"BTT_ARENA_INFO\0\0");
    raw[16..32].copy_from_slice(&info.uuid);
    raw[32..48].copy_from_slice(&info.parent);
    let versions = [u64::from(version.major()), u64::from(version.minor())];
    for (at, len, value) in [
        (48, 4, info.flags),
        (52, 2, versions[0]),
        (54, 2, versions[1]),
        (56, 4, info.lbasize),
        (60, 4, info.sectors),
        (64, 4, info.stride),
        (68, 4, info.blocks),
        (72, 4, info.nfree),
        (76, 4, info.infosize),
        (80, 8, info.next),
        (88, 8, info.data),
        (96, 8, info.map),
        (104, 8, info.flog),
        (112, 8, info.info2),
    ] {
        raw[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
    }
    let sum = fletcher64(&raw, 4088);
    raw[4088..].copy_from_slice(&sum.to_le_bytes());
    raw
}
