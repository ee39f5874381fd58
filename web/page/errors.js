// Errors stay until they are dismissed, teach, and offer what can be done.

import { app, describe, load, reload } from './app.js';
import { $, bits, el } from './dom.js';

const TITLES = {
  AdapterMissing: 'No GPU to run on',
  OutOfMemory: 'Not enough memory',
  DeviceLost: 'The GPU went away',
  Gpu: 'The GPU refused',
  UnsupportedFormat: 'A format that is not read',
  Corrupt: 'The model is damaged',
  Missing: 'Something is missing',
  Invalid: 'That is not possible',
  ContextFull: 'The context is full',
  Network: 'The network failed',
  Quota: 'No space left in this browser',
  Aborted: 'Stopped',
  WorkerLost: 'The worker stopped',
};

const again = { id: 'load-again', label: 'Load again', run: () => reload() };
const retry = { ...again, label: 'Try again' };
const cpu = { id: 'use-the-cpu', label: 'Use the CPU', run: () => reload({ adapter: 'cpu' }) };
const other = { id: 'choose-another', label: 'Choose another model', run: () => (location.hash = '#models') };
const shorter = {
  id: 'shorter-context',
  label: 'Load with a shorter context',
  run: () => reload({ context: Math.max(128, Math.min(512, ((app.failed ?? app.loaded)?.options.context ?? 1024) / 2)) }),
};
const anew = { id: 'start-anew', label: 'Start anew', run: () => document.dispatchEvent(new Event('halfbyte-anew')) };
const space = { id: 'free-space', label: 'Free space', run: () => ((location.hash = '#models'), $('cached').scrollIntoView()) };
const uncached = { id: 'load-uncached', label: 'Load without keeping it', run: () => reload({ cache: false }) };

const ACTIONS = {
  AdapterMissing: [cpu],
  OutOfMemory: [shorter, other],
  DeviceLost: [again],
  Gpu: [again, cpu],
  UnsupportedFormat: [other],
  Corrupt: [retry, other],
  Missing: [other],
  Invalid: [],
  ContextFull: [anew],
  Network: [retry],
  Quota: [space, uncached],
  Aborted: [retry],
  WorkerLost: [again],
};

/** Shows an error in a card; `during` is the state that it happened in. */
export function showError(error, during) {
  const kind = error?.kind ?? 'Error';
  const message = kind === 'Aborted' ? 'Loading was stopped. What was downloaded is kept: it goes on there.' : String(error?.message ?? error);
  if (!error?.kind) console.error(error);
  const actions = [...(ACTIONS[kind] ?? (during === 'loading' ? [retry] : []))];
  if (during === 'loading') {
    const back = app.loaded;
    if (back && back !== app.failed) actions.push({ id: 'load-previous', label: `Back to ${back.label}`, run: () => load(back.source, back.options, back.label) });
    else if (app.failed?.source !== 'embedded') actions.push({ id: 'load-storyteller', label: 'Load the storyteller', run: () => load('embedded', {}, describe('embedded')) });
  }
  const card = el(
    'div',
    { class: 'error', 'data-error': kind, 'data-during': during },
    bits('9669'),
    el('div', null, el('h2', null, TITLES[kind] ?? 'An error of the page', ' ', el('code', null, kind)), el('p', null, message)),
    el(
      'div',
      { class: 'buttons' },
      actions.map(({ id, label, run }, i) =>
        el('button', { type: 'button', 'data-action': id, class: i ? 'small' : 'small primary', onclick: () => (dismiss(card), run()) }, label)),
      el('button', { type: 'button', class: 'small', 'data-action': 'dismiss', onclick: () => dismiss(card) }, 'Dismiss'),
    ),
  );
  // An older error about the same thing only stands in the way.
  $('errors').querySelector(`[data-error="${kind}"]`)?.remove();
  while ($('errors').children.length > 1) $('errors').firstChild.remove();
  $('errors').append(card);
}

export function clearErrors() {
  $('errors').replaceChildren();
}

function dismiss(card) {
  card.remove();
  document.dispatchEvent(new Event('halfbyte-dismissed'));
  $('input').focus({ preventScroll: true });
}
