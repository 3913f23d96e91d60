// The public API of this node, and of platforms below it through `/peer/ID`.

/** Where this node's root is: the console may stand behind a context path of a gateway. */
export const ROOT = location.pathname.replace(/\/console\/.*$/, '');
const KEY = 'culvert.token';
/** How long a token is kept in this tab without being used. */
const IDLE_MS = 8 * 3600_000;

export type Track = { codec: string; width?: number; height?: number; fps?: number; sample_rate_hz?: number; channels?: number };
export type Upstream = Record<string, number | boolean | null>;
export type Stream = {
  name: string; play?: string; state: string; tracks: Track[]; viewers: number; origin: string | null; path?: string;
  bits_per_second: number; fps: number; key_interval_ms: number | null; since: string | null; unknown_since?: string | null;
  error?: string | null; upstream?: Upstream | null; discontinuities?: number; dropped_frames?: number; publisher?: Session;
};
export type Session = {
  id: number; protocol: string; action: string; stream: string; remote: string; identity: string; since: string; bytes: number;
  frames: number; gaps: number; skipped_frames: number; behind_ms: number | null;
};
export type Peer = {
  cid: string; name: string; serial: string | null; version: string | null; linked: boolean; since: string | null;
  unknown_since: string | null; error: string | null; carrier: string | null; remote: string | null; rtt_ms: number | null;
  reconnects: number; links: number; streams: number; peers: number; left_out: number;
  link: { age_ms: number; sent_bytes: number; received_bytes: number; unsent_bytes: number } | null;
};
/** A platform further down: `path` is by way of which others. */
export type Below = { path: string; name: string; linked: boolean; unknown_since: string | null; carrier: string | null; rtt_ms: number | null; streams: number };
export type Upper = Record<string, unknown> & { url: string; linked: boolean };
export type Transfer = Record<string, unknown> & { stream?: string; id?: number; state?: string; error?: string | null };
export type LogLine = { id: number; time: string; level: string; target: string; message: string };
const SILENT_MS = 35_000;
type List<T> = { items: T[]; next: string | null };

/** What an answer says that is none. */
export class Refused extends Error {
  constructor(readonly status: number, message: string) { super(message); }
}

/** Called when this node does not know who asks, or lets nobody do that without a token; with what it says. */
let unauthorized = (_: string | null) => {};
export function onUnauthorized(call: (why: string | null) => void) { unauthorized = call; }

export const token = {
  get(): string | null {
    const at = Number(sessionStorage.getItem(`${KEY}.at`) ?? 0), value = sessionStorage.getItem(KEY);
    if (value && Date.now() - at > IDLE_MS) {
      this.set(null);
      unauthorized(null);
      return null;
    }
    return value;
  },
  /** Somebody is here: the pages that ask by themselves are nobody. */
  used() { if (sessionStorage.getItem(KEY)) sessionStorage.setItem(`${KEY}.at`, String(Date.now())); },
  set(value: string | null) {
    if (!value) { sessionStorage.removeItem(KEY); sessionStorage.removeItem(`${KEY}.at`); return; }
    sessionStorage.setItem(KEY, value);
    sessionStorage.setItem(`${KEY}.at`, String(Date.now()));
  },
};


export async function ask(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  const own = token.get();
  if (own) headers.set('Authorization', `Bearer ${own}`);
  // Without credentials of the browser's own: it would ask for a password where this page has a sentence to show.
  const answer = await fetch(ROOT + path, { ...init, headers, credentials: 'omit', cache: 'no-store' });
  if (answer.ok) return answer;
  const text = await answer.text();
  let what = text.slice(0, 300);
  try { what = (JSON.parse(text) as { detail?: string }).detail ?? what; } catch { /* not JSON: shown as it is */ }
  // One from below is about what this node may do there. Who shows no token may not be allowed what he is allowed with one.
  if (!path.startsWith('/peer/') && (answer.status === 401 || answer.status === 403 && !own)) unauthorized(answer.status === 403 ? what : null);
  throw new Refused(answer.status, what || `${answer.status} ${answer.statusText}`);
}

