// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compares two lists as `ndctl list` prints them. Numbers of devices and the order of lists come by chance of a boot: a thing
//! is known by what it keeps, its handle, uuid or cookie.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde_json::{Map, Value};

use crate::report::{Result, ensure};

/// What tells the things of a list from each other, the first of these that a thing has.
const IDENTITIES: [&str; 7] = ["provider", "handle", "raw_uuid", "uuid", "iset_id", "position", "size"];

/// Fails at the first difference between two lists, naming the place in `wanted`. Keys in `ignored` are not looked at. A kind of
/// device that a list names by its number keeps the kind: `pmem0.1s` is still a `pmem s`.
pub(crate) fn compare(found: &Value, wanted: &Value, ignored: &[&str]) -> Result<()> {
    let mask = |list: &Value| Mask { dimms: dimms(list), ignored }.apply("", list);
    differ("", &mask(found), &mask(wanted))
}

/// The handle of each DIMM that a list describes, by the name that it has there.
fn dimms(list: &Value) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    let mut todo = vec![list];
    while let Some(value) = todo.pop() {
        match value {
            Value::Array(values) => todo.extend(values),
            Value::Object(keys) => {
                if let (Some(dev), Some(handle)) =
                    (keys.get("dev").and_then(Value::as_str), keys.get("handle"))
                {
                    all.insert(dev.to_owned(), handle.clone());
                }
                todo.extend(keys.values());
            }
            _ => {}
        }
    }
    all
}

struct Mask<'a> {
    dimms: BTreeMap<String, Value>,
    ignored: &'a [&'a str],
}

impl Mask<'_> {
    /// The value without what comes by chance, lists in an order of their own.
    fn apply(&self, key: &str, value: &Value) -> Value {
        match (key, value) {
            ("dimm", Value::String(name)) => self.dimms.get(name).unwrap_or(value).clone(),
            ("dev" | "blockdev" | "chardev", Value::String(name)) => Value::String(kind(name)),
            (_, Value::Array(values)) => {
                let mut values: Vec<Value> = values.iter().map(|value| self.apply(key, value)).collect();
                if values.iter().all(Value::is_object) {
                    values.sort_by_cached_key(|value| identity(value).1);
                }
                Value::Array(values)
            }
            (_, Value::Object(keys)) => {
                let kept = |name: &str| !self.ignored.contains(&name) && (key, name) != ("daxregion", "id");
                let kept = keys.iter().filter(|(name, _)| kept(name));
                Value::Object(kept.map(|(name, value)| (name.clone(), self.apply(name, value))).collect())
            }
            _ => value.clone(),
        }
    }
}

/// The name of a device without its numbers: `namespace1.0` and `pmem1.2s` are `namespace` and `pmem s`.
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

fn differ(place: &str, found: &Value, wanted: &Value) -> Result<()> {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => objects(place, found, wanted),
        (Value::Array(found), Value::Array(wanted)) => {
            for (found, wanted) in found.iter().zip(wanted) {
                let (key, known_by) = identity(wanted);
                differ(&format!("{place}[{key}={}]", known_by.trim()), found, wanted)?;
            }
            let count = (found.len(), wanted.len());
            ensure(count.0 == count.1, || words(place, format_args!("{} of them", count.0), count.1))
        }
        _ => ensure(found == wanted, || words(place, found, wanted)),
    }
}

fn objects(place: &str, found: &Map<String, Value>, wanted: &Map<String, Value>) -> Result<()> {
    for (key, wanted) in wanted {
        let place = format!("{place}.{key}");
        match found.get(key) {
            Some(found) => differ(&place, found, wanted)?,
            None => return Err(words(&place, "nothing", wanted).into()),
        }
    }
    match found.iter().find(|(key, _)| !wanted.contains_key(*key)) {
        Some((key, found)) => Err(words(&format!("{place}.{key}"), found, "nothing").into()),
        None => Ok(()),
    }
}

