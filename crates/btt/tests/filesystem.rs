// SPDX-License-Identifier: MIT OR Apache-2.0
//! A BTT in a file of a file system whose calls fail: pages that are not written back, syncs that fail, a disk that is full.
//! What the kernel then says to msync must be said to who flushes, and what was acknowledged must be in the file.
#![cfg(target_os = "linux")]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs::File;

use common::{Sim, pattern, read, write};
use nvstack_block::BlockDevice;
use nvstack_btt::{Btt, CreateOptions, OpenOptions, create};
use nvstack_faults::{Calls, Fault, Faults, FaultyFs, Rule, When, every};
use nvstack_format::btt::{ARENA_MIN, LbaSize, Version};
use nvstack_media::{Access, Domain, Mapping, Media, Result};
use uuid::Uuid;

const VERSION: Version = Version::V2_0;
const LBAS: [u64; 3] = [0, 17, 3000];

fn open<M: Media>(media: M) -> Result<Btt<M>> {
    Btt::open(media, OpenOptions::new("test", VERSION, Uuid::nil()))
}

/// A file system with a file that holds a BTT.
fn mounted(faults: &Faults, folder: &std::path::Path) -> FaultyFs {
    // Without FUSE there is nothing to be seen here, and that must not look like success.
    let fs = FaultyFs::mount(folder, faults).expect("a mount of FUSE: /dev/fuse, and the right to use it");
    File::create(fs.path("image")).unwrap().set_len(ARENA_MIN).unwrap();
    let media = Mapping::open(fs.path("image"), Access::ReadWrite).unwrap();
    assert_eq!(media.domain(), Domain::PageCache);
    let options = CreateOptions {
        version: VERSION,
        parent: Uuid::nil(),
        uuid: Uuid::from_u128(7),
        lbasize: LbaSize::new(512).unwrap(),
        overwrite: false,
    };
    create(&media, &options).unwrap();
    fs
}

/// What was written last, and what was acknowledged by a flush last.
#[derive(Clone, Copy, Default)]
struct Known {
    written: u64,
    durable: u64,
}

/// Writes and flushes until a flush fails; from then on none may succeed. What the file surely has then opens, and has all that
/// was acknowledged.
fn run(faults: &Faults, rule: Rule) {
    let folder = tempfile::tempdir().unwrap();
    let fs = mounted(faults, folder.path());
    let mut known = [Known::default(); 3];
    {
        let device = open(Mapping::open(fs.path("image"), Access::ReadWrite).unwrap()).unwrap();
        faults.add(rule);
        let mut failed = false;
        for round in 1..=4 {
            for (lba, known) in LBAS.into_iter().zip(&mut known) {
                match write(&device, lba, &pattern(lba, round, 512)) {
                    Ok(()) => known.written = round,
                    Err(e) => assert!(failed, "a write without a failure before it: {e}"),
                }
            }
            match device.flush() {
                Ok(()) => {
                    assert!(!failed, "a flush succeeds after one that failed");
                    known.iter_mut().for_each(|known| known.durable = known.written);
                }
                Err(_) => failed = true,
            }
        }
        assert_eq!(failed, faults.hits() > 0, "a failure that nobody was told of, or one that was none");
        faults.clear();
    }
    let synced = fs.synced("image").unwrap();
    let mut bytes = vec![0; usize::try_from(ARENA_MIN).unwrap()];
    synced.read(0, &mut bytes);
    let device = open(Sim::memory(bytes)).unwrap();
    for (lba, known) in LBAS.into_iter().zip(known) {
        let found = read(&device, lba).unwrap();
        let is = |round| found == if round == 0 { vec![0; 512] } else { pattern(lba, round, 512) };
        assert!(
            (known.durable..=4).any(is),
            "LBA {lba}: {} and not {}",
            common::describe(&found),
            known.durable
        );
    }
}

#[test]
fn whichever_page_is_not_written_back_the_flush_says_so() {
    let runs = every(|n| {
        let faults = Faults::new();
        run(&faults, Rule::new(Calls::FILE_WRITE, When::Nth(n)).with(Fault::Errno(libc::EIO)));
        faults
    });
    assert!(runs > 8, "{runs}");
}

#[test]
fn whichever_sync_fails_no_flush_succeeds_after_it() {
    let runs = every(|n| {
        let faults = Faults::new();
        run(&faults, Rule::new(Calls::FSYNC, When::Nth(n)).with(Fault::Errno(libc::EIO)));
        faults
    });
    assert!(runs > 8, "{runs}");
}

#[test]
fn a_disk_that_is_full_fails_the_flush_and_tears_nothing() {
    for n in [1, 2, 5] {
        let faults = Faults::new();
        run(&faults, Rule::new(Calls::FILE_WRITE, When::From(n)).with(Fault::Errno(libc::ENOSPC)));
        assert!(faults.hits() > 0);
    }
}
