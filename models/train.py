#!/usr/bin/env python3
"""Train the tale storyteller: a small Llama. Its 4-bit GGUF file is written by export.py.

    train.py tokenizer --data TEXT --out tokenizer.json              byte-level BPE, 4096 tokens
    train.py train     --data TEXT --tokenizer tokenizer.json --out RUN [--init FOLDER] ...

TEXT holds `tinystories/*.txt` (stories separated by <|endoftext|>) and `gutenberg/a_*.txt`
(sections separated by empty lines). Every schedule runs on the wall clock, so a run ends on time on
any machine; a checkpoint is written every few minutes, and the same command resumes from it.
"""

import argparse
import contextlib
import hashlib
import json
import math
import re
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn

HELD_OUT = ("einfachsim_val.txt", "yuninxia_val.txt")
EOS_TEXT, EOS = "<|endoftext|>", 0
VOCAB, DIM, LAYERS, HEADS, KV_HEADS, FFN = 4096, 256, 6, 8, 4, 768
HEAD, THETA, EPS, MAX_CONTEXT = DIM // HEADS, 10000.0, 1e-5, 1024


# ---------------------------------------------------------------- text

def read_stories(path):
    """The stories of one file."""
    return [s.strip() for s in path.read_text("utf-8").split(EOS_TEXT) if s.strip()]


def read_sections(path):
    """The sections of one book, with plain quotes and dashes and without emphasis marks."""
    text = path.read_text("utf-8")
    for pattern, plain in (("[\u2018\u2019]", "'"), ("[\u201c\u201d]", '"'), ("[\u2013\u2014]", " - "), ("_", "")):
        text = re.sub(pattern, plain, text)
    return [s.strip() for s in re.split(r"\n\s*\n", text) if s.strip()]


def read_corpus(data, part):
    """All documents of one part of the corpus: `stories`, `books` or `held_out`."""
    if part == "books":
        return [s for p in sorted((data / "gutenberg").glob("a_*.txt")) for s in read_sections(p)]
    files = sorted((data / "tinystories").glob("*.txt"))
    keep = [p for p in files if (p.name in HELD_OUT) == (part == "held_out")]
    return [s for p in keep for s in read_stories(p)]


def encode(data, part, tokenizer, cache=None):
    """One part of the corpus as a single array of ids; every document begins with the end-of-text id."""
    key = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()[:12]
    path = cache and cache / f"{part}-{key}.npy"
    if path and path.exists():
        return np.load(path)
    encodings = tokenizer.encode_batch(read_corpus(data, part))
    ids = np.concatenate([np.array([EOS] + e.ids, dtype=np.uint16) for e in encodings])
    if path:
        cache.mkdir(parents=True, exist_ok=True)
        np.save(path, ids)
    return ids


def tokenizer(args):
    """Train the byte-level BPE tokenizer: the stories twice, a third of the book sections once."""
    stories, sections = read_corpus(args.data, "stories"), read_corpus(args.data, "books")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=[EOS_TEXT],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(stories * 2 + sections[::3], trainer)
    bpe.save(str(args.out))


class Stream:
    """An endless token stream over documents, reshuffled every epoch; its place can be saved."""

    def __init__(self, ids, seed, epoch=0, at=0):
        self.docs = np.split(ids, np.flatnonzero(ids == EOS)[1:])
        self.seed, self.epoch, self.at = seed, epoch, at
        self.shuffle()

    def shuffle(self):
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.docs))
        self.ids = np.concatenate([self.docs[i] for i in order])

    def take(self, n):
        """The next n + 1 tokens, moving on by n (the last one is only a target)."""
        if self.at + n + 1 > len(self.ids):
            self.epoch, self.at = self.epoch + 1, 0
            self.shuffle()
        self.at += n
        return self.ids[self.at - n : self.at + 1].astype(np.int64)


# ---------------------------------------------------------------- quantization

def q4_0(w):
    """Weights after a round trip through GGUF Q4_0 (the rounding of gguf-py)."""
    b = w.reshape(-1, 32)
    d = b.gather(1, b.abs().argmax(1, keepdim=True)) / -8
    q = (b * torch.where(d == 0, 0, 1 / d) + 8.5).trunc().clamp(0, 15) - 8
    return (q * d.half().float()).reshape(w.shape)


def q8_0(w):
    """Weights after a round trip through GGUF Q8_0 (the rounding of gguf-py)."""
    b = w.reshape(-1, 32)
    d = b.abs().amax(1, keepdim=True) / 127
    x = b * torch.where(d == 0, 0, 1 / d)
    q = torch.copysign((x.abs() + 0.5).floor(), x)
    return (q * d.half().float()).reshape(w.shape)


