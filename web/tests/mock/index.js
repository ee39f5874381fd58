// The package's interface with nothing behind it: for working on the page, and for its tests.
// `?mock=` takes, separated by commas: `cpu` (no GPU), `private` (no cache), `fast`, `failing` (a kernel that fails),
// `full` (nothing fits the cache), `boot-Kind` (the first load fails with that kind), `endless` (a text begins again
// until it is stopped), `hold` (a download half-way and a verification after one kernel stand still until `mockGo()`).
// Sources: `embedded`; `mock:chat`, `mock:mixed`, `mock:large` (or an `hf:` source with such a word in it);
// `hf:error/Kind` fails with that kind. A prompt with `!Kind` in it fails half-way.

const flags = new Set((new URLSearchParams(globalThis.location?.search).get('mock') ?? '').split(','));
const speed = flags.has('fast') ? 0.1 : 1;
let bootError = [...flags].find((f) => f.startsWith('boot-'))?.slice(5);

// Every state that the page was in, in order.
if (globalThis.document) {
  const { dataset } = document.documentElement;
  window.mockStates = [dataset.state];
  new MutationObserver((changes) => {
    window.mockStates.push(...changes.slice(1).map((change) => change.oldValue), dataset.state);
  }).observe(document.documentElement, { attributeFilter: ['data-state'], attributeOldValue: true });
}

export class HalfbyteError extends Error {
  constructor(kind, message) {
    super(message);
    this.name = 'HalfbyteError';
    this.kind = kind;
  }
}

const MESSAGES = {
  AdapterMissing: 'no GPU adapter answers: this browser has WebGPU, but its GPU is on the blocklist. Open chrome://flags/#enable-unsafe-webgpu, enable it and restart.',
  OutOfMemory: 'the adapter is out of memory: model.layers.17.mlp.down_proj: 141 MiB wanted after 5.2 GiB; choose a smaller model or a shorter context',
  DeviceLost: 'the GPU device was lost: the driver reset it; load the model again',
  Gpu: 'GPU error: matvec_int4.wgsl:41: this browser refuses the shader; that is a bug in halfbyte or in the driver',
  UnsupportedFormat: 'model.Q4_K_M.gguf: blk.0.attn_v.weight: a coding that halfbyte does not read: expected F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0, found Q6_K; take a Q4_0 or Q8_0 file',
  Corrupt: 'model.safetensors: the file ends early: expected 988097824 bytes, found 524288000; download it again',
  Missing: 'missing file config.json: expected beside model.safetensors; choose the whole folder',
  Invalid: 'the prompt is empty: a model without a beginning-of-text token needs at least one token',
  ContextFull: 'the prompt has 2051 tokens but the context holds 2048: shorten it or start anew',
  Network: 'model.gguf: the connection broke after 120 MB: the download goes on there when you try again',
  Quota: 'the browser grants 2.1 GB, of which 1.9 GB are used: 988 MB do not fit; delete a model or load without keeping it',
  Aborted: 'stopped',
  WorkerLost: 'the worker stopped: the browser ended it, mostly for want of memory; load the model again',
};
const fail = (kind) => new HalfbyteError(kind, MESSAGES[kind] ?? kind);

const go = new Promise((resolve) => (globalThis.mockGo = resolve));
const wait = (ms, signal, hold = false) => new Promise((resolve, reject) => {
  if (signal?.aborted) return reject(fail('Aborted'));
  const timer = hold && flags.has('hold') ? void go.then(done) : setTimeout(done, ms * speed);
  function done() {
    signal?.removeEventListener('abort', stop);
    resolve();
  }
  function stop() {
    clearTimeout(timer);
    reject(fail('Aborted'));
  }
  signal?.addEventListener('abort', stop, { once: true });
});

