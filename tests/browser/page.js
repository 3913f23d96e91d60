// In the page: a video, and what is seen of it.
function watch() {
  document.body.innerHTML = '<video muted style="width:640px"></video>';
  const video = document.querySelector('video');
  const out = { frames: 0, stalls: 0, errors: [], width: 0, height: 0, latencies_ms: [] };
  let counting = false;
  const canvas = new OffscreenCanvas(320, 180), pixels = canvas.getContext('2d', { willReadFrequently: true });
  // The clock that the publisher draws: 16 blocks of 20 pixels, a bit of its milliseconds each, the least first.
  const drawn_at = () => {
    pixels.drawImage(video, 0, 0, 320, 180);
    const row = pixels.getImageData(0, 90, 320, 1).data;
    let value = 0;
    for (let bit = 0; bit < 16; bit += 1) if (row[(bit * 20 + 10) * 4] > 127) value |= 1 << bit;
    return value;
  };
  const count = () => {
    if (counting) {
      out.frames += 1;
      out.latencies_ms.push((Date.now() - drawn_at()) & 0xffff);
    }
    video.requestVideoFrameCallback(count);
  };
  video.requestVideoFrameCallback(count);
  video.addEventListener('error', () => out.errors.push(`video: ${video.error.message}`));
  video.addEventListener('waiting', () => { if (counting) out.stalls += 1; });
  const started = new Promise(done => video.addEventListener('playing', () => done(true), { once: true }));
  const patience = new Promise(done => setTimeout(() => done(false), 30_000));
  // Counts for so long once it plays and has settled; `settle_ms` is for a player that still looks for the live edge.
  const run = async (seconds, settle_ms = 0) => {
    if (!await Promise.race([started, patience])) {
      out.errors.push('nothing played within 30 s');
      return out;
    }
    await new Promise(done => setTimeout(done, settle_ms));
    counting = true;
    await new Promise(done => setTimeout(done, seconds * 1000));
    counting = false;
    out.dropped = video.getVideoPlaybackQuality().droppedVideoFrames;
    out.audio_bytes = video.webkitAudioDecodedByteCount;
    [out.width, out.height] = [video.videoWidth, video.videoHeight];
    out.ranges = video.buffered.length;
    out.behind_s = video.buffered.length ? video.buffered.end(video.buffered.length - 1) - video.currentTime : null;
    const sorted = out.latencies_ms.sort((a, b) => a - b), at = part => sorted[Math.floor((sorted.length - 1) * part)];
    out.latency_ms = { least: at(0), median: at(0.5), most: at(0.99) };
    delete out.latencies_ms;
    return out;
  };
  return { video, out, run };
}
