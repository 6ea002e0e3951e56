// SPDX-License-Identifier: MIT OR Apache-2.0
//! Linux as the judge of whole sets of DIMMs: what it lists on images of ours, and what its namespaces hold.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;

use ruzstd::decoding::StreamingDecoder;
use serde_json::Value;

use super::BOOT_LIMIT;
use super::compare::compare;
use super::describe::Lab;
use super::lab::Memory;
use super::qemu::{Boot, Machine};
use crate::process::sha256_of;
use crate::report::{Context, Failure, Lane, Result, ensure};
use crate::unit::workspace;
use crate::verdict::Verdict;

/// `look FOLDER` keeps the list, and for each namespace that has one the SHA-256 of its device's parts ([`parts`]), or where in memory
/// a devdax device is: it has nothing that can be read. A namespace is known by its label's uuid, or by its region's range index.
const LOOK: &str = r#"
part() {
    dd if=$1 bs=$((1 << 20)) skip=${2}B count=$3 2>/dev/null
}
parts() {
    size=$(blockdev --getsize64 $1)
    if [ $size -le $((8 << 20)) ]; then
        cat $1
    else
        part $1 0 3
        part $1 $((size / 2 >> 20 << 20)) 2
        part $1 $((size - (1 << 20))) 1
    fi
}
look() {
    mkdir -p /out/$1
    ndctl list -BDRNX >/out/$1/list.json
    for n in /sys/bus/nd/devices/namespace*; do
        name=${n##*/} region=$(dirname $(readlink -f $n))
        id=$(cat $n/uuid 2>/dev/null)
        id=${id:-range-$(cat $region/nfit/range_index)}
        for holder in $n $region/btt* $region/pfn* $region/dax*; do
            [ $holder = $n ] || [ "$(cat $holder/namespace 2>/dev/null)" = $name ] || continue
            for b in $holder/block/*; do
                [ -e $b ] && sum=$(parts /dev/${b##*/} | sha256sum) && echo "$id ${sum%% *}" >>/out/$1/contents
            done
            for d in $holder/dax[0-9]*; do
                [ -e $d/resource ] && echo "$id $(($(cat $d/resource))) $(cat $d/size)" >>/out/$1/contents
            done
        done
    done
}
"#;

/// The parts of a device by which it is known: an emulated CPU takes a minute for the sums of whole ones, which other cases look at.
pub(super) fn parts(size: u64) -> Vec<(u64, u64)> {
    if size <= 8 << 20 {
        vec![(0, size)]
    } else {
        vec![(0, 3 << 20), ((size / 2) >> 20 << 20, 2 << 20), (size - (1 << 20), 1 << 20)]
    }
}

/// The look at the end of a session.
pub(crate) const LAST: &str = "last";

/// The raw namespace at the start of the set of four in the scene `interleaved`.
const RAW: &str = "01ab0003-0000-4000-8000-000000000003";
/// Where the harness writes to it.
const WRITTEN: u64 = 400 << 10;

/// What Linux sees on a set of DIMMs.
#[derive(Debug)]
pub(crate) struct GuestView {
    /// What `ndctl list -BDRNX` says.
    pub(crate) list: Value,
    /// SHA-256 of the device of each enabled namespace, by the label's uuid; by `range-N`, with the index of its range, where
    /// there are no labels.
    pub(crate) contents: BTreeMap<String, String>,
}

/// Files for the guest, by their paths.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// What came of a boot.
#[derive(Debug)]
pub(crate) struct Session {
    /// The cases of its script.
    pub(crate) verdicts: Vec<Verdict>,
    /// Each `look` of its script, and [`LAST`].
    pub(crate) looks: BTreeMap<String, GuestView>,
    /// What else the script put into /out.
    pub(crate) files: BTreeMap<String, String>,
}

impl Session {
    /// One of its looks.
    pub(crate) fn look(&self, name: &str) -> Result<&GuestView> {
        self.looks.get(name).ok_or_else(|| format!("no look is called {name}").into())
    }
}

/// Boots Linux with these images of DIMMs, in the order of the lab's DIMMs and interleaved as it says; runs a script, which may
/// be empty, and looks. What Linux has changed is in the images afterwards.
pub(crate) fn judge(
    machine: &Machine,
    name: &str,
    lab: &Lab,
    images: &[PathBuf],
    given: Files,
    script: &str,
) -> Result<GuestView> {
    let mut session = attend(machine, name, lab, images, given, script)?;
    session.looks.remove(LAST).ok_or_else(|| format!("{name}: no last look").into())
}

