// A large GGUF that exists nowhere: Llama, Q4_0, pseudo-random blocks, made range by range as they are asked for.

import { randomAt } from './server.mjs';

const F32 = 0;
const Q4_0 = { id: 2, weights: 32, bytes: 18 };
/** 0.005 as f16: activations keep their size through some twenty layers. */
const SCALE = 0x1d1f;
const ALIGN = 32;
const aligned = (n) => Math.ceil(n / ALIGN) * ALIGN;

class Writer {
  #parts = [];
  #number(bytes, set) {
    const part = Buffer.alloc(bytes);
    set(part);
    this.#parts.push(part);
    return this;
  }
  u32(n) { return this.#number(4, (part) => part.writeUInt32LE(n)); }
  u64(n) { return this.#number(8, (part) => part.writeBigUInt64LE(BigInt(n))); }
  f32(x) { return this.#number(4, (part) => part.writeFloatLE(x)); }
  string(text) {
    const bytes = Buffer.from(text);
    this.u64(bytes.length);
    this.#parts.push(bytes);
    return this;
  }
  bytes() { return Buffer.concat(this.#parts); }
}

/** `{ size, at(start, end), weights }`; by default 308 MB. */
export function synthetic({ hidden = 2048, ffn = 8192, layers = 9, heads = 32, kvHeads = 8 } = {}) {
  const words = 'the a of to and in it was he she that on with said little one day big very happy'.split(' ').map((word) => `\u2581${word}`);
  const tokens = ['<unk>', '<s>', '</s>', ...Array.from({ length: 256 }, (_, i) => `<0x${i.toString(16).toUpperCase().padStart(2, '0')}>`), ...words];
  while (tokens.length % 32) tokens.push(`<extra${tokens.length}>`);
  const kind = (id) => (id === 0 ? 2 : id < 3 ? 3 : id < 259 ? 6 : 1);

  const kv = (hidden / heads) * kvHeads;
  const matrix = (name, rows, columns) => ({ name, dims: [columns, rows], quantized: true });
  const vector = (name) => ({ name, dims: [hidden], quantized: false });
  const tensors = [matrix('token_embd.weight', tokens.length, hidden)];
  for (let i = 0; i < layers; i++) {
    const blk = (part) => `blk.${i}.${part}.weight`;
    tensors.push(
      vector(blk('attn_norm')), matrix(blk('attn_q'), hidden, hidden), matrix(blk('attn_k'), kv, hidden), matrix(blk('attn_v'), kv, hidden),
      matrix(blk('attn_output'), hidden, hidden), vector(blk('ffn_norm')), matrix(blk('ffn_gate'), ffn, hidden), matrix(blk('ffn_up'), ffn, hidden),
      matrix(blk('ffn_down'), hidden, ffn),
    );
  }
  tensors.push(vector('output_norm.weight'));
  let size = 0;
  for (const tensor of tensors) {
    const weights = tensor.dims.reduce((a, b) => a * b);
    tensor.offset = size;
    tensor.bytes = tensor.quantized ? (weights / Q4_0.weights) * Q4_0.bytes : weights * 4;
    size = aligned(size + tensor.bytes);
  }

  const pairs = [
    ['general.architecture', 'llama'], ['general.name', 'synthetic'], ['llama.context_length', 2048], ['llama.embedding_length', hidden],
    ['llama.block_count', layers], ['llama.feed_forward_length', ffn], ['llama.attention.head_count', heads], ['llama.attention.head_count_kv', kvHeads],
    ['llama.attention.layer_norm_rms_epsilon', { f32: 1e-5 }], ['tokenizer.ggml.model', 'llama'], ['tokenizer.ggml.tokens', tokens],
    ['tokenizer.ggml.scores', tokens.map((_, id) => ({ f32: -id }))], ['tokenizer.ggml.token_type', tokens.map((_, id) => kind(id))],
    ['tokenizer.ggml.bos_token_id', 1], ['tokenizer.ggml.eos_token_id', 2], ['tokenizer.ggml.unknown_token_id', 0],
  ];
  const typeOf = (value) => (typeof value === 'string' ? 8 : typeof value === 'number' ? 4 : 6);
  const put = (writer, value) => (typeof value === 'string' ? writer.string(value) : typeof value === 'number' ? writer.u32(value) : writer.f32(value.f32));
  const writer = new Writer().u32(0x46554747).u32(3).u64(tensors.length).u64(pairs.length);
  for (const [key, value] of pairs) {
    writer.string(key);
    if (!Array.isArray(value)) put(writer.u32(typeOf(value)), value);
    else value.reduce(put, writer.u32(9).u32(typeOf(value[0])).u64(value.length));
  }
  for (const { name, dims, quantized, offset } of tensors) {
    dims.reduce((writer, n) => writer.u64(n), writer.string(name).u32(dims.length)).u32(quantized ? Q4_0.id : F32).u64(offset);
  }
  const header = writer.bytes();
  const data = aligned(header.length);

  /** Bytes `from..to` of a tensor. */
  function part({ quantized, offset }, from, to) {
    const unit = quantized ? Q4_0.bytes : 4;
    const first = Math.floor(from / unit) * unit;
    const last = Math.ceil(to / unit) * unit;
    const all = quantized ? randomAt(7, offset + first, offset + last) : Buffer.alloc(last - first);
    for (let at = 0; at < all.length; at += unit) {
      if (quantized) all.writeUInt16LE(SCALE, at);
      else all.writeFloatLE(1, at);
    }
    return all.subarray(from - first, to - first);
  }

  return {
    size: data + size,
    weights: tensors.reduce((sum, { dims }) => sum + dims.reduce((a, b) => a * b), 0),
    at(start, end) {
      const out = Buffer.alloc(end - start);
      header.subarray(start, end).copy(out);
      for (const tensor of tensors) {
        const begin = data + tensor.offset;
        const [from, to] = [Math.max(start, begin), Math.min(end, begin + tensor.bytes)];
        if (from < to) part(tensor, from - begin, to - begin).copy(out, from - start);
      }
      return out;
    },
  };
}
