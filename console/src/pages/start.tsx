// The first page of a node that has nothing yet: how to publish, and how to link a node below, with this node's address in each line.
import { sha256 } from '@noble/hashes/sha2.js';
import { useState } from 'preact/hooks';
import { ROOT, token } from '../api';
import { store, useStore } from '../store';
import { t } from '../text';

export function Command({ children }: { children: string }) {
  const [done, set] = useState(false);
  const copy = () => navigator.clipboard?.writeText(children).then(() => { set(true); setTimeout(() => set(false), 2000); });
  return <div class="command"><pre tabIndex={0}>{children}</pre>{navigator.clipboard && <button onClick={copy}>{done ? t('copied') : t('copy_text')}</button>}</div>;
}

const hex = (bytes: Uint8Array) => [...bytes].map(byte => byte.toString(16).padStart(2, '0')).join('');

/** A new token, and its SHA-256: by a library, for over plain HTTP from elsewhere a browser's own is not there. */
function make(): { token: string; hash: string } {
  const text = hex(crypto.getRandomValues(new Uint8Array(32)));
  return { token: text, hash: hex(sha256(new TextEncoder().encode(text))) };
}

export function StartPage() {
  useStore();
  const secure = location.protocol === 'https:', { host } = location, port = location.port || (secure ? '443' : '80');
  const s = secure ? 's' : '', at = `${location.hostname}:${port}`;
  const [cid, setCid] = useState('edge-7'), [made, set] = useState<{ token: string; hash: string } | null>(null), [own, show] = useState(false);
  const mine = token.get(), secret = mine === null ? '' : own ? mine : 'TOKEN', query = secret && `?token=${secret}`;
  const hash = made?.hash ?? 'THE HASH';
  return <section class="start">
    <h1>{t('publish_how')}</h1>
    {mine !== null && <p>{t('your_token')} <button onClick={() => show(!own)}>{own ? t('hide_token') : t('show_token')}</button></p>}
    <h2>{t('obs')}</h2>
    <dl class="fields"><dt>Server</dt><dd><code>rtmp{s}://{at}/live</code></dd><dt>Stream key</dt><dd><code>cam1{query}</code></dd></dl>
    <h2>ffmpeg</h2>
    <Command>{`ffmpeg -re -stream_loop -1 -i movie.mp4 -c copy -f flv "rtmp${s}://${at}/live/cam1${query}"`}</Command>
    <h2>{t('camera')}</h2>
    <Command>{'pull:\n  on_demand:\n    live/gate: "rtsp://USER:PASSWORD@192.168.1.64/stream1"'}</Command>
    <h2>WHIP</h2>
    <Command>{`http${s}://${host}${ROOT}/whip/live/cam1${query}`}</Command>
    <h1>{t('link_how')}</h1>
    <div class="tools"><label>ID <input value={cid} maxLength={64} onInput={event => setCid(event.currentTarget.value)} /></label>
      <button class="primary" onClick={() => set(make())}>{t('make_token')}</button></div>
    <p>{t('upper_file')}</p>
    <Command>{`cascade:\n  lowers:\n    admit: [{cid: ${cid}, token_sha256: "${hash}"}]`}</Command>
    <p>{t('lower_file')}</p>
    <Command>{`node: {cid: ${cid}}\ncascade:\n  uppers: [{url: "ws${s}://${at}${ROOT}", token: "${made?.token ?? 'THE TOKEN'}"}]`}</Command>
    <p>{t('link_note')} {store.cid && <>NAME-{cid}</>}</p>
  </section>;
}
