// The package without its engine: sources, cache, worker, messages, in both browsers, on a core that only reads.
// HALFBYTE_BROWSERS=firefox runs one of them.

import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, beforeEach, describe, test } from 'node:test';
import { NAMES, launch } from './browsers.mjs';
import { putRepo, random, sha256, start } from './server.mjs';

const MiB = 1 << 20;
const sum = (bytes) => bytes.reduce((sum, byte) => (Math.imul(sum, 31) + byte) | 0, 0);
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const chosen = process.env.HALFBYTE_BROWSERS?.split(',') ?? NAMES;

/** In the page: loads, and tells what happened as plain data. */
async function load({ source, options = {}, stopAt, keep }) {
  const { Halfbyte } = window.halfbyte;
  const stop = new AbortController();
  const stages = {};
  let last = null;
  try {
    const model = await Halfbyte.load(source, {
      ...options,
      signal: stop.signal,
      onProgress(progress) {
        stages[progress.stage] ??= { first: progress.done };
        Object.assign(stages[progress.stage], { done: progress.done, total: progress.total });
        last = progress;
        if (stopAt && progress.stage === stopAt.stage && progress.done >= stopAt.done) stop.abort();
      },
    });
    const { info, adapter } = model;
    if (keep) window.model = model;
    else await model.close();
    return { info, adapter, stages };
  } catch (error) {
    return { kind: error.kind, message: error.message, right: error instanceof window.halfbyte.HalfbyteError, stages, last };
  }
}

