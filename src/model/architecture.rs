//! What tells the architectures apart: data for readers, tokenizers and the loader, and the forward pass of a layer.

use super::block::Block;
use super::config::Alternating;
use super::{ModelConfig, cohere, gemma, llama, olmo};
use crate::error::Result;

/// One architecture.
#[derive(Debug)]
pub struct Architecture {
    /// `model_type` in `config.json`, and [`ModelConfig::architecture`].
    pub name: &'static str,
    /// The class that `architectures` in `config.json` names.
    pub class: &'static str,
    /// Others that run the same: `model_type` and class; of models that see as well, the part that writes.
    pub aliases: &'static [(&'static str, &'static str)],
    /// `general.architecture` of its GGUF files, where they have one of their own.
    pub gguf: &'static [&'static str],
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
    /// What norms q and k have.
    pub qk_norms: QkNorms,
    /// Attention and feed-forward have a norm before their last product.
    pub sub_norms: bool,
    /// GGUF files have the halves of a head of q and k interleaved.
    pub gguf_interleaves: bool,
    /// A layer's experts are parameters `[experts, in, out]`, outputs of gate and up in turn, which an adapter has as a whole.
    pub whole_experts: bool,
    /// Which layers have the sliding window.
    pub windows: Windows,
    /// Which layers do not turn heads.
    pub unrotated: Unrotated,
    /// Pairs of the rotary embedding are neighbouring channels.
    pub interleaved_rope: bool,
    /// `partial_rotary_factor` says how much of a head turns.
    pub partial_rope: bool,
    /// Layers with the sliding window rotate by the frequencies that the others' were stretched from.
    pub stretches_global_rope: bool,
    /// Positions are learned: the row of position 0 in `embed_positions`. Nothing rotates.
    pub learned_positions: Option<usize>,
    /// A dense feed-forward layer has a gate.
    pub gated: bool,
    /// What a forward pass would need that halfbyte has not: such a model can be inspected, not run.
    pub missing: Option<&'static str>,
    /// Appends a layer's ops.
    pub(super) forward: fn(&mut Block<'_>) -> Result<()>,
}

impl Architecture {
    /// Whether a configuration means it by `model_type` or by the name of a class.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        let alias = |(alias, class): &(&str, &str)| *alias == name || class.eq_ignore_ascii_case(name);
        self.name == name || self.class.eq_ignore_ascii_case(name) || self.aliases.iter().any(alias)
    }
}

/// Names of the part that writes, in models that see as well, and what they are without the other part.
pub(crate) static TEXT_PART: &[(&str, &str)] =
    &[("model.language_model.", "model."), ("language_model.", ""), ("model.text_model.", "model.")];

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

/// Norms of q and k before they turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorms {
    /// Of every head, if the checkpoint has them.
    Optional,
    /// Of every head.
    Heads,
    /// One of all of q, one of all of k.
    Whole,
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

/// Which layers do not turn heads, where `no_rope_layers` does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unrotated {
    /// None.
    Never,
    /// The last one of so many.
    Every(usize),
    /// Those that see everything, where others have a sliding window.
    Global,
}

impl Unrotated {
    /// A flag a layer; empty where all turn.
    pub(crate) fn flags(self, layers: usize, alternating: Option<&Alternating>) -> Vec<bool> {
        match self {
            Unrotated::Never => Vec::new(),
            Unrotated::Every(many) => (0..layers).map(|layer| (layer + 1).is_multiple_of(many)).collect(),
            Unrotated::Global => {
                alternating.map(|a| a.sliding.iter().map(|s| !s).collect()).unwrap_or_default()
            }
        }
    }
}

