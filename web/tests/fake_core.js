// Stands in for halfbyte_core.js where a test is about files, workers and messages: it reads a model's files to their
// end, remembers a checksum, and writes words.

export default async function init() {
  return { memory: { buffer: new ArrayBuffer(1 << 16) } };
}
export const version = () => '0.1.0';

const fail = (kind, message) => Object.assign(new Error(message), { kind });
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Device {
  static async open(options) {
    return Object.assign(new Device(), { options: JSON.parse(options) });
  }
  report() {
    const { adapter, info } = this.options;
    return JSON.stringify({
      cpu: adapter === 'cpu', name: info?.architecture ?? 'cpu', backend: 'fake', kind: info?.fallback ? 'software' : 'other', driver: '',
      capabilities: { f16: false, subgroups: info?.subgroups ?? null, dot4: false, software: true, max_binding: 1, max_buffer: 1, workgroup_bytes: 1, invocations: 1, memory_budget: null },
    });
  }
  free() {}
}

export class Model {
  static async load(device, files, options, onProgress) {
    const { device: asked, adapters, activations, context } = JSON.parse(options);
    const total = files.reduce((sum, { size }) => sum + size, 0);
    const model = Object.assign(new Model(), { device, files, asked, adapters, activations, context: [] });
    let done = 0;
    model.sums = {};
    for (const file of files) {
      let sum = 0;
      for (let at = 0; at < file.size;) {
        const end = Math.min(file.size, at + (3 << 20));
        const bytes = await file.read(at, end);
        if (bytes.length !== end - at) throw fail('Corrupt', `${file.name}: asked for ${end - at} bytes, got ${bytes.length}`);
        for (let i = 0; i < bytes.length; i++) sum = (Math.imul(sum, 31) + bytes[i]) | 0;
        at = end;
        done += bytes.length;
        // A context of one token: it reads until it is stopped.
        while (context === 1 && (await onProgress('weights', done, total))) await sleep(5);
        if (context === 1 || !(await onProgress('weights', done, total))) throw fail('Aborted', 'stopped');
      }
      model.sums[file.name] = sum;
    }
    return model;
  }
  info() {
    return JSON.stringify({
      name: 'fake', format: 'FAKE', architecture: 'llama', layers: 1, hidden: 1, heads: 1, kvHeads: 1, vocabulary: 256, context: 64, parameters: 1,
      bitsPerWeight: 4, chat: this.files.some(({ name }) => name.includes('chat')), tensors: [], memory: { weights: 1, kv: 1, gpu: 2 }, sums: this.sums,
      adapters: this.adapters, activations: this.activations,
    });
  }
  async setAdapterWeights(weights) {
    for (const [name, weight] of Object.entries(JSON.parse(weights))) {
      const adapter = this.adapters.find((adapter) => adapter.name === name);
      if (!adapter) throw fail('Invalid', `adapter: found ${name}`);
      adapter.weight = weight;
    }
    return JSON.stringify(this.adapters);
  }
  adapter() {
    return this.device.report();
  }
  async generate(request, onEvent) {
    const { text, messages, tokens, maxTokens = 1e9, stop = [], seed } = JSON.parse(request);
    if (text === 'trap') throw new WebAssembly.RuntimeError('unreachable');
    if (text === 'uncaught') {
      // A panic inside a future: its promise never settles.
      setTimeout(() => { throw new WebAssembly.RuntimeError('unreachable'); });
      return new Promise(() => {});
    }
    if (text === 'throw') throw fail('ContextFull', 'the prompt has 9 tokens but the context holds 8: shorten it');
    if (text === 'read') await this.files[0].read(0, 10);
    const prompt = tokens ?? [...(text ?? messages.map(({ content }) => content).join('|'))].map((c) => c.codePointAt(0));
    const summary = (finishReason, out) => JSON.stringify({ promptTokens: prompt, tokens: out, finishReason, prefillTokensPerSecond: 1, decodeTokensPerSecond: 1, seed, recoveries: 0 });
    await onEvent('progress', 'prompt', prompt.length, prompt.length);
    const out = [];
    while (out.length < Math.min(maxTokens, text === 'few' ? 3 : 1e9)) {
      // A busy CPU: nothing but the callback lets messages in.
      for (const until = performance.now() + 3; performance.now() < until;);
      const piece = `w${out.length} `;
      if (stop.some((word) => piece.includes(word))) return summary('stop', out);
      out.push(out.length);
      if (!(await onEvent('piece', piece, 0, 0))) return summary('cancelled', out);
    }
    return summary(text === 'few' && out.length < maxTokens ? 'stop' : 'length', out);
  }
  tokenize(text, special) {
    return Uint32Array.from([...(special ? [1] : []), ...new TextEncoder().encode(text)]);
  }
  detokenize(tokens) {
    return new TextDecoder().decode(Uint8Array.from(tokens));
  }
  async perplexity(text, onProgress) {
    for (let i = 1; i <= 10; i++) if (!(await onProgress(i, 10))) throw fail('Aborted', 'stopped');
    return JSON.stringify({ perplexity: 2, nll: Math.log(2), tokens: text.length });
  }
  async bench(options, onProgress) {
    await onProgress(1, 1);
    const { browser, ...asked } = JSON.parse(options);
    return JSON.stringify({ schema_version: 2, halfbyte: version(), browser, adapters: [], asked });
  }
  async verify(onOutcome, quick) {
    const outcomes = (quick ? [1] : [1, 2, 3]).map((n) => ({ name: `k${n}`, codec: 'Q4_0', max_error: 0, tolerance: 1, pass: true }));
    for (const outcome of outcomes) {
      await sleep(1);
      if (!(await onOutcome(JSON.stringify(outcome)))) throw fail('Aborted', 'stopped');
    }
    return JSON.stringify(outcomes);
  }
  memory() {
    return JSON.stringify({ weights: 1, kv: 1, gpu: 2 });
  }
  reset() {}
  loseDevice() {}
  free() {}
}

