// The frame around the pages: where one is, who one is, and how it looks.
import { render } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { json, onUnauthorized, Refused, token } from './api';
import { Icon } from './icons';
import { PlatformsPage } from './pages/platforms';
import { StartPage } from './pages/start';
import { StreamsPage } from './pages/streams';
import { ConfigPage, EventsPage, SessionsPage, TransfersPage, UppersPage } from './pages/tables';
import { WallPage } from './pages/wall';
import { useRoute, write } from './route';
import { halt, start, useStore } from './store';
import { choose, current, t, type Key } from './text';
import './style.css';

const PAGES = {
  wall: WallPage, platforms: PlatformsPage, streams: StreamsPage, sessions: SessionsPage, transfers: TransfersPage, uppers: UppersPage, events: EventsPage,
  config: ConfigPage, start: StartPage,
} as const satisfies Partial<Record<Key, unknown>>;
type Page = keyof typeof PAGES;
/** Those that are about one node and may be about another. */
const OF_A_NODE: Page[] = ['streams', 'sessions', 'transfers', 'uppers', 'events', 'config'];
const THEME = 'culvert.theme';

function theme(to?: string) {
  if (to) localStorage.setItem(THEME, to);
  const is = localStorage.getItem(THEME) ?? (matchMedia('(prefers-color-scheme: light)').matches ? 'light' : 'dark');
  document.documentElement.dataset.theme = is;
  return is;
}

function SignIn({ why, done }: { why: string | null; done(): void }) {
  const [problem, say] = useState(why);
  const send = async (event: Event) => {
    event.preventDefault();
    token.set(String(new FormData(event.currentTarget as HTMLFormElement).get('token')).trim());
    try {
      await json('/api/v1/streams?limit=1');
      done();
    } catch (why) {
      token.set(null);
      const wrong = why instanceof Refused && why.status === 401;
      say(wrong ? t('wrong_token') : why instanceof Error ? why.message : String(why));
    }
  };
  return <main class="sign-in"><form class="card" onSubmit={send}><h1>Culvert</h1>
    <label>{t('token')}<input name="token" type="password" autocomplete="current-password" required autofocus /></label>
    <button class="primary">{t('sign_in')}</button>
    {problem && <p class="problem" role="alert">{problem}</p>}
    <p class="quiet">{t('token_hint')}</p></form></main>;
}

function Console() {
  const store = useStore(), route = useRoute();
  const [stranger, turnAway] = useState<{ why: string | null } | null>(null), [, again] = useState(0), [open, setOpen] = useState(false);
  useEffect(() => {
    onUnauthorized(why => { halt(); turnAway({ why }); });
    if (!document.hidden) start();
    // A page that nobody sees hears nothing: of connections a browser has six to a host, for all its tabs.
    const seen = () => { if (document.hidden) halt(); else { turnAway(null); start(); } };
    const used = () => token.used();
    const come = () => { if (take()) { turnAway(null); start(); } };
    document.addEventListener('visibilitychange', seen);
    addEventListener('pointerdown', used);
    addEventListener('keydown', used);
    addEventListener('hashchange', come);
    return () => {
      halt();
      document.removeEventListener('visibilitychange', seen);
      removeEventListener('pointerdown', used);
      removeEventListener('keydown', used);
      removeEventListener('hashchange', come);
    };
  }, []);
  useEffect(() => setOpen(false), [route.page, route.node.join('/')]);
  useEffect(() => { document.title = store.name ? `Culvert · ${store.name}` : 'Culvert'; }, [store.name]);
  if (stranger) return <SignIn why={stranger.why} done={() => { turnAway(null); start(); }} />;

  const asked = Object.hasOwn(PAGES, route.page) ? route.page as Page : 'wall';
  // A node that has nothing yet says how to begin.
  const empty = store.loaded && !store.streams.length && !store.peers.length && !location.hash;
  const page: Page = empty ? 'start' : route.node.length && !OF_A_NODE.includes(asked) ? 'streams' : asked;
  const View = PAGES[page];
  const pages = (Object.keys(PAGES) as Page[]).filter(one => !route.node.length || OF_A_NODE.includes(one));
  return <>
    <header>
      <button class="icon menu" aria-label={t('menu')} aria-expanded={open} onClick={() => setOpen(!open)}><Icon name="menu" /></button>
      <a class="brand" href={write({ page: 'wall' })}>Culvert</a>
      <span class="place">{store.name}{route.node.map(cid => <> / <b>{cid}</b></>)}</span>
      {route.node.length > 0 && <a class="button" href={write({ page: 'platforms', query: { p: route.node.join('/') } })}>{t('back_here')}</a>}
      <span class="grow" />
      <i class={`dot ${store.linked ? 'live' : 'lost'}`} role="img" aria-label={store.linked ? t('events_live') : t('unreachable')} title={store.linked ? t('events_live') : t('unreachable')} />
      <button class="icon" aria-label={t('theme')} title={t('theme')} onClick={() => { theme(theme() === 'dark' ? 'light' : 'dark'); }}><Icon name="theme" /></button>
      <button lang={current() === 'zh' ? 'en' : 'zh'} onClick={() => { choose(current() === 'zh' ? 'en' : 'zh'); again(n => n + 1); }}>{t('language')}</button>
      {token.get() && <button onClick={() => { token.set(null); halt(); turnAway({ why: null }); }}>{t('sign_out')}</button>}
    </header>
    <nav class={open ? 'open' : ''} aria-label={t('menu')}>
      {pages.map(one => <a href={write({ node: OF_A_NODE.includes(one) ? route.node : [], page: one })} aria-current={one === page ? 'page' : undefined}>{t(one)}</a>)}
    </nav>
    <main data-page={page}>
      <div class="banner">
      {store.problem && <p class="problem" role="alert">{store.refused ? `${t('not_allowed')} ${store.problem}` : `${t('unreachable')} ${store.problem}`}</p>}
      {!store.problem && !store.linked && store.loaded && <p class="problem" role="status">{t('unreachable')}</p>}
      </div>
      <View node={route.node} key={`${route.node.join('/')} ${page} ${current()}`} />
    </main>
  </>;
}

theme();
// A link that carries a token signs in with it, and the address forgets it.
function take(): boolean {
  const given = new URLSearchParams(location.hash.slice(1)).get('token');
  if (!given) return false;
  token.set(given);
  history.replaceState(null, '', location.pathname + location.search);
  dispatchEvent(new HashChangeEvent('hashchange'));
  return true;
}
take();
render(<Console />, document.getElementById('app')!);
