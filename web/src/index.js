// Runs quantized language models in the page's own GPU (WebGPU), or on its CPU where there is none. The interface is
// described in index.d.ts.

import { createEngine as engineOf } from './engine.js';
import { HalfbyteError, asError, check } from './errors.js';
import { Generation } from './generation.js';
import { Remote } from './rpc.js';
import { cache } from './sources/cache.js';
import { describe } from './sources/describe.js';
import { version } from './version.js';

export { HalfbyteError } from './errors.js';
export { droppedFiles } from './sources/files.js';

/** A worker of its own, or the caller's. */
function connect(given) {
  try {
    const worker = given ?? new Worker(new URL('./worker.js', import.meta.url), { type: 'module', name: 'halfbyte' });
    const end = () => given || worker.terminate();
    return { remote: new Remote(worker, end), end };
  } catch (error) {
    throw new HalfbyteError('WorkerLost', `no worker could be started: ${error.message}; serve worker.js from the page's own origin, or hand one over as \`worker\``);
  }
}

/** Asks once, without waiting: some browsers ask the user. Kept files then survive when space gets short. */
let asked = false;
function persist() {
  if (asked) return;
  asked = true;
  navigator.storage?.persist?.().catch(() => {});
}

/** Its folder's name, where it has one, is what an adapter without a name is called. */
function describedAdapter({ source, name, weight }) {
  const described = describe(source);
  const path = described.url ?? (source?.[Symbol.iterator] ? [...source][0]?.webkitRelativePath : '') ?? '';
  return { source: described, weight, name: name ?? decodeURIComponent(path.split('/').at(-2) || 'adapter') };
}

async function load(source, options = {}) {
  const { onProgress, signal, worker, adapters = [], ...given } = options;
  check(signal);
  const described = describe(source);
  const rest = { ...given, adapters: adapters.map(describedAdapter) };
  const { remote, end } = connect(worker);
  try {
    const loaded = await remote.call('load', { source: described, options: rest }, {
      signal,
      onEvent({ progress }) {
        const kept = described.kind === 'hub' || described.kind === 'url';
        if (kept && rest.cache !== false && progress.stage === 'download') persist();
        onProgress?.(progress);
      },
    });
    return new Model(remote, end, loaded);
  } catch (error) {
    end();
    throw error;
  }
}

async function adapter({ worker, ...options } = {}) {
  const { remote, end } = connect(worker);
  try {
    return await remote.call('adapter', options);
  } finally {
    end();
  }
}

const SAMPLING = { temperature: 0.8, topK: 40, topP: 0.95, minP: 0.05, repeatPenalty: 1, repeatLast: 64 };

/** A prompt as the core wants it. */
function request(prompt, options) {
  const { signal, onProgress, ...rest } = options;
  const seed = rest.seed ?? crypto.getRandomValues(new Uint32Array(1))[0];
  const set = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== undefined));
  const what = typeof prompt === 'string' ? { text: prompt }
    : Array.isArray(prompt) && typeof prompt[0] === 'object' ? { messages: prompt }
      : typeof prompt?.length === 'number' ? { tokens: Array.from(prompt) }
        : null;
  if (!what) throw new HalfbyteError('Invalid', `a prompt is a text, messages ({ role, content }) or tokens, found ${Object.prototype.toString.call(prompt)}`);
  return { ...what, ...SAMPLING, ...set, seed };
}

const NOTHING = {
  promptTokens: [], tokens: [], finishReason: 'cancelled', prefillTokensPerSecond: 0, decodeTokensPerSecond: 0, seed: null, recoveries: 0,
};

/** ms that a busy worker has to free its model before it is ended. */
const PATIENCE = 5000;

class Model {
  #remote;
  #end;
  #handle;
  #closing = new AbortController();
  #closed = null;

  constructor(remote, end, { handle, info, adapter }) {
    this.#remote = remote;
    this.#end = end;
    this.#handle = handle;
    this.info = info;
    this.adapter = adapter;
  }

  #call(name, args, { signal, onEvent } = {}) {
    if (this.#closed) return Promise.reject(new HalfbyteError('Invalid', 'this model was closed; load it again'));
    const either = signal ? AbortSignal.any([signal, this.#closing.signal]) : this.#closing.signal;
    return this.#remote.call(name, { handle: this.#handle, ...args }, { signal: either, onEvent });
  }

  generate(prompt, options = {}) {
    return new Generation(async (push, signal) => {
      try {
        const { summary, adapter } = await this.#call('generate', { request: request(prompt, options) }, {
          signal,
          onEvent: ({ piece, progress }) => (progress ? options.onProgress?.(progress) : push(piece)),
        });
        if (adapter) this.adapter = adapter;
        return summary;
      } catch (error) {
        // Cancelled before its turn came.
        if (asError(error).kind === 'Aborted') return { ...NOTHING };
        throw error;
      }
    }, options.signal);
  }

  async setAdapterWeights(weights) {
    this.info.adapters = await this.#call('setAdapterWeights', { weights });
  }

  tokenize(text, { special = true } = {}) {
    return this.#call('tokenize', { text, special });
  }

  detokenize(tokens) {
    return this.#call('detokenize', { tokens: Uint32Array.from(tokens) });
  }

  perplexity(text, { signal, onProgress } = {}) {
    return this.#call('perplexity', { text }, { signal, onEvent: ({ progress }) => onProgress?.(progress) });
  }

  verify({ quick = false, signal, onProgress, onOutcome } = {}) {
    return this.#call('verify', { quick }, {
      signal,
      onEvent: ({ progress, outcome }) => (progress ? onProgress?.(progress) : onOutcome?.(outcome)),
    });
  }

  bench({ signal, onProgress, ...options } = {}) {
    return this.#call('bench', { options }, { signal, onEvent: ({ progress }) => onProgress?.(progress) });
  }

  memory() {
    return this.#call('memory');
  }

  reset() {
    return this.#call('reset');
  }

  loseDevice() {
    return this.#call('loseDevice');
  }

  close() {
    if (this.#closed) return this.#closed;
    this.#closing.abort();
    const freed = this.#remote.call('close', { handle: this.#handle }).catch(() => {}); // gone already: all is free
    const patience = new Promise((resolve) => setTimeout(resolve, PATIENCE));
    this.#closed = Promise.race([freed, patience]).then(this.#end);
    return this.#closed;
  }
}

export const Halfbyte = { load, adapter, cache, version };

/** An engine of OpenAI's shape around a model or a source. */
export const createEngine = async (source, options) => engineOf(source instanceof Model ? source : await load(source, options));
