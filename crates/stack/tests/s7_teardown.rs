// SPDX-License-Identifier: MIT OR Apache-2.0
//! S7, R9, R20: what is removed goes in the order of the tree, under whoever uses it. Nobody is searched for, and who comes later
//! is told.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::as_conversions, clippy::cast_possible_truncation, reason = "sizes fit")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use common::hooked::{Door, Hooked};
use common::outside::{Crc, Moments};
use common::{
    MIB, acts, allocate, bind, bus, create, get, image, labelled, labels, open, ranges, read, refused, told,
    unbind, variable, write,
};
use nvstack_block::{BlockDevice, Kind};
use nvstack_media::{Anon, Media, MediaOffset};
use nvstack_stack::{Action, BusId, Event, OpenOptions, Stack, Tree};

/// A machine with a disk of each kind.
fn full() -> (Stack, Tree, BusId, Arc<dyn Media>) {
    let (stack, media) = (Stack::new(), image(256 * MIB));
    let id = stack.register(bus(&media));
    stack.settle();
    let tree = stack.tree();
    for (n, mode) in (1..).zip(["raw", "sector", "fsdax", "devdax"]) {
        create(&tree, "region0", mode, n, 32 * MIB);
    }
    (stack, tree, id, media)
}

const DISKS: [&str; 4] = ["namespace0.0", "btt0.0", "pfn0.0", "dax0.0"];

/// Writes to disks from several threads each while `work` is done; after it each of them must have met the end of its device.
fn under_load(stack: &Stack, disks: &[&str], work: impl FnOnce()) {
    let handles: Vec<_> = disks.iter().map(|d| (*d, open(stack, d))).collect();
    let written = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (name, disk) in &handles {
            for lane in 0..3u64 {
                let written = &written;
                threads.push(scope.spawn(move || {
                    for n in 0u64.. {
                        let lba = lane * 8 + n % 4;
                        match write(&**disk, lba, n as u8).and_then(|()| read(&**disk, lba)) {
                            Ok(sector) => assert!(sector.iter().all(|b| *b == n as u8), "{name}"),
                            Err(error) => {
                                refused::<()>(Err(error), Kind::Gone, &[name]);
                                break;
                            }
                        }
                        written.fetch_add(1, Ordering::Relaxed);
                    }
                }));
            }
        }
        while written.load(Ordering::Relaxed) < 200 {
            std::thread::yield_now();
        }
        work();
        // They end by themselves, told by their device.
        threads.into_iter().for_each(|t| t.join().unwrap());
    });
    for (name, disk) in &handles {
        refused(read(&**disk, 0), Kind::Gone, &[name]);
        refused(disk.flush(), Kind::Gone, &[name]);
        refused(disk.bytes().map(|_| ()), Kind::Gone, &[name]);
    }
}

#[test]
fn s7_a_claim_goes_under_its_users() {
    let (stack, tree, ..) = full();
    under_load(&stack, &["btt0.0"], || unbind(&tree, "btt0.0").unwrap());
    // The others are there, and so is what it was: bound again it has what was written.
    read(&*open(&stack, "namespace0.0"), 0).unwrap();
    bind(&tree, "btt0.0").unwrap();
    assert!(read(&*open(&stack, "btt0.0"), 0).unwrap().iter().any(|b| *b != 0));
}

#[test]
fn s7_a_namespace_goes_under_its_users() {
    let (stack, tree, ..) = full();
    under_load(&stack, &["namespace0.0"], || unbind(&tree, "namespace0.0").unwrap());
    read(&*open(&stack, "btt0.0"), 0).unwrap();
}

#[test]
fn s7_a_region_takes_along_what_is_on_it() {
    let (stack, tree, ..) = full();
    under_load(&stack, &DISKS, || unbind(&tree, "region0").unwrap());
    assert!(tree.entry("region0/namespace0.0").is_err());
    bind(&tree, "region0").unwrap();
    stack.settle();
    for disk in ["namespace0.0", "namespace0.1", "namespace0.2", "namespace0.3"] {
        assert!(read(&*open(&stack, disk), 0).is_ok(), "{disk}");
    }
}

