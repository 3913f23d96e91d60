//! Pulling HTTP-FLV from another server: the tags of its response, to be made frames of ours.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use culvert_formats::flv::{self, Demux, Event, Reader};
use culvert_hub::{Publisher, Replaced};
use culvert_net::{DialError, dial};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use thiserror::Error;
use tokio::time::timeout;
use url::Url;

/// Why a pull ended.
#[derive(Debug, Error)]
pub enum PullError {
    /// The URL cannot be used.
    #[error("{0}")]
    Url(String),
    /// The server could not be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The server speaks no HTTP, or broke off.
    #[error("the server's HTTP failed: {0}")]
    Http(#[from] hyper::Error),
    /// The server said no.
    #[error("the server answered {0}")]
    Status(StatusCode),
    /// What it sends is no FLV.
    #[error("the server's FLV is broken: {0}")]
    Flv(#[from] flv::Error),
    /// It fell silent.
    #[error("the server sent nothing for {} s", .0.as_secs())]
    Silent(Duration),
    /// It ended the stream.
    #[error("the server ended the stream")]
    Ended,
    /// Our own stream was closed or taken over.
    #[error(transparent)]
    Replaced(#[from] Replaced),
}

/// Most redirections that are followed.
const REDIRECTS: usize = 5;

/// Pulls `url` (http or https) into the stream until one of the two ends; `begun` is called when media flows. `silence`
/// bounds each step and the time between two pieces of the response.
pub async fn pull(
    url: &Url,
    tls: &Arc<ClientConfig>,
    silence: Duration,
    publisher: &Publisher,
    mut begun: impl FnMut(),
) -> Result<(), PullError> {
    let mut url = url.clone();
    let mut body = None;
    for _ in 0..=REDIRECTS {
        match request(&url, tls, silence).await? {
            Answer::Body(found) => {
                body = Some(found);
                break;
            }
            Answer::Elsewhere(next) => url = next,
        }
    }
    let mut body = body.ok_or_else(|| PullError::Url(format!("more than {REDIRECTS} redirections")))?;
    let mut reader = Reader::new();
    let mut demux = Demux::new();
    loop {
        let frame = match timeout(silence, body.frame()).await {
            Ok(Some(frame)) => frame?,
            Ok(None) => return Err(PullError::Ended),
            Err(_) => return Err(PullError::Silent(silence)),
        };
        let Some(data) = frame.data_ref() else { continue };
        reader.handle_input(data);
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

enum Answer {
    Body(hyper::body::Incoming),
    Elsewhere(Url),
}

async fn request(url: &Url, tls: &Arc<ClientConfig>, silence: Duration) -> Result<Answer, PullError> {
    let tls = match url.scheme() {
        "http" => None,
        "https" => Some(tls.clone()),
        other => return Err(PullError::Url(format!("HTTP-FLV is pulled from http or https, not {other}"))),
    };
    let host = url.host_str().ok_or_else(|| PullError::Url("the URL has no host".into()))?;
    let port = url.port_or_known_default().unwrap_or(80);
    let conn = dial(host, port, tls, silence).await?;
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(conn)).await?;
    // The driver ends with the response body, which `pull` owns.
    tokio::spawn(driver);
    let target = url.query().map_or_else(|| url.path().to_string(), |query| format!("{}?{query}", url.path()));
    let authority = url.port().map_or_else(|| host.to_string(), |port| format!("{host}:{port}"));
    let mut request = Request::get(target).header(header::HOST, authority).header(header::USER_AGENT, "culvert");
    if !url.username().is_empty() || url.password().is_some() {
        let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        let pair = format!("{}:{}", decode(url.username()), decode(url.password().unwrap_or_default()));
        request = request.header(header::AUTHORIZATION, format!("Basic {}", STANDARD.encode(pair)));
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| PullError::Url(e.to_string()))?;
    let response = timeout(silence, sender.send_request(request)).await.map_err(|_| PullError::Silent(silence))??;
    if response.status().is_redirection() {
        let next = response.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
        let next = next.and_then(|next| url.join(next).ok());
        return next.map(Answer::Elsewhere).ok_or(PullError::Status(response.status()));
    }
    if response.status() != StatusCode::OK {
        return Err(PullError::Status(response.status()));
    }
    Ok(Answer::Body(response.into_body()))
}
