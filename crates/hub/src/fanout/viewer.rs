//! One viewer: what its connection holds of it, and the task that serves it alone while it is not level.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::crew::Crew;
use super::{Class, Outlet, Pace, ROUND_CHUNKS};
use crate::reader::{Player, Taken};
use crate::session::SessionFigures;
use crate::stream::End;
use crate::tally::Sent;

/// Most bytes of control messages (answers, pongs) that wait for one viewer; beyond, the peer is misbehaving.
const CONTROL_BYTES: usize = 16 << 10;

const CONTROL: u8 = 1;
const CLOSE: u8 = 2;
const LEFT: u8 = 4;

/// What the owner of a connection and the writer of its viewer share.
pub(super) struct Tap {
    flags: AtomicU8,
    control: Mutex<Vec<Bytes>>,
    /// Wakes the viewer's own task, where it has one.
    notify: Notify,
    /// The crew it is in, to be woken for what cannot wait for the next chunk.
    crew: Mutex<Option<Arc<Crew>>>,
}

impl Tap {
    fn raise(&self, flag: u8) {
        self.flags.fetch_or(flag, Ordering::AcqRel);
        self.notify.notify_one();
        let crew = self.crew.lock().expect("no code panics while it holds this lock").clone();
        if let Some(crew) = crew {
            crew.call();
        }
    }

    pub(super) fn set_crew(&self, crew: Option<Arc<Crew>>) {
        *self.crew.lock().expect("no code panics while it holds this lock") = crew;
    }

    fn take_control(&self) -> Vec<Bytes> {
        self.flags.fetch_and(!CONTROL, Ordering::AcqRel);
        std::mem::take(&mut *self.control.lock().expect("no code panics while it holds this lock"))
    }

    pub(super) fn flags(&self) -> u8 {
        self.flags.load(Ordering::Acquire)
    }
}

/// A viewer that ended, with its outlet where that still works, for what its protocol has to say.
pub struct Finished {
    /// Why.
    pub end: End,
    outlet: Option<Outlet>,
    /// The rest of a chunk that was cut, and control messages that waited: before anything else.
    unsent: Vec<Bytes>,
}

impl Finished {
    /// The outlet at a chunk boundary, with all control messages written. None: it is closed, or takes nothing within `limit`.
    pub async fn outlet(self, limit: Duration) -> Option<Outlet> {
        let mut outlet = self.outlet?;
        let written = async {
            for bytes in &self.unsent {
                outlet.write_all(bytes).await?;
            }
            outlet.flush().await
        };
        match timeout(limit, written).await {
            Ok(Ok(())) => Some(outlet),
            Ok(Err(_)) | Err(_) => None,
        }
    }
}

/// A viewer that is being written to. Dropping it means that its peer has left.
pub struct Attached {
    tap: Arc<Tap>,
    figures: Arc<SessionFigures>,
    done: oneshot::Receiver<Finished>,
}

impl Attached {
    /// Puts bytes between two chunks: pongs, acknowledgements, answers to commands. False when too much of that
    /// waits already; the peer asks more than it reads, and its connection is to be closed.
    pub fn send(&self, bytes: Bytes) -> bool {
        let mut control = self.tap.control.lock().expect("no code panics while it holds this lock");
        if control.iter().map(Bytes::len).sum::<usize>() + bytes.len() > CONTROL_BYTES {
            return false;
        }
        control.push(bytes);
        drop(control);
        self.tap.raise(CONTROL);
        true
    }

    /// Returns when the viewer has ended, from whichever side: by itself, with its stream, or through the API. Cancel
    /// safe.
    pub async fn ended(&mut self) -> Finished {
        let finished = tokio::select! {
            finished = &mut self.done => finished,
            () = self.figures.cancelled() => {
                self.tap.raise(CLOSE);
                (&mut self.done).await
            }
        };
        finished.unwrap_or(Finished { end: End::Closed, outlet: None, unsent: Vec::new() })
    }

    /// Asks it to end with [`End::Closed`]; wait for [`Attached::ended`].
    pub fn close(&self) {
        self.tap.raise(CLOSE);
    }

    /// What is shown of this viewer.
    pub fn session(&self) -> &Arc<SessionFigures> {
        &self.figures
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.tap.raise(LEFT);
    }
}

/// A viewer on its way to a crew, in it, or alone.
pub(super) struct Member {
    pub(super) player: Player,
    pub(super) outlet: Outlet,
    pub(super) tap: Arc<Tap>,
    done: oneshot::Sender<Finished>,
    pub(super) class: Class,
    pub(super) pace: Pace,
    /// Taken from the line and not yet written; begins within a chunk where a write was partial.
    pub(super) pending: VecDeque<Bytes>,
    /// Some of what comes first in `pending` has been written: nothing else may go before the rest of it.
    pub(super) cut: bool,
    /// What is pending are control messages.
    is_control: bool,
}