#[test]
fn s7_a_bus_takes_along_everything() {
    let (stack, tree, id, _) = full();
    under_load(&stack, &DISKS, || stack.unregister(id).unwrap());
    assert!(tree.list("bus/nd/devices").unwrap().is_empty());
    refused(stack.unregister(id), Kind::Gone, &["ndbus0"]);
}

#[test]
fn s7_a_dimm_in_use_is_held_and_an_idle_one_goes() {
    let (stack, tree, ..) = full();
    refused(unbind(&tree, "nmem0"), Kind::Busy, &["nmem0", "region"]);
    assert_eq!(get(&tree, "nmem0/state"), "active");
    read(&*open(&stack, "btt0.0"), 0).unwrap();
    unbind(&tree, "region0").unwrap();
    assert_eq!(get(&tree, "nmem0/state"), "idle");
    unbind(&tree, "nmem0").unwrap();
    refused(bind(&tree, "region0"), Kind::NoDevice, &["nmem0 disabled"]);
    bind(&tree, "nmem0").unwrap();
    bind(&tree, "region0").unwrap();
    stack.settle();
    assert_eq!(get(&tree, "namespace0.1/mode"), "safe");
}

/// Where an event stands in the order of a teardown.
fn rank(event: &Event) -> usize {
    let prefixes = [["btt", "pfn", "dax"].as_slice(), &["namespace"], &["region"], &["nmem"], &["ndbus"]];
    prefixes.iter().position(|p| p.iter().any(|p| event.name.starts_with(p))).unwrap()
}

#[test]
fn s7_r9_the_order_of_events_follows_the_tree() {
    let (stack, _, id, _) = full();
    let handles: Vec<_> = DISKS.iter().map(|d| open(&stack, d)).collect();
    let events = stack.subscribe();
    stack.unregister(id).unwrap();
    let events = told(&events);
    let nd: Vec<&Event> = events.iter().filter(|e| e.subsystem == "nd").collect();
    assert!(nd.is_sorted_by_key(|e| rank(e)), "{:?}", acts(&events));
    // All that had come goes; what had a driver is unbound first, and tells no driver any more.
    for name in ["btt0.0", "pfn0.0", "dax0.0", "namespace0.0", "region0", "nmem0", "ndbus0"] {
        let own: Vec<Action> = nd.iter().filter(|e| e.name == name).map(|e| e.action).collect();
        assert_eq!(own, [Action::Unbind, Action::Remove], "{name}");
    }
    for event in &nd {
        assert_eq!(variable(event, "DRIVER"), None, "{event:?}");
    }
    for (name, devtype, modalias) in [
        ("btt0.0", "nd_btt", "nd:t5"),
        ("dax0.0", "nd_dax", "nd:t7"),
        ("namespace0.0", "nd_namespace_pmem", "nd:t5"),
        ("namespace0.1", "nd_namespace_pmem", "nd:t5"),
        ("region0", "nd_pmem", "nd:t2"),
        ("nmem0", "nvdimm", "nd:t1"),
    ] {
        let event = nd.iter().find(|e| e.name == name && e.action == Action::Remove).unwrap();
        assert_eq!(variable(event, "DEVTYPE"), Some(devtype), "{name}");
        assert_eq!(variable(event, "MODALIAS"), Some(modalias), "{name}");
    }
    let disks: Vec<&str> = events
        .iter()
        .filter(|e| e.subsystem == "block")
        .map(|e| (assert_eq!(e.action, Action::Remove), e.name.as_str()).1)
        .collect();
    assert_eq!(disks.len(), 3, "{disks:?}");
    for disk in ["pmem0", "pmem0.1s", "pmem0.2"] {
        assert!(disks.contains(&disk), "{disks:?}");
    }
    drop(handles);
}

