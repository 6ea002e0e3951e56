// SPDX-License-Identifier: MIT OR Apache-2.0
//! The whole ABI of the tree, as a list: what each type of device has, with mode and format. `abi.txt` beside this crate's sources
//! is that list as it was promised; a test fails on a removal or a change and passes on an addition.

use std::fmt;

use crate::model::Dev;
use crate::stack::Stack;
use crate::tree::attrs::tables;
use crate::tree::block;

/// One attribute of a type of device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AbiEntry {
    /// The type: `ndbus`, `nmem`, `region`, `namespace`, `btt`, `disk` ...
    pub device: String,
    /// The attribute, with its group.
    pub attribute: String,
    /// Its permission bits; on some devices it may have fewer, or not be there.
    pub mode: u16,
    /// What its text looks like.
    pub format: String,
}

impl fmt::Display for AbiEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\t{}\t{:04o}\t{}", self.device, self.attribute, self.mode, self.format)
    }
}

impl Stack {
    /// Every attribute of every type of device that this machine can have, sorted.
    #[must_use]
    pub fn abi(&self) -> Vec<AbiEntry> {
        let mut all = Vec::new();
        let mut add = |device: &str, attribute: &str, mode: u16, format: &str| {
            all.push(AbiEntry {
                device: device.to_owned(),
                attribute: attribute.to_owned(),
                mode,
                format: format.to_owned(),
            });
        };
        let types = [
            ("ndbus", Dev::Bus(0)),
            ("ndctl", Dev::Control(0)),
            ("nmem", Dev::Dimm(0)),
            ("region", Dev::Region(0)),
            ("namespace", Dev::Namespace(0, 0)),
        ];
        for (name, dev) in types {
            for attr in tables(dev).into_iter().flatten() {
                add(name, attr.name, attr.mode, attr.format);
            }
            add(name, "uevent", 0o644, "<KEY>=<value>, a line each");
        }
        add("region", "mapping<n>", 0o444, "<dimm>,<dpa>,<bytes>,<position>");
        for (n, driver) in self.inner.drivers().iter().enumerate() {
            let identity = driver.identity();
            if identity.in_place {
                continue;
            }
            add("region", &format!("{}_seed", identity.prefix), 0o444, "name or nothing");
            for attr in tables(Dev::Claim(0, n, 0)).into_iter().flatten() {
                if attr.name != "resource" || identity.has_resource {
                    add(identity.prefix, attr.name, attr.mode, attr.format);
                }
            }
            for own in driver.attributes() {
                add(identity.prefix, own.name, own.mode, own.format);
            }
            add(identity.prefix, "uevent", 0o644, "<KEY>=<value>, a line each");
        }
        for row in block::DISK.iter().chain([&block::DISK_BADBLOCKS, &block::WRITE_CACHE]) {
            add("disk", row.name, row.mode, row.format);
        }
        add("disk", "uevent", 0o644, "<KEY>=<value>, a line each");
        for row in &block::DAX_REGION {
            add("dax", row.name, row.mode, row.format);
        }
        for row in &block::DAX {
            add("device_dax", row.name, row.mode, row.format);
        }
        add("device_dax", "uevent", 0o644, "<KEY>=<value>, a line each");
        all.sort();
        all
    }
}
