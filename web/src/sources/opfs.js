// The cache: the folder `halfbyte` of the origin's private file system, a folder a model. In it `manifest.json` and the
// files; one that is not complete is called `<name>.part` and has a `<name>.journal` beside it.

import { HalfbyteError, bytes } from '../errors.js';
import { PIECE } from './http.js';

const ROOT = 'halfbyte';
const MANIFEST = 'manifest.json';

/** A name that may hold folders, as one file name. */
const plain = (name) => name.replace(/[%/\\]/g, encodeURIComponent);
/** `download` is held by the one who brings a model's files, `use` by all who run it; who deletes it needs both. */
export const lockName = (what, id) => `halfbyte/${what}/${id}`;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const missing = (error) => error.name === 'NotFoundError';
const absent = (error) => {
  if (!missing(error)) throw error;
  return null;
};

/** The folder of all models; throws where nothing can be kept. */
export async function root() {
  const storage = await navigator.storage.getDirectory();
  return storage.getDirectoryHandle(ROOT, { create: true });
}

/** Why nothing can be kept here; null where it can. */
export async function unavailable() {
  if (!isSecureContext) return 'browsers keep files only for secure pages: open this one over https://, or at http://localhost';
  if (!navigator.storage?.getDirectory || !navigator.locks) return 'this browser has no private file system (OPFS): update it';
  try {
    await root();
    return null;
  } catch (error) {
    return `the browser keeps nothing here (${error.message}): a private window, or storage is blocked for this site`;
  }
}

/** One model's folder. */
export class Folder {
  static async open(id) {
    return new Folder(id, await (await root()).getDirectoryHandle(id, { create: true }));
  }

  /** Of every model that is there. */
  static async all() {
    const found = [];
    for await (const [id, handle] of (await root()).entries()) {
      if (handle.kind === 'directory') found.push(new Folder(id, handle));
    }
    return found;
  }

  constructor(id, handle) {
    this.id = id;
    this.handle = handle;
  }

  /** A complete file; null if it is not there. */
  async file(name) {
    const handle = await this.handle.getFileHandle(plain(name)).catch(absent);
    return handle?.getFile() ?? null;
  }

  /** `{ source, request, files: [{ name, size, version }], complete, used }`; null if there is none. */
  async manifest() {
    for (let tries = 0; tries < 5; tries++) {
      try {
        const file = await this.file(MANIFEST);
        return file && JSON.parse(await file.text());
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 20)); // another tab is just writing it
      }
    }
    return null; // a write that was cut short
  }

  async writeManifest(manifest) {
    const handle = await exclusive(await this.handle.getFileHandle(MANIFEST, { create: true }));
    try {
      const text = new TextEncoder().encode(JSON.stringify(manifest, null, 1));
      handle.write(text, { at: 0 });
      handle.truncate(text.length);
    } finally {
      handle.close();
    }
  }

  /** Bytes of a file that are there, complete or not. */
  async present(name) {
    const complete = await this.file(name);
    if (complete) return complete.size;
    const [part, journal] = await Promise.all([this.file(`${name}.part`), this.file(`${name}.journal`)]);
    if (!part || !journal) return 0;
    const done = (await journal.text()).split('\n')[1]?.replaceAll('.', '').length ?? 0;
    return Math.min(part.size, done * PIECE);
  }

  remove(name) {
    return this.handle.removeEntry(plain(name)).catch(absent);
  }
}

/** A file on its way. The journal's first line says of what; then a character a piece: `#` done, `.` not yet. */
export class Part {
  #folder;
  #name;
  #data;
  #journal;
  #offset = 0;
  #done = [];

  /** `remote`: name, size (null: nobody knows, nothing is resumed) and version of what is to come. */
  static async open(folder, { name, size, version }) {
    const part = new Part();
    part.#folder = folder;
    part.#name = name;
    const create = { create: true };
    part.#data = await exclusive(await folder.handle.getFileHandle(plain(`${name}.part`), create));
    try {
      part.#journal = await exclusive(await folder.handle.getFileHandle(plain(`${name}.journal`), create));
    } catch (error) {
      part.#data.close();
      throw error;
    }
    part.#resume(size, version);
    return part;
  }

