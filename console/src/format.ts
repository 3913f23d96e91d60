// Figures as people read them.
import type { Track } from './api';

export function bits(perSecond: number): string {
  if (perSecond >= 1e6) return `${(perSecond / 1e6).toFixed(perSecond >= 1e7 ? 0 : 1)} Mbit/s`;
  return `${Math.round(perSecond / 1e3)} kbit/s`;
}

export function bytes(count: number): string {
  const units = ['B', 'KB', 'MB', 'GB', 'TB', 'PB'];
  let at = 0, value = count;
  while (value >= 1000 && at < units.length - 1) { value /= 1000; at += 1; }
  return `${value >= 100 || at === 0 ? Math.round(value) : value.toFixed(1)} ${units[at]}`;
}

export function span(ms: number): string {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor(s % 86_400 / 3600)} h`;
}

export const since = (time: string | null | undefined) => time ? span(Date.now() - Date.parse(time)) : '–';
export const clock = (time: string | null | undefined) => time ? new Date(time).toLocaleString(document.documentElement.lang === 'zh' ? 'zh-CN' : undefined) : '–';

const NAMES: Record<string, string> = {
  h264: 'H.264', h265: 'H.265', av1: 'AV1', vp8: 'VP8', vp9: 'VP9', aac: 'AAC', opus: 'Opus', flac: 'FLAC', mp3: 'MP3', g711a: 'G.711 A', g711u: 'G.711 µ',
  pcma: 'G.711 A', pcmu: 'G.711 µ',
};

export function track(one: Track): string {
  const name = NAMES[one.codec] ?? one.codec;
  const fps = one.fps ? ` ${Math.round(one.fps)}` : '';
  return one.width ? `${name} ${one.width}×${one.height}${fps}` : name;
}

export const tracks = (all: Track[]) => all.map(track).join(' · ');
