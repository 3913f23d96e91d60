//! The upper's end of video on demand: the first viewer of `name-cid` starts a relay from that platform, all viewers
//! share it, and it ends a grace after the last (DESIGN section 1, decision 2).
//!
//! While the link is broken the stream stays, for a bounded time, and goes on where it stopped.

use std::collections::HashMap;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use culvert_formats::relay::{Back, Ending, Reader, Record};
use culvert_hub::{Demand, End, Hub, Identity, Publisher, Refusal, Source, Starting, Upstream, Wish};
use culvert_link::{Answer, Link, Sender, channel};
use culvert_media::{Cid, StreamName, TrackId};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::peers::Peers;

/// Most relays at once: viewers choose their names.
const RELAYS: usize = 4096;
/// The least grace: a viewer needs a moment to come through the door.
const LEAST_GRACE: Duration = Duration::from_secs(1);
/// What is read of a refusal to tell its reason.
const REFUSAL: usize = 4 << 10;
/// A platform that had the stream and now refuses, or breaks off, is asked again after this.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// Why a relay goes on elsewhere that heard nothing wrong itself.
const CLOSED: &str = "the link was closed, or replaced by a newer one";
/// How long a platform may take to end a relay that nobody wants any more, before the request is cancelled.
const FAREWELL: Duration = Duration::from_secs(2);
/// A link that broke is known to have broken after this, when its relays may have noticed before it.
const MOMENT: Duration = Duration::from_millis(20);
/// Acknowledgements are the sender's clock; more of them would tell it nothing new.
const ACKNOWLEDGE: Duration = Duration::from_millis(20);
/// Acknowledgements and wishes that are on their way to the link.
const BACK: usize = 4;

/// The times of relays.
#[derive(Clone, Copy, Debug)]
pub struct OnDemand {
    /// How long a relay goes on without a viewer.
    pub grace: Duration,
    /// How long viewers wait for one to begin.
    pub start_timeout: Duration,
    /// How long viewers are kept while the link is broken.
    pub hold: Duration,
}

/// All relays from below. Cheap to clone.
#[derive(Clone)]
pub struct Relays(Arc<Inner>);

struct Inner {
    hub: Hub,
    peers: Peers,
    times: OnDemand,
    stop: CancellationToken,
    running: Mutex<HashMap<StreamName, watch::Receiver<Option<Refusal>>>>,
}

impl Relays {
    /// Into this hub, from these platforms. They end with `stop`.
    pub fn new(hub: Hub, peers: Peers, times: OnDemand, stop: CancellationToken) -> Relays {
        Relays(Arc::new(Inner { hub, peers, times, stop, running: Mutex::default() }))
    }

    fn running(&self) -> MutexGuard<'_, HashMap<StreamName, watch::Receiver<Option<Refusal>>>> {
        self.0.running.lock().expect("no code panics while it holds the table of relays")
    }

    /// Relays one stream until nobody wants it any more, or it fails for good.
    async fn keep(self, stream: StreamName, cid: Cid, below: StreamName, failed: watch::Sender<Option<Refusal>>) {
        let source = Source { protocol: "relay", remote: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)) };
        let ended = match self.0.hub.publish(&stream, source, Identity::anonymous()) {
            Ok(publisher) => {
                let relay = Relay { relays: &self, publisher: &publisher, cid: &cid, below: &below };
                let ended = relay.run().await;
                // The stream first, then the table: whoever asks in between sees this relay end without a word, and asks
                // for another.
                if let Ok(end) = &ended {
                    publisher.finish(end.clone());
                }
                ended
            }
            Err(refusal) => Err(refusal),
        };
        self.running().remove(&stream);
        match ended {
            Ok(end) => tracing::info!(%stream, peer = %cid, end = end.name(), "relay ended"),
            Err(why) => {
                tracing::warn!(%stream, peer = %cid, %why, "relay failed");
                failed.send_replace(Some(why));
            }
        }
    }
}

impl Demand for Relays {
    fn start(&self, stream: &StreamName) -> Option<Starting> {
        let timeout = self.0.times.start_timeout;
        let mut running = self.running();
        if let Some(failed) = running.get(stream) {
            return Some(Starting { timeout, failed: failed.clone() });
        }
        let (cid, below) = self.0.peers.owner(stream)?;
        if running.len() >= RELAYS {
            let why = format!("this node relays as many streams as it may ({RELAYS})");
            return Some(Starting::refused(Refusal::Full(why)));
        }
        let (failed, seen) = watch::channel(None);
        running.insert(stream.clone(), seen.clone());
        drop(running);
        tokio::spawn(self.clone().keep(stream.clone(), cid, below, failed));
        Some(Starting { timeout, failed: seen })
    }
}

struct Relay<'a> {
    relays: &'a Relays,
    publisher: &'a Publisher,
    cid: &'a Cid,
    below: &'a StreamName,
}

/// Where a relay is in the life of its stream, so that another link can go on there.
#[derive(Default)]
struct Place {
    epoch: Option<u64>,
    /// Number of the last frame of each track.
    last: HashMap<TrackId, u64>,
    live: bool,
    /// Media came over this link.
    flowed: bool,
}

