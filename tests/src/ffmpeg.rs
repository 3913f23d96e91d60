//! ffmpeg as publisher and as player. Two of them: Debian's 5, as `ffmpeg`, and 9, as Python's `imageio-ffmpeg` brings it
//! or as `CULVERT_FFMPEG9` says.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStdin, Command};

use crate::wait::{LONG, soon, within};

/// What a publisher sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Media {
    /// H.264 without B-frames, and AAC.
    H264Aac,
    /// H.264 with two B-frames in a row, and AAC.
    BFrames,
    /// H.265 and AAC.
    H265Aac,
    /// AV1 and Opus.
    Av1Opus,
    /// VP8 and Opus.
    Vp8,
    /// VP9 and Opus.
    Vp9,
    /// H.264 alone.
    VideoOnly,
    /// AAC alone.
    AudioOnly,
    /// H.265 and G.711 A-law: what cameras send by RTSP.
    H265G711,
    /// H.264 and Opus.
    H264Opus,
    /// H.264 and FLAC.
    H264Flac,
    /// H.264 at 2 Mbit/s whatever is shown, and AAC.
    TwoMegabits,
}

const VIDEO: &str = "-re -f lavfi -i testsrc2=size=320x180:rate=25";
const AUDIO: &str = "-re -f lavfi -i sine=frequency=440:sample_rate=48000";
const H264: &str = "-c:v libx264 -preset ultrafast -bf 0 -g 25 -pix_fmt yuv420p";
const CBR: &str = "-b:v 2M -minrate 2M -maxrate 2M -bufsize 400k -x264-params nal-hrd=cbr";
const B_FRAMES: &str = "-c:v libx264 -preset veryfast -bf 2 -b_strategy 0 -g 25 -pix_fmt yuv420p";
const H265: &str = "-c:v libx265 -preset ultrafast -g 25 -x265-params log-level=none -pix_fmt yuv420p";
const VPX: &str = "-deadline realtime -cpu-used 8 -lag-in-frames 0 -g 25 -b:v 500k -pix_fmt yuv420p";
const AV1: &str = "-c:v libsvtav1 -preset 12 -g 25 -pix_fmt yuv420p";

impl Media {
    fn arguments(self) -> String {
        match self {
            Media::H264Aac => format!("{VIDEO} {AUDIO} {H264} -c:a aac"),
            Media::BFrames => format!("{VIDEO} {AUDIO} {B_FRAMES} -c:a aac"),
            Media::H265Aac => format!("{VIDEO} {AUDIO} {H265} -c:a aac"),
            Media::Av1Opus => format!("{VIDEO} {AUDIO} {AV1} -c:a libopus"),
            Media::Vp8 => format!("{VIDEO} {AUDIO} -c:v libvpx {VPX} -c:a libopus -ac 2"),
            Media::Vp9 => format!("{VIDEO} {AUDIO} -c:v libvpx-vp9 {VPX} -c:a libopus -ac 2"),
            Media::VideoOnly => format!("{VIDEO} {H264}"),
            Media::AudioOnly => format!("{AUDIO} -c:a aac"),
            Media::H265G711 => format!("{VIDEO} {AUDIO} {H265} -c:a pcm_alaw -ar 8000 -ac 1"),
            // Two channels, as WebRTC has it whatever is in them.
            Media::H264Opus => format!("{VIDEO} {AUDIO} {H264} -c:a libopus -ac 2"),
            Media::H264Flac => format!("{VIDEO} {AUDIO} {H264} -c:a flac"),
            Media::TwoMegabits => format!("{VIDEO} {AUDIO} {H264} {CBR} -c:a aac"),
        }
    }

    /// Whether there are pictures to count.
    pub fn has_video(self) -> bool {
        self != Media::AudioOnly
    }
}

/// What a player plays where nothing else is said, in seconds.
const TWO_SECONDS: u64 = 2;
/// What may be missing at the end: the longest frame of any codec here.
const SHORT: Duration = Duration::from_millis(100);

/// A node's own certificate is not to be verified, which later versions of ffmpeg do unless they are told.
fn unverified(url: &str) -> &[&'static str] {
    if url.starts_with("rtmps:") || url.starts_with("https:") { &["-tls_verify", "0"] } else { &[] }
}

/// A URL of RTSP, and how its media goes: on the connection, or as `#udp` or `#http` behind it say.
fn rtsp(url: &str) -> Option<(&str, &str)> {
    url.starts_with("rtsp").then(|| url.split_once('#').unwrap_or((url, "tcp")))
}

/// One ffmpeg.
#[derive(Clone, Debug)]
pub struct Ffmpeg(PathBuf);

/// A test that cannot be run says so where the harness does not swallow it.
pub fn skipped(test: &str, needs: &str) {
    // Standard error may be closed; there is nobody else to tell.
    writeln!(std::io::stderr(), "SKIPPED: {test} needs {needs}").ok();
}

