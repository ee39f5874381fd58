// Files from the network, by ranges. Every request is a GET with one simple Range header, which needs no CORS
// preflight; a token goes to the hub's own origin only.

import { HalfbyteError, aborted, bytes, check } from '../errors.js';

/** What is fetched, and kept in a cache's journal, at a time. */
export const PIECE = 8 << 20;
const ATTEMPTS = 6; // in a row that bring nothing
const FIRST_ATTEMPTS = 3; // while the server never answered: a wrong address, most likely
const STALL = 30_000; // ms without a byte
const LONGEST_WAIT = 60_000;
/** The browser's own cache would keep everything a second time; the hub turns some referrers away. */
const QUIET = { cache: 'no-store', referrerPolicy: 'no-referrer' };

/** Worth another try. `wait`: ms that the server asked for. */
class Broken extends Error {
  constructor(error, wait) {
    super(error.message);
    this.error = error;
    this.wait = wait;
  }
}

/** The file on the server is not the one that was begun. */
export class Changed extends HalfbyteError {
  constructor(name) {
    super('Network', `${name} changed on the server while it was read: load it again`);
  }
}

export class HttpFile {
  /** Bytes; null until `open`, and where only the end will tell. */
  size;
  /** As far as the server says, where `size` is not known. */
  expected = null;
  /** Whether the server sends parts of it; known after `open`. */
  ranges = true;
  #direct = null;
  #whole = null;
  #answered = false;

  /**
   * `size` and `sha256` where they are known; `identity` for an address whose content never changes; `headers` for
   * the address itself, not for where it redirects to; `refused` makes an error of a status.
   */
  constructor(name, url, { size = null, sha256 = null, identity = null, headers = {}, refused = null } = {}) {
    Object.assign(this, { name, url, size, sha256, identity, headers, refused });
    this.stamp = null;
  }

  /** Tells one content of this address from another; null where nothing does. */
  get version() {
    return this.sha256 ?? this.identity ?? this.stamp;
  }

