//! What is in the headers of playing and recording: Session (RFC 2326 12.37), Range (12.29), RTP-Info (12.33), Public
//! (12.28). Also how values are taken apart, for the other headers.

use std::fmt;
use std::time::Duration;

use super::Method;
use super::message::is_digits;

/// Longest session id in bytes.
pub const SESSION_ID_BYTES: usize = 128;
/// Most streams that are read of an RTP-Info, twice as many as a session has tracks (security.md S20).
const STREAMS: usize = 32;
/// Most methods that are read of a Public; there are 11.
const METHODS: usize = 32;

/// A session's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// 1 to [`SESSION_ID_BYTES`] visible ASCII characters without `;`.
    pub id: String,
    /// After so much silence the server ends it; 60 s if it does not say. Whole seconds, not 0.
    pub timeout: Option<Duration>,
}

/// What part is to be played. SMPTE time is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Range {
    /// From what is live now, or where it stands, up to here if anywhere.
    Now {
        /// From the beginning.
        end: Option<Duration>,
    },
    /// Normal play time, from the beginning; milliseconds are sent.
    Npt {
        /// First.
        start: Duration,
        /// Behind the last; None is the end.
        end: Option<Duration>,
    },
    /// UTC, such as `20240131T235959.25Z` (RFC 2326 3.7); not looked into further.
    Clock {
        /// First.
        start: String,
        /// Behind the last; None is the end.
        end: Option<String>,
    },
}

/// Where a stream's RTP begins after PLAY.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RtpInfo {
    /// The stream's, as in SETUP; cameras leave it out, or say something similar.
    pub url: String,
    /// Sequence number of the first packet.
    pub seq: Option<u16>,
    /// RTP time that the Range's start has, in the stream's clock rate.
    pub rtptime: Option<u32>,
}

/// The methods that a server knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Public {
    methods: Vec<Method>,
}

impl Session {
    /// Parses a value; None for an id that is not one. A timeout that cannot be read is none.
    pub fn parse(value: &str) -> Option<Session> {
        let mut parts = value.split(';').map(str::trim);
        let id = parts.next().filter(|id| (1..=SESSION_ID_BYTES).contains(&id.len()))?;
        if !id.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let timeout = parts.filter_map(parameter).find(|(name, _)| name == "timeout");
        let seconds = timeout.and_then(|(_, value)| number::<u32>(&value)).filter(|seconds| *seconds > 0);
        Some(Session { id: id.to_string(), timeout: seconds.map(|seconds| Duration::from_secs(seconds.into())) })
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)?;
        self.timeout.map_or(Ok(()), |timeout| write!(f, ";timeout={}", timeout.as_secs()))
    }
}

impl Range {
    /// Parses a value; None if it is in other units or cannot be read. A `time` parameter is left out.
    pub fn parse(value: &str) -> Option<Range> {
        let (unit, range) = split(value, ';').next()?.split_once('=')?;
        let (start, end) = range.split_once('-').unwrap_or((range, ""));
        let (start, end) = (start.trim(), end.trim());
        if unit.trim().eq_ignore_ascii_case("clock") {
            let time = |text: &str| utc(text).then(|| text.to_string());
            let end = if end.is_empty() { None } else { Some(time(end)?) };
            return Some(Range::Clock { start: time(start)?, end });
        }
        if !unit.trim().eq_ignore_ascii_case("npt") {
            return None;
        }
        let end = if end.is_empty() { None } else { Some(play_time(end)?) };
        if start.eq_ignore_ascii_case("now") || (start.is_empty() && end.is_some()) {
            return Some(Range::Now { end });
        }
        Some(Range::Npt { start: play_time(start)?, end })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |end: &Option<Duration>| end.map(seconds).unwrap_or_default();
        match self {
            Range::Now { end: until } => write!(f, "npt=now-{}", end(until)),
            Range::Npt { start, end: until } => write!(f, "npt={}-{}", seconds(*start), end(until)),
            Range::Clock { start, end } => write!(f, "clock={start}-{}", end.as_deref().unwrap_or_default()),
        }
    }
}

