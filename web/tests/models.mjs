// Models for the browser tests: what the native program writes with them, and files made of them.

import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = join(dirname(fileURLToPath(import.meta.url)), '../..');
export const TALE = join(ROOT, 'models/tale.gguf');
/** Tiny random models, with golden outputs and without tokenizers. */
export const TINY = join(ROOT, 'tests/fixtures/models');
/** Real checkpoints of many formats, which are not part of the repository. */
export const SHARED = process.env.HALFBYTE_SHARED ?? join(ROOT, '../shared');

let program;
function halfbyte() {
  const built = join(process.env.CARGO_TARGET_DIR ?? join(ROOT, 'target'), 'debug/halfbyte');
  program ??= [process.env.HALFBYTE_BIN, built].find((path) => path && existsSync(path));
  if (!program) {
    console.log('building the native program (HALFBYTE_BIN names one that is there)');
    execFileSync('cargo', ['build'], { cwd: ROOT, stdio: 'inherit' });
    program = built;
  }
  return program;
}

const written = new Map();
/** `{ text, token_ids, prompt_token_ids, … }`: what the native program writes, greedily, on its CPU with an f32 cache. */
export function native(model, prompt, count, ...more) {
  const args = ['run', model, prompt, '--temperature', '0', '--max-tokens', String(count), '--precision', 'f32', '--adapter', 'cpu', '--json', ...more];
  const key = args.join('\n');
  if (!written.has(key)) written.set(key, JSON.parse(execFileSync(halfbyte(), args, { encoding: 'utf8' })));
  return written.get(key);
}

/** The first prompt of a `golden.json`: `{ prompt, tokens, greedy }`. No step of it is a near-tie. */
export function golden(folder) {
  const all = JSON.parse(readFileSync(join(folder, 'golden.json'), 'utf8'));
  const first = all.prompts?.[0] ?? all;
  const margin = first.greedy_min_top2_margin ?? Math.min(...first.greedy_margins);
  if (margin < 1e-3) throw new Error(`${folder}: a step of its first prompt is decided by ${margin}: rounding may turn it; take another`);
  return { prompt: first.prompt, tokens: first.prompt_token_ids, greedy: first.greedy_next_32 ?? first.greedy_next };
}

/** A text that the tokenizer of `withTokenizer` reads as just these tokens. */
export const spelled = (tokens) => String.fromCodePoint(...tokens.map((token) => 0x4e00 + token));

/** Copies a tiny model and gives it a tokenizer: a character a token. */
export function withTokenizer(folder, to) {
  cpSync(folder, to, { recursive: true });
  const { vocab_size: size } = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'));
  const vocab = Object.fromEntries(Array.from({ length: size }, (_, id) => [spelled([id]), id]));
  const parts = { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null };
  writeFileSync(join(to, 'tokenizer.json'), JSON.stringify({ version: '1.0', added_tokens: [], ...parts, model: { type: 'BPE', vocab, merges: [] } }));
  return to;
}

/** Sizes of GGUF's metadata types; 8 is a string, 9 an array. */
const SIZES = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];
const STRING = 8;
const ARRAY = 9;

/** A GGUF file whose tensors lie `gap` bytes further on: `{ header, gap, data }`. */
export function gapped(bytes, gap) {
  const header = Buffer.from(bytes);
  let at = 8;
  const number = () => Number(header.readBigUInt64LE((at += 8) - 8));
  const word = () => header.readUInt32LE((at += 4) - 4);
  const text = () => {
    const length = number();
    at += length;
  };
  const skip = (type) => {
    if (type === STRING) return text();
    if (type !== ARRAY) return (at += SIZES[type]);
    const of = word();
    for (let left = number(); left > 0; left--) skip(of);
  };
  const tensors = number();
  for (let pairs = number(); pairs > 0; pairs--) {
    text();
    skip(word());
  }
  for (let left = tensors; left > 0; left--) {
    text();
    const dimensions = word();
    at += 8 * dimensions + 4;
    header.writeBigUInt64LE(header.readBigUInt64LE(at) + BigInt(gap), at);
    at += 8;
  }
  const data = Math.ceil(at / 32) * 32;
  return { header: header.subarray(0, data), gap, data: header.subarray(data) };
}

/** A safetensors file with `gap` bytes of tensors that nothing uses before the others: `{ header, gap, data }`. */
export function gappedSafetensors(bytes, gap) {
  const length = Number(bytes.readBigUInt64LE(0));
  const tensors = JSON.parse(bytes.toString('utf8', 8, 8 + length));
  for (const tensor of Object.values(tensors)) if (tensor.data_offsets) tensor.data_offsets = tensor.data_offsets.map((at) => at + gap);
  const most = 2 ** 30;
  for (let at = 0; at < gap; at += most) {
    const end = Math.min(gap, at + most);
    tensors[`unused.${at / most}`] = { dtype: 'U8', shape: [end - at], data_offsets: [at, end] };
  }
  const text = Buffer.from(JSON.stringify(tensors));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(text.length));
  return { header: Buffer.concat([size, text]), gap, data: bytes.subarray(8 + length) };
}