  /** Learns size and stamp with the smallest request there is. */
  async open(signal) {
    await this.#insist(signal, async () => {
      const response = await this.#request(0, 1, signal);
      this.stamp = stamp(response);
      this.type = response.headers.get('content-type') ?? '';
      this.ranges = response.status !== 200;
      if (!this.ranges) this.expected = length(response);
      await response.body?.cancel();
      if (this.ranges && this.size === null) this.size = total(response) ?? (await this.#length(signal));
    });
    return this;
  }

  /**
   * Brings `start..end` to `sink(bytes, at)`, in order. From a server without ranges the whole file comes, once; who
   * asks meanwhile waits for it.
   */
  async fetch(start, end, sink, signal) {
    let at = start;
    await this.#insist(signal, async () => {
      if (at >= end || this.#whole) return this.#whole;
      const idle = new AbortController();
      const response = await this.#request(at, end, signal, idle);
      if (response.status === 416) throw new Changed(this.name);
      if (response.status === 200) {
        if (this.#whole) {
          idle.abort();
          return this.#whole;
        }
        this.#whole = this.#stream(response, sink, signal, idle).finally(() => (this.#whole = null));
        return this.#whole;
      }
      this.#compare(response);
      if (this.size !== null) end = Math.min(end, this.size);
      for await (const chunk of this.#chunks(response, signal, idle)) {
        if (at + chunk.length > end) throw this.#strange(`more than the ${bytes(end - start)} asked for`);
        sink(chunk, at);
        at += chunk.length;
      }
      this.size ??= at; // less than was asked for, and nobody said how much there is
      if (at < Math.min(end, this.size)) throw new Broken(this.#unreachable('the connection broke'));
    }, () => at);
  }

  async #stream(response, sink, signal, idle) {
    let at = 0;
    for await (const chunk of this.#chunks(response, signal, idle)) {
      sink(chunk, at);
      at += chunk.length;
    }
    if (this.size !== null && at !== this.size) throw new Broken(this.#strange(`${bytes(at)} of ${bytes(this.size)}`));
    this.size = at;
  }

  /** `bytes` of exactly `start..end`. */
  async read(start, end, signal) {
    const out = new Uint8Array(end - start);
    await this.fetch(start, end, (chunk, at) => {
      if (at < start) throw this.#strange('the whole file instead of a part');
      out.set(chunk, at - start);
    }, signal);
    return out;
  }

  /** All of a file that is no longer than `limit`, for `tell` with progress. */
  async whole(limit, signal, tell = () => {}) {
    let chunks = [];
    let done = 0;
    await this.fetch(0, limit, (chunk, at) => {
      if (at === 0) [chunks, done] = [[], 0]; // from the start again
      done += chunk.length;
      if (done > limit) throw this.#strange(`more than ${bytes(limit)}, which is too much to keep in memory, and no parts`);
      chunks.push(chunk);
      tell({ stage: 'download', done, total: this.size ?? this.expected ?? undefined, name: this.name });
    }, signal);
    return new Blob(chunks);
  }

  /** Runs `attempt` again after a break, with growing pauses, as long as `reached` grows now and then. */
  async #insist(signal, attempt, reached = () => 0) {
    let failures = 0;
    let furthest = reached();
    for (;;) {
      check(signal);
      try {
        return await attempt();
      } catch (thrown) {
        check(signal);
        if (!(thrown instanceof Broken)) throw thrown;
        failures = reached() > furthest ? 1 : failures + 1;
        furthest = reached();
        if (failures >= (this.#answered ? ATTEMPTS : FIRST_ATTEMPTS)) throw thrown.error;
        const pause = 250 * 2 ** failures * (0.75 + Math.random() / 2);
        await sleep(Math.min(LONGEST_WAIT, thrown.wait ?? pause), signal);
      }
    }
  }

  /** One GET; its answer is 200, 206 or 416, anything else is thrown. */
  async #request(start, end, signal, idle = new AbortController()) {
    const direct = this.#direct;
    const headers = { Range: `bytes=${start}-${end - 1}`, ...(direct ? {} : this.headers) };
    let response;
    const timer = setTimeout(() => idle.abort(), STALL);
    try {
      response = await fetch(direct ?? this.url, { ...QUIET, headers, signal: either(signal, idle.signal) });
    } catch (error) {
      check(signal);
      this.#direct = null;
      throw new Broken(this.#unreachable(idle.signal.aborted ? `no answer in ${STALL / 1000} s` : error.message));
    } finally {
      clearTimeout(timer);
    }
    this.#answered = true;
    const { status } = response;
    if (status === 200 || status === 206 || status === 416) {
      if (response.redirected) this.#direct = response.url;
      return response;
    }
    const error = await this.#refusal(response);
    await response.body?.cancel();
    if (direct) {
      // A signed address has expired: ask the first one again.
      this.#direct = null;
      throw new Broken(error, 0);
    }
    if (status === 408 || status === 429 || status >= 500) throw new Broken(error, wait(response));
    throw error;
  }

  async #refusal(response) {
    const special = await this.refused?.(response);
    if (special) return special;
    const { status } = response;
    if (status === 404 || status === 410) return new HalfbyteError('Missing', `${this.url}: no such file on the server (HTTP ${status}); check the address`);
    if (status === 401 || status === 403) return new HalfbyteError('Network', `${this.url}: the server refuses it (HTTP ${status}); log in there, or download the file and open it from disk`);
    if (status === 429) return new HalfbyteError('Network', `${this.url}: too many requests; try again later`);
    return new HalfbyteError('Network', `${this.url}: HTTP status ${status}; try again later`);
  }

  /** The length of the whole, where a server hides Content-Range from other origins. */
  async #length(signal) {
    const stop = new AbortController();
    try {
      const response = await fetch(this.url, { ...QUIET, headers: this.headers, signal: either(signal, stop.signal) });
      const found = length(response);
      if (found !== null) return found;
    } catch (error) {
      check(signal);
      throw new Broken(this.#unreachable(error.message));
    } finally {
      stop.abort();
    }
    throw new HalfbyteError('Network', `${this.url}: the server does not say how long the file is; let it send Access-Control-Expose-Headers: Content-Range, or download the file and open it from disk`);
  }

  /** Pieces of two versions must not be mixed. */
  #compare(response) {
    const size = total(response);
    if (this.size !== null && size !== null && size !== this.size) throw new Changed(this.name);
    this.size ??= size;
    if (this.sha256 ?? this.identity) return;
    const found = stamp(response);
    this.stamp ??= found;
    if (found !== this.stamp) throw new Changed(this.name);
  }

  /** The body, with an eye on stalls. */
  async *#chunks(response, signal, idle) {
    const reader = response.body.getReader();
    let timer;
    try {
      for (;;) {
        timer = setTimeout(() => idle.abort(), STALL);
        const { done, value } = await reader.read();
        clearTimeout(timer);
        if (done) return;
        yield value;
      }
    } catch (error) {
      check(signal);
      throw new Broken(this.#unreachable(idle.signal.aborted ? `nothing came for ${STALL / 1000} s` : error.message));
    } finally {
      clearTimeout(timer);
      reader.cancel().catch(() => {}); // left before its end
    }
  }

  #unreachable(why) {
    const host = new URL(this.url).host;
    const cause = globalThis.navigator?.onLine === false
      ? 'this device is offline: connect, then load it again'
      : this.#answered
        ? 'check the network, then load it again'
        : `either the network or ${host} is down, or ${host} does not let other pages read its files (CORS): it would have to send Access-Control-Allow-Origin; else download the file and open it from disk`;
    // Firefox keeps to the letter: a request with a token asks the store that it is redirected to as well.
    const token = this.headers.Authorization ? '; some browsers cannot follow the hub to its file store with a token: try another one' : '';
    return new HalfbyteError('Network', `${this.name}: cannot fetch it from ${host} (${why}); ${cause}${token}. A download goes on where it stopped`);
  }

  #strange(found) {
    return new HalfbyteError('Network', `${this.name}: the server sent ${found}; load it again, or download the file and open it from disk`);
  }
}

