//! A Hugging Face folder: `config.json`, `generation_config.json`, `*.safetensors` with or without an index.
//!
//! Both spellings of the rotary embedding are read: `rope_theta` with `rope_scaling` (transformers 4) and
//! `rope_parameters` (transformers 5).

use super::Files;
use super::safetensors;
use super::tensor::Tensors;
use crate::error::{Error, Result};
use crate::model::{
    ARCHITECTURES, Alternating, Architecture, Constants, Experts, ModelConfig, NormKind, Rope, RopeScaling,
    Unrotated, Windows,
};
use crate::ops::Activation;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Longer JSON files than this are no configuration.
const MAX_JSON: u64 = 16 << 20;
/// Nor have models more layers.
const MAX_LAYERS: usize = 1 << 16;

/// The JSON object in file `name`, if there is such a file.
pub(crate) async fn json(files: &Files, name: &str) -> Result<Option<Value>> {
    let Some(source) = files.get(name) else { return Ok(None) };
    if source.len() > MAX_JSON {
        let expected = format!("at most {MAX_JSON} bytes");
        return Err(Error::corrupt("file too long").file(name).expected(expected).found(source.len()));
    }
    let bytes = source.read(0..source.len()).await?;
    parse_json(&bytes, name).map(Some)
}

fn parse_json(bytes: &[u8], name: &str) -> Result<Value> {
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|e| Error::corrupt(format!("not valid JSON: {e}")).file(name))?;
    if value.is_object() { Ok(value) } else { Err(Error::corrupt("must be a JSON object").file(name)) }
}

/// The keys of one JSON object, read with errors that name file, key and value.
pub(crate) struct Keys<'a> {
    file: &'a str,
    map: Option<&'a Map<String, Value>>,
}

impl<'a> Keys<'a> {
    /// The keys of `value`; none if it is no object.
    pub(crate) fn new(value: &'a Value, file: &'a str) -> Self {
        Self { file, map: value.as_object() }
    }

    /// The value of `key`, `null` being none.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map?.get(key).filter(|v| !v.is_null())
    }

    pub(crate) fn invalid(&self, key: &str, value: &Value) -> Error {
        let mut text = value.to_string();
        if text.len() > 80 {
            text = text.chars().take(80).chain("…".chars()).collect();
        }
        Error::invalid(format!("invalid {key} {text}")).file(self.file)
    }

    fn typed<T>(&self, key: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.invalid(key, value))
    }

    pub(crate) fn size(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, |v| v.as_u64().and_then(|n| usize::try_from(n).ok()))
    }

    /// A size of groups; `None` where it is absent or -1, one group a row.
    pub(crate) fn group(&self, key: &str) -> Result<Option<usize>> {
        match self.get(key) {
            None => Ok(None),
            Some(size) => match size.as_i64() {
                Some(-1) => Ok(None),
                Some(n) if n > 0 => Ok(Some(usize::try_from(n).unwrap_or(usize::MAX))),
                _ => Err(self.invalid(key, size)),
            },
        }
    }

    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, |v| v.as_f64().filter(|x| x.is_finite()))
    }

    pub(crate) fn flag(&self, key: &str) -> Result<bool> {
        Ok(self.typed(key, Value::as_bool)?.unwrap_or(false))
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, Value::as_str)
    }

    /// One token id or a list of them.
    fn tokens(&self, key: &str) -> Result<Vec<u32>> {
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        let ids = self.typed(key, |v| match v {
            Value::Array(all) => all.iter().map(id).collect(),
            one => id(one).map(|id| vec![id]),
        });
        Ok(ids?.unwrap_or_default())
    }

    /// A size that has to be there.
    fn require(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| Error::missing(format!("missing {key}")).file(self.file))
    }
}

/// `config.json` (and `generation_config.json`) → the hyper-parameters.
pub fn parse_config(config: &[u8], generation: Option<&[u8]>) -> Result<ModelConfig> {
    let config = parse_json(config, "config.json")?;
    let generation = generation.map(|bytes| parse_json(bytes, "generation_config.json")).transpose()?;
    model_config(&config, generation.as_ref(), "config.json")
}

