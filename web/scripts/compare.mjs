// Sets the page's speed against that of another program with the same model on the same adapter, in turns, in one run.
//
//   node scripts/compare.mjs [chromium|firefox] [MODEL.gguf] [--rounds 3] [--prompt 128] [--generate 64] [--json]
//
// The other is the native program (HALFBYTE_BIN, or target/release/halfbyte), or with `--onnx MODEL.onnx --onnxruntime
// FOLDER` what npm installed there, in the same browser; see benchmarks/peers/compare_onnxruntime_web.py. Chromium runs
// on SwiftShader, Firefox on lavapipe, and so does the native program. A real GPU is compared by opening the page on it
// and running `halfbyte bench` beside it.

import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { launch } from '../tests/browsers.mjs';
import { find, sendFile, serve } from './static.mjs';

const WEB = dirname(dirname(fileURLToPath(import.meta.url)));
const ROOT = dirname(WEB);
const ADAPTERS = { chromium: 'swiftshader', firefox: 'llvmpipe' };
/** Tokens that onnxruntime-web must write as the page does. */
const AGREED = 16;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: 'string', default: '3' },
    prompt: { type: 'string', default: '128' },
    generate: { type: 'string', default: '64' },
    onnx: { type: 'string' },
    onnxruntime: { type: 'string' },
    json: { type: 'boolean', default: false },
  },
});
const [rounds, prompt, generate] = [values.rounds, values.prompt, values.generate].map(Number);
const name = positionals.find((p) => p in ADAPTERS) ?? 'chromium';
const model = positionals.find((p) => p.endsWith('.gguf'));
const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];

/** Speeds in what `halfbyte bench --json` prints. */
const speeds = ({ adapters: [{ adapter, models: [{ prefill, decode }] }] }) => ({
  adapter: adapter.name,
  prefill: prefill[0].tokens_per_s.median,
  decode: decode[0].tokens_per_s.median,
});

/** The package in its page. Generation goes on where the prompt ends. */
async function halfbyte(browser, url) {
  const page = await browser.open(`${url}?autoplay=0`);
  await page.evaluate(async ([source, context]) => {
    const { Halfbyte } = await import('./halfbyte/index.js');
    window.model = await Halfbyte.load(source, { context, cache: false, adapter: 'gpu' });
  }, [model ? `${url}model.gguf` : 'embedded', prompt + Math.max(generate, AGREED)]);
  const options = { prompt, generate, depth: prompt, runs: 1, agreement: 0, seconds: 3600, allowNoise: true };
  return {
    page,
    run: async () => speeds(await page.evaluate((options) => window.model.bench(options), options)),
    write: (tokens, maxTokens) => page.evaluate(async ([tokens, maxTokens]) => {
      const { summary } = window.model.generate(tokens, { temperature: 0, maxTokens });
      return (await summary).tokens;
    }, [tokens, maxTokens]),
  };
}

function native() {
  const program = process.env.HALFBYTE_BIN ?? join(process.env.CARGO_TARGET_DIR ?? join(ROOT, 'target'), 'release/halfbyte');
  if (!existsSync(program)) throw new Error(`no ${program}: run \`cargo build --release\`, or set HALFBYTE_BIN`);
  const point = ['--prompt', `${prompt}`, '--generate', `${generate}`, '--depth', `${prompt}`, '--runs', '1'];
  const how = ['--adapter', ADAPTERS[name], '--agreement', '0', '--seconds', '3600', '--allow-noise', '--json'];
  const args = ['bench', model ? resolve(model) : 'embedded', ...point, ...how];
  return { name: 'native', run: () => speeds(JSON.parse(execFileSync(program, args, { encoding: 'utf8' }))) };
}

/** onnxruntime-web in a page of its own, once it writes the same tokens after a prompt as `ours`. */
async function onnxruntime(browser, url, ours) {
  const page = await browser.open(`${url}onnxruntime`);
  await page.evaluate(async () => {
    window.peer = await import('./onnxruntime.js');
    await window.peer.load('./model.onnx');
  });
  const write = (tokens, count) => page.evaluate(([tokens, count]) => window.peer.generate(tokens, count), [tokens, count]);
  const tokens = Array.from({ length: prompt }, (_, i) => 3 + ((i * 7919) % 31997));
  const [expected, found] = [await ours.write(tokens, AGREED), (await write(tokens, AGREED)).tokens];
  if (`${found}` !== `${expected}`) throw new Error(`onnxruntime-web wrote the tokens ${found}, the page ${expected}`);
  const { version } = JSON.parse(readFileSync(join(values.onnxruntime, 'node_modules/onnxruntime-web/package.json'), 'utf8'));
  return { name: `onnxruntime-web ${version}`, page, run: () => write(tokens, generate) };
}

/** What the page of onnxruntime-web and the models ask for. */
function answer(request, reply, { pathname }) {
  if (pathname === '/onnxruntime') return reply.writeHead(200, { 'Content-Type': 'text/html' }).end('<!doctype html>');
  const files = {
    '/model.gguf': model && resolve(model),
    '/model.onnx': values.onnx && resolve(values.onnx),
    '/onnxruntime.js': join(ROOT, 'benchmarks/peers/onnxruntime_web.js'),
  };
  const packaged = pathname.startsWith('/node_modules/') && values.onnxruntime && find(resolve(values.onnxruntime), pathname);
  const path = files[pathname] ?? packaged;
  return path && sendFile(request, reply, path);
}

const server = await serve(join(WEB, 'dist'), { answer });
const browser = await launch(name);
try {
  const page = { name: 'page', ...(await halfbyte(browser, server.url)) };
  const other = values.onnx ? await onnxruntime(browser, server.url, page) : native();
  const sides = [other, page];
  const seen = new Map(sides.map((side) => [side, []]));
  for (let round = 0; round < rounds; round++) {
    for (const side of sides) {
      await side.page?.raw.bringToFront(); // a browser slows pages that nobody sees
      seen.get(side).push(await side.run());
    }
  }
  const of = (side, what) => median(seen.get(side).map((run) => run[what]));
  const result = { browser: `${browser.name} ${browser.version}`, model: model ? basename(model) : 'embedded', prompt, generate, rounds };
  for (const what of ['prefill', 'decode']) {
    result[what] = { [other.name]: of(other, what), page: of(page, what), ratio: of(page, what) / of(other, what) };
  }
  result.adapters = Object.fromEntries(sides.map((side) => [side.name, seen.get(side)[0].adapter ?? seen.get(page)[0].adapter]));
  result.runs = Object.fromEntries(sides.map((side) => [side.name, seen.get(side).map(({ prefill, decode }) => ({ prefill, decode }))]));
  if (values.json) {
    console.log(JSON.stringify(result));
  } else {
    console.log(`${result.model}, ${result.browser}; ${prompt} prompt tokens, ${generate} generated; tokens/s, medians of ${rounds}`);
    for (const [name, adapter] of Object.entries(result.adapters)) console.log(`${name} on ${adapter}`);
    for (const what of ['prefill', 'decode']) {
      const numbers = sides.map(({ name }) => `${name} ${result[what][name].toFixed(1).padStart(8)}`);
      console.log([what.padEnd(8), ...numbers, `ratio ${result[what].ratio.toFixed(2)}`].join('   '));
    }
  }
} finally {
  await browser.close();
  server.close();
}
