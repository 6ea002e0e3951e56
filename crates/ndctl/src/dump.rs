// SPDX-License-Identifier: MIT OR Apache-2.0
//! A tree that was written down.

use std::collections::BTreeMap;

use nvstack_media::{Error, Kind, Result};

use crate::sys::{Sys, no_entry};

/// How many links one path may go through, as Linux has it (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// One entry of a [`Dump`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A directory.
    Directory,
    /// A symbolic link: its text, relative to the directory that it stands in.
    Link(String),
    /// An attribute: its text, or what reading it failed with.
    Attribute(Result<String, Kind>),
}

/// A tree as text: one line for each entry, `path|type|mode|content`.
///
/// `path` is absolute and only those below `/sys` count, `type` is `d`, `l` or `f`, the content is that of the
/// attribute with `\n` for a newline or `<ERR:message>` for what reading it failed with, and for a link its target. It
/// can be listed as a machine is: what somebody has sent with a bug report. Nothing in it can be changed.
#[derive(Clone, Debug, Default)]
pub struct Dump {
    entries: BTreeMap<String, Entry>,
}

impl Dump {
    /// Reads a dump. [`Kind::Invalid`] names the line that is none.
    pub fn parse(text: &str) -> Result<Dump> {
        let mut dump = Dump::default();
        for (number, line) in text.lines().enumerate() {
            let bad = || {
                Error::new(Kind::Invalid, "read dump")
                    .found(format_args!("line {}: {line:?}", number.saturating_add(1)))
                    .accepted("path|type|mode|content")
            };
            let mut fields = line.splitn(4, '|');
            let (Some(path), Some(kind), Some(_), Some(content)) =
                (fields.next(), fields.next(), fields.next(), fields.next())
            else {
                return Err(bad());
            };
            let Some(path) = path.strip_prefix("/sys/") else { continue };
            let entry = match kind {
                "d" => Entry::Directory,
                "l" => Entry::Link(content.to_owned()),
                "f" => Entry::Attribute(attribute(content)),
                _ => return Err(bad()),
            };
            dump.insert(path, entry);
        }
        Ok(dump)
    }

    /// Adds an entry, and the directories that it stands in.
    pub fn insert(&mut self, path: &str, entry: Entry) {
        let mut parent = path;
        while let Some((above, _)) = parent.rsplit_once('/') {
            self.entries.entry(above.to_owned()).or_insert(Entry::Directory);
            parent = above;
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// Removes an entry and all that is in it.
    pub fn remove(&mut self, path: &str) {
        let inside = format!("{path}/");
        self.entries.retain(|p, _| p != path && !p.starts_with(&inside));
    }

    /// The entry at a path, and the path without links. With `follow` a link at its end is followed too.
    pub fn find(&self, path: &str, follow: bool) -> Result<(String, &Entry)> {
        let mut rest: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let mut at: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(name) = rest.pop() {
            match name.as_str() {
                "" | "." => continue,
                ".." => {
                    at.pop();
                    continue;
                }
                _ => at.push(name),
            }
            if !follow && rest.is_empty() {
                break;
            }
            if let Some(Entry::Link(target)) = self.entries.get(&at.join("/")) {
                links = usize::saturating_add(links, 1);
                if links > MAX_LINKS {
                    return Err(no_entry(path).found("too many links"));
                }
                at.pop();
                rest.extend(target.split('/').rev().map(str::to_owned));
            }
        }
        let real = at.join("/");
        match self.entries.get(&real) {
            Some(entry) => Ok((real, entry)),
            None => Err(no_entry(path)),
        }
    }
}

fn attribute(content: &str) -> Result<String, Kind> {
    let Some(message) = content.strip_prefix("<ERR:").and_then(|m| m.strip_suffix('>')) else {
        return Ok(content.replace("\\n", "\n"));
    };
    Err(match message {
        "No such device or address" => Kind::Gone,
        "Permission denied" => Kind::Permission,
        "Invalid argument" => Kind::Invalid,
        _ => Kind::Io,
    })
}

fn fixed<T>(operation: &'static str, path: &str) -> Result<T> {
    Err(Error::new(Kind::ReadOnly, operation)
        .path(path)
        .found("a tree that was written down")
        .accepted("reading its attributes"))
}

impl Sys for Dump {
    fn read(&self, path: &str) -> Result<String> {
        match self.find(path, true)?.1 {
            Entry::Attribute(Ok(text)) => Ok(text.clone()),
            Entry::Attribute(Err(kind)) => {
                Err(Error::new(*kind, "read attribute").path(format!("/sys/{path}")))
            }
            Entry::Directory | Entry::Link(_) => Err(Error::new(Kind::Invalid, "read attribute")
                .path(format!("/sys/{path}"))
                .found("a directory")
                .accepted("an attribute")),
        }
    }

    fn write(&self, path: &str, _: &str) -> Result<()> {
        fixed("store into attribute", path)
    }

    fn list(&self, path: &str) -> Result<Vec<String>> {
        let (real, _) = self.find(path, true)?;
        let inside = format!("{real}/");
        let names = self.entries.range(inside.clone()..).map_while(|(p, _)| p.strip_prefix(&inside));
        Ok(names.filter(|rest| !rest.contains('/')).map(str::to_owned).collect())
    }

    fn link(&self, path: &str) -> Result<String> {
        match self.find(path, false)? {
            (_, Entry::Link(_)) => Ok(self.find(path, true)?.0),
            _ => Err(no_entry(path).accepted("a symbolic link")),
        }
    }

    fn read_dev(&self, dev: &str, _: u64, _: &mut [u8]) -> Result<()> {
        fixed("read device", dev)
    }
    fn write_dev(&self, dev: &str, _: u64, _: &[u8]) -> Result<()> {
        fixed("write device", dev)
    }
    fn label_size(&self, dimm: &str) -> Result<u64> {
        fixed("read label area", dimm)
    }
    fn label_read(&self, dimm: &str, _: u64, _: &mut [u8]) -> Result<()> {
        fixed("read label area", dimm)
    }
    fn label_write(&self, dimm: &str, _: u64, _: &[u8]) -> Result<()> {
        fixed("write label area", dimm)
    }
    fn inject_error(&self, region: &str, _: u64, _: u64) -> Result<()> {
        fixed("inject errors", region)
    }
    fn clear_error(&self, region: &str, _: u64, _: u64) -> Result<()> {
        fixed("clear errors", region)
    }
}
