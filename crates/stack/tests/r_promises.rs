// SPDX-License-Identifier: MIT OR Apache-2.0
//! R14, R21 to R24: what is read-only, what is never overwritten, how things are laid out, what reads as what.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::as_conversions, clippy::cast_possible_truncation, reason = "sizes fit")]

mod common;

use std::sync::Arc;

use common::hooked::{Door, Hooked, Log};
use common::{
    MIB, allocate, bind, btt_seed, bus, contents, create, get, image, labelled, labels, machine, open,
    ranges, read, refused, unbind, write,
};
use nvstack_block::{BlockDevice, Lba, WriteFlags};
use nvstack_format::btt::{MapEntry, MapState};
use nvstack_media::{Access, Anon, Kind, Mapping, Media, MediaOffset};
use nvstack_stack::{OpenOptions, Stack};

/// A namespace's BTT with a write that was cut off between its flog and its map; gives the medium.
fn interrupted() -> Arc<dyn Media> {
    let image = common::fixture_image("probes/p8-unfin-oldN-mapN.img.zst");
    assert!(image.len() >= 32 * MIB);
    image
}

#[test]
fn r14_of_a_read_only_region_no_byte_changes_and_recovery_is_virtual() {
    let media = interrupted();
    let before = contents(&*media);
    for (read_only, changed) in [(true, false), (false, true)] {
        let log = Log::default();
        let stack = Stack::new();
        let mut spec = ranges([log.over(Arc::clone(&media)) as Arc<dyn Media>]);
        spec.regions[0].read_only = read_only;
        let id = stack.register(spec);
        stack.settle();
        let tree = stack.tree();
        assert_eq!(get(&tree, "region0/read_only"), u8::from(read_only).to_string());
        let opened = stack.open_described("namespace0.0", &OpenOptions::default()).unwrap();
        // Recovered, as far as whoever reads can see.
        assert!(opened.note.contains("1 interrupted write"), "{}", opened.note);
        let text = String::from_utf8(read(&*opened.device, 40).unwrap()).unwrap();
        assert!(text.starts_with("LBA=00000028 GEN=004d"), "{text}");
        if read_only {
            assert!(opened.device.geometry().read_only);
            for outcome in [
                write(&*opened.device, 0, 1),
                opened.device.write_zeroes(Lba(0), 1, WriteFlags::empty()),
                opened.device.discard(Lba(0), 1),
            ] {
                refused(outcome, Kind::ReadOnly, &[]);
            }
            opened.device.flush().unwrap();
        }
        stack.unregister(id).unwrap();
        assert_eq!(contents(&*media) != before, changed, "read_only {read_only}");
        assert_eq!(log.take().iter().any(|a| a.operation == "store" || a.operation == "stream"), changed);
    }
}

#[test]
fn r14_an_image_opened_for_reading_is_read_only_to_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::write(&path, contents(&*interrupted())).unwrap();
    let before = std::fs::read(&path).unwrap();
    let stack = Stack::new();
    let id =
        stack.register(ranges([Arc::new(Mapping::open(&path, Access::ReadOnly).unwrap()) as Arc<dyn Media>]));
    stack.settle();
    let tree = stack.tree();
    assert_eq!(get(&tree, "region0/read_only"), "1");
    refused(tree.write("region0/read_only", "0"), Kind::ReadOnly, &["region0"]);
    let disk = open(&stack, "namespace0.0");
    read(&*disk, 40).unwrap();
    refused(write(&*disk, 0, 1), Kind::ReadOnly, &[]);
    drop(disk);
    stack.unregister(id).unwrap();
    assert!(std::fs::read(&path).unwrap() == before);
}

#[test]
fn r14_nothing_is_laid_out_on_a_read_only_region() {
    let stack = Stack::new();
    let media = image(128 * MIB);
    stack.register(bus(&media));
    stack.settle();
    let tree = stack.tree();
    let ns = allocate(&tree, "region0", 1, 32 * MIB, 512, "");
    tree.write("region0/read_only", "1").unwrap();
    let before = contents(&*media);
    btt_seed(&tree, "btt0.0", 9, 4096, &ns);
    refused(tree.write("bus/nd/drivers/nd_pmem/bind", "btt0.0"), Kind::ReadOnly, &[]);
    tree.write("btt0.0/namespace", "").unwrap();
    for (seed, driver) in [("pfn0.0", "nd_pmem"), ("dax0.0", "dax_pmem")] {
        tree.write(&format!("{seed}/uuid"), &uuid::Uuid::from_u128(8).to_string()).unwrap();
        tree.write(&format!("{seed}/mode"), "pmem").unwrap();
        tree.write(&format!("{seed}/namespace"), &ns).unwrap();
        refused(tree.write(&format!("bus/nd/drivers/{driver}/bind"), seed), Kind::ReadOnly, &[]);
        tree.write(&format!("{seed}/namespace"), "").unwrap();
    }
    assert!(contents(&*media) == before);
}

