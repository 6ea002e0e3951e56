// SPDX-License-Identifier: MIT OR Apache-2.0
//! Power cuts, at every store and every drain: no sector is torn, nothing that was promised is lost, and what is left opens.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::HashSet;
use std::io::IoSlice;

use common::{Dice, Image, Sim, describe, pattern, read, write};
use nvstack_block::{BlockDevice, Lba, WriteFlags};
use nvstack_btt::{Btt, Cache, CreateOptions, OpenOptions, Probe, create, probe};
use nvstack_format::btt::{ARENA_MIN, LbaSize, Version};
use nvstack_media::{Domain, Media};
use uuid::Uuid;

const VERSION: Version = Version::V2_0;

fn fresh(lbasize: u32) -> Image {
    let media = Sim::memory(vec![0; usize::try_from(ARENA_MIN).unwrap()]);
    create(&media, &create_options(lbasize, false)).unwrap();
    // Its bytes are what copies share.
    media.bytes().into()
}

fn create_options(lbasize: u32, overwrite: bool) -> CreateOptions {
    CreateOptions {
        version: VERSION,
        parent: Uuid::nil(),
        uuid: Uuid::from_u128(7),
        lbasize: LbaSize::new(lbasize).unwrap(),
        overwrite,
    }
}

fn open<M: Media>(media: M, cache: Cache, read_only: bool) -> nvstack_media::Result<Btt<M>> {
    let mut options = OpenOptions::new("test", VERSION, Uuid::nil());
    (options.cache, options.read_only) = (cache, read_only);
    Btt::open(media, options)
}

/// The sectors that workloads use: neighbours in one map line, and one far away.
const LBAS: [u64; 4] = [0, 1, 17, 3000];

/// What is known of the sectors while a workload runs: the last generation that is surely there, and the newest one that
/// may be.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct Model {
    durable: [u64; 4],
    newest: [u64; 4],
}

/// A crash image opens read-only and read-write with the same contents; each sector is whole and one that may be there.
fn judge(image: Image, model: &Model, what: &str) -> Image {
    let before = image.digest();
    let mut media = Sim::memory(image.clone());
    media.read_only = true;
    let quiet = open(media, Cache::Writeback, true).unwrap_or_else(|e| panic!("{what}: {e}"));
    // Opening it for writing also proves that every block has one owner.
    let device = open(Sim::memory(image), Cache::Writeback, false).unwrap_or_else(|e| panic!("{what}: {e}"));
    for (i, lba) in LBAS.into_iter().enumerate() {
        let data = read(&device, lba).unwrap();
        assert!(data == read(&quiet, lba).unwrap(), "{what}: LBA {lba} differs read-only");
        let possible = (model.durable[i]..=model.newest[i])
            .any(|generation| data == content(lba, generation, data.len()));
        assert!(
            possible,
            "{what}: LBA {lba} is {}, and may be gen {} to {}",
            describe(&data),
            model.durable[i],
            model.newest[i]
        );
    }
    assert!(quiet.media().image().digest() == before, "{what}: read-only open changed the medium");
    device.media().image()
}

fn content(lba: u64, generation: u64, len: usize) -> Vec<u8> {
    if generation == 0 { vec![0; len] } else { pattern(lba, generation, len) }
}

