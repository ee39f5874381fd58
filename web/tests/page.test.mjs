// What the page does, with a mock in place of the package: tests/mock/index.js.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';
import { launch } from './browsers.mjs';
import { serve } from './mock/serve.mjs';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
let browser, site;

before(async () => {
  site = await serve();
  browser = await launch('chromium');
});
after(async () => {
  await browser?.close();
  site?.server.close();
});

/** Opens the page; errors of its own fail the test. `mock`: flags of the mock. */
async function open(query = '', { mock = 'fast', panel = '', width = 1280, height = 800, dark = false } = {}) {
  const handle = await browser.open(`${site.url}?mock=${mock}${query}${panel && `#${panel}`}`, { width, height, dark });
  const page = handle.raw;
  // Some states pass faster than a busy machine looks, so the mock writes down all of them.
  let seen = 0;
  return {
    page,
    /** Waits for a state that came after all that was waited for. */
    async state(name) {
      const found = await page.waitForFunction(([name, seen]) => window.mockStates.indexOf(name, seen) + 1, [name, seen]);
      seen = await found.jsonValue();
    },
    /** Waits until a model is there and nothing runs. */
    async ready() {
      const found = await page.waitForFunction(() => document.documentElement.dataset.state === 'ready' && window.halfbyte.model && window.mockStates.length);
      seen = await found.jsonValue();
    },
    text: (selector) => page.textContent(selector),
    async done() {
      await page.close();
      assert.deepEqual(handle.problems, []);
    },
    handle,
  };
}

/** Lets the page draw: it sees a new width in one frame, and draws the layer map anew in the next. */
const drawn = (page) => page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));

/** Opens it with the chat model, and talks. */
async function chat(query = '', more) {
  const it = await open(`&model=hf:a/chat${query}`, more);
  await it.ready();
  it.say = async (words) => {
    await it.page.fill('#input', words);
    await it.page.press('#input', 'Enter');
    await it.state('generating');
    await it.state('ready');
  };
  it.last = () => it.page.textContent('#chat li:last-child .body');
  return it;
}

test('the storyteller writes at once, without a click', async () => {
  const { page, state, text, done } = await open();
  await state('generating');
  await state('ready');
  const story = await text('#story');
  assert.match(story, /^Once upon a time, there was a little girl named Lily\./);
  assert.match(story, /slept all night long\.$/);
  assert.equal(await page.locator('#story p').count(), 7, 'lines are paragraphs');
  assert.match(await text('#stats'), /^\d+ tokens · seed \d+$/);
  assert.equal(await text('#send'), 'Another story');
  await done();
});

test('greedy decoding, a beginning and a length come from the address', async () => {
  const { page, ready, text, done } = await open('&temperature=0&max=5&seed=1&prompt=A%20bear&adapter=cpu&precision=f32&limits=floor&without=f16,subgroups');
  await page.waitForFunction(() => document.querySelector('#stats').textContent);
  await ready();
  assert.equal(await text('#story'), 'A bear, there was a little');
  assert.match(await text('#stats'), /^5 tokens · full length$/);
  const [{ source, options }] = await page.evaluate(() => window.mockLoads.map(({ source, options }) => ({ source, options: { ...options, signal: null, onProgress: null } })));
  assert.equal(source, 'embedded');
  assert.deepEqual(options, { adapter: 'cpu', limits: 'floor', precision: 'f32', without: ['f16', 'subgroups'], signal: null, onProgress: null });
  await done();
});

test('autoplay=0 waits; Continue goes on; another story begins anew', async () => {
  const { page, ready, state, text, done } = await open('&autoplay=0&max=4');
  await ready();
  assert.equal(await text('#story'), 'Once upon a time');
  assert.ok(await page.isDisabled('#continue'));
  await page.fill('#input', 'Far away');
  assert.equal(await text('#send'), 'Write');
  await page.click('#send');
  await page.waitForFunction(() => document.querySelector('#stats').textContent);
  await ready();
  const first = await text('#story');
  assert.match(first, /^Far away, there/);
  await page.click('#continue');
  await page.waitForFunction((length) => document.querySelector('#story').textContent.length > length, first.length);
  await ready();
  assert.ok((await text('#story')).startsWith(first));
  await page.click('#send');
  await state('generating');
  await ready();
  assert.equal(await text('#story'), first);
  await done();
});

