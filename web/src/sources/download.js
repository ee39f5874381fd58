// Brings the files of a model into its folder of the cache.

import { HalfbyteError, bytes, check } from '../errors.js';
import { release } from './files.js';
import { Changed, PIECE } from './http.js';
import { Part, full } from './opfs.js';

const CONNECTIONS = 4;
/** Chrome tells no more of the free space, however much or little there is. */
const UNTOLD = 10 * 2 ** 30;
const RESTARTS = 2; // of a file that changes on the server

/**
 * `files` are HttpFiles whose sizes are known, or null; those that are there are left alone. `tell` gets progress,
 * `breathe` lets other messages in, `Sha256` is the core's.
 */
export async function download(folder, files, { signal, tell, breathe, Sha256 }) {
  for (let restarts = 0; ; restarts++) {
    try {
      return await attempt(folder, files, { signal, tell, breathe, Sha256 });
    } catch (error) {
      if (!(error instanceof Changed) || restarts === RESTARTS) throw error;
      // Parts of the old version are thrown away where they are opened: their version differs.
      for (const file of files) if (!file.identity && !file.sha256) await Object.assign(file, { size: null }).open(signal);
    }
  }
}

async function attempt(folder, files, { signal, tell, breathe, Sha256 }) {
  const parts = new Map();
  let present = 0;
  try {
    for (const file of files) {
      const there = await folder.file(file.name);
      if (there && there.size === file.size) present += there.size;
      else parts.set(file, await Part.open(folder, file));
    }
    const jobs = [...parts].flatMap(([file, part]) =>
      (file.size === null ? [0] : part.missing).map((index) => ({ file, part, index })));
    const length = ({ file, index }) => Math.min(PIECE, file.size - index * PIECE);
    const missing = jobs.reduce((sum, job) => sum + length(job), 0);
    const { usage = 0, quota = Infinity } = await navigator.storage.estimate();
    const free = quota - usage;
    if (missing > free && free !== UNTOLD) throw await full(missing);

    const known = files.every(({ size, expected }) => size !== null || expected);
    const total = known ? files.reduce((sum, { size, expected }) => sum + (size ?? expected), 0) : undefined;
    const sized = files.reduce((sum, { size }) => sum + (size ?? 0), 0);
    let done = sized - missing;
    const failed = new AbortController();
    const stop = AbortSignal.any([signal, failed.signal]);
    async function connection() {
      for (let job; (job = jobs.shift());) {
        const { file, part, index } = job;
        const start = index * PIECE;
        const end = file.size === null ? PIECE : start + length(job);
        await file.fetch(start, end, (chunk, at) => {
          part.write(chunk, at);
          done += chunk.length;
          tell({ stage: 'download', done: total === undefined ? done : Math.min(done, total), total, name: file.name });
          release(chunk);
        }, stop);
        part.finish(index);
      }
    }
    tell({ stage: 'download', done, total });
    let first = null;
    await Promise.all(Array.from({ length: CONNECTIONS }, () => connection().catch((error) => {
      first ??= error;
      failed.abort();
    })));
    check(signal);
    if (first) throw first.name === 'QuotaExceededError' ? await full(Math.max(0, sized - done)) : first;

    for (const [file, part] of parts) {
      if (file.sha256) await verify(file, part, { signal, tell, breathe, Sha256 });
      await part.commit(file.size);
      parts.delete(file);
    }
  } finally {
    for (const part of parts.values()) part.close();
  }
}

/** Compares what arrived with the hash that it should have. */
async function verify(file, part, { signal, tell, breathe, Sha256 }) {
  const hash = new Sha256();
  const found = await part.hash(hash, async (done) => {
    tell({ stage: 'check', done, total: file.size, name: file.name });
    await breathe();
    check(signal);
  }).finally(() => hash.free());
  if (found === file.sha256.toLowerCase()) return;
  await part.discard();
  throw new HalfbyteError('Corrupt', `${file.name}: not the file that was meant (${bytes(file.size)}): expected SHA-256 ${file.sha256}, found ${found}; load it again, or check the hash`);
}