/// Runs a workload until the fuse blows, cuts the power there in several ways, and judges what is left; then lets
/// recovery itself be cut.
fn run(domain: Domain, cache: Cache, lbasize: u32, seed: u64, operations: usize) -> (usize, u64) {
    let base = fresh(lbasize);
    let mut images = 0;
    let mut step = 0;
    let (mut judged, mut recoveries) = (HashSet::new(), HashSet::new());
    loop {
        let media = Sim::new(base.clone(), domain);
        let device = open(&media, cache, false).unwrap();
        media.set_fuse(step);
        let size = device.geometry().sector_size as usize;
        let volatile = device.geometry().volatile_cache;
        let mut model = Model::default();
        let mut dice = Dice(seed);
        let mut finished = true;
        for operation in 1..=operations as u64 {
            let i = usize::try_from(dice.roll() % 4).unwrap();
            let what = dice.roll() % 5;
            let outcome = if volatile && what == 0 {
                device.flush().map(|()| model.durable = model.newest)
            } else {
                model.newest[i] = operation;
                let flags = if volatile && what == 1 { WriteFlags::FUA } else { WriteFlags::empty() };
                let data = pattern(LBAS[i], operation, size);
                device.write(Lba(LBAS[i]), &[IoSlice::new(&data)], flags).map(|()| {
                    if !volatile {
                        model.durable[i] = operation;
                    } else if flags == WriteFlags::FUA {
                        model.durable = model.newest;
                    }
                })
            };
            if outcome.is_err() {
                finished = false;
                break;
            }
        }
        for image in media.cuts(seed ^ step) {
            // The same image that may be the same is the same.
            if !judged.insert((image.digest(), model.clone())) {
                continue;
            }
            let what = format!("{domain} {cache:?} {lbasize} seed {seed} step {step}");
            let recovered = judge(image.clone(), &model, &what);
            images += 1;
            // Recovery is cut at each of its steps, too: what it then leaves means the same.
            if recovered.digest() == image.digest() || !recoveries.insert(image.digest()) {
                continue;
            }
            for fuse in 0.. {
                let again = Sim::new(image.clone(), domain);
                again.set_fuse(fuse);
                let done = open(&again, cache, false).is_ok();
                for cut in again.cuts(fuse) {
                    let what = format!("{what}, recovery cut at {fuse}");
                    assert!(judge(cut, &model, &what).digest() == recovered.digest(), "{what}");
                    images += 1;
                }
                if done {
                    break;
                }
            }
        }
        if finished {
            return (images, step);
        }
        step += 1;
    }
}

#[test]
fn linuxs_order_survives_a_cut_at_every_step() {
    for (lbasize, seed) in [(512, 1), (520, 2), (4096, 3)] {
        let (images, steps) = run(Domain::Cache, Cache::Writeback, lbasize, seed, 5);
        println!("{lbasize}: {steps} steps, {images} images");
        assert!(steps >= 5 * 8, "{steps}");
    }
}

#[test]
fn group_commit_survives_a_cut_at_every_step() {
    for (cache, seed) in [(Cache::Writeback, 4), (Cache::Writeback, 5), (Cache::Writethrough, 6)] {
        let (images, steps) = run(Domain::PageCache, cache, 512, seed, 12);
        println!("{cache:?}: {steps} steps, {images} images");
        assert!(steps >= 20, "{steps}");
    }
}

#[test]
fn a_group_of_two_hundred_sectors_costs_three_drains() {
    let media = Sim::new(fresh(4096), Domain::PageCache);
    let device = open(&media, Cache::Writeback, false).unwrap();
    let before = media.drains();
    for lba in 0..200 {
        write(&device, lba * 7, &pattern(lba, 1, 4096)).unwrap();
        // Written again within the group: the same block.
        write(&device, lba * 7, &pattern(lba, 2, 4096)).unwrap();
    }
    assert_eq!(media.drains(), before);
    device.flush().unwrap();
    assert_eq!(media.drains(), before + 3);
    for lba in 0..200 {
        assert_eq!(read(&device, lba * 7).unwrap(), pattern(lba, 2, 4096));
    }
    // More sectors than free blocks: the group is committed to get some back.
    for lba in 0..300 {
        write(&device, lba, &pattern(lba, 3, 4096)).unwrap();
    }
    assert!(media.drains() > before + 3);
}

/// Sectors of the old BTT whose map entries lie where the new one has its map, and some others.
const OLD: [u64; 4] = [0, 5, 29_000, 32_000];

