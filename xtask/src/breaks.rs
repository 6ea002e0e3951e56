// SPDX-License-Identifier: MIT OR Apache-2.0
//! Breaks: each test that stands for a promise is seen to fail when what it guards is broken.
//!
//! `xtask/breaks/*.toml` lists changes of the source, each with the test that must fail on it. They are made one at a time in a copy
//! of the workspace; what became of each is kept in `trust/breaks.json`, from which `TESTING.md` is made.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::process::{Ran, command, run, run_or_stop, succeed};
use crate::report::{Context, Result, ensure};
use crate::unit::{target, workspace};

/// A test binary may take this long to build; the first one builds everything.
const BUILD: Duration = Duration::from_secs(1200);
/// Unbroken tests of a binary may take this long, on a machine that is busy with other things.
const UNBROKEN: Duration = Duration::from_secs(600);
/// A test that is stopped after this time, and ten times what all tests of its binary take unbroken, was made to wait for ever.
const FOREVER: Duration = Duration::from_secs(60);

/// One file of the list: the breaks that a test binary must catch.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    package: String,
    target: String,
    #[serde(rename = "break")]
    breaks: Vec<Break>,
}

/// A change that a test must fail on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Break {
    test: String,
    file: String,
    words: String,
    find: String,
    put: String,
    /// What else belongs to it.
    #[serde(default)]
    also: Vec<Also>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Also {
    /// Another file; the same, if none is named.
    file: Option<String>,
    find: String,
    put: String,
}

/// A piece of source that takes the place of another, which stands once in its file.
struct Edit<'a> {
    file: &'a str,
    find: &'a str,
    put: &'a str,
}

impl Break {
    fn edits(&self) -> Vec<Edit<'_>> {
        let first = Edit { file: &self.file, find: &self.find, put: &self.put };
        let more = self.also.iter().map(|also| Edit {
            file: also.file.as_deref().unwrap_or(&self.file),
            find: &also.find,
            put: &also.put,
        });
        std::iter::once(first).chain(more).collect()
    }
}

impl List {
    /// How a test is called in what is kept.
    fn name(&self, this: &Break) -> String {
        format!("{}::{}", self.target, this.test)
    }

    /// Where the package is, below a workspace.
    fn folder(&self, root: &Path) -> PathBuf {
        root.join("crates").join(self.package.trim_start_matches("nvstack-"))
    }
}

/// What became of a break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// The test failed.
    Failed,
    /// The test waited for ever, and was stopped.
    Hung,
    /// The test passed: it does not guard what it says.
    Survived,
}

/// A row of `trust/breaks.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) test: String,
    pub(crate) file: String,
    pub(crate) words: String,
    pub(crate) outcome: Outcome,
    /// The first words of the failure.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) said: String,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) struct Options {
    /// Only tests whose names contain this.
    pub(crate) only: Option<String>,
    /// Also those that were seen to fail before.
    pub(crate) anew: bool,
    /// Leave what was built for the next run.
    pub(crate) keep: bool,
}

/// Makes the breaks, and keeps what became of them. It is a failure if a test passes all the same.
pub(crate) fn breaks(options: &Options) -> Result<()> {
    let lists = lists()?;
    let mut rows = rows()?;
    let all: Vec<_> = lists.iter().flat_map(|list| list.breaks.iter().map(|this| key(list, this))).collect();
    // What is no longer listed is not known any more.
    rows.retain(|key, _| all.contains(key));
    let mut copy = None;
    let (mut seen, mut survived) = (0, Vec::new());
    for list in lists {
        let wanted: Vec<&Break> = list
            .breaks
            .iter()
            .filter(|this| options.only.as_ref().is_none_or(|only| list.name(this).contains(only)))
            .filter(|this| options.anew || !rows.contains_key(&key(&list, this)))
            .collect();
        if wanted.is_empty() {
            continue;
        }
        let copy = match &mut copy {
            Some(copy) => copy,
            none => none.insert(Copy::new(options.keep)?),
        };
        let limit = copy.unbroken(&list).context(format!("{}, unbroken", list.target))?;
        for this in wanted {
            let test = list.name(this);
            let (outcome, said) = copy.make(&list, this, limit).context(format!("{test}: {}", this.words))?;
            eprintln!("{test}: {}: {outcome:?}: {said}", this.words);
            seen += 1;
            if outcome == Outcome::Survived {
                rows.remove(&key(&list, this));
                survived.push(format!("{test} ({})", this.words));
            } else {
                let row = Row { test, file: this.file.clone(), words: this.words.clone(), outcome, said };
                rows.insert(key(&list, this), row);
            }
            // After each: a run of all takes half an hour.
            keep(&rows)?;
        }
    }
    keep(&rows)?;
    eprintln!("{seen} breaks were made, of which {} went unnoticed", survived.len());
    ensure(survived.is_empty(), || format!("not noticed by {}", survived.join(", ")))
}

