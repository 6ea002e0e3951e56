// SPDX-License-Identifier: MIT OR Apache-2.0
//! The verbs on label areas.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::dump;
use common::fake::Fake;
use nvstack_format::label::Version;
use nvstack_ndctl::{
    EnableOptions, InitLabels, LabelOptions, Lines, ReadLabels, Sys, check_labels, disable_regions,
    init_labels, read_labels, write_labels, zero_labels,
};

fn all() -> LabelOptions {
    LabelOptions { dimms: vec!["all".into()], ..LabelOptions::default() }
}

/// A DIMM that no region uses, its label area blank.
fn idle() -> Fake {
    let fake = Fake::new(dump("sysfs-seed"));
    disable_regions(&fake, &EnableOptions::named("all"), &mut Lines::default()).unwrap();
    fake.stores();
    fake
}

#[test]
fn labels_are_made_checked_read_and_zeroed() {
    let fake = idle();
    let mut lines = Lines::default();
    assert_eq!(check_labels(&fake, &all(), &mut lines).unwrap().status, 1);
    let v1_2 = InitLabels { version: Version::V1_2, force: false };
    assert_eq!(init_labels(&fake, &all(), v1_2, &mut lines).unwrap().count, 1);
    // The driver reads them again.
    let stores = fake.stores();
    assert_eq!(stores[..3], ["nmem0@0+256", "nmem0@256+256", "nmem0/driver/unbind=nmem0"]);
    assert_eq!(stores.last().unwrap(), "nvdimm/bind=nmem0");
    assert_eq!(check_labels(&fake, &all(), &mut lines).unwrap().status, 0);
    assert_eq!(init_labels(&fake, &all(), v1_2, &mut lines).unwrap().status, 1);
    assert_eq!(
        lines.lines,
        [
            "  Error: check labels of nmem0: found no valid index block, accepted one or two",
            "successfully verified 0 nmem label",
            "initialized 1 nmem",
            "successfully verified 1 nmem label",
            "  Error: nmem0: labels already initialized: found labels of version 1.2, accepted a blank label area, or --force",
            "initialized 0 nmem",
        ]
    );

    let json = ReadLabels { json: true, ..ReadLabels::default() };
    let read = read_labels(&fake, &all(), json, &mut lines).unwrap();
    assert_eq!(
        read.json[0],
        serde_json::json!([{ "dev": "nmem0", "index": [
            { "signature": "NAMESPACE_INDEX", "major": 1, "minor": 2, "labelsize": 256, "seq": 3, "nslot": 510 },
            { "signature": "NAMESPACE_INDEX", "major": 1, "minor": 2, "labelsize": 256, "seq": 2, "nslot": 510 },
        ], "label": [
            { "uuid": "00000000-0000-0000-0000-000000000000", "name": "", "slot": 0, "position": 0, "nlabel": 0,
              "flags": 0, "isetcookie": 0, "lbasize": 0, "dpa": 0, "rawsize": 0,
              "type_guid": "00000000-0000-0000-0000-000000000000",
              "abstraction_guid": "00000000-0000-0000-0000-000000000000" }
        ]}])
    );
    let bytes = read_labels(&fake, &all(), ReadLabels::default(), &mut lines).unwrap().bytes.unwrap();
    assert_eq!(bytes, fake.labels("nmem0"));

    assert_eq!(zero_labels(&fake, &all(), &mut lines).unwrap().count, 1);
    assert!(fake.labels("nmem0").iter().all(|b| *b == 0));
    assert_eq!(write_labels(&fake, &all(), &bytes, &mut lines).unwrap().count, 1);
    assert_eq!(fake.labels("nmem0"), bytes);
    assert_eq!(lines.lines[6..], ["read 1 nmem", "read 1 nmem", "zeroed 1 nmem", "wrote 1 nmem"]);
}

#[test]
fn labels_in_use_are_not_written() {
    let fake = Fake::new(dump("sysfs-seed"));
    let mut lines = Lines::default();
    assert_eq!(zero_labels(&fake, &all(), &mut lines).unwrap().status, 1);
    let force = InitLabels { force: true, ..InitLabels::default() };
    assert_eq!(init_labels(&fake, &all(), force, &mut lines).unwrap().status, 1);
    assert_eq!(write_labels(&fake, &all(), &[1; 512], &mut lines).unwrap().status, 1);
    assert_eq!(
        lines.lines[0],
        "  Error: nmem0: regions active, abort label write: accepted a DIMM whose regions are disabled"
    );
    assert_eq!(fake.stores(), [""; 0]);
}

#[test]
fn one_bad_index_block_is_told_and_the_other_counts() {
    let fake = idle();
    let mut lines = Lines::default();
    init_labels(&fake, &all(), InitLabels::default(), &mut lines).unwrap();
    fake.label_write("nmem0", 100, &[7]).unwrap();
    assert_eq!(check_labels(&fake, &all(), &mut lines).unwrap().status, 0);
    assert_eq!(lines.lines[1], "  Warning: nmem0: index block 0 is not valid; the other counts");
}

#[test]
fn a_range_is_read_and_one_outside_refused() {
    let fake = idle();
    fake.label_write("nmem0", 1000, &[1, 2, 3]).unwrap();
    let part = LabelOptions { offset: 1000, size: Some(3), ..all() };
    let mut lines = Lines::default();
    let read = read_labels(&fake, &part, ReadLabels::default(), &mut lines).unwrap();
    assert_eq!(read.bytes.unwrap(), [1, 2, 3]);
    let outside = LabelOptions { offset: 128 << 10, size: Some(1), ..all() };
    assert_eq!(zero_labels(&fake, &outside, &mut lines).unwrap().status, 1);
    let json = ReadLabels { json: true, ..ReadLabels::default() };
    assert!(read_labels(&fake, &part, json, &mut lines).is_err());
    // A DIMM that is not there is none, and no error.
    let none = LabelOptions { dimms: vec!["nmem9".into()], ..all() };
    assert_eq!(read_labels(&fake, &none, json, &mut lines).unwrap().status, 0);
    assert_eq!(lines.lines.last().unwrap(), "read 0 nmem");
}
