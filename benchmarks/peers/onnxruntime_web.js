// The model of compare_onnxruntime_web.py in a page, on onnxruntime-web's WebGPU backend. Keys and values stay on the
// GPU; the last token's logits are read back and the host takes the largest, as transformers.js does it.

import { InferenceSession, Tensor } from '/node_modules/onnxruntime-web/dist/ort.webgpu.bundle.min.mjs';

let session;

export async function load(url) {
  session = await InferenceSession.create(url, { executionProviders: ['webgpu'], preferredOutputLocation: 'gpu-buffer' });
}

/** Reads tokens after those that `cache` holds: the likeliest next one, and the cache with them. */
async function step(tokens, cache) {
  const length = cache.length + tokens.length;
  const { logits, ...present } = await session.run({
    ...cache.past,
    tokens: new Tensor('int64', BigInt64Array.from(tokens, BigInt), [1, tokens.length]),
    last_key: new Tensor('int32', [length - 1], [1]),
    keys: new Tensor('int32', [length], [1]),
  });
  clear(cache);
  const past = Object.entries(present).map(([name, tensor]) => [name.replace('present', 'past'), tensor]);
  return [argmax(await logits.getData(true)), { length, past: Object.fromEntries(past) }];
}

function empty() {
  const inputs = session.inputMetadata.filter(({ name }) => name.startsWith('past'));
  const past = inputs.map(({ name, type, shape }) => [name, new Tensor(type, [], shape.with(2, 0))]);
  return { length: 0, past: Object.fromEntries(past) };
}

const clear = (cache) => Object.values(cache.past).forEach((tensor) => tensor.dispose());

function argmax(logits) {
  if (!logits.every(Number.isFinite)) throw new Error('onnxruntime-web: logits that are not finite');
  return logits.reduce((best, value, i) => (value > logits[best] ? i : best), 0);
}

/** What the model writes after a prompt, and the tokens a second of both. */
export async function generate(prompt, count) {
  const start = performance.now();
  let [token, cache] = await step(prompt, empty());
  const middle = performance.now();
  const tokens = [];
  for (let i = 0; i < count; i++) {
    tokens.push(token);
    [token, cache] = await step([token], cache);
  }
  const end = performance.now();
  clear(cache);
  return { tokens, prefill: (1000 * prompt.length) / (middle - start), decode: (1000 * count) / (end - middle) };
}