fn architecture(keys: &Keys) -> Result<&'static Architecture> {
    let class = keys.get("architectures").and_then(|v| v.get(0)).and_then(Value::as_str);
    // AQLM's first models came with code of their own: `llama_aqlm`.
    let model_type = keys.text("model_type")?.map(|name| name.strip_suffix("_aqlm").unwrap_or(name));
    let Some(name) = model_type.or(class) else {
        return Err(Error::missing("missing model_type").file(keys.file));
    };
    let known = ARCHITECTURES.iter().find(|a| a.is_called(name));
    match known {
        // `model_type` llama with a head of another kind (a classifier, a reward model) generates no text.
        Some(known) if class.is_none_or(|class| known.is_called(class)) => Ok(known),
        _ => {
            let runs = ARCHITECTURES.iter().filter(|a| a.missing.is_none());
            let names: Vec<&str> = runs.map(|a| a.class).collect();
            Err(Error::unsupported(format!("architecture {}", class.unwrap_or(name)))
                .file(keys.file)
                .expected(names.join(", ")))
        }
    }
}

/// The part of a configuration that is about text: all of it, but for models that see as well.
fn text_config(config: &Value, file: &str) -> Result<Value> {
    let Some(text) = config.get("text_config").filter(|text| text.is_object()) else {
        return Ok(config.clone());
    };
    if config.get("model_type").is_some_and(|kind| kind == "paligemma") {
        let error = Error::unsupported("model_type paligemma").file(file);
        return Err(error.remedy("its prompts see what comes after them, which halfbyte does not run"));
    }
    let mut text = text.clone();
    for key in ["eos_token_id", "bos_token_id", "tie_word_embeddings"] {
        if let (None, Some(value)) = (text.get(key), config.get(key)) {
            text[key] = value.clone();
        }
    }
    Ok(text)
}

/// `config` with what its class supplies where it is silent.
fn with_defaults(mut config: Value, defaults: &str) -> Value {
    let defaults: Map<String, Value> = serde_json::from_str(defaults).unwrap_or_default();
    if let Some(map) = config.as_object_mut() {
        for (key, value) in defaults {
            map.entry(key).or_insert(value);
        }
    }
    config
}

/// The hyper-parameters of a parsed `config.json`, or of what `file` has of its keys.
pub(crate) fn model_config(config: &Value, generation: Option<&Value>, file: &str) -> Result<ModelConfig> {
    let config = text_config(config, file)?;
    let arch = architecture(&Keys::new(&config, file))?;
    let config = with_defaults(config, arch.defaults);
    let keys = Keys::new(&config, file);
    let hidden = keys.require("hidden_size")?;
    let layers = keys.require("num_hidden_layers")?;
    let heads = keys.require("num_attention_heads")?;
    let head_dim = match keys.size("head_dim")?.or(keys.size("v_head_dim")?) {
        Some(width) => width,
        None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            let what = format!("hidden_size {hidden} is not divisible by num_attention_heads {heads}");
            return Err(Error::invalid(what).file(keys.file).remedy("the configuration is damaged"));
        }
    };
    let positions = keys.size("max_position_embeddings")?.unwrap_or(2048);
    let (mut rope, local_rope, mut context) = rope(&keys, arch, head_dim, positions)?;
    // From there on queries grow with their position (Ministral 3).
    let longest = match rope.scaling {
        RopeScaling::Yarn { original, .. } if scores_grow(&keys)? => Some(original),
        _ => None,
    };
    context = context.min(longest.unwrap_or(context));
    if arch.learned_positions.is_some() {
        rope.dims = 0;
    }
    let mut eos = keys.tokens("eos_token_id")?;
    let generation = generation.map(|g| Keys::new(g, "generation_config.json"));
    if let Some(more) = &generation {
        for id in more.tokens("eos_token_id")? {
            if !eos.contains(&id) {
                eos.push(id);
            }
        }
    }
    let (window, sliding) = windows(&keys, arch, layers)?;
    let alternating = match (sliding, local_rope) {
        (None, None) => None,
        (sliding, local_rope) => Some(Alternating {
            sliding: sliding.unwrap_or_else(|| vec![window.is_some(); layers]),
            local_rope,
        }),
    };
    let unrotated = match (keys.get("no_rope_layers"), keys.size("no_rope_layer_interval")?) {
        (Some(Value::Array(turn)), _) => turn.iter().map(|turns| turns == 0).collect(),
        (_, Some(every @ 1..)) => Unrotated::Every(every).flags(layers.min(MAX_LAYERS), None),
        _ => arch.unrotated.flags(layers.min(MAX_LAYERS), alternating.as_ref()),
    };
    refuse_variants(&keys, hidden)?;
    let config = ModelConfig {
        architecture: arch.name.to_string(),
        hidden,
        layers,
        heads,
        kv_heads: keys.size("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        ffn: keys.size("ffn_dim")?.map_or_else(|| keys.require("intermediate_size"), Ok)?,
        vocab: keys.require("vocab_size")?,
        norm_eps: norm_eps(&keys)?,
        rope,
        context,
        longest,
        window,
        alternating,
        unrotated,
        experts: experts(&keys)?,
        activation: activation(&keys, arch)?,
        constants: constants(&keys, arch, hidden)?,
        tied: keys.flag("tie_word_embeddings")?,
        bos: keys.tokens("bos_token_id")?.first().copied(),
        eos,
    };
    config.check(keys.file)?;
    Ok(config)
}

