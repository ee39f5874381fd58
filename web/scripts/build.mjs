// Builds web/dist: the package in dist/halfbyte, the page around it. All paths in it are relative, so that it works
// from any folder of any static host.
//
//   node scripts/build.mjs            everything
//   node scripts/build.mjs --quick    without wasm-opt
//   node scripts/build.mjs --js       scripts and page only; the WebAssembly of the last build stays
//
// CARGO_TARGET_DIR says where Cargo builds.

import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { brotliCompressSync, constants } from 'node:zlib';
import { transformSync } from 'esbuild';

const WEB = dirname(dirname(fileURLToPath(import.meta.url)));
const ROOT = dirname(WEB);
const DIST = join(WEB, 'dist');
const PACKAGE = join(DIST, 'halfbyte');
const TRIPLE = 'wasm32-unknown-unknown';
const TARGET = process.env.CARGO_TARGET_DIR ?? join(ROOT, 'target');
const LICENSES = ['LICENSE-APACHE', 'LICENSE-MIT'];
/** What a visitor downloads at most besides the model, compressed. */
const BUDGET = 1 << 20;

const run = (program, args, env = {}) =>
  execFileSync(program, args, { cwd: ROOT, stdio: 'inherit', env: { ...process.env, ...env } });
const output = (program, args) => {
  const { status, stdout } = spawnSync(program, args, { cwd: ROOT, encoding: 'utf8' });
  return status === 0 ? stdout.trim() : null;
};

/** The folders that crates are unpacked in. */
function crates() {
  const args = ['metadata', '--format-version', '1', '--locked', '--filter-platform', TRIPLE];
  const { packages } = JSON.parse(execFileSync('cargo', args, { cwd: ROOT, encoding: 'utf8', maxBuffer: 1 << 28 }));
  const folders = packages.filter(({ source }) => source).map(({ manifest_path }) => dirname(dirname(manifest_path)));
  return [...new Set(folders)];
}

/** The crate as a WebAssembly module; returns its path. */
function compile() {
  const args = ['rustc', '--profile', 'web', '--lib', '--crate-type', 'cdylib', '--target', TRIPLE];
  const features = ['--no-default-features', '--features', 'web'];
  // They replace the flags of .cargo/config.toml, so its own is repeated. Panics tell where they are without telling where
  // this machine keeps its crates.
  const flags = ['-C', 'target-feature=+simd128', '--cfg', 'getrandom_backend="wasm_js"', ...crates().map((folder) => `--remap-path-prefix=${folder}/=`)];
  const CARGO_ENCODED_RUSTFLAGS = flags.join('\x1f');
  let target = TARGET;
  const installed = (output('rustup', ['target', 'list', '--installed']) ?? '').split('\n').includes(TRIPLE);
  if (installed || output('rustup', ['target', 'add', TRIPLE]) !== null) {
    run('cargo', [...args, ...features], { CARGO_ENCODED_RUSTFLAGS });
  } else {
    // Where rustup can download nothing, Debian's compiler has the source of std.
    if (!existsSync('/usr/bin/rustc')) {
      throw new Error(`no target ${TRIPLE}: run \`rustup target add ${TRIPLE}\`, or \`apt-get install rustc-web rust-web-src\``);
    }
    const host = output('rustc', ['-vV']).match(/host: (.*)/)[1];
    const lld = join(output('rustc', ['--print', 'sysroot']), 'lib/rustlib', host, 'bin/rust-lld');
    target = join(TARGET, 'build-std');
    run('cargo', [...args, '-Z', 'build-std=std,panic_abort', ...features], {
      CARGO_ENCODED_RUSTFLAGS, RUSTC_BOOTSTRAP: '1', RUSTC: '/usr/bin/rustc', CARGO_TARGET_DIR: target,
      CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER: existsSync(lld) ? lld : '/usr/bin/wasm-ld',
    });
  }
  return join(target, TRIPLE, 'web', 'halfbyte.wasm');
}

