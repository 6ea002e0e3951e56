// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver in the device model: seeds, autodetection, tree, events, teardown.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;

use common::{read, write};
use nvstack_block::Lba;
use nvstack_example_checksum::layout::Layout;
use nvstack_example_checksum::{Checksum, GUID};
use nvstack_format::label::Version;
use nvstack_label::LabelArea;
use nvstack_media::{Anon, Media, MediaOffset, Part};
use nvstack_stack::provider::ImageProvider;
use nvstack_stack::{Action, BusId, Entry, Kind, OpenOptions, Stack, Tree};

const MIB: u64 = 1 << 20;
const LABELS: u64 = 128 << 10;
const NS: &str = "91755b80-2157-4923-b8f6-a1066974c539";
const OWN: &str = "0d9f5fd6-4a3e-4ac7-8bb1-2e0a51a2a1ec";

/// An image with labels.
fn image(version: Version) -> Arc<dyn Media> {
    let media: Arc<dyn Media> = Arc::new(Anon::new(128 * MIB).unwrap());
    let area = Part::new(Arc::clone(&media), MediaOffset(128 * MIB - LABELS), LABELS).unwrap();
    LabelArea::init(area, version).unwrap();
    media
}

fn register(stack: &Stack, image: &Arc<dyn Media>) -> BusId {
    let bus = stack.register(ImageProvider::new(Arc::clone(image), Some(LABELS)).unwrap().bus());
    stack.settle();
    bus
}

fn machine(image: &Arc<dyn Media>) -> (Stack, BusId) {
    let stack = Stack::new();
    stack.register_driver(Arc::new(Checksum));
    let bus = register(&stack, image);
    (stack, bus)
}

fn get(tree: &Tree, path: &str) -> String {
    tree.read(path).unwrap_or_else(|e| panic!("{path}: {e}")).trim_end().to_owned()
}

fn set(tree: &Tree, dev: &str, stores: &[(&str, &str)]) {
    for (attribute, text) in stores {
        tree.write(&format!("{dev}/{attribute}"), text).unwrap_or_else(|e| panic!("{dev}/{attribute}: {e}"));
    }
}

/// Makes a namespace and a crc device on it, as ndctl makes a BTT.
fn create(tree: &Tree) {
    set(tree, "namespace0.0", &[("uuid", NS), ("size", "0x2000000"), ("holder_class", "crc")]);
    assert_eq!(get(tree, "region0/crc_seed"), "crc0.0");
    set(tree, "crc0.0", &[("uuid", OWN), ("block_size", "512"), ("namespace", "namespace0.0")]);
    tree.write("bus/nd/drivers/nd_crc/bind", "crc0.0").unwrap();
}

fn open(stack: &Stack, name: &str) -> Arc<dyn nvstack_block::BlockDevice> {
    stack.open(name, &OpenOptions::default()).unwrap()
}

