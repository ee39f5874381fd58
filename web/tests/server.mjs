// The test server: the package with a core of choice, and other origins that behave as servers in the wild do.
//
//   const server = await start({ core: 'fake' });
//   server.store.put('/m.gguf', { bytes: random(10 << 20), cut: 1e6, cuts: 2 });
//   server.store.log            // [{ method, path, range, headers }]
//
// `page` serves src/ (or dist/) and the tests' own page, `hub` imitates a Hugging Face hub, which redirects to `store`.

import { createCipheriv, createHash } from 'node:crypto';
import { createServer } from 'node:http';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { find, range, sendFile, serve } from '../scripts/static.mjs';

const TESTS = dirname(fileURLToPath(import.meta.url));
const WEB = dirname(TESTS);

/** The same pseudo-random bytes each time, from any place: AES in counter mode. */
export function randomAt(seed, start, end) {
  const iv = Buffer.alloc(16);
  iv.writeBigUInt64BE(BigInt(Math.floor(start / 16)), 8);
  const skip = start % 16;
  const cipher = createCipheriv('aes-128-ctr', Buffer.alloc(16, seed), iv);
  return cipher.update(Buffer.alloc(end - start + skip)).subarray(skip);
}
export const random = (size, seed = 1) => randomAt(seed, 0, size);
export const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * An origin with files that misbehave as told:
 *   bytes, or size and at(start, end)   what it is
 *   ranges: false                       always the whole
 *   cors: false                         no other page may read it; `expose: false`: Content-Range stays hidden
 *   etag, modified                      null: not sent
 *   cut: n, cuts: k                     the first k answers break after n bytes
 *   slow: ms                            pause after every 64 KiB
 *   hold: n                             from byte n on a byte now and then, until it is deleted: it does not end before
 *   statuses: [503, …], retryAfter      answers before the first good one
 *   redirect: (n) => url                instead of the file; n counts requests
 *   guard: (url, n) => status or null   e.g. 403 for a signed address that expired
 * An entry of the log counts in `sent` the bytes that it was answered with.
 */
async function origin() {
  const files = new Map();
  const log = [];
  const answer = async (request, reply) => {
    const url = new URL(request.url, 'http://x');
    const entry = { method: request.method, path: url.pathname, query: url.search, range: request.headers.range, headers: request.headers, sent: 0 };
    log.push(entry);
    const file = files.get(url.pathname);
    if (file?.cors !== false) {
      reply.setHeader('Access-Control-Allow-Origin', '*');
      if (file?.expose !== false) reply.setHeader('Access-Control-Expose-Headers', 'ETag,Content-Range,Accept-Ranges,X-Error-Code,X-Linked-Size,X-Linked-ETag,Retry-After');
    }
    // Only a request with a token may need a preflight; the package must get by without.
    if (request.method === 'OPTIONS' && file?.preflight) return reply.writeHead(204, { 'Access-Control-Allow-Headers': 'authorization, range' }).end();
    if (request.method !== 'GET') return reply.writeHead(405).end();
    if (!file) return reply.writeHead(404, { 'Content-Type': 'text/plain' }).end('no such file');
    const count = (file.count = (file.count ?? 0) + 1);
    const status = file.statuses?.shift() ?? file.guard?.(url, count, request);
    if (status) return reply.writeHead(status, { ...(file.retryAfter && { 'Retry-After': file.retryAfter }), ...file.headers }).end();
    if (file.redirect) return reply.writeHead(302, { Location: file.redirect(count) }).end();
    const size = file.bytes?.length ?? file.size;
    const part = file.ranges === false ? null : range(request.headers.range, size);
    reply.setHeader('Content-Type', file.type ?? 'application/octet-stream');
    if (file.etag) reply.setHeader('ETag', file.etag);
    if (file.modified) reply.setHeader('Last-Modified', file.modified);
    if (part === 'unsatisfiable') return reply.writeHead(416, { 'Content-Range': `bytes */${size}` }).end();
    const [start, end] = part ?? [0, size];
    if (part) reply.setHeader('Content-Range', `bytes ${start}-${end - 1}/${size}`);
    reply.writeHead(part ? 206 : 200, { 'Content-Length': end - start });
    const closed = new Promise((done) => reply.once('close', done));
    const stop = file.cut && file.cuts-- > 0 ? Math.min(end, start + file.cut) : end;
    for (let at = start; at < stop && !reply.destroyed;) {
      const held = at >= (file.hold ?? Infinity);
      const next = Math.min(stop, at + (held ? 1 : 64 << 10));
      const chunk = file.bytes ? file.bytes.subarray(at, next) : file.at(at, next);
      entry.sent += chunk.length;
      if (!reply.write(chunk)) await Promise.race([new Promise((drained) => reply.once('drain', drained)), closed]);
      if (held || file.slow) await sleep(held ? 60 : file.slow);
      at = next;
    }
    return stop < end ? reply.destroy() : reply.end();
  };
  const server = createServer((request, reply) => answer(request, reply).catch(() => reply.destroy())).listen(0, '127.0.0.1');
  let down = false;
  server.on('connection', (socket) => down && socket.destroy());
  await new Promise((ready) => server.on('listening', ready));
  const url = `http://127.0.0.1:${server.address().port}`;
  return {
    url,
    log,
    put: (path, file) => (files.set(path, { etag: '"one"', ...file }), url + path),
    get: (path) => files.get(path),
    remove: (path) => files.delete(path),
    /** Breaks every connection and takes no more, until `up`. */
    down: () => ((down = true), server.closeAllConnections()),
    up: () => (down = false),
    close: () => new Promise((done) => (server.close(done), server.closeAllConnections())),
  };
}

