// SPDX-License-Identifier: MIT OR Apache-2.0
//! S9, R11, R12, R13: autodetection is contained and asynchronous. Nobody waits for a neighbour, and nothing is read but the bus.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::as_conversions, clippy::cast_possible_truncation, reason = "sizes fit")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use common::hooked::{Access, Door, Hooked, Log, broken};
use common::outside::{Crc, Moments};
use common::{
    MIB, acts, bus, contents, create, fixture_image, get, image, labelled, open, ranges, read, refused, told,
};
use nvstack_media::{Anon, Kind, Media, MediaOffset, Part};
use nvstack_stack::{Action, OpenOptions, Stack};

fn anon(size: u64) -> Arc<dyn Media> {
    Arc::new(Anon::new(size).unwrap())
}

#[test]
fn s9_r12_registering_returns_before_the_probes_end() {
    let door = Door::default();
    let gate = door.clone();
    let media = Hooked::new(anon(32 * MIB), move |_| {
        gate.pass();
        Ok(())
    });
    let stack = Stack::new();
    let events = stack.subscribe();
    stack.register(ranges([media as Arc<dyn Media>]));
    // We are here, and the probe stands before the door.
    door.wait_for(1);
    let tree = stack.tree();
    assert_eq!(get(&tree, "region0/size"), (32 * MIB).to_string());
    refused(stack.settle_within(Duration::from_millis(30)), Kind::Busy, &["namespace0.0"]);
    let told_before = told(&events);
    assert!(!acts(&told_before).contains(&(Action::Bind, "namespace0.0")));
    // The attribute that ndctl waits by waits, too.
    std::thread::scope(|scope| {
        let _open = door.opened_at_end();
        let over = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&over);
        let tree = &tree;
        let waiter = scope.spawn(move || {
            let text = tree.read("ndbus0/wait_probe");
            flag.store(true, Ordering::SeqCst);
            text
        });
        std::thread::sleep(Duration::from_millis(30));
        assert!(!over.load(Ordering::SeqCst));
        door.open();
        assert_eq!(waiter.join().unwrap().unwrap(), "1\n");
    });
    stack.settle_within(Duration::from_secs(20)).unwrap();
    let told_after = told(&events);
    assert!(acts(&told_after).contains(&(Action::Bind, "namespace0.0")));
}

#[test]
fn s9_r12_slow_namespaces_are_probed_at_once() {
    // Each waits, in its first access, until all the others have begun theirs. One after the other would never end.
    const N: usize = 6;
    let all = Arc::new(Barrier::new(N));
    let media: Vec<Arc<dyn Media>> = (0..N)
        .map(|_| {
            let (all, first) = (Arc::clone(&all), AtomicBool::new(true));
            Hooked::new(anon(32 * MIB), move |_| {
                if first.swap(false, Ordering::SeqCst) {
                    all.wait();
                }
                Ok(())
            }) as Arc<dyn Media>
        })
        .collect();
    let stack = Stack::with_workers(N);
    stack.register(ranges(media));
    stack.settle_within(Duration::from_secs(20)).unwrap();
    for n in 0..N {
        read(&*open(&stack, &format!("namespace{n}.0")), 0).unwrap();
    }
}

#[test]
fn s9_r12_namespaces_of_one_region_are_probed_at_once() {
    let (media, area) = (anon(128 * MIB), common::labels());
    let stack = Stack::new();
    let id = stack.register(labelled(Arc::clone(&media), Arc::clone(&area)));
    stack.settle();
    for n in 1..=4 {
        create(&stack.tree(), "region0", "sector", n, 32 * MIB);
    }
    stack.unregister(id).unwrap();
    let all = Arc::new(Barrier::new(4));
    let first: Vec<AtomicBool> = (0..4).map(|_| AtomicBool::new(true)).collect();
    let slow = Hooked::new(media, move |a| {
        if first[(a.at / (32 * MIB)) as usize].swap(false, Ordering::SeqCst) {
            all.wait();
        }
        Ok(())
    });
    stack.register(labelled(slow, area));
    stack.settle_within(Duration::from_secs(20)).unwrap();
    for n in 0..4 {
        assert_eq!(get(&stack.tree(), &format!("namespace0.{n}/mode")), "safe");
    }
}