impl Player {
    /// Hands the viewer to the loops that write this packaging. Spawns the task that brings it level.
    pub fn attach(self, outlet: Outlet, class: Class, pace: Pace) -> Attached {
        let tap = Arc::new(Tap {
            flags: AtomicU8::new(0),
            control: Mutex::default(),
            notify: Notify::new(),
            crew: Mutex::default(),
        });
        let (done, receiver) = oneshot::channel();
        let figures = self.session().clone();
        let member = Member {
            player: self,
            outlet,
            tap: tap.clone(),
            done,
            class,
            pace,
            pending: VecDeque::new(),
            cut: false,
            is_control: false,
        };
        tokio::spawn(catch_up(member));
        Attached { tap, figures, done: receiver }
    }
}

/// Serves one viewer alone until it is level with its packaging, then lets a crew take it.
pub(super) async fn catch_up(mut member: Member) {
    let mut progress = Instant::now();
    let end = loop {
        let tap = member.tap.clone();
        let woken = tap.notify.notified();
        tokio::pin!(woken);
        woken.as_mut().enable();
        let flags = tap.flags();
        if flags & LEFT != 0 {
            break End::Disconnected;
        }
        if flags & CLOSE != 0 {
            break End::Closed;
        }
        if !member.pending.is_empty() {
            let stalled = progress + member.pace.stall;
            tokio::select! {
                biased;
                written = timeout_at(stalled, member.write()) => match written {
                    Ok(Ok(())) => {
                        progress = Instant::now();
                        continue;
                    }
                    Ok(Err(_)) => break End::Disconnected,
                    Err(_) => break End::Stalled,
                },
                () = &mut woken => continue,
            }
        }
        if flags & CONTROL != 0 {
            member.pending.extend(tap.take_control());
            member.is_control = true;
            continue;
        }
        let line = member.player.line.clone();
        let changed = line.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        member.is_control = false;
        let pending = &mut member.pending;
        match member.player.try_take(|bytes| {
            if !bytes.is_empty() {
                pending.push_back(bytes)
            }
        }) {
            Taken::Some => {}
            Taken::End(end) => break end,
            Taken::Empty => {
                let stalled = progress + member.pace.stall;
                tokio::select! {
                    biased;
                    flushed = timeout_at(stalled, member.flush()) => match flushed {
                        Ok(Ok(())) => progress = Instant::now(),
                        Ok(Err(_)) => break End::Disconnected,
                        Err(_) => break End::Stalled,
                    },
                    () = &mut woken => continue,
                }
                if member.player.cursor.next().is_some() {
                    return line.crews.join(member);
                }
                // It waits for an entry; no crew can use it before.
                tokio::select! {
                    () = changed => progress = Instant::now(),
                    () = woken => {}
                }
            }
        }
    };
    member.finish(end);
}

impl Member {
    /// Writes some of what is pending; returns as soon as there was progress.
    async fn write(&mut self) -> io::Result<()> {
        let Member { outlet, pending, cut, .. } = self;
        let n = poll_fn(|cx| {
            let slices: Vec<IoSlice<'_>> = pending.iter().take(ROUND_CHUNKS).map(|b| IoSlice::new(b)).collect();
            Pin::new(&mut *outlet).poll_write_vectored(cx, &slices)
        })
        .await?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        *cut = advance(pending, n);
        Ok(())
    }

    /// Counts what it was given by a crew, and notes which chunk comes next.
    pub(super) fn took(&mut self, sent: &Sent, next: u64) {
        self.player.session().count_sent(sent);
        self.player.cursor.set_next(next);
    }

    async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut self.outlet).poll_flush(cx)).await
    }

    /// Ends the viewer.
    pub(super) fn finish(mut self, end: End) {
        let open = !matches!(end, End::Disconnected | End::Stalled);
        let mut unsent = Vec::new();
        if open {
            let all = self.pending.len();
            unsent.extend(self.pending.drain(..if self.is_control { all } else { usize::from(self.cut).min(all) }));
            unsent.extend(self.tap.take_control());
        }
        let figures = self.player.session().clone();
        let (gaps, skipped) = figures.gaps();
        tracing::info!(
            session = figures.id, stream = %figures.stream, protocol = figures.protocol, remote = %figures.remote,
            end = end.name(), bytes = figures.bytes(), gaps, skipped, "viewer ended"
        );
        // Nobody waiting means that the connection is gone already.
        drop(self.done.send(Finished { end, outlet: open.then_some(self.outlet), unsent }));
    }
}

/// Drops what was written. True when it ends within a chunk.
fn advance(pending: &mut VecDeque<Bytes>, mut n: usize) -> bool {
    while let Some(front) = pending.front_mut() {
        if front.len() > n {
            front.advance(n);
            return n > 0;
        }
        n -= front.len();
        pending.pop_front();
    }
    false
}
