//! The whole table: every identity, action and resource; and who somebody is.

use std::net::SocketAddr;
use std::path::Path;

use culvert_hub::{Ask, Policy};
use culvert_media::Cid;

use super::*;
use crate::config::parse;

const ADMIN: &str = "the-admin-token-0123456789";

fn sha256(text: &str) -> String {
    Hash::of(text).0.iter().map(|word| format!("{word:016x}")).collect()
}

fn admin() -> AdminToken {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("admin-token");
    std::fs::write(&file, ADMIN).unwrap();
    #[cfg(unix)]
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let node = crate::config::Node { data_dir: folder.path().into(), ..Default::default() };
    crate::config::NodeIdentity::load_or_make(&node).unwrap().admin_token
}

fn rules(yaml: &str) -> Rules {
    Rules::new(&parse(yaml, Path::new("test.yaml")).unwrap(), &admin())
}

fn with_auth() -> Rules {
    let (cam, ops) = (sha256("cam-token"), sha256("ops-token"));
    rules(&format!(
        "auth:\n  anonymous: {{allow: [play], streams: 'public/**'}}\n  users:\n  - {{name: cam, token_sha256: {cam}, allow: \
         [publish, read-api], streams: 'live/**'}}\n  - {{name: ops, token_sha256: {ops}, allow: [read-api, metrics, peer]}}\n"
    ))
}

fn shows(secret: Option<&str>) -> Credentials {
    Credentials { secret: secret.map(str::to_string), ..Credentials::default() }
}

fn user(name: &str) -> Identity {
    Identity::User(name.into())
}

fn lower(cid: &str) -> Identity {
    Identity::Lower([CidPattern::parse(cid).unwrap()].into())
}

/// What is in the table for one identity: for each action the resources out of `public/a`, `live/a`, node.
fn table(rules: &Rules, identity: &Identity) -> Vec<(Action, String)> {
    let (public, live) = (StreamName::parse("public/a").unwrap(), StreamName::parse("live/a").unwrap());
    let resources =
        [("public", Resource::Stream(&public)), ("live", Resource::Stream(&live)), ("node", Resource::Node)];
    let row = |action| {
        let words = resources.iter().map(|(word, resource)| match authorize(rules, identity, action, *resource) {
            Ok(()) => format!("{word}:yes"),
            Err(refusal) => format!("{word}:{}", refusal.status()),
        });
        words.collect::<Vec<_>>().join(" ")
    };
    Action::ALL.into_iter().map(|action| (action, row(action))).collect()
}

#[test]
fn every_identity_action_and_resource_with_an_auth_section() {
    use Action::*;
    let rules = with_auth();
    let all = "public:yes live:yes node:yes";
    let no = "public:401 live:401 node:401";
    let forbidden = "public:403 live:403 node:403";
    let public = "public:yes live:401 node:401";
    for (identity, rows) in [
        (Identity::Admin, [(Publish, all), (Play, all), (ReadApi, all), (ChangeApi, all), (Metrics, all), (Peer, all)]),
        (
            Identity::Anonymous,
            [(Publish, no), (Play, public), (ReadApi, no), (ChangeApi, no), (Metrics, no), (Peer, no)],
        ),
        (
            Identity::Loopback,
            [(Publish, no), (Play, public), (ReadApi, no), (ChangeApi, no), (Metrics, no), (Peer, no)],
        ),
        (
            Identity::Upper("hq".into()),
            [(Publish, forbidden), (Play, all), (ReadApi, all), (ChangeApi, all), (Metrics, all), (Peer, all)],
        ),
        (
            lower("a"),
            [
                (Publish, "public:403 live:403 node:403"),
                (Play, forbidden),
                (ReadApi, forbidden),
                (ChangeApi, forbidden),
                (Metrics, forbidden),
                (Peer, forbidden),
            ],
        ),
        (
            user("cam"),
            [
                (Publish, "public:403 live:yes node:403"),
                (Play, "public:yes live:403 node:403"),
                (ReadApi, "public:403 live:yes node:403"),
                (ChangeApi, forbidden),
                (Metrics, forbidden),
                (Peer, forbidden),
            ],
        ),
        (
            user("ops"),
            [
                (Publish, forbidden),
                (Play, "public:yes live:403 node:403"),
                (ReadApi, all),
                (ChangeApi, forbidden),
                (Metrics, all),
                (Peer, all),
            ],
        ),
        (user("gone"), [(Publish, no), (Play, no), (ReadApi, no), (ChangeApi, no), (Metrics, no), (Peer, no)]),
    ] {
        let rows: Vec<_> = rows.into_iter().map(|(action, row)| (action, row.to_string())).collect();
        assert_eq!(table(&rules, &identity), rows, "{identity:?}");
    }
}

