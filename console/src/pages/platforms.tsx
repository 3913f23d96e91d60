// Platforms: a tree of any depth, and what is known of one of them.
import { useState } from 'preact/hooks';
import { inPath, json, type Below, type Peer } from '../api';
import { bits, bytes, clock, since } from '../format';
import { below, useRoute, write } from '../route';
import { playable, store, useLinks, useStore } from '../store';
import { t } from '../text';
import { Known } from './streams';
import { Log, Problem, Sessions, usePoll } from './tables';

/** Rows of the tree; others are found by searching. */
const MOST = 2000;

type Row = {
  path: string[]; name: string; state: 'linked' | 'lost' | 'never'; unknown_since: string | null; error: string | null; carrier: string | null;
  rtt_ms: number | null; streams: number | null; peer: Peer | null; children: number;
};

function direct(peer: Peer): Row {
  return { path: [peer.cid], name: peer.name, state: peer.linked ? 'linked' : 'lost', unknown_since: peer.unknown_since, error: peer.error, carrier: peer.carrier,
    rtt_ms: peer.rtt_ms, streams: peer.streams, peer, children: peer.peers };
}

function further(peer: Peer, one: Below, all: Below[]): Row {
  return { path: [peer.cid, ...one.path.split('/')], name: one.name || one.path.split('/').at(-1)!, state: one.linked && peer.linked ? 'linked' : 'lost',
    unknown_since: peer.unknown_since ?? one.unknown_since, error: null, carrier: one.carrier, rtt_ms: one.rtt_ms, streams: one.streams, peer: null,
    children: all.filter(other => other.path.startsWith(`${one.path}/`)).length };
}

/** The tree in the order in which it is shown, without what is folded away. */
function rows(folded: Set<string>, search: string): Row[] {
  const text = search.toLowerCase();
  const found = store.peers.flatMap(peer => {
    const all = [...store.below.get(peer.cid)?.peers ?? []].sort((a, b) => a.path.localeCompare(b.path));
    return [direct(peer), ...all.map(one => further(peer, one, all))];
  });
  const never: Row[] = store.awaited.map(cid => ({ path: [cid], name: cid, state: 'never', unknown_since: null, error: null, carrier: null, rtt_ms: null,
    streams: null, peer: null, children: 0 }));
  const hidden = (row: Row) => row.path.some((_, depth) => depth > 0 && folded.has(row.path.slice(0, depth).join('/')));
  const is = (row: Row) => (text ? `${row.name} ${row.path.join('/')} ${row.peer?.remote ?? ''} ${row.peer?.serial ?? ''}`.toLowerCase().includes(text) : !hidden(row));
  return [...found, ...never].filter(is);
}

export function State({ state, since: at }: { state: Row['state']; since: string | null }) {
  if (state === 'never') return <span class="state never">{t('never')}</span>;
  return <span class={`state ${state}`} title={at ? clock(at) : undefined}>{state === 'linked' ? t('linked') : `${t('unlinked')} ${since(at)}`}</span>;
}

export function PlatformsPage() {
  useStore();
  const { query } = useRoute(), chosen = query.get('p')?.split('/').filter(Boolean) ?? [];
  const [search, set] = useState(''), [folded, fold] = useState(new Set<string>());
  useLinks();
  const all = rows(folded, search), row = rows(new Set(), '').find(one => one.path.join('/') === chosen.join('/'));
  const flip = (path: string) => {
    const next = new Set(folded);
    if (!next.delete(path)) next.add(path);
    fold(next);
  };
  return <section>
    <h1>{t('platforms')} <small>{store.peers.filter(peer => peer.linked).length} / {store.peers.length + store.awaited.length}</small></h1>
    <input type="search" placeholder={t('search')} aria-label={t('search')} value={search} onInput={event => set(event.currentTarget.value)} />
    <div class={`split ${chosen.length ? 'chosen' : ''}`}>
      <div class="scroll"><table class="tree"><thead><tr>
        {[t('name'), t('state'), t('carrier'), t('rtt'), t('rates'), t('streams')].map(head => <th scope="col">{head}</th>)}</tr></thead><tbody>
        <tr class="own"><th scope="row"><i class={`dot ${store.linked ? 'live' : 'lost'}`} aria-hidden="true" /><a href={write({ page: 'streams' })}>{store.name || t('node')}</a></th>
          <td>{t('node')}</td><td>–</td><td>–</td><td>–</td><td class="n">{store.streams.filter(one => one.origin !== 'relay').length}</td></tr>
        {all.slice(0, MOST).map(one => {
          const path = one.path.join('/'), rate = one.peer && store.rates.get(one.peer.cid);
          return <tr key={path} data-path={path} data-state={one.state} class={path === chosen.join('/') ? 'selected' : ''}>
            <th scope="row" style={{ paddingInlineStart: `${one.path.length * 1.2}em` }}>
              {one.children > 0 && <button class="icon" aria-expanded={!folded.has(path)} aria-label={`${t('below')}: ${one.name}`} onClick={() => flip(path)}>{folded.has(path) ? '+' : '–'}</button>}
              <i class={`dot ${one.state}`} aria-hidden="true" /><a href={write({ page: 'platforms', query: { p: path } })}>{one.name}</a>{one.name !== one.path.at(-1) && <small> {one.path.at(-1)}</small>}</th>
            <td><State state={one.state} since={one.unknown_since} /></td><td>{one.carrier ?? '–'}</td><td class="n">{one.rtt_ms === null ? '–' : `${one.rtt_ms.toFixed(1)} ms`}</td>
            <td class="n">{rate ? `${bits(rate.down)} / ${bits(rate.up)}` : '–'}</td><td class="n">{one.streams ?? '–'}</td></tr>;
        })}
      </tbody></table>
      {!all.length && store.loaded && <p class="quiet">{search ? t('none') : <>{t('no_peers')} <a href={write({ page: 'start' })}>{t('link_how')}</a></>}</p>}
      {all.length > MOST && <p class="quiet">{t('more_by_search')}</p>}</div>
      {chosen.length > 0 && <Details key={chosen.join('/')} path={chosen} row={row} />}
    </div>
  </section>;
}