/// Switches of some configurations that change the forward pass to one that is not written.
fn refuse_variants(keys: &Keys, hidden: usize) -> Result<()> {
    let unsupported = |what: String| Err(Error::unsupported(what).file(keys.file));
    if keys.get("do_layer_norm_before").is_some_and(|before| before == false) {
        return unsupported("do_layer_norm_before false".into());
    }
    for key in ["use_parallel_residual", "qk_layernorm"] {
        if keys.flag(key)? {
            return unsupported(format!("{key} true"));
        }
    }
    if let Some(width) = keys.size("word_embed_proj_dim")?.filter(|&width| width != hidden) {
        return unsupported(format!("word_embed_proj_dim {width} beside hidden_size {hidden}"));
    }
    if let Some(step) = keys.size("decoder_sparse_step")?.filter(|&step| step != 1) {
        return unsupported(format!("decoder_sparse_step {step}"));
    }
    match keys.get("mlp_only_layers").and_then(Value::as_array).filter(|dense| !dense.is_empty()) {
        Some(_) => unsupported("layers with experts beside layers without (mlp_only_layers)".into()),
        None => Ok(()),
    }
}

fn norm_eps(keys: &Keys) -> Result<f32> {
    for key in ["rms_norm_eps", "layer_norm_eps", "norm_epsilon"] {
        if let Some(eps) = keys.number(key)? {
            return Ok(eps as f32);
        }
    }
    Ok(1e-6)
}

fn activation(keys: &Keys, arch: &Architecture) -> Result<Activation> {
    if let Some(limit) = keys.number("swiglu_limit")? {
        return Ok(Activation::Clamped { limit: limit as f32 });
    }
    let mut name = None;
    for key in ["hidden_activation", "activation_function", "hidden_act"] {
        name = name.or(keys.text(key)?);
    }
    match name.unwrap_or("silu") {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" | "gelu_tanh" => Ok(Activation::GeluTanh),
        // So say configurations of the first Gemma, and mean the approximation.
        "gelu" if arch.norm == NormKind::RmsPlusOne => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        "relu2" => Ok(Activation::SquaredRelu),
        act => Err(Error::unsupported(format!("hidden_act {act}"))
            .file(keys.file)
            .expected("silu, gelu_pytorch_tanh, relu or relu2")),
    }
}

/// That of an architecture whose file does not say.
pub(crate) fn own_activation(arch: &Architecture) -> Result<Activation> {
    let defaults = with_defaults(Value::Object(Map::new()), arch.defaults);
    activation(&Keys::new(&defaults, arch.name), arch)
}

