//! The upper's end: an HTTP/2 client on a connection that it accepted, while something is asked.

use std::future::Future;
use std::sync::{Arc, Mutex};

use culvert_net::Conn;
use culvert_net::ws::Role;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use crate::carrier::{Carrier, Woken};
use crate::desk::Desk;
use crate::figures::Shared;
use crate::handle::{self, Handle, Lent, lock};
use crate::pieces::Cut;
use crate::request::Link;
use crate::serve::{self, explain};
use crate::{CONNECTION_WINDOW, HEAD, LARGEST_FRAME, LEFT, SEND_BUFFER, STREAM_WINDOW};

/// A link that was just made.
pub struct Accepted<D> {
    /// To send requests into.
    pub link: Link,
    /// Runs the link; returns why it ended, as a sentence. Dropping it ends the link.
    pub driver: D,
}

/// A link on a WebSocket that a lower dialled; `conn` is what follows our 101. `requests`: how many at once.
pub fn accept(conn: Conn, requests: usize) -> Accepted<impl Future<Output = String> + Send + 'static> {
    conn.set_link_options();
    let shared = Arc::new(Shared::new());
    let lent = Arc::new(Mutex::new(Carrier::new(conn, Role::Server, shared.clone())));
    let desk = Arc::new(Desk::default());
    let link = Link::http2(desk.clone(), shared.clone(), requests);
    let driver = async move {
        let ended = drive(&lent, &desk, &shared).await;
        desk.end();
        match (shared.was_closed(), shared.closed(), ended) {
            (Some((_, reason)), _, _) => format!("closed by this node: {reason}"),
            (None, Some((status, reason)), _) if reason.is_empty() => format!("closed by the other end ({status})"),
            (None, Some((_, reason)), _) => format!("closed by the other end: {reason}"),
            (None, None, Err(why)) => why,
            (None, None, Ok(())) if shared.is_broken_off() => "the connection ended without a word".to_string(),
            // GOAWAY (RFC 9113 6.8): no request begins any more, and those that are running are finished without us.
            (None, None, Ok(())) => "the other end is shutting down".to_string(),
        }
    };
    Accepted { link, driver }
}

/// Runs a link until it ends: HTTP/2 while something is asked, and the bare carrier in between. The error is a sentence.
async fn drive(lent: &Lent, desk: &Desk, shared: &Shared) -> Result<(), String> {
    loop {
        let ready = lock(lent).is_at_rest();
        tokio::select! {
            woken = handle::keep(lent) => match woken? {
                Woken::Rested => continue,
                Woken::End => return Ok(()),
                Woken::Bytes => return Err("the other end spoke without being asked".into()),
            },
            () = desk.wanted(), if ready => {}
        }
        // In a box: between two requests it takes up nothing.
        if !Box::pin(ask(lent, desk)).await? || shared.closed().is_some() {
            return Ok(());
        }
    }
}

/// HTTP/2 until nothing was asked for a while. False: the link has ended.
async fn ask(lent: &Lent, desk: &Desk) -> Result<bool, String> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_frame_size(LARGEST_FRAME)
        .max_header_list_size(HEAD)
        .max_concurrent_reset_streams(LEFT)
        // Frames that come late for what was forgotten all the same are no fault, however many.
        .max_local_error_reset_streams(None);
    let (handle, back) = Handle::of(lent);
    let handshake = builder.handshake::<_, Cut<serve::Body>>(TokioIo::new(handle)).await;
    let (sender, mut connection) = handshake.map_err(|error| explain(&error))?;
    desk.open(sender);
    tokio::select! {
        ended = &mut connection => {
            return ended.map(|()| false).map_err(|error| explain(&error));
        }
        // Whoever writes the last of it must know before that the carrier stays.
        () = desk.rested(|| lock(lent).want_rest()) => {}
    }
    connection.await.map_err(|error| explain(&error))?;
    // The sender's end is an error to nobody.
    back.await.ok();
    Ok(lock(lent).has_rested())
}