/// What is known of the breaks that are listed now, and which of them are not known.
pub(crate) fn known() -> Result<(Vec<Row>, Vec<String>)> {
    let rows = rows()?;
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for list in lists()? {
        for this in &list.breaks {
            match rows.get(&key(&list, this)) {
                Some(row) if row.file == this.file => known.push(row.clone()),
                _ => unknown.push(format!("`{}` ({})", list.name(this), this.words)),
            }
        }
    }
    Ok((known, unknown))
}

/// Test and words.
type Key = (String, String);
type Rows = BTreeMap<Key, Row>;

fn key(list: &List, this: &Break) -> Key {
    (list.name(this), this.words.clone())
}

fn kept() -> PathBuf {
    workspace().join("trust/breaks.json")
}

fn rows() -> Result<Rows> {
    let path = kept();
    if !path.is_file() {
        return Ok(Rows::new());
    }
    let text = fs::read_to_string(&path).context(path.display())?;
    let rows: Vec<Row> = serde_json::from_str(&text).context(path.display())?;
    Ok(rows.into_iter().map(|row| ((row.test.clone(), row.words.clone()), row)).collect())
}

fn keep(rows: &Rows) -> Result<()> {
    let path = kept();
    let rows: Vec<&Row> = rows.values().collect();
    let mut text = serde_json::to_string_pretty(&rows).context("JSON")?;
    text.push('\n');
    fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).context(path.display())?;
    fs::write(&path, text).context(path.display())
}

fn lists() -> Result<Vec<List>> {
    let folder = workspace().join("xtask/breaks");
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .context(folder.display())?
        .map(|entry| entry.map(|entry| entry.path()).context(folder.display()))
        .collect::<Result<_>>()?;
    paths.sort();
    paths
        .iter()
        .map(|path| {
            let text = fs::read_to_string(path).context(path.display())?;
            toml::from_str(&text).context(path.display())
        })
        .collect()
}

/// A copy of the workspace to break, which goes when this does.
struct Copy {
    home: PathBuf,
    keep: bool,
    /// Locked, for two would break each other's.
    _lock: fs::File,
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(if self.keep { self.root() } else { self.home.clone() });
    }
}

impl Copy {
    fn new(keep: bool) -> Result<Copy> {
        let home = target().join("breaks");
        fs::create_dir_all(&home).context(home.display())?;
        let lock = fs::File::create(home.join("lock")).context(home.display())?;
        lock.try_lock().context(format_args!("{}, which another run of this chore has", home.display()))?;
        let copy = Copy { home, keep, _lock: lock };
        let mut list = command("git", ["ls-files", "--cached", "--others", "--exclude-standard", "-z"]);
        let files = succeed(list.current_dir(workspace()), FOREVER)?.stdout;
        let _ = fs::remove_dir_all(copy.root());
        for file in files.split('\0').filter(|file| !file.is_empty()) {
            let (from, to) = (workspace().join(file), copy.root().join(file));
            if from.is_file() {
                fs::create_dir_all(to.parent().unwrap_or(Path::new("."))).context(to.display())?;
                fs::copy(&from, &to).context(to.display())?;
            }
        }
        Ok(copy)
    }

    fn root(&self) -> PathBuf {
        self.home.join("copy")
    }

    /// A test that fails anyhow shows nothing. Gives the time after which one is stopped.
    fn unbroken(&self, list: &List) -> Result<Duration> {
        let program = self.build(list)?;
        let begun = Instant::now();
        succeed(&mut self.test(list, &program, &[]), UNBROKEN)?;
        Ok(FOREVER + begun.elapsed() * 10)
    }

    /// Makes a break, runs its test, and mends it.
    fn make(&self, list: &List, this: &Break, limit: Duration) -> Result<(Outcome, String)> {
        let mut whole = BTreeMap::new();
        let broken = this.edits().iter().try_for_each(|edit| {
            let path = self.root().join(edit.file);
            let text = fs::read_to_string(&path).context(edit.file)?;
            let broken = replaced(&text, edit)?;
            whole.entry(path.clone()).or_insert(text);
            fs::write(&path, broken).context(edit.file)
        });
        let ran = broken
            .and_then(|()| self.build(list))
            .and_then(|program| run_or_stop(&mut self.test(list, &program, &["--exact", &this.test]), limit));
        for (path, text) in whole {
            fs::write(&path, text).context(path.display())?;
        }
        let (ran, ended) = ran?;
        ensure(!ended || ran.stdout.contains("running 1 test\n"), || {
            format!("no such test:{}", ran.words())
        })?;
        let outcome = match (ended, ran.status.success()) {
            (false, _) => Outcome::Hung,
            (true, false) => Outcome::Failed,
            (true, true) => Outcome::Survived,
        };
        Ok((outcome, if outcome == Outcome::Failed { said(&ran) } else { String::new() }))
    }

