//! The configuration as a whole: what is read, what is a fault and where, what variables do, what is shown.

use std::path::Path;
use std::time::Duration;

use culvert_media::StreamName;
use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Config {
    parse(text, Path::new("culvert.yaml")).unwrap_or_else(|fault| panic!("{fault}"))
}

fn fault(text: &str) -> String {
    match parse(text, Path::new("culvert.yaml")) {
        Ok(config) => panic!("{text:?} was taken for {config:?}"),
        Err(fault) => fault.to_string(),
    }
}

fn with(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    overlay(read(text), variables).map_err(|fault| fault.to_string())
}

fn name(text: &str) -> StreamName {
    StreamName::parse(text).unwrap()
}

const EVERYTHING: &str = r#"
listen: "127.0.0.1:8450"
node: {cid: test-c001, name: Gate house, serial: c001, data_dir: ./there}
tls: {cert: cert.pem, key: key.pem}
auth:
  anonymous: {allow: [play], streams: "public/**"}
  users:
  - {name: cam, token_sha256: "00112233445566778899AABBCCDDEEFF00112233445566778899aabbccddeeff", allow: [publish], streams: "live/**"}
pull:
  always: {live/a: "rtmp://user:hunter2@10.0.0.1/live/a?token=hunter2"}
  on_demand: {live/b: "https://10.0.0.1/b.flv", "cam/**": "rtmp://10.0.0.2/$1", "cam/*/hd": "http://10.0.0.3/$1.flv"}
  grace: 5s
  start_timeout: 1500ms
push: {retry: 3, list: {live/a: "rtmps://upper/live/key?auth=hunter2"}}
rtmp: {listen: "[::]:1935"}
limits: {links: 10, viewers: 5, publishers: 2, per_ip_handshakes: 7, handshake_timeout: 3s, stall_timeout: 1m,
  wait_for_stream: 1s, gop_cache: {bytes: 1MiB, span: 2s}, max_lag: 1s, shared_batch: 0s}
fan_out: {class: low}
log: {filter: "warn,culvert_rtmp=debug", format: json}
"#;

#[test]
fn nothing_at_all_is_the_default_and_so_are_empty_sections() {
    for text in ["", "\n# nothing\n", "---\n", "{}", "limits:\nnode:\npull:\nauth:\ntls:\nlog:\nrtmp:\n"] {
        assert_eq!(read(text), Config::default(), "{text:?}");
    }
    let config = Config::default();
    assert_eq!(config.listen.to_string(), "0.0.0.0:8450");
    assert_eq!((config.limits.viewers.get(), config.limits.per_ip_handshakes.get()), (20_000, 64));
    assert_eq!(config.limits.shared_batch.get(), Duration::from_millis(20));
    assert_eq!((config.push.retry, config.auth.is_none()), (Retry::Forever, true));
}

#[test]
fn every_key_is_read() {
    let config = read(EVERYTHING);
    assert_eq!(config.listen.to_string(), "127.0.0.1:8450");
    assert_eq!(config.node.name.as_ref().map(Label::as_str), Some("Gate house"));
    assert_eq!(config.tls, Some(Tls::Files { cert: "cert.pem".into(), key: "key.pem".into(), client_ca: None }));
    let auth = config.auth.as_ref().unwrap();
    assert_eq!(auth.anonymous.as_ref().unwrap().streams.as_str(), "public/**");
    assert_eq!(auth.users[0].token_sha256.0[..3], [0x00, 0x11, 0x22]);
    assert_eq!(config.pull.always[&name("live/a")].url().password(), Some("hunter2"));
    assert_eq!(config.pull.start_timeout.get(), Duration::from_millis(1500));
    assert_eq!(config.push.retry, Retry::Times(3));
    assert_eq!(config.rtmp.listen.unwrap().0.port(), 1935);
    assert_eq!(config.limits.gop_cache.bytes.get(), 1 << 20);
    assert_eq!((config.fan_out.class, config.log.format), (FanOutClass::Low, LogFormat::Json));
}

