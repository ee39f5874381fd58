// How fast it writes: live while it does, exact afterwards.

import { $, speed } from './dom.js';

const SAMPLES = 48;
const INTERVAL = 250;
let samples = [];
let times = []; // of the pieces of the last two seconds
let timer = 0;
let counted = 0;

/** A generation has begun. */
export function started() {
  times = [];
  counted = 0;
  clearInterval(timer);
  timer = setInterval(sample, INTERVAL);
}

/** A piece of text has come. */
export function tick() {
  times.push(performance.now());
  counted++;
}

function rate() {
  const now = performance.now();
  while (times.length > 2 && now - times[0] > 2000) times.shift();
  return times.length > 1 ? ((times.length - 1) * 1000) / (Math.max(now, times.at(-1)) - times[0]) : 0;
}

function sample() {
  const value = rate();
  if (!value) return;
  samples.push(value);
  if (samples.length > SAMPLES) samples.shift();
  show(value);
  draw();
}

function show(decode, prefill) {
  $('rate-now').textContent = $('decode').textContent = speed(decode);
  if (prefill) $('prefill').textContent = speed(prefill);
  // The low nibble of the number of tokens: the logo counts along.
  [...$('nibble').children].forEach((bit, i) => bit.classList.toggle('off', timer !== 0 && !(counted & (8 >> i))));
}

// Sixteen levels: a nibble a sample.
function draw() {
  const top = Math.max(1, ...samples) * 1.1;
  for (const [id, width, height] of [['spark', 120, 16], ['spark-big', 240, 48]]) {
    const step = width / SAMPLES;
    let path = '';
    samples.forEach((value, i) => {
      const level = Math.max(1, Math.round((value / top) * 15));
      path += `M${(i * step).toFixed(1)} ${height}v${((-level * height) / 16).toFixed(1)}h${(step * 0.72).toFixed(2)}V${height}z`;
    });
    $(id).firstElementChild.setAttribute('d', path);
  }
}

/** It has ended; with a summary, the exact numbers are shown. */
export function finished(summary) {
  clearInterval(timer);
  timer = 0;
  if (summary) show(summary.decodeTokensPerSecond, summary.prefillTokensPerSecond);
  else show(rate() || samples.at(-1));
}

/** Another model: other numbers. */
export function forget() {
  samples = [];
  times = [];
  draw();
  $('prefill').textContent = '–';
  show(NaN);
}
