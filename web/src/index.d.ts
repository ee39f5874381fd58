// Runs quantized language models in the page's own GPU (WebGPU), or on its CPU where there is none.

/** What a model is loaded from. */
export type Source =
  /** The small storyteller that comes with the package. */
  | 'embedded'
  /**
   * `hf:owner/repo[/file][@revision]` (or just `owner/repo`), or the address of a `.gguf` file, of a `.safetensors`
   * file with its `config.json` beside it, or of a folder (ending in `/`).
   */
  | string
  | URL
  /** A file, or the files of a folder: from a picker, a drop, OPFS. Read in slices, never as a whole. */
  | Blob
  | Iterable<File>
  | Record<string, Blob>
  /** A model in the cache, by the id that `Halfbyte.cache.list()` gives. */
  | { cached: string };

/** How far something has come. */
export interface Progress {
  /**
   * `download`: bytes that arrived; `check`: bytes hashed; `weights`: bytes of the model that are on the device;
   * `kernels`: compute pipelines made; `prompt`: tokens of the prompt that were read; `verify`, `bench`: steps.
   */
  stage: 'download' | 'check' | 'weights' | 'kernels' | 'prompt' | 'verify' | 'bench';
  done: number;
  /** Absent where nobody knows. */
  total?: number;
  /** The file or kernel that it is about. */
  name?: string;
  /** Of `done`, a second; smoothed. Absent at the start. */
  perSecond?: number;
  /** Seconds left, as far as can be told. */
  secondsLeft?: number;
}

/** A LoRA adapter: `adapter_config.json` and `adapter_model.safetensors`. */
export interface AdapterSource {
  /** Files of its folder, or the folder's address (ending in `/`). */
  source: string | URL | Iterable<File> | Record<string, Blob>;
  /** Default: the name of its folder, or `adapter`. No two may be the same. */
  name?: string;
  /** 1 as it was trained (default), 0 not at all. */
  weight?: number;
}

export interface LoadOptions {
  onProgress?: (progress: Progress) => void;
  /** Stops loading; `load` then throws an `Aborted`. A download goes on where it stopped the next time. */
  signal?: AbortSignal;
  /** `auto` (default): the GPU, or the CPU where there is none; `gpu`; `low-power`: the GPU that saves the battery; `cpu`. */
  adapter?: 'auto' | 'gpu' | 'low-power' | 'cpu';
  /** `floor`: no more than WebGPU guarantees everywhere; `iphone`: 1 GiB buffers. For tests. Default: `adapter`. */
  limits?: 'adapter' | 'floor' | 'iphone';
  /** Capabilities to leave unused; without `software` an adapter on the CPU gets the kernels of a GPU. For tests. */
  without?: ('f16' | 'subgroups' | 'dot4' | 'software')[];
  /** Positions that the KV cache holds. Default: the model's own, at most 2048. */
  context?: number;
  /** Storage of the KV cache. Default: `auto`, which is f16. */
  precision?: 'f32' | 'f16' | 'int8' | 'int4' | 'auto';
  /** Quantize an unquantized model (f32, f16, bf16) as it is loaded: 4.5, 8 or 4.6 bits a weight. */
  quantize?: 'nf4' | 'int8' | 'int4';
  /**
   * `int8`: activations rounded to 8 bits where a GPU has packed dot products and weights are integers, which is faster
   * (errors of 0.8 %); `native`: in 8 bits where the model was made for that (W8A8, FP8, BitNet). Default: `f32`.
   */
  activations?: 'f32' | 'int8' | 'native';
  /** LoRA adapters as PEFT writes them, added with their weights; see `Model.setAdapterWeights`. */
  adapters?: AdapterSource[];
  /** Keep downloads in the browser's storage (OPFS). Default: true, where there is one. */
  cache?: boolean;
  /** The Hugging Face hub. Default: `https://huggingface.co`, no token. */
  hub?: { endpoint?: string; token?: string };
  /** SHA-256 of the file (hex), for an address of one file. A hub's are known. */
  sha256?: string;
  /** A worker that runs `halfbyte/worker`, for bundlers that want to make it themselves. */
  worker?: Worker;
}

