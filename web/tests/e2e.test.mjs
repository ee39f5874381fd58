// The whole of it: the page as it is built, its WebAssembly and its shaders, in both browsers, against what the native
// program writes. HALFBYTE_BROWSERS=firefox runs one of them; HALFBYTE_BIN names the program, HALFBYTE_SHARED the
// checkpoints that are not in the repository.

import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import { NAMES, launch } from './browsers.mjs';
import { SHARED, TALE, TINY, gapped, gappedSafetensors, golden, native, spelled, withTokenizer } from './models.mjs';
import { putRepo, start } from './server.mjs';

const MiB = 1 << 20;
const GiB = 1 << 30;
const ONCE = 'Once upon a time';
const LENGTH = 48;
/** Of texts that something happens to half-way. */
const LONG = 160;
/** For anything that compiles shaders or computes on a busy machine without a GPU. */
const PATIENCE = 900_000;
const GREEDY = `temperature=0&max=${LENGTH}&precision=f32&repeat=1&verify=quick`;
const chosen = process.env.HALFBYTE_BROWSERS?.split(',') ?? NAMES;
const reals = join(SHARED, 'fixtures/tinystories-656k');
const hostile = join(SHARED, 'fixtures/hostile');
const absent = (path) => !existsSync(path) && `left out: ${path} is not there; HALFBYTE_SHARED says where the checkpoints are`;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** What a page looks like, for those who have to find out why a test waits. */
const look = () => ({
  state: document.documentElement.dataset.state,
  model: window.halfbyte?.model?.info.name ?? null,
  errors: [...document.querySelectorAll('#errors .error')].map((card) => card.textContent),
  progress: document.querySelector('#progress').hidden ? null : document.querySelector('#progress-text').textContent,
  stats: document.querySelector('#stats').textContent,
  story: document.querySelector('#story').innerText.slice(0, 300),
});

/** A page, with the words to use it. */
class Page {
  constructor(handle, name, server) {
    Object.assign(this, { handle, name, server });
    this.evaluate = handle.evaluate;
  }

  /** Waits until `run(argument)` is true in the page; resolves to its value. */
  async wait(what, run, argument, timeout = PATIENCE) {
    const end = Date.now() + timeout;
    for (;;) {
      let value, gone;
      try {
        value = await this.evaluate(run, argument);
      } catch (error) {
        gone = error; // between two documents
      }
      if (value) return value;
      if (Date.now() > end) {
        const page = await this.evaluate(look).catch(String);
        throw new Error(`${this.name}: waited ${timeout / 1000} s for ${what}: ${JSON.stringify({ ...page, problems: this.handle.problems, gone: gone?.message }, null, 1)}`);
      }
      await pause(100);
    }
  }

  /** Runs `action`; remembers model and errors of before. */
  async act(action) {
    await this.evaluate(() => {
      window.before = window.halfbyte.model;
      for (const card of document.querySelectorAll('#errors .error')) card.dataset.old = '';
      document.querySelector('#stats').textContent = '';
    });
    await action();
  }

  /** Loads by `action`; resolves when the model is there and nothing runs. */
  async load(action) {
    await this.act(action);
    const { error, prompt } = await this.wait('a model', () => {
      const { model } = window.halfbyte;
      const card = document.querySelector('#errors .error:not([data-old])');
      if (card) return { error: card.textContent };
      return model && model !== window.before && document.documentElement.dataset.state !== 'loading' && { prompt: model.info.prompt };
    });
    assert.equal(error, undefined);
    if (prompt) await this.written();
  }

  /** Resolves to the story when its generation has ended and its numbers are there. */
  async written() {
    const { error, story } = await this.wait('the end of the story', () => {
      const card = document.querySelector('#errors .error:not([data-old])');
      if (card) return { error: card.textContent };
      const done = document.documentElement.dataset.state === 'ready' && document.querySelector('#stats').textContent;
      return done && { story: [...document.querySelectorAll('#story p')].map((line) => line.textContent).join('\n') };
    });
    assert.equal(error, undefined);
    return story;
  }

