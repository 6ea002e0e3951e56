// SPDX-License-Identifier: MIT OR Apache-2.0
//! fsdax and devdax.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use nvstack_block::{BlockDevice, Lba, WriteFlags};
use nvstack_format::pfn::Rejected;
use nvstack_media::{Media, MediaOffset};
use nvstack_pfn::{CreateOptions, Info, Kind, Mode, OpenOptions, Pages, Place, Probe, create, probe};
use uuid::Uuid;

use crate::btt::seal;
use crate::{Input, Sparse};

const FIELDS: [(u64, usize); 15] = [
    (0, 8),
    (8, 8),
    (32, 8),
    (48, 4),
    (52, 2),
    (54, 2),
    (56, 8),
    (64, 8),
    (72, 4),
    (76, 4),
    (80, 4),
    (84, 4),
    (88, 4),
    (92, 2),
    (4088, 8),
];

/// An info block of an fsdax or devdax with any fields: refused, or data that lie within the namespace and are what is written.
///
/// Input: kind and map, size, start, then edits: a field (128: and the checksum put right), or bytes of the descriptors.
pub fn pfn_info(data: &[u8]) {
    let mut input = Input::new(data);
    let how = input.u8();
    let kind = if how & 1 == 0 { Kind::Fsdax } else { Kind::Devdax };
    let mode = if how & 2 == 0 { Mode::Ram } else { Mode::Pmem };
    let size = match how >> 2 & 3 {
        0 => 64 << 20,
        1 => (64 << 20) + 4096,
        2 => 3 << 30,
        _ => input.number().clamp(1, 1 << 41),
    };
    let start = if how & 16 == 0 { None } else { Some(input.number() << 12) };
    let align = [4096, 2 << 20, 1 << 30, 2 << 20][usize::from(how >> 5 & 3)];
    let (place, parent) = (Place { start, size }, Uuid::from_bytes([if how & 128 == 0 { 0 } else { 7 }; 16]));
    let medium = Sparse::new(size);
    let options =
        CreateOptions { kind, uuid: Uuid::from_bytes([9; 16]), parent, mode, align, place, overwrite: false };
    if let Ok(info) = create(&medium, &options) {
        assert_eq!(probe(&medium, kind, parent, place).expect("memory"), Probe::Found(info));
    }
    for _ in 0..24 {
        if input.is_empty() {
            break;
        }
        let operation = input.u8();
        if operation & 127 < 120 {
            let (at, len) = FIELDS[usize::from(operation & 127) % FIELDS.len()];
            let value = input.number().to_le_bytes();
            if size >= 8192 {
                medium.poke(4096 + at, &value[..len]);
                if operation & 128 != 0 {
                    seal(&medium, 4096, 4096, 4088);
                }
            }
        } else if operation & 1 == 0 {
            let at = input.number();
            let len = usize::from(input.u8() % 64);
            medium.poke(at, input.take(len));
        } else {
            let _ = medium.inject_poison(MediaOffset(input.number()), 1);
        }
    }
    let medium = Arc::new(medium);
    // Its own kind, and the other one.
    for kind in [Kind::Fsdax, Kind::Devdax] {
        attach(&medium, kind, parent, place);
    }
}

fn attach(medium: &Arc<Sparse>, kind: Kind, parent: Uuid, place: Place) {
    let before = Sparse::clone(medium);
    let found = probe(&**medium, kind, parent, place);
    if let Ok(Probe::Found(info)) = &found {
        let (from, len) = (info.geometry.data_start(), info.geometry.data_len(place.size));
        assert!(
            len > 0 && from >= 8192 && from.checked_add(len).is_some_and(|end| end <= place.size),
            "{info:?}"
        );
        let again = Info::parse(&info.encode(), kind, parent, place);
        assert_eq!(again.map_err(|e: Rejected| e.to_string()), Ok(info.clone()));
    }
    let mut options = OpenOptions::new("hostile", kind, parent, place);
    options.read_only = true;
    let reader = Pages::open(before.clone(), options.clone());
    match &found {
        // Descriptors may have no room before the data; that is found when they are looked for.
        Ok(Probe::Found(info)) => assert!(reader.is_ok() || info.mode == Mode::Pmem),
        _ => assert!(reader.is_err()),
    }
    if let Ok(pages) = reader {
        look(&pages);
        assert!(pages.media().same_bytes(&before), "a reader changed something");
    }
    options.read_only = false;
    let Ok(pages) = Pages::open(Arc::clone(medium), options) else { return };
    // Descriptors that are lost are made ones of nobody's.
    let healed = pages.info().mode == Mode::Pmem
        && before.is_poisoned(MediaOffset(8192), pages.data_range().start.saturating_sub(8192));
    assert!(healed || medium.same_bytes(&before), "to be attached changed something");
    look(&pages);
    let data = pages.data_range();
    assert!(data.start >= 8192 && data.end <= place.size);
    let unit = pages.map_unit();
    let last = ((data.end - data.start) / unit).saturating_sub(1) * unit;
    for at in [0, last] {
        let Ok(mapped) = pages.map(at, unit) else { continue };
        assert_eq!(mapped.len(), unit);
        if mapped.store(MediaOffset(unit - 512), &[0xa5; 512]).is_ok() {
            let mut bytes = [0; 512];
            if mapped.read(MediaOffset(unit - 512), &mut bytes).is_ok() {
                assert_eq!(bytes, [0xa5; 512]);
            }
        }
        assert!(mapped.read(MediaOffset(unit), &mut [0]).is_err());
    }
    if let Ok(disk) = pages.disk() {
        let sectors = disk.geometry().sectors;
        assert!(disk.read(Lba(sectors), &mut [IoSliceMut::new(&mut [0; 512])]).is_err());
        let _ = disk.write(Lba(sectors - 1), &[IoSlice::new(&[0x5a; 512])], WriteFlags::FUA);
        let _ = disk.flush();
    }
    // What comes before the data, the info block above all, is nobody's to write.
    assert_eq!(medium.get::<4096>(4096), before.get::<4096>(4096));
    assert_eq!(medium.get::<4096>(0), before.get::<4096>(0));
}

fn look<M: Media + 'static>(pages: &Pages<M>) {
    let count = pages.npfns();
    let _ = (pages.truncated(), pages.info().geometry);
    for page in [0, 1, count / 2, count.saturating_sub(1)] {
        let _ = pages.descriptor(page);
    }
    assert!(pages.descriptor(count).is_err());
    if let Ok(disk) = pages.disk() {
        let geometry = disk.geometry();
        assert!(geometry.sectors > 0 || count == 0);
        for lba in [0, geometry.sectors.saturating_sub(1)] {
            let _ = disk.read(Lba(lba), &mut [IoSliceMut::new(&mut [0; 512])]);
        }
    }
}
