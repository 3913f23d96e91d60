//! Bytes to messages and back: [`handshake`], [`chunk`] (reading), [`chunk_write`], [`message`].
//!
//! Knows nothing of what the commands mean; that is [`crate::session`].

pub mod chunk;
pub mod chunk_write;
mod error;
pub mod handshake;
pub mod message;

pub use chunk::{ChunkReader, RawMessage};
pub use chunk_write::write_message;
pub use error::Error;
pub use message::{Command, Message, UserControl};
