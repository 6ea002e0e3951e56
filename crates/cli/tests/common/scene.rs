// SPDX-License-Identifier: MIT OR Apache-2.0
//! The recorded scenes of `fixtures/lab` as lab files over images of DIMMs.
#![allow(dead_code, clippy::cast_possible_truncation, reason = "each test file uses its part; sizes fit")]

use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use serde_json::Value;

use crate::common::{Dir, Ran, fixtures, run};

/// A scene's DIMMs, without what was on them until [`Scene::fill`].
pub(crate) struct Scene {
    pub(crate) name: String,
    /// What was recorded.
    pub(crate) from: PathBuf,
    /// Its LAB.toml.
    pub(crate) lab: PathBuf,
    /// The TARGET of its verbs: the lab, or who serves it.
    pub(crate) target: String,
    pub(crate) dir: Dir,
    about: Value,
}

fn number(of: &Value, key: &str) -> u64 {
    of[key].as_u64().unwrap_or_else(|| panic!("{key} of {of}"))
}

impl Scene {
    /// The scene's DIMMs with label areas of zeros.
    pub(crate) fn blank(name: &str) -> Scene {
        let dir = Dir::quick();
        let from = fixtures().join("lab").join(name);
        let about = json(&from.join("lab.json"))["lab"].clone();
        let mut text = "version = 1\n[[bus]]\nprovider = \"ACPI.NFIT\"\n".to_owned();
        for dimm in about["dimms"].as_array().unwrap() {
            let n = |key| number(dimm, key);
            let size = n("size") + n("label_size");
            let file = dir.path(&format!("dimm{}.img", n("handle")));
            File::create(&file).unwrap().set_len(size).unwrap();
            writeln!(text, "[[bus.dimm]]\nfile = \"dimm{}.img\"\nsize = {size}", n("handle")).unwrap();
            writeln!(text, "label-size = {}\nhandle = {}", n("label_size"), n("handle")).unwrap();
            writeln!(text, "phys-id = {}\nserial = {}", n("phys_id"), n("serial")).unwrap();
            writeln!(text, "vendor = {}\ndevice = {}", n("vendor"), n("device")).unwrap();
            writeln!(text, "revision = {}\nformat = {}", n("revision"), n("format")).unwrap();
            if let Some(made) = dimm.get("made") {
                let (location, date) = (number(made, "location"), number(made, "date"));
                writeln!(text, "location = {location}\ndate = {date}").unwrap();
            }
        }
        for range in about["ranges"].as_array().unwrap() {
            let n = |key| number(range, key);
            let members = range["members"].as_array().unwrap();
            let each = n("size") / members.len() as u64;
            writeln!(text, "[[bus.region]]\nstart = {}\nrange-index = {}", n("address"), n("index")).unwrap();
            writeln!(text, "interleave = {}\nmembers = [", n("line_size")).unwrap();
            for member in members {
                let place = about["dimms"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .position(|dimm| dimm["handle"] == member["handle"]);
                writeln!(
                    text,
                    "{{ dimm = {}, offset = {}, size = {each}, region-offset = {} }},",
                    place.unwrap(),
                    number(member, "dpa"),
                    number(member, "offset")
                )
                .unwrap();
            }
            text.push_str("]\n");
            // Bit 1 of the platform's capabilities.
            let kept = if about["capabilities"] == 2 { "memory_controller" } else { "unknown" };
            writeln!(text, "persistence = \"{kept}\"").unwrap();
        }
        let lab = dir.path("lab.toml");
        std::fs::write(&lab, text).unwrap();
        let target = lab.to_str().unwrap().to_owned();
        Scene { name: name.to_owned(), from, lab, target, dir, about }
    }

    /// The scene as it was recorded: label areas, and the pages that are not zeros, in their lines on the DIMMs.
    pub(crate) fn recorded(name: &str) -> Scene {
        let scene = Scene::blank(name);
        scene.fill();
        scene
    }

    fn file(&self, handle: &Value) -> File {
        let path = self.dir.path(&format!("dimm{handle}.img"));
        File::options().read(true).write(true).open(path).unwrap()
    }

    fn fill(&self) {
        for dimm in self.about["dimms"].as_array().unwrap() {
            let area = self.from.join(format!("labels-{}.bin", dimm["handle"]));
            if let Ok(bytes) = std::fs::read(area) {
                self.file(&dimm["handle"]).write_all_at(&bytes, number(dimm, "size")).unwrap();
            }
        }
        let pages = self.from.join("pages.zst");
        if !pages.is_file() {
            return;
        }
        let mut bytes = Vec::new();
        let mut unpacked = ruzstd::decoding::StreamingDecoder::new(File::open(pages).unwrap()).unwrap();
        unpacked.read_to_end(&mut bytes).unwrap();
        for page in bytes.chunks(8 + 4096) {
            let (address, page) = page.split_first_chunk().unwrap();
            self.write(u64::from_le_bytes(*address), page);
        }
    }

    /// Where a physical address is: the handle of the DIMM, the place on it, and how much of the line follows.
    pub(crate) fn place(&self, address: u64) -> (Value, u64, u64) {
        let ranges = self.about["ranges"].as_array().unwrap();
        let range = ranges.iter().find(|range| {
            let start = number(range, "address");
            (start..start + number(range, "size")).contains(&address)
        });
        let range = range.unwrap_or_else(|| panic!("no range has {address:#x}"));
        let (at, line) = (address - number(range, "address"), number(range, "line_size"));
        let members = range["members"].as_array().unwrap();
        let ways = members.len() as u64;
        let member = &members[(at / line % ways) as usize];
        let dpa = number(member, "dpa") + at / line / ways * line + at % line;
        (member["handle"].clone(), dpa, line - at % line)
    }

    /// Writes at a physical address.
    pub(crate) fn write(&self, mut address: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (handle, dpa, room) = self.place(address);
            let (now, later) = bytes.split_at(bytes.len().min(room as usize));
            if now.iter().any(|byte| *byte != 0) {
                self.file(&handle).write_all_at(now, dpa).unwrap();
            }
            address += now.len() as u64;
            bytes = later;
        }
    }