test('Esc stops', async () => {
  const { page, state, ready, text, done } = await open('', { mock: 'fast,endless' });
  await state('generating');
  await page.waitForFunction(() => document.querySelector('#story').textContent.length > 30);
  assert.ok(await page.isVisible('#stop'));
  await page.keyboard.press('Escape');
  await ready();
  assert.match(await text('#stats'), /stopped/);
  assert.ok(await page.isVisible('#send'));
  await done();
});

test('a chat: history, markdown without markup, copy, edit, regenerate, new chat', async () => {
  const { page, say, last, text, ready, state, done } = await chat();
  assert.equal(await text('#input-label'), 'Message');
  await say('What is a nibble?');
  assert.match(await last(), /You said: What is a nibble\?/);
  assert.equal(await page.locator('#chat .assistant strong').first().textContent(), 'nibble');
  assert.equal(await page.locator('#chat .assistant ol li').count(), 3);
  assert.match(await page.locator('#chat .assistant pre').textContent(), /^fn decode/);
  assert.equal(await page.locator('#chat b').count(), 0, 'markup of the model stays text');
  assert.match(await last(), /<b>if you like<\/b>/);
  await say('And a byte?');
  assert.equal(await page.locator('#chat li[data-role]').count(), 4);
  await page.hover('#chat li:last-child');
  await page.click('#chat li:last-child [data-regenerate]');
  await state('generating');
  await ready();
  assert.equal(await page.locator('#chat li[data-role]').count(), 4);
  await page.locator('[data-edit]:visible').focus();
  await page.keyboard.press('Enter');
  assert.equal(await page.inputValue('#input'), 'And a byte?');
  assert.ok(await page.isVisible('#editing'));
  await say('And a word?');
  assert.equal(await page.locator('#chat li[data-role]').count(), 4);
  assert.match(await last(), /You said: And a word\?/);
  // Other panels leave the conversation alone.
  await page.click('[data-to=models]');
  await page.click('[data-to=layers]');
  assert.equal(await page.locator('#chat li[data-role]').count(), 4);
  await page.click('#new-chat');
  await page.waitForFunction(() => !document.querySelector('#chat li'));
  await done();
});

test('settings reach the model, are reset, and are shared', async () => {
  const { page, ready, done } = await open('&autoplay=0');
  await ready();
  await page.evaluate(() => {
    const { model } = window.halfbyte;
    const generate = model.generate.bind(model);
    model.generate = (prompt, options) => ((window.seen = (({ signal, onProgress, ...rest }) => rest)(options)), generate(prompt, options));
  });
  await page.click('#settings-open');
  await page.fill('#set-temperature-number', '0.25');
  await page.fill('#set-topK-number', '7');
  await page.fill('#set-maxTokens-number', '0');
  await page.fill('#set-seed', '11');
  await page.click('#settings-close');
  await page.click('#send');
  await ready();
  const seen = await page.evaluate(() => window.seen);
  assert.deepEqual(seen, { temperature: 0.25, topK: 7, topP: 0.95, minP: 0.05, repeatPenalty: 1.1, seed: 11 });
  await page.evaluate(() => (navigator.clipboard.writeText = async (text) => void (window.copied = text)));
  await page.click('#copy-link');
  const link = new URL(await page.evaluate(() => window.copied));
  assert.equal(link.searchParams.get('temperature'), '0.25');
  assert.equal(link.searchParams.get('seed'), '11');
  await page.click('#settings-open');
  await page.click('#settings-reset');
  assert.equal(await page.inputValue('#set-temperature-number'), '0.7');
  await page.keyboard.press('Escape');
  await done();
});

