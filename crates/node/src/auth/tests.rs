//! The whole table: every identity, action and resource; and who somebody is.

use std::net::SocketAddr;
use std::path::Path;

use culvert_hub::{Ask, Policy};

use super::*;
use crate::config::parse;

const ADMIN: &str = "the-admin-token-0123456789";

fn sha256(text: &str) -> String {
    Hash::of(text).0.iter().map(|byte| format!("{byte:02x}")).collect()
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
         [publish, read-api], streams: 'live/**'}}\n  - {{name: ops, token_sha256: {ops}, allow: [read-api, metrics]}}\n"
    ))
}

fn shows(secret: Option<&str>) -> Credentials {
    Credentials { user: None, secret: secret.map(str::to_string) }
}

fn user(name: &str) -> Identity {
    Identity::User(name.into())
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
        (Identity::Admin, [(Publish, all), (Play, all), (ReadApi, all), (ChangeApi, all), (Metrics, all)]),
        (Identity::Anonymous, [(Publish, no), (Play, public), (ReadApi, no), (ChangeApi, no), (Metrics, no)]),
        (Identity::Loopback, [(Publish, no), (Play, public), (ReadApi, no), (ChangeApi, no), (Metrics, no)]),
        (
            user("cam"),
            [
                (Publish, "public:403 live:yes node:403"),
                (Play, "public:yes live:403 node:403"),
                (ReadApi, "public:403 live:yes node:403"),
                (ChangeApi, forbidden),
                (Metrics, forbidden),
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
            ],
        ),
        (user("gone"), [(Publish, no), (Play, no), (ReadApi, no), (ChangeApi, no), (Metrics, no)]),
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
    let basic = Credentials { user: Some("whoever".into()), secret: Some("cam-token".into()) };
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
    let ops =
        guard.check("192.0.2.1".parse().unwrap(), &shows(Some("ops-token")), None, Action::Metrics, Resource::Node);
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
