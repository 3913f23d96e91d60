// Plays a stream by Media Source Extensions in Chromium and says how it went, as JSON in one line.
// node mse.mjs PAGE WS_URL SECONDS [DISTANCE [SCREENSHOT]]: PAGE is any page of the node, WS_URL a ws://../play/NAME.mp4, DISTANCE what it keeps
// from the live edge, in seconds: 0.13 is near, and only for publishers without jitter.
import { open } from './launch.mjs';

const [page_url, ws_url, seconds, distance = 0.4, screenshot] = process.argv.slice(2);
const { browser, page } = await open(page_url);
try {
  const played = await page.evaluate(async ([url, seconds, distance]) => {
    const { video, out, run } = watch();
    // Else Chromium stretches the sound where the rate is not 1, and needs more of it for that: 30 ms of latency.
    video.preservesPitch = false;
    Object.assign(out, { mime: null, supported: null, changes: 0 });
    let buffer, begun = false, counting = false;
    const source = new MediaSource(), queue = [];
    video.src = URL.createObjectURL(source);
    await new Promise(open => source.addEventListener('sourceopen', open, { once: true }));
    const next = () => {
      if (!buffer || buffer.updating || !queue.length) return;
      if (typeof queue[0] === 'string') {
        out.changes += 1;
        buffer.changeType(queue.shift());
        return next();
      }
      // All that waits at once: each turn takes time that what comes after it waits for.
      const text = queue.findIndex(data => typeof data === 'string');
      const ready = queue.splice(0, text < 0 ? queue.length : text);
      buffer.appendBuffer(ready.length === 1 ? ready[0] : joined(ready));
    };
    const joined = parts => {
      const whole = new Uint8Array(parts.reduce((size, part) => size + part.byteLength, 0));
      let at = 0;
      for (const part of parts) {
        whole.set(new Uint8Array(part), at);
        at += part.byteLength;
      }
      return whole;
    };
    // Near the live edge: far behind it jumps, a little behind it plays faster, too near it plays slower.
    const follow = () => {
      const end = buffer.buffered.end(buffer.buffered.length - 1), behind = end - video.currentTime;
      if (behind > distance + 0.5) video.currentTime = end - distance;
      const off = behind - distance;
      video.playbackRate = off < -0.03 ? 0.95 : off > 0.02 ? Math.min(1.2, 1.03 + off) : 1;
    };
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
        const ranges = buffer.buffered;
        if (!begun && ranges.length && ranges.end(0) - ranges.start(0) > distance) {
          begun = true;
          // A viewer in mid-stream begins where the stream is, which is not at zero.
          video.currentTime = Math.max(ranges.start(0), ranges.end(0) - distance);
          video.play().catch(error => out.errors.push(`play: ${error.message}`));
        }
        if (begun && ranges.length) follow();
        next();
      });
    };
    const played = await run(seconds, 3000);
    socket.onclose = null;
    return played;
  }, [ws_url, Number(seconds), Number(distance)]);
  if (screenshot) await page.screenshot({ path: screenshot });
  console.log(JSON.stringify(played));
} finally {
  await browser.close();
}
