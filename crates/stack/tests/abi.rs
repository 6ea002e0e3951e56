// SPDX-License-Identifier: MIT OR Apache-2.0
//! S10: the tree is an ABI. It is compared with the list of what was promised, and with what a real Linux showed in each mode.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{MIB, create, destroy, get, machine, unbind};
use nvstack_stack::{Entry, Stack, Tree};

/// A line of a dump: type, mode, content or target.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    kind: char,
    mode: String,
    text: String,
}

/// What Linux adds to every device for its own use, or tells of itself, and what block devices have that is no NVDIMM's.
fn foreign(path: &str) -> bool {
    let kernel_only = [
        "/power/",
        "/power",
        "/parameters",
        "/holders",
        "/coresize",
        "/initsize",
        "/refcnt",
        "/taint",
        "/module/nfit",
        "/new_id",
        "/remove_id",
        "mapping0/uevent",
    ];
    let block = [
        "alignment_offset",
        "bdi",
        "capability",
        "discard_alignment",
        "diskseq",
        "events",
        "events_async",
        "events_poll_msecs",
        "ext_range",
        "inflight",
        "integrity",
        "slaves",
        "stat",
        "trace",
    ];
    let queue = [
        "dax",
        "hw_sector_size",
        "logical_block_size",
        "minimum_io_size",
        "physical_block_size",
        "rotational",
    ];
    kernel_only.iter().any(|part| path.contains(part))
        || (path.contains("/module/") && (path.ends_with("/uevent") || path.contains("/drivers")))
        || path.split_once("/queue/").is_some_and(|(_, name)| !queue.contains(&name))
        || path.split_once("/block/pmem").is_some_and(|(_, rest)| {
            rest.split_once('/').is_some_and(|(_, name)| block.contains(&name.split('/').next().unwrap()))
        })
        // In the root of the tree there is more than was dumped.
        || !path.starts_with("/sys/") || path == "/sys/bus" || path == "/sys/class"
}

/// A dump of Linux's.
fn dump(mode: &str) -> BTreeMap<String, Line> {
    let path = format!("{}/../../fixtures/sysfs/sysfs-{mode}.txt", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.splitn(4, '|');
        let (path, kind, mode) = (fields.next().unwrap(), fields.next().unwrap(), fields.next().unwrap());
        let text = fields.next().unwrap_or("").to_owned();
        if foreign(path) {
            continue;
        }
        let kind = kind.chars().next().unwrap();
        let text = if kind == 'l' { resolve(path, &text) } else { text };
        found.insert(path.to_owned(), Line { kind, mode: mode.to_owned(), text });
    }
    found
}

