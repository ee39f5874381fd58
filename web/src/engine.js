// The shape of OpenAI's client around a model.

import { HalfbyteError, aborted, check } from './errors.js';

export function createEngine(model) {
  const running = new Set();

  /** The request in this package's words. */
  function start(request, signal) {
    const { messages, n = 1, temperature, top_p: topP, seed, stop, max_tokens, max_completion_tokens } = request;
    if (!Array.isArray(messages) || !messages.length) throw new HalfbyteError('Invalid', 'a request needs messages: [{ role, content }, …]');
    if (n !== 1) throw new HalfbyteError('Invalid', `n: one answer at a time, found ${n}; ask again for another`);
    check(signal);
    const prompt = model.info.chat ? messages : messages.map(({ content }) => content).join('\n');
    const options = { temperature, topP, seed, signal, maxTokens: max_completion_tokens ?? max_tokens, stop: typeof stop === 'string' ? [stop] : stop };
    const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined && value !== null));
    const generation = model.generate(prompt, given);
    running.add(generation);
    generation.summary.finally(() => running.delete(generation)).catch(() => {});
    const head = { id: `chatcmpl-${crypto.getRandomValues(new Uint32Array(3)).join('')}`, created: Math.floor(Date.now() / 1000), model: request.model ?? model.info.name };
    return { generation, head };
  }

  async function end(generation, signal) {
    const { promptTokens, tokens, finishReason } = await generation.summary;
    if (signal?.aborted) throw aborted();
    return {
      finish_reason: finishReason === 'cancelled' ? null : finishReason,
      usage: { prompt_tokens: promptTokens.length, completion_tokens: tokens.length, total_tokens: promptTokens.length + tokens.length },
    };
  }

  async function whole({ generation, head }, signal) {
    const content = await generation.text();
    const { finish_reason, usage } = await end(generation, signal);
    const choice = { index: 0, message: { role: 'assistant', content }, finish_reason };
    return { ...head, object: 'chat.completion', choices: [choice], usage };
  }

  async function* chunks({ generation, head }, request, signal) {
    const chunk = (delta, finish_reason = null) => ({ ...head, object: 'chat.completion.chunk', choices: [{ index: 0, delta, finish_reason }] });
    try {
      yield chunk({ role: 'assistant', content: '' });
      for await (const content of generation) yield chunk({ content });
      const { finish_reason, usage } = await end(generation, signal);
      yield chunk({}, finish_reason);
      if (request.stream_options?.include_usage) yield { ...head, object: 'chat.completion.chunk', choices: [], usage };
    } finally {
      generation.cancel(); // left early
    }
  }

  return {
    model,
    chat: {
      completions: {
        async create(request, { signal } = {}) {
          const started = start(request, signal);
          return request.stream ? chunks(started, request, signal) : whole(started, signal);
        },
      },
    },
    interruptGenerate: () => running.forEach((generation) => generation.cancel()),
    unload: () => model.close(),
  };
}
