// Markdown, as much of it as chat models write, into elements: never into markup.

import { copy, el } from './dom.js';

const INLINE = /(`+)([\s\S]+?)\1|\*\*(?=\S)([\s\S]+?\S?)\*\*|(?<![\w*])\*(?=[^\s*])([^*]+)\*(?![\w*])/;

function inline(text) {
  const nodes = [];
  for (let match; (match = INLINE.exec(text)); text = text.slice(match.index + match[0].length)) {
    if (match.index) nodes.push(text.slice(0, match.index));
    if (match[2] !== undefined) nodes.push(el('code', null, match[2].trim() || match[2]));
    else if (match[3] !== undefined) nodes.push(el('strong', null, inline(match[3])));
    else nodes.push(el('em', null, inline(match[4])));
  }
  if (text) nodes.push(text);
  return nodes;
}

/** Cuts a text where one block ends and the next begins: at blank lines, and around fences. */
export function blocks(text) {
  const found = [];
  let lines = [];
  let fence = null;
  const end = () => {
    if (lines.some((line) => line.trim())) found.push(lines.join('\n'));
    lines = [];
  };
  for (const line of text.split('\n')) {
    const mark = /^\s*(```+|~~~+)/.exec(line)?.[1];
    if (fence) {
      lines.push(line);
      if (mark?.startsWith(fence)) (fence = null), end();
    } else if (mark) {
      end();
      fence = mark;
      lines.push(line);
    } else if (line.trim()) lines.push(line);
    else end();
  }
  end();
  return found;
}

const ITEM = /^\s*(?:([-*+])|(\d{1,9})[.)])\s+(.*)$/;

/** One block as elements. */
export function block(text) {
  const lines = text.split('\n');
  if (/^\s*(```|~~~)/.test(lines[0])) {
    const closed = lines.length > 1 && /^\s*(```|~~~)\s*$/.test(lines.at(-1));
    const code = lines.slice(1, closed ? -1 : undefined).join('\n');
    const button = el('button', { type: 'button', class: 'small', 'data-copy-code': '', onclick: () => copy(code, button) }, 'Copy');
    return [el('div', { class: 'code' }, el('pre', { tabindex: '0' }, el('code', null, code)), button)];
  }
  const nodes = [];
  let list = null;
  let paragraph = [];
  const end = () => {
    if (paragraph.length) nodes.push(el('p', null, inline(paragraph.join('\n'))));
    paragraph = [];
  };
  for (const line of lines) {
    const item = ITEM.exec(line);
    const heading = /^#{1,6}\s+(.*)$/.exec(line);
    if (item) {
      end();
      const tag = item[1] ? 'UL' : 'OL';
      if (list?.tagName !== tag) nodes.push((list = el(tag, tag === 'OL' && item[2] !== '1' ? { start: item[2] } : null)));
      list.append(el('li', null, inline(item[3])));
    } else if (heading) {
      end();
      list = null;
      nodes.push(el('p', { class: 'heading' }, el('strong', null, inline(heading[1]))));
    } else if (list && /^\s+/.test(line)) list.lastChild.append(' ', ...inline(line.trim()));
    else {
      list = null;
      paragraph.push(line);
    }
  }
  end();
  return nodes;
}

/**
 * Shows a growing text in `parent`: blocks that are complete stay as they are, only the last is made anew.
 * Returns a function that takes the whole text so far.
 */
export function growing(parent) {
  const shown = [];
  return (text) => {
    const wanted = blocks(text);
    wanted.forEach((source, i) => {
      if (shown[i]?.source === source) return;
      const nodes = block(source);
      if (shown[i]) {
        shown[i].nodes[0]?.before(...nodes);
        for (const node of shown[i].nodes) node.remove();
      } else parent.append(...nodes);
      shown[i] = { source, nodes };
    });
    for (const old of shown.splice(wanted.length)) for (const node of old.nodes) node.remove();
  };
}