impl RtpInfo {
    /// Parses a value: one for each stream, in their order, at most 32. What cannot be read is None (some cameras send
    /// negative numbers); URLs may hold commas and semicolons.
    pub fn parse_list(value: &str) -> Vec<RtpInfo> {
        let begins = |text: &str| names(text, &["url", "seq", "rtptime"]) || starts_with(text, "rtsp://");
        let infos = split_before(value, ',', begins).map(RtpInfo::parse);
        infos.filter(|info| *info != RtpInfo::default()).take(STREAMS).collect()
    }

    fn parse(value: &str) -> RtpInfo {
        let mut info = RtpInfo::default();
        for part in split_before(value, ';', |text| names(text, &["url", "seq", "rtptime", "ssrc"])) {
            let (name, value) = parameter(part).unwrap_or_default();
            let first = value.split(';').next().unwrap_or_default().trim();
            match name.as_str() {
                "url" => info.url = value,
                "seq" => info.seq = number(first),
                "rtptime" => info.rtptime = number(first),
                _ if info.url.is_empty() && part.contains("://") => info.url = part.to_string(),
                _ => {}
            }
        }
        info
    }

    /// The value for these streams.
    pub fn write_list(list: &[RtpInfo]) -> String {
        list.iter().map(RtpInfo::to_string).collect::<Vec<_>>().join(",")
    }
}

impl fmt::Display for RtpInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "url={}", self.url)?;
        self.seq.map_or(Ok(()), |seq| write!(f, ";seq={seq}"))?;
        self.rtptime.map_or(Ok(()), |rtptime| write!(f, ";rtptime={rtptime}"))
    }
}

impl Public {
    /// Parses all values of Public (or Allow) of an answer. Any separators and any case will do.
    pub fn parse<'a>(values: impl Iterator<Item = &'a str>) -> Public {
        let names = values.flat_map(|value| value.split([',', ';', ' ', '\t'])).filter(|name| !name.is_empty());
        Public { methods: names.take(METHODS).map(|name| Method::parse(&name.to_ascii_uppercase())).collect() }
    }

    /// Whether the server knows it.
    pub fn has(&self, method: &Method) -> bool {
        self.methods.contains(method)
    }

    /// The value that says that these are known.
    pub fn write(methods: &[Method]) -> String {
        methods.iter().map(Method::name).collect::<Vec<_>>().join(", ")
    }
}

/// The parts between separators that are not within quotes, trimmed; empty ones are left out.
pub(super) fn split(value: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = value.split(move |c| {
        let end = c == separator && !quoted;
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && quoted && !escaped;
        end
    });
    parts.map(str::trim).filter(|part| !part.is_empty())
}

/// `name = value`: the name in lower case, the value without its quotes.
pub(super) fn parameter(part: &str) -> Option<(String, String)> {
    let (name, value) = part.split_once('=')?;
    Some((name.trim().to_ascii_lowercase(), unquote(value.trim())))
}

/// A number in digits.
pub(super) fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    Some(text).filter(|text| is_digits(text))?.parse().ok()
}

/// RFC 2616 2.2. A quote that is not closed ends with the text.
fn unquote(text: &str) -> String {
    let Some(inner) = text.strip_prefix('"') else { return text.to_string() };
    let (mut plain, mut escaped) = (String::with_capacity(inner.len()), false);
    for c in inner.chars() {
        match c {
            '\\' if !escaped => escaped = true,
            '"' if !escaped => break,
            _ => {
                plain.push(c);
                escaped = false;
            }
        }
    }
    plain
}

/// The parts between those separators behind which something begins, trimmed.
fn split_before(value: &str, separator: char, begins: impl Fn(&str) -> bool) -> impl Iterator<Item = &str> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut cuts =
            text.match_indices(separator).filter_map(|(n, cut)| Some((text.get(..n)?, text.get(n + cut.len()..)?)));
        let cut = cuts.find(|(_, behind)| begins(behind.trim_start_matches([' ', '\t'])));
        rest = cut.map(|(_, behind)| behind);
        Some(cut.map_or(text, |(part, _)| part).trim_matches([separator, ' ', '\t']))
    })
}

