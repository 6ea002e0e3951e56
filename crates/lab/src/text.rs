// SPDX-License-Identifier: MIT OR Apache-2.0
//! Places in the description, as people count them.

use std::borrow::Cow;
use std::cell::Cell;
use std::ffi::OsString;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use nvstack_media::{Error, Kind};

/// A place in a lab file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A value and where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) at: Position,
}

/// A description that is being read.
pub(crate) struct Text<'t> {
    pub(crate) path: &'t Path,
    pub(crate) text: &'t str,
    /// Where each line begins.
    lines: Vec<usize>,
    /// Tables so far.
    tables: Cell<usize>,
}

impl<'t> Text<'t> {
    /// Tables in one description. Far more than anybody has DIMMs, and few enough to compare each with each.
    pub(crate) const TABLES_MAX: usize = 4096;

    pub(crate) fn new(path: &'t Path, text: &'t str) -> Text<'t> {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(ends.map(|(at, _)| at.saturating_add(1))).collect();
        Text { path, text, lines, tables: Cell::new(0) }
    }

    /// Counts a table; false if it is one too many.
    pub(crate) fn one_more(&self) -> bool {
        self.tables.set(self.tables.get().saturating_add(1));
        self.tables.get() <= Self::TABLES_MAX
    }

    /// The place of a byte; the end for what is beyond.
    pub(crate) fn position(&self, byte: usize) -> Position {
        // A span begins inside a character only if the parser is wrong.
        let byte = if self.text.is_char_boundary(byte) { byte } else { self.text.len() };
        let line = self.lines.partition_point(|start| *start <= byte);
        let start = line.checked_sub(1).and_then(|line| self.lines.get(line)).copied().unwrap_or(0);
        let before = self.text.get(start..byte).unwrap_or_default();
        Position { line, column: before.chars().count().saturating_add(1) }
    }

    /// The text of a range, short enough for a message.
    pub(crate) fn excerpt(&self, range: Range<usize>) -> String {
        const MOST: usize = 60;
        let text = self.text.get(range).unwrap_or_default();
        match text.char_indices().nth(MOST) {
            Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
            None => text.to_owned(),
        }
        .escape_debug()
        // In TOML quotes are what a string looks like.
        .to_string()
        .replace("\\\"", "\"")
        .replace("\\'", "'")
    }

    /// An error at a place.
    pub(crate) fn refuse(&self, at: Position, operation: impl Into<Cow<'static, str>>) -> Error {
        refuse(self.path, at, operation)
    }
}

/// An error at a place of a file: `lab.toml:3:12: read ...`, which editors and terminals can follow.
pub(crate) fn refuse(path: &Path, at: Position, operation: impl Into<Cow<'static, str>>) -> Error {
    let mut place = OsString::from(path);
    place.push(format!(":{at}"));
    Error::new(Kind::Invalid, operation).path(PathBuf::from(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_lines_count_ends() {
        let text = Text::new(Path::new("x"), "aé = 1\nb\n");
        let of = |byte| text.position(byte).to_string();
        assert_eq!(of(0), "1:1");
        assert_eq!(of(4), "1:4", "é has two bytes");
        assert_eq!(of(8), "2:1");
        assert_eq!(of(10), "3:1");
        assert_eq!(of(2), "3:1", "inside é is no place");
        assert_eq!(of(1000), "3:1");
    }
}