export async function json<T>(path: string): Promise<T> {
  return (await ask(path)).json() as Promise<T>;
}

/** A whole list, page by page; `most` is where it stops. */
export async function list<T>(path: string, most = 20_000): Promise<T[]> {
  const items: T[] = [];
  let after: string | null = null;
  do {
    const mark = path.includes('?') ? '&' : '?';
    const page: List<T> = await json(after === null ? path : `${path}${mark}after=${encodeURIComponent(after)}`);
    items.push(...page.items);
    after = page.next;
  } while (after !== null && items.length < most);
  return items;
}

export const post = (path: string, body: unknown) =>
  ask(path, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) });
export const remove = (path: string) => ask(path, { method: 'DELETE' });

/** A stream's name in a path: its slashes stay. */
export const inPath = (name: string) => name.split('/').map(encodeURIComponent).join('/');

/** Stands for the token in a URL, for a minute (`POST /api/v1/tickets`). */
let ticket = { of: '', word: '', until: 0 }, asking: Promise<void> | null = null;
const FRESH_MS = 20_000;

/** Before {@link socket}: makes sure that there is a ticket that is good for a while. */
export async function admitted(): Promise<void> {
  const own = token.get() ?? '';
  if (!own || ticket.of === own && ticket.until - Date.now() > FRESH_MS) return;
  asking ??= (async () => {
    const got = await (await ask('/api/v1/tickets', { method: 'POST' })).json() as { ticket: string; expires_ms: number };
    ticket = { of: own, word: got.ticket, until: Date.now() + got.expires_ms };
  })().finally(() => { asking = null; });
  await asking;
}

/** The URL of a WebSocket. A browser sets no header there, and URLs end up in logs: so a ticket is in it, not the token. */
export function socket(path: string): string {
  const url = new URL(ROOT + path, location.href);
  url.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
  if (token.get()) url.searchParams.set('token', ticket.word);
  return url.href;
}

/** A URL for an element of the page. It asks again for as long as it plays, so the token itself is in it. */
export function media(path: string): string {
  const url = new URL(ROOT + path, location.href), own = token.get();
  if (own) url.searchParams.set('token', own);
  return url.href;
}

export type News = { kind: string; data: { name?: string; cid?: string; state?: string } | null };

/** The node's news until `signal`, dialled again where it breaks; `linked` hears whether they come. */
export async function events(signal: AbortSignal, heard: (news: News) => void, linked: (is: boolean) => void) {
  let wait = 500;
  while (!signal.aborted) {
    // The node says something every 15 s; one that is silent for longer is not there, whatever the connection says.
    const gone = new AbortController(), end = () => gone.abort();
    let silence = setTimeout(end, SILENT_MS);
    signal.addEventListener('abort', end);
    try {
      const answer = await ask('/api/v1/events', { signal: gone.signal });
      linked(true);
      heard({ kind: 'reload', data: null });
      wait = 500;
      const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
      let text = '';
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        clearTimeout(silence);
        silence = setTimeout(end, SILENT_MS);
        text += value;
        const pieces = text.split('\n\n');
        text = pieces.pop()!;
        for (const piece of pieces) {
          const line = (name: string) => piece.split('\n').find(l => l.startsWith(`${name}: `))?.slice(name.length + 2);
          const kind = line('event');
          if (kind) heard({ kind, data: JSON.parse(line('data') ?? 'null') });
        }
      }
    } catch (why) {
      if (signal.aborted) return;
      if (why instanceof Refused && (why.status === 401 || why.status === 403)) { linked(true); return; }
    } finally {
      clearTimeout(silence);
      signal.removeEventListener('abort', end);
      end();
    }
    linked(false);
    await new Promise(done => setTimeout(done, wait));
    wait = Math.min(wait * 2, 5000);
  }
}
