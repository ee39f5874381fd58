// Small tools for the page: elements, numbers, copying, saving.

export const $ = (id) => document.getElementById(id);

function make(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? '' : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** An HTML element; text children are text, never markup. */
export const el = (tag, attributes, ...children) => make(document.createElement(tag), attributes, children);
/** The same for SVG. */
export const svg = (tag, attributes, ...children) => make(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);

/** An icon of 4 × 4 bits: four nibbles, one a row. */
export function bits(hex) {
  const icon = svg('svg', { viewBox: '0 0 4 4', 'aria-hidden': 'true', class: 'bits4' });
  [...hex].forEach((nibble, y) => {
    for (let x = 0; x < 4; x++) if (parseInt(nibble, 16) & (8 >> x)) icon.append(svg('rect', { x: x + 0.06, y: y + 0.06, width: 0.88, height: 0.88 }));
  });
  return icon;
}

const round = (value) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2)).replace(/(\.\d*?)0+$/, '$1').replace(/\.$/, '');

function scaled(value, step, units) {
  if (!Number.isFinite(value)) return 'not known';
  let unit = 0;
  while (value >= step * 0.9995 && unit < units.length - 1) (value /= step), unit++;
  return `${unit ? round(value) : Math.round(value)} ${units[unit]}`;
}
export const bytes = (value) => scaled(value, 1000, ['B', 'kB', 'MB', 'GB', 'TB']);
export const binary = (value) => scaled(value, 1024, ['B', 'KiB', 'MiB', 'GiB', 'TiB']);
export const count = (value) => scaled(value, 1000, ['', 'thousand', 'million', 'billion']).trim();
/** A share as a percentage; a small one with a decimal. */
export const percent = (share) => `${(share * 100).toFixed(share < 0.0995 ? 1 : 0)} %`;
export const speed = (value) => (!Number.isFinite(value) || value <= 0 ? '–' : value >= 100 ? Math.round(value).toLocaleString('en') : value.toFixed(1));

export function duration(seconds) {
  if (!(seconds >= 1)) return 'a moment';
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

/** Says something to a screen reader. */
export function announce(text) {
  $('announce').textContent = text;
}

/** Copies a text and lets the button say so. */
export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // No clipboard outside https and localhost: the old way.
    const area = el('textarea', { class: 'sr', readonly: true });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
    button?.focus();
  }
  if (!button || button.dataset.was) return;
  button.dataset.was = button.textContent;
  button.textContent = 'Copied';
  announce('Copied');
  setTimeout(() => {
    button.textContent = button.dataset.was;
    delete button.dataset.was;
  }, 1500);
}

/** Saves a blob as a file. */
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  el('a', { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
