// SPDX-License-Identifier: MIT OR Apache-2.0
//! S8, R10: nothing is opaque. All of it stands in one tree, below its parent, and is told by events.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::as_conversions, clippy::cast_possible_truncation, reason = "sizes fit")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{MIB, acts, bus, create, get, image, machine, open, refused, told, unbind, variable, write};
use nvstack_media::Kind;
use nvstack_stack::{Action, Entry, Event, Stack};

#[test]
fn s8_r10_every_object_stands_below_its_parent_and_nowhere_else() {
    let stack = Stack::new();
    for _ in 0..2 {
        stack.register(bus(&image(128 * MIB)));
    }
    stack.settle();
    let tree = stack.tree();
    for region in ["region0", "region1"] {
        for (n, mode) in (1..).zip(["raw", "sector", "devdax"]) {
            create(
                &tree,
                region,
                mode,
                n + 10 * u128::from(region == "region1"),
                16 * MIB + 16 * MIB * u64::from(mode == "devdax"),
            );
        }
    }
    let walk: BTreeMap<String, Entry> = tree.walk().into_iter().collect();
    let provider = "devices/LNXSYSTM:00/LNXSYBUS:00/ACPI0012:00";
    let mut found = 0;
    for (name, entry) in tree.list("bus/nd/devices").unwrap() {
        let Entry::Link { target } = entry else { panic!("{name}") };
        let (parent, own) = target.rsplit_once('/').unwrap();
        assert_eq!(own, name);
        let number = name.trim_start_matches(|c: char| !c.is_ascii_digit());
        let number = number.split('.').next().unwrap();
        let expected = match name.trim_end_matches(|c: char| c.is_ascii_digit()) {
            "ndbus" => provider.to_owned(),
            "nmem" | "region" => format!("{provider}/ndbus{number}"),
            _ => format!("{provider}/ndbus{number}/region{number}"),
        };
        assert_eq!(parent, expected, "{name}");
        assert_eq!(walk[&target], Entry::Dir, "{name}");
        assert_eq!(tree.canonical(&name).unwrap(), target);
        found += 1;
    }
    assert_eq!(found, 2 * (3 + 4 + 2 + 3), "{walk:#?}");
    // A device has one place; a path through another's directory leads nowhere.
    for path in [
        "region0/nmem0/devtype".to_owned(),
        "region0/region0/size".to_owned(),
        "region0/namespace1.0/size".to_owned(),
        "ndbus0/namespace0.0/size".to_owned(),
        "ndbus0/region1/size".to_owned(),
        format!("{provider}/ndbus1/region0/size"),
        format!("{provider}/ndbus0/btt0.0/size"),
    ] {
        refused(tree.read(&path), Kind::NotFound, &[&path]);
        assert!(tree.entry(&path).is_err(), "{path}");
    }
    // What is listed is there, and links lead somewhere.
    for (path, entry) in &walk {
        match entry {
            Entry::Dir => assert!(tree.list(path).is_ok(), "{path}"),
            Entry::Link { target } => assert!(walk.contains_key(target), "{path} -> {target}"),
            Entry::Attribute { mode } => {
                if let Err(error) = tree.read(path) {
                    let known = if mode & 0o444 == 0 { Kind::Permission } else { Kind::NoDevice };
                    assert_eq!(error.kind(), known, "{path}: {error}");
                }
            }
        }
    }
}

fn find<'a>(events: &'a [Event], action: Action, name: &str) -> &'a Event {
    events
        .iter()
        .find(|e| e.action == action && e.name == name)
        .unwrap_or_else(|| panic!("no {action} {name} in {:?}", acts(events)))
}

