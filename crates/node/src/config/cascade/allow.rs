//! What an upper may call here: a list of methods and paths (security.md S5).
//!
//! Two paths are always allowed, since without them there is no cascade: the relay and the catalogue.
#![deny(clippy::indexing_slicing)]

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::values::{FromText, leaf_by_text, shown};

/// What an upper may call here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct Allow(Vec<AllowRule>);

/// Most rules: each request is compared with all of them.
const MAX_RULES: usize = 1000;
/// Longest path of a rule; nothing on the one port has a longer one.
const MAX_PATH_BYTES: usize = 1024;
/// What the cascade itself calls: it is allowed whatever the list says.
const OWN: [&str; 2] = ["* /relay/**", "* /cascade/v1/**"];
/// Reading and playing; what lies further below is decided there once more.
const DEFAULT: [&str; 16] = [
    "GET /api/v1/**",
    "GET /relay/**",
    "GET /cascade/v1/**",
    "GET /play/**",
    "GET /hdl/**",
    "GET /jessica/**",
    "GET /snapshot/**",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
    "* /whep/**",
    "* /webrtc/play/**",
    "* /peer/**",
    "GET /erwscascade/api/streamlist",
    "GET /api/list/push",
    "GET /api/stream",
];

impl Allow {
    /// Whether a request with this method for this path may be answered. The path is that which is answered: checked,
    /// percent-decoded once, without its query. Where GET is allowed, so is HEAD.
    pub fn allows(&self, method: &str, path: &str) -> bool {
        // Such a path is refused long before; if one came through, its rule would not be the rule of what answers it.
        let plain = path.starts_with('/') && !path.split('/').any(|segment| matches!(segment, "." | ".."));
        plain && (OWN.iter().any(|rule| constant(rule).covers(method, path)) || self.lists(method, path))
    }

    fn lists(&self, method: &str, path: &str) -> bool {
        self.0.iter().any(|rule| rule.covers(method, path))
    }
}

impl Default for Allow {
    fn default() -> Allow {
        Allow(DEFAULT.into_iter().map(constant).collect())
    }
}

fn constant(rule: &str) -> AllowRule {
    AllowRule::parse(rule).expect("our own rules are in our own grammar, which a test has read")
}

impl<'de> Deserialize<'de> for Allow {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Allow, D::Error> {
        // `allow:` with nothing behind it is not "nothing is allowed", which is `allow: []`.
        let Some(rules) = Option::<Vec<AllowRule>>::deserialize(from)? else { return Ok(Allow::default()) };
        if rules.len() > MAX_RULES {
            return Err(serde::de::Error::custom(format!("cascade.allow has more than {MAX_RULES} rules")));
        }
        Ok(Allow(rules))
    }
}

/// One rule: a method, or `*` for all, and a pattern of paths in which `*` stands for one segment and `**` for any number.
#[derive(Clone, PartialEq, Eq)]
pub struct AllowRule {
    text: String,
    method: Option<Box<str>>,
    segments: Vec<Segment>,
}

#[derive(Clone, PartialEq, Eq)]
enum Segment {
    Literal(Box<str>),
    One,
    Any,
}

impl AllowRule {
    /// Checks it; the fault is a sentence.
    pub fn parse(text: &str) -> Result<AllowRule, String> {
        let bad = |why: &str| format!("{} is no rule: {why}", shown(text));
        let how = "write a method, or * for all, and a path, as in GET /api/v1/**";
        let (method, path) = text.split_once(' ').ok_or_else(|| bad(how))?;
        let method = match method {
            "*" => None,
            name if !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') => Some(name.into()),
            _ => return Err(bad("a method is in capitals, such as GET, or * for all")),
        };
        if path.len() > MAX_PATH_BYTES {
            return Err(bad("its path has more than 1024 bytes"));
        }
        let Some(rest) = path.strip_prefix('/') else { return Err(bad(how)) };
        if path.chars().any(|c| c.is_control() || c.is_whitespace() || "?#\\".contains(c)) {
            return Err(bad("a path has no spaces, no \\ and no query"));
        }
        let mut segments = Vec::new();
        for segment in rest.split('/') {
            segments.push(match segment {
                "**" => Segment::Any,
                "*" => Segment::One,
                "." | ".." => return Err(bad("no request has a path with a segment . or ..")),
                // A slash at the end is a segment with nothing in it.
                "" if segments.len() < rest.matches('/').count() => return Err(bad("no request has a path with //")),
                part if part.contains('*') => {
                    return Err(bad("a segment is *, or **, or text without a *"));
                }
                part => Segment::Literal(part.into()),
            });
        }
        Ok(AllowRule { text: text.to_string(), method, segments })
    }