test('loading shows how far it is, and can be cancelled', async () => {
  const { page, state, ready, text, done } = await open('&autoplay=0', { mock: 'fast,hold' });
  await ready();
  await page.click('[data-to=models]');
  await page.fill('#hub', 'https://huggingface.co/owner/chat/blob/main/model.gguf');
  await page.click('#hub-load');
  await state('loading');
  await page.waitForFunction(() => /\/s · .* left/.test(document.querySelector('#progress-text').textContent));
  assert.match(await text('#progress-text'), /^Downloading · .* of 461 MB/);
  assert.equal(await page.evaluate(() => window.mockLoads.at(-1).source), 'hf:owner/chat/model.gguf');
  assert.ok(await page.isDisabled('#hub-load'));
  await page.click('#cancel');
  await page.waitForSelector('[data-error=Aborted]');
  assert.equal(await page.evaluate(() => document.documentElement.dataset.state), 'error');
  await page.click('[data-action=load-previous]');
  await ready();
  assert.match(await text('#model-name'), /tale\.gguf/);
  await done();
});

test('a load takes the place of another, and nobody is told of an error', async () => {
  const { page, state, ready, text, done } = await open('&autoplay=0', { mock: 'fast,hold' });
  await ready();
  await page.evaluate(() => void window.halfbyte.load('hf:owner/chat/model.gguf'));
  await state('loading');
  await page.evaluate(() => void window.halfbyte.load('embedded'));
  await page.waitForFunction(() => window.mockLoads.length === 3);
  await ready();
  assert.ok(await page.evaluate(() => window.mockLoads[1].options.signal.aborted));
  assert.match(await text('#model-name'), /tale\.gguf/);
  assert.equal(await page.locator('[data-error]').count(), 0);
  await done();
});

test('every kind of error teaches, offers a way on, and leaves the page usable', async () => {
  const { page, state, ready, text, done } = await open('&autoplay=0');
  await ready();
  const offers = {
    AdapterMissing: 'use-the-cpu', OutOfMemory: 'shorter-context', DeviceLost: 'load-again', Gpu: 'load-again', UnsupportedFormat: 'choose-another',
    Corrupt: 'load-again', Missing: 'choose-another', Network: 'load-again', Quota: 'free-space', WorkerLost: 'load-again',
  };
  for (const [kind, action] of Object.entries(offers)) {
    await page.evaluate((kind) => void window.halfbyte.load(`hf:error/${kind}`), kind);
    await state('error');
    assert.ok((await text(`[data-error=${kind}] p`)).length > 30, kind);
    assert.ok(await page.isVisible(`[data-error=${kind}] [data-action=${action}]`), kind);
    await page.click(`[data-error=${kind}] [data-action=load-previous]`);
    await ready();
    assert.equal(await page.locator(`[data-error=${kind}]`).count(), 0);
  }
  // While it writes.
  for (const kind of ['DeviceLost', 'ContextFull', 'WorkerLost']) {
    await page.fill('#input', `Bang !${kind}`);
    await page.click('#send');
    await state('error');
    assert.ok(await page.isVisible(`[data-error=${kind}] [data-action=${kind === 'ContextFull' ? 'start-anew' : 'load-again'}]`), kind);
    await page.click(`[data-error=${kind}] [data-action=dismiss]`);
    await state('ready');
  }
  await page.fill('#input', 'Bang !DeviceLost');
  await page.click('#send');
  await state('error');
  await page.click('[data-action=load-again]');
  await ready();
  await done();
});

test('without a GPU it says so, and writes all the same', async () => {
  const cpu = await browser.open(`${site.url}?mock=fast,cpu`);
  await cpu.raw.waitForFunction(() => document.documentElement.dataset.state === 'ready');
  assert.ok(await cpu.raw.isVisible('#missing'));
  assert.match(await cpu.raw.textContent('#missing-text'), /enable-unsafe-webgpu/);
  assert.match(await cpu.raw.textContent('#story'), /Lily/);
  await cpu.close();
  assert.deepEqual(cpu.problems, []);
});

