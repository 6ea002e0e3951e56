// SPDX-License-Identifier: MIT OR Apache-2.0
//! Values out of TOML tables, each with its place, or an error that names it.

use std::ops::Range;

use nvstack_format::size;
use nvstack_media::{Error, Result};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::text::{At, Position, Text};

type Value<'t> = Spanned<DeValue<'t>>;

/// A table whose keys are all known.
pub(crate) struct Table<'t> {
    text: &'t Text<'t>,
    /// As TOML writes it: `[[bus.dimm]]`.
    name: &'static str,
    table: &'t DeTable<'t>,
    pub(crate) at: Position,
}

impl<'t> Table<'t> {
    /// Takes a table, unless it has a key that is not among `keys`.
    pub(crate) fn new(
        text: &'t Text<'t>,
        name: &'static str,
        keys: &'static [&'static str],
        table: &'t DeTable<'t>,
        span: Range<usize>,
    ) -> Result<Table<'t>> {
        if !text.one_more() {
            return Err(text
                .refuse(text.position(span.start), format!("read {name}"))
                .found("one more table")
                .accepted(format_args!("{} in all", Text::TABLES_MAX)));
        }
        let unknown = table.keys().filter(|key| !keys.contains(&key.get_ref().as_ref()));
        match unknown.min_by_key(|key| key.span().start) {
            Some(key) => Err(unknown_key(text, name, keys, key)),
            None => Ok(Table { text, name, table, at: text.position(span.start) }),
        }
    }

    /// An error at a place in this table.
    pub(crate) fn refuse(&self, at: Position) -> Error {
        self.text.refuse(at, format!("read {}", self.name))
    }

    fn get(&self, key: &str) -> Option<&'t Value<'t>> {
        self.table.get(key)
    }

    fn place<T>(&self, value: T, of: &Value<'_>) -> At<T> {
        At { value, at: self.text.position(of.span().start) }
    }

    fn wrong(&self, key: &str, value: &Value<'_>, accepted: impl std::fmt::Display) -> Error {
        let at = self.text.position(value.span().start);
        self.text
            .refuse(at, format!("read {key} of {}", self.name))
            .found(self.text.excerpt(value.span()))
            .accepted(accepted)
    }

    /// The place of a key's value, or of the table.
    pub(crate) fn place_of(&self, key: &str) -> Position {
        self.get(key).map_or(self.at, |value| self.text.position(value.span().start))
    }

    pub(crate) fn string(&self, key: &str) -> Result<Option<At<&'t str>>> {
        self.get(key).map(|value| self.as_string(key, value)).transpose()
    }

    fn as_string(&self, key: &str, value: &'t Value<'t>) -> Result<At<&'t str>> {
        match value.get_ref() {
            DeValue::String(text) if !text.is_empty() => Ok(self.place(text.as_ref(), value)),
            _ => Err(self.wrong(key, value, "a string that is not empty")),
        }
    }

    /// A string that is one of a few.
    pub(crate) fn one_of<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let found = match value.get_ref() {
            DeValue::String(text) => words.iter().find(|(word, _)| *word == text.as_ref()),
            _ => None,
        };
        match found {
            Some((_, meaning)) => Ok(Some(*meaning)),
            None => Err(self.wrong(key, value, list(words.iter().map(|(word, _)| *word)))),
        }
    }

    /// Strings that are each one of a few, none twice.
    pub(crate) fn some_of(
        &self,
        key: &str,
        words: &'static [&'static str],
    ) -> Result<Option<Vec<&'static str>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let DeValue::Array(values) = value.get_ref() else {
            return Err(self.wrong(key, value, format_args!("an array of {}", list(words.iter().copied()))));
        };
        let mut found = Vec::new();
        for value in values {
            let word = match value.get_ref() {
                DeValue::String(text) => words.iter().find(|word| **word == text.as_ref()),
                _ => None,
            };
            match word.filter(|word| !found.contains(*word)) {
                Some(word) => found.push(*word),
                None => return Err(self.wrong(key, value, list_once(words))),
            }
        }
        Ok(Some(found))
    }

    pub(crate) fn boolean(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key).map(|value| (value, value.get_ref())) {
            None => Ok(None),
            Some((_, DeValue::Boolean(flag))) => Ok(Some(*flag)),
            Some((value, _)) => Err(self.wrong(key, value, "true or false")),
        }
    }

    /// A number from 0 to `most`, of a type that has room for that.
    pub(crate) fn number<T: TryFrom<u64>>(&self, key: &str, most: u64) -> Result<Option<At<T>>> {
        self.get(key).map(|value| self.as_number(key, value, most)).transpose()
    }

    fn as_number<T: TryFrom<u64>>(&self, key: &str, value: &Value<'_>, most: u64) -> Result<At<T>> {
        let number = integer(value).filter(|number| *number <= most).and_then(|n| T::try_from(n).ok());
        match number {
            Some(number) => Ok(self.place(number, value)),
            None => Err(self.wrong(key, value, format_args!("0 to {most:#x}"))),
        }
    }

    /// Bytes: a number, or a string such as "64M".
    pub(crate) fn bytes(&self, key: &str) -> Result<Option<At<u64>>> {
        self.get(key).map(|value| self.as_bytes(key, value)).transpose()
    }

    fn as_bytes(&self, key: &str, value: &Value<'_>) -> Result<At<u64>> {
        let bytes = match value.get_ref() {
            DeValue::String(text) => size::parse(text).ok(),
            _ => integer(value),
        };
        bytes.map(|bytes| self.place(bytes, value)).ok_or_else(|| {
            self.wrong(key, value, "bytes, as a number or as a string with one of K M G T at its end")
        })
    }

    /// Bytes, unless it is this word.
    pub(crate) fn bytes_or(&self, key: &str, word: &str) -> Result<Option<At<Option<u64>>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        if matches!(value.get_ref(), DeValue::String(text) if text.as_ref() == word) {
            return Ok(Some(self.place(None, value)));
        }
        match self.as_bytes(key, value) {
            Ok(bytes) => Ok(Some(At { value: Some(bytes.value), at: bytes.at })),
            Err(_) => Err(self.wrong(key, value, format_args!("bytes, or \"{word}\""))),
        }
    }

    /// An array of tables; none is an empty one.
    pub(crate) fn tables(
        &self,
        key: &'static str,
        name: &'static str,
        keys: &'static [&'static str],
    ) -> Result<Vec<Table<'t>>> {
        let items = self.items(key, name, keys)?;
        items
            .into_iter()
            .map(|item| match item {
                Item::Table(table) => Ok(table),
                Item::Number(number) => Err(self
                    .text
                    .refuse(number.at, format!("read {key} of {}", self.name))
                    .found(number.value)
                    .accepted(format_args!("tables, each begun with {name}"))),
            })
            .collect()
    }

    /// An array of tables, or of numbers that stand for tables.
    pub(crate) fn items(
        &self,
        key: &'static str,
        name: &'static str,
        keys: &'static [&'static str],
    ) -> Result<Vec<Item<'t>>> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let accepted = match name.starts_with('[') {
            true => format!("an array of tables, each begun with {name}"),
            false => "an array of numbers of DIMMs, or of tables with dimm = N".to_owned(),
        };
        let DeValue::Array(values) = value.get_ref() else { return Err(self.wrong(key, value, accepted)) };
        values
            .iter()
            .map(|value| match value.get_ref() {
                DeValue::Table(table) => {
                    Table::new(self.text, name, keys, table, value.span()).map(Item::Table)
                }
                DeValue::Integer(_) => self.as_number(key, value, u64::from(u32::MAX)).map(Item::Number),
                _ => Err(self.wrong(key, value, &accepted)),
            })
            .collect()
    }
}

