//! URLs of m7s v4 and of erwscascade that users' scripts call (OLD_PEERS.md 4): what they ask for ([`Asked`]), and how what is said looks
//! ([`Said`], [`Fault`]). What is done is the node's business.

mod proxied;

use bytes::Bytes;
use culvert_cascade::Destination;
use culvert_hub::parameter;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Value, json};

pub use self::proxied::proxied;

/// What an old URL asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Something of a platform below; its answer is passed on as it is.
    Proxy(Destination),
    /// The same address with a slash behind it, as Go's router has it.
    Slash(String),
    /// The platforms below.
    ClientList,
    /// The streams of this node.
    StreamList,
    /// Start a push of a stream to a URL.
    Push(String, String),
    /// End the push to a URL.
    StopPush(String),
    /// The pushes.
    ListPush,
    /// One stream.
    Stream(String),
    /// End a stream.
    CloseStream(String),
    /// Version and start of the program.
    SysInfo,
    /// What was there in m7s and is not here.
    Missing(&'static str),
}

impl Asked {
    /// Whether it changes something. Old scripts ask by GET.
    pub fn changes(&self) -> bool {
        match self {
            Asked::Push(..) | Asked::StopPush(_) | Asked::CloseStream(_) => true,
            Asked::Proxy(_)
            | Asked::Slash(_)
            | Asked::ClientList
            | Asked::StreamList
            | Asked::ListPush
            | Asked::Stream(_)
            | Asked::SysInfo
            | Asked::Missing(_) => false,
        }
    }
}

/// What went wrong, by the code that m7s has for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// 4001 to 5004.
    pub code: u16,
    /// For people.
    pub message: String,
}

impl Fault {
    /// A parameter that is missing or wrong.
    pub fn query(message: impl Into<String>) -> Fault {
        Fault { code: 4002, message: message.into() }
    }

    /// No such stream.
    pub fn no_stream() -> Fault {
        Fault { code: 4041, message: "no such stream".into() }
    }

    /// No such push.
    pub fn no_pusher() -> Fault {
        Fault { code: 4043, message: "no such pusher".into() }
    }

    /// Nothing there.
    pub fn not_found(message: impl Into<String>) -> Fault {
        Fault { code: 4040, message: message.into() }
    }