const LLAMA: Architecture = Architecture {
    name: "llama",
    class: "LlamaForCausalLM",
    aliases: &[],
    gguf: &["llama"],
    adds_bos: true,
    renamed: &[],
    defaults: "{}",
    norms: &["input_layernorm", "post_attention_layernorm"],
    gguf_norms: &["attn_norm", "ffn_norm"],
    norm: NormKind::Rms,
    qk_norms: QkNorms::Optional,
    sub_norms: false,
    gguf_interleaves: true,
    whole_experts: false,
    windows: Windows::Never,
    unrotated: Unrotated::Never,
    interleaved_rope: false,
    partial_rope: false,
    stretches_global_rope: false,
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
const COHERE: Architecture = Architecture {
    defaults: r#"{"logit_scale": 0.0625, "layer_norm_eps": 1e-5, "tie_word_embeddings": true}"#,
    norms: &["input_layernorm"],
    gguf_norms: &["attn_norm"],
    norm: NormKind::Layer,
    gguf_interleaves: false,
    interleaved_rope: true,
    forward: cohere::forward,
    ..LLAMA
};
const GLM: Architecture = Architecture {
    adds_bos: false,
    gguf_interleaves: false,
    partial_rope: true,
    interleaved_rope: true,
    defaults: r#"{"partial_rotary_factor": 0.5, "head_dim": 128}"#,
    ..LLAMA
};
const OLMO: Architecture = Architecture {
    norms: &["post_attention_layernorm", "post_feedforward_layernorm"],
    gguf_norms: &["post_attention_norm", "post_ffw_norm"],
    qk_norms: QkNorms::Whole,
    gguf_interleaves: false,
    adds_bos: false,
    forward: olmo::forward,
    ..LLAMA
};

/// All architectures.
pub static ARCHITECTURES: &[Architecture] = &[
    Architecture { aliases: &[("internlm3", "InternLM3ForCausalLM")], ..LLAMA },
    Architecture {
        name: "mistral",
        class: "MistralForCausalLM",
        aliases: &[("ministral", "MinistralForCausalLM")],
        gguf: &[],
        windows: Windows::Always,
        ..LLAMA
    },
    Architecture {
        name: "ministral3",
        class: "Ministral3ForCausalLM",
        gguf: &[],
        windows: Windows::Always,
        ..LLAMA
    },
    Architecture {
        name: "qwen2",
        class: "Qwen2ForCausalLM",
        aliases: &[
            ("qwen2_vl_text", "Qwen2VLTextModel"),
            ("qwen2_5_vl_text", "Qwen2_5_VLTextModel"),
            ("qwen2_vl", "Qwen2VLForConditionalGeneration"),
            ("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration"),
        ],
        gguf: &["qwen2", "qwen2vl"],
        ..QWEN
    },
    Architecture {
        name: "qwen3",
        class: "Qwen3ForCausalLM",
        aliases: &[("qwen3_vl_text", "Qwen3VLTextModel")],
        gguf: &["qwen3", "qwen3vl"],
        qk_norms: QkNorms::Heads,
        ..QWEN
    },
    Architecture {
        name: "bitnet",
        class: "BitNetForCausalLM",
        gguf: &[],
        defaults: r#"{"hidden_act": "relu2"}"#,
        sub_norms: true,
        ..LLAMA
    },
    Architecture {
        name: "phi3",
        class: "Phi3ForCausalLM",
        gguf: &["phi3"],
        windows: Windows::Always,
        partial_rope: true,
        gguf_interleaves: false,
        ..LLAMA
    },
    Architecture {
        name: "gemma2",
        class: "Gemma2ForCausalLM",
        gguf: &["gemma2"],
        defaults: r#"{"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 4096,
            "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "tie_word_embeddings": true,
            "hidden_activation": "gelu_pytorch_tanh"}"#,
        windows: Windows::AllBut(2),
        ..GEMMA
    },
    Architecture {
        name: "gemma3_text",
        class: "Gemma3ForCausalLM",
        gguf: &["gemma3"],
        defaults: r#"{"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 4096,
            "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262208,
            "max_position_embeddings": 131072, "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0,
            "tie_word_embeddings": true, "hidden_activation": "gelu_pytorch_tanh"}"#,
        qk_norms: QkNorms::Heads,
        windows: Windows::AllBut(6),
        ..GEMMA
    },
    Architecture {
        name: "mixtral",
        class: "MixtralForCausalLM",
        gguf: &[],
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
        gguf: &["qwen3moe"],
        defaults: r#"{"num_experts": 128, "num_experts_per_tok": 8}"#,
        qk_norms: QkNorms::Heads,
        ..QWEN
    },
    Architecture {
        name: "gpt_oss",
        class: "GptOssForCausalLM",
        gguf: &["gpt-oss"],
        renamed: &[("mlp.router", "mlp.gate")],
        defaults: r#"{"sliding_window": 128, "swiglu_limit": 7.0, "norm_topk_prob": true}"#,
        gguf_norms: &["attn_norm", "post_attention_norm"],
        gguf_interleaves: false,
        whole_experts: true,
        windows: Windows::AllBut(2),
        adds_bos: false,
        ..LLAMA
    },
    Architecture { name: "cohere", class: "CohereForCausalLM", gguf: &["command-r"], ..COHERE },
    Architecture {
        name: "cohere2",
        class: "Cohere2ForCausalLM",
        gguf: &["cohere2"],
        windows: Windows::AllBut(4),
        unrotated: Unrotated::Global,
        ..COHERE
    },
    Architecture {
        name: "gemma",
        class: "GemmaForCausalLM",
        gguf: &["gemma"],
        defaults: r#"{"head_dim": 256, "tie_word_embeddings": true, "hidden_activation": "gelu_pytorch_tanh"}"#,
        norm: NormKind::RmsPlusOne,
        gguf_interleaves: false,
        ..LLAMA
    },
    Architecture {
        name: "granite",
        class: "GraniteForCausalLM",
        gguf: &["granite"],
        defaults: r#"{"attention_multiplier": 1.0}"#,
        adds_bos: false,
        ..LLAMA
    },
    Architecture {
        name: "smollm3",
        class: "SmolLM3ForCausalLM",
        gguf: &["smollm3"],
        defaults: r#"{"tie_word_embeddings": true, "rope_theta": 2000000.0}"#,
        windows: Windows::Asked,
        unrotated: Unrotated::Every(4),
        adds_bos: false,
        ..LLAMA
    },
    Architecture { name: "glm", class: "GlmForCausalLM", gguf: &[], ..GLM },
    Architecture {
        name: "glm4",
        class: "Glm4ForCausalLM",
        gguf: &["glm4"],
        norms: &[
            "input_layernorm",
            "post_self_attn_layernorm",
            "post_attention_layernorm",
            "post_mlp_layernorm",
        ],
        gguf_norms: GEMMA.gguf_norms,
        forward: gemma::forward,
        ..GLM
    },
    Architecture { name: "olmo2", class: "Olmo2ForCausalLM", gguf: &["olmo2"], ..OLMO },
    Architecture {
        name: "olmo3",
        class: "Olmo3ForCausalLM",
        gguf: &[],
        windows: Windows::AllBut(4),
        stretches_global_rope: true,
        ..OLMO
    },
    Architecture {
        name: "exaone4",
        class: "Exaone4ForCausalLM",
        gguf: &["exaone4"],
        qk_norms: QkNorms::Heads,
        windows: Windows::AllBut(4),
        unrotated: Unrotated::Global,
        ..OLMO
    },
    Architecture {
        name: "stablelm",
        class: "StableLmForCausalLM",
        gguf: &["stablelm"],
        defaults: r#"{"layer_norm_eps": 1e-5, "partial_rotary_factor": 0.25}"#,
        norm: NormKind::Layer,
        partial_rope: true,
        gguf_interleaves: false,
        adds_bos: false,
        ..LLAMA
    },
    Architecture {
        name: "starcoder2",
        class: "Starcoder2ForCausalLM",
        gguf: &["starcoder2"],
        renamed: &[("mlp.c_fc", "mlp.up_proj"), ("mlp.c_proj", "mlp.down_proj")],
        defaults: r#"{"norm_epsilon": 1e-5, "tie_word_embeddings": true, "hidden_act": "gelu_pytorch_tanh"}"#,
        norm: NormKind::Layer,
        gated: false,
        windows: Windows::Always,
        gguf_interleaves: false,
        adds_bos: false,
        ..LLAMA
    },
    Architecture {
        name: "phi",
        class: "PhiForCausalLM",
        gguf: &[],
        renamed: &[
            ("model.final_layernorm", "model.norm"),
            ("self_attn.dense", "self_attn.o_proj"),
            ("mlp.fc1", "mlp.up_proj"),
            ("mlp.fc2", "mlp.down_proj"),
        ],
        defaults: r#"{"layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5, "hidden_act": "gelu_new"}"#,
        norms: COHERE.norms,
        norm: NormKind::Layer,
        gated: false,
        partial_rope: true,
        adds_bos: false,
        forward: cohere::forward,
        ..LLAMA
    },
    Architecture {
        name: "ernie4_5",
        class: "Ernie4_5ForCausalLM",
        gguf: &[],
        defaults: r#"{"head_dim": 128, "tie_word_embeddings": true, "rope_theta": 500000.0}"#,
        interleaved_rope: true,
        ..LLAMA
    },
    Architecture {
        name: "arcee",
        class: "ArceeForCausalLM",
        gguf: &["arcee"],
        defaults: r#"{"hidden_act": "relu2"}"#,
        gated: false,
        ..LLAMA
    },
    Architecture {
        name: "seed_oss",
        class: "SeedOssForCausalLM",
        gguf: &[],
        defaults: r#"{"head_dim": 128}"#,
        adds_bos: false,
        ..LLAMA
    },
    Architecture {
        name: "opt",
        class: "OPTForCausalLM",
        gguf: &[],
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
        gguf: &[],
        missing: Some("multi-head latent attention (MLA) and groups of experts"),
        ..LLAMA
    },
];

/// The entry of a configuration's architecture.
pub fn architecture(config: &ModelConfig) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|a| a.name == config.architecture)
}
