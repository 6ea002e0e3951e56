// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a verb talks, and what it leaves behind.

use std::fmt::Display;

use nvstack_media::Error;
use serde_json::Value;

use crate::json::{self, Style};

/// Where the words of a verb go: stderr, in a command.
pub trait Reporter {
    /// Something failed, and the verb may go on with the next object. `ndctl` prints `  Error: VERB: TEXT`.
    fn error(&mut self, text: &dyn Display);
    /// Something is not as it should be and does not end the verb.
    fn warning(&mut self, text: &dyn Display);
    /// Something worth knowing.
    fn note(&mut self, text: &dyn Display);
    /// The line that ends a verb: `created 1 namespace`.
    fn count(&mut self, text: &dyn Display) {
        self.note(text);
    }
}

/// A reporter that keeps what it is told, each line as `ndctl` writes it.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    /// The lines.
    pub lines: Vec<String>,
}

impl Reporter for Lines {
    fn error(&mut self, text: &dyn Display) {
        self.lines.push(format!("  Error: {text}"));
    }
    fn warning(&mut self, text: &dyn Display) {
        self.lines.push(format!("  Warning: {text}"));
    }
    fn note(&mut self, text: &dyn Display) {
        self.lines.push(text.to_string());
    }
}

/// What a verb leaves behind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// What goes to stdout as JSON: documents, one after the other.
    pub json: Vec<Value>,
    /// What goes to stdout, or to a file, as it is.
    pub bytes: Option<Vec<u8>>,
    /// How many objects it worked on.
    pub count: usize,
    /// The exit status: the low byte of the first failure's negative errno, or 0.
    pub status: u8,
}

impl Outcome {
    /// The text for stdout, as the json-c library lays it out; empty where there is nothing to print.
    #[must_use]
    pub fn text(&self) -> String {
        self.json.iter().map(json::text).collect()
    }

    /// Notes a failure: it is told, and the first one makes the exit status.
    pub(crate) fn fail(&mut self, reporter: &mut dyn Reporter, error: &Error) {
        reporter.error(error);
        if self.status == 0 {
            self.status = status(error);
        }
    }

    /// An outcome that is objects: an array, or for people the one object without its brackets. Nothing where there is
    /// none.
    pub(crate) fn objects(mut objects: Vec<Value>, style: Style) -> Option<Value> {
        match (objects.len(), style.human) {
            (0, _) => None,
            (1, true) => objects.pop(),
            _ => Some(Value::Array(objects)),
        }
    }
}

/// The exit status of an error: EBUSY is 240, EINVAL 234 ...
#[must_use]
pub fn status(error: &Error) -> u8 {
    u8::try_from(error.kind().errno()).unwrap_or(u8::MAX).wrapping_neg()
}

/// `one`, or `many` of them: `1 namespace`, `0 namespaces`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// As [`counted`], for DIMMs: `ndctl` says `0 nmem`.
pub(crate) fn counted_dimms(count: usize) -> String {
    format!("{count} nmem{}", if count > 1 { "s" } else { "" })
}
