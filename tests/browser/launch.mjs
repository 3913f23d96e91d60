// Chromium with a page of the node open, and `page.js` in it.
import { chromium } from 'playwright-core';

export async function open(page_url, more = []) {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', '--autoplay-policy=no-user-gesture-required', ...more],
  });
  const page = await browser.newPage();
  await page.goto(page_url);
  await page.addScriptTag({ path: 'page.js' });
  return { browser, page };
}