fn tried(program: &Path, argument: &str) -> Option<ExitStatus> {
    let mut command = std::process::Command::new(program);
    command.arg(argument).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().ok()
}

fn runs(program: &Path) -> bool {
    tried(program, "-version").is_some_and(|status| status.success())
}

/// Whether `program` is on the path; one that does not like `argument` is there all the same.
pub fn installed(program: &str, argument: &str) -> bool {
    tried(Path::new(program), argument).is_some()
}

impl Ffmpeg {
    /// The one on the path, usually 5 or later; where it is not here, says that `test` is skipped.
    pub fn five(test: &str) -> Option<Ffmpeg> {
        let path = PathBuf::from("ffmpeg");
        if runs(&path) {
            return Some(Ffmpeg(path));
        }
        skipped(test, "ffmpeg on the PATH");
        None
    }

    /// The one that knows enhanced FLV with everything; where it is not here, says that `test` is skipped.
    pub fn nine(test: &str) -> Option<Ffmpeg> {
        let named = std::env::var_os("CULVERT_FFMPEG9").map(PathBuf::from);
        let path = named.or_else(|| {
            let code = "import imageio_ffmpeg;print(imageio_ffmpeg.get_ffmpeg_exe())";
            let asked = std::process::Command::new("python3").args(["-c", code]).output().ok()?;
            Some(PathBuf::from(String::from_utf8(asked.stdout).ok()?.trim()))
        });
        let found = path.filter(|path| runs(path)).map(Ffmpeg);
        if found.is_none() {
            skipped(test, "ffmpeg 9 (pip install imageio-ffmpeg, or CULVERT_FFMPEG9=PATH)");
        }
        found
    }