#[test]
fn r14_the_switch_of_a_region_holds_for_every_way_to_write() {
    use nvstack_block::{ByteFlags, Bytes};
    let stack = Stack::new();
    let media = image(64 * MIB);
    stack.register(bus(&media));
    stack.settle();
    let tree = stack.tree();
    create(&tree, "region0", "raw", 1, 16 * MIB);
    let disk = open(&stack, "namespace0.0");
    let medium = disk.bytes().unwrap().media();
    write(&*disk, 0, 7).unwrap();
    medium.store(MediaOffset(600), b"x").unwrap();
    tree.write("region0/read_only", "1").unwrap();
    let before = contents(&*media);
    for outcome in [
        write(&*disk, 0, 1),
        disk.write_zeroes(Lba(0), 1, WriteFlags::empty()),
        disk.discard(Lba(0), 1),
        disk.bytes().unwrap().rw_bytes(MediaOffset(1), Bytes::Write(b"x"), ByteFlags::empty()),
        medium.store(MediaOffset(1), b"x"),
        medium.stream(MediaOffset(1), b"x"),
        medium.store_u64(MediaOffset(8), 1),
        medium.store_u32(MediaOffset(8), 1),
        medium.zero(MediaOffset(0), 512),
    ] {
        refused(outcome, Kind::ReadOnly, &[]);
    }
    assert!(contents(&*media) == before);
    tree.write("region0/read_only", "0").unwrap();
    write(&*disk, 0, 1).unwrap();
}

/// What stands on a namespace is not written over because somebody configured something else there.
#[test]
fn r21_nothing_unknown_or_damaged_is_overwritten_unless_it_was_wiped() {
    for (mode, claim, damage) in [
        ("sector", "btt", None),
        ("sector", "btt", Some(30)),
        ("sector", "btt", Some(0)),
        ("fsdax", "pfn", None),
        ("fsdax", "pfn", Some(4096 + 60)),
    ] {
        let stack = Stack::new();
        let media: Arc<dyn Media> = Arc::new(Anon::new(32 * MIB).unwrap());
        stack.register(labelled(Arc::clone(&media), labels()));
        stack.settle();
        let tree = stack.tree();
        let (ns, dev) = create(&tree, "region0", mode, 1, 32 * MIB);
        let dev = dev.unwrap();
        write(&*open(&stack, &dev), 5, 5).unwrap();
        unbind(&tree, &dev).unwrap();
        tree.write(&format!("{dev}/namespace"), "").unwrap();
        if let Some(at) = damage {
            let mut byte = [0];
            media.read(MediaOffset(at), &mut byte).unwrap();
            media.store(MediaOffset(at), &[byte[0] ^ 0x40]).unwrap();
        }
        let before = contents(&*media);
        let configure = |seed: &str| {
            tree.write(&format!("{seed}/uuid"), &uuid::Uuid::from_u128(0xabc).to_string()).unwrap();
            match claim {
                "btt" => tree.write(&format!("{seed}/sector_size"), "512").unwrap(),
                _ => tree.write(&format!("{seed}/mode"), "pmem").unwrap(),
            }
            tree.write(&format!("{seed}/namespace"), &ns).unwrap();
        };
        let seed = get(&tree, &format!("region0/{claim}_seed"));
        configure(&seed);
        let error = tree.write("bus/nd/drivers/nd_pmem/bind", &seed).unwrap_err();
        assert!(
            [Kind::Exists, Kind::Corrupt, Kind::Unrecognised, Kind::Invalid].contains(&error.kind()),
            "{mode} {damage:?}: {error}"
        );
        assert!(contents(&*media) == before, "{mode} {damage:?}: bytes changed; {error}");
        tree.write(&format!("{seed}/namespace"), "").unwrap();
        // Nor is it raw for whoever asks without force_raw, where it is damaged.
        if damage.is_some() {
            assert!(bind(&tree, &ns).is_err());
            assert!(get(&tree, &format!("{ns}/nvstack/error")).len() > 10);
        }
        // Wiped by name, it can be used.
        tree.write(&format!("{ns}/force_raw"), "1").unwrap();
        bind(&tree, &ns).unwrap();
        let raw = open(&stack, &ns);
        raw.write_zeroes(Lba(0), 16, WriteFlags::empty()).unwrap();
        unbind(&tree, &ns).unwrap();
        tree.write(&format!("{ns}/force_raw"), "0").unwrap();
        let seed = get(&tree, &format!("region0/{claim}_seed"));
        configure(&seed);
        bind(&tree, &seed).unwrap_or_else(|e| panic!("{mode} {damage:?}: {e}"));
    }
}

