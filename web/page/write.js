// Stories and conversations.

import { app, busy, onChange, params, run, setState, stop } from './app.js';
import { $, announce, copy, el } from './dom.js';
import { clearErrors } from './errors.js';
import { growing } from './markdown.js';
import { finished, started, tick } from './meter.js';
import { hideProgress, showProgress } from './progress.js';
import { sampling, shared } from './settings.js';

const input = $('input');
const story = $('story');
const chat = $('chat');

let shown = null; // the model that the panel is made for
let begun = ''; // the beginning of the story that is shown
let text = ''; // the story, beginning included
let attempt = 0;
let seed = null;
let messages = []; // the conversation, without the system prompt
let items = []; // its elements
let editing = false;
let pinned = true;
let prompt = params.get('prompt'); // for the first model

const isChat = () => Boolean(app.model?.info.chat);

// --- text that grows ---------------------------------------------------------------------------------------------

/** Collects pieces and shows them once a frame, so that a token costs neither a layout nor a paint of its own. */
function batched(show) {
  let waiting = '';
  let frame = 0;
  const flush = () => {
    cancelAnimationFrame(frame);
    frame = 0;
    if (!waiting) return;
    const now = waiting;
    waiting = '';
    show(now);
    if (pinned) $('scroll').scrollTop = 1e9;
  };
  return { push: (piece) => ((waiting += piece), (frame ||= requestAnimationFrame(flush))), flush };
}

/** Tells a screen reader whole sentences, and no more often than every few seconds. */
function reader() {
  let waiting = '';
  let last = performance.now();
  return {
    push(piece) {
      waiting += piece;
      if (performance.now() - last < 4000) return;
      const end = Math.max(...['. ', '! ', '? ', '\n', '.”', '."'].map((mark) => waiting.lastIndexOf(mark)));
      if (end < 0) return;
      announce(waiting.slice(0, end + 1));
      waiting = waiting.slice(end + 1);
      last = performance.now();
    },
    end(words) {
      announce(`${waiting} ${words}`);
    },
  };
}

/** Runs a generation, handing its text to `show` by the frame. Resolves to its summary; undefined after an error. */
async function generate(prompt, show, options) {
  clearErrors();
  $('stats').textContent = '';
  const summary = await run('generating', async (signal) => {
    const model = app.model;
    let told = false;
    const generation = model.generate(prompt, {
      ...options,
      onProgress: (progress) => {
        // A short prompt is read faster than it can be told.
        if (progress.stage === 'prompt' && !(progress.total > 256)) return;
        told = true;
        showProgress(progress);
      },
    });
    signal.addEventListener('abort', () => generation.cancel(), { once: true });
    if (signal.aborted) generation.cancel();
    const screen = batched(show);
    const voice = reader();
    started();
    announce('Writing');
    try {
      for await (const piece of generation) {
        if (told) hideProgress();
        told = false;
        tick();
        screen.push(piece);
        voice.push(piece);
      }
      const summary = await generation.summary;
      screen.flush();
      voice.end({ stop: 'The end.', length: 'Full length.', cancelled: 'Stopped.' }[summary.finishReason]);
      finished(summary);
      return summary;
    } finally {
      screen.flush();
      finished();
    }
  });
  if (summary) {
    seed = summary.seed;
    const n = summary.tokens.length;
    const words = [`${n} token${n === 1 ? '' : 's'}`];
    if (seed !== null) words.push(`seed ${seed}`);
    if (summary.finishReason !== 'stop') words.push({ length: 'full length', cancelled: 'stopped' }[summary.finishReason]);
    if (summary.recoveries) words.push(`GPU recovered ${summary.recoveries}×`);
    $('stats').textContent = words.join(' · ');
    $('stats').dataset.reason = summary.finishReason;
    app.model?.memory().then((memory) => ((app.memory = memory), document.dispatchEvent(new Event('halfbyte-memory'))), () => {});
  }
  return summary;
}

// --- a story -----------------------------------------------------------------------------------------------------

function append(piece) {
  text += piece;
  // Lines are elements of their own: only the last is laid out anew.
  piece.split('\n').forEach((line, i) => {
    if (i) story.append(el('p'));
    const last = story.lastChild;
    if (!line) return;
    if (last.lastChild?.nodeType === Node.TEXT_NODE) last.lastChild.appendData(line);
    else last.append(line);
  });
}