    /// Builds a test binary.
    fn build(&self, list: &List) -> Result<PathBuf> {
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build.args(["test", "--package", &list.package, "--test", &list.target, "--no-run"]);
        build.current_dir(self.root()).env("CARGO_TARGET_DIR", self.home.join("target"));
        // Small and fast to build. What is broken need not be tidy.
        build
            .env("CARGO_INCREMENTAL", "1")
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .env("RUSTFLAGS", "-Awarnings");
        let built = run(&mut build, BUILD)?;
        ensure(built.status.success(), || format!("it does not build:{}", built.words()))?;
        let line = built.stderr.lines().rev().find(|line| line.contains("Executable"));
        let program = line.and_then(|line| Some(line.rsplit_once('(')?.1.trim_end_matches(')')));
        let program = program.ok_or_else(|| format!("no test binary:{}", built.words()))?;
        Ok(self.root().join(program))
    }

    /// A test binary as it is run.
    fn test(&self, list: &List, program: &Path, args: &[&str]) -> Command {
        let mut test = command(program, args);
        test.current_dir(list.folder(&self.root()));
        test.env("RUST_BACKTRACE", "0").env("PROPTEST_FAILURE_PERSISTENCE", "off");
        test
    }
}

fn replaced(text: &str, edit: &Edit<'_>) -> Result<String> {
    let count = text.matches(edit.find).count();
    ensure(count == 1, || format!("{}: found {count} times, accepted once: {}", edit.file, edit.find))?;
    Ok(text.replacen(edit.find, edit.put, 1))
}

/// The words of the first panic.
fn said(ran: &Ran) -> String {
    let mut lines = ran.stdout.lines().chain(ran.stderr.lines());
    let at = lines.by_ref().find(|line| line.contains("panicked at"));
    let words = lines.take_while(|line| !line.starts_with("note:") && !line.is_empty()).take(3);
    let words = words.map(str::trim).collect::<Vec<_>>().join(" ");
    match at {
        Some(_) => words.chars().take(160).collect(),
        None => ran.status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tests of the device model that stand for a promise.
    fn promises() -> Vec<String> {
        let folder = workspace().join("crates/stack/tests");
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let Some(target) = path.file_name().and_then(|n| n.to_str()?.strip_suffix(".rs")) else {
                continue;
            };
            for line in fs::read_to_string(&path).expect("tests").lines() {
                let name = line.trim_start().strip_prefix("fn ").and_then(|line| line.split('(').next());
                let first = name.and_then(|name| name.split('_').next()).unwrap_or_default();
                let property = first.strip_prefix(['s', 'r']).is_some_and(|n| n.parse::<u32>().is_ok());
                if property || ["labels", "probes"].contains(&first) && line.ends_with("() {") {
                    found.push(format!("{target}::{}", name.expect("a name")));
                }
            }
        }
        found
    }

    #[test]
    fn each_break_fits_the_source_and_has_its_test() {
        for list in lists().expect("a list") {
            let path = list.folder(&workspace()).join(format!("tests/{}.rs", list.target));
            let tests = fs::read_to_string(path).expect("tests");
            for this in &list.breaks {
                assert!(tests.contains(&format!("fn {}(", this.test)), "{}", this.test);
                for edit in this.edits() {
                    let source = fs::read_to_string(workspace().join(edit.file)).expect("a source");
                    assert_ne!(replaced(&source, &edit).expect("once"), source, "{}", this.test);
                }
            }
        }
    }

    #[test]
    fn each_test_of_a_promise_has_a_break() {
        let listed: Vec<String> = lists()
            .expect("a list")
            .iter()
            .flat_map(|list| list.breaks.iter().map(|this| list.name(this)).collect::<Vec<_>>())
            .collect();
        let promises = promises();
        assert!(promises.len() > 70, "{promises:?}");
        let lacking: Vec<&String> = promises.iter().filter(|test| !listed.contains(test)).collect();
        assert!(lacking.is_empty(), "{lacking:?} in xtask/breaks");
    }

    #[test]
    fn each_break_was_seen_to_fail_and_each_property_has_one() {
        let (known, unknown) = known().expect("rows");
        assert!(unknown.is_empty(), "cargo xtask breaks: {unknown:?}");
        let words: Vec<&str> = known
            .iter()
            .flat_map(|row| row.test.split("::").skip(1).flat_map(|test| test.split('_')))
            .collect();
        let properties = (1..=11).map(|n| format!("s{n}")).chain((1..=24).map(|n| format!("r{n}")));
        let lacking: Vec<String> =
            properties.filter(|property| !words.contains(&property.as_str())).collect();
        assert!(lacking.is_empty(), "{lacking:?}");
    }
}
