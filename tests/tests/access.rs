//! Who may do what, as seen from outside: by `auth` of the configuration, the same at every door.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use culvert_rtmp::session::Goal;
use culvert_tests::TestNode;
use culvert_tests::http::request;
use culvert_tests::media::{Script, into_hub, publish_clip};
use culvert_tests::node::token_sha256;
use culvert_tests::rtmp::Peer;
use culvert_tests::view::Viewer;

const TOKEN: &str = "cam's own token";

fn guarded() -> TestNode {
    TestNode::start(&format!(
        "auth:\n  anonymous: {{allow: [play], streams: \"public/**\"}}\n  users:\n  - {{name: cam, token_sha256: {}, \
         allow: [publish, play], streams: \"live/**\"}}\n",
        token_sha256(TOKEN)
    ))
}

fn in_query() -> String {
    format!("?token={}", TOKEN.replace(' ', "%20"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_publishes_and_plays_by_his_token_and_others_do_not() {
    let node = guarded();
    publish_clip(node.url("rtmp", &format!("/live/a{}", in_query())));
    assert_eq!(&*node.until_live("live/a").await.publisher.identity.name, "user:cam");

    for path in ["live/b", "live/b?token=wrong", "public/b"] {
        let (code, why) = Peer::connect(&node, Goal::Publish, path).await.refused().await;
        assert!(code == "NetStream.Publish.Denied" && !why.is_empty(), "{path}: {code}: {why}");
    }
    let elsewhere = format!("other/b{}", in_query());
    let (code, _) = Peer::connect(&node, Goal::Publish, &elsewhere).await.refused().await;
    assert_eq!(code, "NetStream.Publish.Denied");
    let (code, _) = Peer::connect(&node, Goal::Play, "live/a").await.refused().await;
    assert_eq!(code, "NetStream.Play.Denied");

    Viewer::open(&node, "live/a", &in_query()).await.frame().await.unwrap();
    let basic = format!("Basic {}", STANDARD.encode(format!("anybody:{TOKEN}")));
    let bearer = format!("Bearer {TOKEN}");
    let wrong = "Bearer wrong".to_string();
    let play = "/play/live/a.flv";
    for (header, status) in [(Some(&basic), 200), (Some(&bearer), 200), (Some(&wrong), 401), (None, 401)] {
        // HEAD, for what is played does not end.
        let headers: Vec<_> = header.map(|value| ("Authorization", value.as_str())).into_iter().collect();
        let answer = request(node.address(), "HEAD", play, &headers).await;
        assert_eq!(answer.status, status, "{header:?}");
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401);
        if status == 401 {
            let answer = request(node.address(), "GET", play, &headers).await;
            assert_eq!((answer.status, &answer.json()["status"]), (401, &401.into()));
        }
    }
    let refused = node.node.hub.figures().refusals();
    assert!(refused.iter().map(|(.., n)| n).sum::<u64>() >= 5, "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn anybody_plays_what_is_public_and_only_that() {
    let node = guarded();
    let admin = node.node.identity.admin_token.reveal();
    publish_clip(node.url("rtmp", &format!("/public/a?token={admin}")));
    node.until_live("public/a").await;
    Viewer::open(&node, "public/a", "").await.frame().await.unwrap();
    // A stream that is missing looks like one that is not for him.
    assert_eq!(node.get("/play/live/none.flv").await.status, 401);
    // A wrong token is worse than none.
    assert_eq!(node.get("/play/public/a.flv?token=wrong").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_of_the_api_asks_for_permission() {
    let node = guarded();
    let bearer = format!("Bearer {}", node.node.identity.admin_token.reveal());
    let user = format!("Bearer {TOKEN}");
    let paths = [
        ("GET", "/api/v1/streams"),
        ("GET", "/api/v1/streams/live/a"),
        ("DELETE", "/api/v1/streams/live/a"),
        ("GET", "/api/v1/sessions"),
        ("GET", "/api/v1/sessions/1"),
        ("DELETE", "/api/v1/sessions/1"),
        ("GET", "/api/v1/pulls"),
        ("GET", "/api/v1/pushes"),
        ("GET", "/api/v1/config"),
        ("GET", "/metrics"),
    ];
    for (method, path) in paths {
        let answer = request(node.address(), method, path, &[]).await;
        assert_eq!(answer.status, 401, "{method} {path}");
        assert_eq!(answer.header("content-type").as_deref(), Some("application/problem+json"), "{method} {path}");
        let answer = request(node.address(), method, path, &[("Authorization", &user)]).await;
        assert_eq!(answer.status, 403, "{method} {path}: a user who may publish and play only");
        let answer = request(node.address(), method, path, &[("Authorization", &bearer)]).await;
        assert!([200, 404].contains(&answer.status), "{method} {path}: {}", answer.status);
    }
    for path in ["/healthz", "/readyz", "/console/"] {
        assert_eq!(node.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_from_elsewhere_may_not_use_what_this_machine_may() {
    let node = TestNode::start("");
    publish_clip(node.url("rtmp", "/live/a"));
    node.until_live("live/a").await;
    for path in ["/api/v1/streams", "/metrics", "/play/live/a.flv"] {
        for origin in ["https://evil.example", "null", "http://localhost.evil.example"] {
            let answer = request(node.address(), "GET", path, &[("Origin", origin)]).await;
            assert_eq!(answer.status, 403, "{path} from {origin}");
            assert!(answer.text().contains("web page"), "{}", answer.text());
        }
        let own = request(node.address(), "HEAD", path, &[("Origin", "http://localhost:8450")]).await;
        assert_eq!(own.status, 200, "{path}");
    }
    let answer =
        request(node.address(), "DELETE", "/api/v1/streams/live/a", &[("Origin", "https://evil.example")]).await;
    assert_eq!(answer.status, 403);
    assert!(node.stream("live/a").is_some());
}

/// The page's own scripts could read it there, and they come from below.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_from_below_is_not_opened_with_the_token_in_its_address() {
    let token = "an-operator-s-token";
    let user = format!("{{name: op, token_sha256: \"{}\", allow: [peer]}}", token_sha256(token));
    let node = TestNode::start(&format!("auth: {{users: [{user}]}}"));
    let html = [("Accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8")];
    for (path, query, left) in [
        ("/peer/edge1/target/cam1/", format!("token={token}"), "?"),
        ("/target/cam1/x", format!("a=1&token={token}&b=2"), "?a=1&b=2"),
        ("/erwscascade/httpproxy/x", format!("cid=edge1&token={token}&b=2"), "?cid=edge1&b=2"),
    ] {
        let answer = request(node.address(), "GET", &format!("{path}?{query}"), &html).await;
        assert_eq!((answer.status, answer.header("location").as_deref()), (303, Some(left)), "{path}");
        assert_eq!(answer.header("referrer-policy").as_deref(), Some("no-referrer"));
        // There the browser asks, and what it is told is not in the address.
        let answer = request(node.address(), "GET", &format!("{path}{left}"), &html).await;
        assert_eq!(answer.status, 401, "{path}");
        assert!(answer.header("www-authenticate").unwrap().starts_with("Basic"), "{path}");
        // A program is answered as before: there is no such platform, and no such device.
        let answer = request(node.address(), "GET", &format!("{path}?{query}"), &[("Accept", "*/*")]).await;
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
    }
}

/// Browsers send a password wherever its realm is; so each device has a realm of its own, and the rest of the node is not for pages from elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_s_page_has_nothing_of_the_password_that_opened_it() {
    let token = "an-operator-s-token";
    let user = format!("{{name: op, token_sha256: \"{}\", allow: [peer, read-api, change-api]}}", token_sha256(token));
    let node = TestNode::start(&format!("auth: {{users: [{user}]}}"));
    let realm = async |path: &str| request(node.address(), "GET", path, &[]).await.header("www-authenticate").unwrap();
    assert_eq!(realm("/peer/edge1/target/cam1/").await, "Basic realm=\"culvert /peer/edge1/target/cam1\"");
    assert_eq!(realm("/peer/edge1/target/cam%22/x").await, "Basic realm=\"culvert /peer/edge1/target/cam22\"");
    assert_eq!(realm("/target/cam2").await, "Basic realm=\"culvert /target/cam2\"");
    assert_eq!(realm("/peer/edge1/api/v1/streams").await, "Basic realm=\"culvert\"");
    let basic = format!("Basic {}", STANDARD.encode(format!("x:{token}")));
    let bearer = format!("Bearer {token}");
    let own = node.url("http", "").trim_end_matches('/').to_string();
    let ask = async |method: &str, path: &str, shown: &str, origin: &str| {
        request(node.address(), method, path, &[("Authorization", shown), ("Origin", origin)]).await.status
    };
    for (method, path) in [("POST", "/peer/edge1/api/v1/pulls"), ("DELETE", "/api/v1/streams/live/a")] {
        assert_eq!(ask(method, path, &basic, "null").await, 403, "{path}");
        assert_eq!(ask(method, path, &basic, "http://evil.example").await, 403, "{path}");
        // There is no such platform, and no such stream.
        assert_eq!(ask(method, path, &basic, &own).await, 404, "{path}");
        assert_eq!(ask(method, path, &bearer, "null").await, 404, "{path}");
    }
    assert_eq!(ask("POST", "/peer/edge1/target/cam1/form", &basic, "null").await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_plays_and_does_nothing_else() {
    let token = "an-operator-s-token";
    let user = format!(
        "{{name: op, token_sha256: \"{}\", allow: [play, read-api], streams: \"live/**\"}}",
        token_sha256(token)
    );
    let node = TestNode::start(&format!("auth: {{users: [{user}]}}"));
    let _publishing = into_hub(&node, "live/a", Script::clip(|_, frame| Some(frame)));
    node.until_live("live/a").await;
    let bearer = format!("Bearer {token}");
    let issue = async |shown: &str| {
        request(node.address(), "POST", "/api/v1/tickets", &[("Authorization", shown), ("Content-Length", "0")]).await
    };
    let ticket = issue(&bearer).await.json()["ticket"].as_str().unwrap().to_string();
    assert!(!ticket.contains(token));
    let status = async |path: &str| request(node.address(), "HEAD", path, &[]).await.status;
    assert_eq!(status(&format!("/play/live/a.mp4?token={ticket}")).await, 200);
    assert_eq!(status(&format!("/play/other/a.mp4?token={ticket}")).await, 403, "what its token may not");
    assert_eq!(status(&format!("/play/live/a.mp4?token={ticket}0")).await, 401);
    assert_eq!(node.get(&format!("/api/v1/streams?token={ticket}")).await.status, 403);
    assert_eq!(issue(&format!("Bearer {ticket}")).await.status, 403, "a ticket makes no tickets");
    assert_eq!(
        issue(&format!("Basic {}", STANDARD.encode(format!("x:{token}")))).await.status,
        403,
        "a browser sends that by itself"
    );
    assert_eq!(issue("Bearer wrong").await.status, 401);
}
