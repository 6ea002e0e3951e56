// SPDX-License-Identifier: MIT OR Apache-2.0
//! Laying out: Linux's geometry, none or a whole one after a power cut, and nothing of ours written over unasked.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Sim, cuts};
use nvstack_media::{Access, Anon, Domain, Kind as ErrorKind, Mapping, Media, MediaOffset};
use nvstack_pfn::{CreateOptions, Info, Kind, Mode, Place, Probe, create, probe};
use std::os::unix::fs::MetadataExt;
use uuid::Uuid;

const GIB: u64 = 1 << 30;
const PARENT: Uuid = Uuid::from_u128(9);

fn options(size: u64, mode: Mode, align: u32) -> CreateOptions {
    CreateOptions {
        kind: Kind::Fsdax,
        uuid: Uuid::from_u128(7),
        parent: PARENT,
        mode,
        align,
        place: Place { start: Some(0), size },
        overwrite: false,
    }
}

#[test]
fn the_geometry_is_the_one_of_linux() {
    for (size, mode, align, expected) in [
        (GIB, Mode::Pmem, 4096, Some((18_874_368, 0, 257_536))),
        (GIB, Mode::Pmem, 2_097_152, Some((18_874_368, 0, 257_536))),
        (GIB, Mode::Pmem, 1_073_741_824, None),
        (GIB, Mode::Ram, 4096, Some((2_097_152, 0, 261_632))),
        (GIB, Mode::Ram, 2_097_152, Some((2_097_152, 0, 261_632))),
        (GIB, Mode::Ram, 1_073_741_824, None),
        (16 * GIB, Mode::Pmem, 4096, Some((270_532_608, 0, 4_128_256))),
        (16 * GIB, Mode::Pmem, 2_097_152, Some((270_532_608, 0, 4_128_256))),
        (16 * GIB, Mode::Pmem, 1_073_741_824, Some((1_073_741_824, 0, 3_932_160))),
        (16 * GIB, Mode::Ram, 4096, Some((2_097_152, 0, 4_193_792))),
        (16 * GIB, Mode::Ram, 2_097_152, Some((2_097_152, 0, 4_193_792))),
        (16 * GIB, Mode::Ram, 1_073_741_824, Some((1_073_741_824, 0, 3_932_160))),
        (GIB + (1 << 20), Mode::Pmem, 4096, Some((18_874_368, 1_048_576, 257_536))),
        (GIB + (1 << 20), Mode::Pmem, 2_097_152, Some((18_874_368, 1_048_576, 257_536))),
        (GIB + (1 << 20), Mode::Pmem, 1_073_741_824, None),
        (GIB + (1 << 20), Mode::Ram, 4096, Some((2_097_152, 1_048_576, 261_632))),
        (GIB + (1 << 20), Mode::Ram, 2_097_152, Some((2_097_152, 1_048_576, 261_632))),
        (GIB + (1 << 20), Mode::Ram, 1_073_741_824, None),
    ] {
        let media = Anon::new(size).unwrap();
        let options = options(size, mode, align);
        let made = create(&media, &options);
        let Some((dataoff, end_trunc, npfns)) = expected else {
            assert_eq!(made.unwrap_err().kind(), ErrorKind::NoSpace, "{size} {mode} {align}");
            continue;
        };
        let info = made.unwrap();
        let g = info.geometry;
        assert_eq!((g.dataoff, g.end_trunc, g.npfns, g.start_pad), (dataoff, end_trunc, npfns, 0));
        assert_eq!(probe(&media, Kind::Fsdax, PARENT, options.place).unwrap(), Probe::Found(info));
    }
}