impl Place {
    /// The first frame that may be missing: one after the last of the track that is least far.
    fn next(&self) -> Option<(u64, u64)> {
        Some((self.epoch?, self.last.values().min()?.saturating_add(1)))
    }
}

/// How one connection to the platform's relay ended.
enum Attempt {
    /// The stream is at its end, in whatever way.
    End(End),
    /// What the platform sends is broken.
    Broken(String),
    /// The platform refuses. Where it had the stream before, it may have it again: it was restarted, or its camera.
    Refused(Refusal),
    /// The link failed, or the relay broke off.
    Lost(String),
}

impl Relay<'_> {
    /// Ok: the stream ended in a way that viewers are told. Err: why, for those who wait for the first picture.
    async fn run(&self) -> Result<End, Refusal> {
        let times = self.relays.0.times;
        let grace = times.grace.max(LEAST_GRACE);
        // One wait over all links: a grace that has begun goes on when a link comes back.
        let mut gone = pin!(self.gone(times.start_timeout + grace, grace));
        let mut place = Place::default();
        let mut link = self.relays.0.peers.get(self.cid).map_err(|fault| Refusal::NotStarted(fault.to_string()))?;
        let mut held_until = Instant::now();
        loop {
            let was_live = place.live;
            place.flowed = false;
            let attempt = self.attempt(&link, &mut place, gone.as_mut()).await;
            if place.flowed || place.live != was_live {
                held_until = Instant::now() + times.hold;
            }
            let why = match attempt {
                Attempt::End(end) => return Ok(end),
                // Viewers who are here are told that it was lost, those who wait for it why.
                Attempt::Broken(why) => return Err(Refusal::NotStarted(why)),
                Attempt::Refused(why) if place.live => why.to_string(),
                Attempt::Refused(why) => return Err(why),
                Attempt::Lost(why) if place.live => why,
                Attempt::Lost(why) => {
                    sleep(MOMENT).await;
                    // A link that was half-open ends when the platform has made another.
                    match self.relays.0.peers.get(self.cid) {
                        Ok(other) if link.is_closed() => link = other,
                        Ok(_) => return Err(Refusal::NotStarted(format!("{} broke off: {why}", self.cid))),
                        Err(fault) => return Err(Refusal::NotStarted(fault.to_string())),
                    }
                    continue;
                }
            };
            tracing::info!(stream = %self.publisher.name(), peer = %self.cid, %why, "relay interrupted");
            let again = async {
                sleep(MOMENT).await;
                if !link.is_closed() {
                    sleep(REFUSED_PAUSE).await;
                }
                self.relays.0.peers.linked(self.cid).await
            };
            link = tokio::select! {
                link = again => link,
                () = sleep_until(held_until) => return Ok(End::Lost),
                end = gone.as_mut() => return Ok(end),
            };
        }
    }

    /// Returns once nobody here wants the stream any more; it has ended then, or is about to.
    async fn gone(&self, first: Duration, grace: Duration) -> End {
        tokio::select! {
            () = self.publisher.end_unwatched(first, grace) => End::Finished,
            () = self.publisher.cancelled() => End::Closed,
            () = self.relays.0.stop.cancelled() => End::Closed,
        }
    }

    async fn attempt(&self, link: &Link, place: &mut Place, mut gone: Pin<&mut impl Future<Output = End>>) -> Attempt {
        let (back, body) = channel(BACK);
        let resume = place.next();
        let query = resume.map_or(String::new(), |(epoch, seq)| format!("?epoch={epoch}&seq={seq}"));
        let uri = format!("http://{}/relay/{}{query}", self.cid, self.below);
        let request = Request::get(uri).body(body).expect("ids and stream names can stand in a URL");
        let begin = self.relays.0.times.start_timeout;
        let mut closed = pin!(self.relays.0.peers.closed(link));
        let answer = tokio::select! {
            answer = timeout(begin, link.request(request)) => answer,
            () = closed.as_mut() => return Attempt::Lost(CLOSED.into()),
            end = gone.as_mut() => return Attempt::End(end),
        };
        let answer = match answer {
            Ok(Ok(answer)) if answer.status() == StatusCode::OK => answer,
            Ok(Ok(answer)) => return Attempt::Refused(refusal(self.cid, answer).await),
            Ok(Err(error)) => return Attempt::Lost(error.to_string()),
            Err(_) => return self.late("did not answer", begin),
        };
        let mut body = answer.into_body();
        let mut reader = Reader::new();
        let (mut received, mut acknowledged, mut acknowledge_at) = (0_u64, 0_u64, Instant::now());
        let deadline = Instant::now() + begin;
        loop {
            tokio::select! {
                frame = body.frame() => match frame {
                    Some(Ok(frame)) => {
                        let Some(data) = frame.data_ref() else { continue };
                        received += data.len() as u64;
                        reader.handle_input(data);
                        if let Some(ended) = self.take(&mut reader, place, resume) {
                            return ended;
                        }
                    }
                    Some(Err(error)) => return Attempt::Lost(error.to_string()),
                    None => return Attempt::Lost("the relay broke off without an end".into()),
                },
                () = sleep_until(acknowledge_at), if acknowledged < received => {
                    // All that came so far is acknowledged at once; without room the next one speaks for this one.
                    if send(&back, Back::Ack { received_bytes: received }) {
                        acknowledged = received;
                    }
                    acknowledge_at = Instant::now() + ACKNOWLEDGE;
                }
                wish = self.publisher.wish() => match wish {
                    // One that finds no room is lost among others that say the same.
                    Wish::KeyFrame => {
                        send(&back, Back::KeyFrame);
                    }
                    Wish::Pause | Wish::Resume => {}
                },
                end = gone.as_mut() => {
                    tokio::spawn(leave(back, body));
                    return Attempt::End(end);
                }
                () = closed.as_mut() => return Attempt::Lost(CLOSED.into()),
                () = sleep_until(deadline), if !place.live => {
                    return self.late("sent no media", begin);
                }
            }
        }
    }

    fn late(&self, what: &str, bound: Duration) -> Attempt {
        let why = format!("{} {what} within {} s", self.cid, bound.as_secs_f32());
        Attempt::Refused(Refusal::NotStarted(why))
    }

    /// Takes in what has come. Some: that was the last of it.
    fn take(&self, reader: &mut Reader, place: &mut Place, resume: Option<(u64, u64)>) -> Option<Attempt> {
        loop {
            let record = match reader.poll_record() {
                Ok(Some(record)) => record,
                Ok(None) => return None,
                Err(error) => {
                    self.relays.0.peers.count_fault("bad-relay");
                    return Some(Attempt::Broken(format!("{} sends a broken relay: {error}", self.cid)));
                }
            };
            match record {
                Record::Hello { epoch, next_seq } => {
                    match place.epoch {
                        Some(known) if known != epoch => {
                            // Another life of the stream: its stamps need not follow.
                            self.publisher.restart();
                            place.last.clear();
                        }
                        Some(_) if resume.is_none_or(|(_, asked)| asked != next_seq) => self.publisher.gap(),
                        Some(_) | None => {}
                    }
                    place.epoch = Some(epoch);
                }
                Record::Tracks(tracks) => {
                    place.live = true;
                    // Of a track that is no more nothing is missing.
                    place.last.retain(|track, _| tracks.track(*track).is_some());
                    self.publisher.set_tracks(tracks);
                }
                Record::Frame { seq, frame } => {
                    // What came before the link broke comes again where another track was less far.
                    if place.last.get(&frame.track).is_some_and(|last| *last >= seq) {
                        continue;
                    }
                    place.last.insert(frame.track, seq);
                    place.flowed = true;
                    if self.publisher.write(frame).is_err() {
                        return Some(Attempt::End(End::Closed));
                    }
                }
                Record::Gap { .. } => self.publisher.gap(),
                Record::Report(report) => self.publisher.set_upstream(Upstream {
                    disposable: report.disposable,
                    frames: report.frames,
                    bytes: report.bytes,
                    keys_only: report.keys_only,
                    queued_ms: u32::try_from(report.queued.as_millis()).unwrap_or(u32::MAX),
                }),
                Record::End(_) if !place.live => {
                    // Whoever waits for it would ask for it again and again.
                    let why = format!("{} ended the stream before it began", self.cid);
                    return Some(Attempt::Refused(Refusal::NotStarted(why)));
                }
                Record::End(Ending::Finished) => return Some(Attempt::End(End::Finished)),
                Record::End(Ending::Lost) => return Some(Attempt::End(End::Lost)),
                Record::End(Ending::Closed) => return Some(Attempt::End(End::Closed)),
            }
        }
    }
}

