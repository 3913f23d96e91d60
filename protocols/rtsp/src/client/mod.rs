//! The client: pulls a stream from a camera or another server, or pushes one to a server.

mod connection;
mod pull;
mod push;

use std::time::Duration;

use culvert_hub::{End, Replaced};
use culvert_net::DialError;
use thiserror::Error;

pub use pull::pull;
pub use push::push;

use crate::wire;

/// How media is asked for first; where a server does not have that, the other is tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Prefer {
    /// On the connection: nothing is lost, and it passes wherever the connection does.
    #[default]
    Tcp,
    /// In datagrams.
    Udp,
}

/// Why a pull or a push ended.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The URL cannot be used.
    #[error("{0}")]
    Url(String),
    /// The server could not be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    /// The server speaks no RTSP.
    #[error("the server's RTSP is broken: {0}")]
    Wire(#[from] wire::Error),
    /// The server said no.
    #[error("the server answered {method} with {status} {reason}{}", hint(*status))]
    Refused {
        /// What was asked.
        method: &'static str,
        /// Its status.
        status: u16,
        /// Its words.
        reason: String,
    },
    /// It sends us elsewhere, too often.
    #[error("the server sent us to another one again and again")]
    Redirected,
    /// What it announces is nothing that the hub has.
    #[error("the server has no media that is taken here")]
    NoMedia,
    /// What is to be pushed is nothing that RTSP carries.
    #[error("RTSP carries nothing of this stream (FLAC alone); push it by rtmp:// or ws://")]
    NotCarried,
    /// It takes neither the connection nor datagrams.
    #[error("the server takes neither TCP nor UDP")]
    NoTransport,
    /// No datagram came.
    #[error("no datagram came within {} s; a firewall may be in between", .0.as_secs())]
    NoDatagrams(Duration),
    /// It closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// It said that the stream is over.
    #[error("the server ended the stream")]
    Ended,
    /// It fell silent, or takes nothing.
    #[error("the server did nothing for {} s", .0.as_secs())]
    Silent(Duration),
    /// Our own stream was closed or taken over.
    #[error(transparent)]
    Replaced(#[from] Replaced),
    /// Our own stream ended.
    #[error("the stream ended here: {}", .0.name())]
    SourceEnded(End),
    /// Our own stream is another than what was announced.
    #[error("the stream's media changed; it is announced anew")]
    Changed,
}

impl ClientError {
    /// The server is just not there, or was lost: looking for it again soon does it no harm.
    pub fn is_absence(&self) -> bool {
        match self {
            ClientError::Dial(_)
            | ClientError::Io(_)
            | ClientError::Closed
            | ClientError::Ended
            | ClientError::Silent(_)
            | ClientError::NoDatagrams(_) => true,
            ClientError::Url(_)
            | ClientError::Wire(_)
            | ClientError::Refused { .. }
            | ClientError::Redirected
            | ClientError::NoMedia
            | ClientError::NotCarried
            | ClientError::NoTransport
            | ClientError::Replaced(_)
            | ClientError::SourceEnded(_)
            | ClientError::Changed => false,
        }
    }
}

fn hint(status: u16) -> &'static str {
    match status {
        401 => "; check user and password in the URL",
        404 => "; check the path in the URL",
        453 | 503 => "; a camera allows only so many viewers",
        _ => "",
    }
}
