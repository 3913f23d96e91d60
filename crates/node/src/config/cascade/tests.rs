//! The section as a whole: what is read, what is a fault and where, what is shown.

use std::path::Path;
use std::time::Duration;

use culvert_media::{Cid, StreamName};

use super::*;
use crate::config::{Config, Push, overlay, parse};

const PIN: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const PIN_BASE64: &str = "ABEiM0RVZneImaq7zN3u/wARIjNEVWZ3iJmqu8zd7v8=";

fn read(text: &str) -> Config {
    parse(text, Path::new("culvert.yaml")).unwrap_or_else(|fault| panic!("{text}: {fault}"))
}

fn fault(text: &str) -> String {
    match parse(text, Path::new("culvert.yaml")) {
        Ok(config) => panic!("{text:?} was taken for {config:?}"),
        Err(fault) => fault.to_string(),
    }
}

fn everything() -> String {
    format!(
        r#"
tls: {{cert: cert.pem, key: key.pem, client_ca: ca.pem}}
cascade:
  uppers:
    - url: "wss://47.111.28.16:8441/context/"
      token: hunter2-token
      ca: upper-ca.pem
      pin_sha256: [{PIN}, "sha256/{PIN_BASE64}"]
      client_cert: client.pem
      client_key: client.key
      proxy: "http://user:hunter2%40@proxy:3128"
    - {{url: "http://[2001:db8::1]", pin_sha256: [], proxy: "socks5://[::1]"}}
    - {{url: "https://upper", pin_sha256: {PIN_BASE64}, proxy: "socks5://u:hunter2@h"}}
  lowers:
    admit: [{{cid: "edge-*", token_sha256: "{PIN}"}}, {{cid: cam}}]
    old_peers: false
  allow: ["GET /api/v1/streams", "* /target/cam1/**"]
  targets: {{cam1: "http://admin:hunter2%3A@192.168.1.64:8080/web/", cam2: "https://cam2.lan"}}
  on_demand: {{grace: 5s, start_timeout: 3s, hold: 1m}}
  request_timeout: 2s
push: {{list: {{a: {{url: "wss://h/wspush/a?token=hunter2", on_demand: true}}, b: {{url: "ws://h/b"}}, c: "wss://h/c"}}}}
limits: {{peer_requests: 7, peer_body: 2MiB}}
"#
    )
}

#[test]
fn every_key_is_read() {
    let config = read(&everything());
    let cascade = &config.cascade;
    let [first, second, third] = cascade.uppers.all() else { panic!("three uppers") };
    let url = &first.url;
    assert_eq!((url.is_secure(), url.host(), url.port(), url.context()), (true, "47.111.28.16", 8441, "/context"));
    assert_eq!((url.authority(), second.url.authority()), ("47.111.28.16:8441".into(), "[2001:db8::1]".into()));
    assert_eq!(first.token.as_ref().map(Secret::reveal), Some("hunter2-token"));
    assert_eq!(first.ca.as_deref(), Some(Path::new("upper-ca.pem")));
    assert_eq!(first.pins.len(), 2);
    assert!(first.pins.iter().chain(&third.pins).all(|pin| pin.to_string() == PIN));
    assert_eq!(first.client, Some(("client.pem".into(), "client.key".into())));
    let proxy = first.proxy.as_ref().unwrap();
    assert_eq!((proxy.is_socks5(), proxy.host(), proxy.port()), (false, "proxy", 3128));
    assert_eq!(proxy.user(), Some(("user".into(), "hunter2@".into())));
    let url = &second.url;
    assert_eq!((url.is_secure(), url.host(), url.port(), url.context()), (false, "2001:db8::1", 80, ""));
    let proxy = second.proxy.as_ref().unwrap();
    assert_eq!((proxy.is_socks5(), proxy.host(), proxy.port(), proxy.user()), (true, "::1", 1080, None));
    assert_eq!((third.url.is_secure(), third.url.port()), (true, 443));

    assert_eq!(cascade.lowers.admit[0].cid.as_str(), "edge-*");
    assert!(cascade.lowers.admit[0].token_sha256.is_some() && cascade.lowers.admit[1].token_sha256.is_none());
    assert!(cascade.allow.allows("GET", "/api/v1/streams") && cascade.allow.allows("PUT", "/target/cam1/x"));
    assert!(!cascade.allow.allows("GET", "/api/v1/sessions") && !cascade.allow.allows("GET", "/peer/c1/x"));
    let target = &cascade.targets["cam1"];
    assert_eq!(
        (target.host(), target.port(), target.is_secure(), target.path()),
        ("192.168.1.64", 8080, false, "/web")
    );
    assert_eq!(target.authorization(), Some("Basic YWRtaW46aHVudGVyMjo="));
    let target = &cascade.targets["cam2"];
    assert_eq!((target.port(), target.is_secure(), target.path(), target.authorization()), (443, true, "", None));
    assert_eq!(cascade.on_demand.hold.get(), Duration::from_secs(60));
    assert_eq!(cascade.request_timeout.get(), Duration::from_secs(2));
    assert_eq!((config.limits.peer_requests.get(), config.limits.peer_body.get()), (7, 2 << 20));
    assert_eq!(config.tls.as_ref().unwrap().client_ca(), Some(Path::new("ca.pem")));
    let on_demand = |name| config.push.list[&StreamName::parse(name).unwrap()].on_demand;
    assert_eq!((on_demand("a"), on_demand("b"), on_demand("c")), (true, false, false));
}

