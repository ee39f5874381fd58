// Serves web/dist while one works on it, and copies scripts and page again when they change.
//
//   node scripts/dev.mjs [--port 8000]

import { existsSync, watch } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { copy } from './build.mjs';
import { serve } from './static.mjs';

const WEB = dirname(dirname(fileURLToPath(import.meta.url)));
const at = process.argv.indexOf('--port');
const port = at < 0 ? 8000 : Number(process.argv[at + 1]);

copy();
if (!existsSync(join(WEB, 'dist/halfbyte/halfbyte_core_bg.wasm'))) {
  console.error('dist/halfbyte has no WebAssembly yet: run `npm run build` first');
  process.exit(1);
}
let timer;
for (const part of ['src', 'page', 'index.html'].map((name) => join(WEB, name)).filter(existsSync)) {
  watch(part, { recursive: true }, () => {
    clearTimeout(timer);
    timer = setTimeout(copy, 100); // an editor saves in several steps
  });
}
const server = await serve(join(WEB, 'dist'), { port });
console.log(`${server.url}  (Ctrl-C ends it)`);