function adapterInfo({ adapter = 'auto', without = [], limits = 'adapter' } = {}) {
  const none = flags.has('cpu');
  if (none && (adapter === 'gpu' || adapter === 'low-power')) throw fail('AdapterMissing');
  if (none || adapter === 'cpu') {
    return {
      cpu: true, name: 'CPU', backend: 'cpu', kind: 'twin', driver: '',
      capabilities: { f16: false, subgroups: null, dot4: false, software: true, max_binding: 2 ** 32, max_buffer: 2 ** 32, workgroup_bytes: 16384, invocations: 1, memory_budget: null },
      ...(none && { missing: 'This browser has no WebGPU. In Chrome on Linux, open chrome://flags/#enable-unsafe-webgpu, choose “Enabled” and restart; in Firefox, set dom.webgpu.enabled in about:config. Until then the model runs on the CPU, one core.' }),
    };
  }
  const floor = limits === 'floor';
  return {
    cpu: false, name: 'NVIDIA GeForce RTX 4070', backend: 'webgpu', kind: 'discrete', driver: 'Ada Lovelace',
    capabilities: {
      f16: !without.includes('f16') && !floor, subgroups: without.includes('subgroups') || floor ? null : [32, 32], dot4: !without.includes('dot4') && !floor,
      software: false, max_binding: floor ? 2 ** 27 : 2 ** 31 - 4, max_buffer: floor ? 2 ** 28 : 2 ** 32, workgroup_bytes: floor ? 16384 : 32768, invocations: floor ? 256 : 1024, memory_budget: null,
    },
  };
}

const DISK = { 'int4 g32 z8': ['Q4_0', 4.5], 'int8 g32 z128': ['Q8_0', 8.5], 'int5 g32 z16': ['Q5_0', 5.5], 'int2 g64 zeros': ['GPTQ', 2.28], 'int3 g128 zeros': ['GPTQ', 3.15], 'int4 g128 zeros': ['GPTQ', 4.16], 'nf4 b64 double': ['bitsandbytes NF4', 4.13], e8p12: ['QuIP#', 2.0], f16: ['F16', 16], bf16: ['BF16', 16], f32: ['F32', 32] };

function tensors({ layers, hidden, kv, ffn, vocabulary, head, pick, fused }) {
  const list = [];
  const add = (name, codec, shape, transform = 'none') => {
    const [format, bits] = DISK[codec ?? 'f32'];
    const bytes = shape.reduce((a, b) => a * b, 1) * bits / 8;
    list.push({ name, format, codec, shape, bits_per_weight: bits, bits_per_weight_disk: bits, bytes, bytes_gpu: bytes, transform });
  };
  add('model.embed_tokens', pick(-1, 'embed'), [vocabulary, hidden]);
  for (let l = 0; l < layers; l++) {
    const at = `model.layers.${l}.`;
    const t = fused ? 'hadamard' : pick(l, 'q').includes('zeros') ? 'permuted' : 'none';
    const parts = fused
      ? { 'self_attn.qkv': [hidden + 2 * kv, hidden], 'self_attn.o': [hidden, hidden], 'mlp.upgate': [2 * ffn, hidden], 'mlp.down': [hidden, ffn] }
      : { 'self_attn.q': [hidden, hidden], 'self_attn.k': [kv, hidden], 'self_attn.v': [kv, hidden], 'self_attn.o': [hidden, hidden], 'mlp.gate': [ffn, hidden], 'mlp.up': [ffn, hidden], 'mlp.down': [hidden, ffn] };
    for (const [part, shape] of Object.entries(parts)) add(`${at}${part}_proj`, pick(l, part.split('.')[1]), shape, t);
    add(`${at}input_layernorm.weight`, null, [hidden]);
    add(`${at}post_attention_layernorm.weight`, null, [hidden]);
  }
  add('model.norm.weight', null, [hidden]);
  if (head) add('lm_head', pick(-1, 'head'), [vocabulary, hidden]);
  return list;
}

