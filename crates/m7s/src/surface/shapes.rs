//! How m7s v4 shows streams, pushes, pulls and the machine (`vectors/http/`). Its types are those of its plugins; fields that mean
//! something here are filled, those that describe its insides are left out.

use std::time::SystemTime;

use culvert_hub::{SessionFigures, StreamInfo};
use culvert_media::{Detail, Track, rfc3339};
use serde_json::{Value, json};

use super::Plugin;

/// A pull or push.
#[derive(Clone, Debug)]
pub struct Relay<'a> {
    /// Unique, as text.
    pub id: String,
    /// Since when it is as it is.
    pub since: SystemTime,
    /// The stream's name here.
    pub stream: &'a str,
    /// Where from or where to, secrets masked.
    pub url: &'a str,
    /// Attempts so far.
    pub attempts: u64,
    /// Media flows.
    pub live: bool,
}

/// The machine.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Bytes of memory.
    pub memory_total: u64,
    /// Bytes of it that can be had.
    pub memory_available: u64,
    /// Share of all cores that is busy, 0 to 1.
    pub cpu: f64,
    /// Bytes of the disk.
    pub disk_total: u64,
    /// Bytes of it that are free.
    pub disk_free: u64,
    /// Its network interfaces.
    pub network: Vec<Interface>,
}

/// A network interface: bytes, and bytes per second.
#[derive(Clone, Debug)]
pub struct Interface {
    /// `eth0`.
    pub name: String,
    /// Received since it came up.
    pub received: u64,
    /// Sent since then.
    pub sent: u64,
    /// Received per second.
    pub receive_rate: u64,
    /// Sent per second.
    pub send_rate: u64,
}

/// The plugin that speaks the scheme of this URL.
fn plugin(url: &str) -> &'static str {
    match url.split(':').next().unwrap_or_default() {
        "rtmp" | "rtmps" => Plugin::Rtmp.name(),
        "rtsp" | "rtsps" => Plugin::Rtsp.name(),
        "ws" | "wss" => "Wsc",
        _ if url.ends_with("#hls") => Plugin::Hls.name(),
        _ if url.split(['?', '#']).next().is_some_and(|path| path.ends_with(".m3u8")) => Plugin::Hls.name(),
        _ => Plugin::Hdl.name(),
    }
}

/// Of a publisher that came by itself, by the protocol's name here.
fn receiver(protocol: &str) -> String {
    match protocol {
        "rtmp" | "rtmps" => "RTMPReceiver".into(),
        "rtsp" | "rtsps" => "RTSPReceiver".into(),
        "ws-flv" => "WscReceiver".into(),
        "webrtc" | "whip" => "WebRTCPublisher".into(),
        other => other.into(),
    }
}

/// Of a viewer.
fn subscriber(protocol: &str) -> String {
    match protocol {
        "rtmp" | "rtmps" => "RTMPSubscriber".into(),
        "rtsp" | "rtsps" => "RTSPSubscriber".into(),
        "http-flv" => "HDLSubscriber".into(),
        "ws-flv" | "ws-raw" => "JessicaSubscriber".into(),
        "hls" => "HLSSubscriber".into(),
        "webrtc" | "whep" => "WebRTCSubscriber".into(),
        "push" => "Pusher".into(),
        other => other.into(),
    }
}

/// The type of whoever publishes a stream; `pulled` is the URL it is pulled from.
fn publisher(info: &StreamInfo, pulled: Option<&str>) -> String {
    pulled.map_or_else(|| receiver(info.publisher.protocol), |url| format!("{}Puller", plugin(url)))
}

/// As `streamlist` has it: the plugin that pulls it, or `api`.
pub fn source(info: &StreamInfo, pulled: Option<&str>) -> Value {
    let source = pulled.map_or_else(|| "api".to_string(), |url| format!("{}Pull", plugin(url)));
    json!({ "Source": source, "StreamPath": info.name.as_str() })
}

/// As `/api/stream` has it.
pub fn stream(info: &StreamInfo, pulled: Option<&str>, viewers: &[std::sync::Arc<SessionFigures>]) -> Value {
    // What is before the last but one segment, as there.
    let (app, name) = info.name.as_str().rsplit_once('/').unwrap_or(("", info.name.as_str()));
    let app = app.rsplit_once('/').map_or("", |(app, _)| app);
    json!({
        "ID": info.publisher.id,
        "StartTime": rfc3339(info.since),
        "PublishTimeout": 0,
        "DelayCloseTimeout": 0,
        "IdleTimeout": 0,
        "PauseTimeout": 0,
        "NeverTimeout": false,
        "Path": info.name.as_str(),
        "Publisher": {
            "ID": info.publisher.id.to_string(), "Type": publisher(info, pulled),
            "RemoteAddr": pulled.map_or_else(|| info.publisher.remote.to_string(), str::to_string),
            "StartTime": rfc3339(info.publisher.since), "Args": {}, "Config": {},
        },
        "State": state(info),
        "SEHistory": [{ "Time": rfc3339(info.since), "Action": 0, "From": 0 }],
        "Subscribers": viewers.iter().map(|viewer| json!({
            "ID": viewer.id.to_string(), "Type": subscriber(viewer.protocol), "RemoteAddr": viewer.remote.to_string(),
            "StartTime": rfc3339(viewer.since), "Args": {}, "Config": {},
        })).collect::<Vec<_>>(),
        "Tracks": info.tracks.iter().map(|track| shown(track, info)).collect::<Vec<_>>(),
        "BPS": info.bits_per_second / 8,
        "AppName": app,
        "StreamName": name,
        "IsPause": false,
    })
}

