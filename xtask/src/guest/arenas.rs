// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices of two arenas, in sparse files beyond 512 GiB: made by us and used by Linux, made by Linux and used by us. One
//! fits into a guest's address space, so each has a boot of its own; they go in pairs, since a boot is mostly one thread.

use std::fs;
use std::path::Path;
use std::thread;

use super::BOOT_LIMIT;
use super::combo::{Combo, Image, Labels, TWO_ARENAS};
use super::qemu::{Boot, Machine};
use crate::content::Content;
use crate::nbd::client::Client;
use crate::process::sha256_of;
use crate::report::{Context, Failure, Lane, Result, ensure};
use crate::verdict::{Verdict, note};

/// What ndctl makes: it writes the first arena's map, half a gibibyte of zeros with sectors of 4096 bytes and four with 512.
const THEIRS: [Combo; 3] =
    [Combo::new(Labels::None, 4096), Combo::new(Labels::V1_1, 4096), Combo::new(Labels::V1_2, 4104)];

/// Of the terabyte that it could be. Two arenas have 64 KiB of flog and info blocks; each written sector takes a page or two
/// and one of the map.
const OUR_DISK_USE: u64 = 4 << 20;

/// What came of one image.
type Outcome = Result<(Vec<Verdict>, Vec<(String, Result<String>)>)>;

/// Runs both ways.
pub(super) fn run(lane: &mut Lane, machine: &Machine, bin: &Path) -> Result<()> {
    let folder = tempfile::tempdir_in(&machine.folder).context(machine.folder.display())?;
    let folder = folder.path();
    let mut jobs: Vec<(Combo, bool)> = Combo::all().into_iter().map(|combo| (combo, true)).collect();
    jobs.extend(THEIRS.map(|combo| (combo, false)));
    for pair in jobs.chunks(2) {
        let done: Vec<(String, Outcome)> = thread::scope(|scope| {
            let start = |&(combo, ours): &(Combo, bool)| {
                let job = move || {
                    if ours {
                        made_by_us(machine, bin, folder, combo)
                    } else {
                        made_by_linux(machine, bin, folder, combo)
                    }
                };
                (
                    format!("{}.two-arenas{}", combo.name(), if ours { "" } else { "-of-linux" }),
                    scope.spawn(job),
                )
            };
            let running: Vec<_> = pair.iter().map(start).collect();
            let failed = |_| Err(Failure::from("the thread of this case failed"));
            running.into_iter().map(|(name, job)| (name, job.join().unwrap_or_else(failed))).collect()
        });
        for (name, outcome) in done {
            match outcome {
                Ok((verdicts, ours)) => {
                    note::<&str>(lane, &verdicts, &[]);
                    for (case, outcome) in ours {
                        lane.note(case, outcome);
                    }
                }
                Err(why) => lane.fail(name, why),
            }
        }
    }
    Ok(())
}

/// We make it and write on both sides of the border; Linux reads these, writes over the border; we read that.
fn made_by_us(machine: &Machine, bin: &Path, folder: &Path, combo: Combo) -> Outcome {
    let image = Image::create(bin, folder, combo, 1, TWO_ARENAS)?;
    let name = format!("{}.two-arenas", image.name);
    let created = image.disk_use()?;
    let mut content = image.content();
    let (border, last) = (border(&image)?, content.last());
    for (lbas, generation) in [(0..=0, 1), (border - 8..=border + 7, 2), (last..=last, 3)] {
        content.set(lbas, generation);
    }
    write_all(bin, &image, &content)?;

    let mut boot = Boot::default();
    image.plug(&mut boot);
    boot.script(format!("if btt {name} 1 {} {}; then", content.size(), content.data_size()));
    let mut wanted = vec![format!("{name}.bind")];
    wanted.extend(reads(&mut boot, &name, &content)?);
    wanted.extend(writes(&mut boot, &name, &mut content, border)?);
    boot.script("fi");
    let verdicts = complete(boot.run(machine, &name, BOOT_LIMIT)?, &wanted)?;

    let read_back = read_all(bin, &image, &content);
    let used = image.disk_use()?;
    let sparse = ensure(created <= OUR_DISK_USE && used <= OUR_DISK_USE, || {
        format!("the image of {TWO_ARENAS} bytes takes {created} bytes after its creation, {used} at the end")
    });
    let sparse = sparse.map(|()| {
        format!("it takes {} KiB of the disk when made, {} KiB at the end", created >> 10, used >> 10)
    });
    fs::remove_file(&image.path).context(image.path.display())?;
    Ok((verdicts, vec![(format!("{name}.read-back"), read_back), (format!("{name}.sparse"), sparse)]))
}