fn words(place: &str, found: impl Display, wanted: impl Display) -> String {
    format!("at {}: found {found}, wanted {wanted}", if place.is_empty() { "the top" } else { place })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn list() -> Value {
        json!([{
            "provider": "ACPI.NFIT",
            "dev": "ndbus0",
            "dimms": [
                {"dev": "nmem0", "id": "8089-a", "handle": 1},
                {"dev": "nmem1", "id": "8089-b", "handle": 2},
            ],
            "regions": [{
                "dev": "region0",
                "size": 1000,
                "iset_id": 77,
                "mappings": [
                    {"dimm": "nmem0", "offset": 0, "position": 0},
                    {"dimm": "nmem1", "offset": 0, "position": 1},
                ],
                "namespaces": [
                    {"dev": "namespace0.0", "mode": "sector", "uuid": "aa", "blockdev": "pmem0s"},
                    {"dev": "namespace0.1", "mode": "devdax", "uuid": "bb",
                     "daxregion": {"id": 0, "devices": [{"chardev": "dax0.1", "size": 9}]}},
                ],
            }],
        }])
    }

    fn first_difference(found: &Value) -> String {
        compare(found, &list(), &[]).expect_err("they differ").to_string()
    }

    #[test]
    fn numbers_and_order_of_a_boot_are_no_difference() {
        let other_boot = json!([{
            "regions": [{
                "iset_id": 77,
                "dev": "region3",
                "size": 1000,
                "namespaces": [
                    {"dev": "namespace3.0", "mode": "devdax", "uuid": "bb",
                     "daxregion": {"id": 3, "devices": [{"chardev": "dax3.0", "size": 9}]}},
                    {"dev": "namespace3.12", "mode": "sector", "uuid": "aa", "blockdev": "pmem3.12s"},
                ],
                "mappings": [
                    {"dimm": "nmem0", "offset": 0, "position": 1},
                    {"dimm": "nmem7", "offset": 0, "position": 0},
                ],
            }],
            "provider": "ACPI.NFIT",
            "dev": "ndbus0",
            "dimms": [
                {"dev": "nmem7", "id": "8089-a", "handle": 1},
                {"dev": "nmem0", "id": "8089-b", "handle": 2},
            ],
        }]);
        compare(&other_boot, &list(), &[]).expect("the same things");
    }

    #[test]
    fn the_first_difference_is_named_by_its_place() {
        let mut other = list();
        other[0]["regions"][0]["namespaces"][1]["mode"] = json!("fsdax");
        assert_eq!(
            first_difference(&other),
            "at [provider=ACPI.NFIT].regions[iset_id=77].namespaces[uuid=bb].mode: found \"fsdax\", wanted \"devdax\""
        );
        let mut other = list();
        other[0]["regions"][0]["namespaces"][0]["blockdev"] = json!("pmem0");
        assert!(first_difference(&other).contains("namespaces[uuid=aa].blockdev"), "no longer a BTT's");
        let mut other = list();
        other[0]["dimms"][1].as_object_mut().expect("a DIMM").remove("id");
        assert!(first_difference(&other).ends_with("dimms[handle=2].id: found nothing, wanted \"8089-b\""));
        let mut other = list();
        other[0]["regions"][0]["health"] = json!("good");
        assert!(
            first_difference(&other).ends_with("regions[iset_id=77].health: found \"good\", wanted nothing")
        );
        compare(&other, &list(), &["health"]).expect("it is not to be looked at");
        let mut other = list();
        other[0]["regions"][0]["namespaces"].as_array_mut().expect("a list").pop();
        assert!(first_difference(&other).ends_with("namespaces: found 1 of them, wanted 2"));
    }

    #[test]
    fn dimms_of_a_set_are_known_by_their_handles() {
        let mut other = list();
        other[0]["regions"][0]["mappings"][0]["dimm"] = json!("nmem1");
        other[0]["regions"][0]["mappings"][1]["dimm"] = json!("nmem0");
        assert!(first_difference(&other).ends_with("mappings[position=0].dimm: found 2, wanted 1"));
        let mut other = list();
        other[0]["regions"][0]["size"] = json!("1000");
        assert!(first_difference(&other).contains(".size: found \"1000\", wanted 1000"));
    }
}
