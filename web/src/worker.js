// The worker: owns the engine, answers the page's calls one after the other.

import init, * as core from './halfbyte_core.js';
import { browser, loseDevices, survey } from './adapter.js';
import { HalfbyteError, check } from './errors.js';
import { meter } from './progress.js';
import { breather, serve } from './rpc.js';
import { open, openAdapter } from './sources/open.js';

const breathe = breather();
const models = new Map();
let engine = null;
/** Of the call that runs: a lost device is set up again in whichever comes next. */
let running;

/** Compiles the engine at the first call. */
function ready() {
  const url = new URL('./halfbyte_core_bg.wasm', import.meta.url);
  engine ??= init({ module_or_path: url }).catch((error) => {
    engine = null;
    throw new HalfbyteError('Missing', `${url}: the engine did not load (${error.message}); it must lie beside worker.js, be served as application/wasm, and a Content-Security-Policy must allow 'wasm-unsafe-eval'`);
  });
  return engine;
}

/** The GPU, or the CPU where there is none and none is insisted on: `{ device, options, missing }`. */
async function openDevice({ adapter = 'auto', limits = 'adapter', without = [], activations = 'f32' }) {
  await ready();
  const open = async (adapter, info) => {
    const options = { adapter, limits, without, activations, info };
    return { device: await core.Device.open(JSON.stringify(options)), options };
  };
  if (adapter === 'cpu') return open('cpu', null);
  const { info, missing } = await survey({ adapter, without });
  if (!info && adapter !== 'auto') throw new HalfbyteError('AdapterMissing', missing);
  if (!info) return { ...(await open('cpu', null)), missing };
  try {
    return await open(adapter === 'auto' ? 'gpu' : adapter, info);
  } catch (error) {
    if (adapter !== 'auto' || error.kind !== 'AdapterMissing') throw error;
    return { ...(await open('cpu', null)), missing: error.message };
  }
}

/** For the core's callbacks: whether to go on. Lets the page's messages in now and then. */
function goOn(signal) {
  const pause = breathe();
  return pause ? pause.then(() => !signal.aborted) : !signal.aborted;
}

const report = (json, missing) => ({ ...JSON.parse(json), ...(missing && { missing }) });

function memoryOf({ model, engine }) {
  return { ...JSON.parse(model.memory()), wasm: engine.memory.buffer.byteLength };
}

async function verify(target, quick, adapter, signal, emit) {
  const tell = meter((progress) => emit({ progress }));
  const begin = performance.now();
  let done = 0;
  const outcomes = JSON.parse(await target.verify((json) => {
    emit({ outcome: JSON.parse(json) });
    tell({ stage: 'verify', done: ++done });
    return goOn(signal);
  }, quick));
  return { adapter, pass: outcomes.every(({ pass }) => pass), outcomes, seconds: (performance.now() - begin) / 1000 };
}

const methods = {
  async adapter(options) {
    const { device, missing } = await openDevice(options);
    try {
      return report(device.report(), missing);
    } finally {
      device.free();
    }
  },

  async load({ source, options }, { signal, emit, id }) {
    const tell = meter((progress) => emit({ progress }));
    const { device, options: deviceOptions, missing } = await openDevice(options);
    let opened;
    try {
      const context = { core, signal, running: () => running, tell, breathe };
      opened = await open(source, options, context);
      const { precision = 'auto', activations = 'f32', quantize } = options;
      const files = [...opened.files];
      const adapters = [];
      for (const { source, name, weight = 1 } of options.adapters ?? []) {
        const own = await openAdapter(source, context);
        files.push(...own);
        adapters.push({ name, weight, files: own.length });
      }
      const settings = JSON.stringify({ context: options.context, precision, activations, quantize, adapters, device: deviceOptions });
      const model = await core.Model.load(device, files, settings, (stage, done, total) => {
        tell({ stage, done, total });
        return goOn(signal);
      });
      const entry = { model, device, missing, release: opened.release, engine: await engine };
      models.set(id, entry);
      const { cached, note, prompt } = opened;
      const info = { ...JSON.parse(model.info()), memory: memoryOf(entry), cached, ...(note && { note }), ...(prompt && { prompt }) };
      return { handle: id, info, adapter: report(model.adapter(), missing) };
    } catch (error) {
      opened?.release();
      device.free();
      throw error;
    }
  },

  async generate({ handle, request }, { signal, emit }) {
    const { model, missing } = at(handle);
    const tell = meter((progress) => emit({ progress }));
    const summary = JSON.parse(await model.generate(JSON.stringify(request), (type, text, done, total) => {
      if (type === 'piece') emit({ piece: text });
      else if (type === 'progress') tell({ stage: text, done, total });
      return goOn(signal);
    }));
    return { summary, adapter: summary.recoveries ? report(model.adapter(), missing) : undefined };
  },

  setAdapterWeights: async ({ handle, weights }) => JSON.parse(await at(handle).model.setAdapterWeights(JSON.stringify(weights))),
  tokenize: ({ handle, text, special }) => at(handle).model.tokenize(text, special),
  detokenize: ({ handle, tokens }) => at(handle).model.detokenize(Uint32Array.from(tokens)),

  async perplexity({ handle, text }, { signal, emit }) {
    const tell = meter((progress) => emit({ progress }));
    return JSON.parse(await at(handle).model.perplexity(text, (done, total) => {
      tell({ stage: 'prompt', done, total });
      return goOn(signal);
    }));
  },

  async bench({ handle, options }, { signal, emit }) {
    const tell = meter((progress) => emit({ progress }));
    const wanted = JSON.stringify({ ...options, browser: browser() });
    return JSON.parse(await at(handle).model.bench(wanted, (done, total) => {
      tell({ stage: 'bench', done, total });
      return goOn(signal);
    }));
  },

  verify({ handle, quick }, { signal, emit }) {
    const { model, missing } = at(handle);
    return verify(model, quick, report(model.adapter(), missing), signal, emit);
  },

  memory: ({ handle }) => memoryOf(at(handle)),
  reset: ({ handle }) => at(handle).model.reset(),

  close({ handle }) {
    const { model, device, release } = at(handle);
    models.delete(handle);
    model.free();
    device.free();
    release();
  },
};

function at(handle) {
  const entry = models.get(handle);
  if (!entry) throw new HalfbyteError('Invalid', 'this model was closed; load it again');
  return entry;
}

serve(Object.fromEntries(Object.entries(methods).map(([name, method]) => [name, async (args, call) => {
  check(call.signal);
  running = call.signal;
  return method(args, call);
}])), { loseDevice: loseDevices });
