//! Variables of the environment, laid over the configuration.
//!
//! `CULVERT_LISTEN` is the key `listen`, `CULVERT_NODE__CID` is `node.cid`: two underscores are a level. A value is
//! taken as it is, `true` and `false` and an empty one or `null` (no value) excepted; one that begins with `{`, `[` or a
//! quote is read as YAML. A variable that is no key is a fault, so that a slip of the pen does not go unseen.
//! These are not configuration and are left alone: `CULVERT_LOG` (the log's filter, for a single run),
//! `CULVERT_FFMPEG9` and `CULVERT_TEST*` (for the tests).
#![deny(clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::ffi::OsString;

use serde_json::Value;

use super::read::{Wrong, document, whole};
use super::{Config, Fault};

const PREFIX: &str = "CULVERT_";
/// No key is deeper.
const MAX_LEVELS: usize = 4;

/// The variables of this process that are configuration.
pub fn environment() -> Result<Vec<(String, String)>, Fault> {
    as_text(std::env::vars_os())
}

pub(super) fn as_text(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Vec<(String, String)>, Fault> {
    let named = variables.into_iter().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let ours = named.filter(|(name, _)| is_ours(name)).map(|(name, value)| match value.into_string() {
        Ok(value) => Ok((name, value)),
        Err(_) => Err(Fault::Variable { name, sentence: "this value is not UTF-8".into() }),
    });
    ours.collect()
}

/// Lays the variables over a configuration. Those that do not begin with `CULVERT_` are ignored.
pub fn overlay(config: Config, variables: impl IntoIterator<Item = (String, String)>) -> Result<Config, Fault> {
    // In order of name, so that CULVERT_NODE comes before CULVERT_NODE__CID.
    let ours: BTreeMap<String, String> = variables.into_iter().filter(|(name, _)| is_ours(name)).collect();
    if ours.is_empty() {
        return Ok(config);
    }
    let below = serde_json::to_value(&config).expect("all keys are text and all values finite");
    let mut all = below.clone();
    for (name, text) in &ours {
        lay(&mut all, name, text)?;
    }
    let whole = match read(&all) {
        Ok(config) => return Ok(config),
        Err(sentence) => sentence,
    };
    // Which of them was it? One that gives the same fault alone; else it takes several of them to be wrong.
    for (name, text) in &ours {
        let mut alone = below.clone();
        lay(&mut alone, name, text)?;
        if read(&alone).is_err_and(|sentence| sentence == whole) {
            return Err(Fault::Variable { name: name.clone(), sentence: whole });
        }
    }
    let names = ours.into_keys().collect::<Vec<_>>().join(", ");
    Err(Fault::Variable { name: names, sentence: whole })
}

fn is_ours(name: &str) -> bool {
    let other = ["CULVERT_LOG", "CULVERT_FFMPEG9"].contains(&name) || name.starts_with("CULVERT_TEST");
    name.starts_with(PREFIX) && !other
}

/// JSON is YAML: by way of text the faults are in the same words as those of the file.
fn read(value: &Value) -> Result<Config, String> {
    whole(&value.to_string()).map_err(|wrong| wrong.sentence)
}

fn lay(config: &mut Value, name: &str, text: &str) -> Result<(), Fault> {
    let fault = |sentence: String| Fault::Variable { name: name.to_string(), sentence };
    let keys: Vec<String> = name.trim_start_matches(PREFIX).split("__").map(str::to_ascii_lowercase).collect();
    if keys.len() > MAX_LEVELS || keys.iter().any(String::is_empty) {
        return Err(fault(
            "this is no key; a variable is CULVERT_ and a key, as in CULVERT_NODE__CID for node.cid".into(),
        ));
    }
    let mut place = config;
    for key in keys {
        if place.is_null() {
            *place = Value::Object(serde_json::Map::new());
        }
        let Value::Object(rows) = place else {
            return Err(fault(format!("there is no key `{key}` below a single value")));
        };
        place = rows.entry(key).or_insert(Value::Null);
    }
    *place = value(text).map_err(|wrong| fault(wrong.sentence))?;
    Ok(())
}

fn value(text: &str) -> Result<Value, Wrong> {
    match text.trim() {
        "" | "null" | "~" => Ok(Value::Null),
        "true" => Ok(Value::Bool(true)),
        "false" => Ok(Value::Bool(false)),
        yaml if yaml.starts_with(['{', '[', '"', '\'']) => document(yaml),
        plain => Ok(Value::String(plain.to_string())),
    }
}
