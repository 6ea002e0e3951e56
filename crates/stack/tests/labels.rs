// SPDX-License-Identifier: MIT OR Apache-2.0
//! Labels through the tree: what is allocated, grown, shrunk, named and deleted, on one DIMM and on sets, and what is left.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::as_conversions, clippy::cast_possible_truncation, reason = "sizes fit")]

mod common;

use std::sync::Arc;

use common::{
    MIB, allocate, bind, contents, create, destroy, get, labelled, labels, open, read, refused, set, told,
    unbind, write,
};
use nvstack_format::label::Version;
use nvstack_label::LabelArea;
use nvstack_media::{Anon, Kind, Media, MediaOffset};
use nvstack_stack::{Action, BusSpec, Entry, OpenOptions, Stack, Tree};

/// `available_size`, `max_available_extent`, in MiB.
fn room(tree: &Tree) -> (u64, u64) {
    let number = |a: &str| get(tree, &format!("region0/{a}")).parse::<u64>().unwrap();
    (number("available_size") / MIB, number("max_available_extent") / MIB)
}

fn areas(n: usize) -> Vec<Arc<dyn Media>> {
    (0..n).map(|_| labels()).collect()
}

fn up(spec: BusSpec) -> (Stack, Tree) {
    let stack = Stack::new();
    stack.register(spec);
    stack.settle();
    let tree = stack.tree();
    (stack, tree)
}

/// Uuid, name, start in its region, size of each namespace, as another machine finds them.
fn found(spec: BusSpec) -> Vec<(String, String, String, String)> {
    let (_stack, tree) = up(spec);
    let names = tree.list("region0").unwrap().into_iter().map(|(name, _)| name);
    let mut all: Vec<_> = names
        .filter(|n| n.starts_with("namespace0."))
        .map(|n| {
            let read = |a: &str| tree.read(&format!("{n}/{a}")).unwrap_or_default().trim().to_owned();
            (read("uuid"), read("alt_name"), read("resource"), read("size"))
        })
        .filter(|n| n.3 != "0")
        .collect();
    all.sort();
    all
}

#[test]
fn labels_room_is_told_after_each_step_on_one_dimm_and_on_sets() {
    for ways in [1u32, 2, 4] {
        let w = u64::from(ways);
        let area = areas(ways as usize);
        let spec = || set(ways, 256 * MIB, &area);
        let (stack, tree) = up(spec());
        assert_eq!(get(&tree, "region0/mappings"), ways.to_string());
        assert_eq!(get(&tree, "region0/align"), "0x1000000");
        assert_eq!(get(&tree, "region0/size"), (256 * w * MIB).to_string());
        let all = 256 * w;
        assert_eq!(room(&tree), (all, all));
        let (a, _) = create(&tree, "region0", "raw", 1, 64 * MIB);
        assert_eq!(room(&tree), (all - 64, all - 64));
        let (b, _) = create(&tree, "region0", "raw", 2, 64 * MIB);
        let (c, _) = create(&tree, "region0", "raw", 3, all * MIB - 192 * MIB);
        assert_eq!(room(&tree), (64, 64));
        // What is written where: no two share a byte.
        for (byte, ns) in [(1, &a), (2, &b), (3, &c)] {
            let disk = open(&stack, ns);
            let last = disk.geometry().sectors - 1;
            write(&*disk, 0, byte).unwrap();
            write(&*disk, last, byte).unwrap();
        }
        for (byte, ns) in [(1, &a), (2, &b), (3, &c)] {
            let disk = open(&stack, ns);
            assert_eq!(read(&*disk, 0).unwrap()[0], byte, "{ways} {ns}");
            assert_eq!(read(&*disk, disk.geometry().sectors - 1).unwrap()[511], byte, "{ways} {ns}");
        }
        // Deleted in the middle: two pieces, of which the larger is told.
        destroy(&stack, &b, None);
        assert_eq!(room(&tree), (128, 64));
        // Shrunk in place, grown back; grown into what a neighbour has it is refused.
        unbind(&tree, &a).unwrap();
        tree.write(&format!("{a}/size"), &(32 * MIB).to_string()).unwrap();
        assert_eq!(room(&tree), (160, 96));
        tree.write(&format!("{a}/size"), &(128 * MIB).to_string()).unwrap();
        assert_eq!(room(&tree), (64, 64));
        refused(
            tree.write(&format!("{a}/size"), &(144 * MIB).to_string()),
            Kind::NoDevice,
            &[&a, "one piece"],
        );
        refused(tree.write(&format!("{a}/size"), &(256 * MIB).to_string()), Kind::NoSpace, &[&a]);
        assert_eq!(room(&tree), (64, 64));
        bind(&tree, &a).unwrap();
        assert_eq!(read(&*open(&stack, &a), 0).unwrap()[0], 1);
        // Every DIMM of the set has its label, and another machine finds the same.
        for area in &area {
            let area = LabelArea::open(Arc::clone(area)).unwrap();
            assert_eq!(area.slots().unwrap().len(), 2, "{ways}");
        }
        let again = found(spec());
        let sizes: Vec<String> = again.iter().map(|n| n.3.clone()).collect();
        assert_eq!(sizes, [(128 * MIB).to_string(), ((all - 192) * MIB).to_string()]);
    }
}

