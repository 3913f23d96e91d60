// The wall: tiles of streams, which the URL carries.
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { bits, tracks } from '../format';
import { PROTOCOLS } from '../player';
import type { Choice } from '../player/keep';
import { read, useRoute, write } from '../route';
import { playable, useStore } from '../store';
import { t, word } from '../text';
import { Tile, type Tiled } from '../tile';

/** How many tiles, on how many columns, and how many cells each of the first ones takes both ways. */
const LAYOUTS: Record<number, { columns: number; big: number[] }> = {
  1: { columns: 1, big: [] }, 4: { columns: 2, big: [] }, 6: { columns: 3, big: [2] }, 8: { columns: 4, big: [3] }, 9: { columns: 3, big: [] },
  10: { columns: 4, big: [2, 2] }, 16: { columns: 4, big: [] }, 25: { columns: 5, big: [] }, 36: { columns: 6, big: [] }, 64: { columns: 8, big: [] },
};
const COUNTS = Object.keys(LAYOUTS).map(Number);
const LAST = 'culvert.wall', NAMED = 'culvert.walls';
/** Streams that a wall nobody has set up begins with. */
const BEGIN = 4;

type Wall = { count: number; tiles: (Tiled | null)[] };

/** What a smaller layout does not show is there again in a larger one. */
const sized = (wall: Wall): Wall => ({ count: wall.count, tiles: Array.from({ length: Math.max(wall.count, Math.min(wall.tiles.length, 64)) }, (_, at) => wall.tiles[at] ?? null) });
const text = (wall: Wall) => {
  const tiles = wall.tiles.map(tile => tile ? tile.name + (tile.protocol === 'auto' ? '' : `@${tile.protocol}`) : '').join(',').replace(/,+$/, '');
  return { l: String(wall.count), ...(tiles && { t: tiles }) };
};

function parse(query: URLSearchParams): Wall | null {
  const count = Number(query.get('l'));
  if (!LAYOUTS[count]) return null;
  const tile = (one: string): Tiled | null => {
    const [name = '', protocol = 'auto'] = one.split('@');
    return name ? { name, protocol: (PROTOCOLS as string[]).includes(protocol) ? protocol as Choice : 'auto' } : null;
  };
  return sized({ count, tiles: (query.get('t') ?? '').split(',').map(tile) });
}

function named(): Record<string, string> {
  try { return JSON.parse(localStorage.getItem(NAMED) ?? '{}') as Record<string, string>; } catch { return {}; }
}