#[test]
fn every_identity_action_and_resource_without_an_auth_section() {
    let rules = rules("");
    for (identity, word) in
        [(Identity::Admin, "yes"), (Identity::Loopback, "yes"), (Identity::Anonymous, "401"), (user("anybody"), "401")]
    {
        for (action, row) in table(&rules, &identity) {
            assert_eq!(row, format!("public:{word} live:{word} node:{word}"), "{identity:?} {action:?}");
        }
    }
}

#[test]
fn an_auth_section_with_nothing_in_it_leaves_the_admin_alone() {
    let rules = rules("auth: {}\n");
    for (_, row) in table(&rules, &identify(&rules, "127.0.0.1".parse().unwrap(), &shows(None)).unwrap()) {
        assert_eq!(row, "public:401 live:401 node:401");
    }
}

#[test]
fn who_somebody_is_depends_on_the_token_first_and_the_address_then() {
    let (open, closed) = (rules(""), with_auth());
    for (rules, remote, secret, identity) in [
        (&open, "127.0.0.1", None, Some(Identity::Loopback)),
        (&open, "127.8.8.8", None, Some(Identity::Loopback)),
        (&open, "::1", None, Some(Identity::Loopback)),
        (&open, "::ffff:127.0.0.1", None, Some(Identity::Loopback)),
        (&open, "192.0.2.1", None, Some(Identity::Anonymous)),
        (&open, "::ffff:192.0.2.1", None, Some(Identity::Anonymous)),
        (&open, "192.0.2.1", Some(ADMIN), Some(Identity::Admin)),
        (&open, "127.0.0.1", Some("wrong"), None),
        (&open, "127.0.0.1", Some(""), None),
        (&closed, "127.0.0.1", None, Some(Identity::Anonymous)),
        (&closed, "192.0.2.1", Some("cam-token"), Some(user("cam"))),
        (&closed, "127.0.0.1", Some("ops-token"), Some(user("ops"))),
        (&closed, "127.0.0.1", Some(ADMIN), Some(Identity::Admin)),
        (&closed, "127.0.0.1", Some("cam-tokeN"), None),
        // The hash is no token.
        (&closed, "127.0.0.1", Some(sha256("cam-token").as_str()), None),
    ] {
        let found = identify(rules, remote.parse().unwrap(), &shows(secret));
        match identity {
            Some(identity) => assert_eq!(found, Ok(identity), "{remote} {secret:?}"),
            None => assert!(matches!(found, Err(Refusal::Unauthorized(_))), "{remote} {secret:?}"),
        }
    }
    let basic = Credentials { user: Some("whoever".into()), secret: Some("cam-token".into()), digest: None };
    assert_eq!(identify(&closed, "192.0.2.1".parse().unwrap(), &basic), Ok(user("cam")));
}

#[test]
fn a_user_with_the_admin_s_token_does_not_take_it_from_the_admin() {
    let rules = rules(&format!("auth: {{users: [{{name: eve, token_sha256: {}}}]}}\n", sha256(ADMIN)));
    assert_eq!(identify(&rules, "192.0.2.1".parse().unwrap(), &shows(Some(ADMIN))), Ok(Identity::Admin));
}

fn ask(remote: &str, secret: Option<&str>, origin: Option<&str>) -> Ask {
    Ask {
        action: culvert_hub::Action::Publish,
        stream: StreamName::parse("live/a").unwrap(),
        protocol: "rtmp",
        remote: SocketAddr::new(remote.parse().unwrap(), 5000),
        secure: false,
        credentials: shows(secret),
        origin: origin.map(str::to_string),
        upper: None,
    }
}