    fn covers(&self, method: &str, path: &str) -> bool {
        let may = match self.method.as_deref() {
            None => true,
            Some("GET") => matches!(method, "GET" | "HEAD"),
            Some(name) => name == method,
        };
        may && path.strip_prefix('/').is_some_and(|rest| matches(&self.segments, rest))
    }
}

/// Each `**` first stands for nothing and takes a segment more where what is behind it does not fit. Only the last one
/// need be tried again: an earlier one that took more could not lead further. So the time is the product of the lengths.
fn matches(pattern: &[Segment], path: &str) -> bool {
    let path: Vec<&str> = path.split('/').collect();
    let (mut at, mut in_path) = (0_usize, 0_usize);
    let mut last_any: Option<(usize, usize)> = None;
    while let Some(segment) = path.get(in_path) {
        let fits = match pattern.get(at) {
            Some(Segment::Any) => {
                at = at.saturating_add(1);
                last_any = Some((at, in_path));
                continue;
            }
            Some(Segment::One) => !segment.is_empty(),
            Some(Segment::Literal(literal)) => **literal == **segment,
            None => false,
        };
        if fits {
            (at, in_path) = (at.saturating_add(1), in_path.saturating_add(1));
        } else if let Some((behind, taken)) = last_any {
            let taken = taken.saturating_add(1);
            (at, in_path, last_any) = (behind, taken, Some((behind, taken)));
        } else {
            return false;
        }
    }
    pattern.get(at..).unwrap_or_default().iter().all(|segment| *segment == Segment::Any)
}

impl FromText for AllowRule {
    fn from_text(text: &str) -> Result<AllowRule, String> {
        AllowRule::parse(text)
    }
}
leaf_by_text!(AllowRule);

impl Serialize for AllowRule {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.text)
    }
}

