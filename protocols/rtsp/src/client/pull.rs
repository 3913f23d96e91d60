//! Pulls a stream: `DESCRIBE`, `SETUP`, `PLAY`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use culvert_hub::Publisher;
use culvert_net::udp::bind_pair;
use rustls::ClientConfig;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};
use url::Url;

use super::connection::{Connection, Heard, refused};
use super::{ClientError, Prefer};
use crate::receive::Intake;
use crate::sdp::Description;
use crate::server::interleaved;
use crate::wire::headers::RtpInfo;
use crate::wire::transport::Transport;
use crate::wire::{Method, Request};

/// How often a server may send us elsewhere.
const REDIRECTS: usize = 4;
/// How long the first datagram may take, before the connection is used instead.
const FIRST_DATAGRAM: Duration = Duration::from_secs(4);
/// A source that always sent more often than this, and then nothing for so long, is asked whether it is there.
const LEAST_PATIENCE: Duration = Duration::from_secs(3);
/// How long it has to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// By so many times its widest pause, so far.
const PAUSES: u32 = 4;
/// Largest datagram.
const DATAGRAM_BYTES: usize = 65_536;
/// An RTP packet of no payload, which opens a way through NAT (RFC 3550 5.1).
const OPENING: [u8; 12] = [0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// A receiver's report of nothing (RFC 3550 6.4.2).
const OPENING_REPORT: [u8; 8] = [0x80, 201, 0, 1, 0, 0, 0, 0];

/// Pulls `url` into the stream until one of the two ends; `begun` is called when media flows. `silence` bounds each step and the time
/// between two packets.
pub async fn pull(
    url: &Url,
    prefer: Prefer,
    tls: &Arc<ClientConfig>,
    silence: Duration,
    publisher: &Publisher,
    mut begun: impl FnMut(),
) -> Result<(), ClientError> {
    let (mut url, mut way, mut tried) = (url.clone(), prefer, 0);
    let mut redirects = 0;
    loop {
        let mut connection = Connection::open(&url, tls, silence).await?;
        match Pull::open(&mut connection, way).await {
            Ok(Opened::Playing(mut pull)) => match pull.run(&mut connection, silence, publisher, &mut begun).await {
                // A camera may have room for one session only.
                Err(ClientError::NoDatagrams(_)) if tried == 0 => connection.farewell().await,
                ended => return ended,
            },
            Ok(Opened::Elsewhere(location)) => {
                redirects += 1;
                if redirects > REDIRECTS {
                    return Err(ClientError::Redirected);
                }
                let mut next = url.join(&location).map_err(|why| ClientError::Url(format!("{location}: {why}")))?;
                // What is for one server is for no other, and not for a way that everybody reads.
                let place = |url: &Url| (url.host_str().map(str::to_string), url.port());
                let same = place(&next) == place(&url) && (next.scheme() == url.scheme() || next.scheme() == "rtsps");
                if next.username().is_empty() && same {
                    next.set_username(url.username()).ok();
                    next.set_password(url.password()).ok();
                }
                url = next;
                continue;
            }
            Err(ClientError::NoTransport) if tried == 0 => {}
            Err(error) => return Err(error),
        }
        // The other way, once.
        tried += 1;
        way = match way {
            Prefer::Tcp => Prefer::Udp,
            Prefer::Udp => Prefer::Tcp,
        };
    }
}

enum Opened {
    Playing(Box<Pull>),
    Elsewhere(String),
}

struct Pull {
    intake: Intake,
    lines: Vec<Line>,
    /// Of each line, for media and RTCP; those by datagrams have channels that nobody has.
    channels: Vec<(u8, u8)>,
    ended: usize,
}

/// One medium that was set up.
struct Line {
    /// Its place in the description.
    at: usize,
    way: Way,
    has_ended: bool,
}

enum Way {
    /// Channels for media and RTCP.
    Tcp(u8, u8),
    Udp(Box<Pair>),
}

struct Pair {
    media: UdpSocket,
    reports: UdpSocket,
    /// The server's; from elsewhere nothing is taken.
    server: (SocketAddr, SocketAddr),
    slab: BytesMut,
    reports_slab: BytesMut,
}

/// What came in.
enum Came {
    Packet {
        line: usize,
        rtcp: bool,
        data: Bytes,
    },
    /// To a sign of life.
    Answer,
    Nothing,
}

impl Pull {
    async fn open(connection: &mut Connection, way: Prefer) -> Result<Opened, ClientError> {
        connection.options().await?;
        let url = connection.url.to_string();
        let request = Request::new(Method::Describe, url.as_str()).with("Accept", "application/sdp");
        let response = connection.ask(request).await?;
        if let 301 | 302 | 303 | 305 | 307 | 308 = response.status
            && let Some(location) = response.headers.get("Location")
        {
            return Ok(Opened::Elsewhere(location.to_string()));
        }
        if response.status != 200 {
            return Err(refused("DESCRIBE", &response));
        }
        let base = ["Content-Base", "Content-Location"].iter().find_map(|name| response.headers.get(name));
        // Some cameras give a base without a host, or one that is reached from their side only by another name.
        let base = base.filter(|base| base.contains("://")).unwrap_or(&url).trim().to_string();
        let session = Description::parse(&String::from_utf8_lossy(&response.body));
        let now = std::time::Instant::now();
        let intake = Intake::new(now, &session).ok_or(ClientError::NoMedia)?;
        let aggregate = match session.control.as_deref() {
            None | Some("" | "*") => base.clone(),
            Some(control) => resolved(&base, control),
        };
        let mut lines: Vec<Line> = Vec::new();
        for (at, medium) in session.media.iter().enumerate().filter(|(at, _)| intake.takes(*at)) {
            let control = medium.control.as_deref().unwrap_or_default();
            let control =
                if control.is_empty() || control == "*" { aggregate.clone() } else { resolved(&base, control) };
            match set_up(connection, &control, at, lines.len(), way).await? {
                Some(way) => lines.push(Line { at, way, has_ended: false }),
                // One of several that cannot be had does not cost the others.
                None if !lines.is_empty() => {}
                None => return Err(ClientError::NoTransport),
            }
        }
        let channels = lines.iter().map(|line| match line.way {
            Way::Tcp(media, rtcp) => (media, rtcp),
            Way::Udp(_) => (u8::MAX, u8::MAX),
        });
        let mut pull = Pull { channels: channels.collect(), intake, lines, ended: 0 };
        pull.open_ways().await;
        connection.aggregate = aggregate;
        let request = Request::new(Method::Play, connection.aggregate.as_str()).with("Range", "npt=0.000-");
        let response = connection.ask(request).await?;
        if response.status != 200 {
            return Err(refused("PLAY", &response));
        }
        connection.note_session(&response);
        let info: Vec<RtpInfo> = response.headers.all("RTP-Info").flat_map(RtpInfo::parse_list).collect();
        pull.take_info(&session, &base, &info);
        Ok(Opened::Playing(Box::new(pull)))
    }

    /// What the server says comes first: it puts all media at one moment, where it says so of all.
    fn take_info(&mut self, session: &Description, base: &str, info: &[RtpInfo]) {
        let of = |line: &Line| {
            let control = session.media.get(line.at)?.control.as_deref()?;
            let url = resolved(base, control);
            let named = info.iter().find(|info| info.url == url || info.url.ends_with(control) && !control.is_empty());
            Some((line.at, named?.rtptime?))
        };
        let begins: Vec<Option<(usize, u32)>> = self.lines.iter().map(of).collect();
        if begins.iter().all(Option::is_some) {
            for (at, timestamp) in begins.into_iter().flatten() {
                self.intake.begin(at, timestamp);
            }
        }
    }

    /// Sends a datagram on each way, for whatever is in between.
    async fn open_ways(&self) {
        for line in &self.lines {
            if let Way::Udp(pair) = &line.way {
                pair.media.send_to(&OPENING, pair.server.0).await.ok();
                pair.reports.send_to(&OPENING_REPORT, pair.server.1).await.ok();
            }
        }
    }

    async fn run(
        &mut self,
        connection: &mut Connection,
        silence: Duration,
        publisher: &Publisher,
        begun: &mut impl FnMut(),
    ) -> Result<(), ClientError> {
        let by_udp = self.lines.iter().any(|line| matches!(line.way, Way::Udp(_)));
        let mut patience = if by_udp { FIRST_DATAGRAM.min(silence) } else { silence };
        let mut heard = Instant::now();
        // The first packets are a burst of what the server had.
        let mut widest = LEAST_PATIENCE / PAUSES;
        let every = connection.session_timeout / 2;
        let mut life = Instant::now() + every;
        let (mut first, mut asked) = (by_udp, false);
        loop {
            let timer = self.intake.poll_timeout().map(Instant::from_std);
            let late = heard + patience;
            let came = tokio::select! {
                came = came(&mut self.lines, &self.channels, connection) => came?,
                () = sleep_until(timer.unwrap_or(late)), if timer.is_some() => Came::Nothing,
                () = sleep_until(life) => {
                    connection.sign_of_life().await?;
                    life = Instant::now() + every;
                    Came::Nothing
                }
                () = sleep_until(late) => {
                    if first {
                        return Err(ClientError::NoDatagrams(patience));
                    }
                    if asked || patience >= silence {
                        return Err(ClientError::Silent(heard.elapsed()));
                    }
                    // It may just have nothing to send, or the path may stand still.
                    connection.sign_of_life().await?;
                    (asked, patience) = (true, patience + ANSWER);
                    Came::Nothing
                }
            };
            if asked && matches!(came, Came::Answer) {
                // It is there.
                (asked, patience) = (false, silence);
            }
            let now = std::time::Instant::now();
            if let Came::Packet { line, rtcp, data } = came
                && let Some(line) = self.lines.get_mut(line)
            {
                if !rtcp {
                    widest = widest.max(heard.elapsed());
                    (heard, first, patience) = (Instant::now(), false, silence.min(widest * PAUSES));
                    asked = false;
                }
                let in_order = matches!(line.way, Way::Tcp(..));
                if self.intake.handle(now, line.at, rtcp, data, in_order)
                    && !std::mem::replace(&mut line.has_ended, true)
                {
                    self.ended += 1;
                }
            }
            self.intake.handle_timeout(now);
            if self.intake.pass_on(publisher)? {
                begun();
            }
            if self.ended == self.lines.len() {
                return Err(ClientError::Ended);
            }
            for (at, report) in self.intake.poll_reports(now) {
                let Some(line) = self.lines.iter().find(|line| line.at == at) else { continue };
                match &line.way {
                    Way::Tcp(_, channel) => connection.write(&interleaved(*channel, &report)).await?,
                    Way::Udp(pair) => drop(pair.reports.send_to(&report, pair.server.1).await),
                }
            }
        }
    }
}

/// Sets one medium up. None: the server does not have this way.
async fn set_up(
    connection: &mut Connection,
    control: &str,
    at: usize,
    count: usize,
    way: Prefer,
) -> Result<Option<Way>, ClientError> {
    let channel = u8::try_from(count * 2).unwrap_or(0);
    let sockets = match way {
        Prefer::Tcp => None,
        Prefer::Udp => {
            let any = if connection.remote.is_ipv4() { "0.0.0.0" } else { "::" };
            Some(bind_pair(any.parse().map_err(|_| ClientError::NoTransport)?)?)
        }
    };
    let offer = match &sockets {
        None => Transport { tcp: true, interleaved: Some((channel, channel + 1)), ..Transport::default() },
        Some((media, reports)) => {
            let ports = (media.local_addr()?.port(), reports.local_addr()?.port());
            Transport { client_port: Some(ports), ..Transport::default() }
        }
    };
    let request = Request::new(Method::Setup, control).with("Transport", offer.to_string());
    let response = connection.ask(request).await?;
    match response.status {
        200 => {}
        // Some servers say 400 or 500 where they mean 461.
        461 => return Ok(None),
        400 | 500 | 551 if count == 0 && at == 0 => return Ok(None),
        _ if count > 0 => return Ok(None),
        _ => return Err(refused("SETUP", &response)),
    }
    connection.note_session(&response);
    let told = response.headers.all("Transport").flat_map(Transport::parse_list).next().unwrap_or_default();
    Ok(match sockets {
        None => {
            let (media, rtcp) = told.interleaved.unwrap_or((channel, channel + 1));
            Some(Way::Tcp(media, rtcp))
        }
        Some((media, reports)) => {
            // Datagrams come from whom we asked, wherever it says that it sends from (security.md S20).
            let ip = connection.remote.ip();
            let (theirs, their_reports) = told.server_port.unwrap_or((0, 0));
            let server = (SocketAddr::new(ip, theirs), SocketAddr::new(ip, their_reports));
            let (slab, reports_slab) = (BytesMut::new(), BytesMut::new());
            Some(Way::Udp(Box::new(Pair { media, reports, server, slab, reports_slab })))
        }
    })
}

/// What comes next, on any way. Cancel safe, as [`Connection::hear`] is.
async fn came(lines: &mut [Line], channels: &[(u8, u8)], connection: &mut Connection) -> Result<Came, ClientError> {
    let by_udp = lines.iter().any(|line| matches!(line.way, Way::Udp(_)));
    tokio::select! {
        heard = connection.hear() => Ok(match heard? {
            Heard::Packet(channel, data) => {
                let found = channels.iter().position(|(media, rtcp)| *media == channel || *rtcp == channel);
                match found {
                    Some(line) => {
                        let rtcp = channels.get(line).is_some_and(|(_, rtcp)| *rtcp == channel);
                        Came::Packet { line, rtcp, data }
                    }
                    None => Came::Nothing,
                }
            }
            Heard::Answer => Came::Answer,
        }),
        came = datagram(lines), if by_udp => Ok(came),
    }
}

async fn datagram(lines: &mut [Line]) -> Came {
    std::future::poll_fn(|cx| {
        for (line, of) in lines.iter_mut().enumerate() {
            let Way::Udp(pair) = &mut of.way else { continue };
            let Pair { media, reports, server, slab, reports_slab } = pair.as_mut();
            for (socket, rtcp, slab) in [(media, false, slab), (reports, true, reports_slab)] {
                while let std::task::Poll::Ready(read) = receive(socket, slab, cx) {
                    let Ok((from, data)) = read else { continue };
                    if from.ip().to_canonical() == server.0.ip().to_canonical() {
                        return std::task::Poll::Ready(Came::Packet { line, rtcp, data });
                    }
                }
            }
        }
        std::task::Poll::Pending
    })
    .await
}

fn receive(
    socket: &UdpSocket,
    slab: &mut BytesMut,
    cx: &mut std::task::Context<'_>,
) -> std::task::Poll<std::io::Result<(SocketAddr, Bytes)>> {
    if slab.capacity() < DATAGRAM_BYTES {
        *slab = BytesMut::with_capacity(DATAGRAM_BYTES * 4);
    }
    slab.resize(DATAGRAM_BYTES, 0);
    let mut buffer = tokio::io::ReadBuf::new(slab);
    let came = socket.poll_recv_from(cx, &mut buffer);
    let n = buffer.filled().len();
    slab.truncate(n);
    came.map_ok(|from| (from, slab.split().freeze()))
}

/// A control, which may be a whole URL or a part that goes behind the base (RFC 2326 C.1.1).
fn resolved(base: &str, control: &str) -> String {
    if control.contains("://") {
        return control.to_string();
    }
    // As all clients do it, and not as RFC 3986 has it: cameras count on that.
    let slash = if base.ends_with('/') || control.starts_with('/') { "" } else { "/" };
    format!("{base}{slash}{control}")
}
