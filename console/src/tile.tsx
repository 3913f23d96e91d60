// A tile of the wall: one stream, its state, and what can be done with it.
import { useEffect, useRef, useState } from 'preact/hooks';
import { admitted } from './api';
import { bits, since } from './format';
import { Icon } from './icons';
import { PROTOCOLS, type Figures } from './player';
import { keep, type Choice, type Kept, type State } from './player/keep';
import { record, screenshot } from './save';
import { find, useStore } from './store';
import { has, t } from './text';

export type Tiled = { name: string; protocol: Choice };
const NAMES: Record<Choice, string> = { auto: '', whep: 'WebRTC', mp4: 'WS-fMP4', flv: 'WS-FLV', hls: 'LL-HLS' };

/** A reason as people read it. */
export function reason(why: string): string {
  const [first = '', ...rest] = why.split(' ');
  return has(first) ? [t(first), ...rest].join(' ') : why;
}

/** Whether an element is in sight and its page is. */
function useSight(element: { current: HTMLElement | null }): boolean {
  const [sight, set] = useState(false);
  useEffect(() => {
    let inside = false;
    const say = () => {
      const own = element.current, full = document.fullscreenElement, inset = document.pictureInPictureElement;
      // In a window of its own it is seen wherever the page is; behind another in full screen it is not.
      const shown = inside && !document.hidden && (!full || full.contains(own) || own!.contains(full));
      set(shown || inset !== null && own!.contains(inset));
    };
    const moments = ['visibilitychange', 'fullscreenchange', 'enterpictureinpicture', 'leavepictureinpicture'];
    const observer = new IntersectionObserver(entries => { inside = entries.at(-1)!.isIntersecting; say(); }, { rootMargin: '50px' });
    observer.observe(element.current!);
    moments.forEach(moment => document.addEventListener(moment, say, true));
    return () => { observer.disconnect(); moments.forEach(moment => document.removeEventListener(moment, say, true)); };
  }, []);
  return sight;
}