#[test]
fn labels_a_namespace_that_grows_stays_where_it_is() {
    let area = areas(1);
    let (stack, tree) = up(set(1, 256 * MIB, &area));
    let (below, _) = create(&tree, "region0", "raw", 1, 64 * MIB);
    let (ns, _) = create(&tree, "region0", "raw", 2, 64 * MIB);
    write(&*open(&stack, &ns), 0, 7).unwrap();
    destroy(&stack, &below, None);
    unbind(&tree, &ns).unwrap();
    // There is room for it from the start of the region on, but its bytes are in the middle.
    let size = format!("{ns}/size");
    refused(tree.write(&size, &(256 * MIB).to_string()), Kind::NoDevice, &[&ns, "one piece"]);
    tree.write(&size, &(192 * MIB).to_string()).unwrap();
    bind(&tree, &ns).unwrap();
    assert_eq!(read(&*open(&stack, &ns), 0).unwrap()[0], 7);
}

#[test]
fn labels_a_size_that_cannot_be_says_why() {
    let (_stack, tree) = up(labelled(Arc::new(Anon::new(128 * MIB).unwrap()), labels()));
    let ns = "namespace0.0";
    refused(tree.write("namespace0.0/size", "0x2000000"), Kind::NoDevice, &[ns, "uuid"]);
    refused(tree.write("namespace0.0/size", "0"), Kind::NoDevice, &[ns, "uuid"]);
    tree.write("namespace0.0/uuid", &uuid::Uuid::from_u128(1).to_string()).unwrap();
    for text in ["17000000", "0x1000001", "4096"] {
        refused(tree.write("namespace0.0/size", text), Kind::Invalid, &[ns, "16777216"]);
    }
    for text in ["", "-1", "16M", "0x", "99999999999999999999999"] {
        refused(tree.write("namespace0.0/size", text), Kind::Invalid, &[ns, "a number"]);
    }
    refused(tree.write("namespace0.0/size", &(144 * MIB).to_string()), Kind::NoSpace, &[ns, "134217728"]);
    assert_eq!(Kind::NoSpace.errno(), 28);
    assert_eq!((Kind::Invalid.errno(), Kind::NoDevice.errno()), (22, 6));
    assert_eq!(get(&tree, "namespace0.0/size"), "0");
    assert_eq!(room(&tree), (128, 128));
    tree.write("namespace0.0/size", &(128 * MIB).to_string()).unwrap();
    assert_eq!(room(&tree), (0, 0));
    // A region without space has an empty seed, and says so.
    bind(&tree, ns).unwrap();
    let seed = get(&tree, "region0/namespace_seed");
    tree.write(&format!("{seed}/uuid"), &uuid::Uuid::from_u128(2).to_string()).unwrap();
    refused(tree.write(&format!("{seed}/size"), &(16 * MIB).to_string()), Kind::NoSpace, &[&seed]);
}

