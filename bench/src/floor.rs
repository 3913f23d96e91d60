//! The floor: a bare loop that sends each tag to each of its connections with one call, when it is due.
//!
//! No ingest, no HTTP, no cache, no packaging: what is left is the kernel's cost of the sends. A server can be cheaper
//! only by sending less often.

use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread::sleep;
use std::time::Instant;

use anyhow::{Context, Result};
use culvert_formats::flv::{file_header, write_tag};

use crate::args::{Class, FloorArgs};
use crate::stamp::{Stamp, now_micros};
use crate::stream::{Shape, Source};

/// What may wait for one connection that does not take its tags in time; beyond, it is closed.
const MAX_PENDING_BYTES: usize = 4 * 1024 * 1024;

struct Connection {
    socket: TcpStream,
    pending: Vec<u8>,
}

/// Serves until it is killed.
pub(crate) fn run(args: &FloorArgs) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, args.port)).context("the floor's port")?;
    listener.set_nonblocking(true)?;
    let mut hello = file_header(true, true).to_vec();
    for (kind, body) in Source::headers(Shape::default()) {
        write_tag(kind, 0, &body, &[], &mut hello);
    }
    let (mut source, start) = (Source::new(), Instant::now());
    let (mut connections, mut bytes) = (Vec::<Connection>::new(), Vec::new());
    loop {
        let tag = source.next_tag();
        sleep(tag.due.saturating_sub(start.elapsed()));
        while let Ok((socket, _)) = listener.accept() {
            socket.set_nonblocking(true)?;
            socket.set_nodelay(args.class == Class::Low)?;
            let mut connection = Connection { socket, pending: Vec::new() };
            if connection.send(&hello) {
                connections.push(connection);
            }
        }
        bytes.clear();
        let stamp = Stamp { seq: tag.seq, micros: now_micros() };
        write_tag(tag.kind, tag.time_ms, &tag.body, &stamp.write(), &mut bytes);
        connections.retain_mut(|connection| connection.send(&bytes));
    }
}

impl Connection {
    /// Sends, and keeps what does not fit for the next time. False: to be closed.
    fn send(&mut self, bytes: &[u8]) -> bool {
        if !self.pending.is_empty() {
            self.pending.extend_from_slice(bytes);
            let Some(sent) = self.try_send(None) else { return false };
            self.pending.drain(..sent);
        } else {
            let Some(sent) = self.try_send(Some(bytes)) else { return false };
            self.pending.extend_from_slice(bytes.get(sent..).unwrap_or_default());
        }
        self.pending.len() <= MAX_PENDING_BYTES
    }

    /// These bytes, or those that wait. How many went out; none if the connection is broken.
    fn try_send(&mut self, bytes: Option<&[u8]>) -> Option<usize> {
        match self.socket.write(bytes.unwrap_or(&self.pending)) {
            Ok(sent) => Some(sent),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Some(0),
            Err(_) => None,
        }
    }
}
