// SPDX-License-Identifier: MIT OR Apache-2.0
//! Code, schema and documentation say the same.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;

use nvstack_lab::{FLAGS, KEYS, Lab, Template, TemplateDimm};
use serde_json::{Map, Value, json};
use toml::de::{DeTable, DeValue};

const README: &str = include_str!("../README.md");

fn schema() -> Value {
    serde_json::from_str(include_str!("../lab.schema.json")).unwrap()
}

/// The schema's part for a table.
fn of<'s>(schema: &'s Value, table: &str) -> &'s Value {
    if table.is_empty() { schema } else { &schema["$defs"][table] }
}

fn examples() -> Vec<&'static str> {
    let examples: Vec<_> =
        README.split("```toml\n").skip(1).map(|rest| rest.split_once("```").unwrap().0).collect();
    assert!(examples.len() >= 3);
    examples
}

fn json_of(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => json!(text.as_ref()),
        DeValue::Integer(number) => json!(i64::from_str_radix(number.as_str(), number.radix()).unwrap()),
        DeValue::Boolean(flag) => json!(flag),
        DeValue::Array(values) => values.iter().map(|value| json_of(value.get_ref())).collect(),
        DeValue::Table(table) => Value::Object(object_of(table)),
        DeValue::Float(_) | DeValue::Datetime(_) => Value::Null,
    }
}

fn object_of(table: &DeTable<'_>) -> Map<String, Value> {
    table.iter().map(|(key, value)| (key.get_ref().to_string(), json_of(value.get_ref()))).collect()
}

/// What of JSON Schema the schema uses; every other word in it is an error.
fn valid(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let wrong = |word: &str| Err(format!("{word}: {value} against {schema}"));
    let any =
        |list: &Value| list.as_array().unwrap().iter().filter(|one| valid(root, one, value).is_ok()).count();
    for (word, rule) in schema.as_object().unwrap() {
        let holds = match word.as_str() {
            "$ref" => {
                let name = rule.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
                valid(root, &root["$defs"][name], value)?;
                true
            }
            "type" => match rule.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "integer" => value.is_i64() || value.is_u64(),
                "boolean" => value.is_boolean(),
                other => panic!("type {other}"),
            },
            "properties" => {
                for (key, value) in value.as_object().into_iter().flatten() {
                    if let Some(rule) = rule.get(key) {
                        valid(root, rule, value)?;
                    }
                }
                true
            }
            "additionalProperties" => {
                assert_eq!(rule, &json!(false));
                let known = schema["properties"].as_object().unwrap();
                value.as_object().is_none_or(|object| object.keys().all(|key| known.contains_key(key)))
            }
            "required" => {
                rule.as_array().unwrap().iter().all(|key| {
                    value.as_object().is_none_or(|object| object.contains_key(key.as_str().unwrap()))
                })
            }
            "items" => {
                value.as_array().into_iter().flatten().try_for_each(|item| valid(root, rule, item))?;
                true
            }
            "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= rule.as_u64().unwrap()),
            "maxItems" => value.as_array().is_none_or(|items| items.len() as u64 <= rule.as_u64().unwrap()),
            "uniqueItems" => value.as_array().is_none_or(|items| {
                items.iter().map(Value::to_string).collect::<BTreeSet<_>>().len() == items.len()
            }),
            "minimum" => value.as_i64().is_none_or(|number| number >= rule.as_i64().unwrap()),
            "maximum" => value.as_i64().is_none_or(|number| number <= rule.as_i64().unwrap()),
            "minLength" => value.as_str().is_none_or(|text| !text.is_empty()),
            "enum" => rule.as_array().unwrap().contains(value),
            "anyOf" => any(rule) > 0,
            "oneOf" => any(rule) == 1,
            // Sizes; `bytes_as_the_schema_has_them` looks at it.
            "pattern" => true,
            "$schema" | "$comment" | "title" | "description" | "default" | "$defs" => true,
            other => panic!("{other} is not checked"),
        };
        if !holds {
            return wrong(word);
        }
    }
    Ok(())
}

#[test]
fn the_schema_has_exactly_the_keys_of_the_code() {
    let schema = schema();
    for (table, keys) in KEYS {
        let part = of(&schema, table);
        let listed: BTreeSet<&str> =
            part["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(listed, keys.iter().copied().collect(), "[{table}]");
        assert_eq!(part["additionalProperties"], json!(false), "[{table}]");
        for (key, rule) in part["properties"].as_object().unwrap() {
            assert!(rule["description"].is_string(), "{key} of [{table}] is not described");
        }
    }
    let words: Vec<&str> = schema["$defs"]["bus.dimm"]["properties"]["flags"]["items"]["enum"]
        .as_array()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap())
        .collect();
    assert_eq!(words, FLAGS);
}

