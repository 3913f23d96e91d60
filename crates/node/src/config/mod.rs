//! The configuration: what may be written in `culvert.yaml` and in `CULVERT_*` variables, with every default, unit and
//! bound. A fault is one sentence with file, line and column.
//!
//! It says what is wanted; nothing here opens a port or a file other than the configuration's own and `data_dir`'s.

mod auth;
mod cascade;
mod glob;
mod hls;
mod identity;
mod kept;
mod limits;
mod node;
mod overlay;
mod pull;
mod read;
mod rtsp;
mod tls;
mod urls;
mod values;
mod webrtc;

use std::net::SocketAddr;

pub use culvert_media::Cid;
use serde::{Deserialize, Serialize};

pub use self::auth::{Action, Auth, Ha1, Permission, TokenHash, User};
pub use self::cascade::{
    Admit, Allow, AllowRule, Cascade, CidPattern, Lowers, Network, OldPeer, OldPeers, Pin, ProxyUrl, RelayTimes,
    Secret, TargetName, TargetUrl, Upper, UpperUrl, Uppers,
};
pub use self::glob::Glob;
pub use self::hls::Hls;
pub use self::identity::{AdminToken, IdentityError, NodeIdentity};
pub(crate) use self::kept::keep as keep_file;
pub use self::limits::{GopCache, Limits};
pub use self::node::{Label, Node};
pub use self::overlay::{environment, overlay};
pub use self::pull::{OnDemandTable, Pull, Push, PushTarget, Retry};
pub use self::read::{DEFAULT_FILE, Fault, load, parse};
pub use self::rtsp::{Rtsp, UdpPorts};
pub use self::tls::Tls;
pub use self::urls::{OnDemand, PullTemplate, PullUrl, PushUrl};
pub use self::values::{Count, Period, Size};
use self::values::{FromText, leaf, leaf_by_text, or_default, shown};
pub use self::webrtc::{IceServer, IceUrl, PublicAddr, WebRtc};
use crate::logs::{MASK, mask_url};

/// All of it. `Debug` masks secrets; `Serialize` does not, since variables are laid over what it gives: what people see
/// is [`Config::masked_json`] or [`Config::masked_yaml`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section of keys and values")]
pub struct Config {
    /// The one port: address and number, TCP.
    #[serde(deserialize_with = "leaf")]
    pub listen: SocketAddr,
    /// Who this node is.
    #[serde(deserialize_with = "or_default")]
    pub node: Node,
    /// The certificate of the one port. Default: none, plain text.
    pub tls: Option<Tls>,
    /// Who may do what. Default: this machine all, others nothing without the admin token.
    pub auth: Option<Auth>,
    /// The nodes above and below.
    #[serde(deserialize_with = "or_default")]
    pub cascade: Cascade,
    /// Streams fetched from elsewhere.
    #[serde(deserialize_with = "or_default")]
    pub pull: Pull,
    /// Streams sent elsewhere.
    #[serde(deserialize_with = "or_default")]
    pub push: Push,
    /// RTMP's own port.
    #[serde(deserialize_with = "or_default")]
    pub rtmp: Rtmp,
    /// RTSP's own ports.
    #[serde(deserialize_with = "or_default")]
    pub rtsp: Rtsp,
    /// How streams are cut for HLS.
    #[serde(deserialize_with = "or_default")]
    pub hls: Hls,
    /// Where WebRTC's players find this node.
    #[serde(deserialize_with = "or_default")]
    pub webrtc: WebRtc,
    /// How much of everything.
    #[serde(deserialize_with = "or_default")]
    pub limits: Limits,
    /// How viewers are written to.
    #[serde(deserialize_with = "or_default")]
    pub fan_out: FanOut,
    /// What is logged.
    #[serde(deserialize_with = "or_default")]
    pub log: Log,
    /// What a file of m7s said that is not so here; none where the file is ours.
    #[serde(skip)]
    pub of_m7s: Vec<String>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: SocketAddr::from(([0, 0, 0, 0], 8450)),
            node: Node::default(),
            tls: None,
            auth: None,
            cascade: Cascade::default(),
            pull: Pull::default(),
            push: Push::default(),
            rtmp: Rtmp::default(),
            rtsp: Rtsp::default(),
            hls: Hls::default(),
            webrtc: WebRtc::default(),
            limits: Limits::default(),
            fan_out: FanOut::default(),
            log: Log::default(),
            of_m7s: Vec::new(),
        }
    }
}

