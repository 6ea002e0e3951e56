// SPDX-License-Identifier: MIT OR Apache-2.0
//! S11, R3, R4, R19: one holder. While there is one nobody else reaches the bytes, but by `force_raw`, which excludes the holder.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::as_conversions, clippy::cast_possible_truncation, reason = "sizes fit")]

mod common;

use std::sync::Arc;

use common::{
    MIB, allocate, bind, bus, contents, create, get, image, labelled, labels, machine, open, read, refused,
    unbind, write,
};
use nvstack_media::{Anon, Kind, Media, MediaOffset};
use nvstack_stack::{Entry, OpenOptions, Stack, Tree};

/// Names of all disks in the tree.
fn disks(tree: &Tree) -> Vec<String> {
    tree.list("block").unwrap().into_iter().map(|(name, _)| name).collect()
}

#[test]
fn s11_r3_a_second_holder_is_refused() {
    let (_stack, tree) = machine(64 * MIB);
    let ns = allocate(&tree, "region0", 1, 32 * MIB, 512, "");
    tree.write("btt0.0/namespace", &ns).unwrap();
    assert_eq!(get(&tree, &format!("{ns}/holder")), "btt0.0");
    for other in ["pfn0.0", "dax0.0"] {
        refused(tree.write(&format!("{other}/namespace"), &ns), Kind::Busy, &[other, &ns, "btt0.0"]);
        assert_eq!(get(&tree, &format!("{other}/namespace")), "");
    }
    // One that holds takes no second one, and what is held has no driver of its own.
    refused(tree.write("btt0.0/namespace", &ns), Kind::Busy, &["btt0.0"]);
    refused(bind(&tree, &ns), Kind::NoDevice, &[&ns, "btt0.0"]);
    tree.write("btt0.0/namespace", "").unwrap();
    assert_eq!(get(&tree, &format!("{ns}/holder")), "");
    tree.write("pfn0.0/namespace", &ns).unwrap();
    assert_eq!(get(&tree, &format!("{ns}/holder")), "pfn0.0");
}

#[test]
fn s11_r4_while_it_is_held_there_is_no_other_disk_of_it() {
    let (stack, tree) = machine(128 * MIB);
    let (ns, btt) = create(&tree, "region0", "sector", 1, 32 * MIB);
    let btt = btt.unwrap();
    assert_eq!(disks(&tree), ["pmem0s"]);
    // Its own name leads to the holder's disk, and the raw one's nowhere.
    assert!(open(&stack, &ns).bytes().is_err());
    refused(stack.open("pmem0", &OpenOptions::default()).map(|_| ()), Kind::NotFound, &["pmem0"]);
    refused(bind(&tree, &ns), Kind::NoDevice, &[&btt]);
    // Not while it is held and unbound either, forced or not.
    unbind(&tree, &btt).unwrap();
    assert!(disks(&tree).is_empty());
    for force in ["0", "1"] {
        tree.write(&format!("{ns}/force_raw"), force).unwrap();
        refused(bind(&tree, &ns), Kind::NoDevice, &[&btt]);
    }
    // force_raw, with the holder let go, is the one way round.
    tree.write(&format!("{btt}/namespace"), "").unwrap();
    bind(&tree, &ns).unwrap();
    assert_eq!(disks(&tree), ["pmem0"]);
    let raw = open(&stack, &ns);
    assert_eq!(read(&*raw, 0).unwrap()[..14], *b"BTT_ARENA_INFO");
    // And it excludes the holder.
    let seed = get(&tree, "region0/btt_seed");
    let _ = tree.write(&format!("{seed}/namespace"), &ns);
    refused(bind(&tree, &seed), Kind::Busy, &[&seed, &ns]);
    assert_eq!(disks(&tree), ["pmem0"]);
    let _ = tree.write(&format!("{seed}/namespace"), "");
    // Back again.
    unbind(&tree, &ns).unwrap();
    tree.write(&format!("{ns}/force_raw"), "0").unwrap();
    refused(bind(&tree, &ns), Kind::NoDevice, &["comes up as btt0."]);
    assert_eq!(disks(&tree), ["pmem0s"]);
    refused(read(&*raw, 0), Kind::Gone, &[&ns]);
}