#[test]
fn the_physical_address_counts() {
    let size = 3 * GIB;
    let media = Anon::new(size).unwrap();
    let place = Place { start: Some(0x1_3000_0000), size };
    let wanted = CreateOptions { place, ..options(size, Mode::Pmem, 1 << 30) };
    let info = create(&media, &wanted).unwrap();
    assert_eq!((info.geometry.dataoff, info.geometry.end_trunc), (256 << 20, 768 << 20));
    assert!(matches!(probe(&media, Kind::Fsdax, PARENT, place).unwrap(), Probe::Found(_)));
    // Elsewhere the data would not be aligned.
    let elsewhere = Place { start: Some(0x1_4000_0000), size };
    assert!(matches!(probe(&media, Kind::Fsdax, PARENT, elsewhere).unwrap(), Probe::Unsupported(_)));
    for (wanted, word) in [
        (CreateOptions { place: Place { start: Some(4096), size }, ..wanted }, "start"),
        (CreateOptions { align: 8192, ..wanted }, "align 8192"),
        (CreateOptions { align: 0, ..wanted }, "align 0"),
        (CreateOptions { place: Place { start: None, size: GIB }, ..wanted }, "1073741824 bytes"),
    ] {
        let e = create(&media, &CreateOptions { overwrite: true, ..wanted }).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Invalid, "{e}");
        assert!(e.to_string().contains(word) && e.to_string().contains("accepted"), "{e}");
    }
    assert!(matches!(probe(&media, Kind::Fsdax, PARENT, place).unwrap(), Probe::Found(_)), "left alone");
}

const SMALL: u64 = 4 << 20;