#[test]
fn s8_events_carry_what_uevents_carry() {
    let stack = Stack::new();
    let events = stack.subscribe();
    let media = image(128 * MIB);
    let id = stack.register(bus(&media));
    stack.settle();
    let tree = stack.tree();
    create(&tree, "region0", "sector", 1, 32 * MIB);
    unbind(&tree, "btt0.0").unwrap();
    stack.unregister(id).unwrap();
    let events = told(&events);
    assert!(events.iter().zip(1..).all(|(e, n)| e.sequence == n), "SEQNUM counts by one");
    let prefix = "/devices/LNXSYSTM:00/LNXSYBUS:00/ACPI0012:00/ndbus0";
    for (name, path, devtype, driver, modalias) in [
        ("ndbus0", "", None, "nd_bus", "nd:t0"),
        ("nmem0", "/nmem0", Some("nvdimm"), "nvdimm", "nd:t1"),
        ("region0", "/region0", Some("nd_pmem"), "nd_region", "nd:t2"),
        ("btt0.0", "/region0/btt0.0", Some("nd_btt"), "nd_pmem", "nd:t5"),
    ] {
        let (add, bind) = (find(&events, Action::Add, name), find(&events, Action::Bind, name));
        assert!(add.sequence < bind.sequence, "{name}");
        for event in [add, bind] {
            assert_eq!(event.devpath, format!("{prefix}{path}"));
            assert_eq!(event.subsystem, "nd");
            assert_eq!(
                variable(event, "DEVTYPE"),
                devtype.or(variable(event, "DEVTYPE").filter(|t| t.is_empty())),
                "{name}"
            );
            assert_eq!(variable(event, "MODALIAS"), Some(modalias), "{name}");
        }
        assert_eq!(variable(bind, "DRIVER"), Some(driver), "{name}");
    }
    let nmem = find(&events, Action::Add, "nmem0");
    assert_eq!(variable(nmem, "DEVNAME"), Some("nmem0"));
    assert!(variable(nmem, "MAJOR").is_some() && variable(nmem, "MINOR").is_some());
    // A parent comes before its children.
    for (parent, child) in
        [("ndbus0", "nmem0"), ("ndbus0", "region0"), ("region0", "namespace0.0"), ("region0", "btt0.0")]
    {
        assert!(find(&events, Action::Add, parent).sequence < find(&events, Action::Add, child).sequence);
    }
    // The disk comes and goes with the driver.
    for action in [Action::Add, Action::Remove] {
        let disk = find(&events, action, "pmem0s");
        assert_eq!(disk.devpath, format!("{prefix}/region0/btt0.0/block/pmem0s"));
        assert_eq!(disk.subsystem, "block");
        for (key, value) in [("DEVNAME", "pmem0s"), ("DEVTYPE", "disk"), ("MAJOR", "259")] {
            assert_eq!(variable(disk, key), Some(value));
        }
        assert!(variable(disk, "MINOR").is_some());
    }
    assert_eq!(events.iter().filter(|e| e.name == "pmem0s").count(), 2);
    // Each that was added was removed, once.
    for event in events.iter().filter(|e| e.action == Action::Add) {
        let removed = events.iter().filter(|e| e.action == Action::Remove && e.devpath == event.devpath);
        assert_eq!(removed.count(), 1, "{}", event.name);
    }
}

#[test]
fn s8_what_the_uevent_file_says_is_what_the_event_said() {
    let (stack, tree) = machine(64 * MIB);
    create(&tree, "region0", "sector", 1, 32 * MIB);
    let events = stack.subscribe();
    for name in ["nmem0", "region0", "namespace0.0", "btt0.0"] {
        tree.write(&format!("{name}/uevent"), "change").unwrap();
        let event = told(&events).pop().unwrap();
        let said: String = event.variables.iter().map(|(k, v)| format!("{k}={v}\n")).collect();
        assert_eq!((event.action, said), (Action::Change, tree.read(&format!("{name}/uevent")).unwrap()));
    }
}

#[test]
fn s8_who_polls_for_bad_blocks_is_woken_when_they_come_and_when_they_go() {
    let (stack, tree) = machine(64 * MIB);
    create(&tree, "region0", "raw", 1, 32 * MIB);
    let disk = open(&stack, "namespace0.0");
    let limit = Duration::from_secs(20);
    let attributes = ["region0/badblocks", "block/pmem0/badblocks"];
    type Step<'a> = (&'a str, Box<dyn Fn() + 'a>, &'a str);
    let steps: Vec<Step<'_>> = vec![
        ("injected", Box::new(|| stack.inject_error("region0", 8 * 512, 1024).unwrap()), "8 2\n"),
        ("cleared", Box::new(|| stack.clear_error("region0", 8 * 512, 512).unwrap()), "9 1\n"),
        (
            "told by the disk",
            Box::new(|| tree.write("block/pmem0/badblocks", "100 2").unwrap()),
            "9 1\n100 2\n",
        ),
        ("healed by a write", Box::new(|| write(&*disk, 9, 1).unwrap()), "100 2\n"),
    ];
    for (what, step, text) in steps {
        let events = stack.subscribe();
        let seen = attributes.map(|a| stack.poll(a, None, limit));
        std::thread::scope(|scope| {
            let waiting: Vec<_> = attributes
                .iter()
                .zip(seen)
                .map(|(a, seen)| {
                    (
                        a,
                        seen,
                        scope.spawn({
                            let stack = &stack;
                            move || stack.poll(a, Some(seen), limit)
                        }),
                    )
                })
                .collect();
            step();
            for (attribute, seen, thread) in waiting {
                assert!(thread.join().unwrap() > seen, "{what}: {attribute}");
            }
        });
        for attribute in attributes {
            assert_eq!(tree.read(attribute).unwrap(), text, "{what}: {attribute}");
        }
        let change = told(&events).into_iter().find(|e| e.action == Action::Change).unwrap();
        assert_eq!((change.name.as_str(), variable(&change, "ATTRIBUTE")), ("region0", Some("badblocks")));
    }
    // A write beside them tells nothing.
    let seen = stack.poll(attributes[0], None, limit);
    write(&*disk, 20, 1).unwrap();
    assert_eq!(stack.poll(attributes[0], None, limit), seen);
    assert_eq!(get(&tree, "namespace0.0/nvstack/badblocks"), "100 2");
}
