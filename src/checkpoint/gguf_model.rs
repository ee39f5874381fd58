//! What llama.cpp calls the parts of a model of the Llama family (`gguf-py`, constants.py): tensor names and the keys
//! of the hyper-parameters.

use super::gguf::Metadata;
use crate::error::{Error, Result};
use crate::model::{ARCHITECTURES, ModelConfig, Rope, RopeScaling};

/// llama.cpp's name of a tensor of the Llama family → Hugging Face's; others stay as they are.
pub fn hugging_face_name(name: &str) -> String {
    let Some((stem, end)) = name.rsplit_once('.') else { return name.to_string() };
    match stem {
        "token_embd" => return format!("model.embed_tokens.{end}"),
        "output_norm" => return format!("model.norm.{end}"),
        "output" => return format!("lm_head.{end}"),
        _ => {}
    }
    let Some((layer, part)) = stem.strip_prefix("blk.").and_then(|s| s.split_once('.')) else {
        return name.to_string();
    };
    let module = match part {
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "attn_norm" => "input_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return name.to_string(),
    };
    format!("model.layers.{layer}.{module}.{end}")
}

/// The hyper-parameters that `metadata` spells out. `head` and `vocab` come from the tensors: whether there is an
/// output matrix, and the rows of the embedding. `factors` is `rope_freqs.weight`.
pub fn config(
    metadata: &Metadata,
    head: bool,
    vocab: Option<usize>,
    factors: Option<Vec<f32>>,
) -> Result<ModelConfig> {
    let arch = metadata.architecture()?;
    if !ARCHITECTURES.iter().any(|a| a.gguf == Some(arch)) {
        let known: Vec<&str> = ARCHITECTURES.iter().filter_map(|a| a.gguf).collect();
        return Err(Error::unsupported(format!("architecture {arch}"))
            .file(&metadata.file)
            .expected(known.join(", ")));
    }
    let optional = |key: &str| -> Result<Option<usize>> {
        let key = format!("{arch}.{key}");
        let size = metadata.unsigned(&key)?;
        size.map(|n| {
            usize::try_from(n).map_err(|_| Error::invalid(format!("invalid {key} {n}")).file(&metadata.file))
        })
        .transpose()
    };
    let size = |key: &str| optional(key)?.ok_or_else(|| metadata.missing(&format!("{arch}.{key}")));
    let float = |key: &str| metadata.float(&format!("{arch}.{key}"));
    if optional("expert_count")?.is_some_and(|n| n > 0) {
        return Err(Error::unsupported("mixture of experts").file(&metadata.file));
    }
    let context = size("context_length")?;
    let hidden = size("embedding_length")?;
    let heads = size("attention.head_count")?;
    let head_dim = match optional("attention.key_length")? {
        Some(length) => length,
        None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            let what = format!(
                "{arch}.embedding_length {hidden} is not divisible by {arch}.attention.head_count {heads}"
            );
            return Err(Error::invalid(what).file(&metadata.file));
        }
    };
    for key in ["attention.value_length", "rope.dimension_count"] {
        if let Some(found) = optional(key)?.filter(|&n| n != head_dim) {
            let error = Error::unsupported(format!("{arch}.{key}")).file(&metadata.file);
            return Err(error.expected(format!("the head's width {head_dim}")).found(found));
        }
    }
    let factor = match float("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => float("rope.scale_linear")?,
    };
    let kind = metadata.string(&format!("{arch}.rope.scaling.type"))?;
    let scaling = match (factors, kind, factor) {
        (Some(factors), ..) => RopeScaling::Factors(factors),
        (None, Some("linear") | None, Some(factor)) if factor != 1.0 => RopeScaling::Linear { factor },
        (None, Some("none" | "linear") | None, _) => RopeScaling::None,
        (None, Some(kind), _) => {
            return Err(Error::unsupported(format!("rope scaling {kind}"))
                .file(&metadata.file)
                .expected("none, linear or rope_freqs.weight"));
        }
    };
    let token = |key: &str| -> Result<Option<u32>> {
        let id = metadata.unsigned(&format!("tokenizer.ggml.{key}"))?;
        Ok(id.and_then(|id| u32::try_from(id).ok()).filter(|&id| id != u32::MAX))
    };
    let mut eos = Vec::new();
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        eos.extend(token(key)?.filter(|id| !eos.contains(id)));
    }
    let tokens = metadata.strings("tokenizer.ggml.tokens")?.map(<[String]>::len);
    let config = ModelConfig {
        architecture: arch.to_string(),
        hidden,
        layers: size("block_count")?,
        heads,
        kv_heads: optional("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        ffn: size("feed_forward_length")?,
        vocab: match vocab.or(optional("vocab_size")?).or(tokens) {
            Some(vocab) => vocab,
            None => return Err(metadata.missing(&format!("{arch}.vocab_size"))),
        },
        norm_eps: match float("attention.layer_norm_rms_epsilon")? {
            Some(eps) => eps as f32,
            None => return Err(metadata.missing(&format!("{arch}.attention.layer_norm_rms_epsilon"))),
        },
        rope: Rope { theta: float("rope.freq_base")?.unwrap_or(10_000.0), scaling },
        context,
        window: optional("attention.sliding_window")?.filter(|&n| n > 0),
        tied: !head,
        bos: token("bos_token_id")?,
        eos,
    };
    config.check(&metadata.file)?;
    check_scaling(&config, &metadata.file)?;
    Ok(config)
}

/// Factors are positive numbers, one for each pair of channels.
fn check_scaling(config: &ModelConfig, file: &str) -> Result<()> {
    let bad = match &config.rope.scaling {
        RopeScaling::Linear { factor } => (!(factor.is_finite() && *factor > 0.0)).then_some(*factor),
        RopeScaling::Factors(all) if all.len() != config.head_dim / 2 => {
            let error = Error::corrupt("rope_freqs.weight length mismatch").file(file);
            return Err(error.expected(config.head_dim / 2).found(all.len()));
        }
        RopeScaling::Factors(all) => {
            all.iter().find(|&&x| !(x.is_finite() && x > 0.0)).map(|&x| f64::from(x))
        }
        _ => None,
    };
    match bad {
        Some(x) => Err(Error::invalid(format!("invalid rope scaling factor {x}")).file(file)),
        None => Ok(()),
    }
}