#[test]
fn r22_while_something_is_laid_out_the_tree_answers() {
    let door = Door::default();
    let gate = door.clone();
    let media: Arc<dyn Media> = Arc::new(Anon::new(64 * MIB).unwrap());
    let media = Hooked::new(media, move |a| {
        if a.changes && a.at < 32 * MIB {
            gate.pass();
        }
        Ok(())
    });
    let stack = Stack::new();
    stack.register(labelled(media, labels()));
    stack.settle();
    let tree = stack.tree();
    let ns = allocate(&tree, "region0", 1, 32 * MIB, 512, "btt");
    btt_seed(&tree, "btt0.0", 9, 4096, &ns);
    std::thread::scope(|scope| {
        let _open = door.opened_at_end();
        let creation = scope.spawn(|| bind(&tree, "btt0.0"));
        door.wait_for(1);
        // All of it can be read and walked; what is being changed says so; others can be configured.
        for (path, _) in tree.walk() {
            let _ = tree.read(&path);
        }
        assert_eq!(get(&tree, "region0/btt_seed"), "btt0.0");
        refused(tree.write("btt0.0/sector_size", "512"), Kind::Busy, &["btt0.0"]);
        refused(tree.write("bus/nd/drivers/nd_pmem/unbind", "btt0.0"), Kind::Busy, &["btt0.0"]);
        refused(tree.write(&format!("{ns}/size"), "0"), Kind::Busy, &[&ns]);
        tree.write("pfn0.0/mode", "ram").unwrap();
        stack.register(ranges([Arc::new(Anon::new(32 * MIB).unwrap()) as Arc<dyn Media>]));
        stack.settle();
        read(&*open(&stack, "namespace1.0"), 0).unwrap();
        assert!(!creation.is_finished());
        door.open();
        creation.join().unwrap().unwrap();
    });
    read(&*open(&stack, "btt0.0"), 0).unwrap();
}

#[test]
fn r22_a_layout_that_was_cut_short_is_no_btt() {
    // Whatever write it ends at, the info block is not there yet, and it can be done again.
    use common::hooked::broken;
    use std::sync::atomic::{AtomicU64, Ordering};
    let mut fuse = 1;
    loop {
        let left = Arc::new(AtomicU64::new(u64::MAX));
        let media: Arc<dyn Media> = Arc::new(Anon::new(16 * MIB).unwrap());
        let count = Arc::clone(&left);
        let hooked = Hooked::new(Arc::clone(&media), move |a| {
            let stores = ["store", "stream", "zero"].contains(&a.operation);
            if stores && count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_err()
            {
                return Err(broken());
            }
            Ok(())
        });
        let stack = Stack::new();
        let area = labels();
        let id = stack.register(labelled(hooked, Arc::clone(&area)));
        stack.settle();
        let tree = stack.tree();
        let ns = allocate(&tree, "region0", 1, 16 * MIB, 512, "btt");
        btt_seed(&tree, "btt0.0", 9, 4096, &ns);
        left.store(fuse, Ordering::SeqCst);
        let done = bind(&tree, "btt0.0");
        let whole = done.is_ok();
        stack.unregister(id).unwrap();
        // After a power cut.
        stack.register(labelled(media, area));
        stack.settle();
        if whole {
            read(&*open(&stack, "namespace0.0"), 0).unwrap();
            break;
        }
        if get(&tree, "namespace0.0/holder").is_empty() {
            btt_seed(&tree, "btt0.0", 9, 4096, "namespace0.0");
            bind(&tree, "btt0.0").unwrap();
        }
        read(&*open(&stack, "namespace0.0"), 0).unwrap();
        fuse = fuse * 3 / 2 + 1;
    }
    assert!(fuse > 4);
}

