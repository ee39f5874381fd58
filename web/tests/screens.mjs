// Pictures of the page as it is built: `node tests/screens.mjs OUT`; needs Chromium. Wide and narrow, light and dark,
// every panel, after a story and its measurement.

import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { launch } from './browsers.mjs';
import { start } from './server.mjs';

const PANELS = ['write', 'layers', 'models', 'machine', 'tests'];
const SIZES = { wide: { width: 1280, height: 800 }, phone: { width: 390, height: 844 } };

const out = process.argv[2];
if (!out) throw new Error('say where the pictures go: node tests/screens.mjs OUT');
mkdirSync(out, { recursive: true });
const server = await start({ core: 'real' });
const browser = await launch('chromium');
try {
  const handle = await browser.open(`${server.url}?app&temperature=0&max=120&seed=1`);
  const page = handle.raw;
  const idle = () => page.waitForFunction(() => document.documentElement.dataset.state === 'ready' && document.querySelector('#stats').textContent, null, { timeout: 300_000 });
  await idle();
  await page.evaluate(() => document.querySelector('#bench').click());
  await page.waitForFunction(() => document.documentElement.dataset.state === 'ready' && document.querySelector('#chart svg'), null, { timeout: 600_000 });
  for (const [size, viewport] of Object.entries(SIZES)) {
    await handle.resize(viewport.width, viewport.height);
    for (const theme of ['light', 'dark']) {
      await page.emulateMedia({ colorScheme: theme });
      for (const panel of PANELS) {
        await page.evaluate((panel) => (location.hash = `#${panel}`), panel);
        await page.waitForFunction(({ panel, theme }) => {
          const { dataset } = document.documentElement;
          return dataset.panel === panel && dataset.theme === theme;
        }, { panel, theme });
        await page.evaluate(() => Promise.all(document.getAnimations().filter(({ effect }) => Number.isFinite(effect.getComputedTiming().endTime)).map(({ finished }) => finished.catch(() => {}))));
        await handle.screenshot(join(out, `${size}-${theme}-${panel}.png`));
      }
    }
  }
  if (handle.problems.length) throw new Error(handle.problems.join('\n'));
} finally {
  await browser.close();
  await server.close();
}
