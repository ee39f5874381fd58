// Browsers that lack something: WebGPU, storage, space, a secure page.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { chromium, firefox, launch, NAMES } from './browsers.mjs';
import { random, start } from './server.mjs';

const MiB = 1 << 20;
const chosen = process.env.HALFBYTE_BROWSERS?.split(',') ?? NAMES;

/** In the page: loads, and tells what happened as plain data. */
async function load({ source, options = {} }) {
  window.halfbyte ??= await import('/halfbyte/index.js');
  try {
    const model = await window.halfbyte.Halfbyte.load(source, options);
    await model.close();
    return { info: model.info, adapter: model.adapter };
  } catch (error) {
    return { kind: error.kind, message: error.message };
  }
}
const cache = (page, method) => page.evaluate((method) => window.halfbyte.Halfbyte.cache[method](), method);

describe('settings', { timeout: 3_600_000 }, () => {
  let server;
  before(async () => (server = await start()));
  after(() => server.close());
  const using = async (browser, run, url = server.url) => {
    try {
      await run(await browser.open(url), browser);
    } finally {
      await browser.close();
    }
  };

  for (const name of chosen) {
    test(`${name} without WebGPU: the CPU, and what to do`, async () => {
      await using(await launch(name, { webgpu: false }), async (page) => {
        const { adapter } = await page.evaluate(load, { source: 'embedded' });
        assert.equal(adapter.cpu, true);
        assert.match(adapter.missing, name === 'firefox' ? /dom\.webgpu\.enabled/ : /chrome:\/\/flags\/#enable-unsafe-webgpu/);
        const { kind, message } = await page.evaluate(load, { source: 'embedded', options: { adapter: 'gpu' } });
        assert.equal(kind, 'AdapterMissing');
        assert.equal(message, adapter.missing);
        assert.equal((await page.evaluate(load, { source: 'embedded', options: { adapter: 'cpu' } })).adapter.missing, undefined);
      });
    });
  }

  const space = async (page, grow) => {
    const source = server.store.put('/quota.gguf', { bytes: random(30 * MiB) });
    const { kind, message } = await page.evaluate(load, { source });
    assert.equal(kind, 'Quota', message);
    assert.match(message, /MiB more are needed, (\S+ MiB are free for this site|the browser gives no more); delete a model/);
    const unknown = server.store.put('/unknown.gguf', { bytes: random(30 * MiB, 2), ranges: false });
    const full = await page.evaluate(load, { source: unknown });
    assert.equal(full.kind, 'Quota', full.message);
    assert.ok((await page.evaluate(load, { source, options: { cache: false } })).info);
    if (!grow) return;
    await grow();
    assert.ok((await page.evaluate(load, { source })).info.cached);
  };

  test('chromium with little space', { skip: !chosen.includes('chromium') }, async () => {
    await using(await chromium(), async (page, { context }) => {
      const session = await context.newCDPSession(page.raw);
      const origin = new URL(server.url).origin;
      await session.send('Storage.overrideQuotaForOrigin', { origin, quotaSize: 20 * MiB });
      await space(page, () => session.send('Storage.overrideQuotaForOrigin', { origin, quotaSize: 200 * MiB }));
    });
  });

  test('firefox with little space', { skip: !chosen.includes('firefox') }, async () => {
    await using(await firefox({ prefs: { 'dom.quotaManager.temporaryStorage.fixedLimit': 20 << 10 } }), (page) => space(page));
  });

  test('firefox with storage blocked: uncached, and why', { skip: !chosen.includes('firefox') }, async () => {
    await using(await firefox({ prefs: { 'network.cookie.cookieBehavior': 2 } }), async (page) => {
      const { info, message } = await page.evaluate(load, { source: server.store.put('/private.gguf', { bytes: random(9 * MiB) }) });
      assert.ok(info, message);
      assert.equal(info.cached, null);
      assert.match(info.note, /keeps nothing here/);
      assert.match(await cache(page, 'unavailable'), /private window, or storage is blocked/);
      assert.deepEqual(await cache(page, 'list'), []);
    });
  });

  test('chromium with an insecure page', { skip: !chosen.includes('chromium') }, async () => {
    const host = 'insecure.test';
    const url = server.url.replace('127.0.0.1', host);
    await using(await chromium({ flags: [`--host-resolver-rules=MAP ${host} 127.0.0.1`] }), async (page) => {
      const { adapter, info, message } = await page.evaluate(load, { source: server.store.put('/lan.gguf', { bytes: random(9 * MiB) }) });
      assert.ok(info, message);
      assert.match(adapter.missing, /http:\/\/insecure\.test:\d+ is not a secure page/);
      assert.match(info.note, /only for secure pages/);
      assert.match(await cache(page, 'unavailable'), /only for secure pages/);
    }, url);
  });
});
