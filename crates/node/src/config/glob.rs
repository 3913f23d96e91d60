//! Patterns for stream names, in permissions and in pulls on demand.
//!
//! `*` stands for one segment or a part of one (at least one character, never `.` or `..`), `**` for one or more whole
//! segments. At most one `*` in a segment and one `**` in a pattern: matching is then linear in the name, and what each
//! of them stood for is never ambiguous.
#![deny(clippy::indexing_slicing)]

use std::fmt;
use std::sync::Arc;

use culvert_media::StreamName;
use serde::{Deserialize, Serialize, Serializer};

use super::values::{FromText, leaf_by_text, shown};

/// A compiled pattern.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Glob {
    text: Arc<str>,
    /// The segments before a `**`, or all of them.
    head: Arc<[Segment]>,
    /// The segments behind the `**`, where there is one.
    tail: Option<Arc<[Segment]>>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Segment {
    Literal(Box<str>),
    Star { before: Box<str>, behind: Box<str> },
}

impl Glob {
    /// Compiles a pattern; the fault is a sentence.
    pub fn parse(text: &str) -> Result<Glob, String> {
        let bad = |why: &str| format!("{} is no pattern for stream names: {why}", shown(text));
        if text.len() > StreamName::MAX_BYTES {
            return Err(bad("it has more than 255 bytes"));
        }
        let mut head = Vec::new();
        let mut tail: Option<Vec<Segment>> = None;
        for part in text.split('/') {
            if part == "**" {
                if tail.replace(Vec::new()).is_some() {
                    return Err(bad("it has ** more than once"));
                }
                continue;
            }
            let segment = match part.split_once('*') {
                None => {
                    StreamName::parse(part).map_err(|why| bad(&why.to_string()))?;
                    Segment::Literal(part.into())
                }
                Some((_, behind)) if behind.contains('*') => {
                    return Err(bad("a segment may have one *, or be ** and nothing else"));
                }
                Some((before, behind)) => {
                    // Checked as if the star stood for a letter, so that `.*` is no `.` segment.
                    StreamName::parse(&format!("{before}x{behind}")).map_err(|why| bad(&why.to_string()))?;
                    Segment::Star { before: before.into(), behind: behind.into() }
                }
            };
            tail.as_mut().unwrap_or(&mut head).push(segment);
        }
        Ok(Glob { text: text.into(), head: head.into(), tail: tail.map(Into::into) })
    }

    /// The pattern that every name matches.
    pub fn everything() -> Glob {
        Glob { text: "**".into(), head: Arc::new([]), tail: Some(Arc::new([])) }
    }

    /// Whether it is just `**`.
    pub fn is_everything(&self) -> bool {
        self.head.is_empty() && self.tail.as_ref().is_some_and(|tail| tail.is_empty())
    }

    /// Whether the whole name matches.
    pub fn matches(&self, name: &StreamName) -> bool {
        self.captures(name).is_some()
    }

    /// What each `*` and `**` stood for, in the order of the pattern; None: the name does not match.
    pub fn captures<'n>(&self, name: &'n StreamName) -> Option<Vec<&'n str>> {
        let mut captures = Vec::new();
        let mut rest = Some(name.as_str());
        for segment in self.head.iter() {
            let (first, behind) = first_segment(rest?);
            segment.capture(first, &mut captures)?;
            rest = behind;
        }
        let Some(tail) = &self.tail else {
            return rest.is_none().then_some(captures);
        };
        let mut middle = rest?;
        let mut last = Vec::with_capacity(tail.len());
        for segment in tail.iter().rev() {
            // Something must be left for the **, so there has to be a slash before each segment of the tail.
            let (before, text) = middle.rsplit_once('/')?;
            last.push((segment, text));
            middle = before;
        }
        captures.push(middle);
        for (segment, text) in last.into_iter().rev() {
            segment.capture(text, &mut captures)?;
        }
        Some(captures)
    }

    /// How many `*` and `**` it has.
    pub fn wildcards(&self) -> usize {
        let stars = |segments: &[Segment]| segments.iter().filter(|s| matches!(s, Segment::Star { .. })).count();
        stars(&self.head) + self.tail.as_ref().map_or(0, |tail| stars(tail) + 1)
    }

    /// How many bytes are not wildcards: of two patterns that match, the one with more is the closer one.
    pub fn literal_bytes(&self) -> usize {
        self.text.bytes().filter(|b| *b != b'*').count()
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Segment {
    fn capture<'n>(&self, text: &'n str, captures: &mut Vec<&'n str>) -> Option<()> {
        match self {
            Segment::Literal(literal) => (**literal == *text).then_some(()),
            Segment::Star { before, behind } => {
                let star = text.strip_prefix(&**before)?.strip_suffix(&**behind)?;
                // `cam*` and the name `cam..`: a capture goes into the path of a URL, where it must not climb.
                if matches!(star, "" | "." | "..") {
                    return None;
                }
                captures.push(star);
                Some(())
            }
        }
    }
}