/** Writes the core and its JavaScript to the package; web/bindgen must be of the version that the core was built with. */
function bindgen(wasm) {
  const crate = join(WEB, 'bindgen');
  const version = (lock, name) => readFileSync(lock, 'utf8').match(new RegExp(`name = "${name}"\nversion = "(.*)"`))[1];
  const wanted = version(join(ROOT, 'Cargo.lock'), 'wasm-bindgen');
  const found = version(join(crate, 'Cargo.lock'), 'wasm-bindgen-cli-support');
  if (found !== wanted) throw new Error(`web/bindgen has wasm-bindgen ${found}, Cargo.lock ${wanted}: set the version in web/bindgen/Cargo.toml`);
  run('cargo', ['run', '--quiet', '--locked', '--manifest-path', join(crate, 'Cargo.toml'), '--', wasm, PACKAGE],
    { CARGO_TARGET_DIR: join(TARGET, 'tools') });
}

function core({ optimize }) {
  bindgen(compile());
  if (!optimize) return;
  const bound = join(PACKAGE, 'halfbyte_core_bg.wasm');
  const features = ['simd', 'bulk-memory', 'bulk-memory-opt', 'nontrapping-float-to-int', 'sign-ext', 'mutable-globals', 'reference-types', 'multivalue', 'extended-const'];
  const flags = features.map((feature) => `--enable-${feature}`);
  // The compiler has inlined what is worth it: repeated once more it is 17 KB more to download.
  const small = ['--shrink-level=1', ...['always', 'flexible', 'one-caller'].map((which) => `--${which}-inline-max-function-size=1`)];
  run(process.execPath, [join(WEB, 'node_modules/binaryen/bin/wasm-opt'), bound, '-o', bound, '--flatten', '--rereloop', '-O2', '-O2', ...small, '--reorder-functions-by-name', '--strip-debug', '--strip-producers', ...flags]);
}

/** The package's scripts, its model, and the page. */
export function copy() {
  mkdirSync(PACKAGE, { recursive: true });
  cpSync(join(WEB, 'src'), PACKAGE, { recursive: true });
  cpSync(join(ROOT, 'models/tale.gguf'), join(PACKAGE, 'tale.gguf'));
  for (const name of LICENSES) cpSync(join(ROOT, name), join(PACKAGE, name));
  for (const part of ['index.html', 'page']) {
    if (existsSync(join(WEB, part))) cpSync(join(WEB, part), join(DIST, part), { recursive: true });
  }
}

const files = (folder) =>
  readdirSync(folder, { withFileTypes: true }).flatMap((entry) =>
    entry.isDirectory() ? files(join(folder, entry.name)) : join(folder, entry.name));

/** Minifies the scripts and styles of dist/: what is there is downloaded, what is here is read. */
function lean() {
  for (const path of files(DIST).filter((path) => /\.(js|css)$/.test(path))) {
    const options = { loader: path.endsWith('.css') ? 'css' : 'js', minify: true, legalComments: 'none' };
    writeFileSync(path, transformSync(readFileSync(path, 'utf8'), options).code);
  }
}

/** Prints what is in dist/ and how large it travels; whether it keeps to the budget. */
function sizes() {
  const row = (name, size, small) => console.log(name.padEnd(44), ...[size, small].map((n) => String(n).padStart(10)));
  const sum = { size: 0, small: 0 };
  row('file', 'bytes', 'brotli');
  for (const path of files(DIST).sort()) {
    const name = relative(DIST, path);
    const bytes = readFileSync(path);
    const small = name.endsWith('.gguf') ? bytes.length : brotliCompressSync(bytes, {
      params: { [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length },
    }).length;
    row(name, bytes.length, small);
    if (/\.gguf$|\.d\.ts$|LICENSE/.test(name)) continue; // never fetched, or not code
    sum.size += bytes.length;
    sum.small += small;
  }
  row('all but model, types and licences', sum.size, sum.small);
  if (sum.small <= BUDGET) return true;
  console.error(`too large: ${sum.small} bytes compressed, at most ${BUDGET} may be`);
  return false;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const options = new Set(process.argv.slice(2));
  const unknown = [...options].find((option) => !['--quick', '--js'].includes(option));
  if (unknown) {
    console.error(`unknown option ${unknown}: there are --quick (no wasm-opt) and --js (no WebAssembly)`);
    process.exit(2);
  }
  if (!options.has('--js')) {
    rmSync(DIST, { recursive: true, force: true });
    mkdirSync(PACKAGE, { recursive: true });
    core({ optimize: !options.has('--quick') });
  }
  copy();
  lean();
  if (!sizes()) process.exitCode = options.has('--quick') ? 0 : 1;
}
