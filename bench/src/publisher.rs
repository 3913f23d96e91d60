//! Publishes the bench's stream by RTMP in real time, from a thread of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use culvert_rtmp::session::{ClientEvent, ClientSession, Goal, Output, Target};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::receiver::{INPUT_BYTES, STREAM};
use crate::stamp::{Stamp, now_micros};
use crate::stream::{Shape, Source};

/// How long the server may take to agree, and a write to go out.
const PATIENCE: Duration = Duration::from_secs(5);

/// A stream that is being published. Dropping it ends that.
#[derive(Debug)]
pub(crate) struct Publisher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// The longest that a tag was handed over after it was due, in microseconds, since it was last asked for.
    late_micros: AtomicU64,
}

impl Publisher {
    /// Connects and publishes; returns once the server has agreed. Spawns the thread that goes on.
    pub(crate) fn start(server: SocketAddr) -> Result<Publisher> {
        Publisher::start_with(server, Shape::default())
    }

    /// The same with a stream of this shape.
    pub(crate) fn start_with(server: SocketAddr, shape: Shape) -> Result<Publisher> {
        let mut line = Line::connect(server).context("publishing by RTMP")?;
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        let thread =
            std::thread::Builder::new().name("publisher".into()).spawn(move || line.publish(&of_thread, shape))?;
        Ok(Publisher { shared, thread: Some(thread) })
    }

    /// The longest that a tag came late to the socket since this was last asked: the generator was busy or the server
    /// did not read.
    pub(crate) fn take_lateness(&self) -> Duration {
        Duration::from_micros(self.shared.late_micros.swap(0, Ordering::Relaxed))
    }

    /// # Errors
    /// Why it has ended, if it has.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.thread.take_if(|thread| thread.is_finished()) {
            Some(thread) => match thread.join() {
                Ok(ended) => ended.context("the publisher has ended"),
                Err(_) => bail!("the publisher's thread has panicked"),
            },
            None => Ok(()),
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // How it ended matters no more.
            thread.join().ok();
        }
    }
}

/// The connection.
struct Line {
    socket: TcpStream,
    session: ClientSession,
    buffer: Vec<u8>,
}

impl Line {
    fn connect(server: SocketAddr) -> Result<Line> {
        let socket = TcpStream::connect_timeout(&server, PATIENCE)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let target = Target::parse(&format!("rtmp://{server}/{STREAM}"))?;
        let session = ClientSession::new(Goal::Publish, target, 0, &[0xa5; 1528]);
        let mut line = Line { socket, session, buffer: vec![0; INPUT_BYTES] };
        while !line.take_outputs()? {
            let count = line.socket.read(&mut line.buffer).context("waiting for the server's agreement")?;
            if count == 0 {
                bail!("the server closed the connection");
            }
            line.session.handle_input(line.buffer.get(..count).unwrap_or_default())?;
        }
        Ok(line)
    }

    fn publish(&mut self, shared: &Shared, shape: Shape) -> Result<()> {
        let (mut source, start, mut out) = (Source::of(shape), Instant::now(), Vec::new());
        for (kind, body) in Source::headers(shape) {
            self.session.write_media(kind, 0, &body, &[], &mut out);
        }
        self.socket.write_all(&out)?;
        while !shared.stop.load(Ordering::Relaxed) {
            let tag = source.next_tag();
            sleep(tag.due.saturating_sub(start.elapsed()));
            let late = start.elapsed().saturating_sub(tag.due);
            shared.late_micros.fetch_max(late.as_micros() as u64, Ordering::Relaxed);
            let stamp = Stamp { seq: tag.seq, micros: now_micros() };
            out.clear();
            self.session.write_media(tag.kind, tag.time_ms, &tag.body, &stamp.write(), &mut out);
            self.socket.write_all(&out)?;
            self.listen()?;
        }
        Ok(())
    }

    /// Takes what the server says, without waiting.
    fn listen(&mut self) -> Result<()> {
        match rustix::net::recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => bail!("the server closed the connection"),
            Ok((count, _)) => self.session.handle_input(self.buffer.get(..count).unwrap_or_default())?,
            Err(Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        self.take_outputs().map(|_| ())
    }

    /// Whether the server has agreed just now.
    fn take_outputs(&mut self) -> Result<bool> {
        let mut ready = false;
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Send(bytes) => self.socket.write_all(&bytes)?,
                Output::Event(ClientEvent::Ready) => ready = true,
                Output::Event(ClientEvent::Media { .. }) => {}
                Output::Event(ClientEvent::Ended { code, description }) => {
                    bail!("the server says {code}: {description}")
                }
            }
        }
        Ok(ready)
    }
}
