//! The one door for permission: every protocol asks the same [`Gate`], and one [`Policy`] decides.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use culvert_media::StreamName;
use thiserror::Error;
use tokio::sync::watch;

use crate::{Admission, Credentials, Hub, Publisher};

/// What somebody wants to do with a stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// Bring a stream.
    Publish,
    /// See a stream.
    Play,
}

impl Action {
    /// The word in the API, the configuration and the logs.
    pub const fn name(self) -> &'static str {
        match self {
            Action::Publish => "publish",
            Action::Play => "play",
        }
    }
}

/// A question to the [`Policy`]: may this peer do this?
#[derive(Clone, Debug)]
pub struct Ask {
    /// What it wants.
    pub action: Action,
    /// With which stream.
    pub stream: StreamName,
    /// The protocol it speaks, such as `rtmp`.
    pub protocol: &'static str,
    /// Its address as the socket has it.
    pub remote: SocketAddr,
    /// Whether the connection is encrypted.
    pub secure: bool,
    /// What it showed.
    pub credentials: Credentials,
    /// The web site on whose behalf an HTTP request is made: its `Origin`, or else the site it was sent to. Whoever
    /// opens a page must not lend it what his address alone may do.
    pub origin: Option<String>,
    /// The upper of ours that asks, where the request came down the link to it. Then this is who asks, and credentials
    /// and origin, which are for whoever asked the upper, count for nothing.
    pub upper: Option<Arc<str>>,
}

/// Who somebody is, as far as the hub must know: two publishers of one identity may take over from each other.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Identity {
    /// Shown in the API and in logs.
    pub name: Arc<str>,
    /// Shown by a credential; an identity that is not may not take over (security.md S24).
    pub proven: bool,
}

impl Identity {
    /// Somebody who showed nothing.
    pub fn anonymous() -> Identity {
        Identity { name: "anonymous".into(), proven: false }
    }

    /// Somebody who showed a credential.
    pub fn proven(name: &str) -> Identity {
        Identity { name: name.into(), proven: true }
    }
}

/// A yes, with its terms.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Who it is.
    pub identity: Identity,
    /// How long a viewer may wait for a stream that is not there.
    pub wait: Duration,
}

/// A no, and what to tell the peer. The protocol turns it into its own words; see [`Refusal::status`].
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// No credential, or one that is not known: showing another may help.
    #[error("{0}")]
    Unauthorized(String),
    /// Known, and not allowed.
    #[error("{0}")]
    Forbidden(String),
    /// There is no such stream.
    #[error("there is no stream {0}")]
    NoStream(StreamName),
    /// There is none below either: a sentence of the platform that was asked for it.
    #[error("{0}")]
    NoneBelow(String),
    /// The stream could be started on demand, but did not come.
    #[error("{0}")]
    NotStarted(String),
    /// Somebody else publishes under this name.
    #[error("the stream {0} is being published by somebody else; stop that publisher or choose another name")]
    Taken(StreamName),
    /// Too many wrong credentials came from there.
    #[error("{0}")]
    TooMany(String),
    /// A limit of this node.
    #[error("{0}")]
    Full(String),
    /// The node is about to end.
    #[error("this node is shutting down")]
    Draining,
}

impl Refusal {
    /// The HTTP status that says the same (RFC 9110 15.5 and 15.6).
    pub const fn status(&self) -> u16 {
        match self {
            Refusal::Unauthorized(_) => 401,
            Refusal::Forbidden(_) => 403,
            Refusal::NoStream(_) | Refusal::NoneBelow(_) => 404,
            Refusal::NotStarted(_) => 504,
            Refusal::Taken(_) => 409,
            Refusal::TooMany(_) => 429,
            Refusal::Full(_) | Refusal::Draining => 503,
        }
    }

    /// A stable word for the API and for counters.
    pub const fn kind(&self) -> &'static str {
        match self {
            Refusal::Unauthorized(_) => "unauthorized",
            Refusal::Forbidden(_) => "forbidden",
            Refusal::NoStream(_) | Refusal::NoneBelow(_) => "no-stream",
            Refusal::NotStarted(_) => "not-started",
            Refusal::Taken(_) => "taken",
            Refusal::TooMany(_) => "too-many",
            Refusal::Full(_) => "full",
            Refusal::Draining => "draining",
        }
    }
}

/// A future in a box, for traits that are used as objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Decides. The node implements it, once, for all protocols.
pub trait Policy: Send + Sync + 'static {
    /// May it?
    fn admit<'a>(&'a self, ask: &'a Ask) -> BoxFuture<'a, Result<Grant, Refusal>>;
}

/// Starts streams that a viewer asks for and nobody publishes: pulls on demand, and later relays from below.
pub trait Demand: Send + Sync + 'static {
    /// A viewer wants this stream and it is not there. None: nothing here could start it.
    fn start(&self, stream: &StreamName) -> Option<Starting>;
}

/// A stream that is being started for its first viewer.
pub struct Starting {
    /// How long viewers wait for it.
    pub timeout: Duration,
    /// Says why, when the attempt failed.
    pub failed: watch::Receiver<Option<Refusal>>,
}

impl Starting {
    /// One that does not even begin.
    pub fn refused(why: Refusal) -> Starting {
        Starting { timeout: Duration::ZERO, failed: watch::channel(Some(why)).1 }
    }
}

/// The only door from a protocol to the hub. Cheap to clone.
#[derive(Clone)]
pub struct Gate {
    hub: Hub,
    policy: Arc<dyn Policy>,
    demand: Arc<dyn Demand>,
}

impl Gate {
    /// A door to this hub, with these deciding.
    pub fn new(hub: Hub, policy: Arc<dyn Policy>, demand: Arc<dyn Demand>) -> Gate {
        Gate { hub, policy, demand }
    }

    /// The hub behind the door, for what needs no permission of its own.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Asks to publish. The stream is reserved at once and becomes visible with its tracks
    /// ([`Publisher::set_tracks`]).
    pub async fn publish(&self, ask: &Ask) -> Result<Publisher, Refusal> {
        let publish = async {
            let grant = self.policy.admit(ask).await?;
            self.hub.publish(&ask.stream, ask.into(), grant.identity)
        };
        self.note(ask, publish.await)
    }

    /// Asks whether it may, and no more: for what is played elsewhere.
    pub async fn may(&self, ask: &Ask) -> Result<Grant, Refusal> {
        self.note(ask, self.policy.admit(ask).await)
    }

    /// Asks to play. Waits, within bounds, for a stream that is about to start, that can be started on demand, or
    /// for which the policy lets viewers wait.
    pub async fn play(&self, ask: &Ask) -> Result<Admission, Refusal> {
        let play = async {
            let grant = self.policy.admit(ask).await?;
            self.hub.play(&ask.stream, ask.into(), grant, self.demand.as_ref()).await
        };
        self.note(ask, play.await)
    }

    /// Counts and logs a refusal, whoever made it.
    fn note<T>(&self, ask: &Ask, verdict: Result<T, Refusal>) -> Result<T, Refusal> {
        if let Err(refusal) = &verdict {
            self.hub.figures().count_refusal(ask.action, refusal);
            tracing::info!(
                protocol = ask.protocol, remote = %ask.remote, stream = %ask.stream, action = ask.action.name(),
                why = refusal.kind(), "refused"
            );
        }
        verdict
    }
}