export interface SamplingOptions {
  /** 0 always takes the most likely token. Default: 0.8. */
  temperature?: number;
  /** Only the k most likely tokens; 0: all. Default: 40. */
  topK?: number;
  /** Only the most likely tokens that together reach this probability. Default: 0.95. */
  topP?: number;
  /** Only tokens at least this many times as likely as the most likely one. Default: 0.05. */
  minP?: number;
  /** Makes tokens of the recent text less likely; 1: not at all. Default: 1. */
  repeatPenalty?: number;
  /** Recent tokens that the penalty looks at. Default: 64. */
  repeatLast?: number;
  /** The same seed gives the same text. Default: a new one each time; see `Summary.seed`. */
  seed?: number;
}

export interface GenerateOptions extends SamplingOptions {
  /** Default: until the model stops or the context is full. */
  maxTokens?: number;
  /** Texts that end the generation; they are not part of the output. */
  stop?: string[];
  signal?: AbortSignal;
  /** Stages `prompt` while the prompt is read, and those of loading if a lost GPU has to be set up again. */
  onProgress?: (progress: Progress) => void;
}

export interface Message {
  role: 'system' | 'user' | 'assistant';
  content: string;
}

/** What a generation came to, or has come to so far. */
export interface Summary {
  promptTokens: number[];
  tokens: number[];
  /** `stop`: the model's end or a stop text; `length`: `maxTokens` or a full context; `cancelled`. */
  finishReason: 'stop' | 'length' | 'cancelled';
  prefillTokensPerSecond: number;
  decodeTokensPerSecond: number;
  seed: number | null;
  /** How often the GPU was lost and set up again on the way. */
  recoveries: number;
}

/** Text as it comes: `for await (const piece of generation)`. Leaving the loop cancels. */
export interface Generation extends AsyncIterable<string> {
  /** Ends the generation at the next token; the loop ends, `summary` says `cancelled`. */
  cancel(): void;
  /** After the end. */
  readonly summary: Promise<Summary>;
  /** All text, at the end. */
  text(): Promise<string>;
}

/** The adapter and what of it is used. */
export interface AdapterInfo {
  /** The CPU twin: there is no GPU, or `cpu` was asked for. */
  cpu: boolean;
  name: string;
  backend: string;
  /** `discrete`, `integrated`, `software`, `other` … */
  kind: string;
  driver: string;
  capabilities: {
    f16: boolean;
    /** Smallest and largest size. */
    subgroups: [number, number] | null;
    dot4: boolean;
    software: boolean;
    max_binding: number;
    max_buffer: number;
    workgroup_bytes: number;
    invocations: number;
    memory_budget: number | null;
  };
  /** Why there is no GPU, and how to get one in this browser. */
  missing?: string;
}

/** One matrix or vector of a model. */
export interface TensorInfo {
  /** Hugging Face name: `model.layers.0.self_attn.q_proj`. */
  name: string;
  /** `Q4_0`, `GPTQ`, `NF4`, `F32` … */
  format: string;
  /** How it is coded on the GPU; null for vectors. */
  codec: string | null;
  shape: number[];
  bits_per_weight: number;
  bits_per_weight_disk: number;
  bytes: number;
  bytes_gpu: number;
  transform: 'none' | 'permuted' | 'hadamard';
}

export interface ModelInfo {
  name: string;
  format: string;
  architecture: string;
  layers: number;
  hidden: number;
  heads: number;
  kvHeads: number;
  vocabulary: number;
  /** Positions of the KV cache. */
  context: number;
  parameters: number;
  bitsPerWeight: number;
  /** Whether it has a chat template: `generate` then takes messages. */
  chat: boolean;
  /** What it writes about when nobody says; only the embedded model has one. */
  prompt?: string;
  tensors: TensorInfo[];
  /** LoRA adapters, and how much each counts. */
  adapters: { name: string; weight: number }[];
  memory: MemoryInfo;
  /** Its id in the cache, if it is there. */
  cached: string | null;
  /** Why it is not cached, if it is not: a private window, say. */
  note?: string;
}

/** Bytes. */
export interface MemoryInfo {
  weights: number;
  kv: number;
  /** All buffers on the GPU. */
  gpu: number;
  /** WebAssembly memory. */
  wasm: number;
}

