// SPDX-License-Identifier: MIT OR Apache-2.0
//! S6, R6, R7, R8: the handle is there before what it is attached to, and outlives a failure.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::as_conversions, clippy::cast_possible_truncation, reason = "sizes fit")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{MIB, allocate, bind, btt_seed, bus, contents, create, get, image, machine, refused, unbind};
use nvstack_media::{Kind, Media};
use nvstack_stack::{Stack, Tree};

/// Everything that can be read of a device.
fn state(tree: &Tree, dev: &str) -> BTreeMap<String, String> {
    let base = tree.canonical(dev).unwrap();
    let below = format!("{base}/");
    let all = tree.walk();
    let own = all.iter().filter_map(|(path, _)| path.strip_prefix(&below));
    own.map(|name| {
        (name.to_owned(), format!("{:?}", tree.read(&format!("{dev}/{name}")).map_err(|e| e.kind())))
    })
    .collect()
}

fn seeds(tree: &Tree, region: &str) -> Vec<String> {
    ["namespace", "btt", "pfn", "dax"].iter().map(|k| get(tree, &format!("{region}/{k}_seed"))).collect()
}

#[test]
fn s6_r6_every_region_has_a_seed_of_each_kind_before_anything_is_attached() {
    let (_stack, tree) = machine(64 * MIB);
    assert_eq!(seeds(&tree, "region0"), ["namespace0.0", "btt0.0", "pfn0.0", "dax0.0"]);
    // Configured with nothing to attach to, read back, configured again.
    for size in ["512", "4160", "4096"] {
        tree.write("btt0.0/sector_size", size).unwrap();
        assert!(get(&tree, "btt0.0/sector_size").contains(&format!("[{size}]")));
    }
    for n in [1, 2] {
        let uuid = uuid::Uuid::from_u128(n).to_string();
        tree.write("btt0.0/uuid", &uuid).unwrap();
        assert_eq!(get(&tree, "btt0.0/uuid"), uuid);
    }
    for (attribute, text) in [("mode", "ram"), ("align", "4096")] {
        tree.write(&format!("dax0.0/{attribute}"), text).unwrap();
        assert_eq!(get(&tree, &format!("dax0.0/{attribute}")), text);
    }
    for (attribute, text) in [("sector_size", "1024"), ("uuid", "nonsense"), ("namespace", "region0")] {
        refused(tree.write(&format!("btt0.0/{attribute}"), text), Kind::Invalid, &["btt0.0", text]);
    }
    assert_eq!(seeds(&tree, "region0"), ["namespace0.0", "btt0.0", "pfn0.0", "dax0.0"]);
}

/// Each thing that may be missing or wrong: the seed stays as it was, no byte changes, and it can be used afterwards.
#[test]
fn s6_r7_a_failed_attach_leaves_the_seed_and_every_byte() {
    let stack = Stack::new();
    let (media, other) = (image(128 * MIB), image(64 * MIB));
    stack.register(bus(&media));
    stack.register(bus(&other));
    stack.settle();
    let tree = stack.tree();
    let (bound, _) = create(&tree, "region0", "raw", 2, 16 * MIB);
    let (foreign, _) = create(&tree, "region1", "raw", 3, 16 * MIB);
    let (typed, pfn) = create(&tree, "region0", "fsdax", 4, 16 * MIB);
    let pfn = pfn.unwrap();
    unbind(&tree, &pfn).unwrap();
    tree.write(&format!("{pfn}/namespace"), "").unwrap();
    tree.write("region0/align", "4096").unwrap();
    let (small, _) = create(&tree, "region0", "raw", 5, MIB);
    unbind(&tree, &small).unwrap();
    let ns = allocate(&tree, "region0", 1, 32 * MIB, 512, "btt");
    let uuid = uuid::Uuid::from_u128(77).to_string();
    let seeds_before = seeds(&tree, "region0");
    assert_eq!(seeds_before[1], "btt0.0");

    type Step<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, Kind, &'a str);
    let cases: &[Step<'_>] = &[
        ("no uuid", &[("sector_size", "4096")], &ns, Kind::Unrecognised, "no uuid"),
        ("no sector size", &[("uuid", &uuid)], &ns, Kind::Unrecognised, "no sector_size"),
        ("no namespace", &[("uuid", &uuid), ("sector_size", "512")], "", Kind::Unrecognised, "no namespace"),
        ("bound", &[("uuid", &uuid), ("sector_size", "512")], &bound, Kind::Busy, &bound),
    ];
    for (what, stores, target, kind, word) in cases {
        for (attribute, text) in *stores {
            tree.write(&format!("btt0.0/{attribute}"), text).unwrap();
        }
        tree.write("btt0.0/namespace", target).unwrap();
        let before = (state(&tree, "btt0.0"), contents(&*media));
        let outcome = tree.write("bus/nd/drivers/nd_pmem/bind", "btt0.0");
        refused(outcome, *kind, &[word]);
        assert_eq!(state(&tree, "btt0.0"), before.0, "{what}");
        assert!(contents(&*media) == before.1, "{what}: bytes changed");
        assert_eq!(seeds(&tree, "region0"), seeds_before, "{what}");
        // Letting go starts it again.
        tree.write("btt0.0/namespace", "").unwrap();
        if !target.is_empty() {
            assert_eq!(
                (get(&tree, "btt0.0/uuid"), get(&tree, "btt0.0/namespace")),
                (String::new(), String::new())
            );
            assert_eq!(get(&tree, &format!("{target}/holder")), "");
        } else {
            tree.write("btt0.0/sector_size", "512").unwrap();
        }
    }
    // What cannot even be named as its namespace.
    tree.write("btt0.0/uuid", &uuid).unwrap();
    let before = state(&tree, "btt0.0");
    for (target, kind) in [
        (foreign.as_str(), Kind::Unrecognised),
        ("namespace0.99", Kind::Unrecognised),
        (&small, Kind::NoDevice),
        (&typed, Kind::Busy),
        ("nmem0", Kind::Invalid),
    ] {
        refused(tree.write("btt0.0/namespace", target), kind, &["btt0.0", target]);
        assert_eq!(state(&tree, "btt0.0"), before, "{target}");
    }
    // Nothing of all this has hurt it.
    tree.write("btt0.0/sector_size", "4096").unwrap();
    tree.write("btt0.0/namespace", &ns).unwrap();
    bind(&tree, "btt0.0").unwrap();
    assert_eq!(get(&tree, &format!("{ns}/mode")), "safe");
    assert_eq!(get(&tree, "region0/btt_seed"), "btt0.1");
}