#[test]
fn laying_out_a_btt_leaves_none_or_a_whole_one() {
    // The old BTT of another sector size, which is laid over, must not shine through either.
    for old in [None, Some(512)] {
        let base: Image = match old {
            None => vec![0; usize::try_from(ARENA_MIN).unwrap()].into(),
            Some(lbasize) => {
                let device = open(Sim::memory(fresh(lbasize)), Cache::Writethrough, false).unwrap();
                for lba in OLD {
                    write(&device, lba, &pattern(lba, 1, 512)).unwrap();
                }
                device.media().bytes().into()
            }
        };
        let mut step = 0;
        let mut seen = [0; 3];
        let mut judged = HashSet::new();
        loop {
            let media = Sim::new(base.clone(), Domain::Cache);
            media.set_fuse(step);
            let outcome = create(&media, &create_options(4096, true));
            for image in media.cuts(step) {
                if !judged.insert(image.digest()) {
                    continue;
                }
                let seen = &mut seen[kind(&image)];
                *seen += 1;
            }
            if outcome.is_ok() {
                break;
            }
            // 256 flog groups in a row are much alike.
            step += if (20..250).contains(&step) { 30 } else { 1 };
        }
        println!("{old:?}: none {}, old {}, new {}", seen[0], seen[1], seen[2]);
        assert!(seen[2] > 0 && seen[0] > 0 && (seen[1] > 0) == old.is_some());
    }
}

/// What a cut has left of a BTT that is laid out: 0 none, 1 the old one with all its sectors, 2 the new one, whole.
fn kind(image: &Image) -> usize {
    let Probe::Found(info) = probe(&Sim::memory(image.clone()), VERSION, Uuid::nil()).unwrap() else {
        // The backup of the old one, or of the new one whose primary is not written yet.
        return 0;
    };
    let device = open(Sim::memory(image.clone()), Cache::Writeback, false).unwrap();
    if info.layout.lbasize.external() == 512 {
        for lba in OLD {
            assert!(read(&device, lba).unwrap() == pattern(lba, 1, 512), "LBA {lba} of the old one");
        }
        return 1;
    }
    let mut map = vec![0; usize::try_from(info.layout.map_len()).unwrap()];
    image.read(usize::try_from(info.layout.mapoff).unwrap(), &mut map);
    assert!(map.iter().all(|byte| *byte == 0), "the old map shines through");
    let [mut primary, mut backup] = [[0; 4096]; 2];
    image.read(0, &mut primary);
    image.read(usize::try_from(info.layout.info2off).unwrap(), &mut backup);
    assert!(primary == backup, "a primary without its backup");
    2
}

/// Whoever lays out a BTT is killed before its info block is durable. Another process sees it, opens it and promises
/// a sector: neither may be gone after a cut.
#[test]
fn what_is_open_outlives_a_cut_though_its_maker_was_killed() {
    let base: Image = vec![0; usize::try_from(ARENA_MIN).unwrap()].into();
    let (mut opened, mut step) = (0, 250);
    loop {
        let media = Sim::new(base.clone(), Domain::Cache);
        media.set_fuse(step);
        let outcome = create(&media, &create_options(512, false));
        let survivor = media.survivor();
        if let Probe::Found(_) = probe(&survivor, VERSION, Uuid::nil()).unwrap() {
            opened += 1;
            let device = open(&survivor, Cache::Writeback, false).unwrap();
            write(&device, 1, &pattern(1, 1, 512)).unwrap();
            for image in survivor.cuts(step) {
                let device = open(Sim::memory(image), Cache::Writeback, false)
                    .unwrap_or_else(|e| panic!("killed after {step} steps: {e}"));
                assert!(read(&device, 1).unwrap() == pattern(1, 1, 512), "killed after {step} steps");
            }
        }
        if outcome.is_ok() {
            break;
        }
        step += 1;
    }
    // Killed between the store of the first block and its drain, and after it.
    assert!(opened >= 2, "{opened}");
}
