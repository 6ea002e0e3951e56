// SPDX-License-Identifier: MIT OR Apache-2.0
//! Clients that people use: nbdinfo, nbdcopy, libnbd's Python, fio, qemu-img and qemu-io.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::content::{Content, data_size};
use crate::fixtures::unpack;
use crate::process::{Ran, command, sha256, succeed};
use crate::report::{Context, Failure, Lane, Result, ensure};
use crate::server::{Server, nvstack};
use crate::verdict::{note, parse};

const LIMIT: Duration = Duration::from_secs(180);
const SESSION: &str = include_str!("session.py");
const POISON: &str = include_str!("poison.py");

/// The cases of `session.py`.
const SESSION_CASES: [&str; 12] = [
    "negotiation",
    "options",
    "oldest",
    "allocation",
    "structured",
    "alignment",
    "zeroes",
    "trim",
    "caches",
    "pipeline",
    "large",
    "vanishing",
];

/// Debian's own Python: the one that has its libnbd.
const PYTHON: &str = "/usr/bin/python3";

/// The sentence of the issue that this project is accepted by.
const ACCEPTANCE: &str = "nbdinfo $uri && fio --name=v --ioengine=nbd --uri=$uri --rw=randwrite --bs=4k --size=64M --iodepth=16 --verify=crc32c";

/// The image of a device whose LBA 21 is in the error state.
const LOST: &str = "probes/p1-ebit";
const LOST_LBA: u64 = 21;

/// Runs every client.
pub(crate) fn run(lane: &mut Lane, bin: &Path, folder: &Path) -> Result<()> {
    lane.case("acceptance", || {
        let demo = folder.join("demo.img");
        let mut serve = nvstack(bin, ["serve".as_ref(), demo.as_os_str()]);
        let ran = succeed(serve.args(["--create", "256M", "--run", ACCEPTANCE]).current_dir(folder), LIMIT)?;
        ensure(ran.stdout.contains("export-size:") && ran.stdout.contains("err= 0"), || ran.words())?;
        Ok("serve --create 256M --run 'nbdinfo $uri && fio ... --verify=crc32c' ends 0")
    });
    lane.case("run.status", || {
        let ran = crate::process::run(
            serve_run(bin, &folder.join("demo.img"), "exit 7").current_dir(folder),
            LIMIT,
        )?;
        ensure(ran.status.code() == Some(7), || format!("{}{}", ran.status, ran.words()))?;
        Ok("serve ends with the status of its command")
    });
    info(lane, bin, folder);
    for sector_size in [512, 520, 4096, 4104] {
        let name = |client: &str| format!("{client}-{sector_size}");
        let image = create(bin, folder, sector_size)?;
        lane.case(name("nbdcopy"), || copy(bin, folder, &image, sector_size));
        lane.case(name("qemu-img"), || qemu(bin, folder, &image));
        lane.case(name("fio"), || fio(bin, &image, sector_size));
        fs::remove_file(&image).context(image.display())?;
        let image = create(bin, folder, sector_size)?;
        python(lane, bin, folder, &image, &name("libnbd"))?;
        fs::remove_file(&image).context(image.display())?;
    }
    poison(lane, bin, folder)
}

fn create(bin: &Path, folder: &Path, sector_size: u64) -> Result<std::path::PathBuf> {
    let image = folder.join(format!("{sector_size}.img"));
    let mut create = nvstack(bin, ["create".as_ref(), image.as_os_str()]);
    succeed(create.args(["--size", "80M", "-m", "sector", "-l", &sector_size.to_string()]), LIMIT)?;
    Ok(image)
}

fn serve_run(bin: &Path, image: &Path, line: &str) -> Command {
    let mut serve = nvstack(bin, ["serve".as_ref(), image.as_os_str()]);
    serve.args(["--run", line]);
    serve
}