fn experts(keys: &Keys) -> Result<Option<Experts>> {
    let mut count = None;
    for key in ["num_local_experts", "num_experts", "n_routed_experts"] {
        count = count.or(keys.size(key)?);
    }
    let Some(count) = count else { return Ok(None) };
    let ffn = match keys.size("moe_intermediate_size")? {
        Some(ffn) => ffn,
        None => keys.require("intermediate_size")?,
    };
    let (per_token, normalized) = (keys.require("num_experts_per_tok")?, keys.flag("norm_topk_prob")?);
    Ok(Some(Experts { count, per_token, ffn, normalized }))
}

fn constants(keys: &Keys, arch: &Architecture, hidden: usize) -> Result<Constants> {
    let number = |key: &str| Ok::<_, Error>(keys.number(key)?.map(|x| x as f32));
    // Gemma scales by a root that no key spells out.
    let own = if arch.norm == NormKind::RmsPlusOne { (hidden as f32).sqrt() } else { 1.0 };
    Ok(Constants {
        embedding_scale: number("embedding_multiplier")?.unwrap_or(own),
        attention_width: match number("attention_multiplier")? {
            Some(scale) => Some(1.0 / (scale * scale)),
            None => number("query_pre_attn_scalar")?,
        },
        attention_softcap: number("attn_logit_softcapping")?,
        logit_softcap: number("final_logit_softcapping")?,
        logit_scale: match number("logits_scaling")? {
            Some(divisor) => 1.0 / divisor,
            None => number("logit_scale")?.unwrap_or(1.0),
        },
        residual_scale: number("residual_multiplier")?.unwrap_or(1.0),
    })
}

/// The rotary embedding, that of layers with a window where it is another one, and the positions that a model with
/// `positions` of them has after scaling.
fn rope(
    keys: &Keys,
    arch: &Architecture,
    head_dim: usize,
    positions: usize,
) -> Result<(Rope, Option<Rope>, usize)> {
    let parameters = keys.get("rope_parameters").or(keys.get("rope_scaling")).unwrap_or(&Value::Null);
    if !(parameters.is_object() || parameters.is_null()) {
        return Err(keys.invalid("rope_scaling", parameters));
    }
    let one = |parameters: &Value, theta: f64| {
        let rope = Rope { interleaved: arch.interleaved_rope, ..Rope::plain(theta, head_dim) };
        scaled_rope(keys, rope, arch.partial_rope, parameters, positions)
    };
    let theta = keys.number("rope_theta")?.unwrap_or(10_000.0);
    if let Some(global) = parameters.get("full_attention") {
        let local = parameters.get("sliding_attention").unwrap_or(&Value::Null);
        let (global, context) = one(global, theta)?;
        return Ok((global, Some(one(local, theta)?.0), context));
    }
    let own = Some(theta).filter(|_| arch.stretches_global_rope && !parameters.is_null());
    let local = keys.number("rope_local_base_freq")?.or(own);
    let local = local.map(|theta| one(&Value::Null, theta)).transpose()?;
    let (global, context) = one(parameters, theta)?;
    Ok((global, local.map(|(rope, _)| rope), context))
}