@contextlib.contextmanager
def quantized(model, on=True):
    """Within this block the model's matrices hold their 4-bit values (the embedding: 8-bit).

    Gradients taken inside and applied outside are those of the straight-through estimator.
    """
    with torch.no_grad():
        kept = {p: p.clone() for p in model.parameters() if on and p.dim() == 2}
        for p in kept:
            p.copy_(q8_0(p) if p is model.embed_tokens.weight else q4_0(p))
    yield
    with torch.no_grad():
        for p, latent in kept.items():
            p.copy_(latent)


# ---------------------------------------------------------------- model

def matrix(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(DIM))

    def forward(self, x):
        return F.rms_norm(x.float(), (DIM,), self.weight, EPS)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj, self.o_proj = matrix(DIM, DIM), matrix(DIM, DIM)
        self.k_proj, self.v_proj = matrix(DIM, KV_HEADS * HEAD), matrix(DIM, KV_HEADS * HEAD)

    def forward(self, x, cos, sin):
        b, t, _ = x.shape

        def rotate(y):
            left, right = y.chunk(2, dim=-1)
            return y * cos + torch.cat((-right, left), dim=-1) * sin

        q = rotate(self.q_proj(x).view(b, t, HEADS, HEAD).transpose(1, 2))
        k = rotate(self.k_proj(x).view(b, t, KV_HEADS, HEAD).transpose(1, 2))
        v = self.v_proj(x).view(b, t, KV_HEADS, HEAD).transpose(1, 2)
        k, v = (y.repeat_interleave(HEADS // KV_HEADS, dim=1) for y in (k.to(v.dtype), v))
        y = F.scaled_dot_product_attention(q.to(v.dtype), k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, DIM))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = matrix(DIM, FFN), matrix(DIM, FFN), matrix(FFN, DIM)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_layernorm, self.self_attn = Norm(), Attention()
        self.post_attention_layernorm, self.mlp = Norm(), Mlp()

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Tale(nn.Module):
    """A Llama with a tied embedding; parameter names follow Hugging Face (less the `model.` prefix)."""

    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB, DIM)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = Norm()
        angle = torch.outer(torch.arange(MAX_CONTEXT), THETA ** (-torch.arange(0, HEAD, 2) / HEAD))
        self.register_buffer("cos", torch.cat((angle, angle), 1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat((angle, angle), 1).sin(), persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=0.02 / (math.sqrt(2 * LAYERS) if deep else 1))

    def forward(self, ids, targets=None):
        """Logits, or the mean loss where targets are given."""
        x, t = self.embed_tokens(ids), ids.shape[1]
        for layer in self.layers:
            x = layer(x, self.cos[:t], self.sin[:t])
        logits = F.linear(self.norm(x), self.embed_tokens.weight)
        if targets is None:
            return logits
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def load_weights(folder):
    """A model from a folder with `model.safetensors`."""
    model = Tale()
    state = {k.removeprefix("model."): v.float() for k, v in load_file(folder / "model.safetensors").items()}
    model.load_state_dict(state)
    return model


def save_weights(model, tokenizer, folder):
    """Write a folder with `model.safetensors` and `tokenizer.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file({f"model.{k}": v.detach().clone() for k, v in model.state_dict().items()}, folder / "model.safetensors")


@torch.no_grad()
def held_out_loss(model, ids, windows=120, length=256):
    """Mean loss in nats per token over the first `windows` windows of the held-out stories."""
    windows = min(windows, (len(ids) - 1) // length)
    rows = torch.from_numpy(np.stack([ids[i * length : (i + 1) * length + 1] for i in range(windows)]).astype(np.int64))
    return sum(len(r) * model(r[:, :-1], r[:, 1:]).item() for r in rows.split(8)) / windows


# ---------------------------------------------------------------- training

def learning_rate(args, progress):
    """Linear warm-up, a plateau until `hold`, then a linear fall to 2 %."""
    fall = max(0.0, progress - args.hold) / (1 - args.hold)
    return args.lr * min(1.0, (progress + 1e-4) / args.warmup) * (1 - 0.98 * fall)


def train(args):
    """Train for `minutes` of wall-clock time, from scratch or from `init`."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    bpe = Tokenizer.from_file(str(args.tokenizer))
    held_out = encode(args.data, "held_out", bpe, args.out)
    model = load_weights(args.init) if args.init else Tale()
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95), fused=True)
    state = {"elapsed": 0.0, "step": 0, "tokens": 0, "places": {"stories": (0, 0), "books": (0, 0)}}
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        state = saved["state"]
        rng = np.random.default_rng([args.seed, state["step"]])
        print(f"resuming at step {state['step']}", flush=True)
    streams = {part: Stream(encode(args.data, part, bpe, args.out), args.seed, *place)
               for part, place in state["places"].items()}
    print({p: len(s.ids) for p, s in streams.items()}, "held out", len(held_out), flush=True)
    step_model = torch.compile(model, dynamic=False) if args.compile else model

    def save():
        state["places"] = {p: (s.epoch, s.at) for p, s in streams.items()}
        saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "state": state}
        torch.save(saved, checkpoint.with_suffix(".tmp"))
        checkpoint.with_suffix(".tmp").replace(checkpoint)

    last_save, losses, clock = time.monotonic(), [], time.monotonic()
    while (progress := state["elapsed"] / (60 * args.minutes)) < 1:
        qat = progress >= args.qat_from
        if qat and not (args.out / "before-qat").exists():
            save_weights(model, bpe, args.out / "before-qat")
        context = args.context if progress < args.long_from else int(rng.choice(args.long_contexts))
        books = args.books if progress < args.stories_from else 0.0
        rows = args.batch_tokens // context
        batch = np.stack([streams["books" if rng.random() < books else "stories"].take(context) for _ in range(rows)])
        batch = torch.from_numpy(batch)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(args, progress)
        with quantized(model, qat):
            with torch.autocast("cpu", torch.bfloat16):
                loss = step_model(batch[:, :-1].contiguous(), batch[:, 1:].contiguous())
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        now = time.monotonic()
        state["elapsed"], clock = state["elapsed"] + now - clock, now
        state["step"], state["tokens"] = state["step"] + 1, state["tokens"] + rows * context
        if state["step"] % 50 == 0:
            print(f"step {state['step']} tokens {state['tokens']} progress {progress:.3f} context {context} "
                  f"loss {np.mean(losses[-50:]):.3f} speed {state['tokens'] / state['elapsed']:.0f}/s", flush=True)
        if now - last_save > 60 * args.save_minutes:
            save()
            with quantized(model, qat):
                print(f"  held-out {held_out_loss(model, held_out):.4f} quantized {qat}", flush=True)
            last_save = time.monotonic()
    save()
    save_weights(model, bpe, args.out)
    print(f"done: held-out {held_out_loss(model, held_out):.4f}, {state}", flush=True)


