//! Pulling HLS from another server: playlists followed, segments fetched and taken apart, frames passed on as time goes by.
//!
//! Segments come in lumps of seconds. What a lump holds is passed on at the pace of its own times, so that viewers see what the camera
//! saw and not a burst and a pause; a source that stalls puts everything off by that much. At most [`AHEAD`] segments of a rendition
//! wait.

mod follow;
mod pace;
mod playlist;
mod rendition;
mod segment;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use culvert_formats::Event;
use culvert_hub::{Publisher, Replaced};
use culvert_media::{Frame, Time, TrackId, Tracks};
use culvert_net::{FetchError, Fetcher};
use rustls::ClientConfig;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use url::Url;

use pace::Pace;
use playlist::{Found, Media};
use rendition::{Batch, Rendition};

/// Why a pull ended.
#[derive(Debug, Error)]
pub enum PullError {
    /// There is nothing to be had of the server.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// What it sends is no playlist that can be followed.
    #[error("the source's playlist cannot be used: {0}")]
    Playlist(String),
    /// What it sends is no segment that can be read.
    #[error("{0}")]
    Segment(String),
    /// Its segments are encrypted.
    #[error("the source encrypts its segments ({0}), which is not read; ask for a stream without EXT-X-KEY")]
    Encrypted(String),
    /// Nothing new comes.
    #[error("the source's playlist has not advanced for {} s", .0.as_secs())]
    Stalled(Duration),
    /// It ended the stream.
    #[error("the source ended the stream (EXT-X-ENDLIST)")]
    Ended,
    /// Our own stream was closed or taken over.
    #[error(transparent)]
    Replaced(#[from] Replaced),
}

/// Segments of a rendition that wait beside the one that is passed on.
const AHEAD: usize = 1;
/// Largest playlist: a day of 2 s segments.
const PLAYLIST_BYTES: usize = 8 << 20;
/// Renditions that begin further apart have nothing to do with each other's times.
const APART: Time = Time::from_millis(30_000);
/// How long the second rendition is waited for when the first is there.
const TOGETHER: Duration = Duration::from_secs(5);
/// The track numbers of the second rendition begin here.
const SECOND: u8 = 128;

/// Pulls the playlist `url` (http or https) into the stream until one of the two ends; `begun` is called when media flows. `silence`
/// bounds each step, and how long a playlist may be without news where four of its target durations are less.
pub async fn pull(
    url: &Url,
    tls: &Arc<ClientConfig>,
    silence: Duration,
    publisher: &Publisher,
    begun: impl FnMut(),
) -> Result<(), PullError> {
    let mut fetcher = Fetcher::new(tls.clone(), silence);
    let (at, text) = fetch_playlist(&mut fetcher, url, silence).await?;
    let mut renditions: Vec<(Fetcher, Url, Media)> = Vec::new();
    match playlist::parse(&at, &text)? {
        Found::Media(media) => renditions.push((fetcher, at, media)),
        Found::Renditions(urls) => {
            for url in urls {
                let mut fetcher = fetcher.beside();
                let (at, text) = fetch_playlist(&mut fetcher, &url, silence).await?;
                let Found::Media(media) = playlist::parse(&at, &text)? else {
                    return Err(PullError::Playlist("a list of streams leads to another list of streams".into()));
                };
                renditions.push((fetcher, at, media));
            }
        }
    }
    // Dropped with this future, and so are the tasks.
    let mut tasks = JoinSet::new();
    let mut lanes = Vec::new();
    for (fetcher, url, media) in renditions {
        let (batches, taken) = mpsc::channel(AHEAD);
        tasks.spawn(Rendition { fetcher, url, silence, batches }.run(media));
        lanes.push(Lane::new(u8::try_from(lanes.len()).unwrap_or(1) * SECOND, lanes.len(), taken));
    }
    let paces = vec![Pace::default(); lanes.len()];
    Merge { lanes, paces, passed: None, publisher, begun }.run().await
}

/// A playlist, and where it was in the end.
async fn fetch_playlist(fetcher: &mut Fetcher, url: &Url, patience: Duration) -> Result<(Url, Bytes), PullError> {
    let page = fetcher.get(url, None).await?;
    let mut at = page.url.clone();
    let text = page.whole(PLAYLIST_BYTES, patience).await?;
    // What we asked beyond the address is not part of it.
    if let Some(query) = at.query().filter(|query| query.contains("_HLS_msn=")) {
        let kept: Vec<_> = query.split('&').filter(|pair| !pair.starts_with("_HLS_msn=")).map(str::to_string).collect();
        at.set_query(Some(kept.join("&")).as_deref().filter(|query| !query.is_empty()));
    }
    Ok((at, text))
}

/// What came of one rendition and is not yet passed on.
struct Lane {
    batches: mpsc::Receiver<Result<Batch, PullError>>,
    events: VecDeque<Event>,
    /// Which of the paces is its own.
    pace: usize,
    tracks: Option<Tracks>,
    /// Added to its track numbers.
    offset: u8,
    has_begun: bool,
    /// It is known whether it has the clock of the first.
    is_placed: bool,
    /// The next frame is the first behind a discontinuity.
    anew: bool,
    /// Frames before this time are left out: the other rendition begins there.
    from: Option<Time>,
    /// Why there is no more.
    over: Option<PullError>,
}

impl Lane {
    fn new(offset: u8, pace: usize, batches: mpsc::Receiver<Result<Batch, PullError>>) -> Lane {
        let events = VecDeque::new();
        Lane {
            batches,
            events,
            pace,
            tracks: None,
            offset,
            has_begun: false,
            is_placed: false,
            anew: false,
            from: None,
            over: None,
        }
    }

