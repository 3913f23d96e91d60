// Pages of live tables: sessions, pulls and pushes, uppers, configuration, events.
import { useEffect, useRef, useState } from 'preact/hooks';
import type { ComponentChildren } from 'preact';
import { inPath, json, list, post, remove, type LogLine, type Session, type Transfer, type Upper } from '../api';
import { bytes, clock, since } from '../format';
import { below, useRoute } from '../route';
import { useStore } from '../store';
import { t, word, type Key } from '../text';

/** Lists have no events of their own: so often, while they are looked at. */
const EVERY_MS = 5000;

/** What a path says, asked again and again while somebody looks; and why it does not. */
export function usePoll<T>(load: () => Promise<T>, key: string, every: number | null = EVERY_MS): { value: T | null; problem: string | null; again(): void } {
  const [value, set] = useState<T | null>(null), [problem, say] = useState<string | null>(null), [turn, next] = useState(0);
  useEffect(() => {
    let over = false;
    const run = async () => {
      if (document.hidden) return;
      try {
        const got = await load();
        if (!over) { set(got); say(null); }
      } catch (why) {
        if (!over) say(why instanceof Error ? why.message : String(why));
      }
    };
    run();
    const timer = every === null ? undefined : setInterval(run, every);
    return () => { over = true; clearInterval(timer); };
  }, [key, turn]);
  return { value, problem, again: () => next(n => n + 1) };
}

export function Problem({ what }: { what: string | null }) {
  return what ? <p class="problem" role="alert">{what}</p> : null;
}

export function Table<T>({ heads, rows, render, empty }: { heads: string[]; rows: T[]; render(row: T): ComponentChildren; empty?: ComponentChildren }) {
  if (!rows.length) return <p class="quiet">{empty ?? t('none')}</p>;
  return <div class="scroll"><table><thead><tr>{heads.map(head => <th scope="col">{head}</th>)}</tr></thead><tbody>{rows.map(render)}</tbody></table></div>;
}

/** A button that asks once more before it does something that somebody notices. */
export function Sure({ children, call, label }: { children: ComponentChildren; call(): Promise<unknown>; label: string }) {
  const [asked, ask] = useState(false), [problem, say] = useState<string | null>(null);
  useEffect(() => { if (!asked) return; const timer = setTimeout(() => ask(false), 4000); return () => clearTimeout(timer); }, [asked]);
  const click = async () => {
    if (!asked) { ask(true); return; }
    ask(false);
    try { await call(); say(null); } catch (why) { say(why instanceof Error ? why.message : String(why)); }
  };
  return <><button class={asked ? 'danger' : ''} aria-label={asked ? `${t('sure')} ${label}` : label} onClick={click}>{asked ? t('sure') : children}</button>{problem && <small class="problem">{problem}</small>}</>;
}

/** Who publishes and who watches there. `most` rows of it. */
export function Sessions({ root, search, most }: { root: string; search: string; most: number }) {
  const { value, problem, again } = usePoll(() => list<Session>(`${root}/api/v1/sessions`), root);
  const rows = (value ?? []).filter(one => `${one.stream} ${one.remote} ${one.protocol} ${one.identity}`.toLowerCase().includes(search.toLowerCase()));
  if (problem) return <Problem what={problem} />;
  return <>
    {rows.length > most && <p class="quiet">{most} / {rows.length}</p>}
    <Table heads={[t('stream'), t('action'), t('protocol'), t('address'), t('who'), t('since'), t('bytes'), t('gaps'), t('behind'), t('actions')]} rows={rows.slice(0, most)}
      render={one => <tr key={one.id}><th scope="row">{one.stream}</th><td>{one.action === 'publish' ? t('publish') : t('watch')}</td><td>{one.protocol}</td><td>{one.remote}</td>
        <td>{one.identity}</td><td title={clock(one.since)}>{since(one.since)}</td><td class="n">{bytes(one.bytes)}</td><td class="n">{one.gaps}</td>
        <td class="n">{one.behind_ms === null ? '–' : `${one.behind_ms} ms`}</td>
        <td><Sure label={`${t('close')}: ${one.stream} ${one.remote}`} call={() => remove(`${root}/api/v1/sessions/${one.id}`).then(again)}>{t('close')}</Sure></td></tr>} />
  </>;
}

export function SessionsPage({ node }: { node: string[] }) {
  const [search, set] = useState('');
  return <section>
    <h1>{t('sessions')}</h1>
    <input type="search" placeholder={t('filter')} aria-label={t('filter')} value={search} onInput={event => set(event.currentTarget.value)} />
    <Sessions root={below(node)} search={search} most={1000} />
  </section>;
}

