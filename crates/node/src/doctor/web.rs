//! What answers by HTTP, and whether it takes our credentials. Neither makes a link.

use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

use culvert_link::Upper;
use culvert_net::http1::{Answer, HEAD_BYTES, HeadError};
use culvert_net::{Conn, dial_with, tls};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::report::tame;
use super::{Doctor, STEP, dialled_again, ms};

/// A body is looked at so far; ours have some hundred bytes.
const BODY_BYTES: usize = 8 << 10;
/// What came by then is explanation enough.
const BODY_WAIT: Duration = Duration::from_secs(2);

/// An answer as far as it matters here.
struct Heard {
    head: Answer,
    body: String,
    took: Duration,
}

impl Heard {
    /// The sentence of a problem document (RFC 9457).
    fn detail(&self) -> Option<String> {
        let problem: serde_json::Value = serde_json::from_str(&self.body).ok()?;
        Some(tame(problem.get("detail")?.as_str()?))
    }

    /// Whether it was a Culvert that made it.
    fn is_ours(&self) -> bool {
        (self.head.status == 200 && self.body == "ok\n") || self.body.contains("urn:culvert:")
    }

    /// Who says to have made it, or passed it on.
    fn makers(&self) -> String {
        let said = ["server", "via"].map(|name| {
            let value = self.head.header(name)?;
            Some(format!("{}: {}", if name == "via" { "Via" } else { "Server" }, tame(value)))
        });
        said.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

impl<W: Write + Send> Doctor<'_, W> {
    /// Asks for what every Culvert tells everybody.
    pub(super) async fn http(&mut self, conn: Conn) -> Option<()> {
        let path = format!("{}/healthz", self.case.upper.url.context);
        let asked = SystemTime::now();
        let heard = match self.ask(conn, &path, false).await {
            Ok(heard) => heard,
            Err(why) => {
                self.report.fail("HTTP", &why, "");
                return None;
            }
        };
        self.offset = offset(&heard, asked);
        let status = heard.head.status;
        let what = format!("GET {path}: {status} in {}", ms(heard.took));
        let makers = heard.makers();
        let what = match status {
            404 if heard.is_ours() => format!("{what} (a context path that it does not know, which is no fault)"),
            _ => what,
        };
        // nginx says so with a status of 400.
        if !self.case.upper.url.secure && heard.body.contains("HTTPS port") {
            self.report.fail("HTTP", &format!("{what}: this port wants TLS"), "write wss:// instead of ws://");
            return None;
        }
        match (heard.is_ours(), makers.is_empty()) {
            (true, true) => self.report.ok("HTTP", &format!("{what}, by a Culvert")),
            (true, false) => self.report.ok("HTTP", &format!("{what}, by a Culvert behind a gateway ({makers})")),
            (false, _) => {
                let who = if makers.is_empty() { "something that does not say what it is" } else { &makers };
                let advice = "is it the right host and port, with the context path of the gateway in front? A gateway that \
                              passes nothing but the link on answers so, too";
                self.report.note("HTTP", &format!("{what}, by {who}; that is no Culvert's answer"), advice);
            }
        }
        Some(())
    }

    /// Asks for a link without asking for a WebSocket: an upper looks at the credentials first.
    pub(super) async fn credentials(&mut self) -> Option<()> {
        let Upper { url, cid, token, options, .. } = &self.case.upper;
        let conn = match dial_with(&url.host, url.port, options, STEP).await {
            Ok(conn) => conn,
            Err(error) => {
                self.report.fail("credentials", &dialled_again(&error), "");
                return None;
            }
        };
        let heard = match self.ask(conn, &url.register(cid), true).await {
            Ok(heard) => heard,
            Err(why) => {
                self.report.fail("credentials", &why, "");
                return None;
            }
        };
        let status = heard.head.status;
        let words = heard.detail().unwrap_or_else(|| "without a word".into());
        match status {
            426 if heard.is_ours() => {
                let with = if token.is_some() { "this token" } else { "no token" };
                self.report.ok("credentials", &format!("{cid} may link with {with}"));
            }
            401 | 403 | 429 => {
                let advice = match (status, token.is_some()) {
                    (401 | 403, false) => "show its token: --token, or a client certificate: --cert and --key",
                    (403, true) if self.case.made_up => {
                        "this id is made up; if the token is for other ids, say which: --cid ID, the node.cid of this platform \
                         (no link is made with it unless --replace is said, too)"
                    }
                    (429, _) => "wait some seconds; look for a device that keeps trying an old token",
                    _ => "",
                };
                self.report.fail("credentials", &format!("the upper answers {status}: {words}"), advice);
                return None;
            }
            _ => {
                let what = format!("the answer ({status}) is none of an upper to a request without an upgrade");
                self.report.skip("credentials", &what);
            }
        }
        Some(())
    }

    /// One GET on a connection of its own. The error is a sentence.
    async fn ask(&self, mut conn: Conn, target: &str, show: bool) -> Result<Heard, String> {
        let Upper { url, token, .. } = &self.case.upper;
        let bearer = token.as_ref().filter(|_| show).map(|token| format!("Authorization: Bearer {token}\r\n"));
        let host = url.authority();
        let bearer = bearer.unwrap_or_default();
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: culvert-doctor\r\n{bearer}Connection: close\r\n\r\n"
        );
        let begun = Instant::now();
        let answer = async {
            conn.write_all(request.as_bytes()).await?;
            conn.flush().await?;
            Answer::read(&mut conn, HEAD_BYTES).await
        };
        let answer = timeout(STEP, answer).await;
        let answer = answer.map_err(|_| format!("no answer within {} s: {}", STEP.as_secs(), self.right_scheme()))?;
        let head = answer.map_err(|error| match error {
            HeadError::Io(why) => format!("the connection broke before the answer: {}", tls::explain(&why)),
            HeadError::Cut => format!("it closed without an answer: {}", self.right_scheme()),
            HeadError::Large => "the answer's head is larger than 32 KiB".into(),
            HeadError::Syntax(_) => format!("the answer is not HTTP/1: {}", self.right_scheme()),
        })?;
        let took = begun.elapsed();
        let gather = async { while matches!(conn.fill(BODY_BYTES).await, Ok(1..)) {} };
        timeout(BODY_WAIT, gather).await.ok();
        Ok(Heard { head, body: String::from_utf8_lossy(conn.seen()).into_owned(), took })
    }

    fn right_scheme(&self) -> &'static str {
        if self.case.upper.url.secure {
            "is it the right port?"
        } else {
            "is it the right port, or one that wants wss://?"
        }
    }
}

/// What has to be added to our clock to get that of whoever answered, by its `Date` (RFC 9110 6.6.1), in seconds.
fn offset(heard: &Heard, asked: SystemTime) -> Option<f64> {
    let theirs = httpdate::parse_http_date(heard.head.header("date")?).ok()?;
    // A whole second, cut off: half a second more is the best guess.
    let theirs = theirs + Duration::from_millis(500);
    let ours = asked + heard.took / 2;
    Some(match theirs.duration_since(ours) {
        Ok(ahead) => ahead.as_secs_f64(),
        Err(behind) => -behind.duration().as_secs_f64(),
    })
}
