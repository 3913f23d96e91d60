// WebRTC by WHEP. The platform itself is tried first (`path=auto`); one that is not connected after 3 s asks again, and then it is this node.
import { ask, inPath, ROOT, Refused } from '../api';
import { refused, type Begin, type Figures } from './index';

const CONNECT_MS = 3000;
/** Offers on their way at once: an answer may take as long as a camera takes to start, and a browser has six connections to a host. */
const OFFERS = 3;

let offers = 0;
const queue: (() => void)[] = [];
async function turn<T>(call: () => Promise<T>): Promise<T> {
  if (offers >= OFFERS) await new Promise<void>(next => queue.push(next));
  offers += 1;
  try { return await call(); } finally {
    offers -= 1;
    queue.shift()?.();
  }
}

export const begin: Begin = (video, stream, report) => {
  const gone = new AbortController();
  let peer: RTCPeerConnection | null = null, session: string | null = null, path = '';
  let before = { bytes: 0, at: 0 };
  const close = () => {
    peer?.close();
    peer = null;
    if (session) ask(session, { method: 'DELETE', keepalive: true }).catch(() => {});
    session = null;
  };

  const attempt = async (): Promise<boolean> => {
    const own = peer = new RTCPeerConnection();
    own.addTransceiver('video', { direction: 'recvonly' });
    own.addTransceiver('audio', { direction: 'recvonly' });
    const media = new MediaStream();
    own.ontrack = event => {
      media.addTrack(event.track);
      if (video.srcObject !== media) video.srcObject = media;
      // Live: what comes is shown.
      (event.receiver as RTCRtpReceiver & { jitterBufferTarget?: number }).jitterBufferTarget = 0;
    };
    await own.setLocalDescription();
    // Not given up half-way: the session would be there, and nobody would know its name.
    const answer = await turn(() => {
      if (gone.signal.aborted) throw new Error('stopped');
      return ask(`/whep/${inPath(stream)}?path=auto`, {
        method: 'POST', headers: { 'Content-Type': 'application/sdp' }, body: own.localDescription!.sdp,
      });
    });
    path = answer.headers.get('Culvert-Path') ?? '';
    const location = answer.headers.get('Location');
    if (location) {
      // From the root of the node, whatever a gateway has in front of it.
      const { pathname, search } = new URL(location, window.location.href);
      session = (ROOT && pathname.startsWith(`${ROOT}/`) ? pathname.slice(ROOT.length) : pathname) + search;
    }
    if (gone.signal.aborted) throw new Error('stopped');
    await own.setRemoteDescription({ type: 'answer', sdp: await answer.text() });
    const connected = await new Promise<boolean>(done => {
      const look = () => {
        if (own.connectionState === 'connected') done(true);
        if (['failed', 'closed'].includes(own.connectionState)) done(false);
      };
      own.onconnectionstatechange = look;
      setTimeout(() => done(own.connectionState === 'connected'), CONNECT_MS);
      look();
    });
    if (!connected) return false;
    own.onconnectionstatechange = () => {
      if (['failed', 'disconnected', 'closed'].includes(own.connectionState) && peer === own) report({ state: 'ended' });
    };
    return true;
  };

  (async () => {
    try {
      for (let tries = 0; tries < 2; tries += 1) {
        if (await attempt()) return report({ state: 'playing' });
        close();
        if (gone.signal.aborted) return;
      }
      report({ state: 'failed', why: 'no-connection' });
    } catch (why) {
      close();
      if (!gone.signal.aborted) report({ state: 'failed', ...(why instanceof Refused ? refused(why) : { why: String(why) }) });
    }
  })();

  return {
    stop() {
      gone.abort();
      close();
      video.srcObject = null;
    },
    async figures(): Promise<Figures> {
      if (!peer) return {};
      const all = [...(await peer.getStats()).values()];
      const seen = all.find(one => one.type === 'inbound-rtp' && one.kind === 'video');
      if (!seen) return { path };
      const codec = all.find(one => one.id === seen.codecId)?.mimeType;
      const pair = all.find(one => one.type === 'candidate-pair' && one.nominated);
      const bits = before.at ? (seen.bytesReceived - before.bytes) * 8000 / (seen.timestamp - before.at) : undefined;
      before = { bytes: seen.bytesReceived, at: seen.timestamp };
      const waits = 1000 * seen.jitterBufferDelay / Math.max(1, seen.jitterBufferEmittedCount);
      return {
        bits_per_second: bits, codec, path, dropped: seen.framesDropped, lost: seen.packetsLost,
        latency_ms: waits + 500 * (pair?.currentRoundTripTime ?? 0),
      };
    },
  };
};