/// `rope` as `parameters` scale it, and the positions that a model with `positions` of them then has.
fn scaled_rope(
    keys: &Keys,
    mut rope: Rope,
    partial: bool,
    parameters: &Value,
    positions: usize,
) -> Result<(Rope, usize)> {
    let inner = Keys::new(parameters, keys.file);
    rope.theta = inner.number("rope_theta")?.unwrap_or(rope.theta);
    let part = match inner.number("partial_rotary_factor")? {
        Some(part) => Some(part),
        None => keys.number("partial_rotary_factor")?,
    };
    if let Some(part) = part.filter(|&part| part != 1.0) {
        if !partial || !(0.0..1.0).contains(&part) {
            let error = Error::unsupported(format!("partial_rotary_factor {part}")).file(keys.file);
            return Err(error.expected(format!("1: the rotation of all {} channels of a head", rope.dims)));
        }
        rope.dims = (rope.dims as f64 * part) as usize;
    }
    let kind = match inner.text("rope_type")? {
        Some(kind) => kind,
        None => inner.text("type")?.unwrap_or("default"),
    };
    let missing = |key: &str| Error::missing(format!("missing {key} of rope_scaling {kind}")).file(keys.file);
    let positive = |key: &str, default: Option<f64>| -> Result<f64> {
        let value = inner.number(key)?.or(default).ok_or_else(|| missing(key))?;
        if value > 0.0 {
            Ok(value)
        } else {
            Err(Error::invalid(format!("invalid {key} {value}")).file(keys.file))
        }
    };
    let original = match inner.size("original_max_position_embeddings")? {
        Some(original) => Some(original),
        None => keys.size("original_max_position_embeddings")?,
    };
    // Where the original length is not told, the configuration holds it, not the stretched one.
    let stretched =
        |factor: f64| if original.is_some() { positions } else { (positions as f64 * factor) as usize };
    let context;
    (rope.scaling, context) = match kind {
        // Three positions of a picture's parts are one and the same in a text.
        "default" | "none" | "mrope" => (RopeScaling::None, positions),
        "linear" => {
            let factor = positive("factor", None)?;
            (RopeScaling::Linear { factor }, stretched(factor))
        }
        "dynamic" => {
            let factor = positive("factor", None)?;
            (RopeScaling::Dynamic { factor, original: original.unwrap_or(positions) }, stretched(factor))
        }
        "llama3" => {
            let scaling = RopeScaling::Llama3 {
                factor: positive("factor", None)?,
                low: positive("low_freq_factor", None)?,
                high: positive("high_freq_factor", None)?,
                original: original.unwrap_or(positions),
            };
            (scaling, positions)
        }
        "yarn" => {
            let factor = positive("factor", None)?;
            let scaling = RopeScaling::Yarn {
                factor,
                fast: positive("beta_fast", Some(32.0))?,
                slow: positive("beta_slow", Some(1.0))?,
                truncated: inner.get("truncate").is_none_or(|truncate| truncate != false),
                original: original.unwrap_or(positions),
                amplitude: positive("attention_factor", Some(yarn_amplitude(&inner, factor)?))?,
            };
            (scaling, stretched(factor))
        }
        "longrope" | "su" => {
            let factors = |key: &str| -> Result<Vec<f64>> {
                let list = inner.get(key).ok_or_else(|| missing(key))?;
                let numbers = list.as_array().map(|all| all.iter().filter_map(Value::as_f64).collect());
                numbers.ok_or_else(|| inner.invalid(key, list))
            };
            let original = original.ok_or_else(|| missing("original_max_position_embeddings"))?;
            let factor = positions as f64 / original.max(1) as f64;
            let growth = if factor > 1.0 { (1.0 + factor.ln() / (original as f64).ln()).sqrt() } else { 1.0 };
            let amplitude = positive("attention_factor", Some(growth))?;
            let (short, long) = (factors("short_factor")?, factors("long_factor")?);
            (RopeScaling::Long { short, long, original, amplitude }, positions)
        }
        _ => {
            return Err(Error::unsupported(format!("rope type {kind}"))
                .file(keys.file)
                .expected("default, linear, dynamic, llama3, yarn or longrope"));
        }
    };
    Ok((rope, context))
}

/// What YaRN makes vectors grow by where `attention_factor` does not say (DeepSeek: `mscale`, `mscale_all_dim`).
fn yarn_amplitude(keys: &Keys, factor: f64) -> Result<f64> {
    let growth = |by: f64| if factor > 1.0 { 0.1 * by * factor.ln() + 1.0 } else { 1.0 };
    let [by, all] = ["mscale", "mscale_all_dim"].map(|key| keys.number(key));
    Ok(match (by?, all?) {
        (Some(by), Some(all)) if by != 0.0 && all != 0.0 => growth(by) / growth(all),
        _ => growth(1.0),
    })
}

/// Whether scores are scaled by their query's position.
fn scores_grow(keys: &Keys) -> Result<bool> {
    let parameters = keys.get("rope_parameters").or(keys.get("rope_scaling")).unwrap_or(&Value::Null);
    Ok(Keys::new(parameters, keys.file).number("llama_4_scaling_beta")?.is_some_and(|beta| beta != 0.0))
}