  /** The page's next generation is kept in `window.generation`; it has `maxTokens` tokens, or what the form says. */
  watch(maxTokens) {
    return this.evaluate((maxTokens) => {
      const { model } = window.halfbyte;
      window.longer = maxTokens ? { maxTokens } : {};
      if (Object.hasOwn(model, 'generate')) return;
      const generate = model.generate.bind(model);
      model.generate = (prompt, options) => (window.generation = generate(prompt, { ...options, ...window.longer }));
    }, maxTokens);
  }

  summary() {
    return this.evaluate(async () => {
      const { promptTokens, tokens, finishReason, recoveries } = await window.generation.summary;
      return { promptTokens, tokens, finishReason, recoveries };
    });
  }

  /** Writes `prompt` into the form and sends it. */
  async begin(prompt, maxTokens) {
    await this.watch(maxTokens);
    await this.evaluate((prompt) => {
      const input = document.querySelector('#input');
      input.value = prompt;
      input.dispatchEvent(new Event('input', { bubbles: true }));
      document.querySelector('#stats').textContent = '';
      document.querySelector('#send').click();
    }, prompt);
  }

  /** Begins a long text and acts when some of it is to be seen: the model stands meanwhile, so it is still writing. */
  async halfway(act) {
    const release = this.server.stand();
    try {
      await this.begin(ONCE, LONG);
      await this.wait('some text', () => document.querySelector('#story').textContent.length > 60);
      await act();
    } finally {
      release();
    }
  }

  /** Has a text written with the form: `{ story, promptTokens, tokens, finishReason, recoveries }`. */
  async write(prompt) {
    await this.begin(prompt);
    const story = await this.written();
    return { story, ...(await this.summary()) };
  }

  /** Writes, and compares text and tokens with the native program's. */
  async writesAsNative(model = 'embedded', prompt = ONCE) {
    const wanted = native(model, prompt, LENGTH);
    const found = await this.write(prompt);
    assert.deepEqual(found.promptTokens, wanted.prompt_token_ids);
    assert.deepEqual(found.tokens, wanted.token_ids);
    assert.equal(found.finishReason, wanted.finish_reason);
    assert.equal(found.story, prompt + wanted.text);
    return found;
  }

  /** Waits for the card of an error that `action` brings: `{ kind, text }`. */
  async failure(action) {
    await this.act(action);
    return this.wait('an error', () => {
      const card = document.querySelector('#errors .error:not([data-old])');
      const idle = !['loading', 'generating'].includes(document.documentElement.dataset.state);
      return idle && card && { kind: card.dataset.error, text: card.querySelector('p').textContent };
    });
  }

  async fails(action, kind, text) {
    const found = await this.failure(action);
    assert.equal(found.kind, kind, found.text);
    assert.match(found.text, text);
  }

  /** Drops files that are no models, then loads and runs one that is. `bad`: paths, the error's kind and text. */
  async refuses(bad) {
    const wrong = [];
    for (const [paths, kind, text] of bad) {
      const found = await this.failure(() => this.drop(...paths));
      if (found.kind !== kind || !text.test(found.text)) wrong.push({ paths, ...found });
    }
    assert.deepEqual(wrong, []);
    await this.loadEmbedded();
    await this.writesAsNative();
  }

  /** A click that needs no place on the screen. */
  click(selector) {
    return this.evaluate((selector) => {
      const element = document.querySelector(selector);
      if (!element || element.disabled) throw new Error(`${selector} ${element ? 'is disabled' : 'is not there'}`);
      element.click();
    }, selector);
  }

  loadEmbedded() {
    return this.load(() => this.click('#load-embedded'));
  }

  /** Types an address, or a repository, into the form for it. */
  request(source) {
    return this.evaluate((source) => {
      document.querySelector('#hub').value = source;
      document.querySelector('#hub-form').requestSubmit();
    }, source);
  }

  drop(...paths) {
    return this.handle.drop('body', paths);
  }

  /** Picks files, as a folder where the browser can be told to. */
  pick(path) {
    return this.handle.setFiles('#files', path.endsWith('.gguf') ? [path] : readdirSync(path).map((name) => join(path, name)));
  }

  cached() {
    return this.evaluate(async () => {
      const { Halfbyte } = await import('./halfbyte/index.js');
      return Halfbyte.cache.list();
    });
  }
}