#[test]
fn labels_a_uuid_is_given_once_on_a_bus() {
    let (_stack, tree) = up(labelled(Arc::new(Anon::new(128 * MIB).unwrap()), labels()));
    create(&tree, "region0", "sector", 1, 32 * MIB);
    let taken = [uuid::Uuid::from_u128(1), uuid::Uuid::from_u128(1 | 1 << 100)];
    let seed = get(&tree, "region0/namespace_seed");
    for uuid in taken {
        for dev in [seed.as_str(), "btt0.1", "pfn0.0", "dax0.0"] {
            refused(
                tree.write(&format!("{dev}/uuid"), &uuid.to_string()),
                Kind::Invalid,
                &[dev, &uuid.to_string()],
            );
            assert_eq!(get(&tree, &format!("{dev}/uuid")), "");
        }
    }
    let nil = uuid::Uuid::nil().to_string();
    for text in ["", &nil, "91755b80215749 23b8f6a1066974c539", "{91755b80-2157-4923-b8f6-a1066974c539}"] {
        refused(tree.write(&format!("{seed}/uuid"), text), Kind::Invalid, &[&seed, "uuid"]);
    }
}

#[test]
fn labels_names_of_63_bytes_are_kept_and_of_64_refused() {
    let (media, area) = (Arc::new(Anon::new(64 * MIB).unwrap()) as Arc<dyn Media>, labels());
    let (_stack, tree) = up(labelled(Arc::clone(&media), Arc::clone(&area)));
    let ns = allocate(&tree, "region0", 1, 16 * MIB, 512, "");
    let most = "n".repeat(63);
    let path = format!("{ns}/alt_name");
    tree.write(&path, &most).unwrap();
    assert_eq!(get(&tree, &path), most);
    refused(tree.write(&path, &"n".repeat(64)), Kind::Invalid, &[&ns, "63"]);
    assert_eq!(get(&tree, &path), most);
    assert_eq!(found(labelled(Arc::clone(&media), Arc::clone(&area)))[0].1, most);
    for (text, told) in [("  trimmed \n", "trimmed"), ("", ""), ("\u{e4}\u{f6}", "\u{e4}\u{f6}")] {
        tree.write(&path, text).unwrap();
        assert_eq!(get(&tree, &path), told);
        assert_eq!(found(labelled(Arc::clone(&media), Arc::clone(&area)))[0].1, told);
    }
}

#[test]
fn labels_an_area_that_is_full_refuses_by_name_and_loses_nothing() {
    let area: Arc<dyn Media> = Arc::new(Anon::new(4096).unwrap());
    LabelArea::init(Arc::clone(&area), Version::V1_2).unwrap();
    let media: Arc<dyn Media> = Arc::new(Anon::new(64 * MIB).unwrap());
    let spec = || labelled(Arc::clone(&media), Arc::clone(&area));
    let (_stack, tree) = up(spec());
    tree.write("region0/align", "4096").unwrap();
    let slots: u64 = get(&tree, "nmem0/available_slots").parse().unwrap();
    assert!((4..40).contains(&slots), "{slots}");
    for n in 0..slots {
        assert_eq!(get(&tree, "nmem0/available_slots"), (slots - n).to_string());
        create(&tree, "region0", "raw", u128::from(n) + 1, MIB);
    }
    assert_eq!(get(&tree, "nmem0/available_slots"), "0");
    let seed = get(&tree, "region0/namespace_seed");
    tree.write(&format!("{seed}/uuid"), &uuid::Uuid::from_u128(999).to_string()).unwrap();
    let before = (found(spec()), contents(&*area), room(&tree));
    refused(tree.write(&format!("{seed}/size"), &MIB.to_string()), Kind::NoSpace, &["label"]);
    assert_eq!(get(&tree, &format!("{seed}/size")), "0");
    assert_eq!((found(spec()), room(&tree)), (before.0.clone(), before.2));
    assert!(contents(&*area) == before.1);
    assert_eq!(before.0.len() as u64, slots);
    // Those that are there can be renamed, and deleted to make room.
    unbind(&tree, "namespace0.1").unwrap();
    tree.write("namespace0.1/alt_name", "renamed").unwrap();
    tree.write("namespace0.1/size", "0").unwrap();
    tree.write(&format!("{seed}/size"), &MIB.to_string()).unwrap();
    assert_eq!(found(spec()).len() as u64, slots);
}

