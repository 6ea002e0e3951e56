// SPDX-License-Identifier: MIT OR Apache-2.0
//! The model's verbs before Linux: what `nvstack` makes of DIMMs is taken by the kernel, listed by `ndctl` as we list it, and holds
//! the same bytes; what they make of it is taken by us; and so on.

mod sets;
mod singles;
mod target;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::thread;

use serde_json::{Value, json};

use self::target::{Target, fill_in, uuid};
use super::compare::compare;
use super::judge::{Files, GuestView, LAST, Session, attend};
use super::qemu::Machine;
use super::record::HELPERS;
use crate::report::{Context, Failure, Lane, Result, ensure};

/// What the kernel and ndctl must find sound, `checks NAME AREAS BTTS`, and marks on all disks, `mark`.
const CHECKS: &str = include_str!("checks.sh");

/// What the kernel writes to each disk, where `mark` puts it.
const MARK: &[u8] = &[0x5a; 3 * 4096];

/// Cases with their outcomes, of a thread that has no lane.
type Outcomes = Vec<(String, Result<String>)>;

/// One lab that goes back and forth.
struct Story<'a> {
    name: &'a str,
    target: Target,
    /// What the guest does to it, as lines of shell. `@N` and `#N` as in [`fill_in`].
    guest: String,
    /// What we do then.
    ours: Vec<String>,
}

/// Runs all stories, two at a time.
pub(super) fn run(lane: &mut Lane, machine: &Machine, bin: &Path) -> Result<()> {
    let folder = tempfile::tempdir_in(&machine.folder).context(machine.folder.display())?;
    let at = |name: &str| folder.path().join(name);
    // The tables of both sets come from one boot.
    let outcomes: Vec<Outcomes> = thread::scope(|scope| {
        let singles = scope.spawn(|| singles::run(machine, bin, &at("singles")));
        let sets = ["1.2", "1.1"].map(|version| (version, at(&format!("sets-{version}"))));
        let sets = scope.spawn(move || {
            let run = |(version, folder): (&str, PathBuf)| sets::run(machine, bin, version, &folder);
            sets.map(run).into_iter().flatten().collect::<Outcomes>()
        });
        let failed = |_| vec![("model".to_owned(), Err(Failure::from("a thread failed")))];
        [singles, sets].map(|job| job.join().unwrap_or_else(failed)).into()
    });
    for (case, outcome) in outcomes.into_iter().flatten() {
        lane.note(case, outcome);
    }
    Ok(())
}

