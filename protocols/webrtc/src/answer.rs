//! Answers, as str0m writes them and as browsers want them.

use crate::proof::Remote;

/// The answer with its candidates where a browser looks for them: str0m puts them into the first section, which may be one that is rejected
/// (its port is 0, RFC 8829 5.3.1) and is then not looked at.
pub(crate) fn placed(answer: &str) -> String {
    let is_media = |line: &&str| line.starts_with("m=");
    let is_rejected = |line: &str| line.split(' ').nth(1) == Some("0");
    let lines: Vec<&str> = answer.lines().collect();
    if !lines.iter().find(|line| is_media(line)).is_some_and(|first| is_rejected(first)) {
        return answer.to_string();
    }
    let is_candidate = |line: &&str| line.starts_with("a=candidate:") || *line == "a=end-of-candidates";
    let (candidates, others): (Vec<&str>, Vec<&str>) = lines.into_iter().partition(is_candidate);
    let mut out = String::with_capacity(answer.len());
    let (mut is_here, mut left) = (false, Some(candidates));
    let mut put = |line: &str| {
        out.push_str(line);
        out.push_str("\r\n");
    };
    for line in others {
        if line.starts_with("m=") {
            if is_here {
                left.take().into_iter().flatten().for_each(&mut put);
            }
            is_here = !is_rejected(line);
        }
        put(line);
    }
    if is_here {
        left.take().into_iter().flatten().for_each(&mut put);
    }
    out
}

/// An offer of the same with other credentials: what a restart of ICE is to str0m (RFC 8445 9).
pub(crate) fn restarted(offer: &str, remote: &Remote) -> String {
    let mut out = String::with_capacity(offer.len() + 64);
    for line in offer.lines() {
        let (key, value) = match line.split_once(':') {
            Some(("a=ice-ufrag", _)) => ("a=ice-ufrag:", remote.name()),
            Some(("a=ice-pwd", _)) => ("a=ice-pwd:", remote.password()),
            Some(_) | None => ("", line),
        };
        out.push_str(key);
        out.push_str(value);
        out.push_str("\r\n");
    }
    out
}

/// What of an answer the other end of a restart wants to know (RFC 8840 9, RFC 9725 4.3.3): our credentials and where we are.
pub(crate) fn fragment(answer: &str) -> String {
    let mut out = String::new();
    let mut put = |line: &str| {
        out.push_str(line);
        out.push_str("\r\n");
    };
    let mut lines = answer.lines();
    let is_live = |line: &&str| line.starts_with("m=") && line.split(' ').nth(1) != Some("0");
    let wanted = ["a=mid:", "a=ice-ufrag:", "a=ice-pwd:", "a=candidate:", "a=end-of-candidates"];
    answer.lines().take_while(|line| !line.starts_with("m=")).for_each(|line| {
        if line == "a=ice-lite" || line.starts_with("a=group:") {
            put(line);
        }
    });
    if let Some(media) = lines.find(is_live) {
        put(media);
        let inside = lines.take_while(|line| !line.starts_with("m="));
        inside.filter(|line| wanted.iter().any(|key| line.starts_with(key))).for_each(&mut put);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_where_something_is_agreed_upon() {
        let answer = |first: &str, second: &str| {
            format!("v=0\r\n{first}\r\na=mid:0\r\na=candidate:1 x\r\na=end-of-candidates\r\n{second}\r\na=mid:1\r\n")
        };
        let good = answer("m=video 9 x 96", "m=audio 9 x 111");
        assert_eq!(placed(&good), good);
        let moved = "v=0\r\nm=video 0 x 96\r\na=mid:0\r\nm=audio 9 x 111\r\na=mid:1\r\na=candidate:1 x\r\na=end-of-candidates\r\n";
        assert_eq!(placed(&answer("m=video 0 x 96", "m=audio 9 x 111")), moved);
    }

    #[test]
    fn a_restart_has_other_credentials_and_says_no_more_than_that() {
        let remote = Remote::of("a=ice-ufrag:new1\r\na=ice-pwd:newnewnewnewnewnewnewnew\r\n").unwrap();
        let offer = "v=0\r\nm=video 9 x 96\r\na=ice-ufrag:old\r\na=mid:0\r\na=ice-pwd:old:old\r\na=setup:actpass\r\n";
        let wanted = "v=0\r\nm=video 9 x 96\r\na=ice-ufrag:new1\r\na=mid:0\r\na=ice-pwd:newnewnewnewnewnewnewnew\r\na=setup:actpass\r\n";
        assert_eq!(restarted(offer, &remote), wanted);
        let answer = "v=0\r\na=group:BUNDLE 0 1\r\na=ice-lite\r\nm=video 0 x 96\r\na=mid:0\r\nm=audio 9 x 111\r\na=mid:1\r\na=ice-ufrag:u\r\n\
            a=ice-pwd:p\r\na=rtpmap:111 opus/48000/2\r\na=candidate:1 x\r\na=end-of-candidates\r\nm=audio 9 x 0\r\na=mid:2\r\n";
        let wanted = "a=group:BUNDLE 0 1\r\na=ice-lite\r\nm=audio 9 x 111\r\na=mid:1\r\na=ice-ufrag:u\r\na=ice-pwd:p\r\na=candidate:1 x\r\n\
            a=end-of-candidates\r\n";
        assert_eq!(fragment(answer), wanted);
    }
}
