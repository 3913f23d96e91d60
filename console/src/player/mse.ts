// Fragmented MP4 by WebSocket into Media Source Extensions: small, near the edge, and caught up by the rate of playing.
import { inPath, Refused, socket as address } from '../api';
import { refusal, refused, type Begin, type Figures } from './index';

/** How far from the edge it plays, and from where on it hurries; beyond, it jumps. */
const BEHIND_S = 0.3, HURRY_S = 0.6, JUMP_S = 3;
/** What is kept of what was played. */
const KEEP_S = 10;
/** Fragments that wait for the buffer; a page that hangs so long begins anew. */
const MOST = 2000;

const codecs = (mime: string) => mime.split(',').length;

export const begin: Begin = (video, stream, report) => {
  const source = new MediaSource(), url = URL.createObjectURL(source);
  const queue: (ArrayBuffer | string)[] = [];
  let buffer: SourceBuffer | null = null, mime = '', over = false, began = false, total = 0, last = { bytes: 0, at: performance.now() };
  const socket = new WebSocket(address(`/play/${inPath(stream)}.mp4`));
  socket.binaryType = 'arraybuffer';

  const end = (say: Parameters<typeof report>[0]) => {
    if (over) return;
    over = true;
    socket.close();
    report(say);
  };
  const next = () => {
    if (over || !buffer || buffer.updating) return;
    chase();
    const { buffered } = buffer;
    if (buffered.length && video.currentTime - buffered.start(0) > 2 * KEEP_S) {
      buffer.remove(0, video.currentTime - KEEP_S);
      return;
    }
    const data = queue[0];
    if (data === undefined) return;
    try {
      if (typeof data === 'string') {
        mime = data;
        queue.shift();
        buffer.changeType(mime);
        next();
      } else {
        buffer.appendBuffer(waiting());
      }
    } catch (why) {
      end({ state: 'failed', why: String(why) });
    }
  };

  /** All fragments that wait, in one: each turn of the buffer takes time that what comes after it waits for. */
  const waiting = () => {
    const text = queue.findIndex(data => typeof data === 'string');
    const parts = queue.splice(0, text < 0 ? queue.length : text).filter(part => typeof part !== 'string');
    if (parts.length === 1) return parts[0]!;
    const whole = new Uint8Array(parts.reduce((size, part) => size + part.byteLength, 0));
    let at = 0;
    for (const part of parts) {
      whole.set(new Uint8Array(part), at);
      at += part.byteLength;
    }
    return whole;
  };

  /** Keeps near the edge. */
  const chase = () => {
    const { buffered } = video;
    if (!buffered.length) return;
    const edge = buffered.end(buffered.length - 1), start = buffered.start(buffered.length - 1);
    const behind = edge - video.currentTime;
    if (video.currentTime < start || behind > JUMP_S) video.currentTime = Math.max(start, edge - BEHIND_S);
    else video.playbackRate = behind > HURRY_S ? 1.1 : behind < BEHIND_S / 3 ? 0.97 : 1;
    if (!began && edge - start > 0) {
      began = true;
      report({ state: 'playing' });
    }
  };

  source.addEventListener('sourceopen', () => URL.revokeObjectURL(url), { once: true });
  socket.onmessage = ({ data }: MessageEvent<ArrayBuffer | string>) => {
    if (over) return;
    if (typeof data !== 'string') total += data.byteLength;
    if (buffer) {
      // A buffer keeps its kinds of tracks: with one more or less it is begun anew.
      if (typeof data === 'string' && codecs(data) !== codecs(mime)) return end({ state: 'ended' });
      queue.push(data);
      if (queue.length > MOST) return end({ state: 'ended' });
      return next();
    }
    if (typeof data !== 'string') return;
    mime = data;
    if (!MediaSource.isTypeSupported(mime)) return end({ state: 'failed', why: `undecodable ${mime}` });
    const add = () => {
      if (over) return;
      try {
        buffer = source.addSourceBuffer(mime);
      } catch (why) {
        return end({ state: 'failed', why: String(why) });
      }
      buffer.onupdateend = next;
      buffer.onerror = () => end({ state: 'failed', why: video.error?.message || 'the browser cannot decode it' });
      next();
    };
    if (source.readyState === 'open') add();
    else source.addEventListener('sourceopen', add, { once: true });
  };
  socket.onclose = async event => {
    if (began || event.code === 1000) return end({ state: 'ended' });
    if (event.code >= 4400) return end({ state: 'failed', ...refused(new Refused(event.code - 4000, event.reason)) });
    if (!over) end({ state: 'failed', ...await refusal(stream) });
  };
  video.src = url;

  return {
    stop() {
      over = true;
      socket.close();
      video.removeAttribute('src');
      video.load();
      video.playbackRate = 1;
    },
    async figures(): Promise<Figures> {
      const now = performance.now(), bits = (total - last.bytes) * 8000 / Math.max(1, now - last.at);
      last = { bytes: total, at: now };
      const { buffered } = video;
      const behind = buffered.length ? (buffered.end(buffered.length - 1) - video.currentTime) * 1000 : undefined;
      return { bits_per_second: bits, latency_ms: behind, codec: mime.match(/codecs="([^"]*)"/)?.[1],
        dropped: video.getVideoPlaybackQuality().droppedVideoFrames };
    },
  };
};