impl Config {
    /// What is in force, with secrets masked: tokens and their hashes, and users, passwords and secret query values of URLs.
    pub fn masked_json(&self) -> serde_json::Value {
        let mut value = serde_json::to_value(self).expect("all keys are text and all values finite");
        mask(&mut value);
        value
    }

    /// The same as YAML, the sections in the order of this type.
    pub fn masked_yaml(&self) -> String {
        serde_saphyr::to_string(&self.masked_json()).expect("what JSON can say, YAML can")
    }
}

fn mask(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(rows) => {
            for (key, value) in rows {
                if matches!(key.as_str(), "token" | "token_sha256" | "digest_md5" | "digest_sha256" | "password")
                    && !value.is_null()
                {
                    *value = MASK.into();
                } else {
                    mask(value);
                }
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(mask),
        serde_json::Value::String(text) if text.contains("://") => *text = mask_url(text),
        serde_json::Value::String(_)
        | serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_) => {}
    }
}

/// The section `rtmp`. RTMP is spoken on the one port in any case.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section of keys and values")]
pub struct Rtmp {
    /// A further port, such as RTMP's own `0.0.0.0:1935`; all that the one port speaks is spoken there too. Default: none.
    pub listen: Option<ListenAddr>,
}

/// An optional address to listen on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct ListenAddr(pub SocketAddr);

/// The section `fan_out`.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section of keys and values")]
pub struct FanOut {
    /// How viewers are written to that do not say how: `shared` or `low`.
    pub class: FanOutClass,
}

/// A class of viewers (DESIGN 4).
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum FanOutClass {
    /// Data is gathered for up to `limits.shared_batch`: the most viewers per processor.
    #[default]
    Shared,
    /// Each chunk is sent at once.
    Low,
}

/// The section `log`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section of keys and values")]
pub struct Log {
    /// What is logged, in the form of `RUST_LOG`: `info`, `warn,culvert_rtmp=debug`.
    pub filter: LogFilter,
    /// `text` for people, `json` for machines.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Log {
        Log { filter: LogFilter("info".into()), format: LogFormat::Text }
    }
}

/// A filter that the log understands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct LogFilter(String);

impl LogFilter {
    /// Checks it; the fault is a sentence.
    pub fn parse(text: &str) -> Result<LogFilter, String> {
        match tracing_subscriber::EnvFilter::builder().parse(text) {
            Ok(_) => Ok(LogFilter(text.to_string())),
            Err(why) => {
                Err(format!("{} is no log filter ({why}); write info, debug or info,culvert_rtmp=debug", shown(text)))
            }
        }
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The form of a log line.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum LogFormat {
    /// A line for people, in colours on a terminal.
    #[default]
    Text,
    /// A JSON object per line.
    Json,
}

impl FromText for SocketAddr {
    fn from_text(text: &str) -> Result<SocketAddr, String> {
        let fault = || format!("{} is no address to listen on; write one as 0.0.0.0:8450 or [::]:8450", shown(text));
        text.parse().map_err(|_| fault())
    }
}

impl FromText for ListenAddr {
    fn from_text(text: &str) -> Result<ListenAddr, String> {
        SocketAddr::from_text(text).map(ListenAddr)
    }
}

impl FromText for LogFilter {
    fn from_text(text: &str) -> Result<LogFilter, String> {
        LogFilter::parse(text)
    }
}

impl FromText for FanOutClass {
    fn from_text(text: &str) -> Result<FanOutClass, String> {
        match text {
            "shared" => Ok(FanOutClass::Shared),
            "low" => Ok(FanOutClass::Low),
            _ => Err(format!("{} is no class of viewers; write shared or low", shown(text))),
        }
    }
}

impl FromText for LogFormat {
    fn from_text(text: &str) -> Result<LogFormat, String> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(format!("{} is no form of logs; write text or json", shown(text))),
        }
    }
}
leaf_by_text!(ListenAddr, LogFilter, FanOutClass, LogFormat);

impl Serialize for FanOutClass {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(match self {
            FanOutClass::Shared => "shared",
            FanOutClass::Low => "low",
        })
    }
}

impl Serialize for LogFormat {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        })
    }
}

#[cfg(test)]
mod tests;