const MODELS = {
  embedded: { name: 'tale.gguf', format: 'GGUF', architecture: 'llama', layers: 6, hidden: 256, heads: 8, kvHeads: 4, vocabulary: 4096, context: 1024, prompt: 'Once upon a time', shape: { kv: 128, ffn: 768, pick: (l) => (l < 0 ? 'int8 g32 z128' : 'int4 g32 z8') } },
  chat: { name: 'Qwen2.5-0.5B-Instruct', format: 'GPTQ', architecture: 'qwen2', layers: 24, hidden: 896, heads: 14, kvHeads: 2, vocabulary: 151936, context: 2048, chat: true, shape: { kv: 128, ffn: 4864, pick: (l) => (l < 0 ? 'bf16' : 'int4 g128 zeros') } },
  mixed: { name: 'Mistral-7B-mixed', format: 'GPTQ', architecture: 'mistral', layers: 32, hidden: 4096, heads: 32, kvHeads: 8, vocabulary: 32000, context: 2048, chat: true, shape: { kv: 1024, ffn: 14336, head: true, pick: (l, p) => (l < 0 ? (p === 'head' ? 'int8 g32 z128' : 'f16') : p === 'v' || p === 'k' ? 'int8 g32 z128' : l < 2 || l > 29 ? 'nf4 b64 double' : p === 'down' && l % 3 === 0 ? 'int4 g128 zeros' : p === 'gate' || p === 'up' ? 'int2 g64 zeros' : 'int3 g128 zeros') } },
  large: { name: 'Llama-2-70b-E8P-2Bit', format: 'QuIP#', architecture: 'llama', layers: 80, hidden: 8192, heads: 64, kvHeads: 8, vocabulary: 32000, context: 2048, shape: { kv: 1024, ffn: 28672, head: true, fused: true, pick: (l) => (l < 0 ? 'f16' : 'e8p12') } },
};

const STORY = ', there was a little girl named Lily. She had a big, red ball that she loved to play with. One day, Lily’s mom gave her a small box. “Open it when the moon is up,” she said, and Lily promised to wait.\n\nWhen the evening came, Lily sat down by the window and held the box in both hands. She could hear something inside it, something that hummed very softly, like a bee that is thinking. The moon rose over the hill. Lily opened the box, and out came a tiny light that danced on the tip of her nose.\n\n“I am half of a star,” said the light. “The other half is looking for me.” So Lily put on her boots and went to the hill, and the light showed her the way. At the top, under the old tree, sat another small light, and it was crying. When the two saw each other they jumped into the air and became one bright star.\n\nLily waved until it was far away. Then she went home, and she was very happy, and she slept all night long.';
const ANSWER = 'A **nibble** is half a byte: four bits, so it can take *sixteen* values.\n\nThat is exactly what a 4-bit weight is:\n\n1. take a group of 32 weights,\n2. keep one scale for all of them,\n3. store each weight as a number from 0 to 15.\n\nDecoding is one line:\n\n```wgsl\nfn decode(code: u32, scale: f32) -> f32 {\n    return (f32(code) - 8.0) * scale;\n}\n```\n\n- Smaller: 4.5 bits rather than 16.\n- Faster: a token reads every weight once, and `bytes / second` is the limit.\n\nAsk me for more <b>if you like</b>.';

