//! `culvert doctor`: dials an upper as a link would, a step at a time, and says what each step found and what to do.
//!
//! It tries everything once, and trusts nobody whom a link would not trust. What it looks at besides, to be able to explain
//! more, is never used to go on. A link that it makes it ends at once.

mod certificate;
mod link;
mod report;
mod tls;
mod web;

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use culvert_link::Upper;
use culvert_media::Cid;
use culvert_net::{Conn, DialError, DialOptions, dial_with};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use self::report::Report;
use crate::cascade::to_dial;
use crate::{cli, config};

/// How long each step may take: as long as a link gives it.
const STEP: Duration = Duration::from_secs(10);
/// Addresses of one name that are tried; a link tries as many.
const ADDRESSES: usize = 8;
/// A clock that is wrong by less is right: `Date` has whole seconds, and an answer takes its time.
const CLOCK: Duration = Duration::from_secs(3);
/// What is tried, in this order.
const STEPS: [&str; 9] = ["URL", "DNS", "TCP", "proxy", "TLS", "HTTP", "credentials", "WebSocket", "link"];

/// What is to be examined.
#[derive(Clone, Debug)]
pub struct Case {
    upper: Upper,
    /// A file of authorities beside the public ones.
    ca: Option<PathBuf>,
    pinned: bool,
    /// The id was made up: nobody is replaced.
    made_up: bool,
    replace: bool,
}

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// A link was made.
    Linked,
    /// Nothing failed, but no link was tried, since it would have replaced another.
    NotTried,
    /// None can be made, because of this step.
    Failed(&'static str),
}

impl Case {
    /// What the command line says. The files that it names are read.
    pub fn new(asked: &cli::Doctor) -> anyhow::Result<Case> {
        let upper = config::Upper {
            url: asked.url.clone(),
            token: asked.token.clone(),
            ca: asked.ca.clone(),
            pins: asked.pin.clone(),
            client: asked.cert.clone().zip(asked.key.clone()),
            proxy: asked.proxy.clone(),
        };
        // Once through the configuration's own rules: what is a fault there is one here.
        let upper: config::Upper = serde_json::to_value(&upper).and_then(serde_json::from_value)?;
        let cid = match &asked.cid {
            Some(cid) => cid.clone(),
            None => random_cid()?,
        };
        Ok(Case {
            upper: to_dial(&upper, cid.as_str())?,
            ca: asked.ca.clone(),
            pinned: !asked.pin.is_empty(),
            made_up: asked.cid.is_none(),
            replace: asked.replace,
        })
    }
}

fn random_cid() -> anyhow::Result<Cid> {
    let number = getrandom::u32().ok().context("the system gives no random bytes")?;
    Ok(Cid::parse(&format!("doctor-{number:08x}"))?)
}

/// Tries one step after the other and says what comes of it.
pub async fn examine(case: &Case, out: &mut (impl Write + Send)) -> io::Result<Verdict> {
    let mut doctor = Doctor { case, report: Report::new(out), offset: None, tried: false };
    // None: a step failed, and there is no further one to be tried.
    let _ = doctor.steps().await;
    doctor.report.skip_rest(&STEPS);
    doctor.clock();
    doctor.report.skip("UDP", "not checked: this version has no WebRTC");
    let tried = doctor.tried;
    Ok(match doctor.report.end()? {
        Some(step) => Verdict::Failed(step),
        None if tried => Verdict::Linked,
        None => Verdict::NotTried,
    })
}

struct Doctor<'a, W> {
    case: &'a Case,
    report: Report<W>,
    /// What has to be added to this machine's clock to get the other's, in seconds.
    offset: Option<f64>,
    tried: bool,
}

