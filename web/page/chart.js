// A benchmark as a picture to share. It stands for itself: colours and fonts are written into it.

import { bytes, percent, speed, svg } from './dom.js';

const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
const MONO = 'ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace';

const cut = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

/** What the picture shows of a report: the longest prompt, generation at the beginning of the context. */
export function summary({ halfbyte, browser, adapters: [{ adapter, probe, models: [model] }] }) {
  const [decode, prefill] = [model.decode[0], model.prefill.at(-1)];
  const noise = Math.max(...[...model.decode, ...model.prefill].map((point) => point.tokens_per_s.noise));
  return { halfbyte, browser, adapter, probe, model, decode, prefill, noise, agreement: model.agreement };
}

export function chart(report, dark) {
  const [paper, ink, soft, line, accent, warm] = dark ? ['#121a18', '#e6ece8', '#9fb0a8', '#2a3733', '#62d6b0', '#f2b263'] : ['#fbfdfa', '#14201c', '#53625c', '#dbe3dc', '#0a6a55', '#b3590f'];
  const { halfbyte, browser, adapter, probe, model, decode: writing, prefill: reading } = summary(report);
  const node = svg('svg', { xmlns: 'http://www.w3.org/2000/svg', viewBox: '0 0 800 420', width: 800, height: 420, role: 'img' });
  const text = (x, y, content, size, fill = ink, more = {}) => node.append(svg('text', { x, y, 'font-family': FONT, 'font-size': size, fill, ...more }, content));
  const rect = (x, y, width, height, fill, more = {}) => node.append(svg('rect', { x, y, width, height, fill, ...more }));
  const [decode, prefill] = [writing.tokens_per_s, reading.tokens_per_s];
  node.setAttribute('aria-label', `Benchmark of ${model.name} on ${adapter.name}: writes ${speed(decode.median)}, reads ${speed(prefill.median)} tokens a second`);

  rect(0, 0, 800, 420, paper);
  for (let i = 0; i < 4; i++) {
    rect(36 + i * 9, 32, 7, 15, soft, { opacity: 0.35 });
    rect(36 + i * 9, 50, 7, 15, accent);
  }
  text(84, 57, cut(model.name, 34), 25, ink, { 'font-weight': 650 });
  text(36, 100, cut(`${adapter.cpu ? 'CPU, one core' : adapter.name} · ${adapter.backend} · ${browser}`, 88), 15, soft);
  text(36, 122, `${model.format}, ${model.bits_per_weight.toFixed(2)} bits a weight, ${bytes(model.memory.weights_bytes_gpu)} of weights`, 15, soft);
  rect(36, 142, 728, 1, line);

  // Two numbers, each with the spread of its runs.
  [['writes', decode, accent, writing.tokens, 36], ['reads', prefill, warm, reading.tokens, 412]].forEach(([verb, spread, colour, tokens, x]) => {
    text(x, 176, verb, 15, soft);
    text(x, 228, speed(spread.median), 52, colour, { 'font-weight': 700, 'font-family': FONT });
    text(x, 252, `tokens/s, ${tokens} tokens`, 14, soft);
    const top = spread.max * 1.06;
    rect(x, 268, 352, 10, line, { rx: 3 });
    rect(x, 268, (352 * spread.median) / top, 10, colour, { rx: 3 });
    const [from, to] = [(352 * spread.min) / top, (352 * spread.max) / top];
    node.append(svg('path', { d: `M${x + from} 283v6M${x + from} 286H${x + to}M${x + to} 283v6`, stroke: soft, 'stroke-width': 1.5, fill: 'none' }));
  });

  const share = writing.of_copy_bandwidth;
  if (share !== null && share !== undefined) {
    text(36, 326, `${percent(share)} of the bandwidth of a plain copy`, 15, ink, { 'font-weight': 600 });
    text(764, 326, `${bytes(writing.bytes_per_s)}/s of ${bytes(probe.copy_bytes_per_s)}/s`, 14, soft, { 'text-anchor': 'end' });
    // Sixteen cells: a nibble's worth of steps.
    for (let i = 0; i < 16; i++) {
      const part = Math.max(0, Math.min(1, share * 16 - i));
      rect(36 + i * 45.5, 338, 43, 14, line, { rx: 2 });
      if (part) rect(36 + i * 45.5, 338, 43 * part, 14, accent, { rx: 2 });
    }
  } else text(36, 338, 'Measured on the CPU, without a GPU.', 15, soft);

  text(36, 394, `halfbyte ${halfbyte}`, 13, soft, { 'font-family': MONO });
  text(764, 394, `median of ${decode.runs} runs, with the range`, 13, soft, { 'text-anchor': 'end' });
  return node;
}