#[tokio::test]
async fn the_guard_grants_refuses_and_takes_new_rules() {
    let guard = Guard::new(rules("limits: {wait_for_stream: 3s}\n"));
    let grant = guard.admit(&ask("127.0.0.1", None, None)).await.unwrap();
    assert_eq!((&*grant.identity.name, grant.identity.proven), ("loopback", false));
    assert_eq!(grant.wait, Duration::from_secs(3));
    let refusal = guard.admit(&ask("192.0.2.1", None, None)).await.unwrap_err();
    assert!(refusal.to_string().contains("Authorization: Bearer"), "{refusal}");
    assert!(!refusal.to_string().contains(ADMIN));

    guard.replace(with_auth());
    let refusal = guard.admit(&ask("127.0.0.1", None, None)).await.unwrap_err();
    assert_eq!(refusal.status(), 401);
    let grant = guard.admit(&ask("192.0.2.1", Some("cam-token"), None)).await.unwrap();
    assert_eq!((&*grant.identity.name, grant.identity.proven), ("user:cam", true));
    let refusal = guard.admit(&ask("192.0.2.1", Some("ops-token"), None)).await.unwrap_err();
    assert_eq!(
        refusal,
        Refusal::Forbidden("ops may not publish; add it to `allow` of this user in the auth section".into())
    );
}

