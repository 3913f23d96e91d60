// What is known of the node, kept up to date by its events; rates, which have none, are asked for every 5 s while somebody looks.
import { useEffect, useReducer } from 'preact/hooks';
import { events, json, list, Refused, type Below, type News, type Peer, type Stream, type Upper } from './api';

const RATES_MS = 5000;
/** News that come together are one. */
const TOGETHER_MS = 100;
/** Platforms that are asked about at once, and the pause after so many: of a thousand that all have news a page does not want to be the load. */
const AT_ONCE = 24, PAUSE_MS = 400;
/** News that are shown. */
const KEPT = 500;

export type Heard = { at: number; kind: string; what: string; state: string };

export const store = {
  cid: '', name: '', linked: false, loaded: false,
  /** What is below was asked for, too. */
  whole: false, problem: null as string | null,
  /** It is this node that says so. */
  refused: false,
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
  try {
    const { streams, peers, ...peer } = await json<Omit<Peer, 'streams' | 'peers'> & { streams: Stream[]; peers: Below[] }>(`/api/v1/peers/${encodeURIComponent(cid)}`);
    store.below.set(cid, { streams, peers });
    const fresh: Peer = { ...peer, streams: streams.length, peers: peers.length }, at = store.peers.findIndex(one => one.cid === cid);
    if (at >= 0) store.peers[at] = fresh;
    else store.peers = [...store.peers, fresh].sort((a, b) => (a.cid < b.cid ? -1 : 1));
  } catch (why) {
    if (!(why instanceof Refused && why.status === 404)) return;
    // One that was forgotten just now.
    store.below.delete(cid);
    store.peers = store.peers.filter(one => one.cid !== cid);
  }
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
}

async function load(what: () => Promise<unknown>) {
  try {
    await what();
    store.problem = null;
    store.refused = false;
    store.loaded = true;
  } catch (why) {
    store.problem = why instanceof Error ? why.message : String(why);
    store.refused = why instanceof Refused;
  }
  tell();
}

let running: AbortController | null = null;
/** Somebody looks at the links: their figures have no events. */
let looking = 0;
export function useLinks() {
  useEffect(() => { looking += 1; return () => { looking -= 1; }; }, []);
}

export function start() {
  running?.abort();
  const run = running = new AbortController();
  const due = new Set<string>();
  let timer: ReturnType<typeof setTimeout> | undefined, busy = false;
  const soon = (ms: number) => { if (!busy) timer ??= setTimeout(work, ms); };
  const later = (what: string) => { due.add(what); soon(TOGETHER_MS); };
  // One after the other: an answer that was asked for earlier must not come last.
  const work = async () => {
    timer = undefined;
    busy = true;
    const take = (what: string) => due.delete(what);
    const all = take('all'), streams = take('streams'), peers = take('peers');
    await load(async () => {
      if (all) {
        await loadAll();
        store.peers.forEach(peer => due.add(`peer ${peer.cid}`));
      }
      if (streams && !all) await loadStreams();
      if (peers && !all) await loadPeers();
      const some = [...due].filter(one => one.startsWith('peer ')).slice(0, AT_ONCE);
      some.forEach(take);
      await Promise.all(some.map(one => loadBelow(one.slice(5))));
      store.whole ||= due.size === 0;
    });
    busy = false;
    if (due.size && !run.signal.aborted) soon(PAUSE_MS);
  };
  later('all');
  events(run.signal, (news: News) => {
    if (news.kind === 'reload') return later('all');
    const { name, cid, state } = news.data ?? {};
    store.heard = [{ at: Date.now(), kind: news.kind, what: name ?? cid ?? '', state: state ?? '' }, ...store.heard].slice(0, KEPT);
    if (news.kind === 'stream') later('streams');
    if (news.kind === 'peer' && cid) later(`peer ${cid}`);
    tell();
  }, is => { store.linked = is; tell(); });
  const rates = setInterval(() => {
    if (!listeners.size) return;
    later('streams');
    if (!looking) return;
    later('peers');
    if (store.peers.length <= AT_ONCE) store.peers.forEach(peer => later(`peer ${peer.cid}`));
  }, RATES_MS);
  run.signal.addEventListener('abort', () => { clearInterval(rates); clearTimeout(timer); });
}

export function halt() {
  running?.abort();
  running = null;
}
