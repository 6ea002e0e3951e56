// SPDX-License-Identifier: MIT OR Apache-2.0
//! Images of ours in the hands of Linux: it reads what we wrote, ndctl finds them sound, it writes, and we read that.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::combo::{Combo, Image, SMALL};
use super::qemu::{Boot, CPUS, Machine, ndctl_says};
use super::{BOOT_LIMIT, ext4};
use crate::content::Content;
use crate::layout::changes;
use crate::nbd::client::{Client, FUA};
use crate::process::{command, sha256, succeed};
use crate::report::{Context, Lane, Result, ensure};
use crate::verdict::note;

const COPY_LIMIT: Duration = Duration::from_secs(120);

/// An image and what its device holds.
struct Filled {
    image: Image,
    content: Content,
}

/// Runs the checks of reading, and then of writing, for all kinds of image. The second boot also holds the file systems.
pub(super) fn run(lane: &mut Lane, machine: &Machine, bin: &Path) -> Result<()> {
    let folder = tempfile::tempdir_in(&machine.folder).context(machine.folder.display())?;
    let mut filled = Vec::new();
    for (n, combo) in Combo::all().into_iter().enumerate() {
        lane.case(format!("{}.fill", combo.name()), || {
            let image = Image::create(bin, folder.path(), combo, n + 1, SMALL)?;
            let content = fill(bin, folder.path(), &image)?;
            let words = format!("{} sectors written through the server", content.written().count());
            filled.push(Filled { image, content });
            Ok(words)
        });
    }
    read(lane, machine, &filled)?;

    let mut boot = Boot::default();
    let mut wanted = Vec::new();
    let mut befores = Vec::new();
    for Filled { image, content } in &mut filled {
        let before = folder.path().join(format!("{}.before", image.name));
        fs::copy(&image.path, &before).context(before.display())?;
        let written = kernel_writes(&mut boot, image, content)?;
        wanted.push(format!("{}.kernel-writes", image.name));
        befores.push((before, written));
    }
    let systems = ext4::prepare(lane, &mut boot, folder.path(), bin, filled.len())?;
    wanted.extend(systems.wanted());
    note(lane, &boot.run(machine, "write", BOOT_LIMIT)?, &wanted);
    for (Filled { image, content }, (before, written)) in filled.iter().zip(&befores) {
        lane.case(format!("{}.only-its-own", image.name), || {
            let seen = changes(before, &image.path, written, CPUS)?;
            ensure(seen.map_entries > 0 && seen.blocks > 0, || "the kernel changed nothing".to_owned())?;
            Ok(format!(
                "the kernel changed {} map entries, {} blocks and {} flog groups, all its own, and no other byte",
                seen.map_entries, seen.blocks, seen.flog_groups
            ))
        });
        lane.case(format!("{}.read-back", image.name), || {
            let raw = copy_out(bin, image, folder.path())?;
            content.compare(&raw)?;
            fs::remove_file(&raw).context(raw.display())?;
            Ok("we read all that the kernel and we wrote, and changed no byte by reading")
        });
    }
    systems.check(lane, bin, folder.path());
    Ok(())
}

/// Fills a device: most by nbdcopy, some again by single requests, some of these with FUA.
fn fill(bin: &Path, folder: &Path, image: &Image) -> Result<Content> {
    let mut content = image.content();
    let last = content.last();
    for (lbas, generation) in [(0..=1, 1), (5..=12, 1), (100..=399, 1), (last - 3..=last, 1)] {
        content.set(lbas, generation);
    }
    for lba in (1000..last).step_by(131) {
        content.set(lba..=lba, 1);
    }
    let raw = folder.join("fill.raw");
    content.write_file(&raw)?;
    let server = image.serve(bin, &[])?;
    succeed(&mut command("nbdcopy", [raw.as_os_str(), server.uri.as_ref()]), COPY_LIMIT)?;
    let mut client = Client::connect(&server.socket()?, &server.export())?;
    for (lbas, generation, flags) in
        [(0..=0, 3, FUA), (7..=7, 6, 0), (200..=249, 2, 0), (last..=last, 9, FUA)]
    {
        let mut written = Content::new(content.data_size(), content.sectors());
        written.set(lbas.clone(), generation);
        for (first, bytes) in written.runs() {
            client.write(first * content.data_size() as u64, &bytes, flags)?;
        }
        content.set(lbas, generation);
    }
    client.flush()?;
    drop(client);
    server.stop()?;
    fs::remove_file(&raw).context(raw.display())?;
    Ok(content)
}