#[test]
fn the_closest_pattern_of_a_pull_on_demand_wins() {
    let table = read(EVERYTHING).pull.on_demand;
    for (stream, url) in [
        ("live/b", Some("https://10.0.0.1/b.flv")),
        ("cam/gate/hd", Some("http://10.0.0.3/gate.flv")),
        ("cam/gate/sd", Some("rtmp://10.0.0.2/gate/sd")),
        ("cam/x", Some("rtmp://10.0.0.2/x")),
        ("live/c", None),
    ] {
        assert_eq!(table.url_for(&name(stream)).map(|url| url.url().to_string()).as_deref(), url, "{stream}");
    }
}

#[test]
fn a_fault_has_its_place_and_says_what_would_be_right() {
    for (text, wanted) in [
        (
            "\nnode:\n    prot: 1\n",
            "culvert.yaml:3:5: unknown key `prot`; known keys here are cid, name, serial, data_dir",
        ),
        (
            "listen: '0.0.0.0:1'\nlimit: {}\n",
            "culvert.yaml:2:1: unknown key `limit`; did you mean `limits`? known keys here are listen, node, tls,",
        ),
        ("limits: {\n  viewer: 3}\n", "culvert.yaml:2:3: unknown key `viewer`; did you mean `viewers`? "),
        (
            "webrtc: {public_addr: [203.0.113.5:8450]}\n",
            "culvert.yaml:1:24: \"203.0.113.5:8450\" is no IP address; write such as 203.0.113.5, without a port",
        ),
        (
            "auth:\n  jwt: {}\n",
            "culvert.yaml:2:3: the key `jwt` is not in this version; known keys here are anonymous, users",
        ),
        (
            "listen: 8450\n",
            "culvert.yaml:1:9: \"8450\" is no address to listen on; write one as 0.0.0.0:8450 or [::]:8450",
        ),
        ("listen:\n", "culvert.yaml:1:"),
        (
            "limits:\n  max_lag: 2\n",
            "culvert.yaml:2:12: \"2\" has no unit; a duration is a whole number and one of ms, s, m, h",
        ),
        ("limits:\n  max_lag: 2h\n", "culvert.yaml:2:12: 2h is out of range; here a duration is between 100ms and 1m"),
        ("limits:\n  gop_cache: {bytes: 1MB}\n", "culvert.yaml:2:22: \"1MB\" is not understood; a size is"),
        ("limits:\n  viewers: -1\n", "culvert.yaml:2:12: \"-1\" is not a whole number between 0 and 1000000"),
        ("limits:\n  viewers: [1]\n", "culvert.yaml:2:12: this should be a single value"),
        ("limits: 3\n", "culvert.yaml:1:9: this should be a section of keys and values"),
        ("a\n", "culvert.yaml:1:1: this should be a section of keys and values"),
        (
            "webrtc: {ice_servers: [{url: 'http://h'}]}\n",
            "culvert.yaml:1:30: \"http://h\" is no such server; write stun:HOST, turn:HOST or turns:HOST",
        ),
        ("auth: {users: a}\n", "culvert.yaml:1:15: this should be a list"),
        ("node: {cid: a/b}\n", "culvert.yaml:1:13: \"a/b\": a platform id is made of"),
        ("tls: {cert: a}\n", "culvert.yaml:1:6: tls has a cert but no key; give the path of the private key, too"),
        ("tls: {self_signed: 1}\n", "culvert.yaml:1:20: this should be true or false"),
        ("pull:\n  always:\n    live//a: rtmp://h/a\n", "culvert.yaml:3:5: \"live//a\": a stream name is segments"),
        ("pull:\n  always:\n    live/a: wss://h/a\n", "culvert.yaml:3:13: wss:// is not in this version"),
        ("pull:\n  on_demand:\n    'a/*': rtmp://$1/a\n", "culvert.yaml:3:12: $1 may stand in the path"),
        (
            "pull:\n  on_demand:\n    'a/*': rtmp://h/$2\n",
            "culvert.yaml:3:5: the URL for a/* has $2, but the pattern has only 1 of",
        ),
        (
            "push: {retry: always}\n",
            "culvert.yaml:1:15: \"always\" is no number of attempts; write forever, never or a number",
        ),
        ("fan_out: {class: fast}\n", "culvert.yaml:1:18: \"fast\" is no class of viewers; write shared or low"),
        ("log: {filter: 'a=b=c'}\n", "culvert.yaml:1:15: \"a=b=c\" is no log filter ("),
        (
            "auth:\n  anonymous: {allow: [watch]}\n",
            "culvert.yaml:2:23: \"watch\" is no action; the actions are publish, play,",
        ),
        (
            "auth:\n  anonymous: {streams: '**/**'}\n",
            "culvert.yaml:2:24: \"**/**\" is no pattern for stream names: it has **",
        ),
        ("auth:\n  users:\n  - {name: a}\n", "culvert.yaml:3:6: the key `token_sha256` is missing here"),
        (
            "listen: '1.1.1.1:1'\nlisten: '1.1.1.1:1'\n",
            "culvert.yaml:2:1: the key `listen` is here for the second time",
        ),
        ("node: {\n", "culvert.yaml:1:7: unclosed bracket '{'"),
        ("a: [b\nc: d\n", "culvert.yaml:"),
        ("{}\n---\n{}\n", "culvert.yaml:3:1: this file has a second document"),
    ] {
        let found = fault(text);
        assert!(found.starts_with(wanted), "{text:?}:\n  {found}\n  {wanted}");
        assert_eq!(found.lines().count(), 1, "{found}");
    }
}