impl fmt::Debug for AllowRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(rule: &str, method: &str, path: &str) -> bool {
        AllowRule::parse(rule).unwrap().covers(method, path)
    }

    #[test]
    fn one_star_is_one_segment_and_two_are_any_number() {
        for (rule, path, yes) in [
            ("GET /healthz", "/healthz", true),
            ("GET /healthz", "/healthz/", false),
            ("GET /healthz", "/healthz/x", false),
            ("GET /healthz", "/Healthz", false),
            ("GET /a/*", "/a/b", true),
            ("GET /a/*", "/a/", false),
            ("GET /a/*", "/a", false),
            ("GET /a/*", "/a/b/c", false),
            ("GET /a/**", "/a", true),
            ("GET /a/**", "/a/", true),
            ("GET /a/**", "/a/b/c", true),
            ("GET /a/**", "/ab", false),
            ("GET /a/**", "/b/a/c", false),
            ("GET /**", "/", true),
            ("GET /", "/", true),
            ("GET /", "/a", false),
            ("GET /a/", "/a/", true),
            ("GET /**/log", "/log", true),
            ("GET /**/log", "/a/b/log", true),
            ("GET /**/log", "/a/log/b", false),
            ("GET /a/**/b/*/c", "/a/b/x/b/y/c", true),
            ("GET /a/**/b/**/c", "/a/b/b/x/c/c", true),
            ("GET /a/**/b/**/c", "/a/c/x/c", false),
        ] {
            assert_eq!(covers(rule, "GET", path), yes, "{rule} on {path}");
        }
    }

    #[test]
    fn a_method_is_itself_and_get_is_head_too() {
        for (rule, method, yes) in [
            ("GET /a", "GET", true),
            ("GET /a", "HEAD", true),
            ("GET /a", "get", false),
            ("GET /a", "POST", false),
            ("HEAD /a", "GET", false),
            ("POST /a", "HEAD", false),
            ("* /a", "DELETE", true),
            ("M-SEARCH /a", "M-SEARCH", true),
        ] {
            assert_eq!(covers(rule, method, "/a"), yes, "{rule} on {method}");
        }
    }

    #[test]
    fn by_default_an_upper_may_read_and_play_and_go_further_down() {
        let allow = Allow::default();
        for (method, path) in [
            ("GET", "/api/v1/streams"),
            ("HEAD", "/api/v1/streams/live/a"),
            ("GET", "/relay/live/a"),
            ("GET", "/cascade/v1/catalogue"),
            ("GET", "/play/live/a.flv"),
            ("GET", "/hdl/live/a.flv"),
            ("GET", "/jessica/live/a"),
            ("GET", "/snapshot/live/a.jpg"),
            ("GET", "/healthz"),
            ("GET", "/readyz"),
            ("GET", "/metrics"),
            ("POST", "/whep/live/a"),
            ("DELETE", "/whep/live/a"),
            ("POST", "/webrtc/play/live/a"),
            ("DELETE", "/peer/c1/api/v1/sessions/1"),
            ("GET", "/erwscascade/api/streamlist"),
        ] {
            assert!(allow.allows(method, path), "{method} {path}");
        }
        for (method, path) in [
            ("DELETE", "/api/v1/sessions/1"),
            ("POST", "/api/v1/pushes"),
            ("GET", "/target/cam1/"),
            ("GET", "/"),
            ("GET", "/console/"),
            ("GET", "/erwscascade/wsocket/register"),
            ("GET", "/erwscascade/api/push"),
            ("GET", "/api/stop/push"),
            ("POST", "/whip/live/a"),
            ("POST", "/webrtc/push/live/a"),
            ("GET", "/peers"),
            ("GET", "/peer/../target/cam1"),
            ("GET", "/api/v1/./streams"),
            ("GET", "api/v1/streams"),
            ("GET", ""),
            ("OPTIONS", "*"),
        ] {
            assert!(!allow.allows(method, path), "{method} {path}");
        }
    }

    #[test]
    fn what_the_cascade_itself_needs_is_allowed_by_an_empty_list_too() {
        let allow = Allow(Vec::new());
        assert!(allow.allows("GET", "/relay/live/a") && allow.allows("POST", "/relay/live/a"));
        assert!(allow.allows("GET", "/cascade/v1/catalogue"));
        assert!(!allow.allows("GET", "/healthz") && !allow.allows("GET", "/peer/c1/relay/live/a"));
        assert!(!allow.allows("GET", "/relay/../healthz"));
    }

    #[test]
    fn a_rule_that_no_request_could_meet_is_refused() {
        for (rule, why) in [
            ("", "write a method"),
            ("GET", "write a method"),
            ("/a", "write a method"),
            ("GET a", "write a method"),
            ("GET  /a", "write a method"),
            ("get /a", "a method is in capitals"),
            (" /a", "a method is in capitals"),
            ("G*T /a", "a method is in capitals"),
            ("GET /a b", "no spaces"),
            ("GET /a?b", "no query"),
            ("GET /a\\b", "no \\"),
            ("GET /a//b", "//"),
            ("GET //a", "//"),
            ("GET /a/../b", "segment . or .."),
            ("GET /a*", "a segment is *"),
            ("GET /***", "a segment is *"),
            (&format!("GET /{}", "a".repeat(1024)), "1024"),
        ] {
            let fault = AllowRule::parse(rule).expect_err(rule);
            assert!(fault.contains(why), "{rule}: {fault}");
        }
    }

    #[test]
    fn the_worst_rule_on_the_worst_path_takes_no_time() {
        let rule = AllowRule::parse(&format!("GET /{}b", "**/a/".repeat(200))).unwrap();
        let path = "/a".repeat(4000);
        let begun = std::time::Instant::now();
        for _ in 0..100 {
            assert!(!rule.covers("GET", &path));
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}
