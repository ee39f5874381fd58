// The layer map: one row a layer, one cell a matrix, its colour the codec, its width the number of weights.

import { app, onChange } from './app.js';
import { $, bytes, count, el, svg } from './dom.js';

// Columns of a layer, and how many a fused matrix spans.
const COLUMNS = ['q', 'k', 'v', 'o', 'gate', 'up', 'down'];
const SPANS = { qkv: ['q', 3], gate_up: ['gate', 2], upgate: ['gate', 2], up_gate: ['gate', 2] };
const NAMES = { embed: 'embedding', head: 'output' };
const BITS = [2, 3, 4, 5, 8, 16, 32];
const HINTS = {
  codec: 'Width: weights of a matrix. Colour: how they are coded.',
  memory: 'Area: bytes. What is left empty is what f16 would take.',
  equal: 'Every matrix alike, so that small ones are seen.',
};

let model;
let rows = []; // { label, cells: [{ part, tensor, size, column, span }] }
let colours = new Map();
let view = 'codec';
let cursor = null;

const size = (tensor) => tensor.shape.reduce((product, n) => product * n, 1);

function read(tensors) {
  const layers = new Map();
  const ends = { embed: [], head: [] };
  for (const tensor of tensors) {
    if (!tensor.codec) continue;
    const name = tensor.name.replace(/\.weight$/, '');
    const layer = /(?:^|\.)(?:layers|h|blocks)\.(\d+)\./.exec(name)?.[1];
    let part = name.split('.').pop().replace(/_proj$/, '');
    if (layer === undefined) part = /embed/.test(name) ? 'embed' : 'head';
    const [first, span] = SPANS[part] ?? [part, 1];
    const column = COLUMNS.indexOf(first);
    const cell = { part, tensor, size: size(tensor), column: column < 0 ? COLUMNS.length : column, span, layer };
    if (layer === undefined) ends[part].push(cell);
    else if (layers.has(Number(layer))) layers.get(Number(layer)).push(cell);
    else layers.set(Number(layer), [cell]);
  }
  const found = [...layers].sort(([a], [b]) => a - b).map(([layer, cells]) => ({ label: String(layer), cells: cells.sort((a, b) => a.column - b.column) }));
  if (ends.embed.length) found.unshift({ label: 'in', cells: ends.embed, end: true });
  if (ends.head.length) found.push({ label: 'out', cells: ends.head, end: true });
  return found;
}

/** A colour for each codec: by its bits; two codecs of the same bits differ in shade. */
function colour(cells) {
  const sums = new Map();
  for (const { tensor, size } of cells) {
    const sum = sums.get(tensor.codec) ?? { codec: tensor.codec, formats: new Set(), weights: 0, bytes: 0, matrices: 0 };
    sum.formats.add(tensor.format);
    sum.weights += size;
    sum.bytes += tensor.bytes_gpu;
    sum.matrices++;
    sums.set(tensor.codec, sum);
  }
  const taken = {};
  const list = [...sums.values()].sort((a, b) => b.bytes - a.bytes);
  for (const sum of list) {
    sum.bits = (sum.bytes * 8) / sum.weights;
    const whole = Math.floor(sum.bits); // scales come on top of the codes
    const near = BITS.reduce((best, b) => (Math.abs(b - whole) < Math.abs(best - whole) ? b : best));
    const n = (taken[near] = (taken[near] ?? 0) + 1);
    sum.colour = n === 1 ? `var(--b${near})` : `color-mix(in oklab, var(--b${near}) ${Math.max(30, 100 - 32 * (n - 1))}%, var(--ink))`;
  }
  colours = new Map(list.map((sum) => [sum.codec, sum]));
  return list;
}

const strong = (text) => el('strong', null, text);

function summarize(info, cells) {
  const list = colour(cells);
  const weights = cells.reduce((n, cell) => n + cell.size, 0);
  const total = list.reduce((n, sum) => n + sum.bytes, 0);
  $('layers-lead').replaceChildren(strong(`${info.bitsPerWeight.toFixed(2)} bits a weight`), `: ${count(info.parameters)} parameters in ${bytes(total)}, where f16 would take ${bytes(weights * 2)}.`);
  $('stack').setAttribute('aria-label', `${bytes(total)}, ${Math.round((total / weights / 2) * 100)} % of f16`);
  $('stack').replaceChildren(...list.map((sum) => el('i', { style: `flex:${sum.bytes / weights / 2} 0 0;background:${sum.colour}` })), el('span', { style: `flex:${Math.max(0, 1 - total / weights / 2)} 0 0` }, total < weights * 1.4 ? 'saved' : ''));
  $('legend').replaceChildren(
    ...list.map((sum) =>
      el('li', null,
        el('button', { type: 'button', 'data-codec': sum.codec, 'aria-pressed': 'false', title: `from ${[...sum.formats].join(', ')}, ${bytes(sum.bytes)}, ${sum.matrices} matrices`, onclick: only }, el('i', { style: `background:${sum.colour}` }), el('b', null, sum.codec), el('span', null, `${sum.bits.toFixed(2)} bits · ${Math.round((sum.weights / weights) * 100)} %`)))),
  );
}

