// SPDX-License-Identifier: MIT OR Apache-2.0
//! JSON as `ndctl` prints it, byte for byte: the layout of the json-c library, and the `--human` rules.

use std::io::{self, Write};

use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

use nvstack_format::size;

/// An object with its keys in the order of insertion.
pub type Object = serde_json::Map<String, Value>;

/// How numbers are shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// For people: large sizes with units, addresses in hexadecimal.
    pub human: bool,
}

impl Style {
    /// A size: a number, or words when it is large and meant for people.
    #[must_use]
    pub fn size(self, bytes: u64) -> Value {
        if self.human && bytes >= 5000 << 10 { size::human(bytes).into() } else { bytes.into() }
    }

    /// An address or identifier: a number, or hexadecimal for people. Zero stays "0", as C's `%#llx` has it.
    #[must_use]
    pub fn hex(self, value: u64) -> Value {
        match (self.human, value) {
            (false, _) => value.into(),
            (true, 0) => "0".into(),
            (true, _) => format!("{value:#x}").into(),
        }
    }
}

/// The text of a value, with its last newline.
#[must_use]
pub fn text(value: &Value) -> String {
    let mut out = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut out, JsonC::default());
    // Writing a Value into memory has no way to fail.
    let _ = serde::Serialize::serialize(value, &mut serializer);
    out.push(b'\n');
    String::from_utf8(out).unwrap_or_default()
}

/// json-c's "pretty": two spaces a level, no space after the colon, `/` escaped, an empty array over two lines.
#[derive(Default)]
struct JsonC {
    level: usize,
}

impl JsonC {
    fn line<W: ?Sized + Write>(&self, out: &mut W) -> io::Result<()> {
        out.write_all(b"\n")?;
        (0..self.level).try_for_each(|_| out.write_all(b"  "))
    }

    fn open<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.level = self.level.saturating_add(1);
        out.write_all(bracket)
    }

    fn close<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.level = self.level.saturating_sub(1);
        self.line(out)?;
        out.write_all(bracket)
    }

    fn next<W: ?Sized + Write>(&self, out: &mut W, first: bool) -> io::Result<()> {
        if !first {
            out.write_all(b",")?;
        }
        self.line(out)
    }
}

impl Formatter for JsonC {
    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"[")
    }
    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"]")
    }
    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.next(out, first)
    }
    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"{")
    }
    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"}")
    }
    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.next(out, first)
    }
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        for (i, piece) in fragment.split('/').enumerate() {
            if i > 0 {
                out.write_all(b"\\/")?;
            }
            out.write_all(piece.as_bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_that_of_json_c() {
        let value =
            serde_json::json!([{ "file": "/a/b", "z": 1, "a": [], "q": "\"\n", "o": [{ "k": true }] }]);
        let want = "[\n  {\n    \"file\":\"\\/a\\/b\",\n    \"z\":1,\n    \"a\":[\n    ],\n    \"q\":\"\\\"\\n\",\n    \"o\":[\n      {\n        \"k\":true\n      }\n    ]\n  }\n]\n";
        assert_eq!(text(&value), want);
        assert_eq!(text(&serde_json::json!([])), "[\n]\n");
    }

    #[test]
    fn people_get_units_and_hexadecimal() {
        let (raw, human) = (Style::default(), Style { human: true });
        assert_eq!(raw.size(5000 << 10), 5_120_000);
        assert_eq!(human.size((5000 << 10) - 1), 5_119_999);
        assert_eq!(human.size(5000 << 10), "4.88 MiB (5.12 MB)");
        assert_eq!(
            (raw.hex(4096), human.hex(4096), human.hex(0)),
            (4096.into(), "0x1000".into(), "0".into())
        );
    }
}