function showBeginning(beginning) {
  begun = beginning;
  text = '';
  story.replaceChildren(el('p', { class: 'first' }, el('span', { class: 'beginning' })));
  const [first, ...rest] = beginning.split('\n');
  story.firstChild.firstChild.textContent = first;
  text = first;
  if (rest.length) append(`\n${rest.join('\n')}`);
}

export async function writeStory(beginning = input.value || app.model.info.prompt || '') {
  const again = beginning === begun && text.length > begun.length;
  attempt = again ? attempt + 1 : 0;
  await stop();
  showBeginning(beginning);
  pinned = true;
  await generate(beginning, append, sampling(attempt));
}

const continueStory = () => generate(text, append, sampling(++attempt));

// --- a conversation ----------------------------------------------------------------------------------------------

function addMessage(message) {
  messages.push(message);
  const body = el('div', { class: 'body' });
  const tools = el('div', { class: 'tools' });
  const tool = (name, label, action) => tools.append(el('button', { type: 'button', class: 'small', [`data-${name}`]: '', onclick: (event) => action(event.currentTarget) }, label));
  tool('copy', 'Copy', (button) => copy(message.content, button));
  if (message.role === 'user') tool('edit', 'Edit', edit);
  else tool('regenerate', 'Regenerate', regenerate);
  const item = el('li', { class: message.role, 'data-role': message.role }, el('span', { class: 'sr' }, message.role === 'user' ? 'You: ' : 'Model: '), body, tools);
  chat.append(item);
  items.push(item);
  const show = message.role === 'user' ? (whole) => (body.textContent = whole) : growing(body);
  show(message.content);
  return (piece) => show((message.content += piece));
}

function drop(from) {
  messages.splice(from);
  for (const item of items.splice(from)) item.remove();
}

const lastUser = () => messages.findLastIndex((message) => message.role === 'user');

async function answer() {
  const system = $('system').value.trim();
  const prompt = [...(system ? [{ role: 'system', content: system }] : []), ...messages.map(({ role, content }) => ({ role, content }))];
  const show = addMessage({ role: 'assistant', content: '' });
  pinned = true;
  $('scroll').scrollTop = 1e9;
  const at = messages.length - 1;
  await generate(prompt, show, sampling(attempt));
  // An answer that never came is no part of the conversation.
  if (messages[at]?.content === '' && messages.length === at + 1) drop(at);
  update();
}

export async function send(content = input.value) {
  if (!content.trim()) return input.focus();
  await stop();
  if (editing) drop(lastUser());
  stopEditing();
  input.value = '';
  fit();
  attempt = 0;
  addMessage({ role: 'user', content: content.trim() });
  await answer();
}

async function regenerate() {
  await stop();
  if (lastUser() < 0) return;
  drop(lastUser() + 1);
  attempt++;
  await answer();
}

function edit() {
  editing = true;
  input.value = messages[lastUser()].content;
  $('editing').hidden = false;
  fit();
  input.focus();
}

function stopEditing() {
  editing = false;
  $('editing').hidden = true;
}

async function newChat() {
  await stop();
  stopEditing();
  drop(0);
  $('stats').textContent = '';
  await app.model?.reset().catch(() => {});
  update();
  input.focus();
}

// --- the panel ---------------------------------------------------------------------------------------------------

const grows = CSS.supports('field-sizing', 'content');
function fit() {
  if (grows) return;
  input.style.height = 'auto';
  input.style.height = `${input.scrollHeight + 2}px`;
}

function swap(from, to) {
  const had = document.activeElement === from;
  from.hidden = true;
  to.hidden = false;
  if (had) to.focus();
}

