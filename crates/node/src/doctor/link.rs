//! The link itself: asked for as a link is, kept for three pings, and ended so that the upper forgets it.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use culvert_link::{FORGET, KeepError, PROTOCOL, Upper};
use culvert_net::ws::{Decoder, Message, Opcode, Role, Upgrade, UpgradeError, close, connect, encode};
use culvert_net::{Conn, dial_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{Doctor, STEP, dialled_again, ms};

/// Pings that are measured.
const PINGS: u8 = 3;
/// Most bytes of one message: an upper begins with what fits into one of a link's own.
const MESSAGE_BYTES: usize = 64 << 10;
/// How long the other end may take for its good-bye.
const FAREWELL: Duration = Duration::from_secs(2);
/// Done as asked (RFC 6455 7.4.1).
const NORMAL: u16 = 1000;

impl<W: Write + Send> Doctor<'_, W> {
    pub(super) async fn link(&mut self) -> Option<()> {
        let Upper { url, cid, token, options } = &self.case.upper;
        if !(self.case.made_up || self.case.replace) {
            let why = format!("not tried: a node that is linked as {cid} would be replaced, until it dials again");
            self.report.skip("WebSocket", &why);
            self.report.skip("link", "not tried; to try it all the same: --replace");
            return Some(());
        }
        let conn = match dial_with(&url.host, url.port, options, STEP).await {
            Ok(conn) => conn,
            Err(error) => {
                self.report.fail("WebSocket", &dialled_again(&error), "");
                return None;
            }
        };
        let bearer = token.as_ref().map(|token| format!("Bearer {token}"));
        let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("Authorization", bearer.as_str())).collect();
        let (host, target) = (url.authority(), url.register(cid));
        let upgrade = Upgrade { host: &host, target: &target, protocol: Some(PROTOCOL), headers: &headers };
        let begun = Instant::now();
        let upgraded = match connect(conn, &upgrade, STEP).await {
            Ok(upgraded) => upgraded,
            Err(error) => {
                let gateway = matches!(
                    error,
                    UpgradeError::Refused { status: 400 | 426, .. }
                        | UpgradeError::Protocol(_)
                        | UpgradeError::BadAccept
                );
                let advice = "docs/08-cascade.md has a configuration for nginx in front that lets links pass";
                self.report.fail("WebSocket", &error.to_string(), if gateway { advice } else { "" });
                return None;
            }
        };
        if upgraded.protocol.as_deref() != Some(PROTOCOL) {
            self.report.fail("WebSocket", &KeepError::Old.to_string(), "");
            return None;
        }
        self.report.ok("WebSocket", &format!("101 and {PROTOCOL} in {}", ms(begun.elapsed())));
        // Who made the id up is nobody who comes back; a real platform's catalogue is to be kept.
        let status = if self.case.made_up { FORGET } else { NORMAL };
        match timeout(STEP, Session::new(upgraded.conn).try_out(status)).await {
            Ok(Ok((least, most))) => {
                self.report
                    .ok("link", &format!("as {cid}; {PINGS} pings took {} to {}; ended again", ms(least), ms(most)));
                self.tried = true;
                Some(())
            }
            Ok(Err(why)) => {
                self.report.fail("link", &format!("it was made and broke: {why}"), "");
                None
            }
            Err(_) => {
                let advice =
                    "what is in between lets a request through and then no WebSocket: look for a proxy that buffers";
                self.report.fail("link", &format!("no pong within {} s", STEP.as_secs()), advice);
                None
            }
        }
    }
}

/// A WebSocket of which only the control frames matter.
struct Session {
    conn: Conn,
    decoder: Decoder,
}

impl Session {
    fn new(conn: Conn) -> Session {
        Session { conn, decoder: Decoder::new(Role::Client, MESSAGE_BYTES) }
    }

    /// The least and the longest round trip. Then it says good-bye, and waits until that was heard.
    async fn try_out(mut self, status: u16) -> io::Result<(Duration, Duration)> {
        let (mut least, mut most) = (Duration::MAX, Duration::ZERO);
        for number in 0..PINGS {
            let sent = Instant::now();
            self.say(Opcode::Ping, &[number]).await?;
            while self.hear().await? != Message::Pong(vec![number].into()) {}
            (least, most) = (least.min(sent.elapsed()), most.max(sent.elapsed()));
        }
        self.conn.write_all(&close(status, "culvert doctor is done", Some(mask()))).await?;
        self.conn.flush().await?;
        // However it ends: the good-bye is on its way.
        timeout(FAREWELL, async { while self.hear().await.is_ok() {} }).await.ok();
        Ok((least, most))
    }

    async fn say(&mut self, opcode: Opcode, payload: &[u8]) -> io::Result<()> {
        self.conn.write_all(&encode(opcode, payload, Some(mask()))).await?;
        self.conn.flush().await
    }

    /// The next message; an error where the other end closes, or breaks the protocol.
    async fn hear(&mut self) -> io::Result<Message> {
        let mut piece = [0; 4096];
        loop {
            match self.decoder.poll_message().map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))? {
                Some(Message::Ping(payload)) => self.say(Opcode::Pong, &payload).await?,
                Some(Message::Close(status)) => {
                    let status = status.map_or("no status".into(), |status| status.to_string());
                    return Err(io::Error::other(format!("the upper closed it ({status})")));
                }
                Some(message) => return Ok(message),
                None => {
                    let n = self.conn.read(&mut piece).await?;
                    if n == 0 {
                        return Err(io::Error::new(
                            io::ErrorKind::UnexpectedEof,
                            "the connection ended without a word",
                        ));
                    }
                    self.decoder.handle_input(piece.get(..n).unwrap_or_default());
                }
            }
        }
    }
}

/// As a link masks.
fn mask() -> [u8; 4] {
    getrandom::u32().unwrap_or_default().to_ne_bytes()
}
