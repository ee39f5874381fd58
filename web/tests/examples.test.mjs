// What `npm pack` puts into the package; the programs of its README and those of examples/web-* with exactly that
// package, served from a folder below a static server's root. HALFBYTE_BROWSERS=firefox runs one browser.
//
// It takes web/dist as it was built last, and installs examples/web-vite once (`npm ci`).

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { serve } from '../scripts/static.mjs';
import { NAMES, launch } from './browsers.mjs';

const WEB = dirname(dirname(fileURLToPath(import.meta.url)));
const EXAMPLES = join(WEB, '../examples');
const VITE = join(EXAMPLES, 'web-vite');
const GREEDY = 'Once upon a time, there was a little girl named Lily. She loved to play with her toys and make new friends.';
const chosen = process.env.HALFBYTE_BROWSERS?.split(',') ?? NAMES;

const run = (program, args, cwd) => execFileSync(program, args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
const files = (folder) => readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
const PATIENCE = 900_000;
/** Waits for `condition`; `instead` tells what there is in its place. */
const until = async (what, condition, instead = () => '') => {
  for (const end = Date.now() + PATIENCE; !(await condition());) {
    if (Date.now() > end) throw new Error(`no ${what} in ${PATIENCE / 1000} s: ${await instead()}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
};

let temporary, packed, server, other;
const urls = {};

before(async () => {
  temporary = mkdtempSync(join(tmpdir(), 'halfbyte-examples-'));
  const [{ filename }] = JSON.parse(run('npm', ['pack', '--json', '--ignore-scripts', '--loglevel=error', '--pack-destination', temporary], WEB));
  run('tar', ['-xzf', filename], temporary);
  packed = join(temporary, 'package');
  mkdirSync(join(temporary, 'site'));
  // As strict as the README says, but for scripts inside the examples' pages.
  const policy = readFileSync(join(packed, 'README.md'), 'utf8').match(/^ {4}(script-src 'self'.*)$/m)[1];
  server = await serve(join(temporary, 'site'), {
    answer(_, reply) {
      reply.setHeader('Content-Security-Policy', policy.replace("script-src 'self'", "$& 'unsafe-inline'"));
      reply.setHeader('Access-Control-Allow-Origin', '*');
    },
  });
  mkdirSync(join(temporary, 'other'));
  writeFileSync(join(temporary, 'other/index.html'), '<!doctype html><link rel="icon" href="data:,"><p>empty');
  other = await serve(join(temporary, 'other'));
  Object.assign(urls, { page: copied('web-page'), worker: copied('web-worker'), readme: readme(), vite: bundled() });
});
after(async () => {
  await server?.close();
  await other?.close();
  rmSync(temporary, { recursive: true, force: true });
});

test('the package contains what is needed and nothing else', () => {
  const scripts = files(join(WEB, 'src')).map(({ parentPath, name }) => join('dist/halfbyte', parentPath.slice(join(WEB, 'src').length), name));
  const expected = [
    'package.json', 'README.md', ...scripts,
    ...['LICENSE-APACHE', 'LICENSE-MIT', 'halfbyte_core.js', 'halfbyte_core_bg.wasm', 'tale.gguf'].map((name) => `dist/halfbyte/${name}`),
  ];
  const found = files(packed).map(({ parentPath, name }) => join(parentPath, name).slice(packed.length + 1));
  assert.deepEqual(found.sort(), expected.sort());
  // Every way in leads to a file.
  const { exports, types, dependencies } = JSON.parse(readFileSync(join(packed, 'package.json')));
  for (const path of [types, ...Object.values(exports).flatMap((way) => (typeof way === 'string' ? way : Object.values(way)))]) {
    assert.ok(existsSync(join(packed, path)), path);
  }
  assert.equal(dependencies, undefined);
});

/** An example without a bundler, with the package's folder beside it, as its comment says. */
function copied(name) {
  const site = join(temporary, 'site/some/folder', name);
  cpSync(join(EXAMPLES, name), site, { recursive: true, filter: (path) => !path.startsWith(join(EXAMPLES, name, 'halfbyte')) });
  cpSync(join(packed, 'dist/halfbyte'), join(site, 'halfbyte'), { recursive: true });
  return `${server.url}some/folder/${name}/`;
}

/** The README's programs in a page without a bundler; either may end first. */
function readme() {
  const site = join(temporary, 'site/some/folder/readme');
  const programs = [...readFileSync(join(packed, 'README.md'), 'utf8').matchAll(/^```js\n(.*?)^```$/gms)].map(([, program]) => program);
  assert.equal(programs.length, 2);
  mkdirSync(site);
  writeFileSync(join(site, 'index.html'), `<!doctype html><link rel="icon" href="data:,"><body>
    <script type="importmap">{ "imports": { "halfbyte": "../web-page/halfbyte/index.js" } }</script>
    ${programs.map((program) => `<script type="module">${program}\ndocument.documentElement.dataset.done = Number(document.documentElement.dataset.done ?? 0) + 1;</script>`).join('\n')}`);
  return `${server.url}some/folder/readme/`;
}

/** The bundled one, built with the packed package. */
function bundled() {
  const installed = join(VITE, 'node_modules/halfbyte');
  if (!existsSync(installed)) run('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'], VITE);
  // What npm copied may be older than web/dist.
  rmSync(installed, { recursive: true });
  cpSync(packed, installed, { recursive: true });
  run('npm', ['run', 'build', '--loglevel=error'], VITE);
  const site = join(temporary, 'site/some/folder/web-vite');
  cpSync(join(VITE, 'dist'), site, { recursive: true });
  return `${server.url}some/folder/web-vite/`;
}

test('a lock file names no registry', () => {
  const lock = JSON.parse(readFileSync(join(VITE, 'package-lock.json')));
  const resolved = Object.values(lock.packages).map((entry) => entry.resolved).filter(Boolean);
  assert.deepEqual(resolved, ['file:../../web']);
});

for (const name of chosen) {
  describe(name, { timeout: 3_600_000 }, () => {
    let browser;

    before(async () => {
      browser = await launch(name);
    });
    after(() => browser?.close());

    /** Opens an example. `story()` waits for the known beginning, `state()` for what the line below it says. */
    async function open(url, { browser: another } = {}) {
      const page = await (another ?? browser).open(url);
      const text = (selector) => page.evaluate((selector) => document.querySelector(selector).textContent, selector);
      const instead = async () => [await text('#story'), await text('#state'), ...page.problems].join(' | ');
      return {
        page,
        text,
        instead,
        async story() {
          await until('story', async () => (await text('#story')).length >= GREEDY.length, instead);
          assert.equal((await text('#story')).slice(0, GREEDY.length), GREEDY);
        },
        state: (pattern) => until(`state like ${pattern}`, async () => pattern.test(await text('#state')), instead),
        async done() {
          assert.deepEqual(page.problems, []);
          await page.close();
        },
      };
    }

    test('web-page', async (context) => {
      const { text, story, state, done } = await open(urls.page);
      await story();
      await state(/^120 tokens, [\d.]+ a second, on ./);
      context.diagnostic(await text('#state'));
      await done();
    });

    test('web-vite', async (context) => {
      const { page, text, story, state, done } = await open(urls.vite);
      await state(/^ready, on ./);
      context.diagnostic(await text('#state'));
      await page.click('form button:first-of-type');
      await story();
      await page.evaluate(() => document.querySelector('[name=stop]').click()); // all may be written by now
      await until('stop', () => page.evaluate(() => document.querySelector('[name=stop]').hidden));
      const length = (await text('#story')).length;
      await new Promise((resolve) => setTimeout(resolve, 500));
      assert.equal((await text('#story')).length, length);
      await done();
    });

    test('web-worker: the page answers while a worker of the app generates', async (context) => {
      const { page, text, instead, story, state, done } = await open(urls.worker);
      await page.click('form button');
      await story();
      context.diagnostic(await text('#pause'));
      await state(/^120 tokens on ./);
      context.diagnostic(await text('#state'));
      // A new beginning replaces the story that is being written.
      await page.evaluate(() => {
        const story = document.querySelector('#story');
        new MutationObserver(() => (window.begun ||= story.textContent.length < 300)).observe(story, { childList: true, characterData: true, subtree: true });
        document.querySelector('form button').click();
      });
      await until('beginning', () => page.evaluate(() => window.begun), instead);
      await page.evaluate(() => (document.querySelector('input').value = 'One day'));
      await page.click('form button');
      await until('other story', async () => /^One day,? /.test(await text('#story')), instead);
      await state(/^120 tokens on ./);
      await done();
    });

    test('web-page without WebGPU', async () => {
      const without = await launch(name, { webgpu: false });
      try {
        const { story, state, done } = await open(urls.page, { browser: without });
        await story();
        await state(/^120 tokens, [\d.]+ a second, on .*CPU/i);
        await done();
      } finally {
        await without.close();
      }
    });

    test('the programs of the README', async () => {
      const page = await browser.open(urls.readme);
      const done = () => page.evaluate(() => document.documentElement.dataset.done);
      await until('end', async () => (await done()) === '2', () => page.problems.join(' | '));
      assert.ok((await page.evaluate(() => document.body.innerText)).length > 200);
      assert.deepEqual(page.problems, []);
      await page.close();
    });

    test('a package of another origin runs in a worker of the page', async () => {
      const page = await browser.open(other.url);
      const text = await page.evaluate(async (base) => {
        const { Halfbyte } = await import(`${base}index.js`);
        const script = new Blob([`import '${base}worker.js'`], { type: 'text/javascript' });
        const worker = new Worker(URL.createObjectURL(script), { type: 'module' });
        const model = await Halfbyte.load('embedded', { worker });
        return model.generate('Once upon a time', { temperature: 0, maxTokens: 24 }).text();
      }, `${urls.page}halfbyte/`);
      assert.ok(`Once upon a time${text}`.startsWith(GREEDY));
      assert.deepEqual(page.problems, []);
      await page.close();
    });
  });
}