#[test]
fn s6_r7_a_medium_that_fails_while_it_is_laid_out_leaves_the_seed() {
    use common::hooked::{Hooked, broken};
    use std::sync::atomic::{AtomicBool, Ordering};
    let fail = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&fail);
    let media: Arc<dyn Media> = Arc::new(nvstack_media::Anon::new(32 * MIB).unwrap());
    let media = Hooked::new(media, move |a| {
        if switch.load(Ordering::Relaxed) && a.changes && a.at > 8192 { Err(broken()) } else { Ok(()) }
    });
    let stack = Stack::new();
    stack.register(common::labelled(media, common::labels()));
    stack.settle();
    let tree = stack.tree();
    let ns = allocate(&tree, "region0", 1, 32 * MIB, 512, "btt");
    btt_seed(&tree, "btt0.0", 9, 4096, &ns);
    let before = state(&tree, "btt0.0");
    refused(tree.write("bus/nd/drivers/nd_pmem/bind", "btt0.0"), Kind::Io, &["a medium that fails"]);
    assert_eq!(state(&tree, "btt0.0"), before);
    assert_eq!(get(&tree, "region0/btt_seed"), "btt0.0");
    fail.store(false, Ordering::Relaxed);
    bind(&tree, "btt0.0").unwrap();
    assert_eq!(get(&tree, "region0/btt_seed"), "btt0.1");
}

#[test]
fn s6_r8_a_seed_that_is_used_is_replaced_by_exactly_one() {
    let (stack, tree) = machine(512 * MIB);
    let devices = |tree: &Tree| -> Vec<String> {
        tree.list("bus/nd/devices").unwrap().into_iter().map(|(name, _)| name).collect()
    };
    for (n, mode) in (1..).zip(["raw", "sector", "fsdax", "devdax", "sector"]) {
        let before = (devices(&tree), seeds(&tree, "region0"));
        let events = stack.subscribe();
        create(&tree, "region0", mode, n, 32 * MIB);
        let added: Vec<String> = devices(&tree).into_iter().filter(|d| !before.0.contains(d)).collect();
        let expected = if mode == "raw" { 1 } else { 2 };
        assert_eq!(added.len(), expected, "{mode}: {added:?}");
        let changed = seeds(&tree, "region0").iter().zip(&before.1).filter(|(a, b)| a != b).count();
        assert_eq!(changed, expected, "{mode}");
        for seed in seeds(&tree, "region0") {
            assert!(tree.read(&format!("{seed}/devtype")).is_ok(), "{seed}");
        }
        let births = common::told(&events);
        let births = births.iter().filter(|e| e.action == nvstack_stack::Action::Add && e.subsystem == "nd");
        assert_eq!(births.count(), expected, "{mode}");
    }
    // Nothing is used up by unbinding and binding again, and names stay.
    let before = (devices(&tree), seeds(&tree, "region0"));
    unbind(&tree, "btt0.0").unwrap();
    assert_eq!(get(&tree, "btt0.0/namespace"), "namespace0.1");
    bind(&tree, "btt0.0").unwrap();
    assert_eq!((devices(&tree), seeds(&tree, "region0")), before);
}
