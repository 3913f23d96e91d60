// Plays a stream by WHEP in Chromium and says how it went, as JSON in one line.
// node whep.mjs PAGE URL SECONDS [WAY [SCREENSHOT]]: PAGE is any page of the node, URL an http://../whep/NAME, WAY `tcp` to leave out all
// candidates but those, `restart` to begin ICE anew by PATCH while it plays, `leave` to say so and not to do it, or a number: the port of this machine at which the node is to be looked
// for instead.
import { open } from './launch.mjs';

const [page_url, url, seconds, way, screenshot] = process.argv.slice(2);
const { browser, page } = await open(page_url);
try {
  const played = await page.evaluate(async ([url, seconds, way]) => {
    const { video, out, run } = watch();
    const peer = new RTCPeerConnection();
    // As players do, and for a way that loses as others do.
    const kinds = Number(way) ? ['audio', 'video'] : ['video', 'audio'];
    for (const kind of kinds) peer.addTransceiver(kind, { direction: 'recvonly' });
    const stream = new MediaStream();
    peer.ontrack = event => { stream.addTrack(event.track); video.srcObject = stream; };
    await peer.setLocalDescription();
    const posted = performance.now();
    const first = new Promise(done => video.requestVideoFrameCallback(() => done(performance.now() - posted)));
    const headers = { 'Content-Type': 'application/sdp' };
    const response = await fetch(url, { method: 'POST', headers, body: peer.localDescription.sdp });
    out.status = response.status;
    if (!response.ok) return { ...out, problem: await response.json() };
    const location = response.headers.get('Location');
    let sdp = await response.text();
    if (way === 'tcp') sdp = sdp.split('\r\n').filter(line => !/^a=candidate:.* udp /i.test(line)).join('\r\n');
    if (Number(way)) {
      const moved = line => line.replace(/^(a=candidate:.* udp \d+) \S+ \d+ /i, `$1 127.0.0.1 ${way} `);
      sdp = sdp.split('\r\n').filter(line => !/^a=candidate:.* tcp /i.test(line)).map(moved).join('\r\n');
    }
    await peer.setRemoteDescription({ type: 'answer', sdp });
    video.play().catch(error => out.errors.push(`play: ${error.message}`));
    if (way === 'leave') {
      await first;
      const fragment = 'a=ice-ufrag:gone\r\na=ice-pwd:gonegonegonegonegonegone\r\n';
      const headers = { 'Content-Type': 'application/trickle-ice-sdpfrag', 'If-Match': '*' };
      out.left = (await fetch(new URL(location, url), { method: 'PATCH', body: fragment, headers })).status;
    }
    if (way === 'restart') {
      await first;
      peer.restartIce();
      await peer.setLocalDescription(await peer.createOffer({ iceRestart: true }));
      const own = key => peer.localDescription.sdp.match(new RegExp(`^a=ice-${key}:.*$`, 'm'))[0];
      const fragment = `${own('ufrag')}\r\n${own('pwd')}\r\n`;
      const patch = tag => fetch(new URL(location, url), { method: 'PATCH', body: fragment,
        headers: { 'Content-Type': 'application/trickle-ice-sdpfrag', 'If-Match': tag } });
      out.stale = (await patch('"other"')).status;
      const changed = await patch('*'), text = await changed.text();
      out.restart = [changed.status, changed.headers.get('Content-Type'), changed.headers.get('ETag') !== response.headers.get('ETag')];
      const theirs = key => text.match(new RegExp(`^a=ice-${key}:.*$`, 'm'))[0].trim();
      for (const key of ['ufrag', 'pwd']) sdp = sdp.replace(new RegExp(`^a=ice-${key}:.*$`, 'gm'), `${theirs(key)}\r`).replace(/\r\r/g, '\r');
      out.renamed = sdp !== peer.remoteDescription.sdp;
      await peer.setRemoteDescription({ type: 'answer', sdp });
    }
    const played = await run(seconds, 1000);
    played.first_frame_ms = Math.round(await Promise.race([first, new Promise(done => setTimeout(done, 1000, -1))]));
    const all = [...(await peer.getStats()).values()];
    const of = (type, kind) => all.find(one => one.type === type && (!kind || one.kind === kind));
    const codec = one => all.find(other => other.id === one?.codecId)?.mimeType;
    const [seen, heard] = [of('inbound-rtp', 'video'), of('inbound-rtp', 'audio')];
    const pair = all.find(one => one.type === 'candidate-pair' && one.nominated && one.state === 'succeeded');
    const local = all.find(one => one.id === pair?.localCandidateId);
    Object.assign(played, {
      protocol: local?.protocol, state: peer.connectionState,
      video: { codec: codec(seen), decoded: seen?.framesDecoded, keys: seen?.keyFramesDecoded, dropped: seen?.framesDropped,
        lost: seen?.packetsLost, nacks: seen?.nackCount, plis: seen?.pliCount, freezes: seen?.freezeCount,
        jitter_ms: 1000 * seen?.jitterBufferDelay / seen?.jitterBufferEmittedCount },
      audio: { codec: codec(heard), samples: heard?.totalSamplesReceived, concealed: heard?.concealedSamples,
        energy: heard?.totalAudioEnergy, lost: heard?.packetsLost },
    });
    if (way === 'leave') return played;
    const goodbye = await fetch(new URL(location, url), { method: 'DELETE' });
    played.goodbye = goodbye.status;
    return played;
  }, [url, Number(seconds), way]);
  if (screenshot) await page.screenshot({ path: screenshot });
  console.log(JSON.stringify(played));
} finally {
  await browser.close();
}