  #resume(size, version) {
    const text = new Uint8Array(this.#journal.getSize());
    this.#journal.read(text, { at: 0 });
    const header = `${JSON.stringify({ size, version, piece: PIECE })}\n`;
    this.#offset = new TextEncoder().encode(header).length;
    const [line, marks = ''] = new TextDecoder().decode(text).split('\n');
    const count = size === null ? 0 : Math.ceil(size / PIECE);
    if (count && `${line}\n` === header && marks.length === count) {
      this.#done = [...marks].map((mark) => mark === '#');
      return;
    }
    this.#done = Array(count).fill(false);
    this.#data.truncate(0);
    this.#journal.truncate(0);
    this.#journal.write(new TextEncoder().encode(header + '.'.repeat(count)), { at: 0 });
    this.#journal.flush();
  }

  /** Numbers of the pieces that are still to come. */
  get missing() {
    return this.#done.flatMap((done, index) => (done ? [] : [index]));
  }

  write(chunk, at) {
    const written = this.#data.write(chunk, { at });
    // Some browsers write what fits and say so only here.
    if (written < chunk.length) throw new DOMException('the storage is full', 'QuotaExceededError');
  }

  /** Notes that a piece is there; its bytes reach the disk first. */
  finish(index) {
    if (!(index in this.#done)) return;
    this.#data.flush();
    this.#done[index] = true;
    this.#journal.write(new TextEncoder().encode('#'), { at: this.#offset + index });
    this.#journal.flush();
  }

  /** The SHA-256 of everything, by the core's hash; `step(done)` may wait, or throw. */
  async hash(hash, step) {
    const buffer = new Uint8Array(1 << 20);
    for (let at = 0; ;) {
      const count = this.#data.read(buffer, { at });
      if (!count) return hash.hex();
      hash.update(buffer.subarray(0, count));
      at += count;
      await step(at);
    }
  }

  /** All is there and right: takes its good name. */
  async commit(size) {
    this.#data.truncate(size);
    this.#data.flush();
    this.close();
    await this.#folder.remove(this.#name);
    await rename(this.#folder.handle, plain(`${this.#name}.part`), plain(this.#name));
    await this.#folder.remove(`${this.#name}.journal`);
  }

  async discard() {
    this.close();
    await this.#folder.remove(`${this.#name}.part`);
    await this.#folder.remove(`${this.#name}.journal`);
  }

  close() {
    this.#data.close();
    this.#journal.close();
  }
}

/** A handle that writes; one that a worker held that was just ended may need a moment to come free. */
async function exclusive(handle) {
  for (let tries = 0; ; tries++) {
    try {
      return await handle.createSyncAccessHandle();
    } catch (error) {
      if (error.name !== 'NoModificationAllowedError' || tries === 50) throw error;
      await sleep(100);
    }
  }
}

async function rename(folder, from, to) {
  const handle = await folder.getFileHandle(from);
  if (handle.move) return handle.move(to);
  const target = await (await folder.getFileHandle(to, { create: true })).createSyncAccessHandle();
  try {
    let at = 0;
    for await (const chunk of (await handle.getFile()).stream()) at += target.write(chunk, { at });
    target.flush();
  } finally {
    target.close();
  }
  return folder.removeEntry(from);
}

/** What to say when the storage is full; `wanted` bytes were still to come. */
export async function full(wanted) {
  const { usage = 0, quota = 0 } = await navigator.storage.estimate();
  const free = Math.max(0, quota - usage);
  // Some browsers do not tell the truth about it.
  const room = free < wanted ? `${bytes(free)} are free for this site` : 'the browser gives no more';
  return new HalfbyteError('Quota', `the browser's storage is full: ${bytes(wanted)} more are needed, ${room}; delete a model that is cached here, free some disk space, or load without the cache; what was downloaded stays`);
}