#[test]
fn labels_deleting_leaves_number_0_and_the_seed_and_no_other() {
    let (stack, tree) = up(labelled(Arc::new(Anon::new(128 * MIB).unwrap()), labels()));
    for n in 1..=3 {
        create(&tree, "region0", "raw", n, 16 * MIB);
    }
    let events = stack.subscribe();
    destroy(&stack, "namespace0.1", None);
    assert!(tree.entry("region0/namespace0.1").is_err());
    assert!(told(&events).iter().any(|e| e.action == Action::Remove && e.name == "namespace0.1"));
    destroy(&stack, "namespace0.0", None);
    assert_eq!(get(&tree, "namespace0.0/size"), "0");
    assert_eq!(
        (get(&tree, "namespace0.0/uuid"), get(&tree, "namespace0.0/alt_name")),
        (String::new(), String::new())
    );
    assert_eq!(get(&tree, "namespace0.2/size"), (16 * MIB).to_string());
    // Made again it is a new one of an old name.
    let (ns, _) = create(&tree, "region0", "raw", 9, 16 * MIB);
    assert_eq!(ns, "namespace0.0");
}

#[test]
fn labels_a_region_and_a_dimm_that_come_back_hold_the_same() {
    for ways in [1u32, 2, 4] {
        let area = areas(ways as usize);
        let (stack, tree) = up(set(ways, 64 * MIB, &area));
        for (n, mode) in (1..).zip(["raw", "sector"]) {
            let (ns, _) = create(&tree, "region0", mode, n, 32 * MIB);
            write(&*open(&stack, &ns), 7, n as u8).unwrap();
        }
        let state = || -> Vec<String> {
            let attributes = ["uuid", "size", "mode", "resource", "holder_class", "sector_size"];
            (0..2).flat_map(|n| attributes.map(|a| get(&tree, &format!("namespace0.{n}/{a}")))).collect()
        };
        let before = state();
        for with_dimms in [false, true, false] {
            unbind(&tree, "region0").unwrap();
            assert!(tree.entry("region0/namespace0.0").is_err());
            refused(tree.read("region0/init_namespaces"), Kind::NoDevice, &["region0"]);
            if with_dimms {
                for n in 0..ways {
                    unbind(&tree, &format!("nmem{n}")).unwrap();
                    refused(tree.read(&format!("nmem{n}/available_slots")), Kind::NoDevice, &[]);
                }
                // One DIMM of the set is not enough.
                bind(&tree, "nmem0").unwrap();
                if ways > 1 {
                    refused(bind(&tree, "region0"), Kind::NoDevice, &["nmem1"]);
                }
                for n in 1..ways {
                    bind(&tree, &format!("nmem{n}")).unwrap();
                }
            }
            bind(&tree, "region0").unwrap();
            stack.settle();
            assert_eq!(state(), before, "{ways}");
            assert_eq!(get(&tree, "region0/init_namespaces"), "2/2");
            for n in 0..2u8 {
                assert_eq!(read(&*open(&stack, &format!("namespace0.{n}")), 7).unwrap()[0], n + 1);
            }
        }
    }
}