const K = new Uint32Array(64);
const START = new Uint32Array(8);
for (let n = 2, found = 0; found < 64; n++) {
  if ([...Array(n).keys()].slice(2).some((d) => n % d === 0)) continue;
  const bits = (x) => Math.floor((x - Math.floor(x)) * 2 ** 32);
  if (found < 8) START[found] = bits(Math.sqrt(n));
  K[found++] = bits(Math.cbrt(n));
}

export class Sha256 {
  #state = START.slice();
  #rest = new Uint8Array(0);
  #length = 0;
  update(bytes) {
    this.#length += bytes.length;
    let all = bytes;
    if (this.#rest.length) {
      all = new Uint8Array(this.#rest.length + bytes.length);
      all.set(this.#rest);
      all.set(bytes, this.#rest.length);
    }
    const whole = all.length - (all.length % 64);
    for (let at = 0; at < whole; at += 64) this.#block(all, at);
    this.#rest = all.slice(whole);
  }
  #block(bytes, at) {
    const w = new Uint32Array(64);
    const view = new DataView(bytes.buffer, bytes.byteOffset + at, 64);
    const turn = (x, n) => (x >>> n) | (x << (32 - n));
    for (let i = 0; i < 16; i++) w[i] = view.getUint32(i * 4);
    for (let i = 16; i < 64; i++) {
      const [x, y] = [w[i - 15], w[i - 2]];
      w[i] = w[i - 16] + (turn(x, 7) ^ turn(x, 18) ^ (x >>> 3)) + w[i - 7] + (turn(y, 17) ^ turn(y, 19) ^ (y >>> 10));
    }
    let [a, b, c, d, e, f, g, h] = this.#state;
    for (let i = 0; i < 64; i++) {
      const t = (h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + K[i] + w[i]) | 0;
      const u = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + t) | 0, c, b, a, (t + u) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((x, i) => (this.#state[i] += x));
  }
  hex() {
    const length = this.#length;
    const tail = new Uint8Array(((length + 72) & ~63) - (length - (length % 64)) - (length % 64));
    tail[0] = 0x80;
    new DataView(tail.buffer).setUint32(tail.length - 4, (length * 8) >>> 0);
    new DataView(tail.buffer).setUint32(tail.length - 8, Math.floor((length * 8) / 2 ** 32));
    this.update(tail);
    return [...this.#state].map((x) => x.toString(16).padStart(8, '0')).join('');
  }
  free() {}
}

export function hubSource(text) {
  const match = /^hf:([\w.-]+\/[\w.-]+)(?:\/([^@]+))?(?:@(.+))?$/.exec(text);
  if (!match) throw fail('Invalid', `not a model of the hub: expected hf:owner/repo, found ${text}`);
  return JSON.stringify({ repo: match[1], file: match[2] ?? null, revision: match[3] ?? 'main' });
}
export const hubIndex = (source, names) => JSON.parse(names).find((name) => name === 'model.safetensors.index.json');
export function hubFiles(source, names, index) {
  const { file } = JSON.parse(hubSource(source));
  const all = JSON.parse(names);
  if (file) return JSON.stringify({ files: [file], open: file });
  const shards = index ? [...new Set(Object.values(JSON.parse(index).weight_map))] : [];
  const small = all.filter((name) => name.endsWith('.json') || name.endsWith('.jinja'));
  const weights = shards.length ? shards : all.filter((name) => /\.(gguf|safetensors)$/.test(name));
  if (!weights.length) throw fail('Missing', `${source} has no .safetensors and no .gguf file`);
  return JSON.stringify({ files: [...small, ...weights], open: null });
}
