//! What tells the architectures apart: data for readers, tokenizers and the loader, and the forward pass of a layer.

use super::block::Block;
use super::{ModelConfig, cohere, gemma, llama};
use crate::error::Result;

/// One architecture.
#[derive(Debug)]
pub struct Architecture {
    /// `model_type` in `config.json`, and [`ModelConfig::architecture`].
    pub name: &'static str,
    /// The class that `architectures` in `config.json` names.
    pub class: &'static str,
    /// `general.architecture` of a GGUF file, if it has one of its own.
    pub gguf: Option<&'static str>,
    /// A tokenizer that does not say puts BOS before a text.
    pub adds_bos: bool,
    /// Names that its checkpoints give to modules, and what the Llama family calls them.
    pub renamed: &'static [(&'static str, &'static str)],
    /// Keys of `config.json` that may be left out, as JSON.
    pub defaults: &'static str,
    /// Norms of a layer in the order of the forward pass.
    pub norms: &'static [&'static str],
    /// What GGUF calls them.
    pub gguf_norms: &'static [&'static str],
    /// What they compute.
    pub norm: NormKind,
    /// q and k have a norm each head.
    pub qk_norms: bool,
    /// Attention and feed-forward have a norm before their last product.
    pub sub_norms: bool,
    /// GGUF files have the halves of a head of q and k interleaved.
    pub gguf_interleaves: bool,
    /// A layer's experts are parameters `[experts, in, out]`, outputs of gate and up in turn, which an adapter has as a whole.
    pub whole_experts: bool,
    /// Which layers have the sliding window.
    pub windows: Windows,
    /// Pairs of the rotary embedding are neighbouring channels.
    pub interleaved_rope: bool,
    /// `partial_rotary_factor` says how much of a head turns.
    pub partial_rope: bool,
    /// Positions are learned: the row of position 0 in `embed_positions`. Nothing rotates.
    pub learned_positions: Option<usize>,
    /// A dense feed-forward layer has a gate.
    pub gated: bool,
    /// What a forward pass would need that halfbyte has not: such a model can be inspected, not run.
    pub missing: Option<&'static str>,
    /// Appends a layer's ops.
    pub(super) forward: fn(&mut Block<'_>) -> Result<()>,
}

/// Kinds of normalization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// RMSNorm (Zhang & Sennrich 2019).
    Rms,
    /// RMSNorm whose weights are stored less 1 (Gemma); a GGUF file has them whole.
    RmsPlusOne,
    /// LayerNorm (Ba et al. 2016), with or without a bias.
    Layer,
}

/// Which layers have the sliding window of a configuration, where `layer_types` does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Windows {
    /// None.
    Never,
    /// All.
    Always,
    /// Those from `max_window_layers` on, if `use_sliding_window`.
    Asked,
    /// All but the last one of so many.
    AllBut(usize),
}

const LLAMA: Architecture = Architecture {
    name: "llama",
    class: "LlamaForCausalLM",
    gguf: Some("llama"),
    adds_bos: true,
    renamed: &[],
    defaults: "{}",
    norms: &["input_layernorm", "post_attention_layernorm"],
    gguf_norms: &["attn_norm", "ffn_norm"],
    norm: NormKind::Rms,
    qk_norms: false,
    sub_norms: false,
    gguf_interleaves: true,
    whole_experts: false,
    windows: Windows::Never,
    interleaved_rope: false,
    partial_rope: false,
    learned_positions: None,
    gated: true,
    missing: None,
    forward: llama::forward,
};
const QWEN: Architecture =
    Architecture { adds_bos: false, gguf_interleaves: false, windows: Windows::Asked, ..LLAMA };
const GEMMA: Architecture = Architecture {
    norms: &[
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ],
    gguf_norms: &["attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"],
    norm: NormKind::RmsPlusOne,
    gguf_interleaves: false,
    forward: gemma::forward,
    ..LLAMA
};