# ---------------------------------------------------------------- command line

def commands_of(doc, *runs):
    """A parser with one subcommand for each function, and the subcommands' parsers."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    parsers = []
    for run in runs:
        p = commands.add_parser(run.__name__, help=run.__doc__, description=run.__doc__,
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        p.set_defaults(run=run)
        parsers.append(p)
    return parser, parsers


def main():
    parser, (words, p) = commands_of(__doc__, tokenizer, train)
    words.add_argument("--data", type=Path, required=True, help="folder with tinystories/ and gutenberg/")
    words.add_argument("--out", type=Path, default="tokenizer.json")

    p.add_argument("--data", type=Path, required=True, help="folder with tinystories/ and gutenberg/")
    p.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json")
    p.add_argument("--out", type=Path, required=True, help="run folder: token cache, checkpoint, weights")
    p.add_argument("--init", type=Path, help="folder with model.safetensors to go on from (default: from scratch)")
    p.add_argument("--minutes", type=float, default=95, help="wall-clock budget that the schedule is stretched over")
    p.add_argument("--lr", type=float, default=1.2e-3, help="highest learning rate")
    p.add_argument("--warmup", type=float, default=0.02, help="share of the time spent warming up")
    p.add_argument("--hold", type=float, default=0.02, help="share of the time after which the learning rate falls")
    p.add_argument("--batch-tokens", type=int, default=4096, help="tokens a step")
    p.add_argument("--context", type=int, default=256, help="window length of the first part")
    p.add_argument("--long-from", type=float, default=0.5, help="share of the time after which windows are long")
    p.add_argument("--long-contexts", type=int, nargs="+", default=[512, 512, 1024],
                   help="long window lengths to draw from")
    p.add_argument("--books", type=float, default=0.4, help="share of book windows in the first part")
    p.add_argument("--stories-from", type=float, default=0.75,
                   help="share of the time after which only stories are read")
    p.add_argument("--qat-from", type=float, default=0.85, help="share of the time after which weights are quantized")
    p.add_argument("--save-minutes", type=float, default=5)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--seed", type=int, default=7)
    p.add_argument("--compile", action="store_true", help="torch.compile: half again as fast, needs a C++ compiler")

    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