fn first_segment(name: &str) -> (&str, Option<&str>) {
    match name.split_once('/') {
        Some((first, rest)) => (first, Some(rest)),
        None => (name, None),
    }
}

impl FromText for Glob {
    fn from_text(text: &str) -> Result<Glob, String> {
        Glob::parse(text)
    }
}
leaf_by_text!(Glob);

impl Serialize for Glob {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.text)
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn captured(pattern: &str, name: &str) -> Option<Vec<String>> {
        let name = StreamName::parse(name).unwrap();
        Glob::parse(pattern).unwrap().captures(&name).map(|all| all.into_iter().map(str::to_string).collect())
    }

    #[test]
    fn patterns_match_whole_names_only() {
        for (pattern, name, captures) in [
            ("live/a", "live/a", Some(vec![])),
            ("live/a", "live/ab", None),
            ("live/a", "live", None),
            ("live/a", "live/a/b", None),
            ("live/a", "LIVE/a", None),
            ("live/*", "live/a", Some(vec!["a"])),
            ("live/*", "live/a/b", None),
            ("live/*", "live", None),
            ("*", "a", Some(vec!["a"])),
            ("*", "a/b", None),
            ("*/*", "a/b", Some(vec!["a", "b"])),
            ("cam-*/main", "cam-7/main", Some(vec!["7"])),
            ("cam-*/main", "cam-/main", None),
            ("cam*", "cam..", None),
            ("*-c1", "a-c1-c1", Some(vec!["a-c1"])),
            ("a*a", "a", None),
            ("a*a", "aa", None),
            ("a*a", "aba", Some(vec!["b"])),
            ("**", "a", Some(vec!["a"])),
            ("**", "a/b/c", Some(vec!["a/b/c"])),
            ("public/**", "public/a/b", Some(vec!["a/b"])),
            ("public/**", "public", None),
            ("public/**", "publicity/a", None),
            ("**/cam", "a/b/cam", Some(vec!["a/b"])),
            ("**/cam", "cam", None),
            ("a/**/b", "a/b", None),
            ("a/**/b", "a/b/b", Some(vec!["b"])),
            ("a/*/**/b-*", "a/x/y/z/b-1", Some(vec!["x", "y/z", "1"])),
        ] {
            let captures = captures.map(|all: Vec<&str>| all.into_iter().map(str::to_string).collect());
            assert_eq!(captured(pattern, name), captures, "{pattern} on {name}");
        }
        assert!(Glob::everything().is_everything());
        assert_eq!(Glob::parse("**"), Ok(Glob::everything()));
    }

    #[test]
    fn a_pattern_that_no_name_could_match_or_that_is_ambiguous_is_refused() {
        for (pattern, why) in [
            ("", "empty segment"),
            ("/live/*", "empty segment"),
            ("live/", "empty segment"),
            ("live//*", "empty segment"),
            ("../**", "segment . or .."),
            ("live/?", "'?'"),
            ("**/**", "** more than once"),
            ("a**", "a segment may have one *"),
            ("***", "a segment may have one *"),
            ("*a*", "a segment may have one *"),
            (&"x".repeat(256), "more than 255"),
        ] {
            let fault = Glob::parse(pattern).unwrap_err();
            assert!(fault.contains(why), "{pattern}: {fault}");
        }
        assert!(Glob::parse(".*/a").is_ok());
    }

    #[test]
    fn the_longest_patterns_on_the_longest_names_take_no_time() {
        let name = StreamName::parse(&["a"; 128].join("/")).unwrap();
        let patterns = [["*"; 128].join("/"), format!("**/{}", ["*"; 125].join("/")), "a*a/".repeat(63) + "**"];
        let started = std::time::Instant::now();
        for _ in 0..1000 {
            for pattern in &patterns {
                let _ = Glob::parse(pattern).unwrap().matches(&name);
            }
        }
        assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
    }

    proptest! {
        #[test]
        fn any_text_is_compiled_or_refused(text in "[a*/.]{0,20}", name in "[a./]{1,20}") {
            if let (Ok(glob), Ok(name)) = (Glob::parse(&text), StreamName::parse(&name)) {
                let captures = glob.captures(&name);
                if let Some(captures) = captures {
                    prop_assert_eq!(captures.len(), glob.wildcards());
                    // Putting the captures back gives the name.
                    let mut filled = glob.as_str().replace("**", "*");
                    for capture in captures {
                        filled = filled.replacen('*', capture, 1);
                    }
                    prop_assert_eq!(filled.as_str(), name.as_str());
                }
            }
        }

        #[test]
        fn a_name_without_wildcards_matches_itself_alone(name in "[a-c]{1,3}(/[a-c]{1,3}){0,3}", other in "[a-c]{1,3}(/[a-c]{1,3}){0,3}") {
            let glob = Glob::parse(&name).unwrap();
            prop_assert_eq!(glob.matches(&StreamName::parse(&other).unwrap()), name == other);
        }
    }
}
