// SPDX-License-Identifier: MIT OR Apache-2.0
//! The keys of each table.

pub(crate) const TOP: &[&str] = &["version", "bus"];
pub(crate) const BUS: &[&str] = &["provider", "dimm", "region", "range", "ram"];
pub(crate) const DIMM: &[&str] = &[
    "file",
    "memory",
    "size",
    "label-size",
    "handle",
    "phys-id",
    "serial",
    "vendor",
    "device",
    "revision",
    "subsystem-vendor",
    "subsystem-device",
    "subsystem-revision",
    "location",
    "date",
    "format",
    "family",
    "flags",
];
pub(crate) const REGION: &[&str] = &[
    "start",
    "members",
    "interleave",
    "type",
    "read-only",
    "align",
    "persistence",
    "numa-node",
    "target-node",
    "range-index",
];
pub(crate) const MEMBER: &[&str] = &["dimm", "offset", "size", "position", "region-offset"];
pub(crate) const RANGE: &[&str] = &[
    "file",
    "memory",
    "size",
    "start",
    "type",
    "read-only",
    "align",
    "persistence",
    "numa-node",
    "target-node",
    "range-index",
];
pub(crate) const RAM: &[&str] = &[
    "file",
    "memory",
    "size",
    "start",
    "read-only",
    "align",
    "persistence",
    "numa-node",
    "target-node",
    "range-index",
];

/// Every table of a lab file, by its name in TOML ("" for the file itself), and the keys that it takes. No other key is
/// taken.
pub const KEYS: &[(&str, &[&str])] = &[
    ("", TOP),
    ("bus", BUS),
    ("bus.dimm", DIMM),
    ("bus.region", REGION),
    ("bus.region.members", MEMBER),
    ("bus.range", RANGE),
    ("bus.ram", RAM),
];