#[test]
fn s7_no_acknowledged_write_is_lost_to_a_teardown() {
    let (stack, media) = (Stack::new(), image(64 * MIB));
    let tree = stack.tree();
    let mut id = stack.register(bus(&media));
    stack.settle();
    create(&tree, "region0", "sector", 1, 32 * MIB);
    let mut last = [0u8; 4];
    for round in 1..=8u8 {
        let disk = open(&stack, "namespace0.0");
        for (lba, last) in (0..).zip(&last) {
            assert!(read(&*disk, lba).unwrap().iter().all(|b| b == last), "round {round}");
        }
        let (disk, stack, tree) = (&disk, &stack, &tree);
        let many = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..4u64)
                .zip(last)
                .map(|(lba, mut done)| {
                    let many = &many;
                    scope.spawn(move || {
                        for n in (1..=255u8).cycle() {
                            if write(&**disk, lba, n).is_err() {
                                return done;
                            }
                            done = n;
                            many.fetch_add(1, Ordering::Relaxed);
                        }
                        done
                    })
                })
                .collect();
            while many.load(Ordering::Relaxed) < 100 {
                std::thread::yield_now();
            }
            if round % 2 == 0 {
                stack.unregister(id).unwrap();
            } else {
                let claim = get(tree, "namespace0.0/holder");
                unbind(tree, &claim).unwrap();
                bind(tree, &claim).unwrap();
            }
            for (last, writer) in last.iter_mut().zip(writers) {
                *last = writer.join().unwrap();
            }
        });
        if round % 2 == 0 {
            id = stack.register(bus(&media));
            stack.settle();
        }
    }
}

#[test]
fn s7_r20_a_stale_handle_never_reaches_its_successor() {
    let (stack, tree, id, media) = full();
    let old = open(&stack, "namespace0.0");
    unbind(&tree, "region0").unwrap();
    bind(&tree, "region0").unwrap();
    stack.settle();
    let new = open(&stack, "namespace0.0");
    write(&*new, 0, 0x11).unwrap();
    refused(write(&*old, 0, 0x22), Kind::Gone, &["namespace0.0"]);
    assert_eq!(read(&*new, 0).unwrap()[0], 0x11);
    // The same for a bus: its number is given again, its id is not.
    stack.unregister(id).unwrap();
    let next = stack.register(bus(&media));
    stack.settle();
    assert_eq!(next.number(), id.number());
    refused(stack.unregister(id), Kind::Gone, &["ndbus0"]);
    refused(write(&*new, 0, 0x33), Kind::Gone, &["namespace0.0"]);
    assert_eq!(read(&*open(&stack, "namespace0.0"), 0).unwrap()[0], 0x11);
}

