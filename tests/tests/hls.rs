//! HLS over HTTP: playlists that wait, sessions, restarts, and what is asked wrongly. What players make of it is in `formats.rs` and
//! `browser.rs`; how a stream is cut, in the crate's own tests.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::time::{Duration, Instant};

use culvert_node::camera::{AudioChoice, Clip, VideoChoice};
use culvert_tests::TestNode;
use culvert_tests::http::{Answer, request};
use culvert_tests::media::{Script, into_hub};
use culvert_tests::wait::{soon, until, within};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// A viewer: the folder of its session.
struct Viewer<'a> {
    node: &'a TestNode,
    folder: String,
}

impl<'a> Viewer<'a> {
    async fn begin(node: &'a TestNode, url: &str) -> Viewer<'a> {
        let answer = node.get(url).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let text = answer.text();
        let uri = text.lines().last().unwrap();
        let base = url.split('?').next().unwrap().rsplit_once('/').unwrap().0;
        let folder = uri.strip_suffix("live.m3u8").unwrap();
        let folder = match folder.strip_prefix("../") {
            Some(folder) => format!("{}/{folder}", base.rsplit_once('/').unwrap().0),
            None => format!("{base}/{folder}"),
        };
        Viewer { node, folder }
    }

    async fn get(&self, file: &str) -> Answer {
        let path = format!("{}{file}", self.folder);
        let ask = request(self.node.address(), "GET", &path, &[]);
        within(Duration::from_secs(30), file, ask).await
    }

    async fn playlist(&self, query: &str) -> Playlist {
        let answer = self.get(&format!("live.m3u8{query}")).await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.text());
        Playlist(answer.text())
    }
}

/// A media playlist.
struct Playlist(String);

impl Playlist {
    fn number(&self, tag: &str) -> u64 {
        let value =
            self.0.lines().find_map(|line| line.strip_prefix(tag)).unwrap_or_else(|| panic!("{tag}: {}", self.0));
        value.trim_start_matches(':').parse().unwrap()
    }

    fn first(&self) -> u64 {
        self.number("#EXT-X-MEDIA-SEQUENCE")
    }

    fn segments(&self) -> Vec<&str> {
        self.0.lines().filter(|line| line.starts_with("seg-")).collect()
    }

    /// The number of the segment that comes next.
    fn next(&self) -> u64 {
        self.first() + self.segments().len() as u64
    }

    fn parts(&self) -> Vec<&str> {
        let parts = self.0.lines().filter(|line| line.starts_with("#EXT-X-PART:"));
        parts.filter_map(|line| line.split('"').nth(1)).collect()
    }

    fn hint(&self) -> &str {
        self.0
            .lines()
            .find_map(|line| line.strip_prefix("#EXT-X-PRELOAD-HINT:TYPE=PART,URI="))
            .unwrap()
            .trim_matches('"')
    }
}

fn clip() -> Script {
    Script::clip(|_, frame| Some(frame))
}

fn viewers(node: &TestNode) -> usize {
    node.stream("live/a").map_or(0, |info| info.viewers)
}

#[tokio::test(flavor = "multi_thread")]
async fn playlists_and_parts_are_waited_for_and_everything_that_is_named_is_there() {
    let node = TestNode::start("");
    let _publishing = into_hub(&node, "live/a", clip());
    node.until_live("live/a").await;
    let viewer = Viewer::begin(&node, "/play/live/a.m3u8").await;
    let playlist = viewer.playlist("").await;
    assert!(!playlist.segments().is_empty(), "{}", playlist.0);
    let mut bytes = 0;
    for part in playlist.parts() {
        let answer = viewer.get(part).await;
        assert_eq!((answer.status, answer.header("content-type").as_deref()), (200, Some("video/mp4")), "{part}");
        assert_eq!(&answer.body[4..8], if answer.body[4] == b'p' { b"prft" } else { b"moof" });
        bytes += if part.starts_with(&format!("part-{}-", playlist.first())) { answer.body.len() } else { 0 };
    }
    let whole = viewer.get(playlist.segments()[0]).await;
    assert_eq!((whole.status, whole.body.len()), (200, bytes), "a segment is its parts");
    let map = playlist.0.lines().find_map(|line| line.strip_prefix("#EXT-X-MAP:URI=")).unwrap().trim_matches('"');
    assert_eq!(&viewer.get(map).await.body[4..8], b"ftyp");
    // The part that is hinted at comes as soon as it is there, and so does the playlist that names it.
    let (hinted, next) = (playlist.hint().to_string(), playlist.next());
    let part: u64 = hinted.trim_end_matches(".m4s").rsplit('-').next().unwrap().parse().unwrap();
    let query = format!("?_HLS_msn={next}&_HLS_part={part}");
    let (got, named) = tokio::join!(viewer.get(&hinted), viewer.playlist(&query));
    assert_eq!(got.status, 200);
    assert!(named.parts().contains(&hinted.as_str()), "{hinted}: {}", named.0);
    // A whole segment is waited for.
    let playlist = viewer.playlist(&format!("?_HLS_msn={next}")).await;
    assert!(playlist.next() > next, "{}", playlist.0);
    // What is old is answered at once.
    let begun = Instant::now();
    viewer.playlist("?_HLS_msn=0&_HLS_part=7").await;
    assert!(begun.elapsed() < Duration::from_secs(1));
}

