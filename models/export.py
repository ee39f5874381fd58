#!/usr/bin/env python3
"""Ship the tale storyteller: write its 4-bit GGUF file, and measure it.

    export.py export   --weights RUN --out tale.gguf                 Q4_0 blocks, Q8_0 embedding
    export.py evaluate --data TEXT MODEL [MODEL ...]                 perplexity on the held-out stories
    export.py sample   MODEL --prompt "Once upon a time"
    export.py golden   --gguf tale.gguf --text sample.txt            reference numbers for tests

A MODEL is a GGUF file or a folder with `model.safetensors` and `tokenizer.json`.
"""

import hashlib
import json
import math
import re
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from train import (DIM, EOS, EOS_TEXT, EPS, FFN, HEAD, HEADS, KV_HEADS, LAYERS, MAX_CONTEXT, THETA, VOCAB, Tale,
                   commands_of, encode, held_out_loss, load_weights, read_stories)


# ---------------------------------------------------------------- GGUF

GGUF_NAMES = {
    "embed_tokens": "token_embd", "norm": "output_norm", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    """`layers.3.mlp.up_proj.weight` to `blk.3.ffn_up.weight`."""
    block = re.match(r"layers\.(\d+)\.(.*)\.weight$", name)
    return f"blk.{block[1]}.{GGUF_NAMES[block[2]]}.weight" if block else f"{GGUF_NAMES[name[:-7]]}.weight"


def interleave(w, undo=False):
    """Rows of q or k from half-split to interleaved rotary pairs, llama.cpp's order (or back)."""
    inner = (HEAD // 2, 2) if undo else (2, HEAD // 2)
    return w.reshape(-1, *inner, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def export(args):
    """Write a run's weights and its tokenizer as one GGUF file."""
    model = load_weights(args.weights)
    tokenizer = json.loads((args.weights / "tokenizer.json").read_text("utf-8"))["model"]
    tokens = sorted(tokenizer["vocab"], key=tokenizer["vocab"].get)
    out = gguf.GGUFWriter(args.out, "llama")
    out.add_name("tale")
    out.add_description("A storyteller of 5.8 M parameters: short simple stories in English")
    out.add_organization("halfbyte contributors")
    out.add_license("mit")
    out.add_languages(["en"])
    out.add_tags(["text-generation", "stories"])
    out.add_context_length(MAX_CONTEXT)
    out.add_embedding_length(DIM)
    out.add_block_count(LAYERS)
    out.add_feed_forward_length(FFN)
    out.add_head_count(HEADS)
    out.add_head_count_kv(KV_HEADS)
    out.add_rope_dimension_count(HEAD)
    out.add_rope_freq_base(THETA)
    out.add_layer_norm_rms_eps(EPS)
    out.add_vocab_size(VOCAB)
    out.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    out.add_quantization_version(gguf.GGML_QUANT_VERSION)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("gpt-2")
    out.add_token_list(tokens)
    out.add_token_types([gguf.TokenType.CONTROL if t == EOS_TEXT else gguf.TokenType.NORMAL for t in tokens])
    out.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tokenizer["merges"]])
    out.add_bos_token_id(EOS)
    out.add_eos_token_id(EOS)
    out.add_add_bos_token(True)
    out.add_add_eos_token(False)
    for name, tensor in model.state_dict().items():
        w, kind = tensor.numpy(), gguf.GGMLQuantizationType.F32
        if re.search("[qk]_proj", name):
            w = interleave(w)
        if w.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0 if name.startswith("embed") else gguf.GGMLQuantizationType.Q4_0
            w = gguf.quants.quantize(w, kind)
        out.add_tensor(gguf_name(name), w, raw_dtype=kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    print(f"{args.out}: {args.out.stat().st_size} bytes, sha256 {hashlib.sha256(args.out.read_bytes()).hexdigest()}")


def read_gguf(path):
    """The dequantized tensors of a GGUF file by name, and its tokenizer."""
    reader = gguf.GGUFReader(path)
    weights = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).reshape(t.shape[::-1]) for t in reader.tensors}
    field = {k: reader.fields[f"tokenizer.ggml.{k}"].contents() for k in ("tokens", "merges")}
    merges = [tuple(m.split(" ")) for m in field["merges"]]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(field["tokens"])}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([EOS_TEXT])
    return weights, tokenizer


def load(path):
    """A model and its tokenizer from a GGUF file, or from a folder with weights and a tokenizer."""
    if path.is_dir():
        return load_weights(path), Tokenizer.from_file(str(path / "tokenizer.json"))
    weights, tokenizer = read_gguf(path)
    model = Tale()
    for name, p in model.named_parameters():
        w = weights[gguf_name(name)]
        p.data = torch.tensor(interleave(w, undo=True) if re.search("[qk]_proj", name) else w)
    return model, tokenizer


# ---------------------------------------------------------------- evaluation

def evaluate(args):
    """Held-out losses of models side by side, with weights as stored (folders: rounded to f16)."""
    for path in args.models:
        model, tokenizer = load(path)
        for p in model.parameters():
            p.data = p.data.half().float() if path.is_dir() else p.data
        ids = encode(args.data, "held_out", tokenizer)
        loss = held_out_loss(model, ids, args.windows, args.length)
        print(f"{path}: loss {loss:.4f}, perplexity {math.exp(loss):.4f}", flush=True)