/// A driver that comes back from attaching after its region went and came again finds nothing of its own, and touches nothing.
#[test]
fn s7_r20_a_late_driver_finds_its_device_gone() {
    let attach = Door::default();
    let (probes, hold) = (Door::default(), Arc::new(AtomicBool::new(false)));
    probes.open();
    let moments = Moments {
        attach: Arc::new({
            let attach = attach.clone();
            move |_| attach.pass()
        }),
        probe: Arc::new({
            let (probes, hold) = (probes.clone(), Arc::clone(&hold));
            move |_| {
                if hold.load(Ordering::Acquire) {
                    probes.pass();
                }
            }
        }),
        ..Moments::default()
    };
    let stack = Stack::new();
    stack.register_driver(Arc::new(Crc { moments }));
    stack.register(labelled(Arc::new(Anon::new(64 * MIB).unwrap()), labels()));
    stack.settle();
    let tree = stack.tree();
    let ns = allocate(&tree, "region0", 1, 16 * MIB, 512, "");
    let seed = get(&tree, "region0/crc_seed");
    tree.write(&format!("{seed}/uuid"), &uuid::Uuid::from_u128(5).to_string()).unwrap();
    tree.write(&format!("{seed}/namespace"), &ns).unwrap();
    std::thread::scope(|scope| {
        let _open = (attach.opened_at_end(), probes.opened_at_end());
        let late = scope.spawn(|| bind(&tree, &seed));
        attach.wait_for(1);
        // Configuring and unbinding what is being bound is refused meanwhile.
        refused(
            tree.write(&format!("{seed}/uuid"), &uuid::Uuid::from_u128(6).to_string()),
            Kind::Busy,
            &[&seed],
        );
        refused(tree.write(&format!("{ns}/alt_name"), "x"), Kind::Busy, &[&ns]);
        unbind(&tree, "region0").unwrap();
        probes.close();
        hold.store(true, Ordering::Release);
        bind(&tree, "region0").unwrap();
        // The new namespace of that name is being probed when the late one comes back.
        probes.wait_for(1);
        hold.store(false, Ordering::Release);
        attach.open();
        refused(late.join().unwrap(), Kind::Gone, &[&seed]);
        // Nor has it let anybody at the new one.
        refused(bind(&tree, &ns), Kind::Busy, &[&ns, "being changed"]);
        probes.open();
    });
    stack.settle();
    assert_eq!(get(&tree, "region0/crc_seed"), "crc0.0");
    assert!(get(&tree, "crc0.0/namespace").is_empty());
}

#[test]
fn s7_r20_label_areas_given_out_end_with_the_dimm_and_are_not_written_under_a_region() {
    let area = labels();
    let stack = Stack::new();
    let id = stack.register(labelled(Arc::new(Anon::new(64 * MIB).unwrap()), Arc::clone(&area)));
    stack.settle();
    let tree = stack.tree();
    let at = MediaOffset(100_000);
    let reader = stack.label_area("nmem0", false).unwrap();
    refused(reader.store(at, b"x"), Kind::ReadOnly, &[]);
    refused(stack.label_area("nmem0", true).map(|_| ()), Kind::Busy, &["nmem0"]);
    unbind(&tree, "region0").unwrap();
    let writer = stack.label_area("nmem0", true).unwrap();
    writer.store(at, b"written").unwrap();
    bind(&tree, "region0").unwrap();
    // The labels are the region's now.
    refused(writer.store(at, b"later"), Kind::Gone, &["nmem0"]);
    let mut found = [0; 7];
    reader.read(at, &mut found).unwrap();
    assert_eq!(&found, b"written");
    unbind(&tree, "region0").unwrap();
    refused(writer.store(at, b"later"), Kind::Gone, &["nmem0"]);
    stack.label_area("nmem0", true).unwrap().store(at, b"again").unwrap();
    stack.unregister(id).unwrap();
    refused(reader.read(at, &mut found), Kind::Gone, &["nmem0"]);
    assert_eq!(Arc::strong_count(&area), 1, "somebody keeps the label area");
}

#[test]
fn s7_r20_the_labels_of_a_dimm_are_read_by_one_at_a_time() {
    let (door, area) = (Door::default(), labels());
    let gate = door.clone();
    let area = Hooked::new(area, move |_| {
        gate.pass();
        Ok(())
    });
    let stack = Stack::new();
    std::thread::scope(|scope| {
        let _open = door.opened_at_end();
        stack.register(labelled(Arc::new(Anon::new(64 * MIB).unwrap()), area));
        door.wait_for(1);
        let tree = stack.tree();
        refused(bind(&tree, "nmem0"), Kind::Busy, &["nmem0"]);
        door.open();
        stack.settle();
        door.close();
        unbind(&tree, "region0").unwrap();
        unbind(&tree, "nmem0").unwrap();
        let other = tree.clone();
        let first = scope.spawn(move || bind(&other, "nmem0"));
        door.wait_for(1);
        refused(bind(&tree, "nmem0"), Kind::Busy, &["nmem0"]);
        door.open();
        first.join().unwrap().unwrap();
        bind(&tree, "region0").unwrap();
    });
}

