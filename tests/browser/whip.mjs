// Publishes Chromium's fake camera and microphone by WHIP for some seconds and says how it went, as JSON in one line.
// node whip.mjs PAGE URL SECONDS [CODEC]: URL an http://../whip/NAME, CODEC such as `video/VP8` to offer that alone.
import { open } from './launch.mjs';

const [page_url, url, seconds, codec] = process.argv.slice(2);
const { browser, page } = await open(page_url, ['--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream']);
try {
  const published = await page.evaluate(async ([url, seconds, codec]) => {
    const media = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 360, frameRate: 25 }, audio: true });
    const peer = new RTCPeerConnection();
    for (const track of media.getTracks()) {
      const line = peer.addTransceiver(track, { direction: 'sendonly', streams: [media] });
      if (codec && track.kind === 'video') {
        line.setCodecPreferences(RTCRtpSender.getCapabilities('video').codecs.filter(one => one.mimeType === codec));
      }
    }
    await peer.setLocalDescription();
    const headers = { 'Content-Type': 'application/sdp' };
    const response = await fetch(url, { method: 'POST', headers, body: peer.localDescription.sdp });
    if (!response.ok) return { status: response.status, problem: await response.json() };
    const location = response.headers.get('Location');
    await peer.setRemoteDescription({ type: 'answer', sdp: await response.text() });
    await new Promise(done => setTimeout(done, seconds * 1000));
    const all = [...(await peer.getStats()).values()];
    const sent = all.find(one => one.type === 'outbound-rtp' && one.kind === 'video');
    const published = { status: response.status, state: peer.connectionState, frames: sent?.framesEncoded,
      keys: sent?.keyFramesEncoded, plis: sent?.pliCount, nacks: sent?.nackCount,
      codec: all.find(one => one.id === sent?.codecId)?.mimeType };
    published.goodbye = (await fetch(new URL(location, url), { method: 'DELETE' })).status;
    return published;
  }, [url, Number(seconds), codec]);
  console.log(JSON.stringify(published));
} finally {
  await browser.close();
}
