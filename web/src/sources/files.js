// Models from the user's own files, read in slices.

import { HalfbyteError } from '../errors.js';

const depth = (folder) => folder.split('/').length;

/** The files of the one folder among `files` that holds a model: the outermost, if there are several. */
export function pick(files) {
  const folders = new Map();
  for (const blob of files) {
    const path = blob.webkitRelativePath || blob.name;
    const at = path.lastIndexOf('/') + 1;
    const name = path.slice(at);
    if (name.startsWith('.')) continue; // .DS_Store, .gitattributes
    const folder = path.slice(0, at);
    if (!folders.has(folder)) folders.set(folder, []);
    folders.get(folder).push({ name, blob });
  }
  const weights = (all) => all.some(({ name }) => /\.(gguf|safetensors)$|^params_shard_/i.test(name));
  const [best] = [...folders].sort(([a, x], [b, y]) => weights(y) - weights(x) || depth(a) - depth(b));
  if (!best || !weights(best[1])) {
    const names = [...folders.values()].flat().slice(0, 10).map(({ name }) => name).join(', ') || 'nothing';
    throw new HalfbyteError('Missing', `no model among these files: expected a .gguf, or .safetensors with config.json, found ${names}`);
  }
  return best[1];
}

/**
 * A file as the core reads it: one piece after the other, each copied before it asks for the next. What it is through
 * with is freed at once; a collector would let a hundred MiB pile up.
 */
export function readable(name, size, read) {
  const given = [];
  return {
    name,
    size,
    async read(start, end) {
      const bytes = await read(start, end);
      if (given.push(bytes) > 2) release(given.shift());
      return bytes;
    },
  };
}

/** Gives the memory of an array back, if no other shares it. Older browsers wait for the collector. */
export function release({ buffer, byteLength }) {
  if (byteLength === buffer.byteLength) buffer.transfer?.(0);
}

/** A blob as the core reads it. */
export function coreFile(name, blob) {
  return readable(name, blob.size, async (start, end) => {
    try {
      return new Uint8Array(await blob.slice(start, end).arrayBuffer());
    } catch (error) {
      throw new HalfbyteError('Missing', `${name} can no longer be read (${error.message}): it was changed, moved or removed; choose it again`);
    }
  });
}

/** All files of a drop, those inside folders too. Call it inside the drop event: the browser forgets them after it. */
export async function droppedFiles(dataTransfer) {
  const items = [...dataTransfer.items].filter(({ kind }) => kind === 'file');
  // Both must be asked before the first wait. Only real drops have entries.
  const dropped = items.map((item) => ({ entry: item.webkitGetAsEntry?.(), file: item.getAsFile() }));
  const found = await Promise.all(dropped.map(({ entry, file }) => (entry ? inside(entry) : [file])));
  return found.flat().filter(Boolean);
}

async function inside(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    // Files from an entry do not know their folder.
    if (!file.webkitRelativePath) Object.defineProperty(file, 'webkitRelativePath', { value: entry.fullPath.slice(1) });
    return [file];
  }
  const reader = entry.createReader();
  const entries = [];
  for (;;) {
    // It gives at most a hundred at a time.
    const more = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!more.length) break;
    entries.push(...more);
  }
  return (await Promise.all(entries.map(inside))).flat();
}
