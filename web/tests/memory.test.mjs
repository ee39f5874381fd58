// What a model of 308 MB, about twice the limit, takes of the page's process while it is loaded: JavaScript's heap, its
// buffers and WebAssembly's memory stay below 160 MiB, whatever way the bytes come. Chromium only: nothing else tells.

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { chromiumWithWorkers } from './browsers.mjs';
import { start } from './server.mjs';
import { synthetic } from './synthetic.mjs';

const MiB = 1 << 20;
const LIMIT = 160 * MiB;
const built = existsSync(fileURLToPath(new URL('../dist/halfbyte/halfbyte_core_bg.wasm', import.meta.url)));
const core = process.env.HALFBYTE_CORE ?? (built ? 'real' : 'fake');

describe(`memory with the ${core} core`, { timeout: 3_600_000 }, () => {
  let server, browser;
  before(async () => {
    server = await start({ core });
    browser = await chromiumWithWorkers();
  });
  after(async () => {
    await browser?.close();
    await server?.close();
  });

  for (const [way, options] of [['through the cache', {}], ['past the cache', { cache: false }]]) {
    test(`loading ${way}`, async () => {
      const model = synthetic();
      const source = server.store.put('/synthetic.gguf', model);
      const page = await browser.newPage();
      await page.goto(server.url);
      const loading = page.evaluate(async ({ source, options }) => {
        const { Halfbyte } = await import('/halfbyte/index.js');
        const begin = performance.now();
        const model = await Halfbyte.load(source, { ...options, context: 64 });
        const seconds = (performance.now() - begin) / 1000;
        if (options.cache !== false) await model.generate('the', { maxTokens: 1 }).text(); // once is enough: it takes long
        const { wasm } = await model.memory();
        await model.close();
        return { wasm, seconds };
      }, { source, options });
      let running = true;
      loading.finally(() => (running = false)).catch(() => {});
      const peak = { all: 0, heap: 0, buffers: 0, samples: 0 };
      while (running) {
        await new Promise((resolve) => setTimeout(resolve, 25));
        const workers = page.workers();
        const uses = await Promise.all(workers.map((worker) => worker.client.send('Runtime.getHeapUsage').catch(() => null)));
        const heap = uses.reduce((sum, use) => sum + (use?.usedSize ?? 0), 0);
        const buffers = uses.reduce((sum, use) => sum + (use?.backingStorageSize ?? 0), 0);
        if (heap + buffers > peak.all) Object.assign(peak, { all: heap + buffers, heap, buffers });
        if (uses.some(Boolean)) peak.samples++;
      }
      const { wasm, seconds } = await loading;
      await page.close();
      const mib = (n) => `${(n / MiB).toFixed(0)} MiB`;
      console.log(`${way}: ${mib(model.size)} in ${seconds.toFixed(1)} s; peak ${mib(peak.all)} (heap ${mib(peak.heap)}, buffers ${mib(peak.buffers)}); wasm ${mib(wasm)} at the end; ${peak.samples} samples`);
      assert.ok(peak.samples > 20, 'it was looked at often enough');
      // The engine's memory is not among the buffers, and never shrinks.
      assert.ok(peak.all + wasm <= LIMIT, `${peak.all} and ${wasm} bytes are more than ${LIMIT}`);
    });
  }
});
