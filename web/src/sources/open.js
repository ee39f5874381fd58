// In the worker: finds a model's files, wherever they are, and hands them to the core for reading.

import { HalfbyteError, bytes } from '../errors.js';
import { download } from './download.js';
import { coreFile, readable } from './files.js';
import { Blocks, HttpFile } from './http.js';
import { hubFiles } from './hub.js';
import { Folder, lockName, unavailable } from './opfs.js';

/** What is kept in memory at most of a file that comes only as a whole and cannot be cached. */
const IN_MEMORY = 64 << 20;
const SMALL = [
  'config.json', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json',
  'special_tokens_map.json', 'chat_template.jinja', 'quantize_config.json',
];
const INDEX = 'model.safetensors.index.json';

/**
 * `{ files, cached, note, release }`: files for the core; `release()` when they are no longer read. `context` has the
 * `core`, the call's `signal`, `running()` (the signal of whatever call runs later), `tell` and `breathe`.
 */
export async function open(source, options, context) {
  switch (source.kind) {
    case 'embedded':
      return { files: [await embedded(context)], cached: null, prompt: 'Once upon a time', release() {} };
    case 'files':
      return { files: source.files.map(({ name, blob }) => coreFile(name, blob)), cached: null, release() {} };
    case 'cached':
      return fromId(source.id, options, context);
    default:
      return fromNetwork(source, options, context);
  }
}

/** The package's own model; the browser keeps it as it keeps the scripts. */
async function embedded({ signal, tell }) {
  const url = new URL('../tale.gguf', import.meta.url);
  const response = await fetch(url, { signal }).catch(() => null);
  if (!response?.ok) throw new HalfbyteError('Network', `${url}: the package's model did not come (${response ? `HTTP ${response.status}` : 'no answer'}); tale.gguf must lie beside index.js`);
  const total = Number(response.headers.get('content-length')) || undefined;
  const chunks = [];
  let done = 0;
  for (const reader = response.body.getReader(); ;) {
    const { done: end, value } = await reader.read();
    if (end) return coreFile('tale.gguf', new Blob(chunks));
    chunks.push(value);
    done += value.length;
    tell({ stage: 'download', done, total: total >= done ? total : undefined, name: 'tale.gguf' });
  }
}

async function fromId(id, options, context) {
  const why = await unavailable();
  const folder = why ? null : (await Folder.all()).find((folder) => folder.id === id);
  if (!folder) throw new HalfbyteError('Missing', `no model ${id} in the cache${why ? `: ${why}` : ''}; Halfbyte.cache.list() names those that are`);
  const manifest = await folder.manifest();
  if (manifest?.complete) return use(folder, manifest, context);
  if (!manifest) throw new HalfbyteError('Corrupt', `${id} in the cache is damaged: delete it and load the model again`);
  return fromNetwork(manifest.request, options, context);
}

async function fromNetwork(source, options, context) {
  const { signal } = context;
  const why = options.cache === false ? undefined : await unavailable();
  let found;
  try {
    found = source.kind === 'hub' ? await hubFiles(context.core, source.text, options.hub, signal) : await addressFiles(source.url, options, signal);
    for (const file of found.files) if (file.size === null) await file.open(signal);
  } catch (error) {
    // Out of reach, but perhaps it was here before.
    const kept = error.kind === 'Network' && why === null ? await earlier(source) : null;
    if (!kept) throw error;
    return use(kept.folder, kept.manifest, context);
  }
  if (why === null) return throughCache(source, found, context);
  return { files: await uncached(found.files, why, context), cached: null, note: why, release() {} };
}

/** The files of a LoRA adapter, as PEFT names them. They are small and not kept. */
export async function openAdapter(source, context) {
  if (source.kind === 'files') return source.files.map(({ name, blob }) => coreFile(name, blob));
  if (source.kind !== 'url' || !source.url.endsWith('/')) {
    throw new HalfbyteError('Invalid', 'not an adapter\'s source: expected files of its folder, or the address of its folder, ending in /');
  }
  const files = ['adapter_config.json', 'adapter_model.safetensors'].map((name) => new HttpFile(name, new URL(name, source.url).href));
  return uncached(files, undefined, context);
}

/** Reads what is not kept range by range, or as a whole where a server has no ranges. */
async function uncached(all, why, { signal, running, tell }) {
  const files = [];
  for (const file of all) {
    await file.open(signal);
    if (!file.ranges && (file.size ?? file.expected ?? 0) > IN_MEMORY) throw tooLarge(file, why);
    if (file.ranges) {
      const blocks = new Blocks(file, running);
      files.push(readable(file.name, file.size, (start, end) => blocks.read(start, end)));
    } else {
      files.push(coreFile(file.name, await file.whole(IN_MEMORY, signal, tell)));
    }
  }
  return files;
}

const tooLarge = (file, why) => new HalfbyteError('Network',
  `${file.url}: the server sends this file (${bytes(file.size ?? file.expected)}) only as a whole, without byte ranges, and it cannot be kept here (${why ?? 'the cache is switched off'}); allow storage, take a server with ranges, or download the file and open it from disk`);

