"""onnxruntime-web's WebGPU backend and halfbyte's page on the same weights and in the same browser, in turns.

    pip install onnx gguf numpy
    npm install --prefix PEER onnxruntime-web@1.30.0                  # PEER: a folder outside the repository
    npm ci --prefix web && npm run build --prefix web
    python benchmarks/peers/compare_onnxruntime_web.py PEER [--browser firefox] [--f16] [--rounds 3] [--json]

The weights are compare_llama_cpp.py's: 134 M random parameters in Q4_0, which MatMulNBits with blocks of 32 and no zero
points reads as they are. The graph is that of onnxruntime-genai's model builder: Q, K and V in one product, rotation in
GroupQueryAttention, logits of the last token alone. Before anything is timed, both must write the same 16 tokens.
Activations are f32: on lavapipe, which has shader-f16 in Firefox, onnxruntime-web is slower with --f16.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from compare_llama_cpp import FFN, HEADS, HIDDEN, LAYERS, ROOT, VOCAB, write_model

BLOCK, HEAD, CONTEXT = 32, HIDDEN // HEADS, 2048


class Graph:
    """Nodes and initializers of an ONNX graph; a value is its name."""

    def __init__(self, floats):
        self.floats, self.nodes, self.initializers, self.values = floats, [], [], []

    def constant(self, name, array):
        from onnx import numpy_helper

        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def op(self, kind, inputs, outputs=None, domain="", **attributes):
        """A node; its first output. Without `outputs` it is one, named after the node."""
        from onnx import helper

        outputs = outputs or [f"{kind}_{len(self.nodes)}"]
        self.nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    def contrib(self, kind, inputs, outputs=None, **attributes):
        return self.op(kind, inputs, outputs, "com.microsoft", **attributes)

    def value(self, name, kind, shape):
        import numpy as np
        from onnx import helper

        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), shape)

    def product(self, x, name, packed):
        """`x` times a Q4_0 matrix: blocks of 32 of (code - 8) * scale, as MatMulNBits has them without zero points."""
        scales, codes = packed
        rows, blocks = scales.shape
        codes = self.constant(f"{name}.codes", codes)
        scales = self.constant(f"{name}.scales", scales.astype(self.floats).reshape(-1))
        return self.contrib("MatMulNBits", [x, codes, scales], K=blocks * BLOCK, N=rows, bits=4, block_size=BLOCK)


def unpack_q4_0(rows):
    """Scales and codes of Q4_0 rows: a block is an f16 and 16 bytes, byte i with the codes i and, above it, 16 + i."""
    import numpy as np

    blocks = rows.reshape(len(rows), -1, 2 + BLOCK // 2)
    scales = blocks[:, :, :2].copy().view(np.float16)[:, :, 0]
    return scales, np.concatenate([blocks[:, :, 2:] & 15, blocks[:, :, 2:] >> 4], axis=2)


def pack(scales, codes):
    """The same for MatMulNBits: byte i of a block has the codes 2 i and, above it, 2 i + 1."""
    return scales, codes[:, :, 0::2] | codes[:, :, 1::2] << 4


def halves(matrix):
    """Rows of Q or K for rotation of halves of a head; GGUF has them for rotation of neighbours."""
    rest = matrix.shape[1:]
    return matrix.reshape(HEADS, HEAD // 2, 2, *rest).swapaxes(1, 2).reshape(HIDDEN, *rest)


def write_onnx(source, path, floats):
    """The ONNX model of a GGUF file that `write_model` wrote."""
    import gguf
    import numpy as np
    import onnx
    from onnx import helper

    tensors = {tensor.name.removesuffix(".weight"): np.array(tensor.data) for tensor in gguf.GGUFReader(source).tensors}
    graph = Graph(floats)

    def matrix(*names):
        parts = []
        for name in names:
            scales, codes = unpack_q4_0(tensors[name])
            rotated = name.endswith(("attn_q", "attn_k"))
            parts.append([halves(scales), halves(codes)] if rotated else [scales, codes])
        return pack(*(np.concatenate(part) for part in zip(*parts)))

    def norm(name):
        return graph.constant(name, tensors[name].astype(floats))

    scales, codes = unpack_q4_0(tensors["token_embd"])
    embedding = scales[:, :, None].astype(np.float32) * (codes.astype(np.float32) - 8)
    embedding = graph.constant("token_embd", embedding.reshape(VOCAB, HIDDEN).astype(floats))
    angles = np.outer(np.arange(CONTEXT), 10000.0 ** (-np.arange(0, HEAD, 2) / HEAD))
    rotation = [graph.constant("cos", np.cos(angles).astype(floats)), graph.constant("sin", np.sin(angles).astype(floats))]
    inputs = [graph.value("tokens", np.int64, [1, "n"]), graph.value("last_key", np.int32, [1]), graph.value("keys", np.int32, [1])]
    outputs = [graph.value("logits", np.float32, [1, VOCAB])]

    residual = graph.op("Gather", [embedding, "tokens"])
    weight = norm("blk.0.attn_norm")
    x = graph.op("SimplifiedLayerNormalization", [residual, weight], axis=-1, epsilon=1e-5, stash_type=1)

    def add_and_norm(branch, weight):
        """The sum of the residual stream and a branch, and that normed."""
        nonlocal residual
        normed, total = f"normed_{len(graph.nodes)}", f"residual_{len(graph.nodes)}"
        graph.contrib("SkipSimplifiedLayerNormalization", [residual, branch, weight], [normed, "", "", total], epsilon=1e-5)
        residual = total
        return normed

    for layer in range(LAYERS):
        block = f"blk.{layer}"
        qkv = graph.product(x, f"{block}.qkv", matrix(*(f"{block}.attn_{name}" for name in "qkv")))
        past, present = ([f"{time}_{name}_{layer}" for name in ["key", "value"]] for time in ["past", "present"])
        inputs += [graph.value(name, floats, [1, HEADS, "past", HEAD]) for name in past]
        outputs += [graph.value(name, floats, [1, HEADS, "present", HEAD]) for name in present]
        attended = graph.contrib(
            "GroupQueryAttention", [qkv, "", "", *past, "last_key", "keys", *rotation], [f"attended_{layer}", *present],
            num_heads=HEADS, kv_num_heads=HEADS, do_rotary=1, scale=HEAD**-0.5,
        )
        branch = graph.product(attended, f"{block}.attn_output", matrix(f"{block}.attn_output"))
        x = add_and_norm(branch, norm(f"{block}.ffn_norm"))
        gate = graph.product(x, f"{block}.ffn_gate", matrix(f"{block}.ffn_gate"))
        up = graph.product(x, f"{block}.ffn_up", matrix(f"{block}.ffn_up"))
        product = graph.op("Mul", [graph.op("Mul", [gate, graph.op("Sigmoid", [gate])]), up])
        branch = graph.product(product, f"{block}.ffn_down", matrix(f"{block}.ffn_down"))
        x = add_and_norm(branch, norm(f"blk.{layer + 1}.attn_norm" if layer + 1 < LAYERS else "output_norm"))

    x = graph.op("Gather", [x, graph.constant("last", np.array(-1, np.int64))], axis=1)
    x = graph.product(x, "output", matrix("output"))
    graph.op("Cast", [x], ["logits"], to=onnx.TensorProto.FLOAT)
    model = helper.make_graph(graph.nodes, "llama", inputs, outputs, graph.initializers)
    versions = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(model, opset_imports=versions, ir_version=10), path)


def main():
    import numpy as np

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", type=Path, help="folder into which npm installed onnxruntime-web")
    parser.add_argument("--browser", default="firefox", choices=["firefox", "chromium"])
    parser.add_argument("--f16", action="store_true", help="f16 activations for onnxruntime-web")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        gguf, onnx = Path(folder) / "llama-134m-q4_0.gguf", Path(folder) / "llama-134m-q4_0.onnx"
        write_model(gguf)
        write_onnx(gguf, onnx, np.float16 if options.f16 else np.float32)
        command = ["node", ROOT / "web/scripts/compare.mjs", options.browser, gguf, "--onnx", onnx, "--onnxruntime", options.peer]
        command += [f"--{name}={getattr(options, name)}" for name in ["prompt", "generate", "rounds"]]
        sys.exit(subprocess.run([*command, *["--json"] * options.json]).returncode)


if __name__ == "__main__":
    main()
