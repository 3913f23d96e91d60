// Low-latency HLS, with hls.js; with the browser's own player where there is no Media Source.
import Hls from 'hls.js/light';
import { inPath, media } from '../api';
import type { Begin, Figures } from './index';

export const begin: Begin = (video, stream, report) => {
  const url = media(`/play/${inPath(stream)}.m3u8`);
  const playing = () => report({ state: 'playing' });
  video.addEventListener('loadeddata', playing, { once: true });
  if (!Hls.isSupported()) {
    video.src = url;
    video.onerror = () => report({ state: 'failed', why: video.error?.message ?? 'hls' });
    return { stop() { video.removeAttribute('src'); video.load(); }, figures: async () => ({}) };
  }
  const hls = new Hls({ lowLatencyMode: true, enableWorker: false, backBufferLength: 10, liveSyncMode: 'edge' });
  hls.on(Hls.Events.ERROR, (_, error) => {
    if (error.fatal) report({ state: 'failed', why: error.error?.message ?? error.details });
  });
  hls.loadSource(url);
  hls.attachMedia(video);
  return {
    stop() {
      video.removeEventListener('loadeddata', playing);
      hls.destroy();
    },
    async figures(): Promise<Figures> {
      const level = hls.levels[0];
      return { latency_ms: hls.latency * 1000, bits_per_second: level?.bitrate, codec: level?.attrs.CODECS,
        dropped: video.getVideoPlaybackQuality().droppedVideoFrames };
    },
  };
};
