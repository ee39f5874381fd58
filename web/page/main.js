// The page: its parts, its panels, and what its address asks for.

import { Halfbyte, app, load, params, stop } from './app.js';
import { $, bits, el } from './dom.js';
import { initLayers } from './layers.js';
import { initMachine } from './machine.js';
import { asSource, initModels } from './models.js';
import { initSettings } from './settings.js';
import { initTests } from './tests.js';
import { initWrite } from './write.js';

/** Parameters of the address. */
const PARAMETERS = [
  ['model', 'embedded, owner/repo, hf:owner/repo/file@revision, or an address'],
  ['prompt', 'how the story begins, or the first message'],
  ['autoplay', '0: do not begin by itself'],
  ['seed', 'the same text again, on the same machine'],
  ['temperature', '0: always the likeliest token'],
  ['topk, topp, minp, repeat, max', 'the other settings'],
  ['system', 'system prompt'],
  ['adapter', 'gpu, low-power or cpu'],
  ['precision', 'f32, f16, int8 or int4: what the KV cache holds'],
  ['context', 'positions of the KV cache'],
  ['limits', 'floor or iphone: no more than these allow'],
  ['without', 'f16, subgroups, dot4: leave them unused; software: as on a real GPU'],
  ['cache', '0: keep nothing'],
  ['hub', 'another hub than huggingface.co'],
  ['theme', 'light or dark'],
];

function panels() {
  const wide = matchMedia('(min-width: 1000px)');
  const show = (focus) => {
    const wanted = location.hash.slice(1) || 'write';
    let name = $(`panel-${wanted}`) ? wanted : 'write';
    document.documentElement.dataset.panel = name;
    // Where there is room, the text stays and a panel stands beside it.
    if (wide.matches && name === 'write') name = document.querySelector('.side:not([hidden])')?.id.slice(6) ?? 'layers';
    for (const panel of document.querySelectorAll('.panel')) {
      const write = panel.id === 'panel-write';
      panel.hidden = write ? !wide.matches && name !== 'write' : panel.id !== `panel-${name}`;
    }
    for (const link of document.querySelectorAll('[data-to]')) {
      if (link.dataset.to === name) link.setAttribute('aria-current', 'page');
      else link.removeAttribute('aria-current');
    }
    if (focus && name !== 'write' && wanted !== 'write') $(`panel-${name}`).focus({ preventScroll: true });
  };
  addEventListener('hashchange', () => show(true));
  wide.addEventListener('change', () => show(false));
  show(false);
}

function theme() {
  const button = $('theme');
  const root = document.documentElement;
  const show = () => button.setAttribute('aria-pressed', String(root.dataset.theme === 'dark'));
  button.addEventListener('click', () => {
    const wanted = root.dataset.theme === 'dark' ? 'light' : 'dark';
    try {
      localStorage.setItem('halfbyte-theme', wanted);
    } catch {
      root.dataset.theme = wanted; // no storage: for this visit
      return;
    }
    window.paint();
  });
  new MutationObserver(show).observe(root, { attributeFilter: ['data-theme'] });
  show();
}

function dialogs() {
  for (const dialog of document.querySelectorAll('dialog')) {
    // A click beside it closes it.
    dialog.addEventListener('click', (event) => event.target === dialog && dialog.close());
  }
  $('about-open').addEventListener('click', () => $('about').showModal());
  $('version').textContent = Halfbyte.version;
  $('parameters').append(...PARAMETERS.map(([name, text]) => el('tr', null, el('th', { scope: 'row' }, el('code', null, name)), el('td', null, text))));
}

for (const icon of document.querySelectorAll('[data-bits]')) icon.append(bits(icon.dataset.bits));
panels();
theme();
dialogs();
initSettings();
initWrite();
initLayers();
initMachine();
initModels();
initTests();

/** For tests and for curious people. */
window.halfbyte = {
  get model() {
    return app.model;
  },
  load,
  stop,
};

$('cancel').addEventListener('click', () => stop());
document.querySelector('[data-skip]').addEventListener('click', (event) => {
  event.preventDefault();
  location.hash = '#write';
  $('input').focus();
});

await load(asSource(params.get('model') || 'embedded'));