/// The sliding window, and which layers have it where not all have.
fn windows(keys: &Keys, arch: &Architecture, layers: usize) -> Result<(Option<usize>, Option<Vec<bool>>)> {
    let window = keys.size("sliding_window")?.filter(|&n| n > 0);
    let used = match arch.windows {
        Windows::Never => false,
        Windows::Always | Windows::AllBut(_) => true,
        Windows::Asked => keys.flag("use_sliding_window")?,
    };
    let Some(window) = window.filter(|_| used) else { return Ok((None, None)) };
    let layers = layers.min(MAX_LAYERS); // a size that is not checked yet
    let sliding: Vec<bool> = match (keys.get("layer_types"), arch.windows) {
        (Some(Value::Array(types)), _) => types.iter().map(|t| t == "sliding_attention").collect(),
        (_, Windows::Asked) => {
            let first = keys.size("max_window_layers")?.unwrap_or(28);
            (0..layers).map(|layer| layer >= first).collect()
        }
        (_, Windows::AllBut(every)) => {
            let every = keys.size("sliding_window_pattern")?.unwrap_or(every).max(1);
            (0..layers).map(|layer| !(layer + 1).is_multiple_of(every)).collect()
        }
        _ => vec![true; layers],
    };
    Ok(match (sliding.contains(&true), sliding.contains(&false)) {
        (false, _) => (None, None),
        (true, false) => (Some(window), None),
        (true, true) => (Some(window), Some(sliding)),
    })
}

/// Every tensor of the folder; of the file `only`, if one is named.
pub(crate) async fn tensors(files: &Files, only: Option<&str>) -> Result<Tensors> {
    let names = match only {
        Some(name) => vec![name.to_string()],
        None => weight_files(files).await?,
    };
    let mut all = Tensors::default();
    for name in names {
        let missing = || Error::missing(format!("missing file {name}"));
        let source = files.get(&name).ok_or_else(missing)?;
        for tensor in safetensors::tensors(source).await? {
            all.add(tensor)?;
        }
    }
    Ok(all)
}

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// The safetensors files that hold the model.
async fn weight_files(files: &Files) -> Result<Vec<String>> {
    let weights = |name: &&String| name.ends_with(".safetensors") && !name.starts_with("adapter_model");
    let names: Vec<String> = files.keys().filter(weights).cloned().collect();
    if let Some(index) = json(files, INDEX).await? {
        let shards = shards(&index)?;
        let here = |shard: &String| files.contains_key(shard);
        // An index that was copied along with the configuration of the unquantized model names files that are
        // not there: beside a single file, or beside those of another name (EXL2's `output.safetensors`).
        let stale = if files.contains_key(SINGLE) {
            !shards.iter().all(here)
        } else {
            !shards.iter().any(here) && !names.is_empty()
        };
        if !stale {
            return Ok(shards.into_iter().collect());
        }
    }
    if files.contains_key(SINGLE) {
        return Ok(vec![SINGLE.to_string()]);
    }
    if names.is_empty() {
        let found: Vec<&str> = files.keys().map(String::as_str).take(20).collect();
        return Err(Error::missing("no .safetensors file")
            .found(found.join(", "))
            .remedy("PyTorch .bin files are not read: convert them to safetensors"));
    }
    Ok(names)
}

/// The files that an index names; none may lie elsewhere.
fn shards(index: &Value) -> Result<BTreeSet<String>> {
    let keys = Keys::new(index, INDEX);
    let Some(map) = keys.get("weight_map").and_then(Value::as_object) else {
        return Err(Error::corrupt("weight_map must be an object").file(INDEX));
    };
    let mut shards = BTreeSet::new();
    for (tensor, shard) in map {
        let Some(shard) = shard.as_str() else {
            return Err(keys.invalid("weight_map entry", shard).tensor(tensor));
        };
        if shard.contains(['/', '\\', ':']) || shard == ".." {
            return Err(Error::corrupt("shard path leaves the model directory")
                .file(INDEX)
                .tensor(tensor)
                .found(shard));
        }
        shards.insert(shard.to_string());
    }
    Ok(shards)
}
