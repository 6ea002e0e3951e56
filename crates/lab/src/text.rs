// SPDX-License-Identifier: MIT OR Apache-2.0
//! Places in the description, as people count them.

use std::borrow::Cow;
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
}

impl Text<'_> {
    /// The place of a byte; the end for what is beyond.
    pub(crate) fn position(&self, byte: usize) -> Position {
        // A span may end or begin inside a character only if the parser is wrong; the whole text is better than a panic.
        let before = self.text.get(..byte).unwrap_or(self.text);
        let line = before.bytes().filter(|b| *b == b'\n').count().saturating_add(1);
        let column = before.chars().rev().take_while(|c| *c != '\n').count().saturating_add(1);
        Position { line, column }
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
        let text = Text { path: Path::new("x"), text: "aé = 1\nb\n" };
        let of = |byte| text.position(byte).to_string();
        assert_eq!(of(0), "1:1");
        assert_eq!(of(4), "1:4", "é has two bytes");
        assert_eq!(of(8), "2:1");
        assert_eq!(of(10), "3:1");
        assert_eq!(of(2), "3:1", "inside é is no place");
        assert_eq!(of(1000), "3:1");
    }
}
