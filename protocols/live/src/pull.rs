//! Pulling HTTP-FLV from another server: the tags of its response, to be made frames of ours.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use culvert_formats::flv::{self, Demux, Event, Reader};
use culvert_hub::{Publisher, Replaced};
use culvert_net::{FetchError, Fetcher};
use rustls::ClientConfig;
use thiserror::Error;
use url::Url;

/// Why a pull ended.
#[derive(Debug, Error)]
pub enum PullError {
    /// There is nothing to be had of the server.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// What it sends is no FLV.
    #[error("the server's FLV is broken: {0}")]
    Flv(#[from] flv::Error),
    /// It is a playlist.
    #[error("the server sends an HLS playlist, not FLV; end the URL with #hls")]
    Playlist,
    /// It ended the stream.
    #[error("the server ended the stream")]
    Ended,
    /// Our own stream was closed or taken over.
    #[error(transparent)]
    Replaced(#[from] Replaced),
}

/// Pulls `url` (http or https) into the stream until one of the two ends; `begun` is called when media flows. `silence`
/// bounds each step and the time between two pieces of the response.
pub async fn pull(
    url: &Url,
    tls: &Arc<ClientConfig>,
    silence: Duration,
    publisher: &Publisher,
    mut begun: impl FnMut(),
) -> Result<(), PullError> {
    let mut page = Fetcher::new(tls.clone(), silence).get(url, None).await?;
    let mut reader = Reader::new();
    let mut demux = Demux::new();
    let mut is_first = true;
    loop {
        let data = page.next().await?.ok_or(PullError::Ended)?;
        if std::mem::take(&mut is_first) && data.starts_with(b"#EXTM3U") {
            return Err(PullError::Playlist);
        }
        reader.handle_input(&data);
        while let Some(tag) = reader.poll_tag()? {
            demux.handle_tag(SystemTime::now(), tag.kind, tag.time_ms, tag.body)?;
            while let Some(event) = demux.poll_event() {
                match event {
                    Event::Tracks(tracks) => {
                        publisher.set_tracks(tracks);
                        begun();
                    }
                    Event::Frame(frame) => publisher.write(frame)?,
                    Event::EndOfSequence => {}
                }
            }
        }
    }
}
