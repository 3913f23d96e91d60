//! The task that fetches one rendition: looks at its playlist, fetches what is new, takes it apart.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use culvert_formats::Event;
use culvert_net::{FetchError, Fetcher};
use http::StatusCode;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use url::Url;

use super::follow::Follower;
use super::playlist::{self, Found, Media, Place, Segment};
use super::segment::{Content, Reader};
use super::{PullError, fetch_playlist};

/// Largest segment: 50 Mbit/s for 10 s.
const SEGMENT_BYTES: usize = 64 << 20;
/// Segments in a row that could not be had before the source is given up.
const FAILURES: u32 = 3;

/// What a rendition sends.
pub(super) struct Batch {
    /// The content of a segment.
    pub(super) events: Vec<Event>,
    /// It does not go on where the one before ended: times may be others, and what was half there will not become whole.
    pub(super) anew: bool,
}

pub(super) struct Rendition {
    pub(super) fetcher: Fetcher,
    pub(super) url: Url,
    pub(super) silence: Duration,
    pub(super) batches: mpsc::Sender<Result<Batch, PullError>>,
}

impl Rendition {
    /// Fetches until something is wrong, or nobody takes what comes. `media` is what was found first.
    pub(super) async fn run(self, media: Media) {
        let batches = self.batches.clone();
        if let Err(why) = self.follow(media).await {
            // Nobody is there any more: then nobody asks why.
            batches.send(Err(why)).await.ok();
        }
    }

    async fn follow(mut self, mut media: Media) -> Result<(), PullError> {
        let mut follower = Follower::new(Instant::now(), self.silence);
        let mut reader = Reader::default();
        let mut init = None;
        let (mut failures, mut gap, mut anew) = (0, false, false);
        let mut framed = Instant::now();
        loop {
            let looked = Instant::now();
            let news = follower.handle(looked, &media)?;
            gap |= news.gap;
            // Another source may be behind the same addresses.
            anew |= news.gap;
            for segment in news.segments {
                if let Some(method) = segment.encrypted {
                    return Err(PullError::Encrypted(method));
                }
                anew |= segment.discontinuity;
                if segment.is_gap {
                    gap = true;
                    continue;
                }
                if gap || anew {
                    reader.restart();
                    init = None;
                }
                let got = self.segment(&segment, follower.patience(), &mut init, &mut reader).await;
                let Content { mut events, broken } = match got {
                    Ok(content) => content,
                    Err(why) => {
                        (failures, gap) = (failures + 1, true);
                        tracing::debug!(path = segment.at.url.path(), %why, "a segment of an HLS source was left out");
                        if failures >= FAILURES || matches!(why, PullError::Fetch(FetchError::Inside(..))) {
                            return Err(why);
                        }
                        continue;
                    }
                };
                failures = 0;
                if std::mem::take(&mut gap) {
                    events.insert(0, Event::Gap);
                }
                if let Some(why) = broken {
                    tracing::debug!(
                        path = segment.at.url.path(),
                        why,
                        "a segment of an HLS source is broken in the middle"
                    );
                    events.push(Event::Gap);
                    gap = true;
                }
                let now = Instant::now();
                if events.iter().any(|event| matches!(event, Event::Frame(_))) {
                    framed = now;
                } else if now.saturating_duration_since(framed) > follower.patience() {
                    let what = format!("its segments have nothing that is carried: {}", reader.others());
                    return Err(PullError::Segment(what));
                }
                let batch = Batch { events, anew: std::mem::take(&mut anew) };
                if self.batches.send(Ok(batch)).await.is_err() {
                    return Ok(());
                }
            }
            if media.ended {
                return Err(PullError::Ended);
            }
            media = self.look_again(&mut follower, looked, media.can_block).await?;
        }
    }

