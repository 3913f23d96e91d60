// A player: something that fills a <video> until it is stopped, and says how it goes.
import type { Track } from '../api';

export type Protocol = 'whep' | 'mp4' | 'flv' | 'hls';
export const PROTOCOLS: Protocol[] = ['whep', 'mp4', 'flv', 'hls'];

/** What a player has to say. `failed` ends it; another may be tried. */
export type Report = { state: 'playing' } | { state: 'ended' } | { state: 'failed'; why: string };
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
    if (!video) return true;
    if (protocol === 'whep') return receives(video);
    return MIME[video] !== undefined && mse(MIME[video]);
  };
  const able = PROTOCOLS.filter(may);
  // Where nothing is said to fit, each is tried: the browser's own reason is better than ours.
  return able.length ? able : PROTOCOLS;
}
