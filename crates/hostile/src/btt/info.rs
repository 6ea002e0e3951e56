// SPDX-License-Identifier: MIT OR Apache-2.0
//! Info blocks.

use nvstack_format::btt::{ARENA_MIN, Info, LbaSize, Rejected, Version};
use nvstack_format::{Block, Premap};
use uuid::Uuid;

use crate::Input;
use crate::naive::{self, btt as naive_btt};

/// The uuid of the namespace.
pub(crate) const PARENT: [u8; 16] = [7; 16];

/// Longest input: flags, room, and a whole block.
pub(crate) const INFO_INPUT: usize = 9 + 4096;

/// The room, and the fields of the block.
pub(crate) const FIELDS_IN_INPUT: &[(usize, usize)] = &[
    (0, 1),
    (1, 8),
    (9, 4),
    (9 + 32, 4),
    (9 + 48, 4),
    (9 + 52, 2),
    (9 + 54, 2),
    (9 + 56, 4),
    (9 + 60, 4),
    (9 + 64, 4),
    (9 + 68, 4),
    (9 + 72, 4),
    (9 + 76, 4),
    (9 + 80, 8),
    (9 + 88, 8),
    (9 + 96, 8),
    (9 + 104, 8),
    (9 + 112, 8),
];

/// One info block, of either version: taken or refused as the naive reader does, and whole if it is taken.
///
/// Input: flags (1: put the checksum right, 2: version 2.0, 4: of a namespace with a uuid), room, block.
pub fn info_block(data: &[u8]) {
    let mut input = Input::new(data);
    let (flags, room) = (input.u8(), input.u64());
    let mut raw = [0; 4096];
    let bytes = input.take(4096);
    raw[..bytes.len()].copy_from_slice(bytes);
    if flags & 1 != 0 {
        let sum = naive::fletcher64(&raw, 4088);
        raw[4088..].copy_from_slice(&sum.to_le_bytes());
    }
    let version = if flags & 2 == 0 { Version::V1_1 } else { Version::V2_0 };
    let parent = if flags & 4 == 0 { [0; 16] } else { PARENT };
    let ours = Info::parse(&raw, version, Uuid::from_bytes(parent), room);
    match (ours, naive_btt::info(&raw, version.major().into(), parent, room)) {
        (Ok(ours), naive_btt::Verdict::Good(theirs)) => {
            same(&ours, &theirs);
            holds_together(&ours, room);
            // What was never understood, the padding, is all that is not written again.
            let again = Info::parse(&ours.encode(), version, Uuid::from_bytes(parent), room);
            assert_eq!(again.as_ref(), Ok(&ours));
            assert_eq!(ours.encode()[..120], raw[..120]);
        }
        (Err(Rejected::NotBtt(_)), naive_btt::Verdict::NoBtt(_)) => {}
        (Err(Rejected::Corrupt(_)), naive_btt::Verdict::Stricter(..)) => {}
        (ours, theirs) => panic!("ours: {ours:?}\nnaive: {theirs:?}"),
    }
}

/// Both readings say the same.
pub(super) fn same(ours: &Info, theirs: &naive_btt::Info) {
    let layout = &ours.layout;
    let said = naive_btt::Info {
        uuid: ours.uuid.into_bytes(),
        parent: ours.parent.into_bytes(),
        flags: ours.flags.into(),
        lbasize: layout.lbasize.external().into(),
        sectors: layout.external_nlba.into(),
        stride: layout.lbasize.internal().into(),
        blocks: layout.internal_nlba.into(),
        nfree: layout.nfree.into(),
        infosize: 4096,
        next: layout.nextoff,
        data: layout.dataoff,
        map: layout.mapoff,
        flog: layout.logoff,
        info2: layout.info2off,
    };
    assert_eq!(&said, theirs);
}

/// Everything in an accepted arena lies where it may.
fn holds_together(info: &Info, room: u64) {
    let layout = &info.layout;
    assert!(LbaSize::ALL.contains(&layout.lbasize));
    let last = layout.data(Block(layout.internal_nlba - 1)).expect("the last block");
    assert!(last + u64::from(layout.lbasize.internal()) <= layout.mapoff);
    assert!(
        layout.map_entry(Premap(layout.external_nlba - 1)).expect("the last sector") + 4 <= layout.logoff
    );
    assert!(layout.flog_group(layout.nfree - 1).expect("the last lane") + 64 <= layout.info2off);
    assert!(layout.data(Block(layout.internal_nlba)).is_none());
    assert!(layout.map_entry(Premap(layout.external_nlba)).is_none());
    assert!(layout.flog_group(layout.nfree).is_none());
    assert!(layout.info2off + 4096 <= layout.size && layout.size <= room);
    assert!(layout.nextoff == 0 || layout.nextoff == layout.size && layout.nextoff + ARENA_MIN <= room);
}