impl Story<'_> {
    /// Linux takes what we have made; makes something else of it, which we take; and takes again what we make of that.
    fn tell(&self, machine: &Machine, outcomes: &mut Outcomes) -> Result<()> {
        let Story { name, target, .. } = self;
        target.fill()?;
        let (list, contents) = (target.list()?, target.contents()?);
        let guest = fill_in(&self.guest, |mark, n| {
            Ok(if mark == '@' { format!("$(called {})", uuid(n)) } else { uuid(n) })
        })?;
        let checks = checks(name, &list);
        let script = format!("{checks}\nlook first\nmark {name}\n{guest}\nedited {name}");
        let session = self.attend(machine, "1", &script)?;
        verdicts(outcomes, &session, &[".check-labels", ".check-namespace", ".marked", ".edited"], name);
        let first = session.look("first")?;
        outcomes.push((format!("{name}.list"), same_list(&list, &first.list, "what we made")));
        outcomes.push((format!("{name}.contents"), same_contents(&contents, first, "we wrote")));

        let (list, contents) = (target.list()?, target.contents()?);
        let last = session.look(LAST)?;
        outcomes
            .push((format!("{name}.back.list"), same_list(&list, &last.list, "what Linux has made of it")));
        outcomes.push((format!("{name}.back.contents"), same_contents(&contents, last, "Linux wrote")));
        for line in &self.ours {
            target.verb(line).context(format!("{name}: going on"))?;
        }
        let (list, contents) = (target.list()?, target.contents()?);
        let script = format!("{}\nread_labels .", self::checks(&format!("{name}.on"), &list));
        let session = self.attend(machine, "2", &script)?;
        verdicts(outcomes, &session, &[".on.check-labels", ".on.check-namespace"], name);
        let last = session.look(LAST)?;
        outcomes.push((format!("{name}.on.list"), same_list(&list, &last.list, "what we went on with")));
        outcomes.push((format!("{name}.on.contents"), same_contents(&contents, last, "is there then")));
        outcomes.push((format!("{name}.on.read-labels"), self.same_labels(&session)));
        Ok(())
    }

    fn attend(&self, machine: &Machine, turn: &str, script: &str) -> Result<Session> {
        let mut files = Files::default();
        files.insert("data/mark".to_owned(), MARK.to_vec());
        let name = format!("model-{}-{turn}", self.name);
        let Target { lab, images, .. } = &self.target;
        attend(machine, &name, lab, images, files, &format!("{HELPERS}\n{CHECKS}\n{script}"))
    }

    /// The labels as `ndctl read-labels -j` tells them, and as we do.
    fn same_labels(&self, session: &Session) -> Result<String> {
        let mut areas = 0;
        let names = self.target.list()?;
        for dimm in self.target.lab.dimms.iter().filter(|dimm| dimm.label_size > 0) {
            let file = format!("read-labels-{}.json", dimm.handle);
            let said = session.files.get(&file).ok_or_else(|| format!("no {file}"))?;
            let mut theirs: Value = serde_json::from_str(said).context(&file)?;
            let of_dimm = names.pointer("/0/dimms").and_then(Value::as_array).into_iter().flatten();
            let mut of_dimm = of_dimm.filter(|known| known.get("handle") == Some(&json!(dimm.handle)));
            let dev = of_dimm.next().and_then(|known| known.get("dev")).cloned();
            let dev = dev.ok_or_else(|| format!("we list no DIMM {}", dimm.handle))?;
            let mut place = self.target.toml.clone().into_os_string();
            place.push("#");
            place.push(dev.as_str().unwrap_or_default());
            let area = self.target.list_of(Path::new(&place), "read-labels -j")?;
            if let Some(place) = theirs.pointer_mut("/0/dev") {
                *place = dev;
            }
            ensure(area == theirs, || format!("DIMM {}: {area}, ndctl says {theirs}", dimm.handle))?;
            areas += 1;
        }
        Ok(format!("ndctl reads {areas} label areas as we do"))
    }
}

/// A line of script that has ndctl check what a list shows.
fn checks(name: &str, list: &Value) -> String {
    let mut sectors = 0;
    let mut todo = vec![list];
    while let Some(value) = todo.pop() {
        match value {
            Value::Array(values) => todo.extend(values),
            Value::Object(keys) => {
                sectors += usize::from(keys.get("mode").is_some_and(|mode| mode == "sector"));
                todo.extend(keys.values());
            }
            _ => {}
        }
    }
    format!("checks {name} {sectors}")
}

/// Takes over the cases of a script; those that end so must be there.
fn verdicts(outcomes: &mut Outcomes, session: &Session, wanted: &[&str], name: &str) {
    for verdict in &session.verdicts {
        let words = verdict.words.clone();
        let outcome = if verdict.ok { Ok(words) } else { Err(words.into()) };
        outcomes.push((verdict.case.clone(), outcome));
    }
    for end in wanted {
        let case = format!("{name}{end}");
        if !session.verdicts.iter().any(|verdict| verdict.case == case) {
            outcomes.push((case, Err("the script said nothing about it".into())));
        }
    }
}

fn same_list(ours: &Value, theirs: &Value, words: &str) -> Result<String> {
    compare(ours, theirs, &[])?;
    let count = theirs.pointer("/0/regions").and_then(Value::as_array).into_iter().flatten();
    let count: usize =
        count.filter_map(|region| region.get("namespaces").and_then(Value::as_array).map(Vec::len)).sum();
    ensure(count > 0, || "no namespace".to_owned())?;
    Ok(format!("{words}, {count} namespaces, is listed by ndctl and by us alike, key by key"))
}

fn same_contents(ours: &BTreeMap<String, String>, theirs: &GuestView, words: &str) -> Result<String> {
    let mut different = String::new();
    for id in ours.keys().chain(theirs.contents.keys()) {
        let (ours, theirs) = (ours.get(id), theirs.contents.get(id));
        if ours != theirs && !different.contains(id.as_str()) {
            let _ = write!(different, "{id}: {ours:?} with us, {theirs:?} with Linux; ");
        }
    }
    ensure(different.is_empty() && !ours.is_empty(), || different)?;
    Ok(format!("both read the same on {} devices that {words}", ours.len()))
}