/// An answer with its length, off a connection that goes on.
async fn next_answer(socket: &mut BufReader<TcpStream>) -> (u16, String, Vec<u8>) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(soon("a head", socket.read_line(&mut head)).await.unwrap() > 0, "{head}");
    }
    let field = |name: &str| {
        head.lines().find_map(|line| Some(line.to_ascii_lowercase().strip_prefix(name)?.trim().to_string()))
    };
    let mut body = vec![0; field("content-length:").unwrap().parse().unwrap()];
    soon("a body", socket.read_exact(&mut body)).await.unwrap();
    (head[9..12].parse().unwrap(), head, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_kept_from_answer_to_answer_and_may_ask_for_something_else() {
    let node = TestNode::start("");
    let _publishing = into_hub(&node, "live/a", clip());
    node.until_live("live/a").await;
    let viewer = Viewer::begin(&node, "/play/live/a.m3u8").await;
    let mut socket = BufReader::new(TcpStream::connect(node.address()).await.unwrap());
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
    // Two at once, then what is wrong, what is not there and what waits, and each has its answer in its turn.
    let playlist = viewer.playlist("").await;
    let map = playlist.0.split('"').find(|text| text.starts_with("init-")).unwrap();
    let named = format!("{}{}", viewer.folder, playlist.segments()[0]);
    socket.write_all((get(&named) + &get(&format!("{}{map}", viewer.folder))).as_bytes()).await.unwrap();
    let (status, head, body) = next_answer(&mut socket).await;
    assert!(status == 200 && head.contains("content-type: video/mp4") && head.contains("date: "), "{head}");
    assert_eq!(body, viewer.get(playlist.segments()[0]).await.body);
    let (status, _, body) = next_answer(&mut socket).await;
    assert_eq!((status, &body[4..8]), (200, &b"ftyp"[..]));
    for (file, status) in [("live.m3u8?_HLS_msn=x", 400), ("seg-99999.m4s", 404)] {
        socket.write_all(get(&format!("{}{file}", viewer.folder)).as_bytes()).await.unwrap();
        let (answered, head, _) = next_answer(&mut socket).await;
        assert!(answered == status && head.contains("application/problem+json"), "{head}");
    }
    let waits = format!("{}live.m3u8?_HLS_msn={}", viewer.folder, viewer.playlist("").await.next() + 1);
    socket.write_all(get(&waits).as_bytes()).await.unwrap();
    assert_eq!(next_answer(&mut socket).await.0, 200);
    // What is none of ours, and after that ours again, by the library; and a last one.
    let playlist = format!("{}live.m3u8", viewer.folder);
    for path in ["/healthz", &playlist] {
        socket.write_all(get(path).as_bytes()).await.unwrap();
        assert_eq!(next_answer(&mut socket).await.0, 200, "{path}");
    }
    let mut socket = BufReader::new(TcpStream::connect(node.address()).await.unwrap());
    let last = get(&playlist).replace("Host: h", "Host: h\r\nConnection: close");
    socket.write_all((get(&playlist) + &last).as_bytes()).await.unwrap();
    for is_last in [false, true] {
        let (status, head, _) = next_answer(&mut socket).await;
        assert_eq!((status, head.contains("connection: close")), (200, is_last), "{head}");
    }
    assert_eq!(soon("the end", socket.read(&mut [0])).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn m7s_s_urls_lead_to_the_same() {
    let node = TestNode::start("");
    let _publishing = into_hub(&node, "live/a", clip());
    node.until_live("live/a").await;
    for url in ["/hls/live/a.m3u8", "/llhls/live/a/index.m3u8"] {
        let viewer = Viewer::begin(&node, url).await;
        assert!(!viewer.playlist("").await.segments().is_empty(), "{url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_counted_can_be_closed_and_ends_by_itself() {
    let node = TestNode::start("");
    let _publishing = into_hub(&node, "live/a", clip());
    node.until_live("live/a").await;
    let (one, two) = (Viewer::begin(&node, "/play/live/a.m3u8").await, Viewer::begin(&node, "/play/live/a.m3u8").await);
    one.playlist("").await;
    two.playlist("").await;
    assert_eq!(viewers(&node), 2);
    let sessions = node.json("/api/v1/sessions").await;
    let hls: Vec<_> = sessions["items"].as_array().unwrap().iter().filter(|s| s["protocol"] == "hls").collect();
    assert_eq!(hls.len(), 2, "{sessions}");
    assert!(hls.iter().all(|s| s["bytes"].as_u64().unwrap() > 0 && s["behind_ms"].is_number()), "{sessions}");
    let id = hls[0]["id"].as_u64().unwrap();
    let closed = request(node.address(), "DELETE", &format!("/api/v1/sessions/{id}"), &[]).await;
    assert!(closed.status < 300, "{}", closed.text());
    let answers = [one.get("live.m3u8").await.status, two.get("live.m3u8").await.status];
    assert!(matches!(answers, [403 | 404, 200] | [200, 403 | 404]), "{answers:?}");
    until("the closed one to be gone", async || (viewers(&node) == 1).then_some(())).await;
    // Who fetches nothing any more watches no more, and what was made for it is let go.
    until("the other to be gone", async || (viewers(&node) == 0).then_some(())).await;
    until("the window to be gone", async || (node.metric("culvert_hls_streams{}").await == 0.0).then_some(())).await;
    // It comes back, in the same session.
    let back = if answers[0] == 200 { &one } else { &two };
    back.playlist("").await;
    assert_eq!(viewers(&node), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_looks_is_no_viewer() {
    let node = TestNode::start("");
    let _publishing = into_hub(&node, "live/a", clip());
    node.until_live("live/a").await;
    let looked = request(node.address(), "HEAD", "/play/live/a.m3u8", &[]).await;
    assert_eq!((looked.status, viewers(&node)), (200, 0));
    assert_eq!(request(node.address(), "HEAD", "/play/live/none.m3u8", &[]).await.status, 404);
    // A playlist whose media nobody fetches: a preview, a probe. It is let go long before a player would be.
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(node.get("/play/live/a.m3u8").await.status, 200);
    }
    until("the looks to be gone", async || (viewers(&node) == 0).then_some(())).await;
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_comes_back_goes_on_in_the_same_session() {
    let node = TestNode::start("");
    let publishing = into_hub(&node, "live/a", clip());
    node.until_live("live/a").await;
    let viewer = Viewer::begin(&node, "/play/live/a.m3u8").await;
    let before = viewer.playlist("").await;
    publishing.abort();
    node.until_gone("live/a").await;
    let _publishing = into_hub(&node, "live/a", clip());
    node.until_live("live/a").await;
    let next = before.next() + 1;
    let after = until("segments of the second publisher", async || {
        let playlist = viewer.playlist(&format!("?_HLS_msn={next}")).await;
        playlist.0.contains("#EXT-X-DISCONTINUITY\n").then_some(playlist)
    })
    .await;
    assert_eq!(after.first(), before.first(), "numbers go on: {}", after.0);
    assert!(!after.0.contains("ENDLIST"), "{}", after.0);
    assert_eq!(viewers(&node), 1, "who watched is counted again");
    for segment in after.segments() {
        assert_eq!(viewer.get(segment).await.status, 200, "{segment}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_told_after_a_while() {
    let node = TestNode::start("");
    let publishing = into_hub(&node, "live/a", clip());
    node.until_live("live/a").await;
    let viewer = Viewer::begin(&node, "/play/live/a.m3u8").await;
    let before = viewer.playlist("").await;
    publishing.abort();
    node.until_gone("live/a").await;
    let ended = until("the end", async || {
        let answer = viewer.get(&format!("live.m3u8?_HLS_msn={}", before.next() + 1)).await;
        answer.text().contains("#EXT-X-ENDLIST").then_some(answer)
    })
    .await;
    let last = Playlist(ended.text());
    assert_eq!(viewer.get(last.segments().last().unwrap()).await.status, 200);
    // Whoever comes now is told that there is none.
    assert_eq!(node.get("/play/live/a.m3u8").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_wrongly_is_answered_at_once() {
    let node = TestNode::start("");
    let _publishing = into_hub(&node, "live/a", clip());
    node.until_live("live/a").await;
    let begun = Instant::now();
    for path in ["/play/live/none.m3u8", "/hls/live/none.m3u8", "/llhls/live/none/index.m3u8"] {
        let answer = node.get(path).await;
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
        assert!(answer.json()["type"].as_str().unwrap().ends_with("no-stream"), "{}", answer.text());
    }
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(node.get("/play/live%2f..%2fa.m3u8").await.status, 400);
    assert_eq!(node.get("/play/live/a@0123456789abcdef0123456789abcdef/live.m3u8").await.status, 404);
    let post = request(node.address(), "POST", "/play/live/a.m3u8", &[("Content-Length", "0")]).await;
    assert_eq!((post.status, post.header("allow").as_deref()), (405, Some("GET, HEAD, OPTIONS")));
    let viewer = Viewer::begin(&node, "/play/live/a.m3u8").await;
    let next = viewer.playlist("").await.next();
    // A session of one stream is none of another.
    let other = viewer.folder.replace("/a@", "/b@");
    assert_eq!(node.get(&format!("{other}live.m3u8")).await.status, 404);
    let begun = Instant::now();
    for (query, status) in [
        ("_HLS_msn=x".to_string(), 400),
        ("_HLS_msn=-1".into(), 400),
        ("_HLS_part=1".into(), 400),
        ("_HLS_msn=18446744073709551616".into(), 400),
        (format!("_HLS_msn={}", u64::MAX), 400),
        (format!("_HLS_msn={}", next + 3), 400),
        (format!("_HLS_msn={next}&_HLS_part=9999"), 400),
    ] {
        let answer = viewer.get(&format!("live.m3u8?{query}")).await;
        assert_eq!(answer.status, status, "{query}: {}", answer.text());
    }
    for file in [
        format!("seg-{}.m4s", next + 9),
        format!("part-{next}-9999.m4s"),
        format!("part-{}-0.m4s", u64::MAX),
        "seg-0.m4s".into(),
        "init-7.m4s".into(),
    ] {
        assert_eq!(viewer.get(&file).await.status, 404, "{file}");
    }
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_at_the_door_and_counts_for_the_whole_session() {
    let hash = culvert_tests::node::token_sha256("viewer");
    let yaml = format!("auth: {{users: [{{name: v, token_sha256: {hash}, allow: [play]}}]}}\n");
    let node = TestNode::start(&yaml);
    let _publishing = into_hub(&node, "live/a", clip());
    node.until_live("live/a").await;
    let refused = node.get("/play/live/a.m3u8").await;
    assert_eq!((refused.status, refused.header("www-authenticate").is_some()), (401, true), "{}", refused.text());
    let viewer = Viewer::begin(&node, "/play/live/a.m3u8?token=viewer").await;
    let playlist = viewer.playlist("").await;
    assert_eq!(viewer.get(playlist.segments()[0]).await.status, 200);
    assert!(!playlist.0.contains("token"), "{}", playlist.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_mp4_does_not_carry_is_said_and_sound_alone_is_served() {
    let node = TestNode::start("");
    let _vp8 = into_hub(&node, "live/vp8", Script::vp8());
    let _sound = into_hub(&node, "live/a", Script::of(None, AudioChoice::Aac));
    node.until_live("live/vp8").await;
    node.until_live("live/a").await;
    let refused = node.get("/play/live/vp8.m3u8").await;
    assert_eq!(refused.status, 406, "{}", refused.text());
    let viewer = Viewer::begin(&node, "/play/live/a.m3u8").await;
    let playlist = viewer.playlist("").await;
    let segment = viewer.get(playlist.segments()[0]).await;
    assert_eq!((segment.status, segment.header("content-type").as_deref()), (200, Some("audio/mp4")));
    // G.711 is sound that goes as AAC, which every player takes.
    let _g711 = into_hub(&node, "live/g711", Script::of(None, AudioChoice::Pcma));
    node.until_live("live/g711").await;
    assert!(node.get("/play/live/g711.m3u8").await.text().contains("CODECS=\"mp4a.40.2\""));
    let viewer = Viewer::begin(&node, "/play/live/g711.m3u8").await;
    assert!(!viewer.playlist("").await.segments().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_frame_nobody_waits_for_ever() {
    let node = TestNode::start("");
    let pictures = Clip::load(VideoChoice::H264, AudioChoice::Aac).tracks().video().unwrap().id;
    let never = Script::clip(move |_, frame| Some(frame).filter(|frame| !(frame.key && frame.track == pictures)));
    let _publishing = into_hub(&node, "live/a", never);
    node.until_live("live/a").await;
    let viewer = Viewer::begin(&node, "/play/live/a.m3u8").await;
    let answer = viewer.get("live.m3u8").await;
    assert_eq!((answer.status, answer.header("retry-after").as_deref()), (503, Some("1")), "{}", answer.text());
    assert!(answer.text().contains("no key frame"), "{}", answer.text());
}
