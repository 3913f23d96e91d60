//! URLs of m7s v4 and of erwscascade that users' scripts call (OLD_PEERS.md 4): what they ask for ([`Asked`]), and how what is said looks
//! ([`Said`], [`Fault`]). What is done is the node's business.

mod proxied;
mod shapes;

use bytes::Bytes;
use culvert_cascade::Destination;
use culvert_hub::parameter;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Value, json};

pub use self::proxied::proxied;
pub use self::shapes::{Interface, Machine, Relay, plugins, puller, pusher, source, stream, summary};

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
    Push(Order),
    /// End the push to a URL.
    StopPush(String),
    /// Fetch a stream from a URL.
    Pull(Order),
    /// The pulls.
    ListPull,
    /// The streams that came in by this plugin.
    ListOf(Plugin),
    /// The pushes.
    ListPush,
    /// One stream.
    Stream(String),
    /// End a stream.
    CloseStream(String),
    /// End a viewer of a stream, by the id that the stream's `Subscribers` have.
    StopSubscribe(String, String),
    /// Version and start of the program.
    SysInfo,
    /// The machine, and the streams in brief.
    Summary,
    /// What this program speaks, as plugins.
    Plugins,
}

/// A pull or push by command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The stream's name here.
    pub stream: String,
    /// Where from or where to.
    pub target: String,
    /// What is to be there after a restart.
    pub save: Save,
}

/// `save=` of a pull or push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Save {
    /// It ends with the process.
    No,
    /// It is begun again at the next start (`pullonstart`, `pushlist`).
    Always,
    /// A pull that is begun by viewers, at the next start, too (`pullonsub`).
    OnDemand,
}

/// A plugin of m7s that pulls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// RTMP.
    Rtmp,
    /// RTSP.
    Rtsp,
    /// HTTP-FLV.
    Hdl,
    /// HLS.
    Hls,
}

impl Plugin {
    /// As it begins the types of m7s.
    pub const fn name(self) -> &'static str {
        match self {
            Plugin::Rtmp => "RTMP",
            Plugin::Rtsp => "RTSP",
            Plugin::Hdl => "HDL",
            Plugin::Hls => "HLS",
        }
    }

    /// An order to pull by this plugin: what HLS pulls is a playlist, whatever its address looks like.
    fn pulled(self, order: Order) -> Order {
        let is_marked = order.target.contains(['#', ' ']) || order.target.contains(".m3u8");
        match self {
            Plugin::Hls if !is_marked => Order { target: format!("{}#hls", order.target), ..order },
            Plugin::Hls | Plugin::Rtmp | Plugin::Rtsp | Plugin::Hdl => order,
        }
    }

    /// By its name in a path.
    fn of_path(name: &str) -> Option<Plugin> {
        match name {
            "rtmp" => Some(Plugin::Rtmp),
            "rtsp" => Some(Plugin::Rtsp),
            "hdl" => Some(Plugin::Hdl),
            "hls" => Some(Plugin::Hls),
            _ => None,
        }
    }
}

impl Asked {
    /// Whether it changes something. Old scripts ask by GET.
    pub fn changes(&self) -> bool {
        match self {
            Asked::Push(_) | Asked::StopPush(_) | Asked::Pull(_) | Asked::CloseStream(_) | Asked::StopSubscribe(..) => {
                true
            }
            Asked::Proxy(_)
            | Asked::Slash(_)
            | Asked::ClientList
            | Asked::StreamList
            | Asked::ListPush
            | Asked::ListPull
            | Asked::ListOf(_)
            | Asked::Stream(_)
            | Asked::SysInfo
            | Asked::Summary
            | Asked::Plugins => false,
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

    /// No such viewer.
    pub fn no_subscriber() -> Fault {
        Fault { code: 4044, message: "no such subscriber".into() }
    }

    /// It could not be begun.
    pub fn publish(message: impl Into<String>) -> Fault {
        Fault { code: 5002, message: message.into() }
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
    let order = |save: fn(&str) -> Save| {
        let save = parameter(query, "save").map_or(Save::No, |value| save(&value));
        Ok(Order { stream: needed("streamPath")?, target: needed("target")?, save })
    };
    let path = path.to_ascii_lowercase();
    Some(match path.trim_end_matches('/') {
        "/erwscascade/api/clientlist" => Ok(Asked::ClientList),
        "/erwscascade/api/streamlist" => match value("cid") {
            Some(cid) => Destination::parse(&format!("{cid}/erwscascade/api/streamlist"))
                .map(Asked::Proxy)
                .map_err(|fault| Fault::query(fault.to_string())),
            None => Ok(Asked::StreamList),
        },
        "/erwscascade/api/push" => order(push_saved).map(Asked::Push),
        "/api/stop/push" => needed("url").map(Asked::StopPush),
        "/api/list/push" => Ok(Asked::ListPush),
        "/api/list/pull" => Ok(Asked::ListPull),
        "/api/stream" => needed("streamPath").map(Asked::Stream),
        "/api/closestream" => needed("streamPath").map(Asked::CloseStream),
        "/api/stop/subscribe" => {
            needed("streamPath").and_then(|stream| Ok(Asked::StopSubscribe(stream, needed("id")?)))
        }
        "/api/sysinfo" => Ok(Asked::SysInfo),
        "/api/summary" => Ok(Asked::Summary),
        "/api/plugins" => Ok(Asked::Plugins),
        other => {
            let (plugin, call) = other.strip_prefix('/')?.split_once("/api/")?;
            let plugin = Plugin::of_path(plugin)?;
            match call {
                "list" => Ok(Asked::ListOf(plugin)),
                "pull" => order(pull_saved).map(|order| Asked::Pull(plugin.pulled(order))),
                "push" if matches!(plugin, Plugin::Rtmp | Plugin::Rtsp) => order(push_saved).map(Asked::Push),
                _ => return None,
            }
        }
    })
}

/// `save=0|1|2`; what is none of them is 0, as there.
fn pull_saved(value: &str) -> Save {
    match value {
        "1" => Save::Always,
        "2" => Save::OnDemand,
        _ => Save::No,
    }
}

/// `save` with anything but 0 in it.
fn push_saved(value: &str) -> Save {
    if matches!(value, "" | "0" | "false") { Save::No } else { Save::Always }
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
        let order = |save| Order { stream: "live/a".into(), target: "ws://h:1/erwscascade/wspush/live/a".into(), save };
        let push = Asked::Push(order(Save::No));
        assert_eq!(of("/erwscascade/api/push?streamPath=live/a&target=ws://h:1/erwscascade/wspush/live/a"), push);
        assert!(push.changes() && !Asked::ClientList.changes());
        let query = "streamPath=live/a&target=ws://h:1/erwscascade/wspush/live/a";
        assert_eq!(of(&format!("/rtmp/api/push?{query}&save=1")), Asked::Push(order(Save::Always)));
        for (save, means) in
            [("", Save::No), ("&save=0", Save::No), ("&save=1", Save::Always), ("&save=2", Save::OnDemand)]
        {
            let asked = of(&format!("/hdl/api/pull?{query}{save}"));
            assert!(asked == Asked::Pull(order(means)) && asked.changes(), "{save}: {asked:?}");
        }
        assert_eq!(of("/RTSP/api/list"), Asked::ListOf(Plugin::Rtsp));
        assert_eq!(of("/api/stop/subscribe?streamPath=a&id=7"), Asked::StopSubscribe("a".into(), "7".into()));
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
            "/hdl/api/push",
            "/rtmp/api/list/more",
            "/x/api/list",
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
