// Streams, each with a picture of now, and what can be done with them.
import { useEffect, useRef, useState } from 'preact/hooks';
import { ask, inPath, list, remove, ROOT, type Stream } from '../api';
import { bits, since, tracks } from '../format';
import { Icon } from '../icons';
import { below, write } from '../route';
import { playable, relay, useLinks, useStore, type Playable } from '../store';
import { t, word } from '../text';
import { Problem, Sure, usePoll } from './tables';

const PICTURE_MS = 10_000;
/** Cards on a page; others are found by searching. */
const MOST = 300;

/** A picture of the newest key frame, while it is in sight. */
export function Picture({ path, live }: { path: string; live: boolean }) {
  const image = useRef<HTMLImageElement>(null), [there, set] = useState(false);
  useEffect(() => {
    if (!live) { set(false); return; }
    let over = false, inside = false, url = '';
    const load = async () => {
      if (over || !inside || document.hidden) return;
      try {
        const data = await (await ask(path)).blob();
        if (over) return;
        URL.revokeObjectURL(url);
        url = URL.createObjectURL(data);
        if (image.current) image.current.src = url;
        set(true);
      } catch { if (!over) set(false); }
    };
    const observer = new IntersectionObserver(entries => { inside = entries.at(-1)!.isIntersecting; load(); });
    observer.observe(image.current!.parentElement!);
    const timer = setInterval(load, PICTURE_MS);
    return () => { over = true; observer.disconnect(); clearInterval(timer); URL.revokeObjectURL(url); };
  }, [path, live]);
  return <div class="picture"><img ref={image} alt="" hidden={!there} />{!there && <Icon name="picture" />}</div>;
}

/** The URLs by which a stream is played. */
export function urls(name: string): [string, string][] {
  const http = `${location.protocol}//${location.host}${ROOT}`, ws = http.replace(/^http/, 'ws'), path = inPath(name), secure = location.protocol === 'https:';
  // Their own default ports are others.
  const at = `${location.hostname}:${location.port || (secure ? 443 : 80)}`;
  return [
    ['HTTP-FLV', `${http}/play/${path}.flv`], ['WS-FLV', `${ws}/play/${path}.flv`], ['fMP4', `${http}/play/${path}.mp4`], ['HLS', `${http}/play/${path}.m3u8`],
    ['RTMP', `rtmp${secure ? 's' : ''}://${at}/${path}`], ['RTSP', `rtsp${secure ? 's' : ''}://${at}/${path}`], ['WHEP', `${http}/whep/${path}`],
    ['JPEG', `${http}/snapshot/${path}.jpg`],
  ];
}

export function CopyUrl({ name }: { name: string }) {
  const [done, set] = useState(false);
  const copy = async (event: Event) => {
    const select = event.currentTarget as HTMLSelectElement, url = select.value;
    select.value = '';
    try { await navigator.clipboard.writeText(url); set(true); setTimeout(() => set(false), 2000); } catch { prompt(t('copy'), url); }
  };
  return <select class="copy" aria-label={`${t('copy')}: ${name}`} value="" onChange={copy}><option value="">{done ? `✓ ${t('copied')}` : t('copy')}</option>
    {urls(name).map(([label, url]) => <option value={url}>{label}</option>)}</select>;
}

