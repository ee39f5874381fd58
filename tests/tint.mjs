// Shows every shader of the crate to Tint, the compiler of Chromium, which refuses what naga takes (non-uniform
// barriers, missing `enable`s). Usage: node tests/tint.mjs FOLDER, where `cargo test dump_shaders` with
// HALFBYTE_DUMP_SHADERS=FOLDER has written shaders.json. CHROMIUM names the browser, NODE_PATH has playwright-core.

import { existsSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const { chromium } = createRequire(import.meta.url)('playwright-core');

const FLAGS = [
  '--no-sandbox', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader',
];
const BATCH = 200;

// Runs in the page: the errors of a batch of [name, text].
async function compile(modules) {
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter) return { fatal: 'the browser has no WebGPU adapter' };
  const wanted = ['subgroups', 'shader-f16'];
  const requiredFeatures = wanted.filter((feature) => adapter.features.has(feature));
  const device = await adapter.requestDevice({ requiredFeatures });
  const supported = { subgroups: requiredFeatures.includes('subgroups'), f16: requiredFeatures.includes('shader-f16') };
  const failures = [];
  let skipped = 0;
  for (const [name, code] of modules) {
    const enables = [...code.matchAll(/^enable (\w+);/gm)].map((match) => match[1]);
    if (enables.some((extension) => !supported[extension])) {
      skipped++;
      continue;
    }
    // Limits are checked only with the pipeline.
    device.pushErrorScope('validation');
    const module = device.createShaderModule({ label: name, code });
    const { messages } = await module.getCompilationInfo();
    const errors = messages.filter((m) => m.type === 'error').map((m) => `${m.lineNum}:${m.linePos} ${m.message}`);
    const error = await device.popErrorScope();
    if (errors.length || error) failures.push(`${name}: ${errors.join('; ') || error.message}`);
  }
  device.destroy();
  return { failures, skipped };
}

const folder = process.argv[2] ?? '.';
const modules = JSON.parse(readFileSync(join(folder, 'shaders.json'), 'utf8'));
const executablePath = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/google-chrome'].find((p) => p && existsSync(p));
if (!executablePath) {
  console.error('tint: no Chromium found; set CHROMIUM to its path');
  process.exit(1);
}
// WebGPU wants a secure context, which 127.0.0.1 is.
const server = createServer((_, reply) => reply.end('<!doctype html>')).listen(0, '127.0.0.1');
await new Promise((ready) => server.on('listening', ready));
const browser = await chromium.launch({ executablePath, args: FLAGS, headless: true, timeout: 600_000 });
const failures = [];
let skipped = 0;
try {
  const page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${server.address().port}/`, { timeout: 600_000 });
  // A wrong shader must be seen to fail, or the check proves nothing.
  const wrong = 'var<workgroup> a: array<u32, 8>; @compute @workgroup_size(8) fn main('
    + '@builtin(local_invocation_index) i: u32) { if (a[i] == 0u) { workgroupBarrier(); } }';
  const canary = await page.evaluate(compile, [['canary', wrong]]);
  if (canary.fatal || canary.failures.length !== 1) throw new Error(canary.fatal ?? 'Tint took a non-uniform barrier');
  for (let i = 0; i < modules.length; i += BATCH) {
    const result = await page.evaluate(compile, modules.slice(i, i + BATCH));
    if (result.fatal) throw new Error(result.fatal);
    failures.push(...result.failures);
    skipped += result.skipped;
  }
} finally {
  await browser.close();
  server.close();
}
for (const failure of failures.slice(0, 20)) console.error(failure);
const passed = modules.length - skipped - failures.length;
console.log(`Tint: ${passed} shaders pass, ${failures.length} fail, ${skipped} need what this browser lacks`);
process.exit(failures.length || modules.length === 0 ? 1 : 0);
