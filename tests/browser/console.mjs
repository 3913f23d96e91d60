// Uses the console in Chromium as an operator does, and says what it saw, as JSON, a line each.
// node console.mjs MODE ORIGIN [ARGUMENT..]
import { chromium } from 'playwright-core';
import { writeFileSync } from 'node:fs';

const [mode, origin, ...more] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
    '--autoplay-policy=no-user-gesture-required'],
});
const say = what => console.log(JSON.stringify(what));
const problems = [], strangers = new Set();

async function open(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, locale: 'en-GB', colorScheme: 'dark', ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(30_000);
  page.on('pageerror', error => problems.push(error.message));
  // Answers that are no 200 are said to the console, too, and some are meant to be.
  page.on('console', message => { if (message.type() === 'error' && !/Failed to load resource|WebSocket connection to/.test(message.text())) problems.push(message.text()); });
  page.on('request', request => {
    const url = new URL(request.url());
    if (!['blob:', 'data:'].includes(url.protocol) && url.host !== new URL(origin).host) strangers.add(url.host);
  });
  return page;
}
const go = async (page, hash) => {
  await page.goto(`${origin}/console/#/${hash}`);
  await page.reload();
};
const playing = (page, name, more = '') => page.waitForSelector(`.tile[data-stream="${name}"][data-state="playing"]${more}`);
const tiles = page => page.$$eval('.tile', all => all.map(tile => {
  const video = tile.querySelector('video'), { totalVideoFrames, droppedVideoFrames } = video.getVideoPlaybackQuality();
  return { stream: tile.dataset.stream, state: tile.dataset.state, protocol: tile.dataset.protocol, frames: totalVideoFrames, dropped: droppedVideoFrames,
    width: video.videoWidth, at: video.currentTime, text: tile.querySelector('.veil')?.textContent ?? '' };
}));
const wait = ms => new Promise(done => setTimeout(done, ms));
/** How many pictures the first tile shows in two seconds, once it moves; it has twenty for that. A stream that is held may show its last picture before it goes on. */
async function moves(page) {
  let frames = 0;
  for (let turn = 0; turn < 10 && frames <= 10; turn++) {
    const [before] = await tiles(page);
    await wait(2000);
    const [after] = await tiles(page);
    frames = after.frames - before.frames;
  }
  return frames;
}

