// What is known of the node, kept up to date by its events; rates, which have none, are asked for every 5 s while somebody looks.
import { useEffect, useReducer } from 'preact/hooks';
import { events, json, list, type Below, type News, type Peer, type Stream, type Upper } from './api';

/** Streams of platforms are asked for, for so many platforms at once; others when they are opened. */
const OPEN = 64;
const RATES_MS = 5000;
/** News that come together are one. */
const TOGETHER_MS = 100;
/** News that are shown. */
const KEPT = 500;

export type Heard = { at: number; kind: string; what: string; state: string };

export const store = {
  cid: '', name: '', linked: false, loaded: false, problem: null as string | null,
  streams: [] as Stream[], peers: [] as Peer[], uppers: [] as Upper[], heard: [] as Heard[],
  /** Platforms that the configuration admits and that were never here since this node started. */
  awaited: [] as string[],
  /** What is known of a platform: its streams, and the platforms below it. */
  below: new Map<string, { streams: Stream[]; peers: Below[] }>(),
  /** Bits per second through a link, down to the platform and up from it. */
  rates: new Map<string, { down: number; up: number }>(),
};

const listeners = new Set<() => void>();
let known: Playable[] | null = null;
const tell = () => {
  known = null;
  listeners.forEach(call => call());
};

/** Renders anew when something has changed. */
export function useStore() {
  const [, render] = useReducer((n: number, _: void) => n + 1, 0);
  useEffect(() => {
    const call = () => render();
    listeners.add(call);
    return () => { listeners.delete(call); };
  }, []);
  return store;
}

export type Playable = { name: string; stream: Stream; peer: Peer | null };

/** What can be played here: own streams, and those of platforms under the name that they have here. */
export function playable(): Playable[] {
  known ??= [
    ...store.streams.filter(stream => stream.origin !== 'relay').map(stream => ({ name: stream.name, stream, peer: null })),
    ...store.peers.flatMap(peer => (store.below.get(peer.cid)?.streams ?? []).flatMap(stream =>
      stream.play ? [{ name: stream.play, stream, peer }] : [])),
  ];
  return known;
}

export const find = (name: string) => playable().find(one => one.name === name);
/** The relay that brings a platform's stream here, while there is one. */
export const relay = (name: string) => store.streams.find(stream => stream.origin === 'relay' && stream.name === name);

async function loadStreams() { store.streams = await list<Stream>('/api/v1/streams'); }
export async function loadBelow(cid: string) {
  // One that is forgotten just now has none.
  const none = { streams: [], peers: [] };
  const { streams, peers } = await json<{ streams: Stream[]; peers: Below[] }>(`/api/v1/peers/${encodeURIComponent(cid)}`).catch(() => none);
  store.below.set(cid, { streams, peers });
  tell();
}

const sent = new Map<string, { at: number; down: number; up: number }>();

async function loadPeers() {
  store.peers = await list<Peer>('/api/v1/peers', 20_000);
  const there = new Set(store.peers.map(peer => peer.cid)), now = performance.now();
  for (const map of [store.below, store.rates, sent]) for (const cid of map.keys()) if (!there.has(cid)) map.delete(cid);
  for (const { cid, link } of store.peers) {
    const before = sent.get(cid);
    if (!link) { sent.delete(cid); store.rates.delete(cid); continue; }
    // Over less than this a rate is noise.
    if (before && now - before.at < RATES_MS / 2) continue;
    sent.set(cid, { at: now, down: link.sent_bytes, up: link.received_bytes });
    const rate = (to: number, from: number) => Math.max(0, (to - from) * 8000 / (now - before!.at));
    if (before) store.rates.set(cid, { down: rate(link.sent_bytes, before.down), up: rate(link.received_bytes, before.up) });
  }
}

type Config = { node: { cid: string; name: string | null }; cascade?: { lowers?: { admit?: { cid: string }[] } } };

async function loadAll() {
  // Who may look at streams need not be one who may look at these.
  const config = json<Config>('/api/v1/config').catch(() => null), uppers = list<Upper>('/api/v1/uppers').catch(() => []);
  await Promise.all([loadStreams(), loadPeers()]);
  store.uppers = await uppers;
  const { node, cascade } = await config ?? {};
  store.cid = node?.cid ?? '';
  store.name = node?.name ?? store.cid;
  const there = new Set(store.peers.map(peer => peer.cid));
  store.awaited = (cascade?.lowers?.admit ?? []).map(one => one.cid).filter(cid => !/[*?{[]/.test(cid) && !there.has(cid));
  await Promise.all(store.peers.slice(0, OPEN).map(peer => loadBelow(peer.cid)));
}

async function load(what: () => Promise<unknown>) {
  try {
    await what();
    store.problem = null;
    store.loaded = true;
  } catch (why) {
    store.problem = why instanceof Error ? why.message : String(why);
  }
  tell();
}

let running: AbortController | null = null;

export function start() {
  running?.abort();
  const run = running = new AbortController();
  const due = new Set<string>();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const later = (what: string) => {
    due.add(what);
    timer ??= setTimeout(() => {
      timer = undefined;
      const now = new Set(due);
      due.clear();
      load(async () => {
        if (now.has('all')) return loadAll();
        if (now.has('streams')) await loadStreams();
        if (now.has('peers')) await loadPeers();
        await Promise.all([...now].filter(one => one.startsWith('peer ')).map(one => loadBelow(one.slice(5))));
      });
    }, TOGETHER_MS);
  };
  later('all');
  events(run.signal, (news: News) => {
    if (news.kind === 'reload') return later('all');
    const { name, cid, state } = news.data ?? {};
    store.heard = [{ at: Date.now(), kind: news.kind, what: name ?? cid ?? '', state: state ?? '' }, ...store.heard].slice(0, KEPT);
    if (news.kind === 'stream') later('streams');
    if (news.kind === 'peer' && cid) { later('peers'); later(`peer ${cid}`); }
    tell();
  }, is => { store.linked = is; tell(); });
  const rates = setInterval(() => { if (!document.hidden && listeners.size) { later('streams'); later('peers'); } }, RATES_MS);
  run.signal.addEventListener('abort', () => { clearInterval(rates); clearTimeout(timer); });
}

export function halt() {
  running?.abort();
  running = null;
}
