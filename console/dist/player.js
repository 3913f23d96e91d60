// A plain player page: lists the streams of this node and of the platforms below it, and plays one by WS-FLV. Strings from
// the API are shown as text, never as markup.
"use strict";

const token = new URLSearchParams(location.hash.slice(1)).get("token");
const video = document.getElementById("video");
const state = document.getElementById("state");
const rows = document.getElementById("streams");
let player = null;
let playing = null;

document.getElementById("publish").textContent =
  `ffmpeg -re -i FILE -c copy -f flv rtmp://${location.host}/live/cam1`;

function say(text) {
  state.textContent = text;
}

function stop() {
  if (player) {
    player.destroy();
    player = null;
  }
}

function play(name) {
  stop();
  playing = name;
  const url = new URL(`/play/${name}.flv`, location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  if (token) url.searchParams.set("token", token);
  player = mpegts.createPlayer(
    { type: "flv", isLive: true, url: url.href },
    { liveBufferLatencyChasing: true, enableStashBuffer: false },
  );
  player.on(mpegts.Events.ERROR, (kind, detail) => {
    say(`${name}: ${kind}, ${detail}. Trying again…`);
    setTimeout(() => playing === name && play(name), 2000);
  });
  player.on(mpegts.Events.LOADING_COMPLETE, () => say(`${name} ended.`));
  video.onplaying = () => say(`Playing ${name}.`);
  player.attachMediaElement(video);
  player.load();
  video.play().catch(() => say("Press play: this browser starts no video by itself."));
  say(`Connecting to ${name}…`);
}

// What is shown at once; beyond, the API has the rest.
const PLATFORMS = 50;

function time(text) {
  return new Date(text).toLocaleTimeString();
}

function row(stream, name) {
  const tr = document.createElement("tr");
  const tracks = stream.tracks.map((t) => (t.width ? `${t.codec} ${t.width}×${t.height}` : t.codec)).join(", ");
  const what = stream.state === "live" ? tracks : [stream.state, stream.error].filter(Boolean).join(": ");
  const cells = [stream.name, what, stream.viewers, Math.round(stream.bits_per_second / 1000)];
  for (const text of cells) tr.insertCell().textContent = text;
  const button = document.createElement("button");
  button.textContent = "Play";
  button.disabled = !name;
  button.onclick = () => play(name);
  tr.insertCell().append(button);
  return tr;
}

function heading(peer) {
  const tr = document.createElement("tr");
  const th = document.createElement("th");
  const name = peer.name === peer.cid ? peer.cid : `${peer.name} (${peer.cid})`;
  const link = peer.linked ? "linked" : `unknown since ${time(peer.unknown_since)}: ${peer.error}`;
  th.colSpan = 5;
  th.className = peer.linked ? "linked" : "lost";
  th.textContent = `${name}, ${link}`;
  tr.append(th);
  return tr;
}

async function ask(path) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  // Without credentials of the browser's own: it would ask for a password where this page has a sentence to show.
  const answer = await fetch(path, { headers, credentials: "omit" });
  const body = await answer.json();
  if (answer.ok) return body.items;
  throw new Error(answer.status === 401 ? "This node wants a token: open this page with #token=… at its end." : body.detail);
}

// A platform and its streams. Nothing is played before somebody asks: that is when its video begins to cross the link.
async function platform(peer) {
  // One that is forgotten just now has none.
  const streams = await ask(`/api/v1/streams?peer=${encodeURIComponent(peer.cid)}`).catch(() => []);
  return [heading(peer), ...streams.map((stream) => row(stream, stream.play))];
}

async function refresh() {
  try {
    const [streams, peers] = await Promise.all([ask("/api/v1/streams"), ask("/api/v1/peers")]);
    // What comes from below is listed with its platform.
    const own = streams.filter((stream) => stream.origin !== "relay");
    const below = await Promise.all(peers.slice(0, PLATFORMS).map(platform));
    rows.replaceChildren(...own.map((stream) => row(stream, stream.name)), ...below.flat());
    if (playing) return;
    if (own.length) play(own[0].name);
    else say(peers.length ? "Press Play: video from a platform below comes while somebody watches." : "No stream yet.");
  } catch (error) {
    say(error instanceof TypeError ? "This node does not answer." : error.message);
  }
}

refresh();
setInterval(refresh, 5000);