    /// What was recorded in a file; an empty list where there is none.
    pub(crate) fn wanted(&self, file: &str) -> Value {
        let path = self.from.join(file);
        if path.is_file() { json(&path) } else { Value::Array(Vec::new()) }
    }

    /// `nvstack VERB LAB ARGS`.
    pub(crate) fn run(&self, verb: &str, args: &[&str]) -> Ran {
        run([&[verb, self.target.as_str()], args].concat())
    }

    /// A list, an empty one where nothing was printed.
    pub(crate) fn list(&self, options: &[&str]) -> Value {
        let ran = self.run("list", options);
        assert_eq!(ran.status, 0, "{}: {ran:?}", self.name);
        if ran.out.is_empty() { Value::Array(Vec::new()) } else { ran.json() }
    }
}

pub(crate) fn json(path: &std::path::Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

impl Scene {
    /// Runs a recorded command, `ndctl VERB ARGS`, as `nvstack VERB LAB ARGS`.
    pub(crate) fn replay(&self, argv: &[String]) -> Ran {
        let (verb, args) = match argv {
            [ndctl, verb, args @ ..] if ndctl == "ndctl" => (verb, args),
            other => panic!("{other:?} is no ndctl"),
        };
        let saved = self.dir.path("saved");
        let args: Vec<&str> = args
            .iter()
            .map(|arg| if arg == "/tmp/saved" { saved.to_str().unwrap() } else { arg.as_str() })
            .collect();
        if verb.starts_with('-') {
            return run([&[verb.as_str()], args.as_slice()].concat());
        }
        let mut target = self.target.clone();
        let mut args = args;
        // These take one name, and it stands behind the target.
        if ["read-labels", "read-infoblock", "write-infoblock", "inject-error"].contains(&verb.as_str())
            && let Some(name) =
                args.iter().position(|arg| arg.starts_with("nmem") || arg.starts_with("namespace"))
        {
            target = format!("{target}#{}", args.remove(name));
        }
        run([&[verb.as_str(), &target], args.as_slice()].concat())
    }

    /// The recorded command of that name.
    pub(crate) fn attempt(&self, case: &str) -> Attempt {
        let found = self.attempts().into_iter().find(|attempt| attempt.case == case);
        found.unwrap_or_else(|| panic!("{}: no case {case}", self.name))
    }

    /// The recorded commands in their order.
    pub(crate) fn attempts(&self) -> Vec<Attempt> {
        let all = json(&self.from.join("commands.json"));
        let all = all.as_array().unwrap().iter().map(|attempt| {
            let text = |key: &str| attempt[key].as_str().unwrap().to_owned();
            Attempt {
                case: text("case"),
                argv: attempt["argv"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|a| a.as_str().unwrap().to_owned())
                    .collect(),
                status: attempt["status"].as_i64().unwrap() as i32,
                stdout: text("stdout"),
                stderr: text("stderr"),
            }
        });
        all.collect()
    }

    /// Runs a recorded command, which must end as it did.
    pub(crate) fn obeys(&self, case: &str) -> Ran {
        let attempt = self.attempt(case);
        let ran = self.replay(&attempt.argv);
        assert_eq!(ran.status, attempt.status, "{} {case} {:?}: {ran:?}", self.name, attempt.argv);
        ran
    }
}

/// A command that was recorded.
pub(crate) struct Attempt {
    pub(crate) case: String,
    pub(crate) argv: Vec<String>,
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Scene {
    /// What the recorder's script did after each attempt: destroys namespaces that are not its own.
    pub(crate) fn tidy(&self) {
        let list = self.list(&["-Nv"]);
        // All at once: what is left has other numbers in the next machine.
        let others = list.as_array().unwrap().iter().filter(|namespace| {
            let uuid = namespace.get("raw_uuid").unwrap_or(&namespace["uuid"]).as_str().unwrap();
            !uuid.starts_with("01ab000")
        });
        let mut args: Vec<&str> = others.map(|namespace| namespace["dev"].as_str().unwrap()).collect();
        if !args.is_empty() {
            args.push("-f");
            let ran = self.run("destroy-namespace", &args);
            assert_eq!(ran.status, 0, "{ran:?}");
        }
    }
}