#[test]
fn a_device_is_made_through_the_tree_and_the_seed_replaced() {
    let (stack, _) = machine(&image(Version::V1_2));
    let tree = stack.tree();
    // The seed before anything was set.
    assert_eq!(tree.read("crc0.0/block_size").unwrap(), "512 [4096] \n");
    assert_eq!(tree.read("crc0.0/size").unwrap_err().kind(), Kind::NoDevice);
    let refused = tree.write("crc0.0/block_size", "1024").unwrap_err();
    assert_eq!(refused.kind(), Kind::Invalid);
    assert!(refused.to_string().contains("accepted 512 or 4096"), "{refused}");
    assert_eq!(tree.write("crc0.0/errors", "0").unwrap_err().kind(), Kind::Permission);

    let events = stack.subscribe();
    create(&tree);
    assert_eq!(get(&tree, "region0/crc_seed"), "crc0.1");
    assert_eq!(get(&tree, "namespace0.0/holder"), "crc0.0");
    assert_eq!(get(&tree, "namespace0.0/holder_class"), "crc");
    assert_eq!(get(&tree, "namespace0.0/mode"), "crc");
    for (attribute, text) in [
        ("devtype", "nd_crc"),
        ("block_size", "[512] 4096"),
        ("errors", "0"),
        ("uuid", OWN),
        ("namespace", "namespace0.0"),
    ] {
        assert_eq!(get(&tree, &format!("crc0.0/{attribute}")), text);
    }
    let layout = Layout::compute(32 * MIB, 512).unwrap();
    assert_eq!(get(&tree, "crc0.0/size"), (layout.blocks * 512).to_string());
    let start = u64::from_str_radix(&get(&tree, "namespace0.0/resource")[2..], 16).unwrap();
    assert_eq!(get(&tree, "crc0.0/resource"), format!("{:#x}", start + layout.data.0));
    assert_eq!(tree.link("crc0.0/driver").unwrap(), "bus/nd/drivers/nd_crc");

    let path = tree.canonical("crc0.0").unwrap();
    let walked = tree.walk();
    let at = |path: &str| walked.iter().find(|(p, _)| p == path).map(|(_, entry)| entry.clone());
    assert_eq!(at(&path), Some(Entry::Dir));
    assert_eq!(at(&format!("{path}/block_size")), Some(Entry::Attribute { mode: 0o644 }));
    assert_eq!(at(&format!("{path}/errors")), Some(Entry::Attribute { mode: 0o444 }));
    assert_eq!(at("bus/nd/devices/crc0.0"), Some(Entry::Link { target: path.clone() }));
    assert_eq!(at("class/block/pmem0c"), Some(Entry::Link { target: format!("{path}/block/pmem0c") }));

    let told: Vec<(Action, String)> = events.try_iter().map(|e| (e.action, e.name)).collect();
    for expected in [(Action::Bind, "crc0.0"), (Action::Add, "pmem0c"), (Action::Add, "crc0.1")] {
        assert!(told.contains(&(expected.0, expected.1.to_owned())), "{expected:?} in {told:?}");
    }
    // It is part of what such a machine promises, and of no other.
    assert!(stack.abi().iter().any(|e| e.device == "crc" && e.attribute == "errors"));
    assert!(!Stack::new().abi().iter().any(|e| e.device == "crc"));
}

#[test]
fn it_is_found_again_when_its_bus_comes_back() {
    for version in [Version::V1_1, Version::V1_2] {
        let image = image(version);
        // The namespace had a life before, and its bytes are still there.
        image.store(MediaOffset(0), &vec![0xff; 1 << 20]).unwrap();
        let (stack, bus) = machine(&image);
        create(&stack.tree());
        let class = if version == Version::V1_1 { "" } else { "crc" };
        assert_eq!(get(&stack.tree(), "namespace0.0/holder_class"), class);
        write(&open(&stack, "pmem0c"), 5, &[5; 512]).unwrap();
        stack.unregister(bus).unwrap();

        register(&stack, &image);
        let tree = stack.tree();
        let holder = get(&tree, "namespace0.0/holder");
        assert!(holder.starts_with("crc0."), "{holder:?}");
        assert_eq!(get(&tree, &format!("{holder}/uuid")), OWN);
        assert_eq!(get(&tree, &format!("{holder}/block_size")), "[512] 4096");
        // A seed stands beside what was found.
        assert_ne!(get(&tree, "region0/crc_seed"), holder);
        let disk = open(&stack, "pmem0c");
        assert_eq!(read(&disk, 5).unwrap(), [5; 512]);
        assert_eq!(read(&disk, 6).unwrap(), [0; 512]);

        // Who does not know the driver must not write over it: by its type in a label that can tell one.
        let stranger = Stack::new();
        register(&stranger, &image);
        let raw = stranger.open("pmem0", &OpenOptions::default());
        let told = get(&stranger.tree(), "namespace0.0/nvstack/error");
        match version {
            Version::V1_1 => assert!(raw.is_ok()),
            Version::V1_2 => assert!(raw.is_err() && told.contains(&GUID.to_string()), "{told:?}"),
        }
    }
}

#[test]
fn a_block_that_changed_is_refused_and_counted() {
    let image = image(Version::V1_2);
    let (stack, _) = machine(&image);
    let tree = stack.tree();
    create(&tree);
    let disk = open(&stack, "pmem0c");
    write(&disk, 9, &[9; 512]).unwrap();
    let start = u64::from_str_radix(&get(&tree, "crc0.0/resource")[2..], 16).unwrap();
    let start = start - u64::from_str_radix(&get(&tree, "region0/resource")[2..], 16).unwrap();
    image.store(MediaOffset(start + 9 * 512 + 100), &[8]).unwrap();
    for errors in 1..3 {
        let error = read(&disk, 9).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.to_string().contains("crc0.0: read of LBA 9 "), "{error}");
        assert_eq!(get(&tree, "crc0.0/errors"), errors.to_string());
    }
    write(&disk, 9, &[7; 512]).unwrap();
    assert_eq!(read(&disk, 9).unwrap(), [7; 512]);
}

