// The app's own worker: takes a beginning from the page, sends the story back piece by piece. The engine runs in a
// second worker, which halfbyte starts from here, so this one stays free for the app's own work as well.

import { Halfbyte } from './halfbyte/index.js';

const loading = Halfbyte.load('embedded');
let generation;

addEventListener('message', async ({ data: { prompt } }) => {
  try {
    const model = await loading;
    generation?.cancel(); // a new beginning ends the story before
    const mine = (generation = model.generate(prompt, { temperature: 0, maxTokens: 120 }));
    postMessage({ begin: prompt });
    for await (const piece of mine) if (mine === generation) postMessage({ piece });
    const { tokens, finishReason } = await mine.summary;
    if (finishReason !== 'cancelled') postMessage({ end: `${tokens.length} tokens on ${model.adapter.name}` });
  } catch (error) {
    postMessage({ error: error.message }); // errors cross workers as plain text
  }
});
