// Low-latency HLS, with hls.js; with the browser's own player where there is no Media Source.
import Hls from 'hls.js/light';
import { inPath, media, Refused, ROOT, token } from '../api';
import { refused, type Begin, type Figures } from './index';

export const begin: Begin = (video, stream, report) => {
  const playing = () => report({ state: 'playing' });
  const ended = () => report({ state: 'ended' });
  video.addEventListener('loadeddata', playing, { once: true });
  video.addEventListener('ended', ended);
  if (!Hls.isSupported()) {
    video.src = media(`/play/${inPath(stream)}.m3u8`);
    video.onerror = () => report({ state: 'failed', why: video.error?.message ?? 'hls' });
    return {
      stop() {
        video.removeEventListener('loadeddata', playing);
        video.removeEventListener('ended', ended);
        video.onerror = null;
        video.removeAttribute('src');
        video.load();
      },
      figures: async () => ({}),
    };
  }
  const hls = new Hls({ lowLatencyMode: true, enableWorker: false, backBufferLength: 10, liveSyncMode: 'edge',
    // In a header, where no log has it.
    xhrSetup(request) { const own = token.get(); if (own) request.setRequestHeader('Authorization', `Bearer ${own}`); } });
  hls.on(Hls.Events.ERROR, (_, error) => {
    const status = error.response?.code ?? 0;
    if (error.fatal) report({ state: 'failed', ...(status >= 400 ? refused(new Refused(status, error.details)) : { why: error.error?.message ?? error.details }) });
  });
  hls.loadSource(new URL(`${ROOT}/play/${inPath(stream)}.m3u8`, location.href).href);
  hls.attachMedia(video);
  return {
    stop() {
      video.removeEventListener('loadeddata', playing);
      video.removeEventListener('ended', ended);
      hls.destroy();
    },
    async figures(): Promise<Figures> {
      const level = hls.levels[0];
      return { latency_ms: hls.latency * 1000, bits_per_second: level?.bitrate, codec: level?.attrs.CODECS,
        dropped: video.getVideoPlaybackQuality().droppedVideoFrames };
    },
  };
};