/// Whether a text begins with one of these names and an equals sign.
fn names(text: &str, known: &[&str]) -> bool {
    let is_name = |name: &&str| text.get(name.len()..).is_some_and(|rest| rest.trim_start().starts_with('='));
    known.iter().filter(|name| starts_with(text, name)).any(is_name)
}

fn starts_with(text: &str, known: &str) -> bool {
    text.get(..known.len()).is_some_and(|start| start.eq_ignore_ascii_case(known))
}

/// RFC 2326 3.6: seconds or `h:mm:ss`, both perhaps with a fraction.
fn play_time(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole = whole.split(':').try_fold((0_u64, 0), |(sum, parts), part| {
        Some((sum.checked_mul(60)?.checked_add(number::<u32>(part)?.into())?, parts + 1))
    });
    let (whole, _) = whole.filter(|(_, parts)| matches!(parts, 1 | 3))?;
    if fraction.is_empty() {
        return Some(Duration::from_secs(whole));
    }
    let digits = fraction.get(..fraction.len().min(9)).filter(|_| is_digits(fraction))?;
    let nanos = number::<u32>(&format!("{digits:0<9}"))?;
    Some(Duration::new(whole, nanos))
}

fn seconds(time: Duration) -> String {
    format!("{}.{:03}", time.as_secs(), time.subsec_millis())
}