/// A relative link target, from `/sys` on.
fn resolve(path: &str, target: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

/// The same of ours.
fn ours(tree: &Tree) -> BTreeMap<String, Line> {
    let mut found = BTreeMap::new();
    for (path, entry) in tree.walk() {
        let line = match entry {
            Entry::Dir => Line { kind: 'd', mode: "755".into(), text: String::new() },
            Entry::Link { target } => Line { kind: 'l', mode: "777".into(), text: format!("/sys/{target}") },
            Entry::Attribute { mode } => {
                let text = match tree.read(&path) {
                    Ok(text) => text.replace('\n', "\\n"),
                    Err(e) => format!("<ERR:{}>", std::io::Error::from_raw_os_error(e.kind().errno()))
                        .replace(&format!(" (os error {})", e.kind().errno()), ""),
                };
                Line { kind: 'f', mode: format!("{mode:o}"), text }
            }
        };
        found.insert(format!("/sys/{path}"), line);
    }
    found
}

/// Identities differ from run to run.
fn mask(path: &str, line: &mut Line) {
    if path.ends_with("/uuid") && line.text.len() > 36 {
        line.text = "<uuid>".into();
    }
    if path.ends_with("/uevent") {
        line.text =
            line.text.split("\\n").filter(|l| !l.starts_with("DISKSEQ=")).collect::<Vec<_>>().join("\\n");
    }
    // Minors count from 0 over whatever had one.
    if path.contains("/block/") || path.contains("/dax0.0/dax0.0/") {
        line.text = line.text.replace("259:0", "<dev>").replace("253:0", "<dev>");
    }
}

fn compare(mode: &str, tree: &Tree) {
    let (mut linux, mut here) = (dump(mode), ours(tree));
    let mut wrong = Vec::new();
    for (path, line) in &mut linux {
        mask(path, line);
        match here.get_mut(path) {
            None => wrong.push(format!("missing   {path} {line:?}")),
            Some(mine) => {
                mask(path, mine);
                if mine != line {
                    wrong.push(format!("different {path}\n    linux {line:?}\n    ours  {mine:?}"));
                }
            }
        }
    }
    // What we have and Linux has not is ours by name.
    for path in here.keys() {
        if !linux.contains_key(path) && !foreign(path) && !path.contains("/nvstack") && !is_addition(path) {
            wrong.push(format!("added     {path}"));
        }
    }
    assert!(wrong.is_empty(), "{mode}: {} differences from Linux\n{}", wrong.len(), wrong.join("\n"));
}

/// Directories that the dumps leave out.
fn is_addition(path: &str) -> bool {
    let left_out = [
        "/sys/devices",
        "/sys/dev",
        "/sys/block",
        "/sys/class/block",
        "/sys/module",
        "/sys/bus/dax",
        "/sys/devices/LNXSYSTM:00",
        "/sys/devices/LNXSYSTM:00/LNXSYBUS:00",
        "/sys/devices/LNXSYSTM:00/LNXSYBUS:00/ACPI0012:00",
        "/sys/dev/block",
        "/sys/dev/char",
        "/sys/module/libnvdimm",
        "/sys/module/libnvdimm/initstate",
    ];
    left_out.contains(&path)
}

#[test]
fn s10_an_empty_machine_has_the_tree_that_linux_has() {
    let (_stack, tree) = machine(256 * MIB);
    // The dump of the seed state was made before the objects were listed: the bus alone.
    let linux = dump("seed");
    let here = ours(&tree);
    for path in linux.keys() {
        assert!(here.contains_key(path), "{path}");
    }
    assert_eq!(get(&tree, "region0/namespace_seed"), "namespace0.0");
    assert_eq!(get(&tree, "region0/btt_seed"), "btt0.0");
}

/// The dumps were made one after the other on one machine, so the seeds have come further in the later ones.
#[test]
fn s10_each_mode_has_the_tree_that_linux_has() {
    let (stack, tree) = machine(256 * MIB);
    for (n, mode) in (7u128..).zip(["raw", "sector", "fsdax", "devdax"]) {
        let (ns, claim) = create(&tree, "region0", mode, n, 64 * MIB);
        if mode == "raw" {
            // A namespace that is bound takes no name.
            unbind(&tree, &ns).unwrap();
            tree.write(&format!("{ns}/alt_name"), "myraw\0").unwrap();
            common::bind(&tree, &ns).unwrap();
        }
        compare(mode, &tree);
        if mode == "devdax" {
            let claim = claim.unwrap();
            unbind(&tree, &claim).unwrap();
            tree.write(&format!("{claim}/namespace"), "\n\0").unwrap();
            compare("devdax-disabled", &tree);
        } else {
            destroy(&stack, &ns, claim.as_deref());
        }
    }
}

/// Removals and changes break who reads the tree; additions do not.
#[test]
fn s10_r17_what_was_promised_is_still_there() {
    let path = format!("{}/abi.txt", env!("CARGO_MANIFEST_DIR"));
    let now: BTreeSet<String> = Stack::new().abi().iter().map(ToString::to_string).collect();
    if std::env::var_os("NVSTACK_WRITE_ABI").is_some() {
        let head =
            "# The attributes of the tree: device, attribute, mode, format. Promised: additions only.\n";
        let body: String = now.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(&path, format!("{head}{body}")).unwrap();
    }
    let promised = std::fs::read_to_string(path).unwrap();
    let promised: BTreeSet<String> =
        promised.lines().filter(|l| !l.starts_with('#')).map(str::to_owned).collect();
    let broken: Vec<&String> = promised.difference(&now).collect();
    assert!(broken.is_empty(), "removed or changed: {broken:#?}");
    let unlisted: Vec<&String> = now.difference(&promised).collect();
    assert!(unlisted.is_empty(), "added but not listed in abi.txt: {unlisted:#?}");
}