/** Picks a codec out. */
function only(event) {
  const on = event.currentTarget.getAttribute('aria-pressed') !== 'true';
  for (const button of $('legend').querySelectorAll('button')) button.setAttribute('aria-pressed', String(on && button === event.currentTarget));
  const codec = on ? event.currentTarget.dataset.codec : null;
  for (const cell of $('map').querySelectorAll('[data-cell]')) cell.classList.toggle('dim', codec !== null && cell.dataset.codec !== codec);
}

function draw(fresh) {
  const map = $('map');
  const width = Math.floor(map.clientWidth);
  map.querySelector('svg')?.remove();
  if (!width || !rows.length) return;
  const layers = rows.filter((row) => !row.end);
  const height = Math.max(8, Math.min(40, Math.round(520 / Math.max(1, layers.length))));
  const gap = height > 12 ? 3 : 2;
  const gutter = 30;
  const room = width - gutter;
  const widest = Math.max(...layers.map((row) => row.cells.reduce((n, cell) => n + cell.size, 0)), 1);
  const extra = Math.max(0, ...layers.map((row) => row.cells.filter((cell) => cell.column >= COLUMNS.length).length));
  const split = 6; // between attention and MLP
  let y = 18;
  const picture = svg('svg', { width, 'aria-hidden': 'true' });
  const heads = new Set();
  rows.forEach((row, r) => {
    const group = svg('g', { class: fresh ? 'row fresh' : 'row', style: `animation-delay:${Math.round((r * 500) / rows.length)}ms` });
    const every = height >= 12 ? 1 : height >= 10 ? 5 : 10;
    if (row.end || Number(row.label) % every === 0) group.append(svg('text', { x: gutter - 7, y: y + height / 2, class: 'number' }, row.label));
    let x = gutter;
    const parts = row.cells.length;
    row.cells.forEach((cell, c) => {
      let w;
      if (row.end) w = room / parts;
      else if (view === 'equal') {
        const unit = (room - split) / (COLUMNS.length + extra);
        x = gutter + cell.column * unit + (cell.column > 3 ? split : 0);
        w = cell.span * unit;
      } else {
        if (c && cell.column > 3 && row.cells[c - 1].column <= 3) x += split;
        w = (cell.size / widest) * (room - split);
      }
      const { bits_per_weight: bits, codec } = cell.tensor;
      const inner = Math.max(1, w - (w > 8 ? 2 : 1));
      const box = svg('g', { 'data-cell': `${r},${c}`, 'data-codec': codec });
      const fill = view === 'memory' ? Math.min(1, bits / 16) * height : height;
      if (view === 'memory') box.append(svg('rect', { x, y, width: inner, height, rx: 2, class: 'ghost' }));
      box.append(svg('rect', { x, y: y + height - fill, width: inner, height: fill, rx: Math.min(2, fill / 2), style: `fill:${colours.get(codec).colour}` }));
      // A target and an outline for the whole cell.
      box.append(svg('rect', { x: x - 0.5, y: y - gap / 2, width: w, height: height + gap, class: 'hit' }));
      group.append(box);
      const label = NAMES[cell.part] ?? cell.part;
      if (row.end) {
        if (height >= 12) group.append(svg('text', { x: x + 8, y: y + height / 2, class: view === 'memory' ? 'inside plain' : 'inside' }, label));
      } else if (!heads.has(cell.part) && w > label.length * 7 + 2 && row === layers[0]) {
        heads.add(cell.part);
        picture.append(svg('text', { x: x + inner / 2, y: y - 7, class: 'head' }, label));
      }
      cell.box = { x, y, w: inner, height, node: box };
      x += w;
    });
    picture.append(group);
    y += height + gap;
    // Room for the columns' names under the embedding, and before the output.
    if (row.end && r === 0) y += 20;
    else if (rows[r + 1]?.end) y += 8;
  });
  picture.setAttribute('height', y);
  picture.setAttribute('viewBox', `0 0 ${width} ${y}`);
  map.prepend(picture);
  $('map-hint').textContent = HINTS[view];
  const pressed = $('legend').querySelector('[aria-pressed=true]');
  if (pressed) for (const cell of map.querySelectorAll('[data-cell]')) cell.classList.toggle('dim', cell.dataset.codec !== pressed.dataset.codec);
  point(null);
}

