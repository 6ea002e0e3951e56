// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compares lists as `ndctl` prints them. Numbers of devices and the order of lists come by chance of a boot: a thing is known
//! by what it keeps, its handle, uuid or cookie.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// What tells the things of a list from each other, the first of these that a thing has.
const IDENTITIES: [&str; 7] = ["provider", "handle", "raw_uuid", "uuid", "iset_id", "position", "size"];

/// The first difference between two lists, by its place, or none.
pub(crate) fn difference(found: &Value, wanted: &Value) -> Option<String> {
    let mask = |list: &Value| masked(&dimms(list), "", list);
    differ("", &mask(found), &mask(wanted)).err()
}

/// Fails at the first difference.
pub(crate) fn same(what: &str, found: &Value, wanted: &Value) {
    if let Some(difference) = difference(found, wanted) {
        panic!("{what}: {difference}");
    }
}

/// The handle of each DIMM that a list describes, by the name that it has there.
fn dimms(list: &Value) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    let mut todo = vec![list];
    while let Some(value) = todo.pop() {
        match value {
            Value::Array(values) => todo.extend(values),
            Value::Object(keys) => {
                if let (Some(dev), Some(handle)) = (keys.get("dev"), keys.get("handle")) {
                    all.insert(dev.as_str().unwrap().to_owned(), handle.clone());
                }
                todo.extend(keys.values());
            }
            _ => {}
        }
    }
    all
}

/// The value without what comes by chance, lists in an order of their own. Of a device's name the kind is left: `pmem0.1s` is
/// still a `pmem s`.
fn masked(dimms: &BTreeMap<String, Value>, key: &str, value: &Value) -> Value {
    match (key, value) {
        ("dimm", Value::String(name)) => dimms.get(name).unwrap_or(value).clone(),
        ("dev" | "blockdev" | "chardev", Value::String(name)) => Value::String(kind(name)),
        (_, Value::Array(values)) => {
            let mut values: Vec<Value> = values.iter().map(|value| masked(dimms, key, value)).collect();
            if values.iter().all(Value::is_object) {
                values.sort_by_cached_key(|value| identity(value).1);
            }
            Value::Array(values)
        }
        (_, Value::Object(keys)) => {
            let kept = keys.iter().filter(|(name, _)| (key, name.as_str()) != ("daxregion", "id"));
            Value::Object(kept.map(|(name, value)| (name.clone(), masked(dimms, name, value))).collect())
        }
        _ => value.clone(),
    }
}

fn kind(name: &str) -> String {
    let digits = |c: char| c.is_ascii_digit() || c == '.';
    match name.split_once(digits) {
        Some((kind, rest)) => format!("{kind} {}", rest.trim_start_matches(digits)).trim_end().to_owned(),
        None => name.to_owned(),
    }
}

/// What a thing is known by: the key and, for sorting, a text in which numbers have their order.
fn identity(thing: &Value) -> (&'static str, String) {
    for key in IDENTITIES {
        match thing.get(key) {
            Some(Value::Number(number)) => return (key, format!("{number:>20}")),
            Some(Value::String(text)) => return (key, text.clone()),
            _ => {}
        }
    }
    ("", thing.to_string())
}

fn differ(place: &str, found: &Value, wanted: &Value) -> Result<(), String> {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => objects(place, found, wanted),
        (Value::Array(found), Value::Array(wanted)) => {
            for (found, wanted) in found.iter().zip(wanted) {
                let (key, known_by) = identity(wanted);
                differ(&format!("{place}[{key}={}]", known_by.trim()), found, wanted)?;
            }
            if found.len() == wanted.len() {
                return Ok(());
            }
            Err(format!("at {place}: found {} of them, wanted {}", found.len(), wanted.len()))
        }
        _ if found == wanted => Ok(()),
        _ => Err(format!("at {place}: found {found}, wanted {wanted}")),
    }
}

/// The keys and their order.
fn objects(place: &str, found: &Map<String, Value>, wanted: &Map<String, Value>) -> Result<(), String> {
    for (key, wanted) in wanted {
        match found.get(key) {
            Some(found) => differ(&format!("{place}.{key}"), found, wanted)?,
            None => return Err(format!("at {place}.{key}: found nothing, wanted {wanted}")),
        }
    }
    match found.iter().find(|(key, _)| !wanted.contains_key(*key)) {
        Some((key, found)) => Err(format!("at {place}.{key}: found {found}, wanted nothing")),
        None => Ok(()),
    }
}
