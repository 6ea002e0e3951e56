// SPDX-License-Identifier: MIT OR Apache-2.0
//! kill -9 of the verbs that change labels, at random moments: what is found afterwards is the old state or the new one, what stood
//! beside it is untouched, and the verb does its work when it is run again. The page cache outlives the process: this shows
//! the order of our stores, and is no power cut.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Dir, command, run};
use nvstack_format::label::Version;
use nvstack_label::LabelArea;
use nvstack_media::{Access, Mapping, MediaOffset, Part};
use nvstack_tally::{long, tally};

const SIZE: u64 = 96 << 20;
const AREA: u64 = 128 << 10;
const OLD: &str = "10000000-0000-4000-8000-000000000001";
const NEW: &str = "20000000-0000-4000-8000-000000000002";

/// Killed so many times in each verb.
fn rounds() -> u64 {
    if long() { 200 } else { 20 }
}

/// What the labels of an image say: none if there is no label area, else version, and uuid, name, start and size of each namespace.
type State = Option<(Version, Vec<(String, String, u64, u64)>)>;

fn state(image: &Path) -> State {
    let media = Mapping::open(image, Access::ReadOnly).unwrap();
    let area = LabelArea::open(Part::new(media, MediaOffset(SIZE - AREA), AREA).unwrap()).unwrap();
    let version = area.version()?;
    let labels = area.namespaces(SIZE - AREA).expect("labels that do not conflict");
    assert!(area.slots().unwrap().iter().all(|slot| slot.label.is_ok()), "a slot in use without a label");
    Some((
        version,
        labels.iter().map(|l| (l.uuid.to_string(), l.name.to_string(), l.dpa.0, l.rawsize)).collect(),
    ))
}

/// Numbers that look random, the same in each run.
fn mix(word: u64) -> u64 {
    let z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A verb that is killed.
struct Verb {
    name: &'static str,
    /// Its arguments, the image's path in the place of IMAGE.
    args: &'static [&'static str],
    /// What is done to the image before.
    before: &'static [&'static [&'static str]],
    /// What it may leave when it was killed, beside what was there and what is to be.
    also: fn(&State, &State) -> Vec<State>,
}

/// Nothing else.
fn nothing(_: &State, _: &State) -> Vec<State> {
    Vec::new()
}

/// An area without index blocks.
fn none(_: &State, _: &State) -> Vec<State> {
    vec![None]
}

/// `create-namespace` chooses the name after the size.
fn unnamed(_: &State, new: &State) -> Vec<State> {
    let Some((version, labels)) = new else { return Vec::new() };
    let labels = labels.iter().cloned().map(|mut l| {
        if l.0 == NEW {
            l.1.clear();
        }
        l
    });
    vec![Some((*version, labels.collect()))]
}

const IDLE: &[&str] = &["disable-region", "IMAGE#region0"];

const VERBS: [Verb; 7] = [
    Verb {
        name: "create-namespace",
        args: &["create-namespace", "IMAGE", "-m", "raw", "-s", "16M", "-u", NEW, "-n", "new"],
        before: &[],
        also: unnamed,
    },
    Verb {
        name: "create-namespace, sector mode",
        args: &["create-namespace", "IMAGE", "-m", "sector", "-s", "32M", "-u", NEW, "-n", "new"],
        before: &[],
        also: unnamed,
    },
    Verb {
        name: "destroy-namespace",
        args: &["destroy-namespace", "IMAGE#namespace0.1", "-f"],
        before: &[&["create-namespace", "IMAGE", "-m", "raw", "-s", "16M", "-u", NEW, "-n", "new"]],
        also: nothing,
    },
    Verb {
        name: "init-labels",
        args: &["init-labels", "IMAGE#nmem0", "-f", "-V", "1.1"],
        before: &[IDLE],
        also: none,
    },
    Verb {
        name: "init-labels, same version",
        args: &["init-labels", "IMAGE#nmem0", "-f", "-V", "1.2"],
        before: &[IDLE],
        also: none,
    },
    Verb { name: "zero-labels", args: &["zero-labels", "IMAGE#nmem0"], before: &[IDLE], also: none },
    Verb {
        name: "write-labels",
        args: &["write-labels", "IMAGE#nmem0", "-i", "IMAGE.labels"],
        before: &[IDLE],
        also: none,
    },
];

fn with_image(args: &[&str], image: &Path) -> Vec<String> {
    args.iter().map(|arg| arg.replace("IMAGE", image.to_str().unwrap())).collect()
}

/// A copy of an image with what stands beside it. Holes stay holes.
fn copy(from: &Path, to: &Path) {
    for extra in ["", ".state", ".labels"] {
        let name = |path: &Path| PathBuf::from(format!("{}{extra}", path.display()));
        let _ = std::fs::remove_file(name(to));
        if name(from).exists() {
            let ran =
                std::process::Command::new("cp").arg("--sparse=always").args([name(from), name(to)]).status();
            assert!(ran.unwrap().success());
        }
    }
}

/// The bytes of the namespace that is nobody's business.
fn data(image: &Path) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    std::fs::File::open(image).unwrap().read_exact_at(&mut bytes, 4096).unwrap();
    bytes
}