#[test]
fn a_token_instead_of_its_hash_is_not_repeated_in_the_fault() {
    let found = fault("auth:\n  users:\n  - {name: a, token_sha256: hunter2}\n");
    assert!(
        found.starts_with("culvert.yaml:3:29: token_sha256 is the SHA-256 of the token in 64 hex digits"),
        "{found}"
    );
    for text in [
        "auth: {users: hunter2}",
        "auth: {users: [hunter2]}",
        "auth: hunter2",
        "pull: {always: {a: 'srt://u:hunter2@h/'}}",
        "pull: {always: {a: 'rtmp://u:hunter2@h:99999/'}}",
        "push: {list: {a: 'ftp://u:hunter2@h/'}}",
        "pull: {on_demand: {'*': 'rtmp://u:hunter2@$1/'}}",
    ] {
        let found = fault(text);
        assert!(!found.contains("hunter2"), "{found}");
    }
}

#[test]
fn two_users_cannot_have_one_name_or_one_token() {
    let (a, b) = ("a".repeat(64), "b".repeat(64));
    let users = |one: &str, hash1: &str, two: &str, hash2: &str| {
        fault(&format!(
            "auth: {{users: [{{name: {one}, token_sha256: {hash1}}}, {{name: {two}, token_sha256: {hash2}}}]}}"
        ))
    };
    assert!(users("x", &a, "x", &b).contains("has the name \"x\" twice"));
    assert!(users("x", &a, "y", &a).contains("has the same token as another user"));
}