describe('the page', { concurrency: true, timeout: 7_200_000 }, () => {
  for (const name of chosen) describe(name, { concurrency: 1 }, () => inBrowser(name));
});

function inBrowser(name) {
  let browser, server, work, tiny;
  const open = async (query) => {
    const handle = await browser.open(`${server.url}?app&${query}`);
    return new Page(handle, name, server);
  };
  const spell = (folder) => spelled(golden(folder).tokens);

  before(async () => {
    work = mkdtempSync(join(tmpdir(), 'halfbyte-e2e-'));
    tiny = withTokenizer(join(TINY, 'llama'), join(work, 'llama'));
    server = await start({ core: 'real' });
    browser = await launch(name);
  });
  after(async () => {
    await browser?.close();
    await server?.close();
    if (work) rmSync(work, { recursive: true });
  });

  /** A file of zeros between a header and data, made in the page of one small blob. */
  const loadGapped = async (page, path, files, { header, gap, data }) => {
    for (const [part, bytes] of Object.entries({ header, data, ...files })) server.store.put(`/gapped/${part}`, { bytes });
    await page.load(() => page.evaluate(async ({ url, path, others, gap }) => {
      const get = async (part) => (await fetch(`${url}/gapped/${part}`)).blob();
      const zeros = new Blob([new Uint8Array(16 << 20)]);
      const count = Math.floor(gap / zeros.size);
      const parts = [await get('header'), ...Array(count).fill(zeros), zeros.slice(0, gap - count * zeros.size), await get('data')];
      const files = await Promise.all(others.map(async (name) => new File([await get(name)], name)));
      window.halfbyte.load([new File(parts, path), ...files]);
    }, { url: server.store.url, path, others: Object.keys(files), gap }));
  };

  describe('on the GPU', () => {
    let page;
    before(async () => {
      page = await open(GREEDY);
    });
    afterEach(() => assert.deepEqual(page.handle.problems.splice(0), []));
    after(() => page?.handle.close());

    test('the storyteller comes by itself and writes what the native program writes', async () => {
      assert.equal(await page.written(), ONCE + native('embedded', ONCE, LENGTH).text);
      assert.equal(await page.evaluate(() => window.halfbyte.model.adapter.cpu), false);
      await page.writesAsNative();
    });

    test('a stop by the button, half-way, leaves a page that writes on rightly', async () => {
      await page.halfway(() => page.click('#stop'));
      await page.written();
      const { tokens, finishReason } = await page.summary();
      assert.equal(finishReason, 'cancelled');
      assert.ok(tokens.length > 3 && tokens.length < LONG, `${tokens.length} tokens`);
      assert.deepEqual(tokens, native('embedded', ONCE, LONG).token_ids.slice(0, tokens.length));
      assert.equal(await page.evaluate(() => document.documentElement.dataset.state), 'ready');
    });

    test('so does Esc', async () => {
      await page.halfway(() => page.evaluate(() => document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape', bubbles: true }))));
      await page.written();
      assert.equal((await page.summary()).finishReason, 'cancelled');
      await page.writesAsNative();
    });

    test('a GPU that is lost while the model writes is set up again, and the text is the same', async () => {
      await page.halfway(() => page.evaluate(() => (window.lost = window.halfbyte.model.loseDevice(), null)));
      const story = await page.written();
      const { tokens, recoveries } = await page.summary();
      assert.deepEqual(tokens, native('embedded', ONCE, LONG).token_ids);
      assert.equal(story, ONCE + native('embedded', ONCE, LONG).text);
      assert.equal(recoveries, 1);
    });

    const alive = name !== 'chromium' && `left out: there is no way to end the GPU process of ${name}`;
    test('a GPU process that crashes while the model writes changes nothing', { skip: alive }, async () => {
      await page.halfway(() => page.handle.crashGpu());
      await page.written();
      const { tokens, recoveries } = await page.summary();
      assert.deepEqual(tokens, native('embedded', ONCE, LONG).token_ids);
      assert.equal(recoveries, 1);
      page.handle.problems.length = 0; // the browser says that it lost it
    });

    test('a GPU that is lost between two texts is set up again', async () => {
      await page.evaluate(() => window.halfbyte.model.loseDevice());
      await page.writesAsNative();
    });

    test('a folder that is dropped is a model', async () => {
      await page.load(() => page.drop(tiny));
      const found = await page.write(spell(tiny));
      assert.deepEqual(found.promptTokens, golden(tiny).tokens);
      assert.deepEqual(found.tokens.slice(0, 24), golden(tiny).greedy);
      assert.deepEqual(found.tokens, native(tiny, spell(tiny), LENGTH).token_ids);
    });

    // Readers are the same in every browser, files are not: each picks one and drops one.
    const formats = {
      chromium: [['gguf-q4_0', 'pick'], ['gptq-4bit-g32-actorder', 'drop']],
      firefox: [['bnb-nf4', 'pick'], ['quip-e8p12', 'drop']],
    };
    for (const [format, way] of formats[name]) {
      test(`${format}, by ${way}, writes what the golden file says and the native program writes`, { skip: absent(reals) }, async () => {
        const folder = join(reals, format);
        const gguf = readdirSync(folder).find((name) => name.endsWith('.gguf'));
        const model = gguf ? join(folder, gguf) : folder;
        const { prompt, tokens, greedy } = golden(folder);
        await page.load(() => page[way](model));
        const found = await page.writesAsNative(model, prompt);
        assert.deepEqual(found.promptTokens, tokens);
        assert.deepEqual(found.tokens.slice(0, greedy.length), greedy);
      });
    }

    test('a LoRA adapter counts as much as it is told to', { skip: absent(reals) }, async () => {
      const folders = { base: join(reals, 'bnb-nf4-dq'), lora: join(reals, 'lora-on-bnb-nf4-dq') };
      for (const [name, folder] of Object.entries(folders)) {
        for (const file of readdirSync(folder)) server.store.put(`/${name}/${file}`, { bytes: readFileSync(join(folder, file)) });
      }
      const { prompt } = golden(folders.lora);
      const found = await page.evaluate(async ({ url, prompt, maxTokens }) => {
        const { Halfbyte } = await import('./halfbyte/index.js');
        const model = await Halfbyte.load(`${url}/base/`, { precision: 'f32', cache: false, adapters: [{ source: `${url}/lora/`, weight: 4 }] });
        const write = async () => (await model.generate(prompt, { temperature: 0, maxTokens }).summary).tokens;
        const changed = await write();
        await model.setAdapterWeights({ lora: 0 });
        const plain = await write();
        const { adapters } = model.info;
        await model.loseDevice(); // what is set meanwhile holds for the GPU that is set up again
        await model.setAdapterWeights({ lora: 4 });
        const again = await write();
        await model.close();
        return { changed, plain, again, adapters };
      }, { url: server.store.url, prompt, maxTokens: LENGTH });
      const [changed, plain] = [['--lora', `${folders.lora}=4`], []].map((more) => native(folders.base, prompt, LENGTH, ...more).token_ids);
      assert.notDeepEqual(changed, plain);
      page.handle.problems.length = 0; // the browser says that it lost the device
      assert.deepEqual(found, { changed, plain, again: changed, adapters: [{ name: 'lora', weight: 0 }] });
    });

    test('tensors beyond 4 GiB of a GGUF file are found', async () => {
      await loadGapped(page, 'far.gguf', {}, gapped(readFileSync(TALE), 4.5 * GiB));
      await page.writesAsNative();
    });

    // On one codec of each family: what this adds to the native tests, which run all of them on the same SwiftShader, is
    // the browser's WebGPU around the kernels. Its compiler takes every shader in tests/tint.mjs.
    test('every kernel agrees with its twin on this GPU', async (t) => {
      await page.evaluate(() => (location.hash = '#tests'));
      await page.click('#verify');
      const verdict = await page.wait('the verdict', () => document.documentElement.dataset.state === 'ready' && document.querySelector('#verdict').textContent, null, 3_600_000);
      const failed = await page.evaluate(() => [...document.querySelectorAll('#outcomes [data-pass=false]')].map((row) => row.textContent));
      assert.deepEqual(failed, []);
      assert.match(verdict, /^All \d\d+ kernels agree/);
      t.diagnostic(verdict);
    });
  });

  describe('on the CPU, with downloads', () => {
    // Six pieces of the cache, all but the last of zeros.
    const { header, gap, data } = gapped(readFileSync(TALE), 40 * MiB);
    const big = Buffer.concat([header, Buffer.alloc(gap), data]);
    const HELD = 36 * MiB;
    const SIGNED = '/signed/tales/tale/tale.gguf';
    const query = () => `${GREEDY}&adapter=cpu&hub=${server.hub.url}`;
    const requests = (path) => server.store.log.filter((entry) => entry.path === path);
    const sent = (path) => requests(path).reduce((sum, entry) => sum + entry.sent, 0);
    let page;

    before(async () => {
      putRepo(server, 'tales/tale', { 'tale.gguf': { bytes: big, lfs: true, slow: 10, hold: HELD } });
      page = await open(query());
    });
    afterEach(() => assert.deepEqual(page.handle.problems.splice(0), []));
    after(() => page?.handle.close());

    test('the CPU writes the same', async () => {
      assert.equal(await page.written(), ONCE + native('embedded', ONCE, LENGTH).text);
      assert.equal(await page.evaluate(() => window.halfbyte.model.adapter.cpu), true);
      await page.writesAsNative();
    });

    test('a connection that breaks again and again loses nothing that came', async () => {
      const url = server.store.put('/tale.gguf', { bytes: big, cut: 6e6, cuts: 6 });
      await page.load(() => page.request(url));
      await page.writesAsNative();
      assert.ok(server.store.get('/tale.gguf').cuts < 2, 'it broke');
      const starts = requests('/tale.gguf').map(({ range }) => range).filter((range) => range !== 'bytes=0-0').map((range) => range?.split('-')[0]);
      assert.equal(new Set(starts).size, starts.length, `nothing comes twice: ${starts}`);
    });

    test('a download that is cancelled goes on where it stopped', async () => {
      await page.fails(async () => {
        await page.request('tales/tale');
        await page.wait('most of the download', (part) => document.querySelector('#progress').dataset.stage === 'download' && document.querySelector('#progress-bar').value >= part, HELD / big.length);
        await page.click('#cancel');
      }, 'Aborted', /goes on there/);
      delete server.store.get(SIGNED).hold;
      const [model] = (await page.cached()).filter(({ complete }) => !complete);
      assert.equal(model.source, 'hf:tales/tale@c0ffee');
      assert.ok(model.bytes >= 32 * MiB && model.bytes < big.length, `${model.bytes} bytes`);
      await page.wait('the button to go on', () => document.querySelector('[data-complete=false] [data-load-cached]') !== null);
      await page.load(() => page.click('[data-complete=false] [data-load-cached]'));
      await page.writesAsNative();
      assert.ok(sent(SIGNED) < big.length + 17 * MiB, `${sent(SIGNED)} bytes for ${big.length}`);
      assert.equal(requests(SIGNED).filter(({ range }) => range?.startsWith('bytes=0-')).length, 1, 'the first piece came once');
    });

    test('what is kept is loaded without the network, after a reload too', async () => {
      server.store.log.length = 0;
      const other = await open(`${query()}&model=hf:tales/tale&prompt=${encodeURIComponent(ONCE)}`);
      assert.equal(await other.written(), ONCE + native('embedded', ONCE, LENGTH).text);
      assert.ok(await other.evaluate(() => window.halfbyte.model.info.cached));
      assert.equal(sent(SIGNED), 0);
      await Promise.all([server.hub.down(), server.store.down()]);
      try {
        await other.handle.reload();
        assert.equal(await other.written(), ONCE + native('embedded', ONCE, LENGTH).text);
        assert.ok(await other.evaluate(() => window.halfbyte.model.info.cached));
      } finally {
        await Promise.all([server.hub.up(), server.store.up()]);
      }
      await other.handle.close();
    });

    test('what is kept can be deleted, but not while it runs', async () => {
      const remove = '[data-cached*=tales] [data-delete-cached]';
      await page.evaluate(() => (location.hash = '#models'));
      // The second click says that it was meant; the page forgets the first after some seconds.
      const twice = () => page.evaluate((remove) => [1, 2].forEach(() => document.querySelector(remove).click()), remove);
      await page.fails(twice, 'Invalid', /in use.*close it there first/);
      await page.loadEmbedded();
      await page.wait('the button', (remove) => document.querySelector(remove) !== null, remove);
      await twice();
      await page.wait('an empty list', (remove) => !document.querySelector(remove), remove);
      assert.deepEqual((await page.cached()).filter(({ source }) => source.startsWith('hf:')), []);
    });

    test('two tabs that want the same model download it once', async () => {
      server.store.log.length = 0;
      const tabs = await Promise.all([0, 1].map(() => open(`${query()}&model=hf:tales/tale&prompt=${encodeURIComponent(ONCE)}`)));
      for (const tab of tabs) assert.equal(await tab.written(), ONCE + native('embedded', ONCE, LENGTH).text);
      assert.ok(sent(SIGNED) < 1.05 * big.length, `${sent(SIGNED)} bytes for ${big.length}`);
      await Promise.all(tabs.map((tab) => tab.handle.close()));
    });

    test('a server without the file, and one that is down, are told of', async () => {
      await page.fails(() => page.request(`${server.store.url}/nothing.gguf`), 'Missing', /nothing\.gguf/);
      await page.fails(() => page.request('http://127.0.0.1:9/tale.gguf'), 'Network', /either the network or 127\.0\.0\.1:9 is down/);
      // The browsers themselves note it.
      page.handle.problems.length = 0;
      await page.loadEmbedded();
    });

    test('a worker that is killed is told of, and another takes its place', async () => {
      await page.evaluate(() => {
        const { Worker } = window;
        window.Worker = class extends Worker {
          constructor(...args) {
            super(...args);
            window.worker = this;
          }
        };
      });
      await page.loadEmbedded();
      await page.fails(async () => {
        await page.halfway(() => page.evaluate(() => window.worker.terminate()));
      }, 'WorkerLost', /the worker is gone.*load the model again/);
      await page.load(() => page.click('[data-error=WorkerLost] [data-action=load-again]'));
      await page.writesAsNative();
    });

    test('tensors beyond 4 GiB of a safetensors file are found', async () => {
      const files = Object.fromEntries(['config.json', 'tokenizer.json'].map((name) => [name, readFileSync(join(tiny, name))]));
      await loadGapped(page, 'model.safetensors', files, gappedSafetensors(readFileSync(join(tiny, 'model.safetensors')), 5 * GiB));
      const { tokens } = await page.write(spell(tiny));
      assert.deepEqual(tokens, native(tiny, spell(tiny), LENGTH).token_ids);
    });

    test('files that are no models are told of, and leave a page that works', async () => {
      const file = (name, bytes) => {
        const path = join(work, name);
        writeFileSync(path, bytes);
        return path;
      };
      const tale = readFileSync(TALE);
      const png = Buffer.from('89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489', 'hex');
      const bad = [
        [[file('page.gguf', '<!doctype html><title>404</title><p>Not found')], 'UnsupportedFormat', /page\.gguf: not a GGUF file/],
        [[file('picture.gguf', png)], 'UnsupportedFormat', /picture\.gguf: not a GGUF file/],
        [[file('notes.txt', 'Once upon a time')], 'Missing', /no model among these files: expected a \.gguf.*found notes\.txt/],
        [[file('empty.gguf', '')], 'Corrupt', /empty\.gguf/],
        [[file('cut.gguf', tale.subarray(0, 200_000))], 'Corrupt', /token_embd\.weight ends past end of file; the file may be truncated: fetch it again/],
        [[file('header.gguf', tale.subarray(0, 5000))], 'Corrupt', /header\.gguf/],
        [[join(tiny, 'config.json'), join(tiny, 'model.safetensors')], 'Missing', /tokenizer\.json/],
        [[join(tiny, 'tokenizer.json'), join(tiny, 'model.safetensors')], 'Missing', /config\.json/],
      ];
      await page.refuses(bad);
    });

    test('hostile files are told of, and leave a page that works', { skip: absent(hostile) }, async () => {
      const bad = [
        ['html_error_page.safetensors', 'UnsupportedFormat', /looks like HTML.*fetch the \.safetensors file/],
        ['npz_as_safetensors.safetensors', 'UnsupportedFormat', /looks like zip/],
        ['st_deep_nesting.safetensors', 'Corrupt', /st_deep_nesting/],
        ['gg_truncated_data.gguf', 'Corrupt', /truncated: fetch it again/],
        ['gg_kv_count_huge.gguf', 'Corrupt', /metadata count exceeds file size/],
        ['gg_version_1.gguf', 'UnsupportedFormat', /unsupported GGUF version 1: expected version 2 or 3/],
        ['missing_tensor', 'Missing', /missing tensor model\.layers\.0\.self_attn\.k_proj\.weight/],
        ['shape_mismatch', 'Corrupt', /expected \[32,16\], found \[32,15\]/],
        ['gptq_gidx_oob', 'Corrupt', /g_idx out of range \(77 >= 1\)/],
        ['config_unknown_quant', 'UnsupportedFormat', /unsupported quantization method wizardry; halfbyte reads GPTQ/],
        ['index_path_traversal', 'Corrupt', /shard path leaves the model directory/],
        ['tok_id_huge', 'Corrupt', /token id out of range/],
        ['tok_truncated', 'Corrupt', /tokenizer\.json: not valid JSON.*download the file again/],
      ];
      await page.refuses(bad.map(([path, ...rest]) => [[join(hostile, path)], ...rest]));
    });
  });

  // Integers and subgroups, as a GPU's kernels take them; Firefox has no subgroups.
  test('the kernels of GPUs write the same', { skip: name !== 'chromium' }, async () => {
    const page = await open(`max=8&${GREEDY}&without=software`);
    assert.equal(await page.written(), ONCE + native('embedded', ONCE, 8).text);
    const { software, dot4 } = await page.evaluate(() => window.halfbyte.model.adapter.capabilities);
    assert.deepEqual({ software, dot4 }, { software: false, dot4: true });
    const rounded = await page.evaluate(async ({ prompt, maxTokens }) => {
      const { Halfbyte } = await import('./halfbyte/index.js');
      const model = await Halfbyte.load('embedded', { activations: 'int8', without: ['software'] });
      let text = '';
      for await (const piece of model.generate(prompt, { temperature: 0, maxTokens })) text += piece;
      const { capabilities } = model.adapter;
      await model.close();
      return { text, rounding: capabilities.rounding };
    }, { prompt: ONCE, maxTokens: 8 });
    assert.equal(rounded.rounding, 'bytes');
    assert.equal(rounded.text, native('embedded', ONCE, 8).text);
    assert.deepEqual(page.handle.problems, []);
    await page.handle.close();
  });

  test('WebGPU\'s floor writes the same, as on a GPU', async () => {
    const page = await open(`${GREEDY}&limits=floor&without=f16,subgroups,software`);
    assert.equal(await page.written(), ONCE + native('embedded', ONCE, LENGTH).text);
    const { cpu, capabilities } = await page.evaluate(() => window.halfbyte.model.adapter);
    assert.equal(cpu, false);
    const { f16, subgroups, max_binding: binding, workgroup_bytes: workgroup } = capabilities;
    assert.deepEqual({ f16, subgroups, binding, workgroup }, { f16: false, subgroups: null, binding: 128 * MiB, workgroup: 16384 });
    assert.deepEqual(page.handle.problems, []);
    await page.handle.close();
  });

  test('a browser without WebGPU writes the same on the CPU, and says how to switch it on', async () => {
    const plain = await launch(name, { webgpu: false });
    try {
      const page = new Page(await plain.open(`${server.url}?app&${GREEDY}`), name, server);
      assert.equal(await page.written(), ONCE + native('embedded', ONCE, LENGTH).text);
      await page.writesAsNative();
      const told = await page.evaluate(() => !document.querySelector('#missing').hidden && document.querySelector('#missing-text').textContent);
      assert.match(told, name === 'firefox' ? /about:config/ : /chrome:\/\/flags/);
      assert.deepEqual(page.handle.problems, []);
    } finally {
      await plain.close();
    }
  });
}
