// FLV by WebSocket, with mpegts.js.
import mpegts from 'mpegts.js';
import { inPath, socket as address } from '../api';
import { refusal, type Begin, type Figures } from './index';

export const begin: Begin = (video, stream, report) => {
  mpegts.LoggingControl.enableAll = false;
  const player = mpegts.createPlayer(
    { type: 'flv', isLive: true, url: address(`/play/${inPath(stream)}.flv`) },
    { liveBufferLatencyChasing: true, enableStashBuffer: false, autoCleanupSourceBuffer: true },
  );
  let over = false, codec: string | undefined, kbytes: number | undefined;
  const end = (say: Parameters<typeof report>[0]) => { if (!over) { over = true; report(say); } };
  // It says that something went wrong with the network; the node says what.
  player.on(mpegts.Events.ERROR, async (kind: string, detail: string) =>
    end({ state: 'failed', ...(kind === 'NetworkError' ? await refusal(stream) : { why: `${kind}: ${detail}` }) }));
  player.on(mpegts.Events.LOADING_COMPLETE, () => end({ state: 'ended' }));
  player.on(mpegts.Events.MEDIA_INFO, (info: { mimeType?: string }) => { codec = info.mimeType?.match(/codecs="([^"]*)"/)?.[1]; });
  player.on(mpegts.Events.STATISTICS_INFO, (info: { speed?: number }) => { kbytes = info.speed; });
  const playing = () => report({ state: 'playing' });
  video.addEventListener('loadeddata', playing, { once: true });
  player.attachMediaElement(video);
  player.load();
  return {
    stop() {
      over = true;
      video.removeEventListener('loadeddata', playing);
      player.destroy();
    },
    async figures(): Promise<Figures> {
      const { buffered } = video;
      const behind = buffered.length ? (buffered.end(buffered.length - 1) - video.currentTime) * 1000 : undefined;
      return { codec, bits_per_second: kbytes === undefined ? undefined : kbytes * 8192, latency_ms: behind,
        dropped: video.getVideoPlaybackQuality().droppedVideoFrames };
    },
  };
};