/** `play`: its name at this node. `picture`: where its picture is. `push`: the page that sends it on. `pull`: what fetches it. `relayed`: whether a platform's stream is fetched just now. */
export function StreamCard({ one, play, picture, place, link, relayed, push, pull, close }: {
  one: Stream; play: string | null; picture: string; place?: string; link?: string; relayed?: boolean; push?: string; pull?: string; close?: () => Promise<unknown>;
}) {
  const dropped = Object.entries(one.upstream ?? {}).filter(([, value]) => typeof value === 'number' && value > 0);
  return <article class="card stream-card" data-stream={one.name} data-state={one.state}>
    <Picture path={picture} live={one.state === 'live'} />
    <div class="grow">
      <h3><i class={`dot ${one.state}`} aria-hidden="true" />{one.name} <small>{word(one.state)}{relayed && ` · ${t('relayed')}`}</small></h3>
      {place && <p class="quiet">{link ? <a href={link}>{place}</a> : place}</p>}
      {one.error && <p class="problem">{one.error}</p>}
      <p>{tracks(one.tracks)}</p>
      <p class="quiet">{[one.bits_per_second > 0 && bits(one.bits_per_second), one.fps > 0 && `${Math.round(one.fps)} fps`,
        one.key_interval_ms && `${t('key_interval')} ${(one.key_interval_ms / 1000).toFixed(1)} s`, `${t('viewers')} ${one.viewers}`, one.discontinuities && `${t('jumps')} ${one.discontinuities}`,
        one.origin && `${t('origin')} ${one.origin}${one.publisher ? ` ${one.publisher.remote}` : ''}`, one.since && `${t('since')} ${since(one.since)}`].filter(Boolean).join(' · ')}</p>
      {dropped.length > 0 && <p class="problem">{t('left_out')}: {dropped.map(([key, value]) => `${key.replaceAll('_', ' ')} ${value}`).join(', ')}</p>}
      {one.unknown_since && <p class="problem">{t('unlinked')} {since(one.unknown_since)}</p>}
      <div class="tools">
        {play && <a class="button" href={write({ page: 'wall', query: { add: play } })}><Icon name="play" /> {t('play')}</a>}
        {play && <CopyUrl name={play} />}
        {push && <a class="button" href={push}>{t('new_push')}</a>}
        {one.origin === 'pull' && pull && <Sure label={`${t('stop_pull')}: ${one.name}`} call={() => remove(pull)}>{t('stop_pull')}</Sure>}
        {close && <Sure label={`${t('close')}: ${one.name}`} call={close}>{t('close')}</Sure>}
      </div>
    </div>
  </article>;
}

/** A stream of this node or of a platform below, as far as it is known here, with what its relay says while there is one. */
export function Known({ of: { name, stream, peer } }: { of: Playable }) {
  const here = peer ? relay(name) : stream, own = encodeURIComponent(peer?.cid ?? '');
  const one = peer && here ? { ...stream, upstream: here.upstream, viewers: here.viewers, bits_per_second: here.bits_per_second, fps: here.fps } : stream;
  return <StreamCard one={one} play={name} picture={`/snapshot/${inPath(name)}.jpg?width=320`} relayed={peer ? here !== undefined : undefined}
    place={peer ? [peer.name, stream.path].filter(Boolean).join(' / ') : undefined} link={peer && peer.carrier !== 'm7s' ? `#/node/${own}/streams` : undefined} push={write({ page: 'transfers', query: { push: name } })}
    pull={peer ? undefined : `/api/v1/pulls/${inPath(name)}`}
    close={here ? () => remove(`/api/v1/streams/${inPath(here.name)}`) : undefined} />;
}

export function StreamsPage({ node }: { node: string[] }) {
  useStore();
  useLinks();
  const root = below(node), [search, set] = useState('');
  const far = usePoll(() => (node.length ? list<Stream>(`${root}/api/v1/streams`) : Promise.resolve([])), root);
  const wanted = (text: string) => text.toLowerCase().includes(search.toLowerCase());
  const here = node.length ? [] : playable().filter(one => wanted(`${one.name} ${one.peer?.name ?? ''} ${one.stream.name}`));
  const there = (far.value ?? []).filter(one => wanted(one.name)), count = here.length + there.length;
  return <section>
    <h1>{t('streams')} <small>{count}</small></h1><Problem what={far.problem} />
    <input type="search" placeholder={t('search')} aria-label={t('search')} value={search} onInput={event => set(event.currentTarget.value)} />
    {!count && <p class="quiet">{t('no_streams')} <a href={write({ page: 'start' })}>{t('publish_how')}</a></p>}
    <div class="cards">
      {here.slice(0, MOST).map(one => <Known key={one.name} of={one} />)}
      {there.slice(0, MOST).map(one => <StreamCard key={one.name} one={one} play={[one.name, ...[...node].reverse()].join('-')}
        push={write({ node, page: 'transfers', query: { push: one.name } })} pull={`${root}/api/v1/pulls/${inPath(one.name)}`}
        picture={`${root}/snapshot/${inPath(one.name)}.jpg?width=320`} close={() => remove(`${root}/api/v1/streams/${inPath(one.name)}`)} />)}
    </div>
    {count > MOST && <p class="quiet">{t('more_by_search')}</p>}
  </section>;
}
