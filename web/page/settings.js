// Sampling and the system prompt.

import { params } from './app.js';
import { $, el } from './dom.js';

// Key of the options, label, hint, default, range, parameter of the address.
const FIELDS = [
  ['temperature', 'Temperature', '0 always takes the likeliest token', 0.7, 0, 2, 0.05, 'temperature'],
  ['topK', 'Top-k', 'only the k likeliest tokens; 0: all', 40, 0, 200, 1, 'topk'],
  ['topP', 'Top-p', 'only the likeliest that together reach this', 0.95, 0.05, 1, 0.01, 'topp'],
  ['minP', 'Min-p', 'only those at least this likely, beside the likeliest', 0.05, 0, 1, 0.01, 'minp'],
  ['repeatPenalty', 'Repeat penalty', '1: none', 1.1, 1, 2, 0.01, 'repeat'],
  ['maxTokens', 'Most tokens', '0: until the model ends', 512, 0, 2048, 16, 'max'],
];
const rows = new Map();

export function initSettings() {
  for (const [key, label, hint, value, min, max, step, parameter] of FIELDS) {
    const id = `set-${key}`;
    const slider = el('input', { type: 'range', id, min, max, step, 'aria-describedby': `${id}-hint` });
    const number = el('input', { type: 'number', id: `${id}-number`, min, step: 'any', inputmode: 'decimal', 'aria-label': label });
    slider.addEventListener('input', () => (number.value = slider.value));
    number.addEventListener('input', () => (slider.value = number.value));
    $('sampling').append(el('div', { class: 'setting' }, el('label', { for: id }, label), slider, number, el('p', { class: 'hint', id: `${id}-hint` }, hint)));
    const from = parseFloat(params.get(parameter));
    rows.set(key, { slider, number, value, start: Number.isFinite(from) ? from : value });
  }
  $('sampling').append(
    el('div', { class: 'setting' }, el('label', { for: 'set-seed' }, 'Seed'), el('input', { type: 'number', id: 'set-seed', min: 0, step: 1, placeholder: 'a new one each time' }), el('p', { class: 'hint' }, 'the same seed gives the same text on the same machine')),
  );
  reset('start');
  $('set-seed').value = params.get('seed') ?? '';
  $('system').value = params.get('system') ?? '';
  $('settings-reset').addEventListener('click', () => {
    reset('value');
    $('set-seed').value = '';
    $('system').value = '';
  });
  $('settings-open').addEventListener('click', () => $('settings').showModal());
}

function reset(which) {
  for (const row of rows.values()) row.number.value = row.slider.value = row[which];
  // A slider holds no more than its range; the number does.
  for (const row of rows.values()) row.number.value = row[which];
}

/** The options for `generate`. The n-th attempt at the same text has a seed of its own, also where one is set. */
export function sampling(attempt = 0) {
  const options = {};
  for (const [key, { number, value }] of rows) {
    const at = parseFloat(number.value);
    options[key] = Number.isFinite(at) ? Math.max(0, at) : value;
  }
  options.repeatPenalty ||= 1;
  for (const key of ['topK', 'maxTokens']) options[key] = Math.round(options[key]);
  if (!options.maxTokens) delete options.maxTokens;
  const seed = $('set-seed').value;
  if (seed !== '') options.seed = (Math.max(0, Math.round(Number(seed))) + attempt) % 2 ** 32;
  return options;
}

/** The settings as parameters of an address. */
export function shared(query) {
  for (const [key, , , value, , , , parameter] of FIELDS) {
    const at = rows.get(key).number.value;
    if (Number(at) !== value) query.set(parameter, at);
  }
}
