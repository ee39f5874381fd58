/** Every error of this package: `kind` for programs, `message` for people. */
export class HalfbyteError extends Error {
  constructor(kind, message) {
    super(message);
    this.name = 'HalfbyteError';
    this.kind = kind;
  }
}

export const aborted = () => new HalfbyteError('Aborted', 'stopped, as asked');

/** Throws when a signal says stop. */
export function check(signal) {
  if (signal?.aborted) throw aborted();
}

/** Whatever was thrown, as an error of this package. */
export function asError(thrown) {
  if (thrown instanceof HalfbyteError) return thrown;
  // The core throws plain errors with a kind; they cross a worker as objects.
  if (thrown?.kind) return new HalfbyteError(thrown.kind, thrown.message);
  if (thrown?.name === 'AbortError') return aborted();
  if (thrown instanceof WebAssembly.RuntimeError) {
    return new HalfbyteError('WorkerLost', `the engine stopped for good: ${thrown.message}; load the model again (a bug: please report it)`);
  }
  if (thrown instanceof RangeError && /memory|allocat|array buffer/i.test(thrown.message)) {
    return new HalfbyteError('OutOfMemory', `no memory left: ${thrown.message}; close other tabs, or take a smaller model or context`);
  }
  return new HalfbyteError('Gpu', String(thrown?.message ?? thrown));
}

/** 1536 → `1.5 KiB`. */
export function bytes(count) {
  const unit = count < 1024 ? 0 : Math.min(4, Math.floor(Math.log2(count) / 10));
  const number = count / 1024 ** unit;
  return `${number >= 100 || unit === 0 ? Math.round(number) : number.toFixed(1)} ${['bytes', 'KiB', 'MiB', 'GiB', 'TiB'][unit]}`;
}