#[test]
fn nothing_is_linked_by_default() {
    for text in ["", "cascade:\n", "cascade: {uppers:, lowers:, allow:, targets:, on_demand:}\n"] {
        assert_eq!(read(text), Config::default(), "{text}");
    }
    let cascade = Config::default().cascade;
    assert!(cascade.uppers.all().is_empty() && cascade.lowers.admit.is_empty() && cascade.targets.is_empty());
    let times = &cascade.on_demand;
    assert_eq!([times.grace, Period::from_millis(10_000)], [Period::from_millis(10_000), times.grace]);
    assert_eq!((times.start_timeout.get().as_secs(), times.hold.get().as_secs()), (10, 30));
    assert_eq!(cascade.request_timeout.get().as_secs(), 10);
    let limits = Config::default().limits;
    assert_eq!((limits.links.get(), limits.peer_requests.get(), limits.peer_body.get()), (20_000, 256, 1 << 30));
}

#[test]
fn a_fault_has_its_place_and_says_what_would_be_right() {
    let upper = "cascade:\n  uppers:\n  - ";
    let row = |keys: &str| format!("{upper}{{{keys}}}\n");
    let mut wrong = Vec::new();
    let (long, twice) = ("x".repeat(1025), format!("{upper}url: ws://h/a\n  - url: http://h:80/a/\n"));
    for (text, wanted) in [
        (
            "cascade: {upper: []}\n".to_string(),
            "1:11: unknown key `upper`; did you mean `uppers`? known keys here are uppers,",
        ),
        ("cascade: 3\n".into(), "1:10: this should be a section of keys and values"),
        ("cascade: {uppers: 3}\n".into(), "1:19: this should be a list"),
        ("cascade: {uppers: [ws://h]}\n".into(), "1:20: this should be a section of keys and values"),
        (row("token: a"), "3:6: the key `url` is missing here"),
        (row("url: ws://h, tokn: a"), "3:19: unknown key `tokn`; did you mean `token`? "),
        (
            row("url: rtmp://h"),
            "3:11: rtmp: is not possible here; a URL here begins with wss://, ws://, https://, http://",
        ),
        (row("url: h"), "3:11: this is no URL ("),
        (row("url: 'ws://u@h'"), "3:11: the URL of an upper has no user and no password; write its token under"),
        (row("url: 'ws://:p@h'"), "3:11: the URL of an upper has no user and no password"),
        (row("url: 'ws://h/?a'"), "3:11: the URL of an upper has no query"),
        (row("url: 'ws://h/#a'"), "3:11: a # has no meaning here"),
        (row("url: 'ws://h/a//b'"), "3:11: the context path of an upper has no //"),
        (row("url: 'ws://h:0'"), "3:11: port 0 cannot be dialled"),
        (row("url: 'ws://h/a b'"), "3:11: a URL has no spaces"),
        (row("url: ws://h, token: ''"), "3:26: a token is 1 to 1024 visible characters"),
        (row("url: ws://h, token: a b"), "3:26: a token is 1 to 1024 visible characters"),
        (row(&format!("url: ws://h, token: {long}")), "3:26: a token is 1 to 1024 visible characters"),
        (row("url: wss://h, pin_sha256: abc"), "3:32: pin_sha256 is the SHA-256 of the server's public key"),
        (row("url: wss://h, pin_sha256: [abc]"), "3:33: pin_sha256 is the SHA-256 of the server's public key"),
        (row("url: wss://h, pin_sha256: {a: b}"), "3:32: this should be a pin or a list of pins, not a section"),
        (row(&format!("url: ws://h, pin_sha256: {PIN}")), "3:5: pin_sha256 has no effect on a plain connection; "),
        (row("url: http://h, ca: a"), "3:5: ca has no effect on a plain connection; "),
        (row("url: ws://h, client_cert: a, client_key: b"), "3:5: client_cert has no effect on a plain connection; "),
        (row("url: wss://h, client_cert: a"), "3:5: this upper has a client_cert but no client_key"),
        (row("url: wss://h, client_key: a"), "3:5: this upper has a client_key but no client_cert"),
        (
            row("url: ws://h, proxy: 'https://h'"),
            "3:26: https: is not possible here; a URL here begins with http://, socks5://",
        ),
        (row("url: ws://h, proxy: 'http://h/a'"), "3:26: the URL of a proxy ends with its port"),
        (row("url: ws://h, proxy: 'socks5://h?a'"), "3:26: the URL of a proxy ends with its port"),
        (row("url: ws://h, proxy: 'socks5://:p@h'"), "3:26: the user of a SOCKS5 proxy has 1 to 255 bytes"),
        (row("url: ws://h, proxy: 'http://a%3Ab:p@h'"), "3:26: the user of HTTP Basic has no :"),
        (twice, "3:5: cascade.uppers has http://h/a/ twice"),
        ("cascade: {lowers: {admit: [{token_sha256: a}]}}\n".into(), "1:43: token_sha256 is the SHA-256 of the token"),
        (format!("cascade: {{lowers: {{admit: [{{token_sha256: {PIN}}}]}}}}\n"), "1:29: the key `cid` is missing here"),
        (
            "cascade: {lowers: {admit: [{cid: a/b}]}}\n".into(),
            "1:34: \"a/b\" is no pattern for platform ids: a platform id is made",
        ),
        (
            "cascade: {lowers: {admit: [{cid: ''}]}}\n".into(),
            "1:34: \"\" is no pattern for platform ids: a platform id has 1 to 64",
        ),
        ("cascade: {lowers: {admit: [{cid: ..}]}}\n".into(), "1:34: \"..\" is no pattern for platform ids: "),
        ("cascade: {lowers: {admit: [edge]}}\n".into(), "1:28: this should be a section of keys and values"),
        (
            "cascade:\n  lowers:\n    admit:\n    - {cid: a, token_sha256: '".to_string()
                + PIN
                + "'}\n    - {cid: b}\n",
            "5:7: this row needs a token_sha256, since there is no tls.client_ca",
        ),
        (
            format!(
                "auth: {{users: [{{name: eve, token_sha256: {PIN}}}]}}\ncascade: {{lowers: {{admit: [{{cid: a, token_sha256: {PIN}}}]}}}}\n"
            ),
            "2:28: this token is that of \"eve\" in auth.users; make another for linking",
        ),
        (
            "cascade: {lowers: {old_peers: 1}}\n".into(),
            "1:20: this should be true, false, or a list of {cid, from}, not a number",
        ),
        ("cascade: {lowers: {old_peers: [{cid: a, from: [x]}]}}\n".into(), "1:48: \"x\" is no network"),
        ("cascade: {allow: GET /a}\n".into(), "1:18: this should be a list"),
        ("cascade: {allow: [GET a]}\n".into(), "1:19: \"GET a\" is no rule: write a method, or * for all, and a path"),
        ("cascade: {targets: {a/b: 'http://h'}}\n".into(), "1:21: \"a/b\" is no name for a target"),
        ("cascade: {targets: {..: 'http://h'}}\n".into(), "1:21: \"..\" is no name for a target"),
        (
            "cascade: {targets: {a: 'ftp://h'}}\n".into(),
            "1:24: ftp: is not possible here; a URL here begins with http://, https://",
        ),
        ("cascade: {targets: {a: 'http://h/?a=b'}}\n".into(), "1:24: the URL of a target has no query"),
        ("cascade: {targets: {a: 'http://h/#a'}}\n".into(), "1:24: a # has no meaning here"),
        ("cascade: {targets: {a: 'http://a%3Ab:c@h/'}}\n".into(), "1:24: the user of HTTP Basic has no :"),
        ("cascade: {targets: {a: 'http://%ff:c@h/'}}\n".into(), "1:24: user and password should be UTF-8"),
        (
            "cascade: {targets: {a: 'http://u%0d%0a:c@h/'}}\n".into(),
            "1:24: user and password have no control characters",
        ),
        ("cascade: {on_demand: {hold: 5}}\n".into(), "1:29: \"5\" has no unit; "),
        ("cascade: {request_timeout: 0s}\n".into(), "1:28: 0s is out of range; "),
        (
            "push: {list: {a: 'ftp://h'}}\n".into(),
            "1:18: ftp: is not possible here; a URL here begins with rtsp://, rtsps://, rtmp://, rtmps://, ws://,",
        ),
        (
            "push: {list: {a: [ws://h]}}\n".into(),
            "1:15: this should be a URL, or a section with url and on_demand, not a list",
        ),
        (
            "push: {list: {a: {url: 'rtmp://h/a', on_demand: true}}}\n".into(),
            "1:18: on_demand is possible with ws:// and wss:// only",
        ),
        (
            "push: {list: {a: {url: 'ws://h/a', demand: true}}}\n".into(),
            "1:36: unknown key `demand`; known keys here are url, on_demand",
        ),
        ("push: {list: {a: {on_demand: true}}}\n".into(), "1:19: the key `url` is missing here"),
        ("push: {list: {a: {url: 'srt://h/a'}}}\n".into(), "1:24: srt: is not possible here"),
        ("limits: {peer_body: 1}\n".into(), "1:21: \"1\" has no unit; "),
        ("limits: {peer_requests: 0}\n".into(), "1:25: \"0\" is not a whole number between 1 and 100000"),
        ("tls: {client_ca: a}\n".into(), "1:6: tls needs cert and key"),
    ] {
        let found = fault(&text);
        if !found.starts_with(&format!("culvert.yaml:{wanted}")) || found.lines().count() != 1 {
            wrong.push(format!("{text:?}:\n  {found}\n  {wanted}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_secret_is_repeated_in_a_fault() {
    for text in [
        "cascade: {uppers: [{url: 'ws://u:hunter2@h'}]}",
        "cascade: {uppers: [{url: 'ws://h', token: 'hunter2 hunter2'}]}",
        "cascade: {uppers: [{url: 'ws://h', token: [hunter2]}]}",
        "cascade: {uppers: [{url: 'ws://h?token=hunter2'}]}",
        "cascade: {uppers: [{url: 'ws://h', proxy: 'ftp://u:hunter2@h'}]}",
        "cascade: {uppers: [{url: 'ws://h', proxy: 'http://u:hunter2@h:99999'}]}",
        "cascade: {targets: {a: 'http://u:hunter2@h/?a'}}",
        "cascade: {lowers: {admit: [{cid: a, token_sha256: hunter2}]}}",
        "push: {list: {a: {url: 'http://u:hunter2@h'}}}",
    ] {
        let found = fault(text);
        assert!(!found.contains("hunter2"), "{found}");
    }
}

#[test]
fn what_is_in_force_is_shown_without_secrets_and_can_be_read_again_without_them() {
    let config = read(&everything());
    let (yaml, json) = (config.masked_yaml(), config.masked_json().to_string());
    for shown in [&yaml, &json, &format!("{config:?}")] {
        assert!(!shown.contains("hunter2") && !shown.contains("YWRtaW46"), "{shown}");
    }
    assert_eq!(json.matches(PIN).count(), 3, "three pins, which are no secrets, and no hash of a token: {yaml}");
    for part in
        ["http://***@proxy:3128", "http://***@192.168.1.64:8080/web/", "socks5://***@h", "wss://h/wspush/a?token=***"]
    {
        assert!(yaml.contains(part), "{part}: {yaml}");
    }
    let text = "cascade: {uppers: [{url: 'wss://h/c', pin_sha256: '".to_string()
        + PIN
        + "'}], allow: [], targets: {a: 'http://h'}}\npush: {list: {a: {url: 'ws://h/a', on_demand: true}}}\n";
    let config = read(&text);
    assert_eq!(read(&config.masked_yaml()), config);
    assert_ne!(config.push, Push::default());
}

#[test]
fn variables_go_over_the_section_and_its_secrets_stay() {
    let with = |variables: &[(&str, &str)]| {
        let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        overlay(read(&everything()), variables).map_err(|fault| fault.to_string())
    };
    let config = with(&[
        ("CULVERT_CASCADE__ON_DEMAND__HOLD", "7s"),
        ("CULVERT_CASCADE__ALLOW", "['GET /x']"),
        ("CULVERT_CASCADE__TARGETS__CAM3", "http://cam3"),
    ])
    .unwrap();
    let mut wanted = read(&everything());
    wanted.cascade.on_demand.hold = Period::from_millis(7000);
    wanted.cascade.allow = config.cascade.allow.clone();
    assert!(config.cascade.allow.allows("GET", "/x") && !config.cascade.allow.allows("GET", "/api/v1/streams"));
    assert_eq!(config.cascade.targets["cam3"].host(), "cam3");
    wanted.cascade.targets = config.cascade.targets.clone();
    assert_eq!(config, wanted);
    for (name, value, wanted) in [
        ("CULVERT_CASCADE__UPPERS", "[{url: 'ftp://h'}]", "CULVERT_CASCADE__UPPERS: ftp: is not possible here"),
        ("CULVERT_TLS__CLIENT_CA", "", "CULVERT_TLS__CLIENT_CA: this row needs a token_sha256"),
    ] {
        let found = with(&[(name, value)]).unwrap_err();
        assert!(found.starts_with(wanted), "{found}");
    }
}

#[test]
fn a_pattern_stands_for_ids_and_for_the_ends_of_names() {
    for (pattern, cid, yes) in [
        ("edge-7", "edge-7", true),
        ("edge-7", "edge-70", false),
        ("edge-*", "edge-7", true),
        ("edge-*", "edge-", true),
        ("edge-*", "edge", false),
        ("edge-*", "Edge-7", false),
        ("*", "anything", true),
        ("*", "..x", true),
        ("*-c1", "a-c1", true),
        ("*-c1", "c1", false),
        ("a*a", "a", false),
        ("a*a", "aa", true),
        ("a*b*c", "aXbYc", true),
        ("a*b*c", "abc", true),
        ("a*b*c", "acb", false),
        ("a*b*b", "ab", false),
        ("a**c", "ac", true),
        (".*", ".x", true),
    ] {
        let pattern = CidPattern::parse(pattern).unwrap();
        assert_eq!(pattern.matches(&Cid::parse(cid).unwrap()), yes, "{pattern} on {cid}");
    }
    for (pattern, stream, yes) in [
        ("c1", "live/a-c1", true),
        ("c1", "live/a-b-c1", true),
        ("c1", "live/a-c1-b", false),
        ("c1", "live/ac1", false),
        ("c1", "live/-c1", false),
        ("c1", "c1", false),
        ("c1", "a-c1/b", false),
        ("edge-*", "live/a-edge-7", true),
        ("edge-*", "live/edge-7", false),
        ("edge-*", "a-edge-7/b", false),
        ("*", "live/a-x", true),
        ("*", "live-x/a", false),
    ] {
        let pattern = CidPattern::parse(pattern).unwrap();
        assert_eq!(pattern.ends(&StreamName::parse(stream).unwrap()), yes, "{pattern} on {stream}");
    }
    assert!(CidPattern::parse(&"x".repeat(65)).is_err() && CidPattern::parse(&"*".repeat(65)).is_err());
    assert!(CidPattern::parse(&("x".repeat(64) + "*")).unwrap_err().contains("at most 64"));
}
