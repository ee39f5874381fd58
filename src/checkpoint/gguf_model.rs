//! What llama.cpp calls the parts of a model of the Llama family (`gguf-py`, constants.py): tensor names and the keys
//! of the hyper-parameters.

use super::gguf::Metadata;
use super::hf;
use super::tensor::TensorInfo;
use crate::error::{Error, Result};
use crate::model::{
    ARCHITECTURES, Alternating, Architecture, Constants, Experts, ModelConfig, NormKind, Rope, RopeScaling,
    Windows,
};

/// llama.cpp's name of a tensor of a model of `general.architecture` `arch` → Hugging Face's of the Llama family; others
/// stay as they are.
pub fn hugging_face_name(name: &str, arch: &str) -> String {
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
        "attn_qkv" => "self_attn.qkv_proj",
        "attn_sinks" => return format!("model.layers.{layer}.self_attn.sinks"),
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" if matches!(arch, "phi3" | "glm4") => "mlp.gate_up_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        "ffn_gate_inp" => "mlp.gate",
        "ffn_gate_exps" => "mlp.experts.gate_proj",
        "ffn_up_exps" => "mlp.experts.up_proj",
        "ffn_down_exps" => "mlp.experts.down_proj",
        _ => {
            // Before they were stacked, experts were tensors of their own: `ffn_gate.3`.
            let expert = part.split_once('.').and_then(|(part, expert)| {
                let part =
                    ["gate", "up", "down"].into_iter().find(|p| part.strip_prefix("ffn_") == Some(p))?;
                Some(format!("mlp.experts.{expert}.{part}_proj"))
            });
            let known = ARCHITECTURES.iter().find(|a| a.gguf.contains(&arch));
            let norm = |a: &Architecture| Some(a.norms[a.gguf_norms.iter().position(|n| *n == part)?]);
            match expert.or(known.and_then(norm).map(String::from)) {
                Some(module) => return format!("model.layers.{layer}.{module}.{end}"),
                None => return name.to_string(),
            }
        }
    };
    format!("model.layers.{layer}.{module}.{end}")
}

/// A stack of experts `[experts, n, k]`, or of their biases, as a tensor an expert; any other tensor as it is.
pub(super) fn experts(tensor: TensorInfo) -> Vec<TensorInfo> {
    let stack = match (tensor.name.split_once(".experts."), &tensor.shape[..]) {
        (Some(name), [count, shape @ ..]) if tensor.name.ends_with(".bias") || shape.len() == 2 => {
            Some((name, count, shape))
        }
        _ => None,
    };
    let Some(((head, part), count, shape)) = stack else { return vec![tensor] };
    let size = tensor.bytes() / (*count).max(1) as u64;
    let expert = |e: usize| TensorInfo {
        name: format!("{head}.experts.{e}.{part}"),
        shape: shape.to_vec(),
        range: tensor.range.start + e as u64 * size..tensor.range.start + (e as u64 + 1) * size,
        ..tensor.clone()
    };
    (0..*count).map(expert).collect()
}

/// Tensors of factors that frequencies of the rotary embedding are divided by: of all texts, of short and of long ones.
pub(super) const ROPE_FACTORS: [&str; 3] =
    ["rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"];

