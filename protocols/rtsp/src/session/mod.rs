//! The dialogue of a session without IO.

mod server;
mod target;

pub use server::{Asking, Event, Output, ServerSession, TIMEOUT, Way};
pub use target::Target;
