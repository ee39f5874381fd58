"""llama.cpp's Vulkan backend and halfbyte on the same file and the same adapter, in turns.

    CMAKE_ARGS=-DGGML_VULKAN=on pip install llama-cpp-python==0.3.16 gguf    # needs glslc and libvulkan-dev
    cargo build --release
    python benchmarks/peers/compare_llama_cpp.py [--adapter lavapipe] [--rounds 3] [--json]

The file has random weights in Q4_0: Llama, hidden 768, 12 layers of 12 heads, ffn 2048, vocabulary 32000 (134 M
parameters). llama.cpp takes a software adapter only if GGML_VK_VISIBLE_DEVICES names it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HIDDEN, LAYERS, HEADS, FFN, VOCAB = 768, 12, 12, 2048, 32000


def write_model(path):
    import gguf
    import numpy as np

    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCAB)
    writer.add_tokenizer_model("llama")
    special = [b"<unk>", b"<s>", b"</s>"]
    writer.add_token_list(special + [b"<0x%02X>" % i for i in range(256)] + [b"t%d" % i for i in range(VOCAB - 259)])
    writer.add_token_scores([0.0] * VOCAB)
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (VOCAB - 259))
    q4_0 = gguf.GGMLQuantizationType.Q4_0

    def matrix(name, rows, columns):
        weights = random.normal(0, columns**-0.5, (rows, columns)).astype(np.float32)
        writer.add_tensor(f"{name}.weight", gguf.quantize(weights, q4_0), raw_dtype=q4_0)

    def norm(name):
        writer.add_tensor(f"{name}.weight", np.ones(HIDDEN, np.float32))

    matrix("token_embd", VOCAB, HIDDEN)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        norm(f"{block}.attn_norm")
        norm(f"{block}.ffn_norm")
        for name in ["attn_q", "attn_k", "attn_v", "attn_output"]:
            matrix(f"{block}.{name}", HIDDEN, HIDDEN)
        matrix(f"{block}.ffn_gate", FFN, HIDDEN)
        matrix(f"{block}.ffn_up", FFN, HIDDEN)
        matrix(f"{block}.ffn_down", HIDDEN, FFN)
    norm("output_norm")
    matrix("output", VOCAB, HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_cpp(path, prompt, generate):
    """Tokens a second of a prompt and of generation, as `llama-bench -ngl 99` measures them: one warm-up each."""
    import llama_cpp as llama

    if not llama.llama_supports_gpu_offload():
        sys.exit("llama.cpp sees no Vulkan device: was it built with GGML_VULKAN, is GGML_VK_VISIBLE_DEVICES set?")
    options = dict(n_gpu_layers=99, n_ctx=prompt + generate, n_batch=prompt, n_threads=os.cpu_count(), verbose=False)
    model = llama.Llama(str(path), **options)

    def read():
        model.reset()
        model.eval([3 + i * 7919 % (VOCAB - 3) for i in range(prompt)])

    def write():
        for i in range(generate):
            model.eval([3 + i])

    read()
    write()
    start = time.perf_counter()
    read()
    middle = time.perf_counter()
    write()
    return prompt / (middle - start), generate / (time.perf_counter() - middle)


def halfbyte(path, prompt, generate, adapter):
    program = os.environ.get("HALFBYTE_BIN", ROOT / "target/release/halfbyte")
    arguments = [program, "bench", path, "--adapter", adapter, "--prompt", str(prompt), "--depth", str(prompt)]
    arguments += ["--generate", str(generate), "--runs", "1", "--agreement", "0", "--allow-noise", "--json"]
    result = json.loads(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)
    result = result["adapters"][0]
    model = result["models"][0]
    speeds = (model["prefill"][0]["tokens_per_s"]["median"], model["decode"][0]["tokens_per_s"]["median"])
    return result["adapter"]["name"], speeds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", default="llvmpipe", help="halfbyte's name for the adapter")
    parser.add_argument("--device", default="0", help="llama.cpp's number of it")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ["GGML_VK_VISIBLE_DEVICES"] = options.device
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "llama-134m-q4_0.gguf"
        write_model(path)
        seen = {"llama.cpp": [], "halfbyte": []}
        for _ in range(options.rounds):
            seen["llama.cpp"].append(llama_cpp(path, options.prompt, options.generate))
            adapter, speeds = halfbyte(path, options.prompt, options.generate, options.adapter)
            seen["halfbyte"].append(speeds)
    median = {name: [statistics.median(column) for column in zip(*runs)] for name, runs in seen.items()}
    ratio = [ours / theirs for ours, theirs in zip(median["halfbyte"], median["llama.cpp"])]
    if options.json:
        print(json.dumps({"adapter": adapter, "tokens_per_s": seen, "median": median, "ratio": ratio}))
        return
    print(f"{adapter}: {options.prompt} prompt tokens, {options.generate} generated, median of {options.rounds}")
    for name, (prefill, decode) in median.items():
        print(f"  {name:<10} prefill {prefill:8.1f}   decode {decode:8.1f} tokens/s")
    print(f"  {'ratio':<10} prefill {ratio[0]:8.2f}   decode {ratio[1]:8.2f}")


if __name__ == "__main__":
    main()
