// Calls from the page into its worker and back. To the worker: { id, call, args } and { id, cancel }; from it:
// { id, event }, { id, result } and { id, error }. The worker answers one call after the other.

import { HalfbyteError, aborted, asError, check } from './errors.js';

const lost = (why) => new HalfbyteError('WorkerLost', `the worker is gone: ${why}; load the model again`);
const unique = () => crypto.getRandomValues(new Uint32Array(4)).join('-');

/** The page's end. */
export class Remote {
  #worker;
  #calls = new Map();
  #prefix = unique();
  #count = 0;
  #lost = null;
  #onLost;

  /** `onLost` is called once the worker is of no use any more. */
  constructor(worker, onLost = () => {}) {
    this.#worker = worker;
    this.#onLost = onLost;
    worker.addEventListener('message', (event) => this.#receive(event.data));
    worker.addEventListener('messageerror', () => this.lose('a message could not be read'));
    worker.addEventListener('error', (event) => this.lose(event.message
      || 'its script did not load: are worker.js and halfbyte_core.js beside index.js, and does a Content-Security-Policy allow workers?'));
    worker.postMessage({ life: this.#prefix });
  }

  /** Runs `name` in the worker; `onEvent` gets what it tells on the way. A signal asks it to stop. */
  async call(name, args, { signal, onEvent, transfer = [] } = {}) {
    check(signal);
    if (this.#lost) throw this.#lost;
    const id = `${this.#prefix}/${this.#count++}`;
    const cancel = () => this.#worker.postMessage({ id, cancel: true });
    signal?.addEventListener('abort', cancel);
    try {
      return await new Promise((resolve, reject) => {
        this.#calls.set(id, { resolve, reject, onEvent });
        this.#worker.postMessage({ id, call: name, args }, transfer);
      });
    } finally {
      this.#calls.delete(id);
      signal?.removeEventListener('abort', cancel);
    }
  }

  /** Fails what is running and all later calls. */
  lose(why) {
    if (this.#lost) return;
    this.#lost = lost(why);
    this.#onLost();
    for (const { reject } of this.#calls.values()) reject(this.#lost);
  }

  #receive({ id, life, event, result, error }) {
    if (life === this.#prefix) return this.#watch();
    const call = this.#calls.get(id);
    if (!call) return;
    if (event !== undefined) return call.onEvent?.(event);
    if (error?.fatal) this.lose(error.message);
    if (error) call.reject(new HalfbyteError(error.kind, error.message));
    else call.resolve(result);
  }

  /** No event tells that a worker was terminated or killed, but the lock that it holds comes free. */
  #watch() {
    navigator.locks?.request(`halfbyte/${this.#prefix}`, () => this.lose('it was ended, by the page or by the browser (out of memory?)'));
  }
}

/**
 * The worker's end: `methods[call](args, { signal, emit, transfer })`. Those of `urgent` do not wait for what runs.
 */
export function serve(methods, urgent = {}) {
  const stops = new Map();
  let queue = Promise.resolve();
  let fatal = null;

  async function run({ id, call, args }) {
    const signal = stops.get(id).signal;
    try {
      if (fatal) throw fatal;
      const transfer = [];
      const result = await (urgent[call] ?? methods[call])(args, { signal, emit: (event) => postMessage({ id, event }), transfer, id });
      postMessage({ id, result }, transfer);
    } catch (thrown) {
      // After a trap the engine's memory cannot be trusted.
      if (thrown instanceof WebAssembly.RuntimeError) fatal = thrown;
      const error = signal.aborted ? aborted() : asError(thrown);
      postMessage({ id, error: { kind: error.kind, message: error.message, fatal: fatal !== null } });
    } finally {
      stops.delete(id);
    }
  }

  addEventListener('message', ({ data }) => {
    if (data.life) {
      const alive = () => postMessage({ life: data.life });
      if (!navigator.locks) return alive();
      navigator.locks.request(`halfbyte/${data.life}`, () => (alive(), new Promise(() => {})));
    } else if (data.cancel) {
      stops.get(data.id)?.abort(aborted());
    } else {
      stops.set(data.id, new AbortController());
      if (data.call in urgent) run(data);
      else queue = queue.then(() => run(data));
    }
  });
}

/** Lets waiting messages in, at most every 16 ms, so that a busy worker can be stopped. */
export function breather() {
  const { port1, port2 } = new MessageChannel();
  let last = performance.now();
  let wake = null;
  port1.onmessage = () => wake();
  return () => {
    const now = performance.now();
    if (now - last < 16) return null;
    last = now;
    return new Promise((resolve) => {
      wake = resolve;
      port2.postMessage(null);
    });
  };
}
