//! Reads the configuration: the only place that knows which YAML library it is.
#![deny(clippy::indexing_slicing)]

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use culvert_m7s::config::{Translated, translate};
use thiserror::Error;

use super::cascade::{Places, contradiction};
use super::{Config, overlay};

/// The file that `culvert run` reads where none is named and this one is there.
pub const DEFAULT_FILE: &str = "culvert.yaml";
/// A configuration of 10,000 users and as many pulls stays below it.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// What is wrong with the configuration, and where.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Fault {
    /// At a place in the file; line and column count from 1.
    #[error("{}:{line}:{column}: {sentence}", path.display())]
    At {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// In characters, from 1.
        column: u64,
        /// What is wrong and what would be right.
        sentence: String,
    },
    /// With the file as a whole.
    #[error("{}: {sentence}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        sentence: String,
    },
    /// With a variable of the environment.
    #[error("{name}: {sentence}")]
    Variable {
        /// The variable.
        name: String,
        /// What is wrong and what would be right.
        sentence: String,
    },
}

/// The configuration in force: that of the file (of [`DEFAULT_FILE`] where there is one and none is named, else the
/// defaults), with the variables laid over it (see [`overlay`]).
pub fn load(file: Option<&Path>, variables: impl IntoIterator<Item = (String, String)>) -> Result<Config, Fault> {
    let config = match file {
        Some(path) => parse(&read(path)?.ok_or_else(|| missing(path))?, path)?,
        None => {
            let path = Path::new(DEFAULT_FILE);
            read(path)?.map_or(Ok(Config::default()), |text| parse(&text, path))?
        }
    };
    let of_m7s = config.of_m7s.clone();
    Ok(Config { of_m7s, ..overlay(config, variables)? })
}

/// Reads a configuration from its text, ours or that of m7s v4. `path` is for faults.
pub fn parse(text: &str, path: &Path) -> Result<Config, Fault> {
    let path = path.to_path_buf();
    if let Some(Translated { config, warnings }) = of_m7s(text) {
        let text = serde_saphyr::to_string(&config).expect("what JSON can say, YAML can");
        // Where in the file it was, the translation does not tell.
        let sentence =
            |wrong: Wrong| format!("as a configuration of ours this file of m7s has a fault: {}", wrong.sentence);
        let config = whole(&text).map_err(|wrong| Fault::File { path, sentence: sentence(wrong) })?;
        return Ok(Config { of_m7s: warnings, ..config });
    }
    match whole(text) {
        Ok(config) => Ok(config),
        Err(Wrong { place: Some((line, column)), sentence }) => Err(Fault::At { path, line, column, sentence }),
        Err(Wrong { place: None, sentence }) => Err(Fault::File { path, sentence }),
    }
}

/// A file of m7s, which has blocks that ours has not.
fn of_m7s(text: &str) -> Option<Translated> {
    // Most files are ours, and these words are not in them.
    if !text.contains("erwscascade") && !text.contains("global") {
        return None;
    }
    translate(&document::<serde_json::Value>(text).ok()?)
}

/// A fault before it is known in what.
pub(super) struct Wrong {
    pub(super) place: Option<(u64, u64)>,
    pub(super) sentence: String,
}

/// Reads a configuration: each section by itself, and what they say of one another.
pub(super) fn whole(text: &str) -> Result<Config, Wrong> {
    let config: Config = document(text)?;
    let Some((row, sentence)) = contradiction(&config) else { return Ok(config) };
    let place = document::<Places>(text).ok().and_then(|places| places.of_row(row));
    Err(Wrong { place, sentence })
}

/// Reads one YAML document; nothing at all is the default.
pub(super) fn document<T: serde::de::DeserializeOwned + Default>(text: &str) -> Result<T, Wrong> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
    };
    let read: Result<Option<T>, _> = serde_saphyr::from_str_with_options(text, options);
    match read {
        Ok(value) => Ok(value.unwrap_or_default()),
        Err(error) => {
            let error = error.without_snippet();
            let place = error.location().filter(|at| at.line() > 0).map(|at| (at.line(), at.column()));
            Err(Wrong { place, sentence: sentence(error) })
        }
    }
}