#[test]
fn whoever_holds_its_disk_loses_it_with_the_device() {
    let image = image(Version::V1_2);
    let (stack, bus) = machine(&image);
    let tree = stack.tree();
    create(&tree);
    let disk = open(&stack, "pmem0c");
    tree.write("bus/nd/drivers/nd_crc/unbind", "crc0.0").unwrap();
    assert_eq!(read(&disk, 0).unwrap_err().kind(), Kind::Gone);
    assert_eq!(disk.discard(Lba(0), 1).unwrap_err().kind(), Kind::Gone);
    // The device stays, and can be bound again: what is there is taken, not laid out anew.
    tree.write("bus/nd/drivers/nd_crc/bind", "crc0.0").unwrap();
    let disk = open(&stack, "crc0.0");
    write(&disk, 1, &[1; 512]).unwrap();
    tree.write("bus/nd/drivers/nd_crc/unbind", "crc0.0").unwrap();
    let refused = {
        set(&tree, "crc0.0", &[("block_size", "4096")]);
        tree.write("bus/nd/drivers/nd_crc/bind", "crc0.0").unwrap_err()
    };
    assert!(refused.to_string().contains("blocks of 512 on the medium"), "{refused}");
    set(&tree, "crc0.0", &[("block_size", "512")]);
    tree.write("bus/nd/drivers/nd_crc/bind", "crc0.0").unwrap();
    let disk = open(&stack, "crc0.0");
    assert_eq!(read(&disk, 1).unwrap(), [1; 512]);
    stack.unregister(bus).unwrap();
    assert_eq!(write(&disk, 1, &[2; 512]).unwrap_err().kind(), Kind::Gone);
    assert!(tree.walk().iter().all(|(path, _)| !path.contains("crc0.")));
}

#[test]
fn a_damaged_superblock_is_rewritten_when_the_disk_is_opened_for_writing() {
    let image = image(Version::V1_2);
    let (stack, bus) = machine(&image);
    create(&stack.tree());
    stack.unregister(bus).unwrap();
    let at = MediaOffset(4096 + 50);
    image.store(at, &[0xff]).unwrap();
    register(&stack, &image);
    let byte = || {
        let mut byte = [0];
        image.read(at, &mut byte).unwrap();
        byte[0]
    };
    let options = |read_only| OpenOptions { read_only, ..OpenOptions::default() };
    let opened = stack.open_described("pmem0c", &options(true)).unwrap();
    assert_eq!((opened.note.as_str(), byte()), ("512-byte blocks with checksums", 0xff));
    let holder = get(&stack.tree(), "namespace0.0/holder");
    for action in ["unbind", "bind"] {
        stack.tree().write(&format!("bus/nd/drivers/nd_crc/{action}"), &holder).unwrap();
    }
    let opened = stack.open_described("pmem0c", &options(false)).unwrap();
    assert!(opened.note.ends_with("a damaged copy of the superblock rewritten"), "{}", opened.note);
    assert_eq!(byte(), 0);
}

#[test]
fn a_damaged_device_is_nobodys() {
    let image = image(Version::V1_1);
    let (stack, bus) = machine(&image);
    create(&stack.tree());
    stack.unregister(bus).unwrap();
    // Both copies of the superblock.
    for at in [4096 + 50, 32 * MIB - 4096 + 50] {
        image.store(MediaOffset(at), &[0xff]).unwrap();
    }
    register(&stack, &image);
    let tree = stack.tree();
    assert_eq!(get(&tree, "namespace0.0/holder"), "");
    let told = get(&tree, "namespace0.0/nvstack/error");
    assert!(
        told.starts_with("namespace0.0: read superblock of checksums at offset 0x1000: found checksum"),
        "{told}"
    );
    assert_eq!(stack.open("namespace0.0", &OpenOptions::default()).err().unwrap().kind(), Kind::NoDevice);
}

#[test]
fn a_driver_that_comes_late_gets_its_seeds() {
    let stack = Stack::new();
    register(&stack, &image(Version::V1_2));
    let tree = stack.tree();
    assert_eq!(tree.read("region0/crc_seed").unwrap_err().kind(), Kind::NotFound);
    stack.register_driver(Arc::new(Checksum));
    create(&tree);
    write(&open(&stack, "pmem0c"), 0, &[1; 512]).unwrap();
}