/** How one kernel did against its CPU twin. */
export interface Outcome {
  name: string;
  codec: string;
  max_error: number;
  tolerance: number;
  pass: boolean;
  problem?: string;
}

export interface Verification {
  adapter: AdapterInfo;
  pass: boolean;
  outcomes: Outcome[];
  seconds: number;
}

/** Median and range of some runs. */
export interface Spread {
  median: number;
  min: number;
  max: number;
  runs: number;
  /** Distance of the quartiles as a share of the median. */
  noise: number;
}

/** GPU time of one kernel in one step. */
export interface KernelTime {
  kernel: string;
  calls: number;
  ms: number;
  share: number;
}

/** What `halfbyte bench --json` prints, schema 2; `benchmarks/README.md` in the repository describes every field. */
export interface Benchmark {
  schema_version: 2;
  halfbyte: string;
  commit: string | null;
  /** Seconds since 1970. */
  time: number;
  system: string;
  browser: string | null;
  /** One here; natively as many as were measured. */
  adapters: {
    adapter: AdapterInfo;
    limits: string;
    without: string[];
    /** The most that the adapter was seen to do; nulls on the CPU. */
    probe: {
      copy_bytes_per_s: number | null;
      f32_flop_per_s: number | null;
      f16_flop_per_s: number | null;
      int8_op_per_s: number | null;
    };
    models: ModelBenchmark[];
  }[];
}

export interface ModelBenchmark {
  name: string;
  random: boolean;
  architecture: string;
  format: string;
  parameters: number;
  bits_per_weight: number;
  cache: string;
  context: number;
  load_s: number;
  first_token_s: number;
  prefill: {
    tokens: number;
    tokens_per_s: Spread;
    first_token_s: number;
    flop_per_s: number;
    of_f32_rate: number | null;
  }[];
  decode: {
    depth: number;
    tokens: number;
    tokens_per_s: Spread;
    bytes_per_token: number;
    bytes_per_s: number;
    of_copy_bandwidth: number | null;
    flop_per_s: number;
  }[];
  /** What was asked for and left out, with the reason. */
  skipped: string[];
  decode_kernels: KernelTime[] | null;
  prefill_kernels: KernelTime[] | null;
  dispatches: number;
  memory: { weights_bytes_disk: number; weights_bytes_gpu: number; kv_bytes: number };
  device_bytes: number;
  /** The same tokens on the CPU twin; null on the CPU and for models that are too large for it. */
  agreement: {
    tokens: number;
    layers: number;
    of_layers: number;
    max_relative_error: number;
    same_argmax: number;
  } | null;
}

export interface BenchOptions {
  /** Lengths of prompts. Default: 32 and 128. */
  prompt?: number | number[];
  /** Positions of the context at which tokens are generated. Default: 0. */
  depth?: number | number[];
  /** Tokens to generate. Default: 32. */
  generate?: number;
  /** Runs that count. Default: 5. */
  runs?: number;
  /** Points that would take longer are left out. Default: 30. */
  seconds?: number;
  /** Tokens to compare with the CPU twin; 0 leaves it out. Default: 8. */
  agreement?: number;
  /** Do not throw where the runs differ too much. */
  allowNoise?: boolean;
}

export interface Perplexity {
  perplexity: number;
  /** Mean negative log-likelihood of a predicted token, in nats. */
  nll: number;
  tokens: number;
}

interface Running {
  signal?: AbortSignal;
  onProgress?: (progress: Progress) => void;
}

/** A model that is ready to run, in a worker of its own. Calls are answered one after the other. */
export interface Model {
  readonly info: ModelInfo;
  readonly adapter: AdapterInfo;
  /** Continues a text, answers the last of some messages, or continues tokens. */
  generate(prompt: string | Message[] | ArrayLike<number>, options?: GenerateOptions): Generation;
  /** Sets how much LoRA adapters count, without loading anything; the others keep their weights. See `info.adapters`. */
  setAdapterWeights(weights: Record<string, number>): Promise<void>;
  /** `special`: with the tokens that the model wants around a text (BOS). Default: true. */
  tokenize(text: string, options?: { special?: boolean }): Promise<Uint32Array>;
  detokenize(tokens: ArrayLike<number>): Promise<string>;
  perplexity(text: string, options?: Running): Promise<Perplexity>;
  /** Every kernel against its CPU twin on this GPU. `quick`: on one codec of each family only. */
  verify(options?: Running & { quick?: boolean; onOutcome?: (outcome: Outcome) => void }): Promise<Verification>;
  bench(options?: Running & BenchOptions): Promise<Benchmark>;
  memory(): Promise<MemoryInfo>;
  /** Forgets the conversation that the KV cache holds. */
  reset(): Promise<void>;
  /**
   * Destroys the GPU device, as a driver's crash would; for tests. It does not wait for what runs: a generation sets the
   * device up again and goes on, anything else fails with `DeviceLost`. The next call sets it up again.
   */
  loseDevice(): Promise<void>;
  /** Frees everything; what runs is cancelled. */
  close(): Promise<void>;
}