function Details({ path, row }: { path: string[]; row: Row | undefined }) {
  const cid = path[0]!, peer = store.peers.find(one => one.cid === cid), rest = path.slice(1).join('/');
  const streams = playable().filter(one => one.peer?.cid === cid && (one.stream.path ?? '') === rest);
  const down = streams.filter(one => one.stream.state === 'down');
  const link = row?.peer?.link, rate = store.rates.get(cid), old = (row?.carrier ?? peer?.carrier) === 'm7s';
  return <article class="card details">
    <div class="tools"><h2 class="grow">{row?.name ?? path.at(-1)}</h2><a class="button" href={write({ page: 'platforms' })}>{t('close')}</a></div>
    {row && <dl class="fields">
      <dt>{t('state')}</dt><dd><State state={row.state} since={row.unknown_since} /></dd>
      {row.error && <><dt>{t('error')}</dt><dd class="problem">{row.error}</dd></>}
      <dt>ID</dt><dd>{path.join(' / ')}</dd>
      {row.peer && <>
        <dt>{t('uptime')}</dt><dd title={clock(row.peer.since)}>{row.peer.linked ? since(row.peer.since) : '–'}</dd>
        <dt>{t('reconnects')}</dt><dd>{row.peer.reconnects}</dd>
        <dt>{t('carrier')}</dt><dd>{row.carrier ?? '–'}{row.rtt_ms !== null && ` · ${t('rtt')} ${row.rtt_ms.toFixed(1)} ms`}</dd>
        {rate && <><dt>{t('rates')}</dt><dd>{bits(rate.down)} / {bits(rate.up)}</dd></>}
        <dt>{t('address')}</dt><dd>{row.peer.remote ?? '–'}</dd>
        <dt>{t('version')}</dt><dd>{[row.peer.version, row.peer.serial].filter(Boolean).join(' · ') || '–'}</dd></>}
      {link && <><dt>{t('sent')} / {t('received')}</dt><dd>{bytes(link.sent_bytes)} / {bytes(link.received_bytes)}</dd></>}
    </dl>}
    {row?.state !== 'never' && <>
      {old ? <p class="quiet">{t('m7s_limits')}</p> : <div class="tools"><a class="button primary" href={write({ node: path, page: 'streams' })}>{t('open_node')}</a></div>}
      {down.length > 0 && <><h3>{t('cameras_down')}</h3><ul class="plain">{down.map(one =>
        <li key={one.name}><i class="dot down" aria-hidden="true" /><b>{one.stream.name}</b> <span class="problem">{one.stream.error}</span></li>)}</ul></>}
      <h3>{t('streams')}</h3>
      {streams.length ? <div class="cards">{streams.slice(0, 100).map(one => <Known key={one.name} of={one} />)}</div> : <p class="quiet">{t('no_streams')}</p>}
      {!old && row?.state === 'linked' && <><Targets path={path} /><h3>{t('sessions')}</h3><Sessions root={below(path)} search="" most={50} /><h3>{t('log')}</h3><Log root={below(path)} /></>}
    </>}
  </article>;
}

/** Pages of cameras and other devices that a platform lets one reach through its link. */
function Targets({ path }: { path: string[] }) {
  const root = below(path);
  const { value, problem } = usePoll(() => json<{ cascade?: { targets?: Record<string, string> } }>(`${root}/api/v1/config`), root, null);
  const names = Object.entries(value?.cascade?.targets ?? {});
  if (problem) return <Problem what={problem} />;
  return names.length ? <><h3>{t('targets')}</h3><ul class="plain">{names.map(([name, url]) =>
    // Nothing of this page goes there: not the token in the address, not this window.
    <li key={name}><a href={`${location.pathname.replace(/\/console\/.*$/, '')}${root}/target/${inPath(name)}/`} target="_blank" rel="noopener noreferrer">{name}</a> <small>{String(url)}</small></li>)}</ul>
    <p class="quiet">{t('device_hint')}</p></> : null;
}
