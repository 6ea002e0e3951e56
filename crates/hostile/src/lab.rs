// SPDX-License-Identifier: MIT OR Apache-2.0
//! LAB.toml.

use nvstack_lab::Lab;
use nvstack_media::Kind;

/// Keys, and what stands beside them.
pub(crate) const WORDS: &[&str] = &[
    "[[bus]]\n",
    "[[bus.dimm]]\n",
    "[[bus.region]]\n",
    "[[bus.range]]\n",
    "[[bus.ram]]\n",
    "dimm = ",
    "region = ",
    "range = ",
    "ram = ",
    "memory = ",
    "file = ",
    "size = ",
    "label-size = ",
    "members = ",
    "interleave = ",
    "offset = ",
    "region-offset = ",
    "start = ",
    "'64M'",
    "'128K'",
    "'16777215T'",
    "[0, 1]",
    "[{ ",
    " }]",
    "0x",
    "18446744073709551615",
    "true",
    "\"\"\"",
    "'concat'",
    "serial = ",
    "handle = ",
    "flags = ",
    "manufacturing = ",
    "read-only = ",
    "kind = ",
    "numa-node = ",
    "'",
    "\n",
    ", ",
    "1e400",
];

/// Any text: a lab, or an error with a place in the text.
pub fn lab_text(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Err(e) = Lab::parse(&text, "lab.toml") else { return };
    assert_eq!(e.kind(), Kind::Invalid, "{e}");
    let told = e.to_string();
    let mut place =
        told.strip_prefix("lab.toml:").unwrap_or_else(|| panic!("no place: {told}")).splitn(3, ':');
    let mut number =
        || place.next().and_then(|n| n.parse::<usize>().ok()).unwrap_or_else(|| panic!("no place: {told}"));
    let (line, column) = (number(), number());
    let lines: Vec<&str> = text.split('\n').collect();
    let there = line
        .checked_sub(1)
        .and_then(|line| lines.get(line))
        .unwrap_or_else(|| panic!("no such line: {told}"));
    assert!((1..=there.chars().count() + 1).contains(&column), "no such column: {told}");
}