const KINDS = { permuted: 'columns permuted', hadamard: 'Hadamard transform' };

/** Shows what a cell is. */
function point(at) {
  if (cursor) rows[cursor[0]]?.cells[cursor[1]]?.box?.node.classList.remove('at');
  cursor = at;
  const tip = $('tip');
  tip.hidden = !at;
  if (!at) return;
  const row = rows[at[0]];
  const { tensor, part, box } = row.cells[at[1]];
  box.node.classList.add('at');
  tip.replaceChildren(
    strong(row.end ? NAMES[part] : `layer ${row.label} · ${part}`),
    el('span', null, `${tensor.format} → ${tensor.codec}`),
    el('span', null, `${tensor.shape.join(' × ')}, ${tensor.bits_per_weight.toFixed(2)} bits, ${bytes(tensor.bytes_gpu)}`),
    KINDS[tensor.transform] && el('span', null, KINDS[tensor.transform]) || '',
  );
  const width = $('map').clientWidth;
  const left = Math.max(0, Math.min(width - tip.offsetWidth, box.x + box.w / 2 - tip.offsetWidth / 2));
  const above = box.y - tip.offsetHeight - 8;
  const seen = $('panel-layers').getBoundingClientRect().top - $('map').getBoundingClientRect().top;
  tip.style.transform = `translate(${Math.round(left)}px, ${Math.round(above > seen ? above : box.y + box.height + 10)}px)`;
}

function walk(event) {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [-1e6, 0], End: [1e6, 0] }[event.key];
  if (event.key === 'Escape' && cursor) {
    event.preventDefault();
    return point(null);
  }
  if (!step || !rows.length) return;
  event.preventDefault();
  const [r, c] = cursor ?? [0, 0];
  const row = Math.max(0, Math.min(rows.length - 1, r + (cursor ? step[0] : 0)));
  const cell = Math.max(0, Math.min(rows[row].cells.length - 1, c + (cursor ? step[1] : 0)));
  point([row, cell]);
  rows[row].cells[cell].box?.node.scrollIntoView({ block: 'nearest' });
}

function table() {
  const cell = (...children) => el('td', null, ...children);
  const body = rows.flatMap((row) => row.cells.map(({ part, tensor }) =>
    el('tr', null, el('th', { scope: 'row' }, row.end ? NAMES[part] : `${row.label} ${part}`), cell(tensor.format), cell(tensor.codec), cell(tensor.bits_per_weight.toFixed(2)), cell(tensor.shape.join(' × ')), cell(bytes(tensor.bytes_gpu)))));
  const head = ['Matrix', 'Format', 'Codec', 'Bits', 'Shape', 'Size'].map((name) => el('th', { scope: 'col' }, name));
  $('map-table').querySelector('div').replaceChildren(el('table', null, el('thead', null, el('tr', null, head)), el('tbody', null, body)));
}

export function initLayers() {
  const map = $('map');
  onChange(() => {
    if (app.model === model) return;
    model = app.model;
    $('layers-body').hidden = !model;
    if (!model) {
      rows = [];
      $('layers-lead').textContent = 'No model yet.';
      return;
    }
    rows = read(model.info.tensors);
    if (!rows.length) {
      $('layers-body').hidden = true;
      $('layers-lead').textContent = 'This model does not tell of its matrices.';
      return;
    }
    summarize(model.info, rows.flatMap((row) => row.cells));
    draw(true);
    $('map-table').open = false;
  });
  let width = 0;
  new ResizeObserver(() => {
    if (map.clientWidth === width) return;
    width = map.clientWidth;
    requestAnimationFrame(() => draw(false));
  }).observe(map);
  $('map-view').addEventListener('change', (event) => {
    view = event.target.value;
    draw(false);
  });
  const at = (event) => event.target.closest?.('[data-cell]')?.dataset.cell.split(',').map(Number) ?? null;
  map.addEventListener('pointerover', (event) => point(at(event)));
  map.addEventListener('pointerdown', (event) => point(at(event)));
  map.addEventListener('pointerleave', (event) => event.pointerType === 'mouse' && point(null));
  map.addEventListener('blur', () => point(null));
  map.addEventListener('keydown', walk);
  $('map-table').addEventListener('toggle', () => $('map-table').open && table());
}
