//! The table of formats: what of each is read, of which pieces it consists, what that was tested on.

use super::reader::Reader;
use super::{
    aqlm, autoround, awq, bitnet, bitsandbytes, compressed_tensors, exl2, exl3, fp4, fp8, ggml, gptq, hqq,
    mlc, plain, qtip, quip, quip_for_all, spqr, torch_int,
};
use crate::quant::{
    Family, bilevel, codebook, e8p, fp8 as fp8_codec, grid, hyb, int, kquant, lookup, mixed,
    plain as plain_codec, ternary, trellis,
};

/// A line of the table. README's is made of these; `inspect --formats` prints them.
pub struct Format {
    /// Who reads it.
    pub reader: &'static Reader,
    /// Which files.
    pub what: &'static str,
    /// How weights are coded on the GPU.
    pub codecs: &'static [&'static Family],
    /// What happens to activations around the product; empty: nothing.
    pub transform: &'static str,
    /// What is added to the product; empty: nothing. LoRA can be added to all of them.
    pub side_term: &'static str,
    /// The least and the most bits of a weight.
    pub bits: &'static str,
    /// Whose files it was tested on: a tool's, or ours by what its source says (layout).
    pub tested: &'static str,
    /// What `bench --codec` calls a member of it; empty: random weights are none of it.
    pub bench: &'static str,
}