#[test]
fn r23_a_btt_that_was_never_written_can_be_used_at_once() {
    let stack = Stack::new();
    let log = Log::default();
    let media: Arc<dyn Media> = Arc::new(Anon::new(32 * MIB).unwrap());
    stack.register(labelled(log.over(media), labels()));
    stack.settle();
    let tree = stack.tree();
    create(&tree, "region0", "sector", 1, 32 * MIB);
    let disk = open(&stack, "btt0.0");
    let last = disk.geometry().sectors - 1;
    assert!(read(&*disk, last).unwrap().iter().all(|b| *b == 0));
    write(&*disk, last, 7).unwrap();
    write(&*disk, 0, 8).unwrap();
    assert_eq!(
        (read(&*disk, last).unwrap()[0], read(&*disk, 0).unwrap()[9], read(&*disk, 1).unwrap()[0]),
        (7, 8, 0)
    );
}

/// Where the map entry of a sector of a one-arena BTT lies.
fn map_at(media: &dyn Media, namespace: u64, lba: u64) -> MediaOffset {
    // The layout's map offset stands at byte 96 of the info block.
    let mapoff = media.load_u64(MediaOffset(namespace + 96)).unwrap();
    MediaOffset(namespace + mapoff + lba * 4)
}

#[test]
fn r24_lost_bytes_fail_until_they_are_written_and_zero_entries_read_as_zeros() {
    let stack = Stack::new();
    let media: Arc<dyn Media> = Arc::new(Anon::new(32 * MIB).unwrap());
    stack.register(labelled(Arc::clone(&media), labels()));
    stack.settle();
    let tree = stack.tree();
    create(&tree, "region0", "sector", 1, 32 * MIB);
    let disk = open(&stack, "btt0.0");
    for lba in 0..4 {
        write(&*disk, lba, 0x11).unwrap();
    }
    let entry = |lba| MapEntry(media.load_u32(map_at(&*media, 0, lba)).unwrap()).state();
    // The block of LBA 1 is lost. Reading it fails, its neighbours do not, and its entry says so for the next machine.
    let MapState::Normal(block) = entry(1) else { panic!("{:?}", entry(1)) };
    let data = media.load_u64(MediaOffset(88)).unwrap();
    stack.inject_error("region0", data + u64::from(block.0) * 4096 + 1000, 1).unwrap();
    refused(read(&*disk, 1), Kind::Poison, &[]);
    refused(read(&*disk, 1), Kind::Poison, &[]);
    assert!(read(&*disk, 0).is_ok() && read(&*disk, 2).is_ok());
    assert_eq!(entry(1), MapState::Error(block), "the error flag");
    write(&*disk, 1, 0x22).unwrap();
    assert!(matches!(entry(1), MapState::Normal(_)));
    assert_eq!(read(&*disk, 1).unwrap()[4095], 0x22);
    // A zero entry.
    drop(disk);
    unbind(&tree, "btt0.0").unwrap();
    let at = map_at(&*media, 0, 2);
    let raw = media.load_u32(at).unwrap();
    media.store_u32(at, (raw & 0x3fff_ffff) | 0x8000_0000).unwrap();
    bind(&tree, "btt0.0").unwrap();
    let disk = open(&stack, "btt0.0");
    assert!(read(&*disk, 2).unwrap().iter().all(|b| *b == 0));
    write(&*disk, 2, 0x33).unwrap();
    assert!(matches!(entry(2), MapState::Normal(_)));
    assert_eq!(read(&*disk, 2).unwrap()[0], 0x33);
}

#[test]
fn r24_a_raw_disk_tells_what_is_lost_and_heals_what_is_written_whole() {
    let (stack, tree) = machine(64 * MIB);
    create(&tree, "region0", "raw", 1, 16 * MIB);
    let disk = open(&stack, "namespace0.0");
    write(&*disk, 3, 1).unwrap();
    stack.inject_error("region0", 3 * 512 + 7, 1).unwrap();
    assert_eq!(get(&tree, "block/pmem0/badblocks"), "3 1");
    refused(read(&*disk, 3), Kind::Poison, &[]);
    write(&*disk, 3, 2).unwrap();
    assert_eq!(read(&*disk, 3).unwrap()[0], 2);
    assert_eq!(get(&tree, "block/pmem0/badblocks"), "");
}
