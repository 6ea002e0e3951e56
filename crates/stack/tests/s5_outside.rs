// SPDX-License-Identifier: MIT OR Apache-2.0
//! S5, R5: a driver that we did not write stacks through the public interface alone. See also the crate's `examples`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::as_conversions, clippy::cast_possible_truncation, reason = "sizes fit")]

mod common;

use std::sync::Arc;

use common::outside::{CLASS, Crc};
use common::{MIB, acts, allocate, create, get, image, machine, open, read, refused, told, variable, write};
use nvstack_media::Kind;
use nvstack_stack::{Action, Stack, Tree};

/// Makes a namespace with the outside driver; gives both names.
fn create_crc(tree: &Tree, uuid: u128) -> (String, String) {
    let ns = allocate(tree, "region0", uuid, 16 * MIB, 512, "crc");
    let seed = get(tree, "region0/crc_seed");
    tree.write(&format!("{seed}/uuid"), &uuid::Uuid::from_u128(uuid | 1 << 100).to_string()).unwrap();
    tree.write(&format!("{seed}/polynomial"), "11").unwrap();
    tree.write(&format!("{seed}/namespace"), &ns).unwrap();
    common::bind(tree, &seed).unwrap();
    (ns, seed)
}

#[test]
fn s5_r5_a_driver_from_outside_has_all_that_ours_have() {
    let (stack, tree) = machine(256 * MIB);
    assert!(tree.read("region0/crc_seed").is_err());
    let events = stack.subscribe();
    stack.register_driver(Arc::new(Crc::default()));
    // A seed, at once, and where all can see it.
    assert_eq!(acts(&told(&events)), [(Action::Add, "crc0.0")]);
    assert_eq!(get(&tree, "region0/crc_seed"), "crc0.0");
    assert_eq!(get(&tree, "crc0.0/devtype"), "nd_crc");
    assert_eq!(get(&tree, "crc0.0/polynomial"), "7");
    assert!(tree.entry("bus/nd/drivers/nd_crc/bind").is_ok());
    refused(tree.write("crc0.0/polynomial", "x"), Kind::Invalid, &["crc0.0", "a number"]);

    let (ns, crc) = create_crc(&tree, 1);
    assert_eq!(get(&tree, &format!("{ns}/holder")), crc);
    assert_eq!(get(&tree, &format!("{ns}/holder_class")), "crc");
    assert_eq!(get(&tree, &format!("{ns}/mode")), "checked");
    assert_eq!(get(&tree, "region0/crc_seed"), "crc0.1");
    assert_eq!(get(&tree, "block/pmem0c/size"), ((16 * MIB - 4096) / 512).to_string());
    let events = told(&events);
    let disk = events.iter().find(|e| e.subsystem == "block").unwrap();
    assert_eq!((disk.action, disk.name.as_str()), (Action::Add, "pmem0c"));
    let bound = events.iter().find(|e| e.action == Action::Bind).unwrap();
    assert_eq!(variable(bound, "DEVTYPE"), Some("nd_crc"));
    assert_eq!(variable(bound, "DRIVER"), Some("nd_crc"));
    write(&*open(&stack, "pmem0c"), 3, 9).unwrap();

    // Nobody else may have the namespace, whose label says whose it is.
    common::unbind(&tree, &crc).unwrap();
    tree.write(&format!("{crc}/namespace"), "").unwrap();
    let btt = get(&tree, "region0/btt_seed");
    refused(tree.write(&format!("{btt}/namespace"), &ns), Kind::Busy, &[&btt, &ns, "btt"]);
}

#[test]
fn s5_its_own_is_found_again_when_the_bus_comes_back() {
    let media = image(256 * MIB);
    let stack = Stack::new();
    stack.register_driver(Arc::new(Crc::default()));
    let bus = stack.register(common::bus(&media));
    stack.settle();
    let tree = stack.tree();
    create_crc(&tree, 1);
    let (other, _) = create(&tree, "region0", "sector", 2, 16 * MIB);
    write(&*open(&stack, "namespace0.0"), 3, 9).unwrap();
    write(&*open(&stack, &other), 3, 8).unwrap();
    stack.unregister(bus).unwrap();
    stack.register(common::bus(&media));
    stack.settle();
    let holder = get(&tree, "namespace0.0/holder");
    assert!(holder.starts_with("crc0."), "{holder}");
    assert_eq!(get(&tree, &format!("{holder}/polynomial")), "11");
    assert_eq!(read(&*open(&stack, &holder), 3).unwrap()[0], 9);
    assert_eq!(read(&*open(&stack, &other), 3).unwrap()[0], 8);

    // Without the driver nobody takes it for something else, and the others come up as ever.
    let without = Stack::new();
    without.register(common::bus(&media));
    without.settle();
    let tree = without.tree();
    assert!(get(&tree, "namespace0.0/nvstack/error").contains(&CLASS.to_string()));
    refused(
        without.open("namespace0.0", &nvstack_stack::OpenOptions::default()).map(|_| ()),
        Kind::NoDevice,
        &[],
    );
    assert_eq!(read(&*open(&without, "namespace0.1"), 3).unwrap()[0], 8);
}

#[test]
fn s5_a_driver_more_changes_nothing_elsewhere() {
    let snapshot = |outside: bool| {
        let stack = Stack::new();
        if outside {
            stack.register_driver(Arc::new(Crc::default()));
        }
        stack.register(common::bus(&image(256 * MIB)));
        stack.settle();
        let tree = stack.tree();
        for (n, mode) in (1..).zip(["raw", "sector", "fsdax", "devdax"]) {
            create(&tree, "region0", mode, n, 32 * MIB);
        }
        let all = tree.walk().into_iter().filter(|(path, _)| !path.contains("crc"));
        all.map(|(path, entry)| {
            let text = tree.read(&path).map_err(|e| e.kind());
            (path, entry, text)
        })
        .collect::<Vec<_>>()
    };
    assert_eq!(snapshot(true), snapshot(false));
}