export function WallPage() {
  const store = useStore(), { query } = useRoute();
  const box = useRef<HTMLDivElement>(null);
  const [selected, select] = useState(0), [search, setSearch] = useState(''), [walls, setWalls] = useState(named), [naming, setNaming] = useState(false);
  const wall = useMemo(() => parse(query) ?? sized({ count: 4, tiles: [] }), [query.toString()]);

  const set = (next: Wall, keep = true) => {
    const hash = write({ page: 'wall', query: text(sized(next)) });
    if (keep) localStorage.setItem(LAST, hash);
    history.replaceState(null, '', hash);
    dispatchEvent(new HashChangeEvent('hashchange'));
  };
  // One that nobody has set up yet begins with what is there, and is kept once somebody changes it.
  useEffect(() => {
    // Where somebody has just gone elsewhere, that is shown next.
    const now = read();
    if (parse(query) || now.page !== 'wall' || now.query.toString() !== query.toString()) return;
    const last = localStorage.getItem(LAST), add = query.get('add');
    if (add) {
      const before = parse(new URLSearchParams(last?.split('?', 2)[1] ?? '')) ?? sized({ count: 1, tiles: [] });
      const free = before.tiles.slice(0, before.count).findIndex(tile => !tile), count = free >= 0 ? before.count : COUNTS.find(one => one > before.count);
      const at = free >= 0 ? free : count ? before.count : before.count - 1, next = sized({ ...before, count: count ?? before.count });
      next.tiles[at] = { name: add, protocol: 'auto' };
      select(at);
      set(next);
      return;
    }
    if (last) { location.replace(last); return; }
    const there = playable().filter(one => one.stream.state === 'live').slice(0, BEGIN);
    // Not of whichever platform was asked first.
    if (there.length && store.whole) set({ count: there.length === 1 ? 1 : 4, tiles: there.map(one => ({ name: one.name, protocol: 'auto' })) }, false);
  }, [query.toString(), store.streams, store.below.size, store.loaded, store.whole, playable().length]);

  const put = (at: number, tile: Tiled | null, from?: number) => {
    const tiles = [...wall.tiles];
    if (from !== undefined && from !== at) tiles[from] = tiles[at] ?? null;
    tiles[at] = tile;
    set({ ...wall, tiles });
  };
  const play = (name: string) => {
    const free = wall.tiles[selected] ? wall.tiles.slice(0, wall.count).findIndex(tile => !tile) : selected;
    const at = free < 0 ? selected : free;
    put(at, { name, protocol: 'auto' });
    select(Math.min(at + 1, wall.count - 1));
  };
  // What is there first.
  const all = [...playable()].sort((a, b) => Number(b.stream.state === 'live') - Number(a.stream.state === 'live'));
  const found = all.filter(one => `${one.peer?.name ?? ''} ${one.peer?.cid ?? ''} ${one.stream.name} ${one.name}`.toLowerCase().includes(search.toLowerCase()));
  const keep = (next: Record<string, string>) => {
    localStorage.setItem(NAMED, JSON.stringify(next));
    setWalls(next);
  };
  const own = write({ page: 'wall', query: text(wall) }), kept = Object.keys(walls).find(name => walls[name] === own);
  const save = (event: Event) => {
    event.preventDefault();
    const name = String(new FormData(event.currentTarget as HTMLFormElement).get('name')).trim();
    if (name) keep({ ...named(), [name]: own });
    setNaming(false);
  };
  const { columns, big } = LAYOUTS[wall.count]!;

  return (
    <div class="wall-page">
      <div class="tools">
        <label>{t('layout')} <select value={wall.count} onChange={event => set(sized({ ...wall, count: Number(event.currentTarget.value) }))}>
          {COUNTS.map(count => <option value={count}>{count}</option>)}</select></label>
        <button onClick={() => set(sized({ ...wall, tiles: all.slice(0, wall.count).map(one => ({ name: one.name, protocol: 'auto' as const })) }))}>{t('fill')}</button>
        <button onClick={() => set({ count: wall.count, tiles: [] })}>{t('clear')}</button>
        {naming ? <form onSubmit={save}><input name="name" required maxLength={60} autofocus placeholder={t('wall_name')} aria-label={t('wall_name')} />
          <button class="primary">{t('save_layout')}</button></form>
          : kept ? <button onClick={() => { const { [kept]: _, ...rest } = named(); keep(rest); }}>{t('forget')}: {kept}</button>
            : <button onClick={() => setNaming(true)}>{t('save_layout')}</button>}
        {Object.keys(walls).length > 0 && <select aria-label={t('saved')} value="" onChange={event => { const hash = walls[event.currentTarget.value]; if (hash) location.hash = hash; }}>
          <option value="">{t('saved')}</option>{Object.keys(walls).map(name => <option>{name}</option>)}</select>}
        <button onClick={() => document.fullscreenElement ? document.exitFullscreen() : box.current!.requestFullscreen()}>{t('full')}</button>
      </div>
      <div class="wall-body">
        <div ref={box} class="wall" style={{ gridTemplateColumns: `repeat(${columns}, 1fr)` }} data-count={wall.count}>
          {wall.tiles.slice(0, wall.count).map((tile, at) => <div key={at} class="cell" style={big[at] ? { gridColumn: `span ${big[at]}`, gridRow: `span ${big[at]}` } : {}}>
            <Tile tile={tile} index={at} count={wall.count} selected={at === selected} select={() => select(at)} put={(next, from) => put(at, next, from)} />
          </div>)}
        </div>
        <aside class="picker" aria-label={t('streams')}>
          <input type="search" placeholder={t('search')} aria-label={t('search')} value={search} onInput={event => setSearch(event.currentTarget.value)} />
          <ul>
            {found.slice(0, 500).map(one => <li key={one.name}>
              <button class="stream" draggable data-name={one.name} title={one.name} onClick={() => play(one.name)}
                onDragStart={event => event.dataTransfer!.setData('text/x-culvert-stream', one.name)}>
                <i class={`dot ${one.stream.state}`} aria-hidden="true" /><span class="grow"><b>{one.stream.name}</b>
                  <small>{one.peer ? `${one.peer.name} · ` : ''}{one.stream.state === 'live' ? tracks(one.stream.tracks) : one.stream.error ?? word(one.stream.state)}</small></span>
                {one.stream.bits_per_second > 0 && <small>{bits(one.stream.bits_per_second)}</small>}
              </button></li>)}
            {!all.length && store.loaded && <li class="quiet">{t('no_streams')} <a href={write({ page: 'start' })}>{t('publish_how')}</a></li>}
          </ul>
        </aside>
      </div>
    </div>
  );
}
