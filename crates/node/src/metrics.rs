//! `/metrics` for Prometheus: figures are read from where they are counted at the time of the scrape, so an ended
//! stream vanishes by itself.

use std::fmt;
use std::sync::Arc;

use culvert_hls::Hls;
use culvert_hub::{Action, Hub};
use culvert_link::State;
use culvert_rtsp::Udp;
use culvert_snapshot::Snapshots;
use culvert_webrtc::WebRtc;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::cascade::Cascade;
use crate::door::DoorFigures;

/// Renders the figures.
pub struct Metrics(Registry);

#[derive(Debug)]
struct Figures {
    hub: HubHandle,
    door: Arc<DoorFigures>,
    cascade: CascadeHandle,
    made: Made,
}

/// What is made of streams for some protocols, and what is lost of others.
pub(crate) struct Made {
    pub(crate) hls: Hls,
    pub(crate) webrtc: WebRtc,
    pub(crate) snapshots: Snapshots,
    pub(crate) udp: Option<Udp>,
}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("made")
    }
}

struct CascadeHandle(Cascade);

impl fmt::Debug for CascadeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cascade")
    }
}

struct HubHandle(Hub);

impl fmt::Debug for HubHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hub")
    }
}

impl Metrics {
    /// The figures of this hub and this door.
    pub(crate) fn new(hub: Hub, door: Arc<DoorFigures>, cascade: Cascade, made: Made) -> Metrics {
        let mut registry = Registry::with_prefix("culvert");
        registry.register_collector(Box::new(Figures {
            hub: HubHandle(hub),
            door,
            cascade: CascadeHandle(cascade),
            made,
        }));
        Metrics(registry)
    }

    /// OpenMetrics text.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.0)?;
        Ok(out)
    }
}

type Labels<'a> = Vec<(&'static str, &'a str)>;