/// ndctl makes it, Linux writes over the border; we read that and write; Linux reads that.
fn made_by_linux(machine: &Machine, bin: &Path, folder: &Path, combo: Combo) -> Outcome {
    let name = format!("{}.two-arenas-of-linux", combo.name());
    let image = Image::blank(folder, combo, TWO_ARENAS)?;
    let mut content = image.content();
    let border = border(&image)?;
    let mut boot = Boot::default();
    image.plug(&mut boot);
    boot.script(format!("dimm 1; make {name}.made {} {}", combo.sector_size, combo.labels.version()));
    boot.script(format!("if btt {name} 1 {} {}; then", content.size(), content.data_size()));
    let mut wanted = vec![format!("{name}.made"), format!("{name}.bind")];
    wanted.extend(writes(&mut boot, &name, &mut content, border)?);
    boot.script("fi");
    let mut verdicts = complete(boot.run(machine, &name, BOOT_LIMIT)?, &wanted)?;

    let read_back = read_all(bin, &image, &content);
    let mut ours = image.content();
    ours.set(border - 2..=border + 1, 7);
    write_all(bin, &image, &ours)?;

    let mut boot = Boot::default();
    image.plug(&mut boot);
    boot.script("dimm 1");
    let wanted = reads(&mut boot, &format!("{name}-again"), &ours)?;
    verdicts.extend(complete(boot.run(machine, &format!("{name}-again"), BOOT_LIMIT)?, &wanted)?);
    fs::remove_file(&image.path).context(image.path.display())?;
    Ok((verdicts, vec![(format!("{name}.read-back"), read_back)]))
}

/// The first LBA of the second arena.
fn border(image: &Image) -> Result<u64> {
    let arenas = image.geometry().arenas;
    ensure(arenas.len() == 2, || format!("{} arenas", arenas.len()))?;
    arenas.first().copied().ok_or_else(|| "no arena".into())
}

/// Has Linux read all that was written, each run of sectors by requests of 16 KiB: the one at the border spans both arenas.
fn reads(boot: &mut Boot, name: &str, content: &Content) -> Result<Vec<String>> {
    let mut wanted = Vec::new();
    for (first, bytes) in content.runs() {
        let case = format!("{name}.kernel-reads-{first}");
        let sectors = bytes.len() / content.data_size();
        let at = first * content.data_size() as u64;
        let words = format!("Linux reads our {sectors} sectors from LBA {first} on");
        boot.script(format!("bytes {case} '{words}' {at} {} {}", bytes.len(), sha256_of(&bytes)?));
        wanted.push(case);
    }
    Ok(wanted)
}

/// Has Linux write four sectors in one request over the border, and read them.
fn writes(boot: &mut Boot, name: &str, content: &mut Content, border: u64) -> Result<Vec<String>> {
    let mut over = Content::new(content.data_size(), content.sectors());
    for (lbas, generation) in [(border - 2..=border + 1, 5), (9..=9, 6), (content.last()..=content.last(), 7)]
    {
        over.set(lbas.clone(), generation);
        content.set(lbas, generation);
    }
    for (n, (first, bytes)) in over.runs().into_iter().enumerate() {
        let file = format!("/data/{n}");
        boot.file(&file, &bytes)?;
        boot.script(format!(
            "put {file} {} {}",
            bytes.len(),
            format_args!("{}B", first * over.data_size() as u64)
        ));
    }
    boot.script(format!(
        "sync; written {name}.kernel-writes 'Linux wrote sectors on both sides of LBA {border} at once'"
    ));
    Ok(vec![format!("{name}.kernel-writes")])
}

fn write_all(bin: &Path, image: &Image, content: &Content) -> Result<()> {
    let server = image.serve(bin, &[])?;
    let mut client = Client::connect(&server.socket()?, &server.export())?;
    for (first, bytes) in content.runs() {
        client.write(first * content.data_size() as u64, &bytes, 0)?;
    }
    client.flush()?;
    drop(client);
    server.stop().map(drop)
}

fn read_all(bin: &Path, image: &Image, content: &Content) -> Result<String> {
    let server = image.serve(bin, &["--read-only"])?;
    let mut client = Client::connect(&server.socket()?, &server.export())?;
    for (first, bytes) in content.runs() {
        let found = client.read(first * content.data_size() as u64, bytes.len())?;
        ensure(found == bytes, || format!("the sectors from LBA {first} on differ"))?;
    }
    drop(client);
    server.stop()?;
    Ok(format!(
        "we read all {} sectors that were written, on both sides of the border",
        content.written().count()
    ))
}

/// All verdicts that are wanted, or a failure.
fn complete(verdicts: Vec<Verdict>, wanted: &[String]) -> Result<Vec<Verdict>> {
    for case in wanted {
        let there = verdicts.iter().any(|verdict| verdict.case == *case);
        let stopped = verdicts.iter().any(|verdict| !verdict.ok);
        ensure(there || stopped, || format!("the guest said nothing about {case}"))?;
    }
    Ok(verdicts)
}
