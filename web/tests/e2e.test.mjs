// The whole of it: the page as it is built, its WebAssembly and its shaders, in both browsers, against what the native
// program writes. HALFBYTE_BROWSERS=firefox runs one of them; HALFBYTE_BIN names the program, HALFBYTE_SHARED the
// checkpoints that are not in the repository.

import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import { NAMES, launch } from './browsers.mjs';
import { SHARED, TALE, TINY, gapped, gappedSafetensors, golden, native, spelled, withTokenizer } from './models.mjs';
import { putRepo, start } from './server.mjs';

const MiB = 1 << 20;
const GiB = 1 << 30;
const ONCE = 'Once upon a time';
const LENGTH = 48;
/** For anything that compiles shaders or computes on a busy machine without a GPU. */
const PATIENCE = 180_000;
const GREEDY = `temperature=0&max=${LENGTH}&precision=f32&repeat=1`;
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
  constructor(handle, name) {
    Object.assign(this, { handle, name });
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

  /** Loads by `action`; resolves to the model's name when it is there and nothing runs. */
  async load(action) {
    await this.evaluate(() => {
      const { model } = window.halfbyte;
      window.before = model;
      document.querySelector('#stats').textContent = '';
    });
    await action();
    const { error, prompt } = await this.wait('a model', () => {
      const { model } = window.halfbyte;
      const { state } = document.documentElement.dataset;
      if (state === 'error') return { error: document.querySelector('#errors').textContent };
      return model && model !== window.before && state !== 'loading' && { prompt: model.info.prompt };
    });
    assert.equal(error, undefined);
    if (prompt) await this.written();
  }

  /** Resolves to the story when its generation has ended and its numbers are there. */
  written() {
    return this.wait('the end of the story', () => {
      const { state } = document.documentElement.dataset;
      const done = ['ready', 'error'].includes(state) && document.querySelector('#stats').textContent;
      return done && [...document.querySelectorAll('#story p')].map((line) => line.textContent).join('\n');
    });
  }

  /** The page's next generation is kept in `window.generation`. */
  watch() {
    return this.evaluate(() => {
      const { model } = window.halfbyte;
      if (Object.hasOwn(model, 'generate')) return;
      const generate = model.generate.bind(model);
      model.generate = (...args) => (window.generation = generate(...args));
    });
  }

  summary() {
    return this.evaluate(async () => {
      const { promptTokens, tokens, finishReason, recoveries } = await window.generation.summary;
      return { promptTokens, tokens, finishReason, recoveries };
    });
  }

  /** Writes `prompt` into the form and sends it. */
  async begin(prompt) {
    await this.watch();
    await this.evaluate((prompt) => {
      const input = document.querySelector('#input');
      input.value = prompt;
      input.dispatchEvent(new Event('input', { bubbles: true }));
      document.querySelector('#stats').textContent = '';
      document.querySelector('#send').click();
    }, prompt);
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

  /** Waits for an error's card; resolves to its text. */
  async fails(kind) {
    const { kinds, text } = await this.wait(`an error (${kind})`, () => {
      const cards = [...document.querySelectorAll('#errors .error')];
      const idle = !['loading', 'generating'].includes(document.documentElement.dataset.state);
      return idle && cards.length > 0 && { kinds: cards.map((card) => card.dataset.error), text: cards.at(-1).querySelector('p').textContent };
    });
    assert.deepEqual(kinds, [kind], text);
    return text;
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

describe('the page', { concurrency: true, timeout: 1_800_000 }, () => {
  for (const name of chosen) describe(name, { concurrency: 1 }, () => inBrowser(name));
});

function inBrowser(name) {
  let browser, server, work, tiny;
  const open = async (query) => {
    const handle = await browser.open(`${server.url}?app&${query}`);
    return new Page(handle, name);
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
      await page.begin(ONCE);
      await page.wait('some text', () => document.querySelector('#story').textContent.length > 60);
      await page.click('#stop');
      await page.written();
      const { tokens, finishReason } = await page.summary();
      assert.equal(finishReason, 'cancelled');
      assert.ok(tokens.length > 3 && tokens.length < LENGTH, `${tokens.length} tokens`);
      assert.deepEqual(tokens, native('embedded', ONCE, LENGTH).token_ids.slice(0, tokens.length));
      assert.equal(await page.evaluate(() => document.documentElement.dataset.state), 'ready');
    });

    test('so does Esc', async () => {
      await page.begin(ONCE);
      await page.wait('some text', () => document.querySelector('#story').textContent.length > 60);
      await page.handle.press('Escape');
      await page.written();
      assert.equal((await page.summary()).finishReason, 'cancelled');
      await page.writesAsNative();
    });

    test('a GPU that is lost while the model writes is set up again, and the text is the same', async () => {
      await page.begin(ONCE);
      await page.wait('some text', () => document.querySelector('#story').textContent.length > 60);
      await page.evaluate(() => window.halfbyte.model.loseDevice());
      const story = await page.written();
      const { tokens, recoveries } = await page.summary();
      assert.deepEqual(tokens, native('embedded', ONCE, LENGTH).token_ids);
      assert.equal(story, ONCE + native('embedded', ONCE, LENGTH).text);
      assert.equal(recoveries, 1);
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

    for (const [format, way] of [['gguf-q4_0', 'pick'], ['gptq-4bit-g32-actorder', 'drop'], ['bnb-nf4', 'pick'], ['quip-e8p12', 'drop']]) {
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

    test('tensors beyond 4 GiB of a GGUF file are found', async () => {
      await loadGapped(page, 'far.gguf', {}, gapped(readFileSync(TALE), 4.5 * GiB));
      await page.writesAsNative();
    });

    test('every kernel agrees with its twin on this GPU', async (t) => {
      await page.evaluate(() => (location.hash = '#tests'));
      await page.click('#verify');
      const verdict = await page.wait('the verdict', () => document.documentElement.dataset.state === 'ready' && document.querySelector('#verdict').textContent, null, 600_000);
      const failed = await page.evaluate(() => [...document.querySelectorAll('#outcomes [data-pass=false]')].map((row) => row.textContent));
      assert.deepEqual(failed, []);
      assert.match(verdict, /^All \d\d+ kernels agree/);
      t.diagnostic(verdict);
    });
  });
}