impl<W: Write + Send> Doctor<'_, W> {
    /// None where one failed, which was said.
    async fn steps(&mut self) -> Option<()> {
        self.url();
        self.dns_and_tcp().await?;
        let conn = self.proxy().await?;
        let conn = self.tls(conn).await?;
        self.http(conn).await?;
        self.credentials().await?;
        self.link().await
    }

    fn url(&mut self) {
        let Upper { url, cid, .. } = &self.case.upper;
        let kind = if url.secure { "TLS" } else { "plain" };
        self.report.ok("URL", &format!("{kind}, {} port {}; asks for {}", url.host, url.port, url.register(cid)));
    }

    /// Host and port that this machine connects to: the proxy's where there is one.
    fn next_hop(&self) -> (&str, u16) {
        let Upper { url, options, .. } = &self.case.upper;
        options.proxy.as_ref().map_or((&url.host, url.port), |proxy| proxy.address())
    }

    async fn dns_and_tcp(&mut self) -> Option<()> {
        let (host, port) = self.next_hop();
        let host = bare(host).to_string();
        let addresses = self.dns(&host, port).await?;
        self.tcp(addresses).await
    }

    async fn dns(&mut self, host: &str, port: u16) -> Option<Vec<SocketAddr>> {
        let of = if self.case.upper.options.proxy.is_some() { "the proxy " } else { "" };
        if let Ok(address) = host.parse::<IpAddr>() {
            self.report.skip("DNS", &format!("{of}{host} is an address"));
            return Some(vec![(address, port).into()]);
        }
        let begun = Instant::now();
        let found =
            timeout(STEP, lookup_host((host, port))).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let mut addresses = match found {
            Ok(found) => found.collect::<Vec<_>>(),
            Err(why) => {
                let advice = format!(
                    "is the name spelt right? does this machine have a name server that answers (getent hosts {host})?"
                );
                self.report.fail("DNS", &format!("{of}{host}: {why}"), &advice);
                return None;
            }
        };
        addresses.dedup();
        addresses.truncate(ADDRESSES);
        let list: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
        self.report.ok("DNS", &format!("{of}{host} is {} ({})", list.join(", "), ms(begun.elapsed())));
        Some(addresses)
    }

    /// All addresses at once; a link takes the first that answers.
    async fn tcp(&mut self, addresses: Vec<SocketAddr>) -> Option<()> {
        let tries: Vec<_> = addresses
            .into_iter()
            .map(|address| {
                tokio::spawn(async move {
                    let begun = Instant::now();
                    let tcp = timeout(STEP, TcpStream::connect(address)).await;
                    let tcp = tcp.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                    (address, tcp.map(|_| begun.elapsed()))
                })
            })
            .collect();
        let (mut open, mut shut) = (Vec::new(), Vec::new());
        for attempt in tries {
            match attempt.await {
                Ok((address, Ok(time))) => open.push((address, time)),
                Ok((address, Err(why))) => shut.push((address, why)),
                // A task of ours that panicked; the runtime has said so.
                Err(_) => {}
            }
        }
        for (address, time) in &open {
            self.report.ok("TCP", &format!("{address} answers in {}", ms(*time)));
        }
        for (address, why) in &shut {
            let what = format!("{address}: {}", words(why));
            if open.is_empty() {
                self.report.fail("TCP", &what, advice(why));
            } else {
                let advice = "a link tries the addresses 250 ms apart and takes the first that answers, so this one costs time \
                              at the most";
                self.report.note("TCP", &what, advice);
            }
        }
        (!open.is_empty()).then_some(())
    }

    /// The connection on which TLS begins.
    async fn proxy(&mut self) -> Option<Conn> {
        let Upper { url, options, .. } = &self.case.upper;
        let plain = DialOptions { tls: None, ..options.clone() };
        let begun = Instant::now();
        let dialled = dial_with(&url.host, url.port, &plain, STEP).await;
        match (dialled, &options.proxy) {
            (Ok(conn), Some(_)) => {
                self.report
                    .ok("proxy", &format!("opens the way to {}:{} in {}", url.host, url.port, ms(begun.elapsed())));
                Some(conn)
            }
            (Ok(conn), None) => {
                self.report.skip("proxy", "none (--proxy)");
                Some(conn)
            }
            (Err(error), Some(_)) => {
                self.report.fail(
                    "proxy",
                    &error.to_string(),
                    "ask whoever runs the proxy to allow CONNECT to this host and port",
                );
                None
            }
            (Err(error), None) => {
                self.report.fail("TCP", &error.to_string(), "");
                None
            }
        }
    }

    fn clock(&mut self) {
        let Some(offset) = self.offset else {
            self.report.skip("clock", "no answer with a Date to compare with");
            return;
        };
        if offset.abs() <= CLOCK.as_secs_f64() {
            self.report.ok("clock", &format!("within {} s of the other end's", CLOCK.as_secs()));
            return;
        }
        let way = if offset > 0.0 { "behind" } else { "ahead of" };
        let what = format!("this machine is {:.0} s {way} the other end", offset.abs());
        let advice =
            "set the clock (timedatectl set-ntp true): certificates have dates, and frames carry the time of day";
        self.report.note("clock", &what, advice);
    }
}

fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

fn words(why: &io::Error) -> String {
    let late = why.kind() == io::ErrorKind::TimedOut;
    if late { format!("no answer within {} s", STEP.as_secs()) } else { why.to_string() }
}

/// What to do about connections that do not come about.
const WHY_NOT: [(io::ErrorKind, &str); 4] = [
    (
        io::ErrorKind::ConnectionRefused,
        "nothing listens on this port there, or a firewall refuses it: is it the right port, and does the upper run?",
    ),
    (
        io::ErrorKind::TimedOut,
        "a firewall drops it, here or there, or the address is wrong; is another way out needed (--proxy)?",
    ),
    (io::ErrorKind::NetworkUnreachable, NO_WAY),
    (io::ErrorKind::HostUnreachable, NO_WAY),
];
const NO_WAY: &str = "this machine has no way there: look at its network (ip route)";

fn advice(why: &io::Error) -> &'static str {
    WHY_NOT.iter().find(|(kind, _)| *kind == why.kind()).map_or("", |(_, advice)| advice)
}

/// A dial that worked a moment ago and now does not.
fn dialled_again(error: &DialError) -> String {
    format!("the connection that was made a moment ago cannot be made again: {error}")
}
