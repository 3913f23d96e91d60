// Plays a stream by hls.js in Chromium and says how it went, as JSON in one line.
// node hls.mjs PAGE URL SECONDS [SCREENSHOT]: PAGE is any page of the node, URL an http://../play/NAME.m3u8.
import { open } from './launch.mjs';

const [page_url, url, seconds, screenshot] = process.argv.slice(2);
const { browser, page } = await open(page_url);
try {
  await page.addScriptTag({ path: 'node_modules/hls.js/dist/hls.min.js' });
  const played = await page.evaluate(async ([url, seconds]) => {
    const { video, out, run } = watch();
    Object.assign(out, { fatal: [], others: {}, parts: 0, discontinuities: 0, levels: [] });
    const hls = new Hls({ lowLatencyMode: true, maxLiveSyncPlaybackRate: 1.1, enableWorker: false });
    hls.on(Hls.Events.ERROR, (_, data) => {
      if (data.fatal) out.fatal.push(`${data.type}: ${data.details} ${data.error?.message ?? ''}`);
      else out.others[data.details] = (out.others[data.details] ?? 0) + 1;
    });
    hls.on(Hls.Events.MANIFEST_PARSED, (_, data) => {
      out.levels = data.levels.map(level => ({ codecs: level.attrs.CODECS, width: level.width, height: level.height }));
    });
    hls.on(Hls.Events.FRAG_LOADED, (_, data) => { if (data.part) out.parts += 1; });
    let last = null;
    hls.on(Hls.Events.FRAG_CHANGED, (_, data) => {
      if (last !== null && data.frag.cc !== last) out.discontinuities += 1;
      last = data.frag.cc;
    });
    hls.loadSource(url);
    hls.attachMedia(video);
    video.play().catch(error => out.errors.push(`play: ${error.message}`));
    const played = await run(seconds, 4000);
    played.hls_latency_s = hls.latency;
    played.target_latency_s = hls.targetLatency;
    return played;
  }, [url, Number(seconds)]);
  if (screenshot) await page.screenshot({ path: screenshot });
  console.log(JSON.stringify(played));
} finally {
  await browser.close();
}