#[test]
fn an_alias_bomb_is_refused_quickly() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_string();
    for n in 1..12 {
        text.push_str(&format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", ")));
    }
    let started = std::time::Instant::now();
    let text = text.replacen("a0: ", "pull: {always: ", 1);
    assert!(parse(&text, Path::new("bomb.yaml")).is_err());
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn variables_go_over_the_file() {
    let config = with(
        "listen: '1.1.1.1:1'\nlimits: {viewers: 7, links: 8}\npull: {always: {live/a: 'rtmp://u:pw@h/a'}}\n",
        &[
            ("CULVERT_LISTEN", "127.0.0.1:9"),
            ("CULVERT_NODE__CID", "0123"),
            ("CULVERT_NODE__NAME", "1.0"),
            ("CULVERT_LIMITS__VIEWERS", "9"),
            ("CULVERT_LIMITS__GOP_CACHE__SPAN", "3s"),
            ("CULVERT_TLS__CERT", "c.pem"),
            ("CULVERT_TLS__KEY", "k.pem"),
            ("CULVERT_AUTH__ANONYMOUS__ALLOW", "[play]"),
            ("CULVERT_PUSH", "{retry: never, list: {live/b: 'rtmp://h/b'}}"),
            ("CULVERT_LOG", "debug"),
            ("CULVERT_FFMPEG9", "/opt/ffmpeg"),
            ("CULVERT_TEST_SLOW", "1"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:9");
    assert_eq!(config.node.cid.as_ref().map(Cid::as_str), Some("0123"));
    assert_eq!(config.node.name.as_ref().map(Label::as_str), Some("1.0"));
    assert_eq!((config.limits.viewers.get(), config.limits.links.get()), (9, 8));
    assert_eq!(config.limits.gop_cache.span.get(), Duration::from_secs(3));
    assert_eq!(config.tls, Some(Tls::Files { cert: "c.pem".into(), key: "k.pem".into(), client_ca: None }));
    let anonymous = config.auth.unwrap().anonymous.unwrap();
    assert!(anonymous.allow.contains(&Action::Play) && anonymous.streams.is_everything());
    assert_eq!(config.push.retry, Retry::Never);
    assert_eq!(config.pull.always[&name("live/a")].url().password(), Some("pw"), "what is not named stays");
    assert_eq!(config.log.filter.as_str(), "info");
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_no_utf_8_is_a_fault_only_if_it_is_ours() {
    use std::os::unix::ffi::OsStringExt;
    let bad = || std::ffi::OsString::from_vec(vec![0xff]);
    let found = overlay::as_text([("PATH".into(), bad()), (bad(), bad()), ("CULVERT_LISTEN".into(), "x".into())]);
    assert_eq!(found, Ok(vec![("CULVERT_LISTEN".to_string(), "x".to_string())]));
    let fault = overlay::as_text([("CULVERT_LISTEN".into(), bad())]).unwrap_err();
    assert_eq!(fault.to_string(), "CULVERT_LISTEN: this value is not UTF-8");
}

#[test]
fn an_empty_variable_takes_a_value_away() {
    let config =
        with("node: {cid: a}\ntls: {self_signed: true}\n", &[("CULVERT_NODE__CID", ""), ("CULVERT_TLS", "null")]);
    assert_eq!(config, Ok(Config::default()));
}

#[test]
fn a_fault_of_a_variable_names_it() {
    for (variables, wanted) in [
        (&[("CULVERT_LISTE", "x")][..], "CULVERT_LISTE: unknown key `liste`; did you mean `listen`? "),
        (&[("CULVERT_LISTEN", "x")], "CULVERT_LISTEN: \"x\" is no address to listen on; "),
        (
            &[("CULVERT_NODE__CID", "a"), ("CULVERT_LIMITS__MAX_LAG", "5")],
            "CULVERT_LIMITS__MAX_LAG: \"5\" has no unit; ",
        ),
        (&[("CULVERT_LISTEN__PORT", "5")], "CULVERT_LISTEN__PORT: there is no key `port` below a single value"),
        (&[("CULVERT_LISTEN", "")], "CULVERT_LISTEN: a value is missing here"),
        (&[("CULVERT_NODE_CID", "a")], "CULVERT_NODE_CID: unknown key `node_cid`; "),
        (&[("CULVERT_", "a")], "CULVERT_: this is no key; a variable is CULVERT_ and a key, as in CULVERT_NODE__CID"),
        (&[("CULVERT_PUSH", "{retry")], "CULVERT_PUSH: "),
        (&[("CULVERT_TLS__CERT", "c.pem")], "CULVERT_TLS__CERT: tls has a cert but no key"),
        (
            &[("CULVERT_TLS__CERT", "c"), ("CULVERT_TLS__KEY", "k"), ("CULVERT_TLS__SELF_SIGNED", "true")],
            "CULVERT_TLS__CERT, CULVERT_TLS__KEY, CULVERT_TLS__SELF_SIGNED: tls has files and self_signed: true",
        ),
        (
            &[("CULVERT_WEBRTC__PUBLIC_ADDR", "[0.0.0.0]")],
            "CULVERT_WEBRTC__PUBLIC_ADDR: \"0.0.0.0\" is no address under which anybody is found",
        ),
    ] {
        let found = with("", variables).unwrap_err();
        assert!(found.starts_with(wanted), "{found}\n{wanted}");
    }
}

#[test]
fn the_file_is_found_or_its_absence_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.yaml");
    let none = || std::iter::empty();
    let missing = load(Some(&path), none()).unwrap_err().to_string();
    assert!(missing.ends_with("a.yaml: there is no such file"), "{missing}");
    std::fs::write(&path, b"listen: '127.0.0.1:1'\n").unwrap();
    assert_eq!(load(Some(&path), none()).unwrap().listen.port(), 1);
    let variable = ("CULVERT_LISTEN".to_string(), "127.0.0.1:2".to_string());
    assert_eq!(load(Some(&path), [variable]).unwrap().listen.port(), 2);
    std::fs::write(&path, b"listen: \xff\n").unwrap();
    assert!(load(Some(&path), none()).unwrap_err().to_string().contains("not UTF-8: its byte 9"));
    std::fs::write(&path, vec![b'#'; (8 << 20) + 1]).unwrap();
    assert!(load(Some(&path), none()).unwrap_err().to_string().contains("more than 8 MiB"));
    assert!(load(Some(folder.path()), none()).unwrap_err().to_string().contains("cannot be read"));
}

#[test]
fn what_is_in_force_is_shown_without_secrets_and_in_order() {
    let config = read(EVERYTHING);
    let (yaml, json) = (config.masked_yaml(), config.masked_json().to_string());
    for shown in [&yaml, &json, &format!("{config:?}")] {
        assert!(!shown.contains("hunter2") && !shown.to_lowercase().contains("00112233"), "{shown}");
    }
    for part in [
        "rtmp://***@10.0.0.1/live/a?token=***",
        "rtmps://upper/live/key?auth=***",
        "start_timeout: 1500ms",
        "bytes: 1MiB",
    ] {
        assert!(yaml.contains(part), "{yaml}");
    }
    let sections: Vec<&str> =
        yaml.lines().filter(|line| !line.starts_with([' ', '-'])).filter_map(|line| line.split(':').next()).collect();
    assert_eq!(
        sections,
        [
            "listen", "node", "tls", "auth", "cascade", "pull", "push", "rtmp", "rtsp", "hls", "webrtc", "limits",
            "fan_out", "log"
        ]
    );
}

#[test]
fn what_is_shown_of_a_configuration_without_secrets_can_be_read_again() {
    for text in [
        "",
        "tls: {self_signed: true}\nauth: {anonymous: {allow: [play]}}\npull: {on_demand: {'a/*': 'http://h/$1'}}\n",
    ] {
        let config = read(text);
        assert_eq!(read(&config.masked_yaml()), config);
    }
}

#[cfg(unix)]
#[test]
fn a_folder_whose_name_is_no_utf_8_can_be_shown() {
    use std::os::unix::ffi::OsStringExt;
    let mut config = Config::default();
    config.node.data_dir = std::ffi::OsString::from_vec(vec![b'd', 0xff]).into();
    assert!(config.masked_yaml().contains("data_dir"));
}

proptest! {
    #[test]
    fn any_text_is_a_configuration_or_a_fault(text in "\\PC{0,200}") {
        let _ = parse(&text, Path::new("any.yaml"));
    }

    #[test]
    fn any_text_made_of_what_yaml_is_made_of_is_one_or_the_other(
        words in prop::collection::vec(prop::sample::select(vec![
            "listen", "node", "limits", "pull", "always", "auth", "users", "tls", "gop_cache", ":", ": ", "\n", "\n  ", "\n    ",
            "{", "}", "[", "]", ",", "- ", "&a ", "*a", "<<", "!!str ", "? ", "'", "\"", "|", ">", "#", "\t", "10s", "~", "---", "%",
            "a/b", "rtmp://h/a", "\u{feff}", "\r\n", "\\x41", "é",
        ]), 0..60),
    ) {
        let text = words.concat();
        if let Err(Fault::At { line, column, .. }) = parse(&text, Path::new("any.yaml")) {
            prop_assert!(line >= 1 && column >= 1);
        }
        let _ = overlay(Config::default(), [("CULVERT_PULL".to_string(), text)]);
    }

    #[test]
    fn a_random_secret_is_never_shown(secret in "[A-Za-z0-9_-]{16,43}", hash in "[0-9a-f]{64}") {
        let config = read(&format!(
            "auth: {{users: [{{name: u, token_sha256: '{hash}'}}]}}\n\
             pull: {{always: {{a: 'rtmp://u:{secret}@h/a', b: 'http://{secret}@h/a?x=1&access_token={secret}'}}, on_demand: {{'*': 'rtmp://h/$1?sig={secret}'}}}}\n\
             push: {{list: {{a: 'rtmps://h/a?secret={secret};key={secret}'}}}}\n"
        ));
        for shown in [config.masked_yaml(), config.masked_json().to_string(), format!("{config:?}")] {
            prop_assert!(!shown.contains(&secret) && !shown.contains(&hash), "{}", shown);
        }
    }
}