/// A part of an array.
pub(crate) enum Item<'t> {
    Table(Table<'t>),
    Number(At<usize>),
}

fn integer(value: &Value<'_>) -> Option<u64> {
    match value.get_ref() {
        DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
        _ => None,
    }
}

fn list<'w>(words: impl Iterator<Item = &'w str>) -> String {
    words.map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}

fn list_once(words: &[&str]) -> String {
    format!("each of {} once", list(words.iter().copied()))
}

fn unknown_key(text: &Text<'_>, name: &str, keys: &[&str], key: &Spanned<DeString<'_>>) -> Error {
    let found = text.excerpt(key.span());
    let found = found.trim_matches(|c| c == '"' || c == '\'');
    let wanted = key.get_ref();
    // Only names that could be keys are compared; nobody mistypes a page.
    let near = |known: &&&str| {
        let far = distance(wanted, known);
        far <= 2 && far < known.len()
    };
    let best = Some(wanted)
        .filter(|wanted| wanted.len() < 40)
        .and_then(|_| keys.iter().filter(near).min_by_key(|known| distance(wanted, known)));
    let accepted = best.map_or_else(|| list(keys.iter().copied()), |key| format!("\"{key}\""));
    text.refuse(text.position(key.span().start), format!("read {name}"))
        .found(format_args!("the key \"{found}\""))
        .accepted(accepted)
}

/// How many letters are to be put in, taken out, replaced or swapped with their neighbours, to make one word of another.
fn distance(a: &str, b: &str) -> usize {
    // `_` for `-` and capitals are no distance at all, or a small one.
    let letters = |word: &str| -> Vec<char> {
        word.chars().map(|c| if c == '_' { '-' } else { c.to_ascii_lowercase() }).collect()
    };
    let (a, b) = (letters(a), letters(b));
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    let cell = |row: Option<&Vec<usize>>, at: Option<usize>| {
        row.zip(at).and_then(|(row, at)| row.get(at)).copied().unwrap_or(usize::MAX)
    };
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i.saturating_add(1)];
        for (j, y) in b.iter().enumerate() {
            let above = rows.last();
            let mut best = cell(above, Some(j)).saturating_add(usize::from(x != y));
            best = best.min(cell(above, j.checked_add(1)).saturating_add(1));
            best = best.min(cell(Some(&row), Some(j)).saturating_add(1));
            let before = |word: &[char], at: usize| at.checked_sub(1).and_then(|at| word.get(at).copied());
            if before(&a, i) == Some(*y) && before(&b, j) == Some(*x) {
                let two_up = rows.len().checked_sub(2).and_then(|up| rows.get(up));
                best = best.min(cell(two_up, j.checked_sub(1)).saturating_add(1));
            }
            row.push(best);
        }
        rows.push(row);
    }
    cell(rows.last(), Some(b.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, far) in [
            ("file", "file", 0),
            ("label_size", "label-size", 0),
            ("flie", "file", 1),
            ("fil", "file", 1),
            ("files", "file", 1),
            ("lable-szie", "label-size", 2),
            ("", "ram", 3),
        ] {
            assert_eq!(distance(a, b), far, "{a} {b}");
            assert_eq!(distance(b, a), far, "{b} {a}");
        }
    }
}
