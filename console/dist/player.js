// A plain player page: lists the streams of this node and plays one by WS-FLV. Strings from the API are shown as text,
// never as markup.
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

function row(stream) {
  const tr = document.createElement("tr");
  const tracks = stream.tracks.map((t) => (t.width ? `${t.codec} ${t.width}×${t.height}` : t.codec)).join(", ");
  const cells = [stream.name, tracks, stream.viewers, Math.round(stream.bits_per_second / 1000)];
  for (const text of cells) tr.insertCell().textContent = text;
  const button = document.createElement("button");
  button.textContent = "Play";
  button.onclick = () => play(stream.name);
  tr.insertCell().append(button);
  return tr;
}

async function refresh() {
  try {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    // Without credentials of the browser's own: it would ask for a password where this page has a sentence to show.
    const answer = await fetch("/api/v1/streams", { headers, credentials: "omit" });
    const body = await answer.json();
    if (!answer.ok) {
      say(answer.status === 401 ? "This node wants a token: open this page with #token=… at its end." : body.detail);
      return;
    }
    rows.replaceChildren(...body.items.map(row));
    if (!playing && body.items.length) play(body.items[0].name);
    if (!body.items.length) say("No stream yet.");
  } catch {
    say("This node does not answer.");
  }
}

refresh();
setInterval(refresh, 5000);
