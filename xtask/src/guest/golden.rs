// SPDX-License-Identifier: MIT OR Apache-2.0
//! The harness proves itself first: the guest reads the recorded patterns from images that Linux once wrote, and notices a
//! single flipped bit. What it says about our images afterwards can be believed.

use std::ops::RangeInclusive;

use super::BOOT_LIMIT;
use super::qemu::{Boot, Machine, ndctl_says};
use crate::content::{Content, data_size};
use crate::fixtures::{recorded, unpack};
use crate::layout::{damage, data_offset};
use crate::process::{sha256, sha256_of};
use crate::report::{Context, Lane, Result, ensure};
use crate::verdict::{Verdict, note};

type Writes = &'static [(RangeInclusive<u64>, u16)];

/// Written to the images called `sec`, whose regions were zeros before; and generation 9 to their last LBA.
const SEC: Writes = &[(0..=0, 3), (1..=1, 1), (5..=12, 1), (7..=7, 6), (100..=399, 1), (200..=249, 2)];
/// Written to the images called `base`, whose regions held other things before.
const BASE: Writes = &[(0..=25, 1), (7..=7, 4), (40..=49, 5)];
const BASE_512: Writes = &[(0..=39, 1), (7..=7, 3)];

/// Images whose labels belong to different DIMMs, so that one boot holds them all.
const IMAGES: &[(&str, Writes)] = &[
    ("sec512-v1.1", SEC),
    ("sec520-v1.1", SEC),
    ("base-v1.1", BASE),
    ("sec4096-v1.2", SEC),
    ("sec4104-v1.2", SEC),
    ("sec4160-v1.1", SEC),
    ("base-nolabel", BASE),
    ("base-nolabel-512", BASE_512),
];

/// This one comes a second time with a flipped bit in a block that an LBA of the first run holds.
const DAMAGED: &str = "base-nolabel";
const FLIPPED_LBA: u64 = 20;

/// Boots all of them at once.
pub(super) fn run(lane: &mut Lane, machine: &Machine) -> Result<()> {
    let folder = tempfile::tempdir_in(&machine.folder).context(machine.folder.display())?;
    let mut boot = Boot::default();
    let mut wanted = Vec::new();
    let mut images = Vec::new();
    // The labelled ones first: the others take what places are left.
    for labelled in [true, false] {
        for (name, writes) in IMAGES {
            let about = recorded(name)?;
            if (about.label_size != 0) == labelled {
                let path = folder.path().join(name);
                unpack(&format!("golden/{name}"), &path)?;
                let n = if labelled { about.dimm } else { boot.unlabelled(&path) };
                boot.dimm(n, &path, about.label_size);
                images.push((name, path.clone(), sha256(&path)?));
                wanted.extend(script(&mut boot, name, name, writes, n)?);
            }
        }
    }
    let damaged = folder.path().join("damaged");
    unpack(&format!("golden/{DAMAGED}"), &damaged)?;
    damage(&damaged, data_offset(&damaged, FLIPPED_LBA)? + 1000)?;
    let n = boot.unlabelled(&damaged);
    script(&mut boot, "damaged", DAMAGED, BASE, n)?;

    let verdicts = boot.run(machine, "golden", BOOT_LIMIT)?;
    let (of_damaged, others): (Vec<Verdict>, Vec<Verdict>) =
        verdicts.into_iter().partition(|verdict| verdict.case.starts_with("damaged."));
    note(lane, &others, &wanted);
    lane.case("harness.notices", || {
        let seen: Vec<(&str, bool)> =
            of_damaged.iter().map(|verdict| (verdict.case.as_str(), verdict.ok)).collect();
        let as_it_should = seen == [("damaged.bind", true), ("damaged.lba0", false), ("damaged.lba40", true)];
        ensure(as_it_should, || format!("a flipped bit gave {seen:?}"))?;
        Ok("one flipped bit in one sector is seen by the comparison in the guest")
    });
    lane.case("harness.unchanged", || {
        for (name, path, before) in &images {
            ensure(sha256(path)? == *before, || format!("{name}: reading changed the image"))?;
        }
        Ok(format!("reading changed no byte of {} images", images.len()))
    });
    Ok(())
}

/// Adds the comparison of an image to the script; gives the names of its cases.
fn script(boot: &mut Boot, case: &str, image: &str, writes: Writes, n: usize) -> Result<Vec<String>> {
    let about = recorded(image)?;
    let data_size = data_size(about.sector_size);
    let mut content = Content::new(data_size, about.sectors);
    for (lbas, generation) in writes {
        content.set(lbas.clone(), *generation);
    }
    let mut wanted = vec![format!("{case}.bind")];
    boot.script(format!("if btt {case} {n} {} {data_size}; then", content.size()));
    if image.starts_with("sec") {
        content.set(content.last()..=content.last(), 9);
        let words = format!("all {} recorded sectors and the zeros between them", content.written().count());
        boot.script(format!("whole {case}.whole '{words}' {}", content.sha256()?));
        wanted.push(format!("{case}.whole"));
    } else {
        for (first, bytes) in content.runs() {
            let count = bytes.len() / data_size;
            let range = format!("{case}.lba{first}");
            let digest = sha256_of(&bytes)?;
            boot.script(format!(
                "range {range} 'the patterns of {count} sectors' {data_size} {first} {count} {digest}"
            ));
            wanted.push(range);
        }
    }
    if about.label_size != 0 {
        boot.script(format!("check {case}.check-namespace {}", ndctl_says(about.sector_size)));
        wanted.push(format!("{case}.check-namespace"));
    }
    boot.script("fi");
    Ok(wanted)
}