/// The kernel binds a btt device to each, sees its size, reads all of it; ndctl checks it; nothing changes.
fn read(lane: &mut Lane, machine: &Machine, filled: &[Filled]) -> Result<()> {
    let mut boot = Boot::default();
    let mut wanted = Vec::new();
    let mut digests = Vec::new();
    for Filled { image, content } in filled {
        let name = &image.name;
        image.plug(&mut boot);
        digests.push(sha256(&image.path)?);
        let words = format!("Linux reads all {} sectors, and zeros between them", content.written().count());
        boot.script(format!("if btt {name} {} {} {}; then", image.dimm, content.size(), content.data_size()));
        boot.script(format!("whole {name}.kernel-reads '{words}' {}", content.sha256()?));
        boot.script(format!("check {name}.check-namespace {}\nfi", ndctl_says(image.combo.sector_size)));
        wanted.extend(["bind", "kernel-reads", "check-namespace"].map(|case| format!("{name}.{case}")));
    }
    note(lane, &boot.run(machine, "read", BOOT_LIMIT)?, &wanted);
    lane.case("all.unchanged", || {
        for (Filled { image, .. }, before) in filled.iter().zip(&digests) {
            ensure(sha256(&image.path)? == *before, || format!("{}: reading changed the image", image.name))?;
        }
        Ok(format!("attaching, reading and checking changed no byte of {} images", filled.len()))
    });
    Ok(())
}

/// Has the kernel overwrite sectors and write new ones; `content` becomes what is there afterwards. Gives the LBAs.
fn kernel_writes(boot: &mut Boot, image: &Image, content: &mut Content) -> Result<BTreeSet<u64>> {
    let last = content.last();
    let mut writes = Content::new(content.data_size(), content.sectors());
    for (lbas, generation) in
        [(0..=0, 20), (6..=9, 21), (150..=350, 22), (2000..=2100, 23), (last..=last, 24)]
    {
        writes.set(lbas.clone(), generation);
        content.set(lbas, generation);
    }
    let Image { name, dimm, .. } = image;
    image.plug(boot);
    boot.script(format!("if dimm {dimm}; then\nrm -f /tmp/failed"));
    for (n, (first, bytes)) in writes.runs().into_iter().enumerate() {
        let file = format!("/data/{name}.{n}");
        boot.file(&file, &bytes)?;
        boot.script(format!("put {file} {} {first}", content.data_size()));
    }
    let words = format!("Linux wrote {} sectors", writes.written().count());
    boot.script(format!(
        "sync\nwritten {name}.kernel-writes '{words}'\nelse fail {name}.kernel-writes unbound\nfi"
    ));
    Ok(writes.written().collect())
}

/// Copies the whole device to a raw file through a read-only server, which must not change the image.
pub(super) fn copy_out(bin: &Path, image: &Image, folder: &Path) -> Result<PathBuf> {
    let before = sha256(&image.path)?;
    let raw = folder.join(format!("{}-{}.raw", image.name, image.dimm));
    let server = image.serve(bin, &["--read-only"])?;
    succeed(&mut command("nbdcopy", [server.uri.as_ref(), raw.as_os_str()]), COPY_LIMIT)?;
    server.stop()?;
    ensure(sha256(&image.path)? == before, || "a read-only server changed the image".to_owned())?;
    Ok(raw)
}
