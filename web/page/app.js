// What the page is doing: one model, one thing at a time, and what is shown of it.

import { Halfbyte, HalfbyteError, droppedFiles } from '../halfbyte/index.js';
import { announce } from './dom.js';
import { showError } from './errors.js';
import { hideProgress, showProgress } from './progress.js';

export { Halfbyte, droppedFiles };

/** The parameters of the address; the list in main.js says what they do. */
export const params = new URLSearchParams(location.search);

export const app = {
  /** The model that is ready, if one is. */
  model: null,
  adapter: null,
  /** `loading`, `ready`, `generating`, `verifying`, `benchmarking` or `error`. */
  state: 'loading',
  /** Source, options and label of the model, or of the last one that worked. */
  loaded: null,
  /** How loading went wrong, if it did: what to try again. */
  failed: null,
  task: null,
};

const listeners = [];
/** Calls `listener` whenever the state or the model changes. */
export function onChange(listener) {
  listeners.push(listener);
}

export function setState(state) {
  app.state = state;
  document.documentElement.dataset.state = state;
  for (const listener of listeners) listener(app);
}

export const busy = () => app.task !== null;

/** Stops what runs, and waits until it has stopped. */
export async function stop() {
  while (app.task) {
    app.task.controller.abort();
    await app.task.done;
  }
}

/**
 * Runs `action(signal)` as the one thing that runs, after stopping what ran. An error is shown and swallowed: the
 * result is then undefined.
 */
export async function run(state, action) {
  if (app.task) app.task.replaced = true;
  await stop();
  const controller = new AbortController();
  let end;
  const task = { state, controller, replaced: false, done: new Promise((resolve) => (end = resolve)) };
  app.task = task;
  setState(state);
  let failure;
  try {
    return await action(controller.signal);
  } catch (error) {
    failure = error;
  } finally {
    app.task = null;
    hideProgress();
    // Who stops a load is told how to go on with it, unless something else is loading already.
    if (failure && (failure.kind !== 'Aborted' || (state === 'loading' && !task.replaced))) showError(failure, state);
    // A page without a model cannot do anything.
    setState((failure && failure.kind !== 'Aborted') || !app.model ? 'error' : 'ready');
    end();
  }
}

const list = (name) => params.get(name)?.split(',').filter(Boolean);
const given = (options) => Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined && value !== null));

/** How models are loaded, by the address. */
export const defaults = given({
  adapter: params.get('adapter'),
  limits: params.get('limits'),
  precision: params.get('precision'),
  without: list('without'),
  context: params.has('context') ? Number(params.get('context')) : undefined,
  cache: params.get('cache') === '0' ? false : undefined,
  hub: params.has('hub') ? { endpoint: params.get('hub') } : undefined,
});

export function describe(source) {
  if (source === 'embedded') return 'the storyteller';
  if (typeof source === 'string' || source instanceof URL) return String(source).replace(/^hf:/, '');
  if (source?.cached) return source.label ?? 'the kept model';
  const files = source instanceof Blob ? [source] : source?.[Symbol.iterator] ? [...source] : Object.values(source ?? {});
  return files.length === 1 ? files[0].name || 'a file' : files.length ? `${files[0].webkitRelativePath?.split('/')[0] || 'a folder'} (${files.length} files)` : 'nothing';
}

/** Loads a model in place of the one that is there. Resolves to it, or to undefined where that went wrong. */
export async function load(source, options = {}, label = describe(source)) {
  const model = await run('loading', async (signal) => {
    const wanted = { source, options, label };
    app.failed = null;
    await app.model?.close().catch(() => {});
    app.model = null;
    showProgress({ stage: 'open', name: label });
    setState('loading');
    try {
      const model = await Halfbyte.load(source, { ...defaults, ...options, signal, onProgress: showProgress });
      if (signal.aborted) {
        await model.close();
        throw new HalfbyteError('Aborted', 'stopped');
      }
      app.model = model;
      app.adapter = model.adapter;
      app.loaded = wanted;
      return model;
    } catch (error) {
      app.failed = wanted;
      app.adapter ??= await Halfbyte.adapter(given({ adapter: defaults.adapter })).catch(() => null);
      throw error;
    }
  });
  if (model) {
    announce(`${model.info.name} is ready`);
    document.dispatchEvent(new Event('halfbyte-loaded'));
  }
  return model;
}

/** Loads the same model again, with other options. */
export function reload(options = {}) {
  const last = app.failed ?? app.loaded ?? { source: 'embedded', options: {}, label: undefined };
  return load(last.source, { ...last.options, ...options }, last.label);
}