    /// Waits until it is time, and gets the playlist.
    async fn look_again(
        &mut self,
        follower: &mut Follower,
        mut looked: Instant,
        can_block: bool,
    ) -> Result<Media, PullError> {
        let mut can_block = can_block;
        loop {
            let mut url = self.url.clone();
            match follower.next().filter(|_| can_block && follower.has_changed()) {
                // The server answers when it is there. One that said so and had nothing new is asked like the others.
                Some(next) => drop(url.query_pairs_mut().append_pair("_HLS_msn", &next.to_string())),
                None => sleep_until(looked + follower.delay()).await,
            }
            looked = Instant::now();
            tracing::trace!(path = url.path(), "looking at the playlist of an HLS source");
            let found = fetch_playlist(&mut self.fetcher, &url, follower.patience()).await;
            match found.and_then(|(url, text)| playlist::parse(&url, &text)) {
                Ok(Found::Media(media)) => return Ok(media),
                Ok(Found::Renditions(_)) => {
                    return Err(PullError::Playlist("a media playlist became one of several streams".into()));
                }
                Err(why) if is_final(&why) => return Err(why),
                // A server may be restarted; the segments that are there are shown meanwhile.
                Err(why) => {
                    tracing::debug!(path = self.url.path(), %why, "the playlist of an HLS source was not to be had");
                    can_block = false;
                    if follower.alive(looked).is_err() {
                        return Err(why);
                    }
                }
            }
        }
    }

    async fn segment(
        &mut self,
        segment: &Segment,
        patience: Duration,
        init: &mut Option<Place>,
        reader: &mut Reader,
    ) -> Result<Content, PullError> {
        if let Some(place) = segment.init.as_ref().filter(|place| init.as_ref() != Some(place)) {
            let bytes = self.fetch(place, patience).await?;
            reader.init(&bytes).map_err(PullError::Segment)?;
            *init = Some(place.clone());
        }
        let bytes = self.fetch(&segment.at, patience).await?;
        reader.read(SystemTime::now(), &bytes).map_err(PullError::Segment)
    }

    async fn get(&mut self, place: &Place, patience: Duration) -> Result<(Bytes, bool), FetchError> {
        let page = self.fetcher.get(&place.url, place.range).await?;
        let is_part = page.is_part;
        Ok((page.whole(SEGMENT_BYTES, patience).await?, is_part))
    }

    async fn fetch(&mut self, place: &Place, patience: Duration) -> Result<Bytes, PullError> {
        let (bytes, is_part) = match self.get(place, patience).await {
            // Once more: a connection may break, and a server have a bad moment.
            Err(why) if is_passing(&why) => self.get(place, patience).await?,
            got => got?,
        };
        tracing::trace!(path = place.url.path(), range = ?place.range, is_part, bytes = bytes.len(), "fetched a piece of an HLS source");
        match place.range.filter(|_| !is_part) {
            None => Ok(bytes),
            // The server sent all of it.
            Some((first, length)) => {
                let (first, length) =
                    (usize::try_from(first).unwrap_or(usize::MAX), usize::try_from(length).unwrap_or(usize::MAX));
                let end = first.checked_add(length).filter(|end| *end <= bytes.len());
                end.map(|end| bytes.slice(first..end))
                    .ok_or_else(|| PullError::Segment("a segment lies outside of its file".into()))
            }
        }
    }
}

/// What may be otherwise a moment later.
fn is_passing(why: &FetchError) -> bool {
    match why {
        FetchError::Status(status) => status.is_server_error(),
        FetchError::Http(_) | FetchError::Dial(_) => true,
        FetchError::Url(_)
        | FetchError::Silent(_)
        | FetchError::Slow(..)
        | FetchError::Large(..)
        | FetchError::Inside(..) => false,
    }
}

/// Asking again will not help.
fn is_final(why: &PullError) -> bool {
    let forbidden = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::GONE];
    match why {
        PullError::Fetch(FetchError::Status(status)) => forbidden.contains(status),
        PullError::Fetch(FetchError::Inside(..)) | PullError::Encrypted(_) => true,
        PullError::Fetch(_)
        | PullError::Playlist(_)
        | PullError::Segment(_)
        | PullError::Stalled(_)
        | PullError::Ended
        | PullError::Replaced(_) => false,
    }
}
