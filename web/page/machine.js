// The adapter: what it is, what of it is used, what it allows; memory.

import { app, busy, onChange, reload } from './app.js';
import { $, binary, bytes, el } from './dom.js';
import { forget } from './meter.js';

let shown;
let model;

const row = (name, value, key) => el('tr', null, el('th', { scope: 'row' }, name), el('td', { 'data-fact': key }, value));

function chip(on, name, detail) {
  return el('li', { class: on ? 'chip on' : 'chip', 'data-feature': name, 'data-on': String(on) }, el('span', { 'aria-hidden': 'true' }, on ? '■' : '□'), ` ${name}`, el('small', null, ` ${on ? detail : 'no'}`));
}

function showAdapter(adapter) {
  const { capabilities: c } = adapter;
  $('adapter-name').replaceChildren(el('strong', null, adapter.cpu ? 'The CPU, one core' : adapter.name), ' ', el('span', null, [adapter.cpu && adapter.name !== 'CPU' ? adapter.name : '', adapter.kind, adapter.backend, adapter.driver].filter(Boolean).join(' · ')));
  $('missing').hidden = $('missing-machine').hidden = !adapter.missing;
  $('missing-text').textContent = $('missing-machine').querySelector('p').textContent = adapter.missing ?? '';
  $('features').replaceChildren(
    chip(c.f16, 'f16', 'half floats'),
    chip(Boolean(c.subgroups), 'subgroups', c.subgroups && (c.subgroups[0] === c.subgroups[1] ? `of ${c.subgroups[0]}` : `of ${c.subgroups[0]} to ${c.subgroups[1]}`)),
    chip(c.dot4, 'dot4', 'packed integers'),
    ...(c.software && !adapter.cpu ? [chip(true, 'software', 'no GPU behind it')] : []),
  );
  $('limits').tBodies[0].replaceChildren(
    ...(adapter.cpu
      ? [row('GPU', 'none in use', 'none')]
      : [
          row('Largest binding', binary(c.max_binding), 'max_binding'),
          row('Largest buffer', binary(c.max_buffer), 'max_buffer'),
          row('Memory of a workgroup', binary(c.workgroup_bytes), 'workgroup_bytes'),
          row('Invocations of a workgroup', c.invocations.toLocaleString('en'), 'invocations'),
          row('Memory budget', c.memory_budget ? binary(c.memory_budget) : 'not told', 'memory_budget'),
        ]),
  );
}

function showMemory(memory) {
  const rows = [['Weights', 'weights'], ['KV cache', 'kv'], [app.adapter?.cpu ? 'Buffers in all' : 'On the GPU in all', 'gpu'], ['WebAssembly', 'wasm']];
  $('memory').tBodies[0].replaceChildren(...(memory ? rows.map(([name, key]) => row(name, bytes(memory[key]), key)) : [row('Nothing', 'no model', 'none')]));
}

export function initMachine() {
  onChange(() => {
    if (app.adapter && app.adapter !== shown) showAdapter((shown = app.adapter));
    if (app.model !== model) {
      model = app.model;
      app.memory = model?.info.memory;
      forget();
      showMemory(app.memory);
    }
    for (const button of document.querySelectorAll('[data-adapter]')) button.disabled = busy() && app.state === 'loading';
  });
  showMemory();
  document.addEventListener('halfbyte-memory', () => showMemory(app.memory));
  for (const button of document.querySelectorAll('[data-adapter]')) button.addEventListener('click', () => reload({ adapter: button.dataset.adapter }));
}