/// What nbdinfo tells of an export, as JSON, and of its sectors.
fn info(lane: &mut Lane, bin: &Path, folder: &Path) {
    let image = folder.join("demo.img");
    let ask = |args: &[&str], line: &str| -> Result<Value> {
        let mut serve = serve_run(bin, &image, line);
        let ran = succeed(serve.args(args), LIMIT)?;
        serde_json::from_str(&ran.stdout).context(format!("{line}: {}", ran.stdout))
    };
    lane.case("nbdinfo.json", || {
        let told = ask(&[], "nbdinfo --json \"$uri\"")?;
        let export = told.pointer("/exports/0").ok_or("no export")?;
        let is = |key: &str, wanted: Value| {
            let found = export.get(key).cloned().unwrap_or_default();
            ensure(found == wanted, || format!("\"{key}\" is {found}, not {wanted}"))
        };
        for key in ["can_fua", "can_flush", "can_trim", "can_zero", "can_multi_conn", "can_df", "can_cache"] {
            is(key, true.into())?;
        }
        is("is_read_only", false.into())?;
        is("block_size_minimum", 4096.into())?;
        let contexts = export.get("contexts").map(Value::to_string).unwrap_or_default();
        ensure(contexts.contains("base:allocation"), || format!("contexts {contexts}"))?;
        let read_only = ask(&["--read-only"], "nbdinfo --json \"$uri\"")?;
        let flag = read_only.pointer("/exports/0/is_read_only").cloned().unwrap_or_default();
        ensure(flag == Value::Bool(true), || format!("--read-only: is_read_only is {flag}"))?;
        Ok(format!(
            "{} bytes, all capabilities, read-only told when it is",
            export.get("export-size").unwrap_or(&Value::Null)
        ))
    });
    lane.case("nbdinfo.list", || {
        let told = ask(&[], "nbdinfo --list --json \"$uri\"")?;
        let names: Vec<&str> = told
            .get("exports")
            .and_then(Value::as_array)
            .map(|all| all.iter().filter_map(|export| export.get("export-name")?.as_str()).collect())
            .unwrap_or_default();
        ensure(names.contains(&"namespace0.0"), || format!("exports {names:?}"))?;
        Ok(format!("exports {names:?}"))
    });
    for context in ["base:allocation", "nvstack:badblocks"] {
        lane.case(format!("nbdinfo.map.{context}"), || {
            let told = ask(&[], &format!("nbdinfo --json --map={context} \"$uri\""))?;
            let extents = told.as_array().ok_or("not a list")?;
            let number = |extent: &Value, key| extent.get(key).and_then(Value::as_u64).unwrap_or_default();
            let size: u64 = extents.iter().map(|extent| number(extent, "length")).sum();
            let kinds: std::collections::BTreeSet<u64> =
                extents.iter().map(|extent| number(extent, "type")).collect();
            ensure(size > 230 << 20, || format!("the extents cover {size} bytes"))?;
            // The acceptance run wrote the first 64 MiB.
            let data = extents
                .first()
                .is_some_and(|first| number(first, "type") == 0 && number(first, "length") >= 64 << 20);
            ensure(data, || format!("begins with {:?}", extents.first()))?;
            Ok(format!("{} extents of types {kinds:?} cover {size} bytes", extents.len()))
        });
    }
}

/// nbdcopy in, nbdcopy out, the same bytes; out again from a read-only server, and no byte of the image changed.
fn copy(bin: &Path, folder: &Path, image: &Path, sector_size: u64) -> Result<String> {
    let (raw, out) = (folder.join("in.raw"), folder.join("out.raw"));
    let server = Server::start(bin, image, &[])?;
    let mut content = Content::new(data_size(sector_size), server.size / data_size(sector_size) as u64);
    let last = content.last();
    for (n, lba) in (0_u16..).zip((0..last).step_by(97)) {
        content.set(lba..=(lba + u64::from(n % 40)).min(last), n);
    }
    content.write_file(&raw)?;
    let nbdcopy = |args: [&std::ffi::OsStr; 2]| succeed(&mut command("nbdcopy", args), LIMIT);
    nbdcopy([raw.as_os_str(), server.uri.as_ref()])?;
    nbdcopy([server.uri.as_ref(), out.as_os_str()])?;
    content.compare(&out)?;
    server.stop()?;
    let before = sha256(image)?;
    fs::remove_file(&out).context(out.display())?;
    let server = Server::start(bin, image, &["--read-only"])?;
    nbdcopy([server.uri.as_ref(), out.as_os_str()])?;
    server.stop()?;
    content.compare(&out)?;
    ensure(sha256(image)? == before, || "a read-only server changed the image".to_owned())?;
    Ok(format!("{} bytes in and out over several connections, and again after a restart", content.size()))
}

