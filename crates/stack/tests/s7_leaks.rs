// SPDX-License-Identifier: MIT OR Apache-2.0
//! S7: nothing leaks. Alone in its process, so that what the process has can be counted.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::as_conversions, clippy::cast_possible_truncation, reason = "sizes fit")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{MIB, bus, create, open, refused, write};
use nvstack_block::Kind;
use nvstack_media::{Access, Mapping, Media};
use nvstack_stack::{OpenOptions, Stack};

/// Threads, descriptors and mappings of the process that have to do with a file.
fn held(path: &Path) -> (usize, BTreeSet<String>, usize) {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
    let files = std::fs::read_dir("/proc/self/fd").unwrap();
    let files = files.filter_map(|f| std::fs::read_link(f.unwrap().path()).ok());
    let files = files.map(|f| f.to_string_lossy().into_owned()).filter(|f| !f.starts_with("/proc")).collect();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    (threads, files, maps.lines().filter(|l| l.contains(path.to_str().unwrap())).count())
}

/// The same as before. A worker that has told its end may take a moment to be gone.
fn nothing_left(path: &Path, before: &(usize, BTreeSet<String>, usize), when: &str) {
    let until = Instant::now() + Duration::from_secs(5);
    while held(path) != *before && Instant::now() < until {
        std::thread::yield_now();
    }
    assert_eq!(held(path), *before, "{when}");
}

#[test]
fn s7_no_thread_mapping_descriptor_or_lock_stays_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(256 * MIB).unwrap();
    drop(file);
    let mapped = || Arc::new(Mapping::open_locked(&path, Access::ReadWrite).unwrap()) as Arc<dyn Media>;
    let area =
        nvstack_media::Part::new(mapped(), nvstack_media::MediaOffset(256 * MIB - (128 << 10)), 128 << 10)
            .unwrap();
    drop(nvstack_label::LabelArea::init(area, nvstack_format::label::Version::V1_2).unwrap());
    let before = held(&path);
    let stack = Stack::new();
    let tree = stack.tree();
    for round in 0..3 {
        let id = stack.register(bus(&mapped()));
        stack.settle();
        if round == 0 {
            for (n, mode) in (1..).zip(["raw", "sector", "fsdax", "devdax"]) {
                create(&tree, "region0", mode, n, 32 * MIB);
            }
        }
        let names = ["namespace0.0", "namespace0.1", "namespace0.2", "namespace0.3"];
        let disks = names.map(|n| open(&stack, n));
        let pages = names.map(|n| stack.open_described(n, &OpenOptions::default()).unwrap());
        let media = disks[0].bytes().unwrap().media();
        let labels = stack.label_area("nmem0", false).unwrap();
        for disk in &disks {
            write(&**disk, 1, 1).unwrap();
        }
        assert!(held(&path).2 > 0);
        assert!(held(&path).1.contains(path.to_str().unwrap()));
        refused(Mapping::open_locked(&path, Access::ReadWrite).map(|_| ()), Kind::Busy, &[]);
        // Unbound one by one, or all with the bus.
        if round == 1 {
            common::unbind(&tree, "namespace0.0").unwrap();
            for n in 1..4 {
                let claim = common::get(&tree, &format!("namespace0.{n}/holder"));
                common::unbind(&tree, &claim).unwrap();
            }
            let ticking = std::fs::read_dir("/proc/self/task").unwrap().count();
            assert_eq!(ticking, before.0, "threads after every disk was unbound");
        }
        stack.unregister(id).unwrap();
        // The handles are still held, and hold nothing.
        nothing_left(&path, &before, &format!("round {round}"));
        drop(Mapping::open_locked(&path, Access::ReadWrite).unwrap());
        refused(media.read(nvstack_media::MediaOffset(0), &mut [0]), Kind::Gone, &["namespace0.0"]);
        drop((disks, pages, media, labels));
    }
    // The machine itself leaves nothing, with a bus on it or without.
    stack.register(bus(&mapped()));
    stack.settle();
    let disk = open(&stack, "namespace0.1");
    drop(disk);
    drop((stack, tree));
    nothing_left(&path, &before, "after the machine was dropped");
}