/// The hyper-parameters that `metadata` spells out. `head` and `vocab` come from the tensors: whether there is an
/// output matrix, and the rows of the embedding. `factors` are those of `ROPE_FACTORS`.
pub fn config(
    metadata: &Metadata,
    head: bool,
    vocab: Option<usize>,
    factors: [Option<Vec<f32>>; 3],
) -> Result<ModelConfig> {
    let arch = metadata.architecture()?;
    if !ARCHITECTURES.iter().any(|a| a.gguf.contains(&arch)) {
        let known: Vec<&str> = ARCHITECTURES.iter().flat_map(|a| a.gguf).copied().collect();
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
    let experts = match optional("expert_count")?.filter(|&n| n > 0) {
        None => None,
        Some(count) => Some(Experts {
            count,
            per_token: size("expert_used_count")?,
            ffn: match optional("expert_feed_forward_length")? {
                Some(ffn) => ffn,
                None => size("feed_forward_length")?,
            },
            normalized: true,
        }),
    };
    let window = optional("attention.sliding_window")?.filter(|&n| n > 0);
    let known = known_architecture(arch, experts.is_some(), window.is_some());
    let layers = size("block_count")?;
    let dims = optional("rope.dimension_count")?.unwrap_or(head_dim);
    let turning = if known.partial_rope { head_dim } else { dims };
    for (key, value) in [
        ("attention.value_length", optional("attention.value_length")?),
        ("rope.dimension_count", Some(turning)),
    ] {
        if let Some(found) = value.filter(|&n| n != head_dim) {
            let error = Error::unsupported(format!("{arch}.{key}")).file(&metadata.file);
            return Err(error.expected(format!("the head's width {head_dim}")).found(found));
        }
    }
    let factor = match float("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => float("rope.scale_linear")?,
    };
    let kind = metadata.string(&format!("{arch}.rope.scaling.type"))?;
    let wide = |factors: Vec<f32>| factors.into_iter().map(f64::from).collect();
    let [all, short, long] = factors;
    let scaling = match (all, kind, factor) {
        (Some(factors), ..) => RopeScaling::Factors(factors),
        (None, ..) if short.is_some() || long.is_some() => RopeScaling::Long {
            short: short.map(wide).unwrap_or_default(),
            long: long.map(wide).unwrap_or_default(),
            original: size("rope.scaling.original_context_length")?,
            amplitude: float("rope.scaling.attn_factor")?.unwrap_or(1.0),
        },
        (None, Some("linear") | None, Some(factor)) if factor != 1.0 => RopeScaling::Linear { factor },
        (None, Some("none" | "linear") | None, _) => RopeScaling::None,
        (None, Some("yarn"), Some(factor)) => RopeScaling::Yarn {
            factor,
            fast: float("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            slow: float("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            truncated: arch != "gpt-oss", // as the model was made, which the file does not say
            original: size("rope.scaling.original_context_length")?,
            amplitude: float("rope.scaling.attn_factor")?.unwrap_or(1.0) * (1.0 + 0.1 * factor.max(1.0).ln()),
        },
        (None, Some(kind), _) => {
            return Err(Error::unsupported(format!("rope scaling {kind}"))
                .file(&metadata.file)
                .expected("none, linear, yarn or rope_freqs.weight"));
        }
    };
    let theta = float("rope.freq_base")?.unwrap_or(10_000.0);
    let rope = Rope { scaling, interleaved: known.interleaved_rope, dims, ..Rope::plain(theta, head_dim) };
    // llama.cpp knows which layers slide, and what those rotate by, from the architecture.
    let alternating = match known.windows {
        Windows::AllBut(every) if window.is_some() => Some(Alternating {
            sliding: (0..layers.min(1 << 16)).map(|layer| !(layer + 1).is_multiple_of(every)).collect(),
            local_rope: match arch {
                "gemma3" => Some(Rope::plain(10_000.0, head_dim)),
                _ => known.stretches_global_rope.then(|| Rope::plain(theta, head_dim)),
            },
        }),
        _ => None,
    };
    let own_scale = if known.norm == NormKind::RmsPlusOne { (hidden as f32).sqrt() } else { 1.0 };
    // So it does which Gemmas divide scores by another width than the head's: the ones with 27 billion weights.
    let wide = matches!((arch, layers), ("gemma2", 46) | ("gemma3", 62));
    let constant = |key: &str| Ok::<_, Error>(float(key)?.map(|x| x as f32));
    let constants = Constants {
        embedding_scale: constant("embedding_scale")?.unwrap_or(own_scale),
        attention_width: match constant("attention.scale")?.filter(|&scale| scale != 0.0) {
            Some(scale) => Some(1.0 / (scale * scale)),
            None => wide.then(|| hidden as f32 / heads as f32),
        },
        attention_softcap: constant("attn_logit_softcapping")?,
        logit_softcap: constant("final_logit_softcapping")?,
        // Granite divides by it.
        logit_scale: constant("logit_scale")?
            .map_or(1.0, |scale| if arch == "granite" { 1.0 / scale } else { scale }),
        residual_scale: constant("residual_scale")?.unwrap_or(1.0),
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
        architecture: known.name.to_string(),
        hidden,
        layers,
        heads,
        kv_heads: optional("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        ffn: match optional("feed_forward_length")? {
            Some(ffn) => ffn,
            None => experts
                .as_ref()
                .map(|e| e.ffn)
                .ok_or_else(|| metadata.missing(&format!("{arch}.feed_forward_length")))?,
        },
        vocab: match vocab.or(optional("vocab_size")?).or(tokens) {
            Some(vocab) => vocab,
            None => return Err(metadata.missing(&format!("{arch}.vocab_size"))),
        },
        norm_eps: match float("attention.layer_norm_rms_epsilon")?.or(float("attention.layer_norm_epsilon")?)
        {
            Some(eps) => eps as f32,
            None => return Err(metadata.missing(&format!("{arch}.attention.layer_norm_rms_epsilon"))),
        },
        rope,
        context,
        longest: None,
        window,
        unrotated: known.unrotated.flags(layers.min(1 << 16), alternating.as_ref()),
        alternating,
        experts,
        activation: hf::own_activation(known)?,
        constants,
        tied: !head,
        bos: token("bos_token_id")?,
        eos,
    };
    config.check(&metadata.file)?;
    check_scaling(&config, &metadata.file)?;
    Ok(config)
}

/// The entry of `general.architecture`; a Llama with experts is a Mixtral, an OLMo 2 with a window an OLMo 3.
fn known_architecture(arch: &str, experts: bool, window: bool) -> &'static Architecture {
    let name = match arch {
        "llama" if experts => Some("mixtral"),
        "olmo2" if window => Some("olmo3"),
        _ => None,
    };
    let found = ARCHITECTURES.iter().find(|a| name.map_or(a.gguf.contains(&arch), |name| a.name == name));
    found.unwrap_or(&ARCHITECTURES[0])
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