#[test]
fn every_example_is_a_lab_and_fits_the_schema() {
    let schema = schema();
    let dimms =
        vec![TemplateDimm { file: "a.img".into(), size: Some(1 << 30), label_size: Some(128 << 10) }; 3];
    let template = Template { dimms, sets: Vec::new() }.render();
    for text in examples().into_iter().chain([template.as_str()]) {
        Lab::parse(text, "README.md").unwrap();
        let table = DeTable::parse(text).unwrap();
        let value = Value::Object(object_of(table.get_ref()));
        valid(&schema, &schema, &value).unwrap_or_else(|e| panic!("{e}\n{text}"));
    }
    for text in [
        "bus = []",
        "[[bus]]\nx = 1",
        "[[bus]]\ndimm = [{}]",
        "[[bus]]\ndimm = [{ file = 'a', memory = 4096 }]",
        "[[bus]]\ndimm = [{ file = 'a', serial = 0x100000000 }]",
        "[[bus]]\ndimm = [{ file = 'a', flags = ['x'] }]",
        "[[bus]]\ndimm = [{ file = 'a' }]\nregion = [{ members = [{}] }]",
    ] {
        assert!(Lab::parse(text, "x").is_err(), "{text}");
        let value = Value::Object(object_of(DeTable::parse(text).unwrap().get_ref()));
        assert!(valid(&schema, &schema, &value).is_err(), "{text}");
    }
}

#[test]
fn every_key_is_in_an_example_and_is_explained() {
    let mut used = BTreeSet::new();
    fn walk(table: &str, value: &Value, used: &mut BTreeSet<(String, String)>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| walk(table, item, used)),
            Value::Object(object) => {
                for (key, value) in object {
                    used.insert((table.to_owned(), key.clone()));
                    let inner = if table.is_empty() { key.clone() } else { format!("{table}.{key}") };
                    walk(&inner, value, used);
                }
            }
            _ => {}
        }
    }
    for text in examples() {
        walk("", &Value::Object(object_of(DeTable::parse(text).unwrap().get_ref())), &mut used);
    }
    for (table, keys) in KEYS {
        for key in *keys {
            assert!(
                used.contains(&((*table).to_owned(), (*key).to_owned())),
                "{key} of [{table}] is in no example"
            );
            let array = format!("`[[{table}.{key}]]`").replace("[[.", "[[");
            let explained = README.contains(&format!("`{key}`")) || README.contains(&array);
            assert!(explained, "{key} of [{table}] is not explained");
        }
    }
}

/// A key that is taken and then forgotten would be worse than one that is refused.
#[test]
fn every_key_matters() {
    let values = |key: &str| match key {
        "file" => "'other.img'",
        "memory" => "'32M'",
        "size" | "offset" | "align" => "'4M'",
        "label-size" => "'64K'",
        "start" => "'16G'",
        "flags" => "['map_fail']",
        "type" => "'volatile'",
        "persistence" => "'cpu_cache'",
        "read-only" => "true",
        "numa-node" | "target-node" => "'none'",
        "provider" => "'mine'",
        "interleave" => "'concat'",
        "region-offset" => "64",
        _ => "7",
    };
    for (table, keys) in KEYS.iter().filter(|(table, _)| table.contains('.')) {
        for key in *keys {
            if ["memory", "dimm", "members", "position"].contains(key) {
                continue;
            }
            let extra = |here: &str| {
                if here == *table { format!("{key} = {}\n", values(key)) } else { String::new() }
            };
            let file = if *key == "file" { "" } else { "file = 'a.img'\n" };
            let text = match *table {
                "bus.range" | "bus.ram" => format!("[[bus]]\n[[{table}]]\n{file}{}", extra(table)),
                _ => format!(
                    "[[bus]]\n[[bus.dimm]]\n{file}{}[[bus.region]]\n{}members = [{{ dimm = 0, {} }}]\n",
                    extra("bus.dimm"),
                    extra("bus.region"),
                    extra("bus.region.members").trim_end(),
                )
                .replace(", }", " }"),
            };
            let plain = text.replace(
                &format!("{key} = {}", values(key)),
                if *key == "file" { "file = 'a.img'" } else { "" },
            );
            let plain = plain.replace(",  }", " }");
            let (with, without) = (Lab::parse(&text, "x").unwrap(), Lab::parse(&plain, "x").unwrap());
            // Places differ anyhow.
            let told = |lab: &Lab| {
                let text = format!("{lab:?}");
                let mut rest = text.as_str();
                let mut told = String::new();
                while let Some((before, after)) = rest.split_once("Position {") {
                    told += before;
                    rest = after.split_once('}').unwrap().1;
                }
                told + rest
            };
            assert_ne!(told(&with), told(&without), "{key} of [{table}] changes nothing:\n{text}\n{plain}");
        }
    }
}
