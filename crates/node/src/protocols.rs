//! The protocols of this node, a row each. A new one is a folder, a dependency line and a row here.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use culvert_hls::Hls;
use culvert_hub::{Gate, Hub, Pace};
use culvert_live::Live;
use culvert_rtmp::{Limits, Rtmp};
use culvert_rtsp::{Rtsp, Udp};
use culvert_webrtc::WebRtc;

use crate::auth::Guard;
use crate::config::{self, Config, UdpPorts};

/// The ports for datagrams that are tried where the configuration names none.
const UDP_PORTS: (u16, u16) = (8000, 8001);

/// What the door can hand a connection to.
#[derive(Clone)]
pub struct Protocols {
    /// What they all serve, and whose tasks theirs are.
    pub hub: Hub,
    /// RTMP and RTMPS.
    pub rtmp: Rtmp,
    /// RTSP and RTSPS, also through HTTP.
    pub rtsp: Rtsp,
    /// FLV and fragmented MP4 by HTTP and WebSocket.
    pub live: Live,
    /// HLS.
    pub hls: Hls,
    /// WebRTC.
    pub webrtc: WebRtc,
}

impl Protocols {
    /// All of them, behind one gate.
    pub fn new(
        gate: &Gate,
        guard: &Arc<Guard>,
        pace: Pace,
        limits: Limits,
        udp: Option<Udp>,
        config: &Config,
        address: SocketAddr,
    ) -> anyhow::Result<Protocols> {
        let guard = guard.clone();
        let digests = Arc::new(move || guard.digests());
        let rtsp_limits = culvert_rtsp::Limits { handshake: limits.handshake, silence: limits.silence };
        Ok(Protocols {
            hub: gate.hub().clone(),
            rtmp: Rtmp::new(gate.clone(), pace, limits),
            rtsp: Rtsp::new(
                gate.clone(),
                Pace { crowd: config.rtsp.crowd_batch.get(), ..pace },
                rtsp_limits,
                udp,
                digests,
            ),
            hls: Hls::new(gate.clone(), hls_settings(&config.hls)),
            webrtc: WebRtc::new(gate.clone(), webrtc_settings(&config.webrtc), address, limits.silence),
            live: Live::new(gate.clone(), pace, culvert_m7s::push::without_doubled_headers),
        })
    }
}

fn hls_settings(config: &config::Hls) -> culvert_hls::Settings {
    culvert_hls::Settings { segment: config.segment.get(), part: config.part.get(), window: config.window.get() }
}

fn webrtc_settings(config: &config::WebRtc) -> culvert_webrtc::Settings {
    let server = |server: &config::IceServer| culvert_webrtc::IceServer {
        url: server.url.0.clone(),
        credential: server.user.clone().zip(server.password.clone()),
    };
    culvert_webrtc::Settings {
        public: config.public_addr.iter().map(|address| address.0).collect(),
        ice_servers: config.ice_servers.iter().map(server).collect(),
        crowd_batch: config.crowd_batch.get(),
    }
}

/// The sockets of RTSP's datagrams. Those that the configuration names must be had; the usual ones are taken where they are free.
pub(crate) fn rtsp_udp(config: &config::Rtsp, listen: SocketAddr) -> anyhow::Result<Option<Udp>> {
    match config.udp {
        UdpPorts::None => Ok(None),
        UdpPorts::At { ip, media, reports } => {
            let bound = Udp::bind(ip, media, reports);
            let udp = bound.with_context(|| {
                format!(
                    "cannot have the UDP ports {media} and {reports} of {ip} (rtsp.udp); is another program using them?"
                )
            })?;
            Ok(Some(udp))
        }
        UdpPorts::Auto => {
            let (media, reports) = UDP_PORTS;
            match Udp::bind(listen.ip(), media, reports) {
                Ok(udp) => Ok(Some(udp)),
                Err(why) => {
                    tracing::info!(%why, "RTSP goes by TCP only: the UDP ports {media} and {reports} are taken; name others in rtsp.udp");
                    Ok(None)
                }
            }
        }
    }
}