/** Puts a repository into the hub: its API, and files that redirect to signed addresses of the store. */
export function putRepo({ hub, store }, repo, files, { commit = 'c0ffee', revision = 'main', expireAfter = Infinity, guard, blobs = true } = {}) {
  const siblings = Object.entries(files).map(([rfilename, { bytes, lfs = false }]) => ({
    rfilename,
    ...(blobs && { size: bytes.length, blobId: sha256(bytes).slice(0, 40) }),
    ...(blobs && lfs && { lfs: { sha256: sha256(bytes), size: bytes.length } }),
  }));
  const json = Buffer.from(JSON.stringify({ id: repo, sha: commit, siblings }));
  hub.put(`/api/models/${repo}/revision/${revision}`, { bytes: json, ranges: false, etag: null, type: 'application/json', guard, preflight: true });
  for (const [plain, { bytes, lfs, ...rest }] of Object.entries(files)) {
    const name = encodeURI(plain);
    const path = `/${repo}/resolve/${commit}/${name}`;
    if (!lfs) {
      hub.put(path, { bytes, guard, preflight: true, ...rest });
      continue;
    }
    // An address is good for so many requests; then the hub has to sign a new one.
    const signed = `/signed/${repo}/${name}`;
    const uses = new Map();
    store.put(signed, {
      bytes,
      etag: null,
      guard(url) {
        const used = (uses.get(url.search) ?? 0) + 1;
        uses.set(url.search, used);
        return used > expireAfter ? 403 : null;
      },
      ...rest,
    });
    hub.put(path, { redirect: (count) => `${store.url}${signed}?signature=${count}`, guard, preflight: true });
  }
}

/** Runs in the worker before its own script: at the 30th piece of every text it asks the server whether to go on. */
const STAND = `
  const post = self.postMessage.bind(self);
  const pieces = {};
  self.postMessage = (message, ...rest) => {
    post(message, ...rest);
    if (message.event?.piece === undefined || (pieces[message.id] = (pieces[message.id] ?? 0) + 1) !== 30) return;
    const request = new XMLHttpRequest();
    request.open('GET', '/go-on', false);
    request.send();
  };`;

/** `core`: `fake` serves src/ with fake_core.js, `real` serves dist/ as it was built. */
export async function start({ core = 'fake', port = 0 } = {}) {
  const pages = { '/': '<!doctype html><meta charset=utf-8><title>halfbyte</title><link rel=icon href=data:,><input type=file multiple><div id=drop style="width:200px;height:200px"></div>' };
  const script = (reply, text) => reply.setHeader('Content-Type', 'text/javascript').end(text);
  let standing = null;
  const page = await serve(join(WEB, 'dist'), {
    port,
    async answer(request, reply, url) {
      if (pages[url.pathname] && !(core === 'real' && url.searchParams.has('app'))) {
        return reply.setHeader('Content-Type', 'text/html').end(pages[url.pathname]);
      }
      if (core === 'real' && url.pathname === '/go-on') {
        await standing;
        return reply.writeHead(204).end();
      }
      if (core === 'real' && url.pathname === '/stand.js') return script(reply, STAND);
      if (core === 'real' && url.pathname === '/halfbyte/worker.js' && url.search === '') {
        return script(reply, "import '/stand.js'; import './worker.js?real';");
      }
      if (core !== 'fake' || !url.pathname.startsWith('/halfbyte/')) return false;
      const name = url.pathname.slice('/halfbyte/'.length);
      const path = name === 'halfbyte_core.js' ? join(TESTS, 'fake_core.js')
        : name === 'tale.gguf' ? join(WEB, '../models/tale.gguf') : find(join(WEB, 'src'), `/${name}`);
      if (!path || !existsSync(path)) return reply.writeHead(404).end();
      return sendFile(request, reply, path) ?? true;
    },
  });
  const [hub, store] = await Promise.all([origin(), origin()]);
  return {
    url: page.url,
    page,
    hub,
    store,
    /** From now on a model that writes stands at its 30th token, until the function that this returns is called. */
    stand() {
      let release;
      standing = new Promise((done) => (release = done));
      return () => ((standing = null), release());
    },
    tale: () => readFileSync(join(WEB, '../models/tale.gguf')),
    close: () => Promise.all([page.close(), hub.close(), store.close()]),
  };
}