/// As [`judge`], for a script that has cases, looks itself (`look NAME`) or leaves files in /out.
pub(crate) fn attend(
    machine: &Machine,
    name: &str,
    lab: &Lab,
    images: &[PathBuf],
    given: Files,
    script: &str,
) -> Result<Session> {
    let work = tempfile::tempdir_in(&machine.folder).context(machine.folder.display())?;
    let files = lab.weave(images, work.path())?;
    let mut boot = Boot::default();
    lab.plug(machine, &mut boot, &files)?;
    let out = work.path().join("out");
    boot.out(&out);
    for (path, content) in given {
        boot.file(&path, &content)?;
    }
    boot.script(LOOK);
    boot.script(script);
    boot.script(format!("look {LAST}\nsave /out"));
    let verdicts = boot.run(machine, name, BOOT_LIMIT)?;
    lab.unweave(&files, images)?;

    let open: Result<Vec<File>> = files.iter().map(|file| File::open(file).context(file.display())).collect();
    let open = open?;
    let memory = Memory { lab, files: &open };
    let mut session = Session { verdicts, looks: BTreeMap::new(), files: BTreeMap::new() };
    for entry in fs::read_dir(&out).context(out.display())? {
        let path = entry.context(out.display())?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.join("list.json").is_file() {
            let view = GuestView::read(&path, &memory).context(format!("{name}: look {file}"))?;
            session.looks.insert(file, view);
        } else if path.is_file() {
            session.files.insert(file, fs::read_to_string(&path).context(path.display())?);
        }
    }
    Ok(session)
}

impl GuestView {
    /// Reads what `look` has kept. The guest's memory is as it was at the end of the boot.
    fn read(folder: &Path, memory: &Memory<'_>) -> Result<GuestView> {
        let list = json(&folder.join("list.json"))?;
        let lines = folder.join("contents");
        let lines =
            if lines.is_file() { fs::read_to_string(&lines).context("contents")? } else { String::new() };
        let mut contents = BTreeMap::new();
        for line in lines.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (id, digest) = match words[..] {
                [id, digest] => (id, digest.to_owned()),
                [id, address, size] => {
                    let address: u64 = address.parse().context(line)?;
                    let mut all = Vec::new();
                    for (at, len) in parts(size.parse().context(line)?) {
                        let mut bytes = vec![0; usize::try_from(len).context("a part")?];
                        memory.read(address + at, &mut bytes)?;
                        all.append(&mut bytes);
                    }
                    (id, sha256_of(&all)?)
                }
                _ => return Err(format!("a garbled line: {line}").into()),
            };
            contents.insert(id.to_owned(), digest);
        }
        Ok(GuestView { list, contents })
    }
}

/// Makes the images of a recorded scene's DIMMs.
pub(crate) fn recorded(scene: &str, folder: &Path) -> Result<(Lab, Vec<PathBuf>)> {
    let from = workspace().join("fixtures/lab").join(scene);
    let about = json(&from.join("lab.json"))?;
    let lab: Lab =
        about.get("lab").cloned().map(serde_json::from_value).transpose().context(scene)?.ok_or("no lab")?;
    let (guest, ours) = (folder.join("guest"), folder.join("dimms"));
    for folder in [&guest, &ours] {
        fs::create_dir_all(folder).context(folder.display())?;
    }
    let files = lab.blank(&guest)?;
    for (dimm, file) in lab.dimms.iter().zip(&files) {
        let area = from.join(format!("labels-{}.bin", dimm.handle));
        if area.is_file() {
            let file = File::options().write(true).open(file).context(file.display())?;
            file.write_all_at(&fs::read(&area).context(area.display())?, dimm.size).context("labels")?;
        }
    }
    let pages = from.join("pages.zst");
    if pages.is_file() {
        let mut bytes = Vec::new();
        let packed = File::open(&pages).context(pages.display())?;
        let mut unpacked = StreamingDecoder::new(packed).context(pages.display())?;
        unpacked.read_to_end(&mut bytes).context(pages.display())?;
        let mut open = Vec::new();
        for file in &files {
            open.push(File::options().read(true).write(true).open(file).context(file.display())?);
        }
        let memory = Memory { lab: &lab, files: &open };
        for page in bytes.chunks(8 + 4096) {
            let (address, page) = page.split_first_chunk().ok_or_else(|| Failure::from("a torn page"))?;
            memory.write(u64::from_le_bytes(*address), page)?;
        }
    }
    let images = lab.blank(&ours)?;
    lab.unweave(&files, &images)?;
    Ok((lab, images))
}