class Generation {
  #iterator;
  #controller = new AbortController();
  constructor(model, prompt, options) {
    let settle;
    this.summary = new Promise((resolve) => (settle = resolve));
    options.signal?.addEventListener('abort', () => this.cancel(), { once: true });
    if (options.signal?.aborted) this.cancel();
    this.#iterator = this.#run(model, prompt, options, settle);
  }
  async *#run(model, prompt, options, settle) {
    const chat = Array.isArray(prompt) && typeof prompt[0] === 'object';
    const text = chat ? prompt.at(-1).content : String(prompt);
    const kind = /!([A-Z]\w+)/.exec(text)?.[1];
    let pieces = (chat ? `${ANSWER}\n\n(You said: ${text})` : text.length > 60 ? ' And then another day began, and everything was quiet.' : STORY).match(/\s*[^\s]{1,6}/g);
    const seed = options.seed ?? Math.floor(Math.random() * 2 ** 31);
    const max = options.maxTokens || Infinity;
    let finishReason = pieces.length > max ? 'length' : 'stop';
    pieces = pieces.slice(0, max);
    const tokens = [];
    const start = performance.now();
    try {
      for (let done = 0; done <= 4; done++) {
        options.onProgress?.({ stage: 'prompt', done, total: 4 });
        await wait(20, this.#controller.signal);
      }
      do for (const piece of pieces) {
        await wait(22 + Math.random() * 16, this.#controller.signal);
        if (kind && tokens.length > 12) throw fail(kind);
        tokens.push(tokens.length);
        yield piece;
      } while (flags.has('endless'));
    } catch (error) {
      if (error.kind !== 'Aborted' || kind === 'Aborted') throw error;
      finishReason = 'cancelled';
    } finally {
      if (tokens.length < pieces.length) finishReason = 'cancelled';
      const seconds = (performance.now() - start) / 1000;
      settle({ promptTokens: text.split(' ').map((_, i) => i), tokens, finishReason, prefillTokensPerSecond: 1520.4, decodeTokensPerSecond: tokens.length / seconds, seed: options.temperature === 0 ? null : seed, recoveries: text.includes('!recover') ? 1 : 0 });
    }
  }
  [Symbol.asyncIterator]() {
    return this.#iterator;
  }
  cancel() {
    this.#controller.abort();
  }
  async text() {
    let text = '';
    for await (const piece of this) text += piece;
    return text;
  }
}

class Model {
  #closed = false;
  constructor(key, adapter, options) {
    const { shape, ...rest } = MODELS[key];
    const list = tensors({ ...rest, ...shape });
    const size = (t) => t.shape.reduce((a, b) => a * b, 1);
    const matrices = list.filter((t) => t.codec);
    const parameters = list.reduce((n, t) => n + size(t), 0);
    const weights = list.reduce((n, t) => n + t.bytes_gpu, 0);
    const context = options.context ?? rest.context;
    const kv = context * rest.layers * shape.kv * 2 * 2;
    this.adapter = adapter;
    this.info = { chat: false, ...rest, context, parameters, tensors: list, bitsPerWeight: matrices.reduce((n, t) => n + t.bytes_gpu * 8, 0) / matrices.reduce((n, t) => n + size(t), 0), memory: { weights, kv, gpu: weights + kv + 4e6, wasm: 24e6 }, cached: null };
  }
  generate(prompt, options = {}) {
    return new Generation(this, prompt, options);
  }
  async tokenize(text) {
    return Uint32Array.from(text.split(' '), (_, i) => i);
  }
  async detokenize(tokens) {
    return [...tokens].join(' ');
  }
  async perplexity() {
    return { perplexity: 7.6, nll: 2.03, tokens: 100 };
  }
  async verify({ signal, onProgress, onOutcome } = {}) {
    const outcomes = [];
    const codecs = Object.keys(DISK);
    const cases = ['gather', 'matvec', 'matmul'].flatMap((name) => codecs.map((codec) => [name, codec]));
    cases.push(...['rms_norm', 'silu', 'softmax', 'argmax', 'hadamard'].map((name) => [name, 'f32']), ['rope', 'f32 cache'], ['rope', 'f16 cache'], ['attention', 'f32 cache'], ['attention', 'f16 cache']);
    for (const [i, [name, codec]] of cases.entries()) {
      await wait(60, signal, i === 1);
      const tolerance = codec.startsWith('f16 c') ? 2e-3 : 1e-5;
      const bad = flags.has('failing') && i % 17 === 9;
      const broken = flags.has('failing') && i === 20;
      const outcome = { name, codec, max_error: broken ? 0 : name === 'argmax' || name === 'gather' ? 0 : bad ? 0.04 : tolerance * 10 ** (-2.5 + 2.2 * Math.abs(Math.sin(i))), tolerance, pass: !bad && !broken, ...(broken && { problem: 'GPU error: the pipeline did not compile' }) };
      outcomes.push(outcome);
      onOutcome?.(outcome);
      onProgress?.({ stage: 'verify', done: i + 1, total: cases.length, name: `${name} ${codec}` });
    }
    return { adapter: this.adapter, pass: outcomes.every((o) => o.pass), outcomes, seconds: 2.4 };
  }
  async bench({ signal, onProgress, prompt = 128, generate = 64, runs = 5 } = {}) {
    for (let i = 0; i <= 12; i++) {
      onProgress?.({ stage: 'bench', done: i, total: 12 });
      await wait(150, signal);
    }
    const { weights, kv } = this.info.memory;
    const { cpu } = this.adapter;
    const spread = (median, min, max) => ({ median, min, max, runs, noise: 0.02 });
    return {
      schema_version: 2, halfbyte: '0.1.0', commit: null, time: 1.8e9, system: 'unknown wasm32',
      browser: navigator.userAgent.match(/(Firefox|Chrome)\/\d+/)?.[0].replace('/', ' ') ?? 'browser',
      adapters: [{
        adapter: this.adapter, limits: 'adapter', without: [],
        probe: cpu ? { copy_bytes_per_s: null, f32_flop_per_s: null, f16_flop_per_s: null, int8_op_per_s: null } : { copy_bytes_per_s: 412e9, f32_flop_per_s: 26e12, f16_flop_per_s: 51e12, int8_op_per_s: 95e12 },
        models: [{
          name: this.info.name, random: false, architecture: 'llama', format: this.info.format, parameters: this.info.parameters, bits_per_weight: this.info.bitsPerWeight, cache: 'f16', context: 1024, load_s: 0.2, first_token_s: 0.05,
          prefill: [{ tokens: prompt, tokens_per_s: spread(2210.5, 2101, 2289), first_token_s: 0.058, flop_per_s: 2.5e10, of_f32_rate: cpu ? null : 0.001 }],
          decode: [{ depth: 0, tokens: generate, tokens_per_s: spread(148.2, 141.7, 151.3), bytes_per_token: weights, bytes_per_s: weights * 148.2, of_copy_bandwidth: cpu ? null : 0.61, flop_per_s: 1.7e9 }],
          skipped: [], decode_kernels: null, prefill_kernels: null, dispatches: 173, memory: { weights_bytes_disk: weights, weights_bytes_gpu: weights, kv_bytes: kv }, device_bytes: weights + kv,
          agreement: cpu ? null : { tokens: 8, layers: 6, of_layers: 6, max_relative_error: 2e-5, same_argmax: 1 },
        }],
      }],
    };
  }
  async memory() {
    return this.info.memory;
  }
  async reset() {}
  async loseDevice() {}
  async close() {
    this.#closed = true;
  }
}

let cached = [
  { id: 'a1', source: 'hf:Qwen/Qwen2.5-0.5B-Instruct-GPTQ-Int4@main-chat', bytes: 461e6, total: 461e6, complete: true, files: ['model.safetensors', 'config.json'], used: Date.now() - 36e5 },
  { id: 'b2', source: 'hf:HuggingFaceTB/SmolLM2-360M-Instruct-GGUF@mixed', bytes: 120e6, total: 386e6, complete: false, files: ['smollm2-360m-instruct-q8_0.gguf'], used: Date.now() - 864e5 * 3 },
];

export const Halfbyte = {
  version: '0.1.0',
  async adapter(options) {
    return adapterInfo(options);
  },
  async load(source, options = {}) {
    globalThis.mockLoads = [...(globalThis.mockLoads ?? []), { source, options }];
    const { onProgress, signal } = options;
    const entry = cached.find((m) => m.id === source?.cached);
    const text = typeof source === 'string' || source instanceof URL ? String(source) : entry?.source ?? 'chat files';
    const kind = /error\/(\w+)/.exec(text)?.[1] ?? bootError;
    bootError = undefined;
    if (kind === 'AdapterMissing' && options.adapter !== 'cpu') throw fail(kind);
    if (flags.has('full') && /^hf:/.test(text) && options.cache !== false) throw fail('Quota');
    const adapter = adapterInfo(options);
    const key = text === 'embedded' ? 'embedded' : /mixed|Mistral/.test(text) ? 'mixed' : /large|70b/.test(text) ? 'large' : 'chat';
    const stages = key === 'embedded' ? [] : [['download', 461e6, 40], ['check', 461e6, 6]];
    stages.push(['weights', key === 'embedded' ? 3.9e6 : 461e6, key === 'embedded' ? 3 : 12], ['kernels', 21, key === 'embedded' ? 7 : 12]);
    for (const [stage, total, steps] of stages) {
      for (let i = 0; i <= steps; i++) {
        if (kind && i === Math.min(steps, 9)) throw fail(kind);
        onProgress?.({ stage, done: Math.round(total * i / steps), total, name: stage === 'kernels' ? 'matvec int4 g32' : 'model.safetensors', ...(i > 2 && stage !== 'kernels' && { perSecond: total / steps * 20, secondsLeft: (steps - i) / 20 }) });
        await wait(45, signal, stage === 'download' && i === steps / 2);
      }
    }
    return new Model(key, adapter, options);
  },
  cache: {
    unavailable: async () => (flags.has('private') ? 'This is a private window: the browser keeps nothing, so models are downloaded anew each time.' : null),
    list: async () => cached,
    delete: async (id) => void (cached = cached.filter((m) => m.id !== id)),
    clear: async () => void (cached = []),
    estimate: async () => ({ usage: cached.reduce((n, m) => n + m.bytes, 1e6), quota: 2.1e9 }),
  },
};

export async function droppedFiles(data) {
  return [...data.files];
}