const MODES = {
  // A node that knows nobody without a token. ARGUMENT: the token.
  async 'sign-in'([token, name]) {
    const page = await open(), leaks = [], note = url => { if (url.includes(token)) leaks.push(url); };
    page.on('request', request => note(request.url()));
    page.on('websocket', socket => note(socket.url()));
    await page.goto(`${origin}/console/`);
    await page.fill('input[name=token]', 'wrong');
    await page.press('input[name=token]', 'Enter');
    const refused = await page.textContent('.sign-in .problem');
    await page.fill('input[name=token]', token);
    await page.press('input[name=token]', 'Enter');
    await page.waitForSelector('nav');
    await page.reload();
    await page.waitForSelector('nav');
    const kept = await page.$('.sign-in') === null;
    // By all protocols, and in no URL is the token.
    await page.goto(`${origin}/console/#/wall?l=4&t=${['whep', 'mp4', 'flv', 'hls'].map(protocol => `${name}@${protocol}`).join(',')}`);
    await page.waitForFunction(() => document.querySelectorAll('.tile[data-state="playing"]').length === 4);
    const leaked = [...leaks];
    await page.click('header button:has-text("Sign out")');
    await page.waitForSelector('.sign-in');
    const stored = await page.evaluate(() => sessionStorage.length + localStorage.length);
    // A link with a token in it signs in, in a page that is open, too, and forgets it.
    await page.goto(`${origin}/console/#token=${token}`);
    await page.waitForSelector('nav');
    say({ refused, kept, stored, leaked, address: page.url().replace(origin, '') });
  },

  // With nothing but the address: the wall fills itself.
  async 'first-sight'([name]) {
    const page = await open(), begun = Date.now();
    await page.goto(`${origin}/console/`);
    await page.waitForSelector('.tile');
    const usable_ms = Date.now() - begun;
    await playing(page, name);
    const playing_ms = Date.now() - begun;
    const sizes = await page.evaluate(() => performance.getEntriesByType('resource').filter(one => /\/console\//.test(one.name)).map(one => one.encodedBodySize));
    say({ usable_ms, playing_ms, bytes: sizes.reduce((a, b) => a + b, 0) });
  },

  // A stream by each protocol, for so long. ARGUMENTS: its name, seconds.
  async protocols([name, seconds]) {
    for (const protocol of ['whep', 'mp4', 'flv', 'hls']) {
      const page = await open();
      await go(page, `wall?l=1&t=${name}@${protocol}`);
      await playing(page, name, `[data-protocol="${protocol}"]`);
      const [before] = await tiles(page);
      await wait(seconds * 1000);
      const [after] = await tiles(page);
      await page.keyboard.press('Tab');
      await page.focus('.tile');
      await page.keyboard.press('i');
      await page.waitForSelector('.figures dd');
      await wait(2500);
      const figures = await page.$$eval('.figures dt', all => Object.fromEntries(all.map(one => [one.textContent, one.nextElementSibling.textContent])));
      say({ protocol, frames: after.frames - before.frames, width: after.width, state: after.state, figures });
      await page.context().close();
    }
  },

  // Many tiles. ARGUMENTS: how many, seconds, names.
  async many([count, seconds, ...names]) {
    const page = await open();
    const wall = Array.from({ length: Number(count) }, (_, at) => names[at % names.length]).join(',');
    await go(page, `wall?l=${count}&t=${wall}`);
    await page.waitForFunction(count => document.querySelectorAll('.tile[data-state="playing"]').length === count, Number(count), { timeout: 100_000 });
    await wait(2000);
    await page.$$eval('video', all => all.forEach(video => video.addEventListener('waiting', () => { window.stalls = (window.stalls ?? 0) + 1; })));
    const before = await tiles(page);
    await wait(seconds * 1000);
    const after = await tiles(page);
    if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/wall-${count}.png` });
    say({
      playing: after.filter(tile => tile.state === 'playing').length, stalls: await page.evaluate(() => window.stalls ?? 0),
      least_frames: Math.min(...after.map((tile, at) => tile.frames - before[at].frames)), least_seconds: Math.min(...after.map((tile, at) => tile.at - before[at].at)),
      protocols: [...new Set(after.map(tile => tile.protocol))],
    });
    // A page that nobody sees costs nothing.
    await page.evaluate(() => {
      Object.defineProperty(document, 'hidden', { value: true, configurable: true });
      document.dispatchEvent(new Event('visibilitychange'));
    });
    await page.waitForFunction(() => document.querySelectorAll('.tile[data-state="paused"]').length === document.querySelectorAll('.tile').length);
    say({ paused: true });
    await wait(1000);
  },

  // What can be saved. ARGUMENTS: the stream's name, where to put the picture and the recording.
  async save([name, picture, recording]) {
    const page = await open({ acceptDownloads: true });
    await go(page, `wall?l=1&t=${name}`);
    await playing(page, name);
    await page.waitForFunction(() => document.querySelector('video').videoWidth > 0);
    await page.hover('.tile');
    let download = page.waitForEvent('download');
    await page.click('button[aria-label="Screenshot"]');
    let got = await download;
    await got.saveAs(picture);
    const first = got.suggestedFilename();
    await page.click('button[aria-label="Record"]');
    await page.waitForSelector('.badge.rec');
    await wait(4000);
    download = page.waitForEvent('download');
    await page.click('button[aria-label="Stop recording"]');
    got = await download;
    await got.saveAs(recording);
    say({ names: [first, got.suggestedFilename()] });
  },

  // What is said when a platform goes, and when it comes back. ARGUMENTS: the stream's name, the platform's.
  async lost([name, cid]) {
    const page = await open(), tree = await page.context().newPage();
    await go(page, `wall?l=4&t=${name}@mp4`);
    await playing(page, name);
    await tree.goto(`${origin}/console/#/platforms`);
    await tree.waitForSelector(`tr[data-path="${cid}"][data-state="linked"]`);
    say({ linked: true });
    const begun = Date.now();
    await tree.waitForSelector(`tr[data-path="${cid}"][data-state="lost"]`, { timeout: 60_000 });
    const tree_at = Date.now();
    await page.bringToFront();
    await page.waitForSelector(`.tile[data-stream="${name}"] .badge.lost`);
    await page.waitForFunction(() => document.querySelector('.tile[data-stream]:not([data-stream=""])').dataset.state !== 'playing', null, { timeout: 60_000 });
    const why = (await tiles(page))[0].text, row = await tree.textContent(`tr[data-path="${cid}"]`);
    if (process.env.SHOTS) { await page.screenshot({ path: `${process.env.SHOTS}/lost-wall.png` }); await tree.screenshot({ path: `${process.env.SHOTS}/lost-tree.png` }); }
    say({ lost: true, seen_at: tree_at, after_ms: tree_at - begun, why, row });
    await tree.waitForSelector(`tr[data-path="${cid}"][data-state="linked"]`, { timeout: 60_000 });
    await playing(page, name);
    say({ back: true, frames: await moves(page) });
  },

  // A platform of m7s: what is known of it, and its stream. ARGUMENTS: the platform, the stream's name there.
  async old([cid, name]) {
    const page = await open();
    await go(page, 'platforms');
    const row = await page.waitForSelector(`tr[data-path="${cid}"][data-state="linked"]`), cells = await row.$$eval('td', all => all.map(one => one.textContent));
    await go(page, `platforms?p=${cid}`);
    await page.waitForSelector(`.details .stream-card[data-stream="${name}"]`);
    const text = await page.textContent('.details'), asks = await page.$$eval('.details a', all => all.map(one => one.getAttribute('href')).filter(to => to.startsWith('#/node/')));
    if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/old-platform.png` });
    await page.click(`.details .stream-card[data-stream="${name}"] a:has-text("Play")`);
    await page.waitForSelector('.tile[data-state="playing"]');
    say({ cells, limits: text.includes('A node of m7s'), asks, tile: (await tiles(page))[0] });
  },

  // What is said when a stream ends, and when it is there again. ARGUMENT: its name.
  async ended([name]) {
    for (const protocol of ['whep', 'hls']) {
      const page = await open();
      await go(page, `wall?l=1&t=${name}@${protocol}`);
      await playing(page, name);
      say({ playing: protocol });
      await page.waitForFunction(() => document.querySelector('.tile').dataset.state !== 'playing', null, { polling: 20 });
      say({ seen_at: Date.now(), text: (await tiles(page))[0].text });
      await playing(page, name);
      say({ frames: await moves(page) });
      await page.context().close();
    }
  },

  // Each page on a desk and on a phone, in both languages, looked at by axe. ARGUMENTS: a platform, a text that must stand there as it is.
  async pages([cid, text]) {
    const { default: axe } = await import('axe-core');
    const looks = [
      { name: 'desk-en', options: {} },
      { name: 'desk-zh', options: { locale: 'zh-CN', colorScheme: 'light' } },
      { name: 'phone-en', options: { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true, colorScheme: 'light' } },
      { name: 'phone-zh', options: { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true, locale: 'zh-CN' } },
    ];
    const pages = ['wall', 'platforms', `platforms?p=${cid}`, 'streams', 'sessions', 'transfers', 'uppers', 'events', 'config', 'start', `node/${cid}/streams`, `node/${cid}/sessions`];
    for (const { name, options } of looks) {
      // A script that is put into a page to look at it is what the page's own policy is there to forbid.
      const page = await open({ ...options, bypassCSP: true }), findings = [], titles = [], wide = [];
      let literal = false;
      for (const hash of pages) {
        await go(page, hash);
        await page.waitForSelector(hash === 'wall' ? '.tile' : 'main h1');
        if (hash.startsWith('platforms?')) await page.waitForSelector('.details .stream-card');
        await wait(400);
        await page.evaluate(axe.source);
        const { violations } = await page.evaluate(() => window.axe.run({ resultTypes: ['violations'] }));
        for (const one of violations.filter(one => ['serious', 'critical'].includes(one.impact))) findings.push(`${hash}: ${one.id}: ${one.nodes[0].html.slice(0, 200)} ${one.nodes[0].failureSummary}`);
        if (await page.evaluate(() => document.documentElement.scrollWidth > innerWidth + 1)) wide.push(hash);
        if (hash !== 'wall') titles.push(await page.textContent('main h1'));
        literal ||= (await page.textContent('main')).includes(text);
        if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/${name}-${hash.replaceAll(/\W+/g, '-')}.png` });
      }
      const lang = await page.evaluate(() => document.documentElement.lang), hacked = await page.evaluate(() => window.hacked ?? null);
      // Switched by hand, and kept.
      await page.click('header button[lang]');
      await page.reload();
      await page.waitForSelector('header');
      const other = await page.evaluate(() => document.documentElement.lang);
      say({ look: name, findings, wide, titles, lang, other, literal, hacked });
      await page.context().close();
    }
  },
};

try {
  await MODES[mode](more);
  say({ problems, strangers: [...strangers] });
} catch (error) {
  if (process.env.SHOTS) for (const context of browser.contexts()) for (const [at, page] of context.pages().entries()) await page.screenshot({ path: `${process.env.SHOTS}/failed-${mode}-${at}.png` }).catch(() => {});
  if (process.env.SHOTS) writeFileSync(`${process.env.SHOTS}/failed-${mode}.txt`, `${error.stack}\n${problems.join('\n')}`);
  throw error;
} finally {
  await browser.close();
}