    /// Takes a batch.
    fn fill(&mut self, batch: Batch) {
        let numbered = batch.events.into_iter().map(|event| match event {
            Event::Frame(frame) => Event::Frame(Frame { track: self.number(frame.track), ..frame }),
            Event::Tracks(tracks) => {
                let tracks = tracks.iter().cloned().map(|mut track| {
                    track.id = self.number(track.id);
                    track
                });
                Event::Tracks(Tracks::new(tracks.collect()))
            }
            Event::Gap => Event::Gap,
        });
        let numbered: Vec<_> = numbered.collect();
        self.events.extend(numbered);
        self.anew |= batch.anew;
        self.has_begun |= self.first().is_some();
    }

    fn has_video(&self) -> bool {
        self.tracks.as_ref().is_some_and(|tracks| tracks.video().is_some())
    }

    /// There is nothing more to come of it.
    fn is_done(&self) -> bool {
        self.over.is_some() && self.events.is_empty()
    }

    fn number(&self, track: TrackId) -> TrackId {
        TrackId((track.0 & (SECOND - 1)) | self.offset)
    }

    /// The time of its next frame.
    fn first(&self) -> Option<Time> {
        self.events.iter().find_map(|event| match event {
            Event::Frame(frame) => Some(frame.dts),
            Event::Tracks(_) | Event::Gap => None,
        })
    }
}

/// Passes on what comes of all renditions.
struct Merge<'a, F> {
    lanes: Vec<Lane>,
    /// The first is that of all who are told by one clock; who is not has one of his own.
    paces: Vec<Pace>,
    /// The time of what was passed on last.
    passed: Option<Time>,
    publisher: &'a Publisher,
    begun: F,
}