/// Two who open a disk at once get one disk; and who unbinds it waits for the one who is opening.
#[test]
fn s7_a_disk_is_opened_once_and_not_after_its_end() {
    let door = Door::default();
    let (opens, at_once) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let moments = Moments {
        open: Arc::new({
            let (door, opens, at_once) = (door.clone(), Arc::clone(&opens), Arc::clone(&at_once));
            move |_| {
                opens.fetch_add(1, Ordering::SeqCst);
                assert_eq!(at_once.fetch_add(1, Ordering::SeqCst), 0, "two openers at once");
                door.pass();
                at_once.fetch_sub(1, Ordering::SeqCst);
            }
        }),
        ..Moments::default()
    };
    let stack = Stack::new();
    stack.register_driver(Arc::new(Crc { moments }));
    stack.register(labelled(Arc::new(Anon::new(64 * MIB).unwrap()), labels()));
    stack.settle();
    let tree = stack.tree();
    let ns = allocate(&tree, "region0", 1, 16 * MIB, 512, "crc");
    tree.write("crc0.0/uuid", &uuid::Uuid::from_u128(5).to_string()).unwrap();
    tree.write("crc0.0/namespace", &ns).unwrap();
    bind(&tree, "crc0.0").unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _open = door.opened_at_end();
        let first: Vec<_> = (0..4).map(|_| scope.spawn(|| open(&stack, "crc0.0"))).collect();
        door.wait_for(1);
        std::thread::sleep(Duration::from_millis(20));
        door.open();
        for handle in first {
            write(&*handle.join().unwrap(), 0, 1).unwrap();
        }
        assert_eq!(opens.load(Ordering::SeqCst), 1);
        unbind(&tree, "crc0.0").unwrap();
        bind(&tree, "crc0.0").unwrap();
        door.close();
        let opener = scope.spawn(|| stack.open("crc0.0", &OpenOptions::default()).map(|_| ()));
        door.wait_for(1);
        let remover = scope.spawn(|| {
            let done = unbind(&tree, "crc0.0");
            assert_eq!(at_once.load(Ordering::SeqCst), 0, "unbound under an opener");
            over.store(true, Ordering::SeqCst);
            done
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(!over.load(Ordering::SeqCst));
        door.open();
        remover.join().unwrap().unwrap();
        refused(opener.join().unwrap(), Kind::Gone, &["crc0.0"]);
    });
}

/// A bus goes while a region of it is being taken apart by somebody else.
#[test]
fn s7_a_bus_goes_beside_who_unbinds_a_region_of_it() {
    let door = Door::default();
    door.open();
    let gate = door.clone();
    let media: Arc<dyn Media> = Arc::new(Anon::new(MIB).unwrap());
    let media = Hooked::new(media, move |a| {
        if a.changes && a.at == 512 * 1024 {
            gate.pass();
        }
        Ok(())
    });
    let stack = Stack::new();
    let id = stack.register(ranges([media as Arc<dyn Media>]));
    stack.settle();
    let tree = stack.tree();
    let disk = open(&stack, "namespace0.0");
    door.close();
    std::thread::scope(|scope| {
        let _open = door.opened_at_end();
        let writer = scope.spawn(|| write(&*disk, 1024, 1));
        door.wait_for(1);
        let region = scope.spawn(|| unbind(&tree, "region0"));
        while tree.entry("region0/namespace0.0").is_ok() {
            std::thread::yield_now();
        }
        let whole = scope.spawn(|| stack.unregister(id));
        std::thread::sleep(Duration::from_millis(20));
        door.open();
        writer.join().unwrap().unwrap();
        region.join().unwrap().unwrap();
        whole.join().unwrap().unwrap();
    });
    assert!(tree.list("bus/nd/devices").unwrap().is_empty());
}
