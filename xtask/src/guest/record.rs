// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask record`: has Linux and ndctl say what they make of described DIMMs, and keeps it as `fixtures/lab`, where
//! tests that have no Linux find it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde::Serialize;
use serde_json::ser::PrettyFormatter;
use serde_json::{Map, Serializer, Value, json};

use super::BOOT_LIMIT;
use super::describe::{Dimm, Lab, Made, Member, Range};
use super::lab::{BASE, Memory};
use super::qemu::{Boot, Machine};
use crate::packages::Packages;
use crate::report::{Context, Result, ensure};
use crate::unit::workspace;

const MIB: u64 = 1 << 20;
const PAGE: usize = 4096;
pub(super) const HELPERS: &str = include_str!("record.sh");

/// What is recorded: DIMMs, and what is done to them.
struct Scene {
    name: &'static str,
    lab: fn() -> Lab,
    script: &'static str,
    /// Whether the media at its end are of use.
    media: bool,
}

const SCENES: [Scene; 8] = [
    Scene {
        name: "interleaved",
        lab: interleaved,
        script: include_str!("scenes/interleaved.sh"),
        media: true,
    },
    Scene {
        name: "interleaved-1.1",
        lab: interleaved,
        script: include_str!("scenes/interleaved-1.1.sh"),
        media: true,
    },
    Scene {
        name: "plain-1.1",
        lab: || plain(192 * MIB, 128 << 10),
        script: include_str!("scenes/plain-1.1.sh"),
        media: true,
    },
    Scene {
        name: "plain-1.2",
        lab: || plain(256 * MIB, 128 << 10),
        script: include_str!("scenes/plain-1.2.sh"),
        media: true,
    },
    Scene {
        name: "blank",
        lab: || plain(128 * MIB, 128 << 10),
        script: include_str!("scenes/blank.sh"),
        media: true,
    },
    Scene {
        name: "no-labels",
        lab: || plain(128 * MIB, 0),
        script: include_str!("scenes/no-labels.sh"),
        media: true,
    },
    Scene { name: "refusals", lab: interleaved, script: include_str!("scenes/refusals.sh"), media: false },
    Scene { name: "accepted", lab: interleaved, script: include_str!("scenes/accepted.sh"), media: false },
];

/// Four DIMMs: a set of two over the first parts of two of them, and a set of four over the rest, whose order is not that of the
/// handles.
pub(crate) fn interleaved() -> Lab {
    let dimm = |n: u8| Dimm {
        handle: n.into(),
        phys_id: 0x20 + u16::from(n),
        size: 192 * MIB,
        label_size: 128 << 10,
        vendor: 0x8980,
        device: 0x0a35,
        revision: 0x0100,
        serial: 0x5a00_0041 + 0x0101_0000 * u32::from(n),
        made: Some(Made { date: 0x2018 + 0x100 * u16::from(n), location: n }),
        format: 0x0301,
    };
    let member = |turn: u64, handle, region_id, dpa| Member { handle, region_id, offset: turn * 256, dpa };
    let first = 64 * MIB;
    Lab {
        dimms: [1, 2, 3, 4].map(dimm).into(),
        ranges: vec![
            Range {
                index: 1,
                address: BASE,
                size: 2 * first,
                line_size: 256,
                members: vec![member(0, 1, 0, 0), member(1, 2, 0, 0)],
            },
            Range {
                index: 2,
                address: BASE + 2 * first,
                size: 512 * MIB,
                line_size: 256,
                members: vec![
                    member(0, 3, 0, 0),
                    member(1, 1, 1, first),
                    member(2, 4, 0, 0),
                    member(3, 2, 1, first),
                ],
            },
        ],
        capabilities: Some(2),
        replaced: true,
    }
}

/// One DIMM as QEMU describes its first.
pub(crate) fn plain(size: u64, label_size: u64) -> Lab {
    let dimm = Dimm {
        handle: 1,
        phys_id: 0,
        size,
        label_size,
        vendor: 0x8086,
        device: 1,
        revision: 1,
        serial: 0x0012_3456,
        made: None,
        format: 0x0301,
    };
    let members = vec![Member { handle: 1, region_id: 0, offset: 0, dpa: 0 }];
    let range = Range { index: 2, address: BASE, size, line_size: 256, members };
    Lab { dimms: vec![dimm], ranges: vec![range], capabilities: None, replaced: false }
}

/// Records every scene, or those named.
pub(crate) fn run(packages: &mut Packages, only: &[String]) -> Result<()> {
    let machine = super::machine(packages, "record")?;
    let top = workspace().join("fixtures/lab");
    for name in only {
        ensure(SCENES.iter().any(|scene| scene.name == name), || format!("no scene is called {name}"))?;
    }
    for scene in SCENES {
        if only.is_empty() || only.iter().any(|wanted| wanted == scene.name) {
            scene.record(&machine, &top.join(scene.name)).context(scene.name)?;
            println!("recorded {}", scene.name);
        }
    }
    Ok(())
}