/// All that is read, by reader.
#[rustfmt::skip]
pub static FORMATS: &[Format] = &[
    Format { reader: &plain::READER, what: "unquantized safetensors: f32, f16, bf16",
        codecs: &[&plain_codec::FAMILY], transform: "", side_term: "", bits: "16, 32",
        tested: "safetensors", bench: "f16" },
    Format { reader: &gptq::READER,
        what: "GPTQ v1, v2 and planar: 2 to 8 bits, groups of 8·n or a row, act-order, settings by module",
        codecs: &[&int::FAMILY], transform: "permutation", side_term: "", bits: "2.2–8.1",
        tested: "GPTQModel; planar: layout", bench: "int4-g128" },
    Format { reader: &awq::READER, what: "AWQ gemm, gemv, gemv_fast, llm-awq",
        codecs: &[&int::FAMILY], transform: "scale", side_term: "", bits: "4.2–5",
        tested: "AutoAWQ; gemv_fast, llm-awq: layout", bench: "int4-g128" },
    Format { reader: &autoround::READER, what: "AutoRound, packed like GPTQ or AWQ, settings by layer",
        codecs: &[&int::FAMILY], transform: "permutation", side_term: "", bits: "2.2–8.1",
        tested: "layout", bench: "int4-g128" },
    Format { reader: &compressed_tensors::READER,
        what: "compressed-tensors pack-quantized 2 to 8 bits, int-quantized (W4A16, W8A16, W8A8)",
        codecs: &[&int::FAMILY], transform: "permutation", side_term: "", bits: "2.2–8.1",
        tested: "compressed-tensors", bench: "int8" },
    Format { reader: &bitsandbytes::READER, what: "bitsandbytes NF4, FP4, double quantization too",
        codecs: &[&lookup::FAMILY], transform: "", side_term: "", bits: "4.1–4.5",
        tested: "bitsandbytes", bench: "nf4" },
    Format { reader: &bitsandbytes::READER, what: "bitsandbytes LLM.int8",
        codecs: &[&int::FAMILY], transform: "", side_term: "", bits: "8.0–8.1",
        tested: "bitsandbytes", bench: "int8" },
    Format { reader: &torch_int::READER, what: "torch-int: SmoothQuant's first int8 layers",
        codecs: &[&int::FAMILY], transform: "", side_term: "", bits: "8.0",
        tested: "layout", bench: "int8" },
    Format { reader: &hqq::READER, what: "HQQ 1, 2, 3, 4, 8 bits, axis 1",
        codecs: &[&int::FAMILY], transform: "", side_term: "", bits: "1.5–8.5",
        tested: "hqq; 1 bit: layout", bench: "int4-g64-bf16-real-zeros" },
    Format { reader: &mlc::READER,
        what: "MLC-LLM q4f16_1, q4f16_2, q4f32_1, q4bf16_1, q3f16_1, q0f16, q0f32, q0bf16",
        codecs: &[&int::FAMILY, &plain_codec::FAMILY], transform: "", side_term: "", bits: "3.4–5, 16, 32",
        tested: "MLC-LLM layout", bench: "q4_0" },
    Format { reader: &exl2::READER, what: "EXL2, 2 to 8 bits mixed in a matrix, quantized head",
        codecs: &[&mixed::FAMILY], transform: "permutation", side_term: "", bits: "2.1–8.1",
        tested: "exllamav2 layout", bench: "" },
    Format { reader: &bitnet::READER, what: "BitNet b1.58, packed",
        codecs: &[&int::FAMILY], transform: "", side_term: "", bits: "2.0",
        tested: "transformers", bench: "int2-row-f32-z1" },
    Format { reader: &spqr::READER, what: "SpQR 3 bits",
        codecs: &[&bilevel::FAMILY], transform: "permutation", side_term: "sparse outliers", bits: "3.8",
        tested: "SpQR layout", bench: "bilevel3" },
    Format { reader: &aqlm::READER, what: "AQLM 1×16, 2×8 and other codebooks, groups of 4, 8, 16 or 32 inputs",
        codecs: &[&codebook::FAMILY], transform: "", side_term: "", bits: "1.0–4.0 and the codebooks",
        tested: "AQLM layout", bench: "codebook-2×8-g8" },
    Format { reader: &quip::READER, what: "QuIP# E8P12, E8P12RVQ3B, E8P12RVQ4B, fused q/k/v and up/gate or not",
        codecs: &[&e8p::FAMILY], transform: "Hadamard on both sides", side_term: "low rank inside", bits: "2.0, 3.0, 4.0",
        tested: "quip-sharp", bench: "e8p12" },
    Format { reader: &quip_for_all::READER, what: "QuIP-for-all E8P12, E8P12RVQ3B, E8P12RVQ4B",
        codecs: &[&e8p::FAMILY], transform: "orthogonal matrices on both sides", side_term: "", bits: "2.0, 3.0, 4.0",
        tested: "layout", bench: "e8p12" },
    Format { reader: &exl3::READER, what: "EXL3, 1–8 bits, codebooks 3inst, mcg, mul1, quantized heads",
        codecs: &[&trellis::FAMILY], transform: "Hadamard of 128 on both sides", side_term: "", bits: "1.0–8.0",
        tested: "exllamav3 layout", bench: "trellis4-mul1" },
    Format { reader: &qtip::READER, what: "QTIP HYB, 2–4 bits",
        codecs: &[&hyb::FAMILY], transform: "Hadamard on both sides", side_term: "", bits: "2.0, 3.0, 4.0",
        tested: "layout", bench: "hyb2" },
    Format { reader: &qtip::READER, what: "QTIP 1MAD and 3INST, 1–8 bits",
        codecs: &[&trellis::FAMILY], transform: "Hadamard on both sides", side_term: "", bits: "1.0–8.0",
        tested: "layout", bench: "" },
    Format { reader: &fp8::READER,
        what: "FP8 E4M3 and E5M2, a scale a tensor, row or block: DeepSeek-V3, FBGEMM, compressed-tensors, ModelOpt",
        codecs: &[&fp8_codec::FAMILY], transform: "", side_term: "", bits: "8.0–8.1",
        tested: "compressed-tensors; DeepSeek-V3, FBGEMM, ModelOpt: layout", bench: "e4m3-row-bf16" },
    Format { reader: &fp4::READER, what: "MXFP4 and NVFP4: compressed-tensors, ModelOpt, gpt-oss (experts)",
        codecs: &[&lookup::FAMILY], transform: "", side_term: "", bits: "4.25, 4.5",
        tested: "compressed-tensors; ModelOpt, gpt-oss: layout", bench: "e2m1-b32-e8m0" },
    Format { reader: &ggml::READER,
        what: "GGUF F32 F16 BF16, Q4_0 Q4_1 Q5_0 Q5_1 Q8_0, Q1_0 Q2_0 TQ2_0; in several files too",
        codecs: &[&plain_codec::FAMILY, &int::FAMILY], transform: "", side_term: "", bits: "1.1–32",
        tested: "llama.cpp", bench: "q4_0" },
    Format { reader: &ggml::READER, what: "GGUF Q2_K Q3_K Q4_K Q5_K Q6_K, IQ4_XS",
        codecs: &[&kquant::FAMILY], transform: "", side_term: "", bits: "2.6–6.6",
        tested: "llama.cpp", bench: "q4_k" },
    Format { reader: &ggml::READER, what: "GGUF IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S",
        codecs: &[&grid::FAMILY], transform: "", side_term: "", bits: "1.6–3.4",
        tested: "llama.cpp", bench: "iq3_s" },
    Format { reader: &ggml::READER, what: "GGUF IQ4_NL, MXFP4, NVFP4",
        codecs: &[&lookup::FAMILY], transform: "", side_term: "", bits: "4.25, 4.5",
        tested: "llama.cpp", bench: "iq4_nl-b32-f16" },
    Format { reader: &ggml::READER, what: "GGUF TQ1_0",
        codecs: &[&ternary::FAMILY], transform: "", side_term: "", bits: "1.7",
        tested: "llama.cpp", bench: "tq1_0" },
];