#[test]
fn labels_a_damaged_area_holds_its_namespace_back_unless_forced() {
    let (media, area) = (Arc::new(Anon::new(64 * MIB).unwrap()) as Arc<dyn Media>, labels());
    {
        let (stack, tree) = up(labelled(Arc::clone(&media), Arc::clone(&area)));
        let (ns, _) = create(&tree, "region0", "raw", 1, 32 * MIB);
        write(&*open(&stack, &ns), 0, 0x77).unwrap();
    }
    // Both index blocks lose a byte.
    for at in [60, 256 + 60] {
        let mut byte = [0];
        area.read(MediaOffset(at), &mut byte).unwrap();
        area.store(MediaOffset(at), &[byte[0] ^ 1]).unwrap();
    }
    let before = (contents(&*media), contents(&*area));
    let (stack, tree) = up(labelled(Arc::clone(&media), Arc::clone(&area)));
    assert!(
        get(&tree, "nmem0/nvstack/error").contains("index block"),
        "{}",
        get(&tree, "nmem0/nvstack/error")
    );
    let error = stack.open("namespace0.0", &OpenOptions::default()).map(|_| ());
    refused(error, Kind::NoDevice, &["namespace0.0", "index block"]);
    refused(bind(&tree, "namespace0.0"), Kind::Corrupt, &["index block"]);
    assert!(matches!(tree.entry("block/pmem0"), Err(e) if e.kind() == Kind::NotFound));
    tree.write("namespace0.0/force_raw", "1").unwrap();
    bind(&tree, "namespace0.0").unwrap();
    assert!(matches!(tree.entry("block/pmem0"), Ok(Entry::Link { .. })));
    assert_eq!(read(&*open(&stack, "namespace0.0"), 0).unwrap()[0], 0x77);
    assert!((contents(&*media), contents(&*area)) == before);
}

#[test]
fn labels_that_cannot_be_written_change_nothing_in_the_tree() {
    use common::hooked::{Hooked, broken};
    use std::sync::atomic::{AtomicBool, Ordering};
    let fail = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&fail);
    let area = Hooked::new(labels(), move |a| {
        if a.changes && switch.load(Ordering::Relaxed) { Err(broken()) } else { Ok(()) }
    });
    let (_stack, tree) = up(labelled(Arc::new(Anon::new(64 * MIB).unwrap()), area));
    let ns = allocate(&tree, "region0", 1, 32 * MIB, 512, "btt");
    let state = || {
        ["size", "alt_name", "sector_size", "holder_class", "uuid", "resource"]
            .map(|a| get(&tree, &format!("{ns}/{a}")))
    };
    let before = (state(), room(&tree));
    fail.store(true, Ordering::Relaxed);
    for (attribute, text) in [
        ("size", "0x1000000"),
        ("size", "0"),
        ("alt_name", "x"),
        ("sector_size", "4096"),
        ("holder_class", ""),
    ] {
        refused(tree.write(&format!("{ns}/{attribute}"), text), Kind::Io, &["a medium that fails"]);
        assert_eq!((state(), room(&tree)), before, "{attribute} {text}");
    }
    fail.store(false, Ordering::Relaxed);
    tree.write(&format!("{ns}/size"), "0x1000000").unwrap();
    assert_eq!(room(&tree), (48, 48));
}

/// `ndctl create-namespace -e` stores another uuid over that of a namespace that has bytes.
#[test]
fn labels_another_uuid_takes_the_place_of_the_old_one() {
    for ways in [1u32, 2] {
        let area = areas(ways as usize);
        let spec = || set(ways, 256 * MIB, &area);
        let (_stack, tree) = up(spec());
        let ns = allocate(&tree, "region0", 1, 64 * MIB, 512, "btt");
        tree.write(&format!("{ns}/alt_name"), "kept").unwrap();
        let before = (room(&tree), get(&tree, &format!("{ns}/resource")));
        let uuid = uuid::Uuid::from_u128(77).to_string();
        tree.write(&format!("{ns}/uuid"), &format!("{uuid}\0")).unwrap();
        assert_eq!((room(&tree), get(&tree, &format!("{ns}/resource"))), before);
        let all = found(spec());
        assert_eq!(all.len(), 1, "{ways} ways: {all:?}");
        assert_eq!((&all[0].0, &all[0].1), (&uuid, &"kept".to_owned()), "{ways} ways");
    }
}
