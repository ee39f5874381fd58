// Verify and benchmark.

import { app, busy, onChange, params, run, stop } from './app.js';
import { $, announce, copy, el, percent, save, speed } from './dom.js';
import { clearErrors } from './errors.js';
import { chart, summary } from './chart.js';
import { showProgress } from './progress.js';

let verification = null;
let benchmark = null;

// --- verify ------------------------------------------------------------------------------------------------------

const LOW = -8; // decades of the scale, up to 1
const place = (value) => Math.max(0, Math.min(100, ((Math.log10(value) - LOW) / -LOW) * 100));
const small = (value) => (value === 0 ? '0' : value.toExponential(1).replace('e-', 'e−').replace('e+', 'e'));

function outcomeRow(outcome) {
  const { name, codec, max_error: error, tolerance, pass, problem } = outcome;
  return el('tr', { 'data-outcome': `${name} ${codec}`, 'data-pass': String(pass) },
    el('th', { scope: 'row' }, name),
    el('td', null, codec),
    el('td', { class: 'num' }, problem ? '–' : small(error)),
    el('td', { class: 'scale' }, el('div', { class: 'track', title: `tolerance ${small(tolerance)}` }, error > 0 && el('i', { style: `width:${Math.max(1.5, place(error))}%` }), el('b', { style: `left:${place(tolerance)}%` })), problem && el('small', null, problem)),
    el('td', { class: 'result' }, pass ? 'pass' : 'fail'));
}

async function verify() {
  clearErrors();
  const body = $('outcomes').tBodies[0];
  body.replaceChildren();
  $('outcomes-box').hidden = false;
  $('verify-copy').hidden = true;
  $('verdict').textContent = '';
  delete $('verdict').dataset.pass;
  verification = null;
  let waiting = [];
  let frame = 0;
  const flush = () => {
    cancelAnimationFrame(frame);
    frame = 0;
    body.append(...waiting.map(outcomeRow));
    waiting = [];
    $('outcomes-box').scrollTop = 1e9;
  };
  const result = await run('verifying', (signal) =>
    app.model.verify({
      quick: params.get('verify') === 'quick',
      signal,
      onProgress: showProgress,
      onOutcome: (outcome) => {
        waiting.push(outcome);
        frame ||= requestAnimationFrame(flush);
      },
    }));
  flush();
  if (!result) {
    $('verdict').textContent = body.rows.length ? `Stopped after ${body.rows.length}.` : '';
    return;
  }
  verification = result;
  const failed = result.outcomes.filter((outcome) => !outcome.pass);
  // What failed comes first.
  body.replaceChildren(...[...failed, ...result.outcomes.filter((outcome) => outcome.pass)].map(outcomeRow));
  $('outcomes-box').scrollTop = 0;
  $('verdict').dataset.pass = String(result.pass);
  const on = result.adapter.cpu ? 'the CPU' : result.adapter.name;
  $('verdict').textContent = result.pass
    ? `All ${result.outcomes.length} kernels agree with their twins on ${on}, in ${result.seconds.toFixed(1)} s.`
    : `${failed.length} of ${result.outcomes.length} kernels disagree on ${on}. Copy the result and report it.`;
  $('verify-copy').hidden = false;
}

// --- benchmark ---------------------------------------------------------------------------------------------------

async function bench() {
  clearErrors();
  $('bench-verdict').textContent = '';
  const result = await run('benchmarking', (signal) => app.model.bench({ signal, onProgress: showProgress, allowNoise: true }));
  if (!result) return;
  benchmark = result;
  const { decode, prefill, noise, agreement } = summary(result);
  const share = decode.of_copy_bandwidth === null ? '' : `, at ${percent(decode.of_copy_bandwidth)} of a plain copy’s bandwidth`;
  const noisy = noise > 0.1 ? ` The runs differ by ${percent(noise)}: end what else is running and measure again.` : '';
  const wrong = agreement && !(agreement.max_relative_error < 0.02) ? ' This GPU computes something else than the CPU: verify it.' : '';
  $('bench-verdict').textContent = `Writes ${speed(decode.tokens_per_s.median)} and reads ${speed(prefill.tokens_per_s.median)} tokens a second${share}.${noisy}${wrong}`;
  drawChart();
  $('bench-json').textContent = JSON.stringify(result, null, 2);
  $('chart').hidden = $('bench-tools').hidden = $('bench-details').hidden = false;
  announce('Benchmark finished');
}

function drawChart() {
  if (benchmark) $('chart').replaceChildren(chart(benchmark, document.documentElement.dataset.theme === 'dark'));
}

const file = () => `halfbyte-${summary(benchmark).model.name.replace(/[^\w.-]+/g, '-')}`;

/** The chart as a PNG, twice as large as it is drawn. */
async function picture() {
  const source = new XMLSerializer().serializeToString($('chart').firstChild);
  const url = URL.createObjectURL(new Blob([source], { type: 'image/svg+xml' }));
  const image = new Image();
  image.src = url;
  await image.decode();
  const canvas = el('canvas', { width: 1600, height: 840 });
  canvas.getContext('2d').drawImage(image, 0, 0, 1600, 840);
  URL.revokeObjectURL(url);
  save(await new Promise((resolve) => canvas.toBlob(resolve, 'image/png')), `${file()}.png`);
}

export function initTests() {
  const swap = (from, to) => {
    const had = document.activeElement === from;
    from.hidden = true;
    to.hidden = false;
    if (had) to.focus();
  };
  onChange(({ model, state }) => {
    for (const [name, running] of [['verify', 'verifying'], ['bench', 'benchmarking']]) {
      if (state === running) swap($(name), $(`${name}-stop`));
      else swap($(`${name}-stop`), $(name));
      // A story is stopped for it; anything else is waited for.
      $(name).disabled = !model || (busy() && state !== 'generating');
      $(`${name}-stop`).onclick = () => stop();
    }
  });
  $('verify').addEventListener('click', verify);
  $('bench').addEventListener('click', bench);
  $('verify-copy').addEventListener('click', (event) => copy(JSON.stringify(verification, null, 2), event.currentTarget));
  $('bench-copy').addEventListener('click', (event) => copy(JSON.stringify(benchmark, null, 2), event.currentTarget));
  $('bench-save').addEventListener('click', () => save(new Blob([JSON.stringify(benchmark, null, 2)], { type: 'application/json' }), `${file()}.json`));
  $('bench-picture').addEventListener('click', picture);
  new MutationObserver(drawChart).observe(document.documentElement, { attributeFilter: ['data-theme'] });
}