test('files are taken from a picker and from a drop anywhere', async () => {
  const { page, handle, ready, done } = await open('&autoplay=0', { panel: 'models' });
  await ready();
  await handle.setFiles('#files', [new URL('../package.json', import.meta.url).pathname]);
  await page.waitForFunction(() => window.mockLoads.length === 2);
  await ready();
  assert.deepEqual(await page.evaluate(() => window.mockLoads[1].source.map((file) => file.name)), ['package.json']);
  await page.evaluate(() => {
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File(['x'], 'model.gguf'));
    document.querySelector('#story, body').dispatchEvent(new DragEvent('dragenter', { dataTransfer, bubbles: true, cancelable: true }));
  });
  assert.ok(await page.isVisible('#drop'));
  await page.evaluate(() => {
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File(['x'], 'model.gguf'));
    document.body.dispatchEvent(new DragEvent('drop', { dataTransfer, bubbles: true, cancelable: true }));
  });
  await page.waitForFunction(() => window.mockLoads.length === 3);
  assert.ok(await page.isHidden('#drop'));
  await ready();
  await done();
});

test('the cache is listed, resumed and emptied', async () => {
  const { page, ready, text, done } = await open('&autoplay=0', { panel: 'models' });
  await ready();
  await page.waitForSelector('[data-cached=b2][data-complete=false]');
  assert.match(await text('#storage'), /582 MB of 2\.1 GB used/);
  await page.click('[data-load-cached=b2]');
  await page.waitForFunction(() => window.mockLoads.length === 2);
  await ready();
  assert.deepEqual(await page.evaluate(() => window.mockLoads[1].source), { cached: 'b2' });
  await page.click('[data-delete-cached=a1]', { trial: true });
  // Both clicks at once: the page forgets after three seconds that it asked.
  const asked = await page.evaluate(() => {
    const button = document.querySelector('[data-delete-cached=a1]');
    button.click();
    const { textContent, disabled } = button;
    button.click();
    return { textContent, disabled };
  });
  assert.deepEqual(asked, { textContent: 'Sure?', disabled: false });
  await page.waitForFunction(() => !document.querySelector('[data-cached=a1]'));
  assert.ok(await page.isVisible('[data-cached=b2]'));
  await done();
});

test('the layer map shows every matrix, by picture, by key and by table', async () => {
  const { page, ready, text, done } = await open('&model=hf:a/mixed', { panel: 'layers' });
  await ready();
  assert.equal(await page.locator('#map [data-cell]').count(), 32 * 7 + 2);
  assert.equal(await page.locator('#legend [data-codec]').count(), 6);
  await drawn(page); // a new picture forgets the cursor
  await page.focus('#map');
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('ArrowRight');
  assert.match(await text('#tip'), /layer 0 · k.*GPTQ|layer 0 · k/);
  await page.click('#map-table summary');
  await page.waitForSelector('#map-table tbody tr'); // the table is made once `toggle` tells that it is open
  assert.equal(await page.locator('#map-table tbody tr').count(), 32 * 7 + 2);
  await page.check('[value=memory]');
  assert.equal(await page.locator('#map .ghost').count(), 32 * 7 + 2);
  await page.click('#legend button >> nth=0');
  assert.ok((await page.locator('#map .dim').count()) > 0);
  await done();
});

test('verify shows every kernel and a verdict; only one thing runs', async () => {
  const { page, state, ready, text, done } = await open('', { mock: 'fast,endless,hold', panel: 'tests' });
  await state('generating');
  await page.click('#verify'); // stops the story
  await state('verifying');
  assert.match(await text('#stats'), /stopped/);
  await page.waitForSelector('[data-outcome]');
  assert.ok(await page.isDisabled('#bench'));
  assert.ok(await page.isDisabled('#send'));
  await page.evaluate(() => window.mockGo());
  await ready();
  assert.equal(await page.locator('[data-outcome]').count(), 42);
  assert.equal(await page.getAttribute('#verdict', 'data-pass'), 'true');
  await page.evaluate(() => (navigator.clipboard.writeText = async (text) => void (window.copied = text)));
  await page.click('#verify-copy');
  assert.equal(JSON.parse(await page.evaluate(() => window.copied)).outcomes.length, 42);
  await done();
});