/// 1 waits for its tracks, 2 is published.
fn state(info: &StreamInfo) -> u8 {
    if info.state == "live" { 2 } else { 1 }
}

/// What is counted is counted over all tracks, and told of the picture's, or of the only one.
fn shown(of: &Track, info: &StreamInfo) -> Value {
    let video = matches!(of.detail, Detail::Video(_));
    let counted = video || info.tracks.len() == 1;
    let mut shown = json!({
        "Name": of.codec.name(),
        "State": 0,
        "BPS": if counted { info.bits_per_second / 8 } else { 0 },
        "FPS": if video { info.fps.round() as u64 } else { 0 },
        "Drops": 0,
    });
    match of.detail {
        Detail::Video(video) => {
            shown["SampleRate"] = 90_000.into();
            shown["Width"] = video.width.into();
            shown["Height"] = video.height.into();
        }
        Detail::Audio(audio) => {
            shown["SampleRate"] = audio.sample_rate_hz.into();
            shown["Channels"] = audio.channels.into();
            shown["SampleSize"] = 16.into();
        }
    }
    shown
}

/// As `/api/list/push` has it.
pub fn pusher(of: &Relay<'_>) -> Value {
    relay(of, format!("{}Pusher", plugin(of.url)))
}

/// As `/api/list/pull` has it.
pub fn puller(of: &Relay<'_>) -> Value {
    relay(of, format!("{}Puller", plugin(of.url)))
}

fn relay(of: &Relay<'_>, kind: String) -> Value {
    json!({
        "ID": of.id,
        "Type": kind,
        "RemoteAddr": of.url,
        "StartTime": rfc3339(of.since),
        "Args": {},
        "Config": {},
        "StreamPath": of.stream,
        "RemoteURL": of.url,
        "ReConnectCount": of.attempts,
        "Status": u8::from(of.live),
    })
}

/// As `/api/summary` has it: memory in MB, the disk in GB.
pub fn summary(machine: &Machine, streams: &[(StreamInfo, Option<String>)]) -> Value {
    let used = machine.memory_total.saturating_sub(machine.memory_available);
    let taken = machine.disk_total.saturating_sub(machine.disk_free);
    let percent = |part: u64, all: u64| if all == 0 { 0.0 } else { part as f64 * 100.0 / all as f64 };
    json!({
        "Address": "",
        "Memory": {
            "Total": machine.memory_total >> 20, "Free": machine.memory_available >> 20, "Used": used >> 20,
            "Usage": percent(used, machine.memory_total),
        },
        "CPUUsage": machine.cpu * 100.0,
        "HardDisk": {
            "Total": machine.disk_total >> 30, "Free": machine.disk_free >> 30, "Used": taken >> 30,
            "Usage": percent(taken, machine.disk_total),
        },
        "NetWork": machine.network.iter().map(|one| json!({
            "Name": one.name, "Receive": one.received, "Sent": one.sent,
            "ReceiveSpeed": one.receive_rate, "SentSpeed": one.send_rate,
        })).collect::<Vec<_>>(),
        "Streams": streams.iter().map(|(info, pulled)| json!({
            "Path": info.name.as_str(), "State": state(info), "Subscribers": info.viewers,
            "Tracks": info.tracks.iter().map(|of| of.codec.name()).collect::<Vec<_>>(),
            "StartTime": rfc3339(info.since), "Type": publisher(info, pulled.as_deref()),
            "BPS": info.bits_per_second / 8,
        })).collect::<Vec<_>>(),
    })
}

/// As `/api/plugins` has it; `platform` is cid, name and serial.
pub fn plugins(version: &str, platform: (&str, &str, &str)) -> Value {
    let (cid, name, serial) = platform;
    let mut all = json!({});
    for name in ["ErWsCascade", "HDL", "Jessica", "RTMP", "RTSP"] {
        all[name] =
            json!({ "Name": name, "Version": format!("culvert {version}"), "RawConfig": {}, "Disabled": false });
    }
    all["ErWsCascade"]["RawConfig"] = json!({ "cinfo": { "cid": cid, "name": name, "serial": serial } });
    all
}
