import { HalfbyteError, createEngine } from 'halfbyte';

const form = document.querySelector('form')!;
const story = document.querySelector<HTMLElement>('#story')!;
const state = document.querySelector<HTMLElement>('#state')!;
const { prompt, stop } = form.elements as unknown as { prompt: HTMLInputElement; stop: HTMLButtonElement };

// Loading begins with the page; the first answer waits for it.
const engine = createEngine('embedded', {
  onProgress: ({ stage, done, total }) => (state.textContent = `${stage} ${total ? Math.floor((done / total) * 100) : 0} %`),
});
engine.then(({ model }) => (state.textContent = `ready, on ${model.adapter.name}`), failed);

async function write() {
  const { chat } = await engine;
  story.textContent = prompt.value;
  const stream = await chat.completions.create({
    messages: [{ role: 'user', content: prompt.value }],
    temperature: 0, // the same story each time; leave it out for another
    max_tokens: 120,
    stream: true,
  });
  for await (const chunk of stream) story.append(chunk.choices[0]?.delta.content ?? '');
}

function failed(error: unknown) {
  state.textContent = error instanceof HalfbyteError ? `${error.kind}: ${error.message}` : String(error);
}

form.addEventListener('submit', async (event) => {
  event.preventDefault();
  stop.hidden = false;
  await write().catch(failed);
  stop.hidden = true;
});
stop.addEventListener('click', async () => (await engine).interruptGenerate());