/// The harness proves itself: on the DIMMs of a recorded scene, taken apart into interleaved images, Linux lists what it listed
/// when it made them, and what it makes there arrives in the images.
pub(super) fn run(lane: &mut Lane, machine: &Machine) -> Result<()> {
    let folder = tempfile::tempdir_in(&machine.folder).context(machine.folder.display())?;
    let (lab, images) = recorded("interleaved", folder.path())?;
    let wanted = json(&workspace().join("fixtures/lab/interleaved/list-BDRNX.json"))?;
    let script = format!(
        "d=$(grep -l {RAW} /sys/bus/nd/devices/namespace*/uuid); d=/dev/$(ls ${{d%/uuid}}/block)
        dd if=/data/lines of=$d bs=4096 seek={} conv=notrunc 2>/dev/null; sync",
        WRITTEN / 4096
    );
    // Each line of 256 bytes says which it is.
    let lines: Vec<u8> = (0..64_u8).flat_map(|n| [n + 1; 256]).collect();
    let mut files = Files::default();
    files.insert("data/lines".to_owned(), lines);
    let written = judge(machine, "lab-written", &lab, &images, files, &script)?;
    lane.case("lab.list", || {
        compare(&written.list, &wanted, &[])?;
        Ok("Linux lists two interleave sets over four DIMMs as recorded")
    });
    lane.case("lab.written", || {
        for (turn, member) in lab
            .ranges
            .iter()
            .filter(|range| range.index == 2)
            .flat_map(|range| range.members.iter().enumerate())
        {
            let place = lab.dimms.iter().position(|dimm| dimm.handle == member.handle);
            let image = place.and_then(|place| images.get(place)).ok_or("no such DIMM")?;
            let mut found = [0; 512];
            let file = File::open(image).context(image.display())?;
            file.read_exact_at(&mut found, member.dpa + WRITTEN / 4).context(image.display())?;
            let first = u8::try_from(turn + 1).context("ways")?;
            let wanted = [[first; 256], [first + 4; 256]].concat();
            ensure(found == *wanted, || format!("DIMM {:#x} has other lines", member.handle))?;
        }
        Ok("what Linux writes to a set of four is in the lines of the four images")
    });
    let again = judge(machine, "lab-again", &lab, &images, Files::default(), "")?;
    lane.case("lab.contents", || {
        compare(&again.list, &wanted, &[])?;
        ensure(again.contents.len() == 6, || format!("devices of {:?}", again.contents.keys()))?;
        ensure(again.contents == written.contents, || {
            format!("{:?}, before the images were taken apart {:?}", again.contents, written.contents)
        })?;
        Ok("images that were taken apart and put together give the same list and the same contents of six devices")
    });
    let plain = [("plain-1.2", "", 5), ("no-labels", "sector", 1)];
    let outcomes: Vec<Result<String>> = thread::scope(|scope| {
        let start = |&(scene, state, devices)| {
            let folder = folder.path().join(scene);
            scope.spawn(move || as_recorded(machine, scene, state, devices, &folder))
        };
        let running: Vec<_> = plain.iter().map(start).collect();
        let failed = |_| Err(Failure::from("the thread of this case failed"));
        running.into_iter().map(|job| job.join().unwrap_or_else(failed)).collect()
    });
    for ((scene, ..), outcome) in plain.iter().zip(outcomes) {
        lane.note(format!("lab.{scene}"), outcome);
    }
    Ok(())
}

/// Has Linux list a recorded scene, whose last state is in this folder below it, and compares.
fn as_recorded(machine: &Machine, scene: &str, state: &str, devices: usize, folder: &Path) -> Result<String> {
    let (lab, images) = recorded(scene, folder)?;
    let wanted = json(&workspace().join("fixtures/lab").join(scene).join(state).join("list-BDRNX.json"))?;
    let view = judge(machine, scene, &lab, &images, Files::default(), "")?;
    compare(&view.list, &wanted, &[])?;
    ensure(view.contents.len() == devices, || format!("devices of {:?}", view.contents.keys()))?;
    Ok(format!("Linux lists one DIMM and its devices, {devices}, as recorded"))
}

pub(super) fn json(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).context(path.display())?;
    serde_json::from_str(&text).context(path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lab(scene: &str, folder: &Path) -> (Lab, Vec<PathBuf>) {
        let (lab, images) = recorded(scene, folder).expect("recorded");
        lab.check().expect("possible");
        (lab, images)
    }

    fn bytes(image: &Path, at: u64, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        File::open(image).expect("is there").read_exact_at(&mut bytes, at).expect("in the image");
        bytes
    }

    #[test]
    fn a_recorded_set_becomes_images_with_labels_and_lines() {
        let folder = tempfile::tempdir().expect("a folder");
        let (lab, images) = lab("interleaved", folder.path());
        for (dimm, image) in lab.dimms.iter().zip(&images) {
            assert_eq!(bytes(image, dimm.size, 16), b"NAMESPACE_INDEX\0", "DIMM {}", dimm.handle);
        }
        // The info block of the namespace at the start of the set of two begins on the first DIMM, and goes on on the second.
        assert_eq!(bytes(&images[0], 0, 14), b"BTT_ARENA_INFO");
        assert_ne!(bytes(&images[1], 0, 14), b"BTT_ARENA_INFO");
        // Its checksum, the last 8 bytes of 4096, is on the second.
        assert_ne!(bytes(&images[1], 2048 - 8, 8), [0; 8]);
    }

    #[test]
    fn recorded_lists_describe_the_same_things() {
        let top = workspace().join("fixtures/lab");
        let list = |path: &str| json(&top.join(path)).expect("recorded");
        let found = list("interleaved/list-BDRNX.json");
        compare(&found, &found, &[]).expect("itself");
        let other = list("refusals/list-BDRNX.json");
        let words = compare(&other, &found, &[]).expect_err("other namespaces").to_string();
        assert!(words.contains(".namespaces") || words.contains("available_size"), "{words}");
    }
}