#[test]
fn s9_r12_one_that_hangs_one_that_fails_one_that_is_damaged_hold_up_no_other() {
    let door = Door::default();
    let gate = door.clone();
    let hanging = Hooked::new(anon(32 * MIB), move |_| {
        gate.pass();
        Ok(())
    });
    let failing = Hooked::new(anon(32 * MIB), |_| Err(broken()));
    let lost = anon(32 * MIB);
    lost.inject_poison(MediaOffset(4096), 512).unwrap();
    let damaged = fixture_image("probes/p1-map-oob-1.img.zst");
    let healthy = fixture_image("golden/base-nolabel.img.zst");
    // The first info block of this one has lost its checksum.
    let corrupt = anon(healthy.len());
    corrupt.store(MediaOffset(0), &contents(&*healthy)).unwrap();
    corrupt.store(MediaOffset(4096 + 100), &[0xff]).unwrap();
    // One worker, so that whoever hangs would hold up all.
    let stack = Stack::with_workers(1);
    let events = stack.subscribe();
    let id = stack.register(ranges([
        hanging as Arc<dyn Media>,
        failing,
        lost,
        damaged,
        healthy,
        corrupt,
        anon(32 * MIB),
    ]));
    // All but the one that hangs come to an end, and the barrier says which one that is.
    while !stack
        .settle_within(Duration::from_millis(50))
        .unwrap_err()
        .to_string()
        .contains("found namespace0.0 after")
    {}
    let tree = stack.tree();
    assert_eq!(get(&tree, "btt4.1/namespace"), "namespace4.0");
    read(&*open(&stack, "namespace4.0"), 7).unwrap();
    read(&*open(&stack, "namespace6.0"), 7).unwrap();
    for (name, kind, word) in [
        ("namespace1.0", Kind::NoDevice, "a medium that fails"),
        ("namespace2.0", Kind::NoDevice, "0x1000"),
        ("namespace5.0", Kind::NoDevice, "checksum"),
    ] {
        refused(stack.open(name, &OpenOptions::default()).map(|_| ()), kind, &[name, word]);
        assert!(get(&tree, &format!("{name}/nvstack/error")).contains(word), "{name}");
        assert_eq!(get(&tree, &format!("region{}/init_namespaces", &name[9..10])), "0/1");
    }
    let failures: Vec<String> = told(&events)
        .into_iter()
        .filter(|e| common::variable(e, "ERROR").is_some_and(|text| !text.is_empty()))
        .map(|e| e.name)
        .collect();
    assert_eq!(failures.len(), 3, "{failures:?}");
    // The bus can go while one hangs; that one finds nothing when it comes back.
    stack.unregister(id).unwrap();
    assert!(tree.list("bus/nd/devices").unwrap().is_empty());
    door.open();
    stack.settle();
}

#[test]
fn s9_a_driver_that_panics_fails_its_namespace_alone() {
    let stack = Stack::new();
    let probe = Arc::new(|subject: &nvstack_stack::Subject| {
        assert_ne!(subject.size(), 20 * MIB, "as it is meant to");
    });
    stack.register_driver(Arc::new(Crc { moments: Moments { probe, ..Moments::default() } }));
    let id = stack.register(ranges([anon(20 * MIB), anon(24 * MIB)]));
    stack.settle_within(Duration::from_secs(20)).unwrap();
    let tree = stack.tree();
    refused(stack.open("namespace0.0", &OpenOptions::default()).map(|_| ()), Kind::NoDevice, &["panicked"]);
    read(&*open(&stack, "namespace1.0"), 0).unwrap();
    // It can be had otherwise, and all of it goes as ever.
    tree.write("namespace0.0/force_raw", "1").unwrap();
    common::bind(&tree, "namespace0.0").unwrap();
    stack.unregister(id).unwrap();
}

/// A bus with namespaces of every kind, whole and damaged.
fn zoo() -> (Arc<dyn Media>, Arc<dyn Media>) {
    let (media, area) = (anon(256 * MIB), common::labels());
    let stack = Stack::new();
    stack.register(labelled(Arc::clone(&media), Arc::clone(&area)));
    stack.settle();
    let tree = stack.tree();
    for (n, mode) in (1..).zip(["raw", "sector", "fsdax", "devdax", "sector", "fsdax"]) {
        create(&tree, "region0", mode, n, 32 * MIB);
    }
    for n in 0..6u8 {
        common::write(&*open(&stack, &format!("namespace0.{n}")), 9, n + 1).unwrap();
    }
    // Each of the last two has lost a byte of its first info block.
    media.store(MediaOffset(4 * 32 * MIB + 50), &[0xff]).unwrap();
    media.store(MediaOffset(5 * 32 * MIB + 4096 + 50), &[0xff]).unwrap();
    (media, area)
}

