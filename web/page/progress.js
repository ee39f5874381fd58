// The strip under the header: how far loading, verifying or measuring has come.

import { $, announce, bytes, duration, el } from './dom.js';

// Loading has four stages: a nibble.
const STAGES = ['download', 'check', 'weights', 'kernels'];
const WORDS = { open: 'Opening', download: 'Downloading', check: 'Checking', weights: 'Weights to the device', kernels: 'Making kernels', prompt: 'Reading the prompt', verify: 'Verifying', bench: 'Measuring' };

let last = null;
let frame = 0;
let said = '';

export function showProgress(progress) {
  last = progress;
  // A hidden tab draws no frames; there is nothing to see in it either.
  frame ||= requestAnimationFrame(draw);
}

export function hideProgress() {
  cancelAnimationFrame(frame);
  frame = 0;
  last = null;
  said = '';
  $('progress').hidden = true;
}

function draw() {
  frame = 0;
  if (!last) return;
  const { stage, done = 0, total, name, perSecond, secondsLeft } = last;
  const inBytes = ['download', 'check', 'weights'].includes(stage);
  const amount = (n) => (inBytes ? bytes(n) : n.toLocaleString('en'));
  const at = STAGES.indexOf(stage);
  const part = total ? Math.min(1, done / total) : 0;
  $('stages').hidden = at < 0 && stage !== 'open';
  $('stages').replaceChildren(...STAGES.map((s, i) => el('i', { style: `--part:${i < at ? 1 : i === at ? part : 0}`, 'data-stage': s })));
  const words = [WORDS[stage] ?? stage];
  if (stage === 'open') words[0] += ` ${name} …`;
  else words.push(total ? `${amount(done)} of ${amount(total)}` : amount(done));
  if (perSecond && inBytes) words.push(`${bytes(perSecond)}/s`);
  if (secondsLeft !== undefined && stage !== 'kernels') words.push(`${duration(secondsLeft)} left`);
  if (name && stage !== 'open') words.push(name);
  $('progress-text').textContent = words.join(' · ');
  const bar = $('progress-bar');
  if (total) bar.value = part;
  else bar.removeAttribute('value');
  $('progress').dataset.stage = stage;
  $('progress').hidden = false;
  if (said !== stage && stage !== 'open') announce((said = stage) && WORDS[stage]);
}