    fn status(&self) -> StatusCode {
        match self.code {
            4000..4040 => StatusCode::BAD_REQUEST,
            4040..5000 => StatusCode::NOT_FOUND,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// What is said.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// `ok`.
    Done,
    /// JSON.
    Json(Value),
}

/// What a target, path and query, asks for. None: it is none of the old URLs. Paths are compared without care for case.
pub fn asked(target: &str) -> Option<Result<Asked, Fault>> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if let Some(asked) = proxied(path, query) {
        return Some(asked);
    }
    let value = |name: &str| parameter(query, name).filter(|value| !value.is_empty());
    let needed = |name: &str| value(name).ok_or_else(|| Fault::query(format!("{name} is missing")));
    Some(match path.to_ascii_lowercase().trim_end_matches('/') {
        "/erwscascade/api/clientlist" => Ok(Asked::ClientList),
        "/erwscascade/api/streamlist" => match value("cid") {
            Some(cid) => Destination::parse(&format!("{cid}/erwscascade/api/streamlist"))
                .map(Asked::Proxy)
                .map_err(|fault| Fault::query(fault.to_string())),
            None => Ok(Asked::StreamList),
        },
        "/erwscascade/api/push" | "/rtmp/api/push" => {
            needed("streamPath").and_then(|stream| Ok(Asked::Push(stream, needed("target")?)))
        }
        "/api/stop/push" => needed("url").map(Asked::StopPush),
        "/api/list/push" | "/rtmp/api/list/push" => Ok(Asked::ListPush),
        "/api/stream" => needed("streamPath").map(Asked::Stream),
        "/api/closestream" => needed("streamPath").map(Asked::CloseStream),
        "/api/sysinfo" => Ok(Asked::SysInfo),
        "/api/summary" | "/api/plugins" | "/api/list/pull" | "/api/stop/subscribe" => {
            Ok(Asked::Missing("this call of m7s is not in this version; /api/v1/ has what it told"))
        }
        "/rtmp/api/pull" | "/rtmp/api/list" | "/hdl/api/pull" | "/hdl/api/list" | "/rtsp/api/push"
        | "/rtsp/api/pull" | "/rtsp/api/list" | "/hls/api/pull" | "/hls/api/list" => Ok(Asked::Missing(
            "pulls are not begun by command in this version; put them under `pull` in the configuration",
        )),
        _ => return None,
    })
}

/// The answer, as text, or as `?format=json` has it.
pub fn response(target: &str, said: Result<Said, Fault>) -> Response<Bytes> {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let wrapped = parameter(query, "format").is_some_and(|format| format == "json");
    let (status, kind, body) = match (said, wrapped) {
        (Ok(Said::Done), false) => (StatusCode::OK, TEXT, "ok\n".to_string()),
        (Ok(Said::Json(value)), false) => (StatusCode::OK, JSON, format!("{value}\n")),
        (Ok(Said::Done), true) => (StatusCode::OK, JSON, json!({ "code": 0, "msg": "ok" }).to_string()),
        (Ok(Said::Json(value)), true) => {
            (StatusCode::OK, JSON, json!({ "code": 0, "data": value, "msg": "ok" }).to_string())
        }
        (Err(fault), false) => (fault.status(), TEXT, format!("{}\n", fault.message)),
        // The status is in the code.
        (Err(fault), true) => (StatusCode::OK, JSON, json!({ "code": fault.code, "msg": fault.message }).to_string()),
    };
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

#[cfg(test)]
mod tests {
    use super::*;

    fn of(target: &str) -> Asked {
        asked(target).unwrap().unwrap()
    }

    #[test]
    fn old_urls_are_known_in_any_case_and_ours_are_not_among_them() {
        assert_eq!(of("/erwscascade/api/clientlist"), Asked::ClientList);
        assert_eq!(of("/ErWsCascade/Api/ClientList/?format=json"), Asked::ClientList);
        assert_eq!(of("/erwscascade/api/streamlist"), Asked::StreamList);
        assert_eq!(of("/api/stream?streamPath=live/a"), Asked::Stream("live/a".into()));
        let push = Asked::Push("live/a".into(), "ws://h:1/erwscascade/wspush/live/a".into());
        assert_eq!(of("/erwscascade/api/push?streamPath=live/a&target=ws://h:1/erwscascade/wspush/live/a"), push);
        assert!(push.changes() && !Asked::ClientList.changes());
        let to =
            Destination { cid: culvert_media::Cid::parse("c1").unwrap(), target: "/erwscascade/api/streamlist".into() };
        assert_eq!(of("/erwscascade/api/streamlist?cid=c1"), Asked::Proxy(to));
        for ours in [
            "/",
            "/api/v1/streams",
            "/api/v1/stream?streamPath=a",
            "/hdl/live/a.flv",
            "/erwscascade/wspush/a",
            "/play/api/stream",
        ] {
            assert_eq!(asked(ours), None, "{ours}");
        }
        assert_eq!(asked("/api/stop/push").unwrap().unwrap_err().code, 4002);
    }

    #[test]
    fn answers_look_as_they_did() {
        let look = |target, said| {
            let response = response(target, said);
            (response.status().as_u16(), String::from_utf8(response.body().to_vec()).unwrap())
        };
        assert_eq!(look("/x", Ok(Said::Done)), (200, "ok\n".into()));
        assert_eq!(look("/x", Err(Fault::no_stream())), (404, "no such stream\n".into()));
        assert_eq!(
            look("/x?format=json", Err(Fault::no_stream())),
            (200, r#"{"code":4041,"msg":"no such stream"}"#.into())
        );
        assert_eq!(
            look("/x?a=b&format=json", Ok(Said::Json(json!([])))),
            (200, r#"{"code":0,"data":[],"msg":"ok"}"#.into())
        );
        assert_eq!(look("/x", Err(Fault::query("invalid cid"))), (400, "invalid cid\n".into()));
    }
}