/** Keeps a few blocks of a file in memory, for a browser that keeps nothing else. `signal()` is the running call's. */
export class Blocks {
  static BLOCK = 4 << 20;
  static KEPT = 6;
  static AHEAD = 2;
  #blocks = new Map();

  constructor(file, signal) {
    this.file = file;
    this.signal = signal;
  }

  #block(index) {
    const start = index * Blocks.BLOCK;
    let block = this.#blocks.get(index);
    this.#blocks.delete(index);
    if (!block) {
      block = this.file.read(start, Math.min(start + Blocks.BLOCK, this.file.size), this.signal());
      block.catch(() => this.#blocks.delete(index));
    }
    this.#blocks.set(index, block); // the youngest comes last
    while (this.#blocks.size > Blocks.KEPT) this.#blocks.delete(this.#blocks.keys().next().value);
    return block;
  }

  async read(start, end) {
    const out = new Uint8Array(end - start);
    const last = Math.ceil(this.file.size / Blocks.BLOCK);
    for (let at = start; at < end;) {
      const index = Math.floor(at / Blocks.BLOCK);
      const wanted = this.#block(index);
      for (let next = index + 1; next <= index + Blocks.AHEAD && next < last; next++) this.#block(next);
      const from = at - index * Blocks.BLOCK;
      const part = (await wanted).subarray(from, from + end - at);
      out.set(part, at - start);
      at += part.length;
    }
    return out;
  }
}

const number = (text) => (/^\d+$/.test(text ?? '') ? Number(text) : null);
const total = (response) => number(response.headers.get('content-range')?.split('/')[1]);
/** Compressed on the way, a length means nothing. */
const length = (response) => (response.headers.has('content-encoding') ? null : number(response.headers.get('content-length')));
const stamp = (response) => response.headers.get('etag') ?? response.headers.get('last-modified');
const either = (...signals) => AbortSignal.any(signals.filter(Boolean));

/** ms that a Retry-After header asks for: seconds, or a date. */
function wait(response) {
  const header = response.headers.get('retry-after');
  if (!header) return undefined;
  const seconds = number(header);
  return seconds === null ? Math.max(0, Date.parse(header) - Date.now()) || undefined : seconds * 1000;
}

function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener('abort', () => {
      clearTimeout(timer);
      reject(aborted());
    }, { once: true });
  });
}