/// Whether it could be said now; the next one says the same and more.
fn send(back: &Sender, what: Back) -> bool {
    back.try_reserve().is_some_and(|place| place.send(what.to_bytes()).is_ok())
}

/// Says that nobody here wants the stream any more, by the end of what is sent back: a request that is cancelled says no
/// more than one whose link broke, and the platform would wait a grace of its own.
async fn leave(back: Sender, mut body: Answer) {
    drop(back);
    let over = async { while matches!(body.frame().await, Some(Ok(_))) {} };
    timeout(FAREWELL, over).await.ok();
}

/// Why a platform does not relay, in its own words where it has some.
async fn refusal(cid: &Cid, answer: Response<Answer>) -> Refusal {
    let status = answer.status();
    let body = timeout(Duration::from_secs(2), Limited::new(answer.into_body(), REFUSAL).collect()).await;
    let body = body.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let problem: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
    let why = match problem.as_ref().and_then(|problem| problem.get("detail")?.as_str()) {
        Some(detail) => format!("{cid} says: {}", detail.chars().filter(|c| !c.is_control()).collect::<String>()),
        None => format!("{cid} answered {status}"),
    };
    if status == StatusCode::NOT_FOUND { Refusal::NoneBelow(why) } else { Refusal::NotStarted(why) }
}
