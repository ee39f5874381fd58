// The package inside an application: what npm packs, installed, bundled by Vite with its default settings, served from
// a subfolder. With the engine if `npm run build` has been run, else with the core that only reads.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { serve } from '../scripts/static.mjs';
import { chromium } from './browsers.mjs';

const TESTS = dirname(fileURLToPath(import.meta.url));
const WEB = dirname(TESTS);
const built = existsSync(join(WEB, 'dist/halfbyte/halfbyte_core_bg.wasm'));

/** A copy of web/ that npm can pack. */
function packable(folder) {
  mkdirSync(join(folder, 'dist'), { recursive: true });
  cpSync(join(WEB, 'package.json'), join(folder, 'package.json'));
  cpSync(built ? join(WEB, 'dist/halfbyte') : join(WEB, 'src'), join(folder, 'dist/halfbyte'), { recursive: true });
  if (built) return;
  cpSync(join(TESTS, 'fake_core.js'), join(folder, 'dist/halfbyte/halfbyte_core.js'));
  cpSync(join(WEB, '../models/tale.gguf'), join(folder, 'dist/halfbyte/tale.gguf'));
  writeFileSync(join(folder, 'dist/halfbyte/halfbyte_core_bg.wasm'), '');
}

test(`bundled by Vite, with the ${built ? 'real' : 'fake'} core`, { timeout: 300_000 }, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'halfbyte-bundle-'));
  let server, browser;
  try {
    packable(join(folder, 'package'));
    const [{ filename, files }] = JSON.parse(execFileSync('npm', ['pack', '--json', '--loglevel=error', '--pack-destination', folder], { cwd: join(folder, 'package'), encoding: 'utf8' }));
    const names = files.map(({ path }) => path);
    for (const name of ['index.js', 'index.d.ts', 'worker.js', 'halfbyte_core.js', 'halfbyte_core_bg.wasm', 'tale.gguf', 'sources/opfs.js']) {
      assert.ok(names.includes(`dist/halfbyte/${name}`), `the package has ${name}`);
    }
    assert.ok(!names.some((name) => /test|scripts|page/.test(name)), `nothing else: ${names}`);

    const app = join(folder, 'app');
    mkdirSync(join(app, 'node_modules/halfbyte'), { recursive: true });
    execFileSync('tar', ['xzf', join(folder, filename), '--strip-components=1', '-C', join(app, 'node_modules/halfbyte')]);
    writeFileSync(join(app, 'package.json'), '{ "type": "module", "dependencies": { "halfbyte": "*" } }');
    writeFileSync(join(app, 'index.html'), '<!doctype html><link rel=icon href=data:,><script type="module" src="./main.js"></script>');
    writeFileSync(join(app, 'main.js'), `
      import { Halfbyte } from 'halfbyte';
      import EngineWorker from 'halfbyte/worker?worker';
      const tell = async (worker) => {
        const model = await Halfbyte.load('embedded', { worker });
        const text = await model.generate(model.info.prompt, { maxTokens: 8, temperature: 0 }).text();
        await model.close();
        return text;
      };
      window.result = (async () => [await tell(), await tell(new EngineWorker())])().catch((error) => 'failed: ' + error.message);
    `);
    const { build } = await import('vite');
    await build({ root: app, base: './', logLevel: 'warn', configFile: false });
    mkdirSync(join(folder, 'www/some'), { recursive: true });
    cpSync(join(app, 'dist'), join(folder, 'www/some/where'), { recursive: true });
    assert.doesNotMatch(readFileSync(join(app, 'dist/index.html'), 'utf8'), /(src|href)="\//, 'all addresses are relative');

    server = await serve(join(folder, 'www'));
    browser = await chromium();
    const page = await browser.open(`${server.url}some/where/`);
    const texts = await page.evaluate(() => window.result);
    assert.ok(Array.isArray(texts), texts);
    assert.ok(texts[0].length > 8);
    assert.equal(texts[1], texts[0]);
    assert.deepEqual(page.problems, []);
  } finally {
    await browser?.close();
    await server?.close();
    rmSync(folder, { recursive: true, force: true });
  }
});