/** Downloads what the cache lacks; one tab at a time, the others see how far it is. */
async function throughCache(source, found, context) {
  const { core: { Sha256 }, signal, tell, breathe } = context;
  const id = await name(found.source);
  const folder = await Folder.open(id);
  const manifest = (complete) => ({
    source: found.source,
    request: source,
    files: found.files.map(({ name, size, version }) => ({ name, size, version })),
    complete,
    used: Date.now(),
  });
  if (!(await complete(folder, found.files))) {
    const channel = new BroadcastChannel(`halfbyte/${id}`);
    channel.onmessage = ({ data }) => tell(data);
    try {
      await navigator.locks.request(lockName('download', id), { signal }, async () => {
        channel.onmessage = null;
        if (await complete(folder, found.files)) return; // the other tab brought it
        const before = (await folder.manifest())?.files ?? [];
        for (const { name, version } of found.files) {
          if ((before.find((file) => file.name === name)?.version ?? version) !== version) await folder.remove(name);
        }
        await folder.writeManifest(manifest(false));
        const both = (progress) => {
          tell(progress);
          channel.postMessage(progress);
        };
        await download(folder, found.files, { signal, tell: both, breathe, Sha256 });
        await folder.writeManifest(manifest(true));
      });
    } finally {
      channel.close();
    }
  }
  return use(folder, (await folder.manifest()) ?? manifest(true), context);
}

/** Whether all is there, in the version that the server has. */
async function complete(folder, files) {
  const manifest = await folder.manifest();
  if (!manifest?.complete) return false;
  const same = await Promise.all(files.map(async ({ name, size, version }) => {
    const kept = manifest.files.find((file) => file.name === name);
    return kept && kept.version === version && (size === null || size === kept.size) && (await folder.file(name))?.size === kept.size;
  }));
  return same.every(Boolean) && files.length === manifest.files.length;
}

/** A complete model of the cache. Nobody deletes it while it is held. */
async function use(folder, manifest, { signal }) {
  const release = await new Promise((granted, failed) => {
    const held = () => new Promise((release) => granted(release));
    navigator.locks.request(lockName('use', folder.id), { mode: 'shared', signal }, held).catch(failed);
  });
  await folder.writeManifest({ ...manifest, used: Date.now() }).catch(() => {}); // another tab is just writing it
  const files = await Promise.all(manifest.files.map(async ({ name }) => {
    const file = await folder.file(name);
    if (!file) release();
    if (!file) throw new HalfbyteError('Corrupt', `${folder.id}: the cache has lost ${name}; delete it from the cache and load the model again`);
    return coreFile(name, file);
  }));
  return { files, cached: folder.id, release };
}

/** The youngest complete download of the same source. */
async function earlier(source) {
  const all = await Promise.all((await Folder.all()).map(async (folder) => ({ folder, manifest: await folder.manifest() })));
  const wanted = JSON.stringify(source);
  const same = all.filter(({ manifest }) => manifest?.complete && JSON.stringify(manifest.request) === wanted);
  return same.sort((a, b) => b.manifest.used - a.manifest.used)[0] ?? null;
}

/** The files of a `.gguf`, of a `.safetensors` and what lies beside it, or of a folder. */
async function addressFiles(url, { sha256 = null }, signal) {
  const address = new URL(url);
  const file = (name, options) => new HttpFile(name, new URL(encodeURIComponent(name), new URL('.', address)).href, options);
  const last = decodeURIComponent(address.pathname.split('/').pop());
  if (!/(^|\.safetensors)$/i.test(last)) return { source: url, files: [new HttpFile(last, url, { sha256 })] };

  const there = async (name) => {
    try {
      const found = await file(name).open(signal);
      return /text\/html/.test(found.type) ? null : found; // a page in place of a 404
    } catch (error) {
      if (error.kind === 'Missing') return null;
      throw error;
    }
  };
  const small = (await Promise.all(SMALL.map(there))).filter(Boolean);
  if (!small.some(({ name }) => name === 'config.json')) {
    throw new HalfbyteError('Missing', `${new URL('config.json', address)}: not there; expected the folder of a Hugging Face model (config.json, tokenizer.json, *.safetensors), or the address of a .gguf file`);
  }
  if (last) return { source: url, files: [...small, new HttpFile(last, url, { sha256 })] };
  const index = await there(INDEX);
  const weights = index ? shards(await (await index.whole(IN_MEMORY, signal)).text(), index.url) : ['model.safetensors'];
  return { source: url, files: [...small, ...(index ? [index] : []), ...weights.map((name) => file(name))] };
}

function shards(text, url) {
  try {
    const names = new Set(Object.values(JSON.parse(text).weight_map));
    if ([...names].every((name) => /^[^/\\:]+$/.test(name))) return [...names].sort();
  } catch { /* the same as a wrong map */ }
  throw new HalfbyteError('Corrupt', `${url}: expected JSON with a weight_map from tensors to files beside it`);
}

/** A folder's name for a source: readable, and its own. */
async function name(source) {
  const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(source)));
  const hex = [...hash.subarray(0, 4)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  return `${source.replace(/^[a-z]+:\/*/i, '').replace(/[^\w.-]+/g, '-').slice(-80)}-${hex}`;
}