#[test]
fn what_is_there_is_written_over_only_if_asked() {
    let media = Sim::memory(vec![0; 4 << 20]);
    let wanted = options(SMALL, Mode::Pmem, 4096);
    create(&media, &wanted).unwrap();
    let place = wanted.place;
    let exists = |wanted: &CreateOptions, word: &str| {
        let before = media.bytes();
        let e = create(&media, wanted).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Exists, "{e}");
        assert!(e.to_string().contains(word) && e.to_string().contains("accepted"), "{e}");
        assert!(media.bytes() == before, "changed by a refusal");
    };
    exists(&wanted, "fsdax 00000000-0000-0000-0000-000000000007");
    exists(&CreateOptions { kind: Kind::Devdax, ..wanted }, "fsdax");
    // Damaged, of this namespace.
    media.store(MediaOffset(4096 + 64), &[0xff]).unwrap();
    exists(&wanted, "damaged fsdax");
    // Whole, and no good here.
    let elsewhere = Place { start: Some(1 << 32), size: SMALL };
    let far = CreateOptions { place: elsewhere, align: 1 << 30, ..wanted };
    assert_eq!(
        create(&media, &CreateOptions { overwrite: true, ..far }).unwrap_err().kind(),
        ErrorKind::NoSpace
    );
    let mut info = create(&media, &CreateOptions { overwrite: true, kind: Kind::Devdax, ..wanted }).unwrap();
    assert_eq!(probe(&media, Kind::Devdax, PARENT, place).unwrap(), Probe::Found(info.clone()));
    info.geometry.dataoff = SMALL;
    media.store(MediaOffset(4096), &info.encode()).unwrap();
    exists(&wanted, "devdax that cannot be used here");
    // One of another namespace is nobody's.
    create(&media, &CreateOptions { parent: Uuid::from_u128(8), ..wanted }).unwrap();
    assert!(matches!(probe(&media, Kind::Devdax, PARENT, place).unwrap(), Probe::Absent(_)));

    let mut sealed = Sim::memory(vec![0; 4 << 20]);
    sealed.read_only = true;
    assert_eq!(create(&sealed, &wanted).unwrap_err().kind(), ErrorKind::ReadOnly);
    let tiny = Sim::memory(vec![0; 8191]);
    let tiny_place = Place { start: None, size: 8191 };
    assert!(matches!(probe(&tiny, Kind::Fsdax, PARENT, tiny_place).unwrap(), Probe::Absent(_)));
    let e = create(&tiny, &CreateOptions { place: tiny_place, ..wanted }).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NoSpace, "{e}");
    let wrong = Place { start: None, size: 8192 };
    assert_eq!(probe(&tiny, Kind::Fsdax, PARENT, wrong).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn a_power_cut_leaves_none_or_a_whole_one() {
    let place = options(SMALL, Mode::Pmem, 4096).place;
    let junk = vec![0xa5; 4 << 20];
    let old = {
        let media = Sim::memory(junk.clone());
        create(&media, &CreateOptions { uuid: Uuid::from_u128(1), ..options(SMALL, Mode::Ram, 4096) })
            .unwrap();
        media.bytes()
    };
    // A whole block of another namespace, which differs in one word only.
    let foreign = {
        let media = Sim::memory(junk.clone());
        let parent = Uuid::from_u128(8);
        create(&media, &CreateOptions { parent, ..options(SMALL, Mode::Pmem, 4096) }).unwrap();
        media.bytes()
    };
    for (base, replaced) in [(&junk, false), (&old, true), (&foreign, false)] {
        for domain in [Domain::Cache, Domain::PageCache] {
            let mut seen = [0; 3];
            for step in 0.. {
                let media = Sim::new(base.clone(), domain);
                media.set_fuse(step);
                let wanted = CreateOptions { overwrite: replaced, ..options(SMALL, Mode::Pmem, 4096) };
                let outcome = create(&media, &wanted);
                let mut ways = cuts(if domain == Domain::PageCache { 1 } else { 512 }, step);
                for choose in &mut ways {
                    let image = media.cut(choose.as_mut());
                    match probe(&Sim::memory(image.clone()), Kind::Fsdax, PARENT, place).unwrap() {
                        Probe::Found(info) if info.uuid == Uuid::from_u128(1) => {
                            assert!(image[8192..] == base[8192..], "the old one lost its descriptors");
                            seen[1] += 1;
                        }
                        Probe::Found(info) => {
                            seen[2] += 1;
                            assert_eq!(info.uuid, wanted.uuid);
                            assert!(image[4096..8192] == info.encode(), "a part of one");
                            let reserve = &image[8192..usize::try_from(info.geometry.dataoff).unwrap()];
                            assert!(reserve.iter().all(|b| *b == 0), "valid before its descriptors were");
                        }
                        Probe::Absent(_) => seen[0] += 1,
                        other => panic!("{step}: {other:?}"),
                    }
                }
                if outcome.is_ok() {
                    // What was promised is there whatever was not drained.
                    let image = media.cut(&mut || 0);
                    assert!(matches!(
                        probe(&Sim::memory(image), Kind::Fsdax, PARENT, place).unwrap(),
                        Probe::Found(_)
                    ));
                    break;
                }
            }
            println!("{domain}: none {}, old {}, new {}", seen[0], seen[1], seen[2]);
            assert!(seen[0] > 10 && seen[2] > 2 && (seen[1] > 0) == replaced, "{seen:?}");
        }
    }
}

#[test]
fn lost_bytes_in_the_way() {
    let media = Sim::memory(vec![0; 4 << 20]);
    let wanted = options(SMALL, Mode::Pmem, 4096);
    media.inject_poison(MediaOffset(4096 + 512), 1).unwrap();
    media.inject_poison(MediaOffset(8192), 4096).unwrap();
    // What an unreadable block was cannot be told.
    for e in
        [probe(&media, Kind::Fsdax, PARENT, wanted.place).unwrap_err(), create(&media, &wanted).unwrap_err()]
    {
        assert_eq!(e.kind(), ErrorKind::Poison, "{e}");
        assert!(e.to_string().contains("PFN info block") && e.to_string().contains("lost bytes"), "{e}");
    }
    create(&media, &CreateOptions { overwrite: true, ..wanted }).unwrap();
    assert!(!media.is_poisoned(MediaOffset(0), SMALL));
    assert!(matches!(probe(&media, Kind::Fsdax, PARENT, wanted.place).unwrap(), Probe::Found(_)));
    // With the descriptors in memory nothing is written there, so nothing is healed.
    media.inject_poison(MediaOffset(8192), 512).unwrap();
    create(&media, &CreateOptions { overwrite: true, mode: Mode::Ram, ..wanted }).unwrap();
    assert!(media.is_poisoned(MediaOffset(8192), 512));
}

#[test]
fn a_sparse_file_stays_sparse() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let size = 1 << 40;
    std::fs::File::create(&path).unwrap().set_len(size).unwrap();
    let media = Mapping::open(&path, Access::ReadWrite).unwrap();
    let info: Info = create(&media, &options(size, Mode::Pmem, 2 << 20)).unwrap();
    assert!(info.geometry.dataoff >= 16 << 30);
    let blocks = std::fs::metadata(&path).unwrap().blocks();
    assert!(blocks <= 64, "{blocks} blocks of 512 bytes for a terabyte");
}

#[test]
fn nothing_can_be_left_out_of_what_is_shipped() {
    // The switches of the explorer are a feature of its own package; cargo would give it to this one if anybody asked for it.
    const { assert!(!cfg!(feature = "mutants")) };
}
