//! A viewer that speaks RTSP, with RTP on the connection: as little of it as there is in a picture's last packet.

use anyhow::{Result, bail};
use bytes::Bytes;
use culvert_formats::flv::TagKind;
use culvert_formats::rtp::Packet;
use culvert_rtsp::wire::{Input, Method, Reader, Request, Response};

use crate::receiver::Got;
use crate::stamp::STAMP_BYTES;

/// One viewer's dialogue.
#[derive(Debug)]
pub(crate) struct Viewer {
    url: String,
    reader: Reader,
    cseq: u32,
    step: Step,
    /// Media that are still to be set up.
    left: Vec<(usize, String)>,
    session: String,
    /// What was seen of the picture that is coming in: an IDR slice.
    key: bool,
    /// The last bytes of it; a stamp may be cut in two.
    tail: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Describing,
    SettingUp,
    Asked,
    Playing,
}

/// NAL unit types of H.264 (table 7-1) and of RFC 6184.
const IDR: u8 = 5;
const FU_A: u8 = 28;

impl Viewer {
    /// And the first bytes it sends.
    pub(crate) fn new(url: &str) -> (Viewer, Vec<u8>) {
        let mut viewer = Viewer {
            url: url.to_string(),
            reader: Reader::new(),
            cseq: 0,
            step: Step::Describing,
            left: Vec::new(),
            session: String::new(),
            key: false,
            tail: Vec::new(),
        };
        let mut first = Vec::new();
        viewer.ask(Request::new(Method::Describe, url).with("Accept", "application/sdp"), &mut first);
        (viewer, first)
    }

    /// Whether `PLAY` has been sent.
    pub(crate) fn has_asked(&self) -> bool {
        matches!(self.step, Step::Asked | Step::Playing)
    }

    fn ask(&mut self, request: Request, out: &mut Vec<u8>) {
        self.cseq += 1;
        let request = request.with("CSeq", self.cseq.to_string());
        if self.session.is_empty() { request } else { request.with("Session", self.session.clone()) }.write(out);
    }

    /// Takes what came; see [`crate::receiver::Receiver::handle_input`].
    pub(crate) fn handle_input(&mut self, input: &[u8], got: &mut Vec<Got>, reply: &mut Vec<u8>) -> Result<()> {
        self.reader.handle_input(input);
        while let Some(input) = self.reader.poll()? {
            match input {
                Input::Response(response) => self.answered(&response, got, reply)?,
                Input::Interleaved { channel, data } if channel % 2 == 0 => self.packet(channel, &data, got)?,
                Input::Interleaved { .. } => {}
                Input::Request(request) => bail!("the server asks {}", request.method.name()),
            }
        }
        Ok(())
    }

    fn answered(&mut self, response: &Response, got: &mut Vec<Got>, reply: &mut Vec<u8>) -> Result<()> {
        if response.status != 200 {
            bail!("the server answers {} {}", response.status, response.reason);
        }
        match self.step {
            Step::Describing => {
                let sdp = String::from_utf8_lossy(&response.body);
                let controls = sdp.lines().filter_map(|line| line.strip_prefix("a=control:trackID="));
                let base = self.url.split('?').next().unwrap_or(&self.url);
                self.left = controls.enumerate().map(|(n, at)| (n, format!("{base}/trackID={at}"))).collect();
                self.left.reverse();
                self.step = Step::SettingUp;
                self.set_up(reply);
            }
            Step::SettingUp => {
                let session = response.headers.get("Session").unwrap_or_default();
                self.session = session.split(';').next().unwrap_or_default().to_string();
                self.set_up(reply);
            }
            Step::Asked => {
                self.step = Step::Playing;
                got.push(Got::Open);
            }
            Step::Playing => {}
        }
        Ok(())
    }

    fn set_up(&mut self, reply: &mut Vec<u8>) {
        let request = match self.left.pop() {
            Some((n, control)) => {
                let transport = format!("RTP/AVP/TCP;unicast;interleaved={}-{}", n * 2, n * 2 + 1);
                Request::new(Method::Setup, control).with("Transport", transport)
            }
            None => {
                self.step = Step::Asked;
                Request::new(Method::Play, self.url.clone())
            }
        };
        self.ask(request, reply);
    }

    /// The last packet of a picture, and each of sound, ends with the stamp.
    fn packet(&mut self, channel: u8, data: &Bytes, got: &mut Vec<Got>) -> Result<()> {
        let packet = Packet::parse(data)?;
        let payload = packet.payload;
        let last = |bytes: &[u8]| bytes.get(bytes.len().saturating_sub(STAMP_BYTES)..).unwrap_or_default().to_vec();
        if channel > 0 {
            let stamp = last(payload);
            got.push(Got::Tag(TagKind::Audio, [&[0xaf, 1], &stamp[..]].concat().into()));
            return Ok(());
        }
        let kind = payload.first().map_or(0, |first| first & 0x1f);
        let inner = if kind == FU_A { payload.get(1).map_or(0, |second| second & 0x1f) } else { kind };
        self.key |= inner == IDR;
        // Behind the two bytes of a fragment's header.
        self.tail.extend(payload.get(if kind == FU_A { 2 } else { 0 }..).map(last).unwrap_or_default());
        if packet.marker {
            let first = if std::mem::take(&mut self.key) { 0x17 } else { 0x27 };
            let stamp = last(&self.tail);
            self.tail.clear();
            got.push(Got::Tag(TagKind::Video, [&[first, 1, 0, 0, 0], &stamp[..]].concat().into()));
        }
        Ok(())
    }
}