/// All architectures.
pub static ARCHITECTURES: &[Architecture] = &[
    LLAMA,
    Architecture {
        name: "mistral",
        class: "MistralForCausalLM",
        gguf: None,
        windows: Windows::Always,
        ..LLAMA
    },
    Architecture { name: "qwen2", class: "Qwen2ForCausalLM", gguf: Some("qwen2"), ..QWEN },
    Architecture { name: "qwen3", class: "Qwen3ForCausalLM", gguf: Some("qwen3"), qk_norms: true, ..QWEN },
    Architecture {
        name: "bitnet",
        class: "BitNetForCausalLM",
        gguf: None,
        defaults: r#"{"hidden_act": "relu2"}"#,
        sub_norms: true,
        ..LLAMA
    },
    Architecture {
        name: "phi3",
        class: "Phi3ForCausalLM",
        gguf: Some("phi3"),
        windows: Windows::Always,
        partial_rope: true,
        gguf_interleaves: false,
        ..LLAMA
    },
    Architecture {
        name: "gemma2",
        class: "Gemma2ForCausalLM",
        gguf: Some("gemma2"),
        defaults: r#"{"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 4096,
            "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "tie_word_embeddings": true,
            "hidden_activation": "gelu_pytorch_tanh"}"#,
        windows: Windows::AllBut(2),
        ..GEMMA
    },
    Architecture {
        name: "gemma3_text",
        class: "Gemma3ForCausalLM",
        gguf: Some("gemma3"),
        defaults: r#"{"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 4096,
            "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262208,
            "max_position_embeddings": 131072, "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0,
            "tie_word_embeddings": true, "hidden_activation": "gelu_pytorch_tanh"}"#,
        renamed: &[("model.language_model.", "model."), ("language_model.", "")],
        qk_norms: true,
        windows: Windows::AllBut(6),
        ..GEMMA
    },
    Architecture {
        name: "mixtral",
        class: "MixtralForCausalLM",
        gguf: None,
        renamed: &[
            ("block_sparse_moe", "mlp"),
            (".w1.", ".gate_proj."),
            (".w2.", ".down_proj."),
            (".w3.", ".up_proj."),
        ],
        defaults: r#"{"num_local_experts": 8, "num_experts_per_tok": 2, "norm_topk_prob": true}"#,
        windows: Windows::Always,
        ..LLAMA
    },
    Architecture {
        name: "qwen3_moe",
        class: "Qwen3MoeForCausalLM",
        gguf: Some("qwen3moe"),
        defaults: r#"{"num_experts": 128, "num_experts_per_tok": 8}"#,
        qk_norms: true,
        ..QWEN
    },
    Architecture {
        name: "gpt_oss",
        class: "GptOssForCausalLM",
        gguf: None,
        renamed: &[("mlp.router", "mlp.gate")],
        defaults: r#"{"sliding_window": 128, "swiglu_limit": 7.0, "norm_topk_prob": true}"#,
        whole_experts: true,
        windows: Windows::AllBut(2),
        adds_bos: false,
        ..LLAMA
    },
    Architecture {
        name: "cohere",
        class: "CohereForCausalLM",
        gguf: Some("command-r"),
        defaults: r#"{"logit_scale": 0.0625, "layer_norm_eps": 1e-5, "tie_word_embeddings": true}"#,
        norms: &["input_layernorm"],
        gguf_norms: &["attn_norm"],
        norm: NormKind::Layer,
        gguf_interleaves: false,
        interleaved_rope: true,
        forward: cohere::forward,
        ..LLAMA
    },
    Architecture {
        name: "opt",
        class: "OPTForCausalLM",
        gguf: None,
        renamed: &[
            ("model.decoder.", "model."),
            ("decoder.", "model."),
            ("model.final_layer_norm", "model.norm"),
            ("self_attn_layer_norm", "input_layernorm"),
            ("final_layer_norm", "post_attention_layernorm"),
            ("self_attn.out_proj", "self_attn.o_proj"),
            (".fc1.", ".mlp.up_proj."),
            (".fc2.", ".mlp.down_proj."),
        ],
        defaults: r#"{"layer_norm_eps": 1e-5, "activation_function": "relu", "tie_word_embeddings": true}"#,
        norm: NormKind::Layer,
        learned_positions: Some(2),
        gated: false,
        ..LLAMA
    },
    Architecture {
        name: "deepseek_v3",
        class: "DeepseekV3ForCausalLM",
        gguf: None,
        missing: Some("multi-head latent attention (MLA) and groups of experts"),
        ..LLAMA
    },
];

/// The entry of a configuration's architecture.
pub fn architecture(config: &ModelConfig) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|a| a.name == config.architecture)
}