export function Tile({ tile, index, count, selected, select, put }: {
  tile: Tiled | null; index: number; count: number; selected: boolean; select(): void; put(tile: Tiled | null, from?: number): void;
}) {
  const store = useStore();
  const box = useRef<HTMLDivElement>(null), video = useRef<HTMLVideoElement>(null), kept = useRef<Kept | null>(null);
  const sight = useSight(box);
  const [state, setState] = useState<State | null>(null);
  const [muted, setMuted] = useState(true), [shown, setShown] = useState(false), [over, setOver] = useState(false);
  const [figures, setFigures] = useState<(Figures & { fps?: number }) | null>(null);
  const stop = useRef<(() => void) | null>(null);
  const [recording, setRecording] = useState(false), [note, setNote] = useState('');
  const known = tile ? find(tile.name) : undefined;
  const live = known?.stream.state === 'live';

  useEffect(() => {
    if (!tile || !sight) { setState(null); return; }
    const own = kept.current = keep(video.current!, tile.name, tile.protocol, () => find(tile.name)?.stream.tracks, () => find(tile.name)?.stream.state !== 'available', count, setState);
    return () => { own.stop(); kept.current = null; };
  }, [tile?.name, tile?.protocol, sight, count > 16]);
  const was = useRef(false);
  useEffect(() => {
    if (live) kept.current?.now();
    // One that the node listed, and lists no more, has ended, whatever its connection says.
    else if (was.current && !known && store.loaded) kept.current?.lost();
    was.current = known !== undefined;
  }, [live, known === undefined]);
  useEffect(() => () => stop.current?.(), [tile?.name]);
  useEffect(() => {
    if (!shown || !tile) { setFigures(null); return; }
    let last = { frames: 0, at: 0 };
    const timer = setInterval(async () => {
      const got = await kept.current?.figures();
      const quality = video.current?.getVideoPlaybackQuality(), at = performance.now();
      const frames = quality ? quality.totalVideoFrames - quality.droppedVideoFrames : 0;
      const fps = last.at ? (frames - last.frames) * 1000 / (at - last.at) : undefined;
      last = { frames, at };
      setFigures({ ...got, fps });
    }, 1000);
    return () => clearInterval(timer);
  }, [shown, tile?.name]);

  const drop = (event: DragEvent) => {
    event.preventDefault();
    setOver(false);
    const name = event.dataTransfer?.getData('text/x-culvert-stream');
    const from = event.dataTransfer?.getData('text/x-culvert-tile');
    if (name) put({ name, protocol: 'auto' }, from ? Number(from) : undefined);
  };
  const full = () => document.fullscreenElement ? document.exitFullscreen() : box.current!.requestFullscreen();
  const sound = () => { video.current!.muted = !muted; setMuted(!muted); };
  const shot = () => tile && screenshot(video.current!, tile.name).then(done => done || flash(t('connecting')));
  const flash = (text: string) => { setNote(text); setTimeout(() => setNote(''), 4000); };
  const tape = async () => {
    if (!tile) return;
    if (stop.current) { stop.current(); return; }
    setRecording(true);
    let given = false;
    stop.current = () => { given = true; stop.current = null; setRecording(false); };
    await admitted().catch(() => {});
    if (given) return;
    stop.current = record(tile.name, why => { stop.current = null; setRecording(false); flash(why ? reason(why) : t('recorded')); });
  };
  const inset = () => document.pictureInPictureElement ? document.exitPictureInPicture() : video.current!.requestPictureInPicture().catch(() => {});
  const key = (event: KeyboardEvent) => {
    if (!tile || event.ctrlKey || event.metaKey || event.altKey || (event.target as HTMLElement).matches('select, button, input')) return;
    const does: Record<string, () => unknown> = { f: full, m: sound, s: shot, r: tape, i: () => setShown(!shown), Delete: () => put(null) };
    const call = does[event.key];
    if (call) { event.preventDefault(); call(); }
  };

  // What its platform says of it is nearer to the cause than what a player saw.
  const why = (seen: string) => known?.stream.error
    ?? (known?.stream.state === 'unknown' ? `${known.peer?.name ?? ''}: ${t('unlinked')} ${since(known.stream.unknown_since)}` : reason(seen));
  const status = !tile ? 'empty' : !sight ? 'paused' : state?.is ?? 'connecting';
  return (
    <div ref={box} class={`tile ${selected ? 'selected' : ''} ${over ? 'over' : ''}`} data-state={status} data-stream={tile?.name ?? ''} data-protocol={state?.is === 'playing' ? state.protocol : ''}
      tabIndex={0} role="group" aria-label={tile ? tile.name : `${t('empty_tile')} (${index + 1})`} onClick={select} onFocus={select} onKeyDown={key}
      draggable={tile !== null} onDragStart={event => {
        if (!tile) return;
        event.dataTransfer!.setData('text/x-culvert-stream', tile.name);
        event.dataTransfer!.setData('text/x-culvert-tile', String(index));
      }}
      onDragOver={event => { event.preventDefault(); setOver(true); }} onDragLeave={() => setOver(false)} onDrop={drop}>
      <video ref={video} muted autoplay playsInline hidden={!tile} aria-label={tile?.name} onDblClick={full} />
      {!tile && <span class="hint">{t('empty_tile')}</span>}
      {tile && <div class="bar top"><span class="name">{known?.peer ? <b>{known.peer.name} </b> : null}{known?.peer ? known.stream.name : tile.name}</span>
        {known?.stream.state === 'unknown' && <span class="badge lost">{t('unlinked')} {since(known.stream.unknown_since)}</span>}
        {state?.is === 'playing' && <span class="badge">{NAMES[state.protocol]}</span>}{recording && <span class="badge rec">● REC</span>}
        <button class="icon" title={t('remove')} aria-label={`${t('remove')}: ${tile.name}`} onClick={event => { event.stopPropagation(); put(null); }}><Icon name="close" /></button></div>}
      {tile && status !== 'playing' && <div class="veil" role="status">
        {status === 'paused' ? t('paused') : state?.is === 'waiting'
          ? <><strong>{why(state.why)}</strong><Countdown until={state.until} /></>
          : <span class="spin">{t('connecting')} {state?.is === 'connecting' ? NAMES[state.protocol] : ''}</span>}
      </div>}
      {note && <div class="veil note" role="alert">{note}</div>}
      {tile && shown && figures && <dl class="figures">
        <dt>{t('codec')}</dt><dd>{figures.codec ?? '–'}{video.current?.videoWidth ? ` ${video.current.videoWidth}×${video.current.videoHeight}` : ''}</dd>
        <dt>fps</dt><dd>{figures.fps?.toFixed(0) ?? '–'}</dd>
        <dt>{t('rate')}</dt><dd>{figures.bits_per_second ? bits(figures.bits_per_second) : '–'}</dd>
        <dt>{t('latency')}</dt><dd>{figures.latency_ms !== undefined ? `${Math.round(figures.latency_ms)} ms` : '–'}</dd>
        <dt>{t('dropped')}</dt><dd>{figures.dropped ?? 0}{figures.lost ? ` / ${figures.lost}` : ''}</dd>
        {figures.path && <><dt>{t('path')}</dt><dd>{figures.path === 'direct' ? t('direct') : t('here')}</dd></>}
      </dl>}
      {tile && <div class="bar bottom" onClick={event => event.stopPropagation()}>
        <select aria-label={t('protocol')} value={tile.protocol} onChange={event => put({ ...tile, protocol: event.currentTarget.value as Choice })}>
          <option value="auto">{t('automatic')}</option>{PROTOCOLS.map(one => <option value={one}>{NAMES[one]}</option>)}
        </select>
        <button class="icon" title={`${t('sound')} (m)`} aria-label={t('sound')} aria-pressed={!muted} onClick={sound}><Icon name={muted ? 'muted' : 'sound'} /></button>
        <button class="icon" title={`${t('shot')} (s)`} aria-label={t('shot')} onClick={shot}><Icon name="shot" /></button>
        <button class="icon" title={`${recording ? t('recording') : t('record')} (r)`} aria-label={recording ? t('recording') : t('record')} aria-pressed={recording} onClick={tape}><Icon name={recording ? 'stop' : 'record'} /></button>
        <button class="icon" title={`${t('stats')} (i)`} aria-label={t('stats')} aria-pressed={shown} onClick={() => setShown(!shown)}><Icon name="stats" /></button>
        <button class="icon" title={t('pip')} aria-label={t('pip')} onClick={inset}><Icon name="inset" /></button>
        <button class="icon" title={`${t('full')} (f)`} aria-label={t('full')} onClick={full}><Icon name="full" /></button>
      </div>}
    </div>
  );
}

function Countdown({ until }: { until: number }) {
  const [now, tick] = useState(Date.now());
  useEffect(() => { const timer = setInterval(() => tick(Date.now()), 1000); return () => clearInterval(timer); }, []);
  return <span>{t('retrying')} {Math.max(0, Math.ceil((until - now) / 1000))} s</span>;
}