/** A model in the browser's storage. */
export interface CachedModel {
  id: string;
  /** `hf:owner/repo@commit` or an address. */
  source: string;
  /** Bytes that are there, and bytes in all. */
  bytes: number;
  total: number;
  /** All of it is there. Otherwise loading it again goes on where the download stopped. */
  complete: boolean;
  files: string[];
  /** When it was last used, in ms since 1970. */
  used: number;
}

export interface ModelCache {
  /** Why nothing can be kept here (a private window, no storage); null where it can. */
  unavailable(): Promise<string | null>;
  list(): Promise<CachedModel[]>;
  delete(id: string): Promise<void>;
  clear(): Promise<void>;
  /** Bytes used and bytes that the browser grants. */
  estimate(): Promise<{ usage: number; quota: number }>;
}

export const Halfbyte: {
  load(source: Source, options?: LoadOptions): Promise<Model>;
  /** What this browser gives, without loading a model. */
  adapter(options?: Pick<LoadOptions, 'adapter' | 'limits' | 'without' | 'worker'>): Promise<AdapterInfo>;
  readonly cache: ModelCache;
  readonly version: string;
};

/** The files of a drop, those in dropped folders too, for `load`. Call it inside the drop event. */
export function droppedFiles(dataTransfer: DataTransfer): Promise<File[]>;

/** What a `HalfbyteError` is about. */
export type ErrorKind =
  | 'AdapterMissing' | 'OutOfMemory' | 'DeviceLost' | 'Gpu'
  | 'UnsupportedFormat' | 'Corrupt' | 'Missing' | 'Invalid' | 'ContextFull'
  | 'Network' | 'Quota' | 'Aborted' | 'WorkerLost';

/** Every error of this package: `kind` for programs, `message` for people. */
export class HalfbyteError extends Error {
  readonly kind: ErrorKind;
  constructor(kind: ErrorKind, message: string);
}

// The shape of OpenAI's client, for programs that know it from there, web-llm or wllama.

export interface ChatRequest {
  messages: Message[];
  model?: string;
  stream?: boolean;
  stream_options?: { include_usage?: boolean };
  temperature?: number;
  top_p?: number;
  max_tokens?: number;
  max_completion_tokens?: number;
  stop?: string | string[];
  seed?: number;
  n?: 1;
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
}

export interface ChatCompletion {
  id: string;
  object: 'chat.completion';
  created: number;
  model: string;
  choices: [{ index: 0; message: { role: 'assistant'; content: string }; finish_reason: 'stop' | 'length' | null }];
  usage: Usage;
}

export interface ChatCompletionChunk {
  id: string;
  object: 'chat.completion.chunk';
  created: number;
  model: string;
  choices: [] | [{ index: 0; delta: { role?: 'assistant'; content?: string }; finish_reason: 'stop' | 'length' | null }];
  usage?: Usage;
}

export interface Engine {
  readonly model: Model;
  readonly chat: {
    readonly completions: {
      create(request: ChatRequest & { stream: true }, options?: { signal?: AbortSignal }): Promise<AsyncIterable<ChatCompletionChunk>>;
      create(request: ChatRequest & { stream?: false }, options?: { signal?: AbortSignal }): Promise<ChatCompletion>;
    };
  };
  /** Stops what is being generated. */
  interruptGenerate(): void;
  unload(): Promise<void>;
}

/** An engine of OpenAI's shape around a model. A model without a chat template gets the messages as plain text. */
export function createEngine(source: Source | Model, options?: LoadOptions): Promise<Engine>;