    /// Publishes in real time until what is returned is dropped.
    pub fn publish(&self, media: Media, url: &str) -> Child {
        let mut command = self.command("fatal");
        command.args(media.arguments().split(' ')).args(["-t", "120"]);
        match rtsp(url) {
            Some((url, transport)) => {
                // AV1 in RTP is still an experiment to it.
                command.args(["-strict", "-2", "-f", "rtsp", "-rtsp_transport", transport, url]);
            }
            None if url.contains("/whip/") => {
                command.args(["-f", "whip", url]);
            }
            None => {
                command.args(["-flvflags", "no_duration_filesize"]).args(unverified(url)).args(["-f", "flv", url]);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.spawn().expect("ffmpeg was just run")
    }

    /// Writes HLS of 1 s segments, six at a time, into a directory, in real time until what is returned is dropped. `arguments` are of its
    /// HLS muxer, and the name of the playlist.
    pub fn segment(&self, media: Media, directory: &Path, arguments: &[&str]) -> Child {
        let mut command = self.command("fatal");
        command.args(media.arguments().split(' ')).args([
            "-t",
            "120",
            "-f",
            "hls",
            "-hls_time",
            "1",
            "-hls_list_size",
            "6",
        ]);
        command.args(arguments).current_dir(directory).stdin(Stdio::null()).stdout(Stdio::null());
        command.spawn().expect("ffmpeg was just run")
    }

    /// Makes a recording, faster than real time.
    pub async fn record(&self, media: Media, seconds: u64) -> Vec<u8> {
        let mut command = self.command("fatal");
        command.args(media.arguments().replace("-re ", "").split(' ')).args(["-t", &seconds.to_string()]);
        command.args(["-f", "flv", "pipe:1"]).stdin(Stdio::null());
        let made = soon("a recording", command.output()).await.expect("ffmpeg was just run");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        made.stdout
    }

    /// The darkest and the brightest pixel of a picture, of 255.
    pub async fn brightness(&self, file: &str) -> (u8, u8) {
        let mut command = self.command("error");
        command.args(["-i", file, "-f", "rawvideo", "-pix_fmt", "gray", "pipe:1"]).stdin(Stdio::null());
        let shown = soon("a picture", command.output()).await.expect("ffmpeg was just run");
        assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
        let pixels = &shown.stdout;
        (*pixels.iter().min().expect("it has pixels"), *pixels.iter().max().expect("it has pixels"))
    }

    /// Decodes what is at `url`, for two seconds of it.
    pub async fn play(&self, url: &str) -> Played {
        self.play_for(TWO_SECONDS, url).await
    }

    /// The same for so many seconds.
    pub async fn play_for(&self, seconds: u64, url: &str) -> Played {
        let input = match rtsp(url) {
            Some((url, transport)) => vec!["-rtsp_transport", transport, "-i", url],
            None => [unverified(url), &["-i", url]].concat(),
        };
        Played::of(self.player(seconds, &input, Stdio::null()), seconds, url).await
    }

    /// Waits at this `rtmp://` URL for somebody who publishes, and decodes two seconds of that.
    pub async fn receive(&self, url: &str) -> Played {
        Played::of(self.player(TWO_SECONDS, &["-listen", "1", "-i", url], Stdio::null()), TWO_SECONDS, url).await
    }

    /// Decodes a stream of a container (as ffmpeg calls it) that comes by `feed`, for two seconds of it. `feed` is called
    /// with the player's input and ends when that closes.
    pub async fn play_from(&self, what: &str, container: &str, feed: impl AsyncFnOnce(ChildStdin)) -> Played {
        let mut child = self.player(TWO_SECONDS, &["-f", container, "-i", "pipe:0"], Stdio::piped());
        let input = child.stdin.take().expect("it was asked for");
        let (played, ()) = tokio::join!(Played::of(child, TWO_SECONDS, what), feed(input));
        played
    }

    fn player(&self, seconds: u64, input: &[&str], stdin: Stdio) -> Child {
        let mut command = self.command("error");
        // -t ends it; -progress tells how many pictures were decoded.
        command.arg("-xerror").args(input).args(["-t", &seconds.to_string(), "-progress", "pipe:1", "-f", "null", "-"]);
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("ffmpeg was just run")
    }

    fn command(&self, level: &str) -> Command {
        let mut command = Command::new(&self.0);
        command.args(["-nostdin", "-hide_banner", "-nostats", "-v", level]).kill_on_drop(true);
        // SVT-AV1 talks past ffmpeg's log: errors only.
        command.env("SVT_LOG", "1");
        command
    }
}

/// When a file begins and how long it is, in seconds, as ffprobe has it.
pub async fn extent(file: &str) -> (f64, f64) {
    let mut command = Command::new("ffprobe");
    command
        .args(["-v", "error", "-show_entries", "format=start_time,duration", "-of", "csv=p=0", file])
        .kill_on_drop(true);
    let said = soon("ffprobe", command.output()).await.expect("ffprobe comes with ffmpeg");
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let figures: Vec<f64> = text.trim().split(',').filter_map(|figure| figure.parse().ok()).collect();
    assert!(said.status.success() && figures.len() == 2, "{text}{}", String::from_utf8_lossy(&said.stderr));
    (figures[0], figures[1])
}

/// What a player said.
#[derive(Debug)]
pub struct Played {
    status: ExitStatus,
    frames: u64,
    time: Duration,
    asked: u64,
    errors: String,
    /// It came in packets of RTP.
    by_rtp: bool,
}

impl Played {
    async fn of(mut child: Child, asked: u64, what: &str) -> Played {
        let (mut out, mut err) =
            (child.stdout.take().expect("it was asked for"), child.stderr.take().expect("it was asked for"));
        let (mut progress, mut errors) = (String::new(), String::new());
        let read = async {
            let (a, b) = tokio::join!(out.read_to_string(&mut progress), err.read_to_string(&mut errors));
            a.and(b).expect("ffmpeg writes text");
            child.wait().await.expect("it was started")
        };
        let bound = LONG + Duration::from_secs(asked);
        let status = within(bound, &format!("ffmpeg to play {what}"), read).await;
        // The null output rounds stamps to the frame rate, and then complains of what it rounded; that is no decoder's
        // error, and whether stamps go forward is for [`crate::view::Continuity`] to see.
        // And one that looks for a port of its own says so of each that another has, and looks on.
        let is_said =
            |line: &&str| !line.starts_with("[null @") && !line.ends_with("bind failed: Address already in use");
        let errors = errors.lines().filter(is_said).collect::<Vec<_>>().join("\n");
        let last =
            |key: &str| progress.lines().rev().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok());
        let time = Duration::from_micros(last("out_time_us=").unwrap_or_default());
        let by_rtp = what.starts_with("rtsp");
        Played { status, by_rtp, frames: last("frame=").unwrap_or_default(), time, asked, errors }
    }

    /// Nothing that came was wrong, from the first frame on; some may not have come.
    pub fn assert_decoded(&self, what: &str) {
        assert!(self.status.success() && self.errors.is_empty() && self.frames > 0, "{what}: {self:?}");
    }

    /// Nothing was wrong from the first frame on, and all that was asked for was played.
    pub fn assert_clean(&self, media: Media, what: &str) {
        assert!(self.status.success() && self.errors.is_empty(), "{what}: {self:?}");
        assert!(self.time + SHORT >= Duration::from_secs(self.asked), "{what}: {self:?}");
        // All publishers make 25 pictures a second.
        // Pictures that are reordered begin two later than the sound, and ffmpeg's RTP has up to eight frames of AAC in a packet: what comes with
        // a key frame was heard up to four pictures before it.
        let slack = match (media == Media::BFrames, self.by_rtp) {
            (true, true) => 8,
            (true, false) => 4,
            (false, _) => 2,
        };
        assert!(self.frames + slack >= self.asked * 25 || !media.has_video(), "{what}: {self:?}");
    }
}
