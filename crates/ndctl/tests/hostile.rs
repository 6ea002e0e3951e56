// SPDX-License-Identifier: MIT OR Apache-2.0
//! Trees and label areas that say anything: no verb may panic, or run for ever.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::dump;
use common::fake::Fake;
use nvstack_ndctl::dump::{Dump, Entry};
use nvstack_ndctl::list::{ListOptions, list};
use nvstack_ndctl::{
    CreateOptions, EnableOptions, InjectError, LabelOptions, Lines, Mode, ReadLabels, Sys, check_labels,
    create, disable_regions, inject_error, read_labels,
};
use proptest::prelude::*;

const TEXTS: [&str; 12] = [
    "",
    "0",
    "-1",
    "0x",
    "1",
    "4097",
    "18446744073709551615",
    "0xffffffffffffffff",
    "99999999999999999999999",
    "[18446744073709551615] 0 [] ] [",
    "nmem0,18446744073709551615,18446744073709551615,18446744073709551615",
    "\u{0}é/../namespace0.0",
];

/// Every path of an attribute of the bus.
fn attributes(tree: &Dump) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = vec!["devices/LNXSYSTM:00/LNXSYBUS:00/ACPI0012:00/ndbus0".to_owned()];
    while let Some(path) = rest.pop() {
        for name in tree.list(&path).unwrap() {
            let below = format!("{path}/{name}");
            match tree.find(&below, false).unwrap().1 {
                // Nothing here reads those of disks.
                Entry::Attribute(_) if below.contains("/block/") => {}
                Entry::Attribute(_) => found.push(below),
                Entry::Directory => rest.push(below),
                Entry::Link(_) => {}
            }
        }
    }
    assert!(found.len() > 100);
    found
}

fn look(tree: &dyn Sys) {
    let all = ListOptions { verbose: 3, human: true, ..ListOptions::default() };
    assert!(list(tree, &all).unwrap().text().len() < 1 << 20);
    for mode in [Mode::Sector, Mode::Fsdax] {
        let mut o = CreateOptions { dry_run: true, mode: Some(mode), ..CreateOptions::default() };
        let _ = create(tree, &o, &mut Lines::default());
        o.reconfigure = Some("all".into());
        o.force = true;
        o.autolabel = false;
        let _ = create(tree, &o, &mut Lines::default());
    }
}

#[test]
fn no_attribute_is_believed() {
    let mut tree = dump("made-lab");
    for path in attributes(&tree) {
        let healthy = tree.find(&path, true).unwrap().1.clone();
        for text in TEXTS.into_iter().skip(7).step_by(2) {
            tree.insert(&path, Entry::Attribute(Ok(format!("{text}\n"))));
            look(&tree);
        }
        tree.insert(&path, healthy);
    }
}

#[test]
fn nor_all_of_them() {
    let healthy = dump("made-lab");
    for text in TEXTS {
        let mut tree = healthy.clone();
        for path in attributes(&healthy) {
            tree.insert(&path, Entry::Attribute(Ok(format!("{text}\n"))));
        }
        look(&tree);
        let fake = Fake::new(tree);
        let most = InjectError::Blocks { block: u64::MAX, count: u64::MAX, uninject: false };
        let _ =
            inject_error(&fake, "all", &nvstack_ndctl::Filter::default(), most, false, &mut Lines::default());
        assert!(!fake.stores().iter().any(|s| s.starts_with("inject")));
    }
}

#[test]
fn a_dump_that_is_none_names_its_line() {
    let e = Dump::parse("/sys/a|d|755|\nnonsense\n").unwrap_err();
    assert!(e.to_string().contains("line 2"), "{e}");
    let circle = Dump::parse("/sys/a|l|777|b\n/sys/b|l|777|a\n").unwrap();
    assert!(circle.read("a/size").is_err() && circle.link("a").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// An index block that says anything, and what follows it too.
    #[test]
    fn no_label_area_is_believed(
        head in proptest::collection::vec(any::<u8>(), 512..2048),
        signed in any::<bool>(),
        size in 0u8..4,
    ) {
        let fake = Fake::new(dump("sysfs-seed"));
        disable_regions(&fake, &EnableOptions::named("all"), &mut Lines::default()).unwrap();
        fake.label_write("nmem0", 0, &head).unwrap();
        if signed {
            fake.label_write("nmem0", 0, b"NAMESPACE_INDEX\0").unwrap();
            fake.label_write("nmem0", 19, &[size]).unwrap();
        }
        let o = LabelOptions { dimms: vec!["nmem0".into()], ..LabelOptions::default() };
        let json = ReadLabels { json: true, ..ReadLabels::default() };
        let mut lines = Lines::default();
        read_labels(&fake, &o, json, &mut lines).unwrap();
        let index = ReadLabels { index: true, ..ReadLabels::default() };
        prop_assert!(read_labels(&fake, &o, index, &mut lines).unwrap().bytes.unwrap().len() <= 128 << 10);
        check_labels(&fake, &o, &mut lines).unwrap();
    }
}