for (const name of chosen) {
  describe(name, { timeout: 3_600_000 }, () => {
    let browser, server, page;

    const open = async (path = '') => {
      const page = await browser.open(server.url + path);
      await page.evaluate(async () => {
        window.halfbyte = await import('/halfbyte/index.js');
      });
      return page;
    };
    const cache = (method, ...args) => page.evaluate(({ method, args }) => window.halfbyte.Halfbyte.cache[method](...args), { method, args });
    const ok = async (request, where = page) => {
      const result = await where.evaluate(load, request);
      assert.equal(result.kind, undefined, result.message);
      return result;
    };
    const fails = async (kind, pattern, request, where = page) => {
      const result = await where.evaluate(load, request);
      assert.equal(result.kind, kind, result.message ?? 'it loaded');
      assert.match(result.message, pattern);
      assert.ok(result.right, 'it is a HalfbyteError');
      return result;
    };
    const ranges = (origin, path) => origin.log.filter((entry) => entry.path === path).map(({ range }) => range);

    before(async () => {
      server = await start();
      browser = await launch(name);
      page = await open();
    });
    after(async () => {
      await browser?.close();
      await server?.close();
    });
    beforeEach(() => {
      server.hub.log.length = 0;
      server.store.log.length = 0;
    });

    describe('sources', () => {
      test('the embedded model', async () => {
        const { info } = await ok({ source: 'embedded' });
        assert.equal(info.sums['tale.gguf'], sum(server.tale()));
        assert.equal(info.prompt, 'Once upon a time');
        assert.equal(info.cached, null);
      });

      test('files: one, of a folder, as a record', async () => {
        const folder = mkdtempSync(join(tmpdir(), 'halfbyte-files-'));
        try {
          const weights = random(5 * MiB);
          writeFileSync(join(folder, 'model.gguf'), weights);
          await page.setFiles('input', [join(folder, 'model.gguf')]);
          const one = await page.evaluate(async () => {
            const { files } = document.querySelector('input');
            const all = [];
            for (const source of [files[0], files, [...files], { 'model.gguf': files[0] }]) {
              const model = await window.halfbyte.Halfbyte.load(source);
              all.push(model.info.sums['model.gguf']);
              await model.close();
            }
            return all;
          });
          assert.deepEqual(one, Array(4).fill(sum(weights)));
        } finally {
          rmSync(folder, { recursive: true });
        }
      });

      test('adapters: files, and the address of a folder', async () => {
        const weights = random(3 * MiB, 5);
        server.store.put('/loras/pirate/adapter_config.json', { bytes: Buffer.from('{}') });
        server.store.put('/loras/pirate/adapter_model.safetensors', { bytes: weights });
        const found = await page.evaluate(async (source) => {
          const { Halfbyte } = window.halfbyte;
          const own = { 'adapter_config.json': new Blob(['{}']), 'adapter_model.safetensors': new Blob(['ab']) };
          const model = await Halfbyte.load('embedded', { activations: 'native', adapters: [{ source: own, name: 'own' }, { source, weight: 0.5 }] });
          const { info: { activations, sums, adapters } } = model;
          await model.setAdapterWeights({ own: 0 });
          const message = (error) => error.message;
          const wrong = await model.setAdapterWeights({ other: 1 }).catch(message);
          await model.close();
          const hub = await Halfbyte.load('embedded', { adapters: [{ source: 'hf:a/b' }] }).catch(message);
          return { activations, sum: sums['adapter_model.safetensors'], adapters, after: model.info.adapters, wrong, hub };
        }, `${server.store.url}/loras/pirate/`);
        const both = (weight) => [{ name: 'own', weight, files: 2 }, { name: 'pirate', weight: 0.5, files: 2 }];
        assert.deepEqual([found.adapters, found.after], [both(1), both(0)]);
        assert.equal(found.activations, 'native');
        assert.equal(found.sum, sum(weights));
        assert.match(found.wrong, /other/);
        assert.match(found.hub, /adapter's source/);
      });

      test('a dropped folder', async () => {
        const folder = join(mkdtempSync(join(tmpdir(), 'halfbyte-drop-')), 'my-model');
        mkdirSync(join(folder, name === 'chromium' ? 'inner' : '.'), { recursive: true });
        writeFileSync(join(folder, 'config.json'), '{}');
        writeFileSync(join(folder, 'model.safetensors'), random(MiB));
        writeFileSync(join(folder, '.DS_Store'), 'x');
        if (name === 'chromium') writeFileSync(join(folder, 'inner', 'other.safetensors'), 'x');
        await page.evaluate(() => {
          const zone = document.querySelector('#drop');
          zone.ondragover = (event) => event.preventDefault();
          window.dropped = new Promise((resolve) => (zone.ondrop = (event) => {
            event.preventDefault();
            resolve(window.halfbyte.droppedFiles(event.dataTransfer));
          }));
        });
        await page.drop('#drop', [folder]);
        const names = await page.evaluate(async () => {
          const model = await window.halfbyte.Halfbyte.load(await window.dropped);
          await model.close();
          return Object.keys(model.info.sums).sort();
        });
        assert.deepEqual(names, ['config.json', 'model.safetensors']);
        rmSync(dirname(folder), { recursive: true });
      });

      test('what is no source', async () => {
        await fails('Invalid', /expected 'embedded'.*found "nonsense"/, { source: 'nonsense' });
        await fails('Invalid', /not a model's source/, { source: 7 });
        await fails('Missing', /no model gone in the cache/, { source: { cached: 'gone' } });
      });

      test('an address, without preflights and with one simple range a request', async () => {
        const bytes = random(20 * MiB + 5);
        const source = server.store.put('/plain/a.gguf', { bytes });
        const { info, stages } = await ok({ source });
        assert.equal(info.sums['a.gguf'], sum(bytes));
        assert.equal(stages.download.done, bytes.length);
        assert.ok(server.store.log.every(({ method }) => method === 'GET'));
        assert.ok(ranges(server.store, '/plain/a.gguf').every((range) => /^bytes=\d+-\d+$/.test(range)));
        // The second time only a byte is asked for, to see whether it changed.
        server.store.log.length = 0;
        const again = await ok({ source });
        assert.equal(again.info.sums['a.gguf'], sum(bytes));
        assert.equal(again.info.cached, info.cached);
        assert.deepEqual(ranges(server.store, '/plain/a.gguf'), ['bytes=0-0']);
        // And none without a network.
        await server.store.down();
        const offline = await ok({ source });
        await server.store.up();
        assert.equal(offline.info.sums['a.gguf'], sum(bytes));
        const cached = await ok({ source: { cached: info.cached } });
        assert.equal(cached.info.sums['a.gguf'], sum(bytes));
      });

      test('a server that hides Content-Range', async () => {
        const bytes = random(9 * MiB, 2);
        const { info } = await ok({ source: server.store.put('/hidden.gguf', { bytes, expose: false }) });
        assert.equal(info.sums['hidden.gguf'], sum(bytes));
      });

      test('a server without ranges, with a cache and without', async () => {
        const bytes = random(20 * MiB, 3);
        const source = server.store.put('/whole.gguf', { bytes, ranges: false, cut: 5 * MiB, cuts: 1 });
        for (const options of [{}, {}, { cache: false }]) {
          const { info } = await ok({ source, options });
          assert.equal(info.sums['whole.gguf'], sum(bytes));
        }
        const large = server.store.put('/large.gguf', { size: 100 * MiB, at: (start, end) => Buffer.alloc(end - start), ranges: false });
        await fails('Network', /without byte ranges.*open it from disk/, { source: large, options: { cache: false } });
      });

      test('without a cache, through blocks', async () => {
        const bytes = random(33 * MiB + 1, 4);
        const { info, stages } = await ok({ source: server.store.put('/blocks.gguf', { bytes }), options: { cache: false } });
        assert.equal(info.sums['blocks.gguf'], sum(bytes));
        assert.equal(info.cached, null);
        assert.equal(stages.download, undefined);
      });

      test('an empty file is no riddle', async () => {
        await ok({ source: server.store.put('/empty.gguf', { bytes: Buffer.alloc(0) }) });
      });

      test('a folder: what is there of it', async () => {
        const weights = { 'a-1.safetensors': random(3 * MiB, 5), 'a-2.safetensors': random(9 * MiB, 6) };
        const index = JSON.stringify({ weight_map: { x: 'a-1.safetensors', y: 'a-2.safetensors', z: 'a-1.safetensors' } });
        for (const [file, bytes] of Object.entries({ ...weights, 'config.json': Buffer.from('{}'), 'tokenizer.json': Buffer.from('{ }'), 'model.safetensors.index.json': Buffer.from(index) })) {
          server.store.put(`/folder/${file}`, { bytes });
        }
        // A server that answers everything with its page.
        server.store.put('/folder/generation_config.json', { bytes: Buffer.from('<!doctype html>'), type: 'text/html' });
        const { info } = await ok({ source: `${server.store.url}/folder/` });
        assert.deepEqual(Object.keys(info.sums).sort(), ['a-1.safetensors', 'a-2.safetensors', 'config.json', 'model.safetensors.index.json', 'tokenizer.json']);
        for (const [file, bytes] of Object.entries(weights)) assert.equal(info.sums[file], sum(bytes));
        const one = await ok({ source: `${server.store.url}/folder/a-1.safetensors` });
        assert.deepEqual(Object.keys(one.info.sums).sort(), ['a-1.safetensors', 'config.json', 'tokenizer.json']);
        await fails('Missing', /config.json: not there; expected the folder/, { source: `${server.store.url}/nothing/` });
      });

      test('what the network refuses', async () => {
        await fails('Missing', /gone.gguf: no such file.*HTTP 404.*check the address/, { source: `${server.store.url}/gone.gguf` });
        const closed = server.store.put('/closed.gguf', { bytes: random(10), cors: false });
        await fails('Network', /CORS.*Access-Control-Allow-Origin.*open it from disk/s, { source: closed });
        await fails('Network', /is down/, { source: 'http://127.0.0.1:9/x.gguf' });
      });
    });

    describe('a bad network', () => {
      test('connections that break, servers that are busy', async () => {
        const bytes = random(20 * MiB, 7);
        const source = server.store.put('/breaks.gguf', { bytes, cut: 3 * MiB, cuts: 5, statuses: [503, 429], retryAfter: '1' });
        const { info } = await ok({ source });
        assert.equal(info.sums['breaks.gguf'], sum(bytes));
      });

      test('one that stays away: an error, and the next time goes on', async () => {
        const bytes = random(40 * MiB, 8);
        const source = server.store.put('/away.gguf', { bytes, slow: 2 });
        const going = page.evaluate(load, { source });
        while (!ranges(server.store, '/away.gguf').some((range) => range === 'bytes=33554432-41943039')) await wait(10);
        await server.store.down();
        const failed = await going;
        assert.equal(failed.kind, 'Network', failed.message);
        assert.match(failed.message, /goes on where it stopped/);
        await server.store.up();
        const [entry] = (await cache('list')).filter(({ source }) => source.endsWith('/away.gguf'));
        assert.equal(entry.complete, false);
        assert.equal(entry.total, bytes.length);
        assert.ok(entry.bytes >= 8 * MiB, `${entry.bytes} bytes are there`);
        server.store.log.length = 0;
        const { info, stages } = await ok({ source: { cached: entry.id } });
        assert.equal(info.sums['away.gguf'], sum(bytes));
        assert.equal(stages.download.first, entry.bytes);
        assert.equal((await cache('list')).find(({ id }) => id === entry.id).complete, true);
      });

      test('a file that changes is never mixed', async () => {
        const [old, young] = [random(60 * MiB, 9), random(60 * MiB, 10)];
        const source = server.store.put('/changes.gguf', { bytes: old, slow: 1, hold: 32 * MiB });
        await fails('Aborted', /stopped/, { source, stopAt: { stage: 'download', done: 20 * MiB } });
        // Between two visits.
        server.store.put('/changes.gguf', { bytes: young, etag: '"two"', slow: 1 });
        const going = page.evaluate(load, { source });
        // And on the way: it is the old one again.
        while (server.store.log.filter(({ range }) => range?.startsWith('bytes=16777216-')).length < 2) await wait(5);
        server.store.put('/changes.gguf', { bytes: old, etag: '"one"' });
        const { info, message } = await going;
        assert.ok(info, message);
        assert.equal(info.sums['changes.gguf'], sum(old));
        // After it was complete.
        server.store.put('/changes.gguf', { bytes: young, etag: '"two"' });
        assert.equal((await ok({ source })).info.sums['changes.gguf'], sum(young));
      });

      test('wrong content', async () => {
        const bytes = random(9 * MiB, 11);
        const source = server.store.put('/hash.gguf', { bytes });
        const sure = sha256(bytes);
        const wrong = sure.replace(/^./, (digit) => (digit === '0' ? '1' : '0'));
        await fails('Corrupt', /expected SHA-256 .* found/, { source, options: { sha256: wrong } });
        const { stages } = await ok({ source, options: { sha256: sure } });
        assert.equal(stages.check.done, bytes.length);
      });
    });

    describe('the hub', () => {
      const weights = random(20 * MiB, 12);
      const small = Buffer.from('{"chat": true}');
      const hub = () => ({ endpoint: server.hub.url });

      test('a repository, whose signed addresses expire', async () => {
        putRepo(server, 'me/tiny', { 'config.json': { bytes: small }, 'model.safetensors': { bytes: weights, lfs: true }, 'README.md': { bytes: small } }, { expireAfter: 2 });
        const { info, stages } = await ok({ source: 'me/tiny', options: { hub: hub() } });
        assert.equal(info.sums['model.safetensors'], sum(weights));
        assert.equal(info.sums['README.md'], undefined);
        assert.equal(stages.check.done, weights.length);
        assert.ok(server.store.log.every(({ headers }) => !headers.authorization));
        const [entry] = (await cache('list')).filter(({ source }) => source === 'hf:me/tiny@c0ffee');
        assert.deepEqual(entry.files, ['config.json', 'model.safetensors']);
        assert.ok(entry.complete && entry.bytes === weights.length + small.length);
        server.store.log.length = 0;
        assert.equal((await ok({ source: 'hf:me/tiny', options: { hub: hub() } })).info.cached, entry.id);
        assert.equal(server.store.log.length, 0);
        await server.hub.down();
        assert.equal((await ok({ source: 'hf:me/tiny', options: { hub: hub() } })).info.cached, entry.id);
        await server.hub.up();
      });

      test('a file of a repository, at a revision, in a folder, without a cache', async () => {
        putRepo(server, 'me/files', { 'q/a b.gguf': { bytes: weights, lfs: true }, 'b.gguf': { bytes: small } }, { commit: 'abc', revision: 'v%2F1' });
        // Node's URL keeps the escape.
        const { info } = await ok({ source: 'hf:me/files/q/a b.gguf@v/1', options: { hub: hub() } });
        assert.equal(info.sums['q/a b.gguf'], sum(weights));
        const uncached = await ok({ source: 'hf:me/files/q/a b.gguf@v/1', options: { hub: hub(), cache: false } });
        assert.equal(uncached.info.sums['q/a b.gguf'], sum(weights));
      });

      test('a mirror that tells no sizes', async () => {
        putRepo(server, 'me/mirror', { 'config.json': { bytes: small }, 'a.safetensors': { bytes: weights, lfs: true } }, { blobs: false });
        const { info } = await ok({ source: 'me/mirror', options: { hub: hub() } });
        assert.equal(info.sums['a.safetensors'], sum(weights));
      });

      test('damage on the way', async () => {
        const damaged = Buffer.from(weights);
        putRepo(server, 'me/damaged', { 'a.gguf': { bytes: damaged, lfs: true } });
        damaged[5 * MiB] ^= 1;
        await fails('Corrupt', /a.gguf: not the file that was meant.*expected SHA-256/, { source: 'me/damaged', options: { hub: hub() } });
      });

      test('gated, private, nonexistent', async () => {
        const guard = (url, count, request) => (request.headers.authorization === 'Bearer good' ? null : request.headers.authorization ? 403 : 401);
        // Firefox asks the store for leave, too, though it then sends it no token.
        putRepo(server, 'me/gated', { 'a.gguf': { bytes: weights, lfs: true, preflight: name === 'firefox' } }, { guard });
        await fails('Missing', /me\/gated does not exist, or needs a token.*hub\.token/, { source: 'me/gated', options: { hub: hub() } });
        await fails('Network', /asks for a licence/, { source: 'me/gated', options: { hub: { ...hub(), token: 'bad' } } });
        server.store.log.length = 0;
        await ok({ source: 'me/gated', options: { hub: { ...hub(), token: 'good' } } });
        assert.ok(server.store.log.length > 0 && server.store.log.every(({ headers }) => !headers.authorization), 'the token stays at the hub');
        await fails('Missing', /no model me\/none at/, { source: 'me/none', options: { hub: hub() } });
        server.hub.put('/api/models/me/norev/revision/x', { statuses: [404], headers: { 'X-Error-Code': 'RevisionNotFound' } });
        await fails('Missing', /has no revision x/, { source: 'hf:me/norev@x', options: { hub: hub() } });
      });
    });

    describe('the cache', () => {
      test('two tabs: one downloads, the other waits and sees it', async () => {
        const bytes = random(30 * MiB, 13);
        const source = server.store.put('/two.gguf', { bytes, slow: 2, hold: 24 * MiB });
        const other = await open();
        const loading = Promise.all([ok({ source }), ok({ source }, other)]);
        const waits = async () => (await navigator.locks.query()).pending.some(({ name }) => name.startsWith('halfbyte/download/'));
        while (!(await page.evaluate(waits))) await wait(20);
        delete server.store.get('/two.gguf').hold;
        const [first, second] = await loading;
        for (const { info, stages } of [first, second]) {
          assert.equal(info.sums['two.gguf'], sum(bytes));
          assert.equal(stages.download.total, bytes.length);
        }
        const asked = ranges(server.store, '/two.gguf').filter((range) => range !== 'bytes=0-0');
        assert.equal(new Set(asked).size, asked.length, `asked once for each piece: ${asked}`);
        await other.close();
      });

      test('a worker that is killed while it downloads', async () => {
        const bytes = random(40 * MiB, 14);
        const source = server.store.put('/killed.gguf', { bytes, slow: 2, hold: 36 * MiB });
        const lost = await page.evaluate(async (source) => {
          const worker = new Worker('/halfbyte/worker.js', { type: 'module' });
          try {
            await window.halfbyte.Halfbyte.load(source, {
              worker,
              onProgress: ({ stage, done }) => stage === 'download' && done > 34 * 2 ** 20 && worker.terminate(),
            });
            return 'loaded';
          } catch (error) {
            return `${error.kind}: ${error.message}`;
          }
        }, source);
        assert.match(lost, /^WorkerLost: the worker is gone.*load the model again/);
        delete server.store.get('/killed.gguf').hold;
        const { info, stages } = await ok({ source });
        assert.ok(stages.download.first >= 8 * MiB, `goes on at ${stages.download.first}`);
        assert.equal(info.sums['killed.gguf'], sum(bytes));
      });

      test('stopping, and deleting', async () => {
        const bytes = random(30 * MiB, 15);
        const source = server.store.put('/stop.gguf', { bytes, slow: 1, hold: 24 * MiB });
        await fails('Aborted', /stopped/, { source, stopAt: { stage: 'download', done: 16 * MiB } });
        const entry = (await cache('list')).find(({ source }) => source.endsWith('/stop.gguf'));
        assert.equal(entry.complete, false);
        delete server.store.get('/stop.gguf').hold;
        await fails('Aborted', /stopped/, { source, options: { context: 1 }, stopAt: { stage: 'weights', done: 1 } });
        await ok({ source, keep: true });
        await assert.rejects(cache('delete', entry.id), /in use.*close it there first/);
        await page.evaluate(() => window.model.close());
        await cache('delete', entry.id);
        assert.ok(!(await cache('list')).some(({ id }) => id === entry.id));
        await assert.rejects(cache('delete', entry.id), /no model .* in the cache/);
        const { usage, quota } = await cache('estimate');
        assert.ok(quota > usage);
        await cache('clear');
        assert.deepEqual(await cache('list'), []);
        assert.equal(await cache('unavailable'), null);
      });
    });

    describe('the worker', () => {
      const on = (run, argument) => page.evaluate(run, argument);
      before(() => ok({ source: 'embedded', keep: true }));

      test('text as it comes, then the summary', async () => {
        const { pieces, text, summary, empty } = await on(async () => {
          const generation = window.model.generate('few', { seed: 7 });
          const pieces = [];
          for await (const piece of generation) pieces.push(piece);
          const empty = window.model.generate('few', { maxTokens: 0 });
          return { pieces, text: await generation.text(), summary: await generation.summary, empty: await empty.text() };
        });
        assert.deepEqual(pieces, ['w0 ', 'w1 ', 'w2 ']);
        assert.equal(text, 'w0 w1 w2 ');
        assert.equal(summary.finishReason, 'stop');
        assert.equal(summary.seed, 7);
        assert.equal(empty, '');
      });

      test('a busy worker can be cancelled, four ways', async () => {
        const reasons = await on(async () => {
          const { model } = window;
          const reasons = [];
          const first = model.generate('x');
          for await (const piece of first) if (piece === 'w5 ') break;
          reasons.push((await first.summary).finishReason);
          const second = model.generate('x');
          setTimeout(() => second.cancel(), 50);
          await second.text();
          reasons.push((await second.summary).finishReason);
          const stop = new AbortController();
          const third = model.generate('x', { signal: stop.signal });
          setTimeout(() => stop.abort(), 50);
          reasons.push((await third.summary).finishReason);
          // One that has not begun yet.
          const running = model.generate('x');
          const queued = model.generate('x');
          queued.cancel();
          running.cancel();
          reasons.push((await queued.summary).finishReason);
          const late = new AbortController();
          late.abort();
          reasons.push(await model.perplexity('x', { signal: late.signal }).catch((error) => error.kind));
          return reasons;
        });
        assert.deepEqual(reasons, ['cancelled', 'cancelled', 'cancelled', 'cancelled', 'Aborted']);
      });

      test('everything else', async () => {
        const found = await on(async () => {
          const { model } = window;
          const tokens = await model.tokenize('hé');
          const events = [];
          const verification = await model.verify({ onOutcome: (outcome) => events.push(outcome.name) });
          const { outcomes } = await model.verify({ quick: true });
          const prompts = [];
          await model.generate([{ role: 'user', content: 'hi' }], { maxTokens: 1, onProgress: (progress) => prompts.push(progress) }).summary;
          const thrown = model.generate('throw');
          const loop = (async () => { for await (const piece of thrown) void piece; })();
          return {
            tokens: [...tokens], special: (await model.tokenize('a', { special: false })).length,
            text: await model.detokenize([104, 105]),
            perplexity: await model.perplexity('abc'), bench: await model.bench({ prompt: 3 }), memory: await model.memory(),
            verification, quick: outcomes.length, events, prompts, reset: await model.reset(),
            thrown: await loop.catch((error) => [error.kind, error.message, error instanceof window.halfbyte.HalfbyteError]),
            invalid: await model.generate({}).text().catch((error) => error.message),
          };
        });
        assert.deepEqual(found.tokens, [1, 104, 195, 169]);
        assert.equal(found.special, 1);
        assert.equal(found.text, 'hi');
        assert.equal(found.perplexity.perplexity, 2);
        assert.match(found.bench.browser, name === 'chromium' ? /^Chrome \d.*\(Linux\)/ : /^Firefox \d.*\(Linux\)/);
        assert.deepEqual(found.bench.asked, { prompt: 3 });
        assert.equal(found.memory.wasm, 65536);
        assert.equal(found.verification.pass, true);
        assert.deepEqual(found.events, ['k1', 'k2', 'k3']);
        assert.equal(found.quick, 1);
        assert.equal(found.prompts[0].stage, 'prompt');
        assert.deepEqual(found.thrown, ['ContextFull', 'the prompt has 9 tokens but the context holds 8: shorten it', true]);
        assert.match(found.invalid, /a prompt is a text, messages/);
      });

      test('the adapter, and subgroups where there are some', async () => {
        const found = await on(async () => {
          const { Halfbyte } = window.halfbyte;
          const missing = await Halfbyte.adapter({ worker: undefined });
          return [missing, await Halfbyte.adapter({ without: ['subgroups'] }), await Halfbyte.adapter({ adapter: 'cpu' }), Halfbyte.version];
        });
        assert.equal(found[0].cpu, false);
        assert.equal(found[0].kind, 'software');
        assert.deepEqual(found[0].capabilities.subgroups, name === 'chromium' ? [4, 4] : null);
        assert.equal(found[1].capabilities.subgroups, null);
        assert.equal(found[2].cpu, true);
        assert.match(readFileSync(new URL('../../Cargo.toml', import.meta.url), 'utf8'), new RegExp(`^version = "${found[3]}"`, 'm'));
      });

      test('OpenAI\'s shape', async () => {
        const found = await on(async () => {
          const { createEngine } = window.halfbyte;
          const engine = await createEngine(window.model);
          const messages = [{ role: 'user', content: 'few' }];
          const { create } = engine.chat.completions;
          const whole = await create({ messages, seed: 1 });
          const chunks = [];
          for await (const chunk of await create({ messages, stream: true, max_tokens: 2, stream_options: { include_usage: true } })) chunks.push(chunk);
          const endless = [{ role: 'user', content: 'x' }];
          const interrupted = create({ messages: endless });
          setTimeout(() => engine.interruptGenerate(), 50);
          const stop = new AbortController();
          setTimeout(() => stop.abort(), 150);
          for await (const chunk of await create({ messages: endless, stream: true })) if (chunk.choices[0].delta.content) break;
          return {
            whole, chunks,
            stopped: (await create({ messages: endless, stop: 'w4' })).choices[0].message.content,
            interrupted: (await interrupted).choices[0].finish_reason,
            aborted: await create({ messages: endless }, { signal: stop.signal }).catch((error) => error.kind),
            many: await create({ messages, n: 2 }).catch((error) => error.kind),
          };
        });
        assert.equal(found.whole.object, 'chat.completion');
        assert.deepEqual(found.whole.choices, [{ index: 0, message: { role: 'assistant', content: 'w0 w1 w2 ' }, finish_reason: 'stop' }]);
        assert.deepEqual(found.whole.usage, { prompt_tokens: 3, completion_tokens: 3, total_tokens: 6 });
        assert.deepEqual(found.chunks.map(({ choices }) => choices[0]?.delta.content), ['', 'w0 ', 'w1 ', undefined, undefined]);
        assert.equal(found.chunks.at(-2).choices[0].finish_reason, 'length');
        assert.equal(found.chunks.at(-1).usage.completion_tokens, 2);
        assert.equal(found.stopped, 'w0 w1 w2 w3 ');
        assert.equal(found.interrupted, null);
        assert.equal(found.aborted, 'Aborted');
        assert.equal(found.many, 'Invalid');
      });

      test('one worker for two models', async () => {
        const found = await on(async () => {
          const worker = new Worker('/halfbyte/worker.js', { type: 'module' });
          const { Halfbyte } = window.halfbyte;
          const [a, b] = await Promise.all([Halfbyte.load('embedded', { worker }), Halfbyte.load('embedded', { worker })]);
          await a.close();
          const text = await b.generate('few').text();
          const closed = await a.memory().catch((error) => error.kind);
          await b.close();
          worker.terminate();
          return { text, closed };
        });
        assert.deepEqual(found, { text: 'w0 w1 w2 ', closed: 'Invalid' });
      });

      test('a trap ends the worker; one that does not start says why', async () => {
        const found = await on(async () => {
          const { Halfbyte } = window.halfbyte;
          const model = await Halfbyte.load('embedded');
          const queued = [model.generate('trap').text(), model.memory()].map((call) => call.catch((error) => `${error.kind}: ${error.message}`));
          const broken = Halfbyte.load('embedded', { worker: new Worker('/halfbyte/nothing.js', { type: 'module' }) });
          const panicked = (await Halfbyte.load('embedded')).generate('uncaught').text();
          return [...await Promise.all(queued), await model.memory().catch((error) => error.kind), await panicked.catch((error) => `${error.kind}: ${error.message}`), await broken.catch((error) => `${error.kind}: ${error.message}`)];
        });
        assert.match(found[0], /^WorkerLost: .*unreachable/);
        assert.match(found[1], /^WorkerLost/);
        assert.equal(found[2], 'WorkerLost');
        assert.match(found[3], /^WorkerLost: .*unreachable/);
        assert.match(found[4], /^WorkerLost: .*did not load/);
      });

      test('closing cancels what runs', async () => {
        const found = await on(async () => {
          const generation = window.model.generate('x');
          await new Promise((resolve) => setTimeout(resolve, 30));
          await window.model.close();
          return [(await generation.summary).finishReason, await window.model.memory().catch((error) => error.kind)];
        });
        assert.deepEqual(found, ['cancelled', 'Invalid']);
      });
    });
  });
}