@torch.no_grad()
def sample(args):
    """Write a story."""
    torch.manual_seed(args.seed)
    model, tokenizer = load(args.model)
    ids = [EOS] + tokenizer.encode(args.prompt).ids
    while len(ids) < args.tokens and (len(ids) == 1 or ids[-1] != EOS):
        top = model(torch.tensor([ids]))[0, -1].topk(args.top_k)
        ids.append(top.indices[torch.multinomial((top.values / args.temperature).softmax(-1), 1)].item())
    print(tokenizer.decode(ids))


def reference(weights, ids):
    """Logits of every position in float64, straight from GGUF tensors: shares no code with the model above."""
    w = {k: v.astype(np.float64) for k, v in weights.items()}

    def norm(x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * w[name]

    def rope(x):
        angle = np.outer(np.arange(len(ids)), THETA ** (-np.arange(0, HEAD, 2) / HEAD))[:, None]
        even, odd = x[..., ::2], x[..., 1::2]
        pairs = even * np.cos(angle) - odd * np.sin(angle), even * np.sin(angle) + odd * np.cos(angle)
        return np.stack(pairs, -1).reshape(x.shape)

    x = w["token_embd.weight"][ids]
    mask = np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
    for i in range(LAYERS):
        h = norm(x, f"blk.{i}.attn_norm.weight")
        q, k, v = ((h @ w[f"blk.{i}.attn_{n}.weight"].T).reshape(len(ids), -1, HEAD) for n in "qkv")
        q, k, v = rope(q), rope(k).repeat(HEADS // KV_HEADS, 1), v.repeat(HEADS // KV_HEADS, 1)
        scores = np.einsum("thd,shd->hts", q, k) / math.sqrt(HEAD) + mask
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("hts,shd->thd", scores / scores.sum(-1, keepdims=True), v)
        x = x + mixed.reshape(len(ids), DIM) @ w[f"blk.{i}.attn_output.weight"].T
        h = norm(x, f"blk.{i}.ffn_norm.weight")
        gate, up = (h @ w[f"blk.{i}.ffn_{n}.weight"].T for n in ("gate", "up"))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[f"blk.{i}.ffn_down.weight"].T
    return norm(x, "output_norm.weight") @ w["token_embd.weight"].T


def golden(args):
    """Reference numbers for the tests of a runtime."""
    weights, tokenizer = read_gguf(args.gguf)
    prompts = []
    for prompt in ("Once upon a time", "The little fox looked up at the moon and said,"):
        ids = prompt_ids = [EOS] + tokenizer.encode(prompt).ids
        margins, last = [], reference(weights, prompt_ids)[-1]
        for _ in range(48):
            logits = reference(weights, ids)[-1]
            second, first = np.argsort(logits)[-2:]
            margins.append(logits[first] - logits[second])
            ids = ids + [int(first)]
        top = np.argsort(-last)[:8]
        prompts.append({"prompt": prompt, "prompt_token_ids": prompt_ids, "greedy_next": ids[len(prompt_ids):],
                        "text": tokenizer.decode(ids), "min_top2_margin": round(float(min(margins)), 6),
                        "top_logits_last": [[int(i), round(float(last[i]), 6)] for i in top],
                        "logits_last_norm": round(float(np.linalg.norm(last)), 6)})
    losses = []
    for story in read_stories(args.text):
        ids = [EOS] + tokenizer.encode(story).ids
        logits = reference(weights, ids[:-1])
        logits -= logits.max(-1, keepdims=True)
        losses.append(np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(ids) - 1), ids[1:]])
    losses = np.concatenate(losses)
    result = {"model": args.gguf.name, "sha256": hashlib.sha256(args.gguf.read_bytes()).hexdigest(),
              "note": "float64 forward of the dequantized weights; end-of-text (0) first",
              "prompts": prompts,
              "sample": {"text": args.text.name, "protocol": "stories stripped, each alone after one 0; every token of "
                         "the story predicted", "tokens": len(losses), "nll": round(float(losses.mean()), 6),
                         "perplexity": round(float(np.exp(losses.mean())), 5)}}
    text = re.sub(r"\[[^][{}]*\]", lambda m: " ".join(m[0].split()), json.dumps(result, indent=1, ensure_ascii=False))
    args.out.write_text(text + "\n", "utf-8")
    print(f"{args.out}: perplexity of {args.text.name} {result['sample']['perplexity']}")


# ---------------------------------------------------------------- command line

def main():
    parser, (e, v, s, g) = commands_of(__doc__, export, evaluate, sample, golden)
    e.add_argument("--weights", type=Path, required=True, help="folder with model.safetensors and tokenizer.json")
    e.add_argument("--out", type=Path, default="tale.gguf")

    v.add_argument("--data", type=Path, required=True, help="folder with tinystories/")
    v.add_argument("--windows", type=int, default=120, help="how many windows, from the start of the held-out text")
    v.add_argument("--length", type=int, default=256, help="tokens in a window")
    v.add_argument("models", type=Path, nargs="+", help="GGUF files or folders with weights and tokenizer")

    s.add_argument("model", type=Path, help="a GGUF file or a folder with weights and tokenizer")
    s.add_argument("--prompt", default="Once upon a time")
    s.add_argument("--temperature", type=float, default=0.7)
    s.add_argument("--top-k", type=int, default=40)
    s.add_argument("--tokens", type=int, default=400)
    s.add_argument("--seed", type=int, default=7)

    g.add_argument("--gguf", type=Path, default="tale.gguf")
    g.add_argument("--text", type=Path, default="sample.txt", help="stories separated by <|endoftext|>")
    g.add_argument("--out", type=Path, default="golden.json")

    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
