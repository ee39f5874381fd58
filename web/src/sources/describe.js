// On the page, or in a worker of the app: what `Halfbyte.load` was given, as something that can be sent to the worker.

import { HalfbyteError } from '../errors.js';
import { pick } from './files.js';

const HUB = /^[\w.-]+\/[\w.-]+(@[\w./-]+)?$/;
const ADDRESS = /^([a-z][a-z0-9+.-]*:|\.{0,2}\/)|(\.gguf|\.safetensors|\/)$/i;

/** `{ kind: 'embedded' | 'hub' | 'url' | 'files' | 'cached', … }` */
export function describe(source, base = globalThis.document?.baseURI ?? location.href) {
  if (source === 'embedded') return { kind: 'embedded' };
  if (source instanceof URL) return { kind: 'url', url: source.href };
  if (typeof source === 'string') {
    if (source.startsWith('hf:')) return { kind: 'hub', text: source };
    if (ADDRESS.test(source)) return { kind: 'url', url: new URL(source, base).href };
    if (HUB.test(source)) return { kind: 'hub', text: `hf:${source}` };
    throw unknown(JSON.stringify(source));
  }
  if (source instanceof Blob) return { kind: 'files', files: [{ name: source.name ?? 'model.gguf', blob: source }] };
  if (typeof source?.cached === 'string') return { kind: 'cached', id: source.cached };
  if (source?.[Symbol.iterator]) {
    const files = [...source];
    if (files.every((file) => file instanceof File)) return { kind: 'files', files: pick(files) };
  } else if (source && typeof source === 'object') {
    const files = Object.entries(source).map(([name, blob]) => ({ name, blob }));
    if (files.length && files.every(({ blob }) => blob instanceof Blob)) return { kind: 'files', files };
  }
  throw unknown(Object.prototype.toString.call(source));
}

const unknown = (found) => new HalfbyteError('Invalid',
  `not a model's source: expected 'embedded', hf:owner/repo, an address ending in .gguf, .safetensors or /, a File, files of a folder, or { cached: id }, found ${found}`);