test('benchmark draws a picture and gives JSON', async () => {
  const { page, state, ready, text, done } = await open('&autoplay=0', { panel: 'tests' });
  await ready();
  await page.click('#bench');
  await state('benchmarking');
  await ready();
  assert.match(await text('#bench-verdict'), /Writes 148 and reads 2,211 tokens a second, at 61 %/);
  assert.match(await text('#chart svg'), /NVIDIA GeForce RTX 4070/);
  const [picture] = await Promise.all([page.waitForEvent('download'), page.click('#bench-picture')]);
  assert.equal(picture.suggestedFilename(), 'halfbyte-tale.gguf.png');
  assert.deepEqual([...readFileSync(await picture.path()).subarray(1, 4)], [...Buffer.from('PNG')]);
  const [json] = await Promise.all([page.waitForEvent('download'), page.click('#bench-save')]);
  assert.equal(JSON.parse(readFileSync(await json.path())).adapters[0].models[0].name, 'tale.gguf');
  await done();
});

test('the theme is kept', async () => {
  const { page, ready, done } = await open('&autoplay=0');
  await ready();
  assert.equal(await page.getAttribute('html', 'data-theme'), 'light');
  await page.click('#theme');
  assert.equal(await page.getAttribute('html', 'data-theme'), 'dark');
  await page.reload();
  assert.equal(await page.getAttribute('html', 'data-theme'), 'dark');
  await page.evaluate(() => localStorage.removeItem('halfbyte-theme'));
  await done();
});

test('nothing is wider than a small phone', async () => {
  for (const panel of ['write', 'layers', 'models', 'machine', 'tests']) {
    const { page, ready, done } = await chat('', { panel, width: 320, height: 640 });
    await drawn(page);
    const wide = await page.evaluate(() => [...document.querySelectorAll('body, header, main, .panel:not([hidden]), #composer')].filter((node) => node.scrollWidth > innerWidth).map((node) => node.id || node.tagName));
    assert.deepEqual(wide, [], panel);
    await done();
  }
});

test('axe finds nothing serious, in both themes, on a desktop and on a phone', async () => {
  const findings = [];
  const check = async (page, where) => {
    await page.evaluate(AXE);
    const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }));
    for (const { id, impact, nodes } of violations) findings.push(`${where}: ${impact} ${id}: ${nodes.map((node) => node.target.join(' ')).join(', ')}`);
  };
  for (const dark of [false, true]) {
    for (const [width, height] of [[1440, 900], [390, 844]]) {
      const where = `${dark ? 'dark' : 'light'} ${width}`;
      const { page, say, ready, state, done } = await chat('', { dark, width, height });
      await page.emulateMedia({ reducedMotion: 'reduce' }); // what fades in has no contrast yet
      await say('What is a nibble?');
      await check(page, `${where} chat`);
      for (const panel of ['layers', 'models', 'machine', 'tests']) {
        await page.click(`[data-to=${panel}]`);
        await page.waitForSelector(`#panel-${panel}`);
        await drawn(page);
        if (panel === 'tests') {
          await page.click('#verify');
          await state('verifying');
          await ready();
          await page.click('#bench');
          await state('benchmarking');
          await ready();
        }
        await check(page, `${where} ${panel}`);
      }
      for (const dialog of ['about', ...(width > 1000 ? ['settings'] : [])]) {
        await page.click(`#${dialog}-open`);
        await check(page, `${where} ${dialog}`);
        await page.keyboard.press('Escape');
      }
      await page.evaluate(() => void window.halfbyte.load('hf:error/OutOfMemory'));
      await state('error');
      await check(page, `${where} error`);
      await done();
    }
  }
  assert.deepEqual(findings, []);
});