impl Scene {
    fn record(&self, machine: &Machine, to: &Path) -> Result<()> {
        let lab = &(self.lab)();
        let work = tempfile::tempdir_in(&machine.folder).context(machine.folder.display())?;
        let files = lab.blank(work.path())?;
        let mut boot = Boot::default();
        lab.plug(machine, &mut boot, &files)?;
        let out = work.path().join("out");
        boot.out(&out);
        boot.script(HELPERS);
        boot.script(self.script);
        boot.script("ndctl --version >/out/ndctl; uname -r >/out/linux; dmesg >/out/dmesg; save /out");
        boot.run(machine, self.name, BOOT_LIMIT)?;

        // What the kernel said, for whoever runs the recorder.
        let _ = fs::rename(out.join("dmesg"), machine.folder.join(format!("{}.dmesg", self.name)));
        let _ = fs::remove_dir_all(to);
        fs::create_dir_all(to).context(to.display())?;
        let tries = tries(&out.join("tries"))?;
        if !tries.is_empty() {
            write_json(&to.join("commands.json"), &Value::Array(tries))?;
        }
        let said = |file: &str| -> Result<String> {
            Ok(fs::read_to_string(out.join(file)).context(file)?.trim().to_owned())
        };
        let about = json!({"linux": said("linux")?, "ndctl": said("ndctl")?, "lab": lab});
        write_json(&to.join("lab.json"), &about)?;
        for folder in names(&out)?.into_iter().filter(|name| out.join(name).is_dir() && name != "tries") {
            keep(&out.join(&folder), &to.join(&folder))?;
        }
        keep(&out, to)?;
        if self.media { media(lab, &files, to) } else { Ok(()) }
    }
}

/// Keeps the files of a state, but not empty ones.
fn keep(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).context(to.display())?;
    let mut labels = Map::new();
    for name in names(from)? {
        let bytes = match fs::read(from.join(&name)) {
            Ok(bytes) if !bytes.is_empty() => bytes,
            _ => continue,
        };
        if let Some(handle) = name.strip_prefix("read-labels-").and_then(|rest| rest.strip_suffix(".json")) {
            labels.insert(handle.to_owned(), serde_json::from_slice(&bytes).context(&name)?);
        } else if name.ends_with(".json") {
            let value: Value = serde_json::from_slice(&bytes).context(&name)?;
            write_json(&to.join(name), &value)?;
        } else if name == "sysfs.txt" {
            let to = to.join("sysfs.txt.zst");
            fs::write(&to, packed(&bytes)).context(to.display())?;
        }
    }
    if labels.is_empty() { Ok(()) } else { write_json(&to.join("read-labels.json"), &Value::Object(labels)) }
}

/// The commands that were tried, in their order.
fn tries(folder: &Path) -> Result<Vec<Value>> {
    let mut tries = Vec::new();
    for name in names(folder)? {
        let read = |file: &str| -> Result<String> {
            let bytes = fs::read(folder.join(&name).join(file)).context(format!("{name}/{file}"))?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let status: i32 = read("status")?.trim().parse().context(&name)?;
        // That a command explains all its options is a fact; its explanation is ndctl's own.
        let stderr = read("stderr")?;
        let (stderr, usage) = match stderr.split_once("\n usage: ndctl") {
            Some((before, _)) => (before, true),
            None => (stderr.as_str(), false),
        };
        tries.push(json!({
            "case": name.split_once('-').map_or(name.as_str(), |(_, case)| case),
            "argv": read("argv")?.lines().collect::<Vec<_>>(),
            "status": status,
            "stdout": read("stdout")?,
            "stderr": stderr,
            "usage": usage,
        }));
    }
    Ok(tries)
}

/// Keeps the label area of each DIMM, without the zeros at its end, and the pages of memory that are not zeros: each with
/// its guest-physical address, eight bytes little-endian, in front.
fn media(lab: &Lab, files: &[PathBuf], to: &Path) -> Result<()> {
    let mut open = Vec::new();
    for file in files {
        open.push(File::open(file).context(file.display())?);
    }
    for (dimm, file) in lab.dimms.iter().zip(&open) {
        let mut area = vec![0; usize::try_from(dimm.label_size).context("the label area")?];
        file.read_exact_at(&mut area, dimm.size).context("the label area")?;
        let used = area.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        area.truncate(used);
        if used > 0 {
            let path = to.join(format!("labels-{}.bin", dimm.handle));
            fs::write(&path, area).context(path.display())?;
        }
    }
    let memory = Memory { lab, files: &open };
    let mut pages = Vec::new();
    let mut part = vec![0; 256 * PAGE];
    // The kernel's own notes on pages, which lie between a PFN or DAX superblock and the data, mean nothing to others.
    let mut junk = 0..0;
    for range in &lab.ranges {
        let mut at = range.address;
        while at < range.address + range.size {
            memory.read(at, &mut part)?;
            for (page, bytes) in (at..).step_by(PAGE).zip(part.chunks(PAGE)) {
                if junk.contains(&page) || bytes.iter().all(|byte| *byte == 0) {
                    continue;
                }
                if bytes.starts_with(b"NVDIMM_PFN_INFO\0") || bytes.starts_with(b"NVDIMM_DAX_INFO\0") {
                    let data = bytes.get(56..64).and_then(|bytes| bytes.try_into().ok());
                    let end = (page - PAGE as u64).saturating_add(data.map_or(0, u64::from_le_bytes));
                    junk = page + PAGE as u64..end;
                }
                pages.extend(page.to_le_bytes());
                pages.extend(bytes);
            }
            at += part.len() as u64;
        }
    }
    if !pages.is_empty() {
        fs::write(to.join("pages.zst"), packed(&pages)).context(to.display())?;
    }
    Ok(())
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut text = Vec::new();
    let mut lines = Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b" "));
    value.serialize(&mut lines).context(path.display())?;
    text.push(b'\n');
    fs::write(path, text).context(path.display())
}

/// The names in a folder, sorted; none if it is not there.
fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        names.push(entry.context(folder.display())?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
