// Plays a stream by Media Source Extensions in Chromium and says how it went, as JSON in one line.
// node mse.mjs PAGE WS_URL SECONDS [SCREENSHOT]: PAGE is any page of the node, WS_URL a ws://../play/NAME.mp4.
import { chromium } from 'playwright-core';

const [page_url, ws_url, seconds, screenshot] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--autoplay-policy=no-user-gesture-required'],
});
try {
  const page = await browser.newPage();
  await page.goto(page_url);
  const played = await page.evaluate(async ([url, seconds]) => {
    document.body.innerHTML = '<video muted style="width:640px"></video>';
    const video = document.querySelector('video');
    const out = { mime: null, supported: null, frames: 0, stalls: 0, changes: 0, errors: [], width: 0, height: 0, behind_s: 0 };
    let buffer, begun_at_start = false, counting = false;
    const source = new MediaSource(), queue = [];
    video.src = URL.createObjectURL(source);
    await new Promise(open => source.addEventListener('sourceopen', open, { once: true }));
    const next = () => {
      if (!buffer || buffer.updating || !queue.length) return;
      const data = queue.shift();
      if (typeof data !== 'string') return buffer.appendBuffer(data);
      out.changes += 1;
      buffer.changeType(data);
      next();
    };
    video.addEventListener('error', () => out.errors.push(`video: ${video.error.message}`));
    video.addEventListener('waiting', () => { if (counting) out.stalls += 1; });
    const socket = new WebSocket(url);
    socket.binaryType = 'arraybuffer';
    socket.onclose = event => out.errors.push(`socket closed: ${event.code} ${event.reason}`);
    socket.onmessage = ({ data }) => {
      if (buffer) {
        queue.push(data);
        return next();
      }
      out.mime = data;
      out.supported = MediaSource.isTypeSupported(data);
      if (!out.supported) return;
      buffer = source.addSourceBuffer(data);
      buffer.addEventListener('updateend', () => {
        // A viewer in mid-stream begins where the stream is, which is not at zero.
        if (!begun_at_start && buffer.buffered.length && buffer.buffered.end(0) - buffer.buffered.start(0) > 0.3) {
          begun_at_start = true;
          video.currentTime = buffer.buffered.start(0);
          video.play().catch(error => out.errors.push(`play: ${error.message}`));
        }
        next();
      });
    };
    const count = () => {
      out.frames += 1;
      video.requestVideoFrameCallback(count);
    };
    video.requestVideoFrameCallback(count);
    // The picture's clock begins with the first picture.
    const started = new Promise(done => video.addEventListener('playing', () => done(true), { once: true }));
    const patience = new Promise(done => setTimeout(() => done(false), 20_000));
    if (!await Promise.race([started, patience])) return { ...out, errors: [...out.errors, 'nothing played within 20 s'] };
    const begun = out.frames;
    counting = true;
    await new Promise(done => setTimeout(done, seconds * 1000));
    out.frames -= begun;
    out.ranges = buffer.buffered.length;
    out.behind_s = buffer.buffered.end(buffer.buffered.length - 1) - video.currentTime;
    const quality = video.getVideoPlaybackQuality();
    out.dropped = quality.droppedVideoFrames;
    out.audio_bytes = video.webkitAudioDecodedByteCount;
    [out.width, out.height] = [video.videoWidth, video.videoHeight];
    socket.onclose = null;
    return out;
  }, [ws_url, Number(seconds)]);
  if (screenshot) await page.screenshot({ path: screenshot });
  console.log(JSON.stringify(played));
} finally {
  await browser.close();
}
