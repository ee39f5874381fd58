// A small static server with byte ranges.

import { createReadStream, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { extname, join, normalize, sep } from 'node:path';

const TYPES = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.mjs': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.json': 'application/json',
  '.svg': 'image/svg+xml',
  '.png': 'image/png',
  '.wasm': 'application/wasm',
};
export const type = (path) => TYPES[extname(path)] ?? 'application/octet-stream';

/** The `[start, end)` that a Range header asks for of `size` bytes; null: the whole; 'unsatisfiable'. */
export function range(header, size) {
  const match = /^bytes=(\d*)-(\d*)$/.exec(header ?? '');
  if (!match || (match[1] === '' && match[2] === '')) return null;
  const start = match[1] === '' ? Math.max(0, size - Number(match[2])) : Number(match[1]);
  const end = match[1] === '' || match[2] === '' ? size : Math.min(size, Number(match[2]) + 1);
  return start < end ? [start, end] : 'unsatisfiable';
}

/** Answers a request with the file at `path`, or the part of it that was asked for. */
export function sendFile(request, reply, path) {
  const { size } = statSync(path);
  reply.setHeader('Content-Type', type(path));
  reply.setHeader('Accept-Ranges', 'bytes');
  reply.setHeader('Cache-Control', 'no-cache');
  const part = range(request.headers.range, size);
  if (part === 'unsatisfiable') return reply.writeHead(416, { 'Content-Range': `bytes */${size}` }).end();
  const [start, end] = part ?? [0, size];
  if (part) reply.setHeader('Content-Range', `bytes ${start}-${end - 1}/${size}`);
  reply.writeHead(part ? 206 : 200, { 'Content-Length': end - start });
  if (request.method === 'HEAD' || start === end) return reply.end();
  const stream = createReadStream(path, { start, end: end - 1 });
  stream.on('error', () => reply.destroy());
  reply.on('close', () => stream.destroy());
  return stream.pipe(reply);
}

/** The file inside `root` that an address means; null if there is none. */
export function find(root, pathname) {
  const path = join(root, normalize(decodeURIComponent(pathname)));
  if (path !== root && !path.startsWith(root + sep)) return null;
  const stat = statSync(path, { throwIfNoEntry: false });
  if (!stat?.isDirectory()) return stat ? path : null;
  const index = join(path, 'index.html');
  return statSync(index, { throwIfNoEntry: false }) ? index : null;
}

/** Serves a folder at 127.0.0.1, where WebGPU and storage work without HTTPS. `answer` may take a request first. */
export async function serve(root, { port = 0, answer } = {}) {
  const server = createServer(async (request, reply) => {
    try {
      const url = new URL(request.url, 'http://127.0.0.1');
      if (answer && (await answer(request, reply, url))) return;
      const path = find(root, url.pathname);
      if (path) sendFile(request, reply, path);
      else reply.writeHead(404, { 'Content-Type': 'text/plain' }).end(`no ${url.pathname} here\n`);
    } catch (error) {
      if (!reply.headersSent) reply.writeHead(500);
      reply.end(String(error));
    }
  });
  await new Promise((ready, failed) => {
    server.once('error', (error) => failed(error.code === 'EADDRINUSE' ? new Error(`port ${port} is taken: choose another with --port`) : error));
    server.listen(port, '127.0.0.1', ready);
  });
  return {
    port: server.address().port,
    url: `http://127.0.0.1:${server.address().port}/`,
    close: () => new Promise((done) => {
      server.close(done);
      server.closeAllConnections();
    }),
  };
}