#[tokio::test]
async fn a_page_from_elsewhere_has_not_the_right_of_this_machine() {
    let guard = Guard::new(rules(""));
    for origin in ["http://localhost:3000", "http://127.0.0.1:8450", "https://[::1]"] {
        assert!(guard.admit(&ask("127.0.0.1", None, Some(origin))).await.is_ok(), "{origin}");
    }
    for origin in
        ["http://evil.example", "http://localhost.evil.example", "null", "", "http://192.168.1.5:8450", "file://"]
    {
        let refusal = guard.admit(&ask("127.0.0.1", None, Some(origin))).await.unwrap_err();
        assert_eq!(refusal.status(), 403, "{origin}");
    }
    assert!(guard.admit(&ask("127.0.0.1", Some(ADMIN), Some("http://evil.example"))).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn who_guesses_is_slowed_down_and_others_are_not() {
    let guard = Guard::new(with_auth());
    let status = async |remote: &str, secret: &str| {
        guard.admit(&ask(remote, Some(secret), None)).await.map_or_else(|no| no.status(), |_| 200)
    };
    assert_eq!(status("192.0.2.1", "cam-token").await, 200);
    for n in 0..20 {
        assert_eq!(status("192.0.2.1", &format!("guess {n}")).await, 401);
    }
    for n in 0..2000 {
        assert_eq!(status("192.0.2.1", &format!("guess again {n}")).await, 429);
    }
    assert_eq!(status("192.0.2.1", "cam-token").await, 200, "it was right from there before");
    assert_eq!(status("192.0.2.1", ADMIN).await, 200, "nobody guesses that");
    let credentials = shows(Some("ops-token"));
    let shown = Shown { remote: "192.0.2.1".parse().unwrap(), credentials: &credentials, origin: None, upper: None };
    let ops = guard.check(&shown, Action::Metrics, Resource::Node);
    assert_eq!(ops.unwrap_err().status(), 429, "a right guess looks like a wrong one");
    assert_eq!(status("192.0.2.2", "cam-token").await, 200);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(status("192.0.2.1", "guess").await, 401);
}

#[test]
fn no_secret_is_shown_by_debug() {
    let text = format!("{:?} {:?}", with_auth(), admin());
    for secret in [ADMIN.to_string(), sha256(ADMIN), sha256("cam-token"), sha256("ops-token")] {
        assert!(!text.contains(&secret), "{text}");
    }
}

fn with_lowers(more: &str) -> Rules {
    let (edge, old) = (sha256("edge-token"), sha256("old-token"));
    rules(&format!(
        "{more}cascade: {{lowers: {{admit: [{{cid: 'edge-*', token_sha256: {edge}}}, {{cid: old, token_sha256: {old}}}, \
         {{cid: older, token_sha256: {old}}}]}}}}\n"
    ))
}

/// What somebody shows who wants to link.
#[derive(Clone, Copy)]
struct Dials<'a> {
    remote: &'a str,
    secret: Option<&'a str>,
    origin: bool,
    site: &'a str,
    certificate: Option<&'a str>,
}

const DIALS: Dials<'static> =
    Dials { remote: "127.0.0.1", secret: None, origin: false, site: "http://127.0.0.1:8450", certificate: None };

fn link(guard: &Guard, dials: &Dials<'_>, cid: &str) -> Result<(), Refusal> {
    let names = |name: &str| dials.certificate == Some(name);
    let credentials = shows(dials.secret);
    let dialler = Dialler {
        remote: dials.remote.parse().unwrap(),
        credentials: &credentials,
        has_origin: dials.origin,
        site: dials.site,
        certificate: dials.certificate.is_some().then_some(&names),
    };
    guard.admit_link(&dialler, &Cid::parse(cid).unwrap())
}

fn link_status(guard: &Guard, dials: &Dials<'_>, cid: &str) -> u16 {
    link(guard, dials, cid).map_or_else(|no| no.status(), |()| 200)
}

#[tokio::test]
async fn a_platform_may_link_with_its_own_token_only() {
    for more in ["", "auth: {}\n"] {
        let guard = Guard::new(with_lowers(more));
        for (secret, cid, status) in [
            (Some("edge-token"), "edge-7", 200),
            (Some("edge-token"), "edge-8", 200),
            (Some("edge-token"), "old", 403),
            (Some("old-token"), "old", 200),
            (Some("old-token"), "older", 200),
            (Some("old-token"), "oldest", 403),
            (Some(ADMIN), "any", 200),
            (Some("wrong"), "edge-7", 401),
            (Some(""), "edge-7", 401),
            (Some(sha256("edge-token").as_str()), "edge-7", 401),
            (None, "edge-7", 401),
        ] {
            for remote in ["127.0.0.1", "::1", "192.0.2.1"] {
                let dials = Dials { remote, secret, ..DIALS };
                assert_eq!(link_status(&guard, &dials, cid), status, "{secret:?} {cid} {remote} {more}");
            }
        }
    }
    let refusal =
        link(&Guard::new(with_lowers("")), &Dials { secret: Some("edge-token"), ..DIALS }, "old").unwrap_err();
    assert!(refusal.to_string().starts_with("this token is not for the platform old but for edge-*; "), "{refusal}");
    let user = Guard::new(with_auth());
    let refusal = link(&user, &Dials { secret: Some("cam-token"), ..DIALS }, "c1").unwrap_err();
    assert_eq!(refusal.status(), 403);
    assert!(refusal.to_string().contains("the user cam, which is not for linking"), "{refusal}");
}

#[tokio::test]
async fn this_machine_may_link_without_a_token_only_where_nothing_says_who_may() {
    let open = Guard::new(rules(""));
    assert_eq!(link_status(&open, &DIALS, "c1"), 200);
    assert_eq!(link_status(&open, &Dials { remote: "::ffff:127.0.0.1", site: "http://localhost", ..DIALS }, "c1"), 200);
    assert_eq!(link_status(&open, &Dials { remote: "192.0.2.1", ..DIALS }, "c1"), 401);
    assert_eq!(link_status(&open, &Dials { secret: Some("wrong"), ..DIALS }, "c1"), 401);
    for site in ["unknown", "http://upper.example", "http://192.168.1.5:8450"] {
        assert_eq!(link_status(&open, &Dials { site, ..DIALS }, "c1"), 403, "{site}");
    }
    for closed in [rules("auth: {}\n"), with_lowers("")] {
        let refusal = link(&Guard::new(closed), &DIALS, "c1").unwrap_err();
        assert_eq!(refusal.status(), 401);
        assert!(refusal.to_string().contains("cascade.lowers.admit"), "{refusal}");
    }
}

#[tokio::test]
async fn a_certificate_is_for_the_id_that_it_names_and_the_rows_that_allow_it() {
    let tls = "tls: {self_signed: true, client_ca: ca.pem}\n";
    let shows = |certificate| Dials { remote: "192.0.2.1", certificate: Some(certificate), ..DIALS };
    for more in [rules(tls), with_lowers(tls), rules(&format!("{tls}auth: {{}}\n"))] {
        let guard = Guard::new(more);
        assert_eq!(link_status(&guard, &shows("c1"), "c1"), 200);
        assert_eq!(link_status(&guard, &shows("c1"), "c2"), 403);
        assert_eq!(link_status(&guard, &Dials { secret: Some("wrong"), ..shows("c1") }, "c1"), 401);
        assert_eq!(link_status(&guard, &Dials { origin: true, ..shows("c1") }, "c1"), 403);
    }
    let some = Guard::new(rules(&format!("{tls}cascade: {{lowers: {{admit: [{{cid: 'c*'}}]}}}}\n")));
    assert_eq!(link_status(&some, &shows("c1"), "c1"), 200);
    let refusal = link(&some, &shows("d1"), "d1").unwrap_err();
    assert!(refusal.status() == 403 && refusal.to_string().contains("without a token_sha256"), "{refusal}");
    assert_eq!(link_status(&some, &Dials { certificate: None, ..shows("") }, "c1"), 401);
    assert_eq!(link_status(&some, &DIALS, "c1"), 401, "a row is there");
}

#[tokio::test(start_paused = true)]
async fn no_page_makes_a_link_and_who_guesses_tokens_for_one_is_slowed_down() {
    let guard = Guard::new(with_lowers(""));
    let right = Dials { secret: Some("edge-token"), remote: "192.0.2.1", ..DIALS };
    for _ in 0..50 {
        assert_eq!(link_status(&guard, &Dials { origin: true, secret: Some("x"), ..right }, "edge-7"), 403);
        assert_eq!(link_status(&guard, &Dials { secret: None, ..right }, "edge-7"), 401);
    }
    assert_eq!(link_status(&guard, &right, "edge-7"), 200);
    for n in 0..20 {
        assert_eq!(link_status(&guard, &Dials { secret: Some(&format!("guess {n}")), ..right }, "edge-7"), 401);
    }
    assert_eq!(link_status(&guard, &Dials { secret: Some("guess"), ..right }, "edge-7"), 429);
    assert_eq!(
        link_status(&guard, &Dials { secret: Some("old-token"), ..right }, "old"),
        200,
        "tokens of lowers are made, not chosen"
    );
    assert_eq!(link_status(&guard, &right, "edge-7"), 200);
    assert_eq!(link_status(&guard, &Dials { remote: "192.0.2.2", ..right }, "edge-7"), 200);
}

#[tokio::test]
async fn other_rows_are_in_force_at_once() {
    let guard = Guard::new(with_lowers(""));
    let dials = Dials { secret: Some("edge-token"), ..DIALS };
    assert_eq!(link_status(&guard, &dials, "edge-7"), 200);
    guard.replace(rules(""));
    assert_eq!(link_status(&guard, &dials, "edge-7"), 401);
    guard.replace(with_lowers("auth: {}\n"));
    assert_eq!(link_status(&guard, &dials, "edge-7"), 200);
}

#[tokio::test]
async fn a_platform_s_token_publishes_streams_of_that_platform_and_nothing_else() {
    let guard = Guard::new(with_lowers("auth: {anonymous: {allow: [publish, play]}}\n"));
    let asks = async |stream: &str, action| {
        let stream = StreamName::parse(stream).unwrap();
        guard.admit(&Ask { stream, action, ..ask("192.0.2.1", Some("edge-token"), None) }).await
    };
    let grant = asks("live/a-edge-7", culvert_hub::Action::Publish).await.unwrap();
    assert_eq!((&*grant.identity.name, grant.identity.proven), ("lower:edge-*", true));
    assert!(asks("live/a-c1-edge-7", culvert_hub::Action::Publish).await.is_ok());
    for stream in ["live/a", "live/a-old", "edge-7", "live/-edge-7", "live/a-edge-7/b"] {
        let refusal = asks(stream, culvert_hub::Action::Publish).await.unwrap_err();
        assert_eq!(refusal.status(), 403, "{stream}");
    }
    let refusal = asks("live/a-edge-7", culvert_hub::Action::Play).await.unwrap_err();
    let wanted = "this token is for the platform edge-*: with it one may link, and publish streams whose names end in \
                  -edge-*; this is play of the stream live/a-edge-7";
    assert_eq!(refusal, Refusal::Forbidden(wanted.into()));
}

#[tokio::test]
async fn what_comes_down_the_link_is_the_upper_s_whatever_else_it_shows() {
    for rules in [rules(""), rules("auth: {}\n"), with_auth()] {
        let guard = Guard::new(rules);
        for secret in [None, Some("wrong"), Some(ADMIN), Some("cam-token")] {
            for remote in ["127.0.0.1", "192.0.2.1"] {
                let ask = Ask { upper: Some("hq".into()), ..ask(remote, secret, Some("http://evil.example")) };
                assert_eq!(guard.admit(&ask).await.unwrap_err().status(), 403, "an upper publishes nothing");
                let play = Ask { action: culvert_hub::Action::Play, ..ask };
                assert_eq!(&*guard.admit(&play).await.unwrap().identity.name, "upper:hq");
            }
        }
    }
}

#[test]
fn of_ten_thousand_tokens_the_last_is_found_and_quickly() {
    let row = |n: u32| format!("{{cid: c{n}, token_sha256: {}}}", sha256(&n.to_string()));
    let rows: Vec<String> = (0..10_000).map(row).collect();
    let rules = rules(&format!("cascade: {{lowers: {{admit: [{}]}}}}\n", rows.join(", ")));
    let begun = std::time::Instant::now();
    for n in (0..10_000).step_by(100) {
        assert_eq!(rules.owner(&Hash::of(&n.to_string())), Some(lower(&format!("c{n}"))));
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
