//! Streams by name: one publisher each, any number of viewers, packagings made once and shared, and the one door for
//! permission.
//!
//! It knows no protocol by name and holds no socket. Frames come in through a [`Publisher`]; they go out through a
//! [`Subscriber`] (frames) or a [`Player`] (the shared bytes of one packaging, which [`Player::attach`] also writes to
//! the viewer). A slow reader skips to a key frame and is told; it never pushes back.
#![forbid(unsafe_code)]

mod credentials;
mod fanout;
mod feed;
mod figures;
mod gate;
mod hub;
mod packaging;
mod publisher;
mod reader;
mod ring;
mod sender;
mod session;
mod stream;
mod tally;
mod timeline;

pub use credentials::{Credentials, Digest, FORWARDED, parameter, site, stream_in_path};
pub use fanout::{Attached, Class, Finished, Outlet, Pace};
pub use feed::Feed;
pub use figures::HubFigures;
pub use gate::{Action, Ask, BoxFuture, Demand, Gate, Grant, Identity, Policy, Refusal, Starting};
pub use hub::{Admission, Event, Hub, HubLimits};
pub use publisher::{Publisher, Replaced};
pub use reader::{Next, Player, Subscriber};
pub use ring::RingLimits;
pub use sender::{Remote, Sender};
pub use session::{Session, SessionFigures, Source};
pub use stream::{End, StreamInfo, Upstream, Wish};
