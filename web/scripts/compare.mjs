// Sets the page's speed against the native program's: the same model on the same adapter, in turns, in one run.
//
//   node scripts/compare.mjs [chromium|firefox] [MODEL.gguf] [--rounds 3] [--prompt 128] [--generate 64] [--json]
//
// Chromium runs on SwiftShader, Firefox on lavapipe; the native program (HALFBYTE_BIN, or target/release/halfbyte)
// is given the same. A real GPU is compared by opening the page on it and running `halfbyte bench` beside it.

import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { launch } from '../tests/browsers.mjs';
import { sendFile, serve } from './static.mjs';

const WEB = dirname(dirname(fileURLToPath(import.meta.url)));
const ROOT = dirname(WEB);
const ADAPTERS = { chromium: 'swiftshader', firefox: 'llvmpipe' };

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: 'string', default: '3' },
    prompt: { type: 'string', default: '128' },
    generate: { type: 'string', default: '64' },
    json: { type: 'boolean', default: false },
  },
});
const [rounds, prompt, generate] = [values.rounds, values.prompt, values.generate].map(Number);
const name = positionals.find((p) => p in ADAPTERS) ?? 'chromium';
const model = positionals.find((p) => p.endsWith('.gguf'));
const program = process.env.HALFBYTE_BIN ?? join(process.env.CARGO_TARGET_DIR ?? join(ROOT, 'target'), 'release/halfbyte');
if (!existsSync(program)) throw new Error(`no ${program}: run \`cargo build --release\`, or set HALFBYTE_BIN`);

function native() {
  const args = ['bench', model ? resolve(model) : 'embedded', '--adapter', ADAPTERS[name], '--json', '--runs', '1', '--depth', '0', '--agreement', '0', '--allow-noise'];
  const json = execFileSync(program, [...args, '--prompt', `${prompt}`, '--generate', `${generate}`], { encoding: 'utf8' });
  const { adapter, models } = JSON.parse(json).adapters[0];
  return { adapter: adapter.name, prefill: models[0].prefill[0].tokens_per_s.median, decode: models[0].decode[0].tokens_per_s.median };
}

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];

const server = await serve(join(WEB, 'dist'), {
  answer: (request, reply, url) => model && url.pathname === '/model.gguf' && sendFile(request, reply, resolve(model)),
});
const browser = await launch(name);
try {
  const page = await browser.open(`${server.url}?autoplay=0`);
  await page.evaluate(async ([source, context]) => {
    const { Halfbyte } = await import('./halfbyte/index.js');
    window.model = await Halfbyte.load(source, { context, cache: false, adapter: 'gpu' });
  }, [model ? `${server.url}model.gguf` : 'embedded', prompt + generate]);
  const web = () => page.evaluate(async (options) => {
    const { adapter, models } = (await window.model.bench(options)).adapters[0];
    return { adapter: adapter.name, prefill: models[0].prefill[0].tokens_per_s.median, decode: models[0].decode[0].tokens_per_s.median };
  }, { prompt, generate, depth: 0, runs: 1, agreement: 0, allowNoise: true });
  const seen = { native: [], web: [] };
  for (let round = 0; round < rounds; round++) {
    seen.native.push(native());
    seen.web.push(await web());
  }
  const of = (side, what) => median(seen[side].map((run) => run[what]));
  const result = { browser: `${browser.name} ${browser.version}`, model: model ? basename(model) : 'embedded', prompt, generate, rounds };
  for (const what of ['prefill', 'decode']) {
    result[what] = { native: of('native', what), web: of('web', what), ratio: of('web', what) / of('native', what) };
  }
  result.adapters = { native: seen.native[0].adapter, web: seen.web[0].adapter };
  if (values.json) {
    console.log(JSON.stringify(result));
  } else {
    console.log(`${result.model}: ${result.adapters.native} natively, ${result.adapters.web} in ${result.browser}; tokens/s, medians of ${rounds}`);
    for (const what of ['prefill', 'decode']) {
      const { native, web, ratio } = result[what];
      console.log(`${what.padEnd(8)} native ${native.toFixed(1).padStart(8)}   page ${web.toFixed(1).padStart(8)}   ratio ${ratio.toFixed(2)}`);
    }
  }
} finally {
  await browser.close();
  server.close();
}