/// An image with one namespace that has data, and labels that have seen changes.
fn template(dir: &Dir, verb: &Verb) -> PathBuf {
    let image = dir.path("template.img");
    let path = image.to_str().unwrap();
    let _ = std::fs::remove_file(&image);
    let size = SIZE.to_string();
    assert_eq!(run(["create", path, "-s", &size, "-m", "raw", "-n", "all"]).status, 0);
    for args in [
        vec!["destroy-namespace", "IMAGE#namespace0.0", "-f"],
        vec!["create-namespace", "IMAGE", "-m", "raw", "-s", "16M", "-u", OLD, "-n", "old"],
    ] {
        let ran = run(with_image(&args, &image));
        assert_eq!(ran.status, 0, "{args:?}: {}", ran.err);
    }
    std::fs::OpenOptions::new().write(true).open(&image).unwrap().write_all_at(&[0x5a; 4096], 4096).unwrap();
    // A backup of labels that are not those that stand.
    let kept = run(["read-labels", path]);
    std::fs::write(format!("{path}.labels"), &kept.bytes).unwrap();
    let more = ["create-namespace", "IMAGE", "-m", "raw", "-s", "16M", "-n", "more"];
    if verb.name == "write-labels" {
        assert_eq!(run(with_image(&more, &image)).status, 0);
    }
    for args in verb.before {
        let ran = run(with_image(args, &image));
        assert_eq!(ran.status, 0, "{args:?}: {}", ran.err);
    }
    image
}

#[test]
fn a_verb_that_is_killed_leaves_the_old_labels_or_the_new_ones() {
    for verb in &VERBS {
        let dir = Dir::quick();
        let first = template(&dir, verb);
        let (old, stood) = (state(&first), data(&first));
        let image = dir.path("image.img");
        // How long it takes, and what it leaves when nobody stops it.
        copy(&first, &image);
        let began = Instant::now();
        let ran = run(with_image(verb.args, &image));
        assert_eq!(ran.status, 0, "{}: {}", verb.name, ran.err);
        let took = began.elapsed();
        let new = state(&image);
        assert_ne!(old, new, "{}", verb.name);
        let mut known = vec![old.clone(), new.clone()];
        known.extend((verb.also)(&old, &new));

        let mut met = BTreeSet::new();
        let mut killed = 0;
        for round in 0..rounds() {
            copy(&first, &image);
            let seed = mix(round ^ verb.name.len() as u64) % 1000;
            let wait = took.mul_f64(seed as f64 / 900.0);
            let mut child = command(with_image(verb.args, &image))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            spin(wait);
            child.kill().unwrap();
            killed += u64::from(!child.wait().unwrap().success());
            let words = format!("{}, round {round}, killed after {wait:?}", verb.name);
            let found = state(&image);
            let place = known.iter().position(|known| *known == found);
            met.insert(place.unwrap_or_else(|| panic!("{words}: {found:?}\nold {old:?}\nnew {new:?}")));
            assert!(data(&image) == stood, "{words}: the data of another namespace");
            // The next verb finds its way.
            let listed = run(with_image(&["list", "IMAGE", "-DRNi"], &image));
            assert_eq!(listed.status, 0, "{words}: {}", listed.err);
            if found != new && found.is_some() && verb.name.starts_with("create") {
                // What was made in part is in the way of the uuid, and goes as anything does.
                let dump = run(with_image(&["list", "IMAGE", "-Ni"], &image)).out;
                if dump.contains(NEW) {
                    let gone = run(with_image(&["destroy-namespace", "IMAGE#namespace0.1", "-f"], &image));
                    assert_eq!(gone.status, 0, "{words}: {}", gone.err);
                }
            }
            if found != new {
                let again = run(with_image(verb.args, &image));
                assert_eq!(again.status, 0, "{words}: and again: {}", again.err);
                assert_eq!(state(&image), new, "{words}: and again");
            }
            assert!(data(&image) == stood, "{words}: the data of another namespace");
        }
        println!("{}: {took:?}, {killed} of {} killed, states {met:?}", verb.name, rounds());
        assert!(killed > 0, "{}: it was always done before it was killed", verb.name);
        tally("kill", &format!("nvstack {}", verb.name), "times killed", killed);
    }
}

/// Waits more exactly than a sleep does.
fn spin(time: Duration) {
    let until = Instant::now() + time;
    if let Some(most) = time.checked_sub(Duration::from_millis(2)) {
        std::thread::sleep(most);
    }
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}