fn family<'a, M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, kind): (&str, &str, MetricType),
    rows: impl IntoIterator<Item = (Labels<'a>, M)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in rows {
        value.encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        use MetricType::{Counter, Gauge};
        let encoder = &mut encoder;
        let streams = self.hub.0.list();
        let stream = |s: &'_ culvert_hub::StreamInfo| s.name.to_string();
        let names: Vec<String> = streams.iter().map(stream).collect();
        let rows = || names.iter().map(|name| vec![("stream", name.as_str())]).zip(&streams);

        let count = streams.len() as i64;
        family(encoder, ("streams", "Streams now", Gauge), [(vec![], ConstGauge::new(count))])?;
        let help = "Coded bytes that came in";
        family(encoder, ("stream_bytes", help, Counter), rows().map(|(l, s)| (l, ConstCounter::new(s.bytes))))?;
        let help = "Frames that came in";
        family(encoder, ("stream_frames", help, Counter), rows().map(|(l, s)| (l, ConstCounter::new(s.frames))))?;
        let help = "Frames that were not passed on";
        let dropped = rows().map(|(l, s)| (l, ConstCounter::new(s.dropped)));
        family(encoder, ("stream_dropped_frames", help, Counter), dropped)?;
        let help = "Times that the timeline was bent";
        let bent = rows().map(|(l, s)| (l, ConstCounter::new(s.discontinuities)));
        family(encoder, ("stream_discontinuities", help, Counter), bent)?;
        let help = "Video frames per second over the last seconds";
        family(encoder, ("stream_fps", help, Gauge), rows().map(|(l, s)| (l, ConstGauge::new(s.fps))))?;
        let help = "Viewers now";
        let viewers = rows().map(|(l, s)| (l, ConstGauge::new(s.viewers as i64)));
        family(encoder, ("stream_viewers", help, Gauge), viewers)?;

        let help = "Frames that the sender of a relayed stream left out because its uplink was too slow";
        let left =
            rows().filter_map(|(l, s)| Some((l, ConstCounter::new(s.upstream?.disposable + s.upstream?.frames))));
        family(encoder, ("stream_upstream_dropped_frames", help, Counter), left)?;

        let sessions = self.hub.0.sessions();
        let mut by_protocol = std::collections::BTreeMap::<_, (i64, u64, u64)>::new();
        for session in &sessions {
            let row = by_protocol.entry((session.protocol, session.action.name())).or_default();
            row.0 += 1;
            row.1 += session.gaps().0;
            if session.action == Action::Play {
                let behind = self.hub.0.behind(session).unwrap_or_default();
                row.2 = row.2.max(behind.micros().unsigned_abs());
            }
        }
        let rows = || by_protocol.iter().map(|((p, a), row)| (vec![("protocol", *p), ("action", *a)], row));
        let now = rows().map(|(l, row)| (l, ConstGauge::new(row.0)));
        family(encoder, ("sessions", "Publishers and viewers now", Gauge), now)?;
        let help = "Skips to a key frame of the viewers that are here now";
        family(encoder, ("session_gaps", help, Gauge), rows().map(|(l, r)| (l, ConstGauge::new(r.1 as i64))))?;
        let help = "How far the slowest viewer is behind, in seconds";
        let behind = rows().map(|(l, r)| (l, ConstGauge::new(r.2 as f64 / 1e6)));
        family(encoder, ("slowest_viewer_behind_seconds", help, Gauge), behind)?;

        self.encode_links(encoder)?;

        let (streams, bytes) = self.made.hls.kept();
        let help = "Streams that are cut for HLS now";
        family(encoder, ("hls_streams", help, Gauge), [(vec![], ConstGauge::new(streams as i64))])?;
        let help = "Bytes of segments that are kept for HLS";
        family(encoder, ("hls_bytes", help, Gauge), [(vec![], ConstGauge::new(bytes as i64))])?;

        let (_, streams, strange, lost) = self.made.webrtc.figures();
        let help = "Streams that are cut for WebRTC now";
        family(encoder, ("webrtc_streams", help, Gauge), [(vec![], ConstGauge::new(streams as i64))])?;
        let rows = [("unknown_sender", strange), ("overrun", lost)];
        let rows = rows.map(|(why, n)| (vec![("why", why)], ConstCounter::new(n)));
        family(encoder, ("webrtc_datagrams_dropped", "Datagrams of WebRTC that were dropped", Counter), rows)?;

        let rows = self.made.snapshots.counts().map(|(what, n)| (vec![("what", what)], ConstCounter::new(n)));
        family(encoder, ("snapshots", "Pictures that were made, given once more, and not made", Counter), rows)?;

        let refusals = self.hub.0.figures().refusals();
        let rows = refusals.iter().map(|(a, why, n)| (vec![("action", *a), ("why", *why)], ConstCounter::new(*n)));
        family(encoder, ("refusals", "What was refused at the gate", Counter), rows)?;
        let faults = self.hub.0.figures().faults();
        let rows = faults.iter().map(|(p, what, n)| (vec![("protocol", *p), ("what", *what)], ConstCounter::new(*n)));
        family(encoder, ("peer_faults", "What peers did wrong", Counter), rows)?;
        if let Some(udp) = &self.made.udp {
            let (unknown, overrun) = udp.dropped();
            let rows = [("unknown_sender", unknown), ("overrun", overrun)];
            let rows = rows.map(|(why, n)| (vec![("why", why)], ConstCounter::new(n)));
            let help = "Datagrams of RTSP that were dropped";
            family(encoder, ("rtsp_datagrams_dropped", help, Counter), rows)?;
        }
        let rows = self.door.list().map(|(what, n)| (vec![("what", what)], ConstCounter::new(n)));
        family(encoder, ("connections", "What became of connections at the one port", Counter), rows)
    }
}

impl Figures {
    fn encode_links(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        use MetricType::{Counter, Gauge};
        let peers = self.cascade.0.peers();
        let (linked, known) = peers.count();
        let rows = [("linked", linked), ("lost", known.saturating_sub(linked))];
        let rows = rows.map(|(state, n)| (vec![("state", state)], ConstGauge::new(n as i64)));
        family(encoder, ("peers", "Platforms below that are or were linked", Gauge), rows)?;
        let faults = peers.faults();
        let rows = faults.iter().map(|(what, n)| (vec![("what", *what)], ConstCounter::new(*n)));
        family(encoder, ("peer_failures", "What went wrong with platforms below", Counter), rows)?;
        let uppers = self.cascade.0.uppers();
        let rows = || uppers.iter().map(|upper| (vec![("upper", upper.url.as_str())], upper));
        let linked = rows().map(|(l, u)| (l, ConstGauge::new(i64::from(u.state == State::Linked))));
        family(encoder, ("upper_linked", "Whether the link to an upper is there", Gauge), linked)?;
        let links = rows().map(|(l, u)| (l, ConstCounter::new(u.links)));
        family(encoder, ("upper_links", "Links that were made to an upper", Counter), links)?;
        let sent = rows().filter_map(|(l, u)| Some((l, ConstGauge::new(u.figures?.sent_bytes as i64))));
        family(encoder, ("upper_sent_bytes", "Bytes sent on the link that there is", Gauge), sent)?;
        let round_trip = rows().filter_map(|(l, u)| Some((l, ConstGauge::new(u.figures?.round_trip?.as_secs_f64()))));
        family(encoder, ("upper_round_trip_seconds", "Of the last ping on the link", Gauge), round_trip)
    }
}