export function TransfersPage({ node }: { node: string[] }) {
  const root = below(node);
  const pulls = usePoll(() => list<Transfer>(`${root}/api/v1/pulls`), root), pushes = usePoll(() => list<Transfer>(`${root}/api/v1/pushes`), root);
  const cells = (one: Transfer) => {
    const { stream, id, error, state, ...rest } = one;
    const more = Object.entries(rest).filter(([, value]) => value !== null && typeof value !== 'object').map(([key, value]) => `${key.replaceAll('_', ' ')}: ${value}`);
    return <><td><span class={`state ${state ?? ''}`}>{word(String(state ?? ''))}</span>{error && <div class="problem">{error}</div>}</td><td class="wide">{more.join(' · ')}</td></>;
  };
  return <section>
    <h1>{t('transfers')}</h1>
    <h2>{t('pulls')}</h2><Problem what={pulls.problem} /><Order root={root} kind="pulls" done={pulls.again} />
    <Table heads={[t('stream'), t('state'), t('details'), t('actions')]} rows={pulls.value ?? []} render={one => <tr key={one.stream}><th scope="row">{one.stream}</th>{cells(one)}
      <td><Sure label={`${t('stop')}: ${one.stream}`} call={() => remove(`${root}/api/v1/pulls/${inPath(String(one.stream))}`).then(pulls.again)}>{t('stop')}</Sure></td></tr>} />
    <h2>{t('pushes')}</h2><Problem what={pushes.problem} /><Order root={root} kind="pushes" done={pushes.again} />
    <Table heads={[t('stream'), t('state'), t('details'), t('actions')]} rows={pushes.value ?? []} render={one => <tr key={one.id}><th scope="row">{one.stream}</th>{cells(one)}
      <td><Sure label={`${t('stop')}: ${one.stream}`} call={() => remove(`${root}/api/v1/pushes/${one.id}`).then(pushes.again)}>{t('stop')}</Sure></td></tr>} />
  </section>;
}

function Order({ root, kind, done }: { root: string; kind: 'pulls' | 'pushes'; done(): void }) {
  // A stream's card leads here with its name.
  const { query } = useRoute(), asked = kind === 'pushes' ? query.get('push') ?? '' : '';
  const [problem, say] = useState<string | null>(null);
  const send = async (event: Event) => {
    event.preventDefault();
    const form = event.currentTarget as HTMLFormElement, data = new FormData(form);
    try {
      await post(`${root}/api/v1/${kind}`, { stream: data.get('stream'), url: data.get('url'), save: data.get('save') !== null });
      form.reset();
      say(null);
      done();
    } catch (why) { say(why instanceof Error ? why.message : String(why)); }
  };
  return <details open={asked !== ''}><summary>{kind === 'pulls' ? t('new_pull') : t('new_push')}</summary><form onSubmit={send} class="order">
    <label>{t('stream')} <input name="stream" required placeholder="live/cam1" defaultValue={asked} /></label>
    <label class="grow">{kind === 'pulls' ? t('from') : t('to')} <input name="url" required placeholder={kind === 'pulls' ? 'rtsp://192.168.1.64/…' : 'rtmp://…'} /></label>
    <label><input type="checkbox" name="save" /> {t('keep')}</label><button>{t('begin')}</button><Problem what={problem} /></form></details>;
}

function shown(value: unknown): ComponentChildren {
  if (value === null || Array.isArray(value) && !value.length) return '–';
  if (Array.isArray(value)) return value.map(one => <div>{typeof one === 'object' ? JSON.stringify(one) : String(one)}</div>);
  return String(value);
}

/** A record as rows of its fields, however deep. */
function Fields({ of: record }: { of: Record<string, unknown> }) {
  return <dl class="fields">{Object.entries(record).map(([key, value]) => <><dt>{key.replaceAll('_', ' ')}</dt>
    <dd>{value !== null && typeof value === 'object' && !Array.isArray(value) ? <Fields of={value as Record<string, unknown>} />
      : shown(value)}</dd></>)}</dl>;
}

export function UppersPage({ node }: { node: string[] }) {
  const root = below(node);
  const { value, problem } = usePoll(() => list<Upper>(`${root}/api/v1/uppers`), root);
  return <section><h1>{t('uppers')}</h1><Problem what={problem} />{value && !value.length && <p class="quiet">{t('none')}</p>}
    {(value ?? []).map(one => <article class="card" key={one.url}><h2><i class={`dot ${one.linked ? 'live' : 'lost'}`} aria-hidden="true" />{one.url}
      <small> {one.linked ? t('linked') : String(one.error ?? '')}</small></h2><Fields of={one} /></article>)}</section>;
}

export function ConfigPage({ node }: { node: string[] }) {
  const root = below(node);
  const { value, problem } = usePoll(() => json<Record<string, unknown>>(`${root}/api/v1/config`), root);
  return <section><h1>{t('config')}</h1><Problem what={problem} />{value && <article class="card"><Fields of={value} /></article>}</section>;
}

/** Lines that are shown. */
const LINES = 300;

export function Log({ root }: { root: string }) {
  const [lines, set] = useState<LogLine[]>([]), last = useRef(0);
  // What came since: through a weak uplink the whole of it, again and again, is a burden.
  const { problem } = usePoll(async () => {
    const { items } = await json<{ items: LogLine[] }>(`${root}/api/v1/log?${last.current ? `after=${last.current}` : 'limit=100'}`);
    last.current = items.at(-1)?.id ?? last.current;
    if (items.length) set(before => [...items.reverse(), ...before].slice(0, LINES));
  }, root);
  return problem ? <Problem what={problem} /> : <Table heads={[t('time'), t('level'), t('message')]} rows={lines} render={line =>
    <tr class={`log ${line.level}`} key={line.id}><td title={line.target}>{clock(line.time)}</td><td>{line.level}</td><td class="wide">{line.message}</td></tr>} />;
}

export function EventsPage({ node }: { node: string[] }) {
  const store = useStore();
  const label = (kind: string): string => word(kind === 'peer' ? 'platforms' satisfies Key : kind);
  return <section><h1>{t('events')}</h1>
    {!node.length && <Table heads={[t('time'), '', t('name'), t('state')]} rows={store.heard} render={one =>
      <tr><td>{new Date(one.at).toLocaleTimeString()}</td><td>{label(one.kind)}</td><th scope="row">{one.what}</th><td>{word(one.state)}</td></tr>} />}
    <h2>{t('log')}</h2><Log root={below(node)} /></section>;
}
