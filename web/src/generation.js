import { asError } from './errors.js';

/** Text as it comes; see index.d.ts. `start(onEvent, signal)` runs the call and gives its summary. */
export class Generation {
  #pieces = [];
  #ended = false;
  #error = null;
  #news = deferred();
  #stop = new AbortController();

  constructor(start, signal) {
    const cancel = () => this.cancel();
    if (signal?.aborted) cancel();
    signal?.addEventListener('abort', cancel);
    this.summary = start((piece) => this.#push(piece), this.#stop.signal).finally(() => signal?.removeEventListener('abort', cancel));
    this.summary.then(() => this.#end(), (error) => this.#end(asError(error)));
  }

  #notify() {
    const { resolve } = this.#news;
    this.#news = deferred();
    resolve();
  }

  #push(piece) {
    this.#pieces.push(piece);
    this.#notify();
  }

  #end(error = null) {
    this.#error = error;
    this.#ended = true;
    this.#notify();
  }

  cancel() {
    this.#stop.abort();
  }

  async text() {
    await this.summary;
    return this.#pieces.join('');
  }

  async *[Symbol.asyncIterator]() {
    try {
      for (let next = 0; ;) {
        if (next < this.#pieces.length) yield this.#pieces[next++];
        else if (this.#error) throw this.#error;
        else if (this.#ended) return;
        else await this.#news.promise;
      }
    } finally {
      this.cancel(); // of no effect at the end
    }
  }
}

function deferred() {
  let resolve;
  const promise = new Promise((done) => (resolve = done));
  return { promise, resolve };
}