#[test]
fn s9_what_was_found_at_first_is_counted_once() {
    let (media, area) = zoo();
    let stack = Stack::new();
    stack.register(labelled(media, area));
    stack.settle();
    let tree = stack.tree();
    assert_eq!(get(&tree, "region0/init_namespaces"), "4/6");
    for _ in 0..3 {
        assert!(common::bind(&tree, "namespace0.4").is_err());
    }
    assert_eq!(get(&tree, "region0/init_namespaces"), "4/6");
}

#[test]
fn s9_r11_r13_a_probe_changes_nothing_and_reads_its_own_bus_alone() {
    let (media, area) = zoo();
    let before = (contents(&*media), contents(&*area));
    let (own, labels, foreign, beside) = (Log::default(), Log::default(), Log::default(), Log::default());
    // The bus is the middle of a larger medium, whose other parts, and another whole one, are watched as well.
    let stack = Stack::new();
    let whole = anon(512 * MIB);
    whole.store(MediaOffset(128 * MIB), &before.0).unwrap();
    let whole = beside.over(whole);
    let part: Arc<dyn Media> =
        Arc::new(Part::new(Arc::clone(&whole), MediaOffset(128 * MIB), 256 * MIB).unwrap());
    let other: Arc<dyn Media> = foreign.over(image(64 * MIB));
    let _spec = bus(&other);
    foreign.take();
    for round in 0..2 {
        let id = stack.register(labelled(own.over(Arc::clone(&part)), labels.over(Arc::clone(&area))));
        stack.settle();
        let tree = stack.tree();
        for (n, kind) in (0..).zip(["raw", "safe", "memory", "dax"]) {
            assert_eq!(get(&tree, &format!("namespace0.{n}/mode")), kind, "{round}");
        }
        for n in 4..6 {
            assert!(get(&tree, &format!("namespace0.{n}/nvstack/error")).len() > 20, "{round}");
        }
        // Looking at all of it is no more than probing it.
        for (path, _) in tree.walk() {
            let _ = tree.read(&path);
        }
        let accesses = own.take();
        assert!(accesses.len() > 10);
        for access in accesses.iter().chain(&labels.take()) {
            assert!(!access.changes, "{round}: {access:?}");
        }
        let inside = |a: &Access| a.at >= 128 * MIB && a.at + a.len <= 384 * MIB;
        for access in beside.take() {
            assert!(inside(&access) && !access.changes, "{round}: {access:?}");
        }
        for access in &accesses {
            assert!(access.at + access.len <= 256 * MIB, "{access:?}");
        }
        assert!(foreign.take().is_empty(), "{round}: a device of no bus was read");
        stack.unregister(id).unwrap();
    }
    assert!(contents(&*part) == before.0 && contents(&*area) == before.1, "bytes changed");
}

#[test]
fn s9_r11_each_namespace_is_probed_within_its_own_bytes() {
    // The driver of a namespace gets a device of it alone: there is no way to its neighbours.
    let (media, area) = zoo();
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let keep = Arc::clone(&seen);
    let probe = Arc::new(move |s: &nvstack_stack::Subject| {
        let media = s.media().unwrap();
        let outside = media.read(MediaOffset(s.size()), &mut [0]).unwrap_err().kind();
        keep.lock().unwrap().push((s.name.clone(), s.size(), media.len(), outside));
    });
    let stack = Stack::bare(4);
    stack.register_driver(Arc::new(Crc { moments: Moments { probe, ..Moments::default() } }));
    stack.register(labelled(media, area));
    stack.settle();
    let mut seen = std::mem::take(&mut *seen.lock().unwrap());
    seen.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(!seen.is_empty());
    for (name, size, len, outside) in seen {
        assert_eq!((size, len, outside), (32 * MIB, 32 * MIB, Kind::OutOfRange), "{name}");
    }
}
