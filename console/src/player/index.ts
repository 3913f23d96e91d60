// A player: something that fills a <video> until it is stopped, and says how it goes.
import { ask, inPath, Refused, type Track } from '../api';

export type Protocol = 'whep' | 'mp4' | 'flv' | 'hls';
export const PROTOCOLS: Protocol[] = ['whep', 'mp4', 'flv', 'hls'];

/** What a player has to say. `failed` ends it; another may be tried. */
/** `final`: by another protocol it would be the same. */
export type Report = { state: 'playing' } | { state: 'ended' } | { state: 'failed'; why: string; final?: boolean };
export type Figures = { bits_per_second?: number; latency_ms?: number; dropped?: number; codec?: string; lost?: number; path?: string };

export interface Player {
  stop(): void;
  figures(): Promise<Figures>;
}

export type Begin = (video: HTMLVideoElement, stream: string, report: (report: Report) => void) => Player;

const BEGIN: Record<Protocol, () => Promise<Begin>> = {
  whep: async () => (await import('./whep')).begin,
  mp4: async () => (await import('./mse')).begin,
  flv: async () => (await import('./flv')).begin,
  hls: async () => (await import('./hls')).begin,
};

export const begin = (protocol: Protocol) => BEGIN[protocol]();

const mse = (mime: string) => 'MediaSource' in window && MediaSource.isTypeSupported(mime);
const MIME: Record<string, string> = {
  h264: 'video/mp4; codecs="avc1.640028"', h265: 'video/mp4; codecs="hvc1.1.6.L120.90"', av1: 'video/mp4; codecs="av01.0.08M.08"',
  vp9: 'video/mp4; codecs="vp09.00.41.08"',
};

function receives(codec: string): boolean {
  const capabilities = 'RTCRtpReceiver' in window ? RTCRtpReceiver.getCapabilities('video') : null;
  const name = `video/${{ h264: 'H264', h265: 'H265', av1: 'AV1', vp8: 'VP8', vp9: 'VP9' }[codec] ?? codec}`;
  return capabilities?.codecs.some(one => one.mimeType.toLowerCase() === name.toLowerCase()) ?? false;
}

/** What this browser may play of a stream, the best first. */
export function order(tracks: Track[]): Protocol[] {
  const video = tracks.find(track => track.width !== undefined || MIME[track.codec] || track.codec === 'vp8')?.codec;
  const may = (protocol: Protocol) => {
    if (!video) return protocol !== 'mp4' && protocol !== 'flv' || 'MediaSource' in window;
    if (protocol === 'whep') return receives(video);
    if (protocol === 'hls' && document.createElement('video').canPlayType('application/vnd.apple.mpegurl')) return true;
    return MIME[video] !== undefined && mse(MIME[video]);
  };
  const able = PROTOCOLS.filter(may);
  // Where nothing is said to fit, each is tried: the browser's own reason is better than ours.
  return able.length ? able : PROTOCOLS;
}

/** What this node says of a stream where a socket says nothing: browsers do not show why one was not opened. */
export async function refusal(stream: string): Promise<{ why: string; final: boolean }> {
  try {
    await ask(`/play/${inPath(stream)}.mp4`, { method: 'HEAD' });
  } catch (why) {
    if (why instanceof Refused) return refused(why);
  }
  return { why: 'no-socket', final: false };
}

export function refused({ status, message }: Refused): { why: string; final: boolean } {
  const why = { 401: 'wrong_token', 403: 'not_allowed', 404: 'stream_gone' }[status] ?? message;
  return { why, final: [401, 403, 404].includes(status) };
}