function update() {
  const { model, state } = app;
  const chatting = isChat();
  if (model && model !== shown) {
    shown = model;
    stopEditing();
    $('stats').textContent = '';
    if (!chatting) {
      const beginning = prompt ?? model.info.prompt ?? '';
      input.value = beginning;
      attempt = 0;
      showBeginning(beginning);
    } else if (text) input.value = '';
    fit();
  }
  const generating = state === 'generating';
  const talking = chatting ? messages.length > 0 : text !== '' || generating;
  document.documentElement.dataset.mode = chatting ? 'chat' : 'story';
  $('write-title').textContent = chatting ? 'Chat' : 'Story';
  $('input-label').textContent = chatting ? 'Message' : 'Beginning';
  input.placeholder = chatting ? 'Say something' : 'How does it begin?';
  story.hidden = !model || chatting || !talking;
  chat.hidden = !model ? !messages.length : !chatting || !talking;
  $('blank').hidden = !story.hidden || !chat.hidden;
  $('blank').textContent = !model ? (state === 'loading' ? 'One moment …' : 'No model is loaded. Choose one under Models.') : chatting ? `${model.info.name} is ready. It runs here, and what you say stays here.` : 'This model continues texts. Write how it begins.';
  if (generating) swap($('send'), $('stop'));
  else swap($('stop'), $('send'));
  const free = Boolean(model) && (!busy() || generating);
  $('send').disabled = !free;
  $('send').textContent = chatting ? 'Send' : begun !== '' && input.value === begun && text.length > begun.length ? 'Another story' : 'Write';
  $('continue').hidden = chatting;
  $('continue').disabled = !free || generating || text.length <= begun.length;
  $('new-chat').hidden = !chatting;
  $('new-chat').disabled = !free || !messages.length;
  $('copy-text').disabled = chatting ? !messages.length : !text;
  $('copy-link').disabled = !app.loaded;
  items.forEach((item, i) => {
    const last = i === items.length - 1;
    item.classList.toggle('open', generating && last);
    for (const button of item.querySelectorAll('[data-edit]')) button.hidden = i !== lastUser() || !free || !chatting;
    for (const button of item.querySelectorAll('[data-regenerate]')) button.hidden = !last || !free || generating || !chatting;
  });
  story.classList.toggle('open', generating);
}

/** An address that writes the same again. */
function link() {
  const url = new URL(location.pathname, location.href);
  const source = app.loaded?.source;
  if (typeof source === 'string' && source !== 'embedded') url.searchParams.set('model', source);
  for (const key of ['adapter', 'precision', 'limits', 'without', 'context']) if (params.has(key)) url.searchParams.set(key, params.get(key));
  shared(url.searchParams);
  if (!isChat()) {
    if (begun && begun !== app.model?.info.prompt) url.searchParams.set('prompt', begun);
    if (seed !== null) url.searchParams.set('seed', seed);
  }
  return url.href;
}

const submit = () => {
  if (!app.model || (busy() && app.state !== 'generating')) return;
  return isChat() ? send() : writeStory();
};

export function initWrite() {
  onChange(update);
  $('composer').addEventListener('submit', (event) => {
    event.preventDefault();
    submit();
  });
  input.addEventListener('input', () => {
    fit();
    update();
  });
  input.addEventListener('keydown', (event) => {
    // On a phone the key makes a new line; there is a button to send.
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing || matchMedia('(pointer: coarse)').matches) return;
    event.preventDefault();
    if (isChat() && app.state === 'generating') return;
    submit();
  });
  $('stop').addEventListener('click', () => stop());
  $('continue').addEventListener('click', continueStory);
  $('new-chat').addEventListener('click', newChat);
  $('edit-cancel').addEventListener('click', () => {
    stopEditing();
    input.value = '';
    fit();
  });
  $('copy-text').addEventListener('click', (event) =>
    copy(isChat() ? messages.map(({ role, content }) => `${role === 'user' ? 'You' : 'Model'}: ${content}`).join('\n\n') : text, event.currentTarget));
  $('copy-link').addEventListener('click', (event) => copy(link(), event.currentTarget));
  document.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape' || event.defaultPrevented || document.querySelector('dialog[open]')) return;
    if (['generating', 'verifying', 'benchmarking'].includes(app.state)) stop();
    else if (editing) $('edit-cancel').click();
  });
  document.addEventListener('halfbyte-loaded', autoplay);
  document.addEventListener('halfbyte-anew', () => (isChat() ? newChat() : writeStory()));
  document.addEventListener('halfbyte-dismissed', () => app.model && !busy() && setState('ready'));
  // Who scrolls up wants to read there. A panel that is hidden says nothing about that.
  const box = $('scroll');
  new IntersectionObserver(([entry]) => box.clientHeight && (pinned = entry.isIntersecting), { root: box, rootMargin: '0px 0px 80px' }).observe($('end'));
  new ResizeObserver(() => pinned && (box.scrollTop = 1e9)).observe(box);
}

/** What a new model does first: the story that the address, or the model itself, asks for. */
async function autoplay() {
  const first = prompt;
  prompt = null;
  if (!app.model || busy() || params.get('autoplay') === '0' || !(first || app.model.info.prompt)) return;
  if (!isChat()) await writeStory();
  else if (first && !messages.length) await send(first);
}