impl<F: FnMut()> Merge<'_, F> {
    async fn run(mut self) -> Result<(), PullError> {
        let mut together: Option<Instant> = None;
        while self.lanes.iter().any(|lane| !lane.has_begun && lane.over.is_none()) {
            if together.is_some_and(|together| together <= Instant::now()) {
                break;
            }
            self.receive(together).await?;
            if together.is_none() && self.lanes.iter().any(|lane| lane.has_begun) {
                together = Some(Instant::now() + TOGETHER);
            }
        }
        self.align();
        loop {
            match self.next() {
                Some((at, due)) if due <= Instant::now() => self.pass_on(at)?,
                Some((_, due)) => self.receive(Some(due)).await?,
                None => self.receive(None).await?,
            }
        }
    }

    /// Renditions of one stream are told by one clock: all begin where the last of them does.
    fn align(&mut self) {
        let now = Instant::now();
        let firsts: Vec<_> = self.lanes.iter().filter_map(Lane::first).collect();
        let (Some(first), Some(last)) = (firsts.iter().min().copied(), firsts.iter().max().copied()) else { return };
        if last - first > APART {
            return;
        }
        for lane in self.lanes.iter_mut().filter(|lane| lane.has_begun) {
            (lane.pace, lane.from, lane.is_placed) = (0, Some(last), true);
        }
        if let Some(pace) = self.paces.first_mut() {
            pace.begin(now, last);
        }
    }

    /// The rendition whose next thing is due first, and when. What is no frame is due at once.
    fn next(&mut self) -> Option<(usize, Instant)> {
        let now = Instant::now();
        let mut first: Option<(usize, Instant)> = None;
        for (at, lane) in self.lanes.iter_mut().enumerate() {
            let due = match lane.events.front() {
                Some(Event::Frame(frame)) if lane.from.is_some_and(|from| frame.dts < from) => now,
                Some(Event::Frame(frame)) if !lane.is_placed => {
                    // It came later than the first was waited for.
                    if self.passed.is_some_and(|passed| (passed - frame.dts).abs() <= APART) {
                        (lane.pace, lane.from) = (0, self.passed);
                    }
                    lane.is_placed = true;
                    now
                }
                Some(Event::Frame(frame)) => match self.paces.get_mut(lane.pace) {
                    Some(pace) => pace.due(now, frame.dts, lane.anew),
                    None => now,
                },
                Some(Event::Tracks(_) | Event::Gap) => now,
                None => continue,
            };
            if first.is_none_or(|(_, before)| due < before) {
                first = Some((at, due));
            }
        }
        first
    }

    fn pass_on(&mut self, at: usize) -> Result<(), PullError> {
        let Some(lane) = self.lanes.get_mut(at) else { return Ok(()) };
        match lane.events.pop_front() {
            Some(Event::Frame(frame)) => {
                // Behind a jump it has nothing to wait for any more.
                if lane.from.is_some_and(|from| frame.dts < from && from - frame.dts <= APART) {
                    return Ok(());
                }
                (lane.from, lane.anew) = (None, false);
                self.passed = Some(frame.dts);
                self.publisher.write(frame)?;
            }
            Some(Event::Tracks(tracks)) => {
                lane.tracks = Some(tracks);
                let all = self.lanes.iter().filter_map(|lane| lane.tracks.as_ref()).flatten().cloned();
                self.publisher.set_tracks(Tracks::new(all.collect()));
                (self.begun)();
            }
            // Sound that is missing keeps no picture back.
            Some(Event::Gap) if lane.has_video() => self.publisher.gap(),
            Some(Event::Gap) | None => {}
        }
        Ok(())
    }

    /// Waits for the next batch of a rendition that has nothing left, or until it is time. An error: there is no more of any, or of the one with
    /// the pictures.
    async fn receive(&mut self, until: Option<Instant>) -> Result<(), PullError> {
        if let Some(over) = self.over() {
            return Err(over);
        }
        let lanes = &mut self.lanes;
        let batch = poll_fn(|cx| {
            for (at, lane) in
                lanes.iter_mut().enumerate().filter(|(_, lane)| lane.events.is_empty() && lane.over.is_none())
            {
                let Poll::Ready(batch) = lane.batches.poll_recv(cx) else { continue };
                // A task of ours that ended without a word has panicked.
                match batch.unwrap_or_else(|| Err(PullError::Segment("the task that fetches has ended".into()))) {
                    Ok(batch) => lane.fill(batch),
                    Err(why) => {
                        if at > 0 && !matches!(why, PullError::Ended) {
                            tracing::warn!(%why, "an HLS source goes on without its second rendition");
                        }
                        lane.over = Some(why);
                    }
                }
                return Poll::Ready(());
            }
            Poll::Pending
        });
        match until {
            None => batch.await,
            Some(until) => {
                tokio::select! {
                    () = batch => {}
                    () = sleep_until(until) => {}
                }
            }
        }
        Ok(())
    }

    /// Why it is over, if it is: the first rendition failed, or all have ended.
    fn over(&mut self) -> Option<PullError> {
        let all = self.lanes.iter().all(Lane::is_done);
        let first = self.lanes.first_mut()?;
        let failed = first.is_done() && !matches!(first.over, Some(PullError::Ended));
        (all || failed).then(|| first.over.take().unwrap_or(PullError::Ended))
    }
}
