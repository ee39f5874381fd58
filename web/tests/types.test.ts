// Every public call, as a program in TypeScript makes it. Only compiled, never run.

import { Halfbyte, HalfbyteError, createEngine, droppedFiles } from 'halfbyte';
import type {
  AdapterInfo, Benchmark, CachedModel, ChatCompletion, ChatCompletionChunk, Engine, ErrorKind, Generation, LoadOptions,
  MemoryInfo, Model, ModelInfo, Outcome, Perplexity, Progress, Source, Summary, TensorInfo, Verification,
} from 'halfbyte';

export async function all(input: HTMLInputElement, event: DragEvent, worker: Worker) {
  const sources: Source[] = [
    'embedded', 'hf:owner/repo@main', new URL('https://example.org/a.gguf'), new Blob([]), { cached: 'id' },
    { 'model.gguf': new Blob([]) }, await droppedFiles(event.dataTransfer!),
  ];
  if (input.files) sources.push(input.files, input.files[0]!);
  const stop = new AbortController();
  const options: LoadOptions = {
    onProgress({ stage, done, total, name, perSecond, secondsLeft }: Progress) {
      const text: string = `${stage} ${name ?? ''} ${done}/${total ?? '?'} ${perSecond ?? 0} ${secondsLeft ?? 0}`;
      return void text;
    },
    signal: stop.signal, adapter: 'low-power', limits: 'floor', without: ['subgroups', 'f16', 'dot4'], context: 512, precision: 'f16', cache: false,
    hub: { endpoint: 'https://example.org', token: 'secret' }, sha256: 'abc', worker,
  };
  const model: Model = await Halfbyte.load(sources[0]!, options);
  const info: ModelInfo = model.info;
  const tensor: TensorInfo | undefined = info.tensors[0];
  const adapter: AdapterInfo = await Halfbyte.adapter({ adapter: 'cpu', limits: 'iphone', without: [] });
  const why: string | undefined = adapter.missing;
  const version: string = Halfbyte.version;

  const generation: Generation = model.generate('Once', { maxTokens: 5, stop: ['.'], temperature: 0, topK: 1, topP: 1, minP: 0, repeatPenalty: 1, repeatLast: 0, seed: 1 });
  for await (const piece of generation) piece.toUpperCase();
  const summary: Summary = await generation.summary;
  const text: string = await model.generate([{ role: 'user', content: 'Hi' }], { signal: stop.signal, onProgress() {} }).text();
  model.generate(new Uint32Array([1, 2])).cancel();
  model.generate([1, 2]);

  const tokens: Uint32Array = await model.tokenize('a', { special: false });
  const back: string = await model.detokenize(tokens);
  const perplexity: Perplexity = await model.perplexity('text', { signal: stop.signal, onProgress() {} });
  const verification: Verification = await model.verify({ onOutcome: (outcome: Outcome) => outcome.pass });
  const benchmark: Benchmark = await model.bench({ prompt: 1, generate: 1, runs: 1 });
  const memory: MemoryInfo = await model.memory();
  await model.reset();
  await model.loseDevice();

  const cached: CachedModel[] = await Halfbyte.cache.list();
  const unavailable: string | null = await Halfbyte.cache.unavailable();
  const { usage, quota }: { usage: number; quota: number } = await Halfbyte.cache.estimate();
  await Halfbyte.cache.delete(cached[0]!.id);
  await Halfbyte.cache.clear();

  const engine: Engine = await createEngine(model);
  const other: Engine = await createEngine('hf:owner/repo', options);
  const whole: ChatCompletion = await engine.chat.completions.create({ messages: [{ role: 'user', content: 'Hi' }] }, { signal: stop.signal });
  const stream: AsyncIterable<ChatCompletionChunk> = await engine.chat.completions.create({ messages: [], stream: true, stop: 'x' });
  for await (const chunk of stream) chunk.choices[0]?.delta.content?.trim();
  engine.interruptGenerate();
  await other.unload();
  await model.close();

  try {
    await Halfbyte.load('nothing');
  } catch (error) {
    if (!(error instanceof HalfbyteError)) throw error;
    const kind: ErrorKind = error.kind;
    const made: HalfbyteError = new HalfbyteError('Aborted', error.message);
    return [kind, made];
  }
  // What must not compile.
  // @ts-expect-error a stage that there is not
  options.onProgress?.({ stage: 'sleep', done: 0 });
  // @ts-expect-error no such adapter
  await Halfbyte.adapter({ adapter: 'fast' });
  // @ts-expect-error one answer at a time
  await engine.chat.completions.create({ messages: [], n: 2 });
  return [tensor, why, version, summary, text, back, perplexity, verification, benchmark, memory, unavailable, usage, quota, whole];
}