/// Says in our words what the library found; never with a value that could be a secret.
#[allow(clippy::wildcard_enum_match_arm, reason = "the library's enum, which grows; its own words do for the rest")]
fn sentence(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error as E;
    match error {
        E::SerdeUnknownField { field, expected, .. } => unknown_key(field, expected),
        E::DuplicateMappingKey { key: Some(key), .. } => format!("the key `{key}` is here for the second time"),
        E::SerdeMissingField { field, .. } => format!("the key `{field}` is missing here"),
        E::SerdeInvalidType { unexpected, expected, .. } | E::SerdeInvalidValue { unexpected, expected, .. } => {
            format!("this should be {expected}, not a {}", kind(unexpected))
        }
        E::Message { msg, .. } => msg.clone(),
        E::Unexpected { expected, .. } if expected.contains("mapping") => {
            "this should be a section of keys and values".into()
        }
        E::Unexpected { expected, .. } if expected.contains("sequence") => "this should be a list".into(),
        E::Unexpected { expected, .. } if expected.contains("scalar") => "this should be a single value".into(),
        E::NullIntoString { .. } => "a value is missing here".into(),
        E::InvalidBooleanStrict { .. } => "this should be true or false".into(),
        E::MultipleDocuments { .. } => "this file has a second document (---); put everything in one".into(),
        // The library's own words end with the place, which ours begin with.
        other => {
            let text = other.to_string();
            let end = [" at line ", " (at line ", "\n"].iter().filter_map(|cut| text.find(cut)).min();
            text.get(..end.unwrap_or(text.len())).unwrap_or_default().to_string()
        }
    }
}

/// The first word of serde's `string "abc"`, which is its type.
fn kind(unexpected: &str) -> &str {
    match unexpected.split_whitespace().next().unwrap_or_default() {
        "string" => "text",
        "integer" | "floating" => "number",
        "unit" => "missing value",
        "map" => "section",
        "sequence" => "list",
        other => other,
    }
}

/// Keys that the documents know and this version does not, each with a key of the section where it belongs.
const LATER: [(&str, &str); 2] = [("jwt", "anonymous"), ("hook", "anonymous")];

fn unknown_key(key: &str, known: &[&str]) -> String {
    let list = known.join(", ");
    if LATER.iter().any(|(later, beside)| *later == key && known.contains(beside)) {
        return format!("the key `{key}` is not in this version; known keys here are {list}");
    }
    let near = known.iter().map(|known| (distance(key, known), known)).min();
    let hint = match near {
        // Two slips in a short word would match anything.
        Some((slips, near)) if slips <= 1 || (slips == 2 && key.len() > 4) => format!("did you mean `{near}`? "),
        Some(_) | None => String::new(),
    };
    format!("unknown key `{}`; {hint}known keys here are {list}", key.escape_debug().take(60).collect::<String>())
}

/// How many letters to change, add or leave out (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    /// No key is longer; and the key is from outside.
    const MOST: usize = 32;
    if a.len() > MOST || b.len() > MOST {
        return MOST;
    }
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut before = i + 1;
        for (cell, right) in row.iter_mut().skip(1).zip(b.chars()) {
            let changed = diagonal + usize::from(left != right);
            diagonal = *cell;
            before = changed.min(diagonal + 1).min(before + 1);
            *cell = before;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(MOST)
}

/// The text of a file; None: there is no such file.
fn read(path: &Path) -> Result<Option<String>, Fault> {
    let fault = |sentence: String| Fault::File { path: path.to_path_buf(), sentence };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(None),
        Err(why) => return Err(fault(format!("this file cannot be opened: {why}"))),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|why| fault(format!("this file cannot be read: {why}")))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE_BYTES) {
        return Err(fault(format!("this file has more than {} MiB; a configuration is smaller", MAX_FILE_BYTES >> 20)));
    }
    String::from_utf8(bytes).map(Some).map_err(|why| {
        fault(format!("this file is not UTF-8: its byte {} is none of it", why.utf8_error().valid_up_to() + 1))
    })
}

fn missing(path: &Path) -> Fault {
    Fault::File { path: path.to_path_buf(), sentence: "there is no such file".into() }
}