/// Every attribute of what is bound that takes stores refuses them, but for those that are meant to be changed in use.
#[test]
fn s11_what_has_a_driver_or_a_holder_is_not_configured() {
    let (_stack, tree) = machine(256 * MIB);
    let mut checked = 0;
    for (n, mode) in (1..).zip(["raw", "sector", "fsdax", "devdax"]) {
        let (ns, claim) = create(&tree, "region0", mode, n, 32 * MIB);
        for dev in [Some(&ns), claim.as_ref()].into_iter().flatten() {
            for (name, entry) in tree.list(dev).unwrap() {
                let Entry::Attribute { mode: 0o644 } = entry else { continue };
                if ["force_raw", "uevent"].contains(&name.as_str()) {
                    continue;
                }
                let path = format!("{dev}/{name}");
                let before = get(&tree, &path);
                // A text that would be taken otherwise, and another one than what stands there.
                let text = match name.as_str() {
                    "uuid" => uuid::Uuid::from_u128(0xffff).to_string(),
                    "size" => "0".into(),
                    "alt_name" => "other".into(),
                    "sector_size" => "512".into(),
                    "holder_class" => "btt".into(),
                    "mode" => "ram".into(),
                    "align" => "4096".into(),
                    "namespace" => String::new(),
                    other => panic!("{path}: {other} is new: say here what it takes"),
                };
                refused(tree.write(&path, &text), Kind::Busy, &[dev]);
                assert_eq!(get(&tree, &path), before);
                checked += 1;
            }
            if dev.starts_with("namespace") {
                tree.write(&format!("{dev}/force_raw"), "1").unwrap();
                tree.write(&format!("{dev}/force_raw"), "0").unwrap();
            }
        }
        // A claim without its driver leaves the namespace held: no less busy.
        if let Some(claim) = &claim {
            unbind(&tree, claim).unwrap();
            for (attribute, text) in [("size", "0"), ("alt_name", "x"), ("holder_class", "")] {
                refused(tree.write(&format!("{ns}/{attribute}"), text), Kind::Busy, &[&ns]);
            }
            bind(&tree, claim).unwrap();
        }
    }
    assert_eq!(checked, 4 * 5 + 3 + 4 + 4);
    refused(bind(&tree, "namespace0.0"), Kind::Busy, &["namespace0.0"]);
    refused(bind(&tree, "btt0.0"), Kind::Busy, &["btt0.0"]);
}

#[test]
fn s11_r19_a_btt_of_another_parent_is_not_attached() {
    // The bytes of a namespace with a BTT, copied below a label with another uuid.
    let (media, area) = (Arc::new(Anon::new(32 * MIB).unwrap()) as Arc<dyn Media>, labels());
    let stack = Stack::new();
    let id = stack.register(labelled(Arc::clone(&media), area));
    stack.settle();
    create(&stack.tree(), "region0", "sector", 1, 32 * MIB);
    write(&*open(&stack, "btt0.0"), 3, 9).unwrap();
    stack.unregister(id).unwrap();
    let bytes = contents(&*media);

    let copy: Arc<dyn Media> = Arc::new(Anon::new(32 * MIB).unwrap());
    stack.register(labelled(Arc::clone(&copy), labels()));
    stack.settle();
    let tree = stack.tree();
    let ns = allocate(&tree, "region0", 2, 32 * MIB, 512, "btt");
    copy.store(MediaOffset(0), &bytes).unwrap();
    assert!(bind(&tree, &ns).is_err());
    // Neither attached nor taken for a raw one.
    assert_eq!(get(&tree, &format!("{ns}/holder")), "");
    assert!(disks(&tree).is_empty());
    let error = get(&tree, &format!("{ns}/nvstack/error"));
    assert!(error.contains("parent_uuid"), "{error}");
    assert!(contents(&*copy) == bytes);
    // By name it can be looked at.
    tree.write(&format!("{ns}/force_raw"), "1").unwrap();
    bind(&tree, &ns).unwrap();
    assert_eq!(read(&*open(&stack, &ns), 0).unwrap()[..14], *b"BTT_ARENA_INFO");
    assert!(contents(&*copy) == bytes);
}

#[test]
fn s11_one_holder_among_many_who_ask_at_once() {
    let stack = Stack::new();
    stack.register(bus(&image(64 * MIB)));
    stack.settle();
    let tree = stack.tree();
    let ns = allocate(&tree, "region0", 1, 32 * MIB, 512, "");
    for _ in 0..200 {
        let won: Vec<&str> = std::thread::scope(|scope| {
            let all: Vec<_> = ["btt0.0", "pfn0.0", "dax0.0"]
                .map(|seed| {
                    (
                        seed,
                        scope.spawn({
                            let (tree, ns) = (&tree, &ns);
                            move || tree.write(&format!("{seed}/namespace"), ns)
                        }),
                    )
                })
                .into_iter()
                .collect();
            all.into_iter().filter_map(|(seed, t)| t.join().unwrap().is_ok().then_some(seed)).collect()
        });
        assert_eq!(won.len(), 1, "{won:?}");
        assert_eq!(get(&tree, &format!("{ns}/holder")), won[0]);
        tree.write(&format!("{}/namespace", won[0]), "").unwrap();
    }
}