/// Whether it looks like RFC 2326 3.7.
fn utc(text: &str) -> bool {
    text.len() >= 16 && text.bytes().all(|byte| byte.is_ascii_digit() || b"TZ.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn info(url: &str, seq: Option<u16>, rtptime: Option<u32>) -> RtpInfo {
        RtpInfo { url: url.into(), seq, rtptime }
    }

    #[test]
    fn a_session_has_an_id_and_perhaps_a_timeout() {
        let session =
            |id: &str, timeout: Option<u64>| Some(Session { id: id.into(), timeout: timeout.map(Duration::from_secs) });
        assert_eq!(Session::parse("a1b2;timeout=60"), session("a1b2", Some(60)));
        assert_eq!(Session::parse(" a$-_.+ ; x ; Timeout = \"30\" "), session("a$-_.+", Some(30)));
        assert_eq!(Session::parse("7;timeout=-1"), session("7", None));
        assert_eq!(Session::parse("7;timeout=0"), session("7", None));
        for value in ["", ";timeout=60", "a b", "\u{e4}", &"a".repeat(129)] {
            assert_eq!(Session::parse(value), None, "{value}");
        }
    }

    #[test]
    fn ranges_are_read_in_their_units() {
        let npt = |start, end| Some(Range::Npt { start: Duration::from_millis(start), end });
        let ms = Duration::from_millis;
        assert_eq!(Range::parse("npt=0.000-"), npt(0, None));
        assert_eq!(Range::parse("NPT = 1.5 - 1:02:03.25;time=19970123T143720Z"), npt(1500, Some(ms(3_723_250))));
        assert_eq!(Range::parse("npt=7"), npt(7000, None));
        assert_eq!(Range::parse("npt=now-"), Some(Range::Now { end: None }));
        assert_eq!(Range::parse("npt=-20"), Some(Range::Now { end: Some(ms(20_000)) }));
        let clock = Range::Clock { start: "19961108T143720.25Z".into(), end: None };
        assert_eq!(Range::parse("clock=19961108T143720.25Z-"), Some(clock));
        for value in
            ["", "npt", "npt=", "npt=-", "npt=x-", "npt=1:2-", "smpte=0:00:00-", "npt=1.-2.x", "clock=-", "npt=1e9-"]
        {
            assert_eq!(Range::parse(value), None, "{value}");
        }
        assert_eq!(Range::parse("npt=99999999999999999999-"), None);
    }

    #[test]
    fn rtp_info_is_read_as_cameras_send_it() {
        let parse = RtpInfo::parse_list;
        let (a, b) = (info("rtsp://h/a", Some(1), Some(2)), info("rtsp://h/b", Some(3), Some(4)));
        assert_eq!(parse("url=rtsp://h/a;seq=1;rtptime=2,url=rtsp://h/b;seq=3;rtptime=4"), [a.clone(), b.clone()]);
        assert_eq!(
            parse(" URL = \"rtsp://h/a\" ; rtptime = 2 ; seq = 1 ; x ;, url = c"),
            [a.clone(), info("c", None, None)]
        );
        assert_eq!(parse("rtsp://h/a;seq=1;rtptime=2,rtsp://h/b; seq = 3;rtptime=4"), [a, b]);
        assert_eq!(parse("seq=1;rtptime=2, seq=3"), [info("", Some(1), Some(2)), info("", Some(3), None)]);
        assert_eq!(parse("url=rtsp://h/a;b=1,2;c;seq=-1;rtptime=-5"), [info("rtsp://h/a;b=1,2;c", None, None)]);
        assert_eq!(parse("url=t;seq=65536;rtptime=4294967296"), [info("t", None, None)]);
        assert_eq!(parse(",;, ,"), []);
        assert_eq!(parse(&"seq=1,".repeat(100)).len(), STREAMS);
    }

    #[test]
    fn public_is_read_with_any_separator() {
        let public = Public::parse(["OPTIONS, describe;SETUP", " GET_PARAMETER\t,"].into_iter());
        assert!(public.has(&Method::Describe) && public.has(&Method::GetParameter) && !public.has(&Method::Play));
        let known = [Method::Play, Method::SetParameter];
        assert_eq!(Public::write(&known), "PLAY, SET_PARAMETER");
        assert!(known.iter().all(|method| Public::parse([Public::write(&known).as_str()].into_iter()).has(method)));
    }

    #[test]
    fn separators_within_quotes_are_text() {
        let parts: Vec<_> = split(r#"a="x,\"y,",  b ,, c"#, ',').collect();
        assert_eq!(parts, [r#"a="x,\"y,""#, "b", "c"]);
        assert_eq!(parameter(parts[0]), Some(("a".into(), r#"x,"y,"#.into())));
    }

    fn any_time() -> impl Strategy<Value = Duration> {
        any::<u32>().prop_map(|ms| Duration::from_millis(ms.into()))
    }

    fn any_range() -> impl Strategy<Value = Range> {
        prop_oneof![
            prop::option::of(any_time()).prop_map(|end| Range::Now { end }),
            (any_time(), prop::option::of(any_time())).prop_map(|(start, end)| Range::Npt { start, end }),
            ("[0-9]{8}T[0-9]{6}Z", prop::option::of("[0-9]{8}T[0-9]{6}[.][0-9]Z"))
                .prop_map(|(start, end)| Range::Clock { start, end }),
        ]
    }

    proptest! {
        #[test]
        fn garbage_is_survived(text in "(npt=|clock=|url=|seq=|timeout|[;,:.=\"\\\\ -]|\\PC){0,40}") {
            Session::parse(&text);
            Range::parse(&text);
            RtpInfo::parse_list(&text);
            Public::parse([text.as_str()].into_iter());
        }

        #[test]
        fn what_is_written_is_read(
            id in "[!-:<-~]{1,128}",
            timeout in prop::option::of(1..u32::MAX),
            range in any_range(),
            list in prop::collection::vec(("[a-z:/.;,?]{1,9}[a-z]", any::<Option<u16>>(), any::<Option<u32>>()), 0..16),
        ) {
            let session = Session { id, timeout: timeout.map(|seconds| Duration::from_secs(seconds.into())) };
            prop_assert_eq!(Session::parse(&session.to_string()), Some(session));
            prop_assert_eq!(Range::parse(&range.to_string()), Some(range));
            let list: Vec<_> = list.iter().map(|(url, seq, rtptime)| info(url.trim_start_matches([';', ',']), *seq, *rtptime)).collect();
            prop_assert_eq!(RtpInfo::parse_list(&RtpInfo::write_list(&list)), list);
        }
    }
}
