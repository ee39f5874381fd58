// Where models come from: the package, the disk, the hub, the cache.

import { Halfbyte, app, busy, droppedFiles, load, onChange } from './app.js';
import { $, bytes, count, el } from './dom.js';
import { showError } from './errors.js';

/** Small ones that halfbyte reads. */
const EXAMPLES = [
  ['hf:HuggingFaceTB/SmolLM2-135M-Instruct', 'SmolLM2 135M', 'chat, bf16, 0.3 GB'],
  ['hf:Qwen/Qwen2.5-0.5B-Instruct-GPTQ-Int4', 'Qwen2.5 0.5B', 'chat, GPTQ 4-bit, 0.5 GB'],
  ['hf:Qwen/Qwen3-0.6B-GGUF', 'Qwen3 0.6B', 'chat, GGUF 8-bit, 0.6 GB'],
];

let known = null;

/** What a text field says as a source: people paste addresses of the hub's pages, too. */
export function asSource(text) {
  const page = /^https?:\/\/huggingface\.co\/([^/\s]+\/[^/\s?#]+)(?:\/(?:blob|resolve|tree)\/([^/\s?#]+)(?:\/([^\s?#]+))?)?\/?(?:[?#].*)?$/.exec(text.trim());
  if (!page) return text.trim();
  const [, repo, revision, file] = page;
  return `hf:${repo}${file ? `/${file}` : ''}${revision && revision !== 'main' ? `@${revision}` : ''}`;
}

async function refresh() {
  const { cache } = Halfbyte;
  const [why, list, estimate] = await Promise.all([cache.unavailable(), cache.list(), cache.estimate()].map((promise) => promise.catch(() => null)));
  const models = list ?? [];
  $('cache-clear').hidden = !models.length;
  $('quota').hidden = !estimate?.quota;
  if (estimate?.quota) Object.assign($('quota'), { max: estimate.quota, value: estimate.usage, high: estimate.quota * 0.9 });
  $('storage').textContent = why ?? (models.length ? '' : 'Nothing yet: what you download is kept for the next time. ') + (estimate?.quota ? `${bytes(estimate.usage)} of ${bytes(estimate.quota)} used.` : '');
  $('cached').replaceChildren(
    ...models
      .sort((a, b) => b.used - a.used)
      .map((model) => {
        const name = model.source.replace(/^hf:/, '').replace(/@([0-9a-f]{7})[0-9a-f]{33}$/, '@$1');
        return el(
          'li',
          { 'data-cached': model.id, 'data-complete': String(model.complete) },
          el('div', null, el('strong', null, name), el('p', null, model.complete ? bytes(model.total) : `${bytes(model.bytes)} of ${bytes(model.total)} so far`, ` · ${new Date(model.used).toLocaleDateString()}`)),
          el('button', { type: 'button', class: 'small', 'data-load-cached': model.id, 'aria-label': `${model.complete ? 'Load' : 'Resume'} ${name}`, onclick: () => load({ cached: model.id }, {}, name) }, model.complete ? 'Load' : 'Resume'),
          el('button', { type: 'button', class: 'small', 'data-delete-cached': model.id, 'aria-label': `Delete ${name}`, onclick: (event) => confirmed(event.currentTarget, () => cache.delete(model.id)) }, 'Delete'),
        );
      }),
  );
  gate();
}

/** Asks once more, in the button itself. */
async function confirmed(button, action) {
  if (!button.dataset.sure) {
    const was = button.textContent;
    button.dataset.sure = '1';
    button.textContent = 'Sure?';
    setTimeout(() => {
      delete button.dataset.sure;
      button.textContent = was;
    }, 3000);
    return;
  }
  button.disabled = true;
  await action().catch((error) => showError(error, 'deleting'));
  await refresh();
  $('models-title').scrollIntoView({ block: 'nearest' });
}

function gate() {
  const loading = busy() && app.state === 'loading';
  for (const button of document.querySelectorAll('#panel-models button')) button.disabled = loading;
}

export async function loadFiles(files) {
  files = [...files];
  if (files.length) await load(files);
}

export function initModels() {
  $('examples').append(...EXAMPLES.map(([source, name, note]) => el('li', null, el('button', { type: 'button', 'data-load': source }, el('strong', null, name), el('small', null, note)))));
  for (const button of document.querySelectorAll('[data-load]')) button.addEventListener('click', () => load(button.dataset.load));
  $('hub-form').addEventListener('submit', (event) => {
    event.preventDefault();
    const source = asSource($('hub').value);
    if (source) load(source);
    else $('hub').focus();
  });
  for (const [button, field] of [['pick-files', 'files'], ['pick-folder', 'folder']]) {
    $(button).addEventListener('click', () => $(field).click());
    $(field).addEventListener('change', async () => {
      const files = [...$(field).files];
      await loadFiles(files);
      $(field).value = '';
    });
  }
  // No phone picks folders.
  $('pick-folder').hidden = !('webkitdirectory' in $('folder')) || (matchMedia('(pointer: coarse)').matches && !matchMedia('(any-pointer: fine)').matches);
  $('cache-clear').addEventListener('click', (event) => confirmed(event.currentTarget, () => Halfbyte.cache.clear()));

  onChange(({ model, state }) => {
    gate();
    const info = model?.info;
    $('model-name').textContent = info?.name ?? (state === 'loading' ? 'Loading …' : 'No model');
    $('model-bits').textContent = info ? `${info.bitsPerWeight.toFixed(1)} bits` : '';
    $('models-now').textContent = info ? `${info.name}: ${count(info.parameters)} parameters, ${info.format}, ${info.architecture}, ${info.layers} layers, context ${info.context}.${info.note ? ` ${info.note}` : ''}` : 'No model is loaded.';
    const key = model ?? state;
    if (key !== known && state !== 'loading') refresh();
    known = key;
  });
  dropping();
}

/** The whole page takes a drop. */
function dropping() {
  let depth = 0;
  const files = (event) => [...(event.dataTransfer?.types ?? [])].includes('Files');
  const show = (on) => {
    $('drop').hidden = !on;
    if (!on) depth = 0;
  };
  addEventListener('dragenter', (event) => {
    if (!files(event)) return;
    event.preventDefault();
    depth++;
    show(true);
  });
  addEventListener('dragover', (event) => {
    if (!files(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = 'copy';
  });
  addEventListener('dragleave', (event) => files(event) && --depth <= 0 && show(false));
  addEventListener('drop', async (event) => {
    if (!files(event)) return;
    event.preventDefault();
    show(false);
    try {
      await loadFiles(await droppedFiles(event.dataTransfer));
    } catch (error) {
      showError(error, 'dropping');
    }
  });
  addEventListener('keydown', (event) => event.key === 'Escape' && show(false));
}