/// qemu-img copies the whole device and finds its copy equal, and then not, after one byte; qemu-io verifies a pattern.
fn qemu(bin: &Path, folder: &Path, image: &Path) -> Result<String> {
    let copy = folder.join("copy.qcow2");
    let raw = folder.join("copy.raw");
    let server = Server::start(bin, image, &[])?;
    let uri = server.uri.as_str();
    let (qcow, plain) = (copy.to_string_lossy(), raw.to_string_lossy());
    let qemu = |program: &str, args: &[&str]| succeed(&mut command(program, args), LIMIT);
    let told = qemu("qemu-img", &["info", "--output=json", uri])?;
    let told: Value = serde_json::from_str(&told.stdout).context("qemu-img info")?;
    let size = told.get("virtual-size").and_then(Value::as_u64);
    ensure(size == Some(server.size), || {
        format!("qemu-img info tells {size:?}, the server {}", server.size)
    })?;
    qemu("qemu-img", &["convert", "-O", "qcow2", uri, &qcow])?;
    qemu("qemu-img", &["compare", uri, &qcow])?;
    qemu("qemu-img", &["convert", "-O", "raw", &qcow, &plain])?;
    let file = fs::File::options().write(true).open(&raw).context(raw.display())?;
    file.write_all_at(b"~", server.size / 2).context(raw.display())?;
    let differs = crate::process::run(
        &mut command("qemu-img", ["compare", "-f", "raw", "-F", "raw", uri, &plain]),
        LIMIT,
    )?;
    ensure(differs.status.code() == Some(1), || {
        format!("a differing byte: {}{}", differs.status, differs.words())
    })?;
    // In the place of the file systems that people convert: back into the device, all of it.
    file.write_all_at(&[0], server.size / 2).context(raw.display())?;
    qemu("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &plain, uri])?;
    let io = qemu(
        "qemu-io",
        &[
            "-f",
            "raw",
            "-c",
            "write -P 0x5a 1M 64k",
            "-c",
            "write -z 2M 64k",
            "-c",
            "flush",
            "-c",
            "read -P 0x5a 1M 64k",
            "-c",
            "read -P 0 2M 64k",
            "-c",
            "discard 3M 64k",
            uri,
        ],
    )?;
    ensure(!io.stdout.contains("failed"), || io.words())?;
    server.stop()?;
    Ok("qemu-img info, convert there and back, compare (and a changed byte is seen), qemu-io write, zero, discard, read".to_owned())
}

/// fio writes at random from two connections at depth 16 and verifies what it reads back.
fn fio(bin: &Path, image: &Path, sector_size: u64) -> Result<String> {
    let line = format!(
        "fio --name=v --ioengine=nbd --uri=\"$uri\" --rw=randrw --bs={} --bssplit={}/40:4k/30:64k/30 --size=12M \
         --numjobs=2 --offset_increment=16M --iodepth=16 --verify=crc32c --fsync=64 --verify_fatal=1 --randseed=7 \
         --group_reporting",
        data_size(sector_size),
        data_size(sector_size)
    );
    let ran: Ran = succeed(&mut serve_run(bin, image, &line), LIMIT)?;
    let sound = ran.stdout.contains("err= 0") && !ran.words().contains("verify:");
    ensure(sound, || ran.words())?;
    Ok("random reads and writes of 512 bytes (or 4 KiB) to 64 KiB with crc32c verified, two connections at depth 16".to_owned())
}

/// libnbd's Python, on a device of which the first 8 MiB are written.
fn python(lane: &mut Lane, bin: &Path, folder: &Path, image: &Path, name: &str) -> Result<()> {
    const WRITTEN: usize = 8 << 20;
    let (script, raw) = (folder.join("session.py"), folder.join("written.raw"));
    fs::write(&script, SESSION).context(script.display())?;
    fs::write(&raw, vec![0xa5; WRITTEN]).context(raw.display())?;
    let (script, raw) = (script.display(), raw.display());
    let line = format!("nbdcopy {raw} \"$uri\" && {PYTHON} {script} \"$uri\" {name} {WRITTEN}");
    let wanted = SESSION_CASES.map(|case| format!("{name}.{case}"));
    note(lane, &verdicts(serve_run(bin, image, &line))?, &wanted);
    Ok(())
}

/// A lost sector, in an image that Linux wrote.
fn poison(lane: &mut Lane, bin: &Path, folder: &Path) -> Result<()> {
    let (script, image) = (folder.join("poison.py"), folder.join("lost.img"));
    fs::write(&script, POISON).context(script.display())?;
    unpack(LOST, &image)?;
    let name = "libnbd.badblocks";
    let line = format!("{PYTHON} {} \"$uri\" {name} {} 4096", script.display(), LOST_LBA * 4096);
    note(lane, &verdicts(serve_run(bin, &image, &line))?, &[name]);
    Ok(())
}

fn verdicts(mut serve: Command) -> Result<Vec<crate::verdict::Verdict>> {
    let ran = succeed(&mut serve, LIMIT)?;
    let found = parse(&ran.stdout)?;
    if found.is_empty() { Err(Failure::from(ran.words())) } else { Ok(found) }
}
