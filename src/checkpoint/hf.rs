//! A Hugging Face folder: `config.json`, `generation_config.json`, `*.safetensors` with or without an index.
//!
//! Both spellings of the rotary embedding are read: `rope_theta` with `rope_scaling` (transformers 4) and
//! `rope_parameters` (transformers 5).

use super::Files;
use super::safetensors;
use super::tensor::Tensors;
use crate::error::{Error, Result};
use crate::model::{ARCHITECTURES, ModelConfig, Rope, RopeScaling};
use crate::ops::Activation;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Longer JSON files than this are no configuration.
const MAX_JSON: u64 = 16 << 20;

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

fn architecture(keys: &Keys) -> Result<&'static str> {
    let class = keys.get("architectures").and_then(|v| v.get(0)).and_then(Value::as_str);
    // AQLM's first models came with code of their own: `llama_aqlm`.
    let model_type = keys.text("model_type")?.map(|name| name.strip_suffix("_aqlm").unwrap_or(name));
    let Some(name) = model_type.or(class) else {
        return Err(Error::missing("missing model_type").file(keys.file));
    };
    let known = ARCHITECTURES.iter().find(|a| a.name == name || a.class.eq_ignore_ascii_case(name));
    match known {
        // `model_type` llama with a head of another kind (a classifier, a reward model) generates no text.
        Some(known) if class.is_none_or(|c| c.eq_ignore_ascii_case(known.class)) => Ok(known.name),
        _ => {
            let names: Vec<&str> = ARCHITECTURES.iter().map(|a| a.class).collect();
            Err(Error::unsupported(format!("architecture {}", class.unwrap_or(name)))
                .file(keys.file)
                .expected(names.join(", ")))
        }
    }
}

/// The hyper-parameters of a parsed `config.json`, or of what `file` has of its keys.
pub(crate) fn model_config(config: &Value, generation: Option<&Value>, file: &str) -> Result<ModelConfig> {
    let keys = Keys::new(config, file);
    let architecture = architecture(&keys)?;
    let known = ARCHITECTURES.iter().find(|a| a.name == architecture);
    let acts: &[&str] = match known.map(|a| a.activation) {
        Some(Activation::SquaredRelu) => &["relu2"],
        _ => &["silu", "swish"],
    };
    if let Some(act) = keys.text("hidden_act")?.filter(|act| !acts.contains(act)) {
        let error = Error::unsupported(format!("hidden_act {act}")).file(keys.file);
        return Err(error.expected(acts.join(" or ")));
    }
    let hidden = keys.require("hidden_size")?;
    let layers = keys.require("num_hidden_layers")?;
    let heads = keys.require("num_attention_heads")?;
    let head_dim = match keys.size("head_dim")? {
        Some(width) => width,
        None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            let what = format!("hidden_size {hidden} is not divisible by num_attention_heads {heads}");
            return Err(Error::invalid(what).file(keys.file).remedy("the configuration is damaged"));
        }
    };
    let positions = keys.size("max_position_embeddings")?.unwrap_or(2048);
    let (rope, context) = rope(&keys, head_dim, positions)?;
    let mut eos = keys.tokens("eos_token_id")?;
    let generation = generation.map(|g| Keys::new(g, "generation_config.json"));
    if let Some(more) = &generation {
        for id in more.tokens("eos_token_id")? {
            if !eos.contains(&id) {
                eos.push(id);
            }
        }
    }
    let config = ModelConfig {
        architecture: architecture.to_string(),
        hidden,
        layers,
        heads,
        kv_heads: keys.size("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        ffn: keys.require("intermediate_size")?,
        vocab: keys.require("vocab_size")?,
        norm_eps: keys.number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        rope,
        context,
        window: window(&keys, architecture, layers)?,
        tied: keys.flag("tie_word_embeddings")?,
        bos: keys.tokens("bos_token_id")?.first().copied(),
        eos,
    };
    config.check(keys.file)?;
    Ok(config)
}

/// The rotary embedding, and the positions that a model with `positions` of them has after scaling.
fn rope(keys: &Keys, head_dim: usize, positions: usize) -> Result<(Rope, usize)> {
    let parameters = keys.get("rope_parameters").or(keys.get("rope_scaling")).unwrap_or(&Value::Null);
    if !(parameters.is_object() || parameters.is_null()) {
        return Err(keys.invalid("rope_scaling", parameters));
    }
    let inner = Keys::new(parameters, keys.file);
    let theta = match inner.number("rope_theta")? {
        Some(theta) => theta,
        None => keys.number("rope_theta")?.unwrap_or(10_000.0),
    };
    for keys in [keys, &inner] {
        if let Some(part) = keys.number("partial_rotary_factor")?.filter(|&part| part != 1.0) {
            let error = Error::unsupported(format!("partial_rotary_factor {part}")).file(keys.file);
            return Err(error.expected(format!("1: the rotation of all {head_dim} channels of a head")));
        }
    }
    let kind = match inner.text("rope_type")? {
        Some(kind) => kind,
        None => inner.text("type")?.unwrap_or("default"),
    };
    let positive = |key: &str| -> Result<f64> {
        let missing = || Error::missing(format!("missing {key} of rope_scaling {kind}")).file(keys.file);
        let value = inner.number(key)?.ok_or_else(missing)?;
        if value > 0.0 {
            Ok(value)
        } else {
            Err(Error::invalid(format!("invalid {key} {value}")).file(keys.file))
        }
    };
    let original = inner.size("original_max_position_embeddings")?;
    // Where the original length is not told, the configuration holds it, not the stretched one.
    let stretched =
        |factor: f64| if original.is_some() { positions } else { (positions as f64 * factor) as usize };
    let (scaling, context) = match kind {
        "default" | "none" => (RopeScaling::None, positions),
        "linear" => {
            let factor = positive("factor")?;
            (RopeScaling::Linear { factor }, stretched(factor))
        }
        "dynamic" => {
            let factor = positive("factor")?;
            (RopeScaling::Dynamic { factor, original: original.unwrap_or(positions) }, stretched(factor))
        }
        "llama3" => {
            let scaling = RopeScaling::Llama3 {
                factor: positive("factor")?,
                low: positive("low_freq_factor")?,
                high: positive("high_freq_factor")?,
                original: original.unwrap_or(positions),
            };
            (scaling, positions)
        }
        _ => {
            return Err(Error::unsupported(format!("rope type {kind}"))
                .file(keys.file)
                .expected("default, linear, dynamic or llama3"));
        }
    };
    Ok((Rope { theta, scaling }, context))
}

/// The sliding window, if all layers have the same.
fn window(keys: &Keys, architecture: &str, layers: usize) -> Result<Option<usize>> {
    let window = keys.size("sliding_window")?.filter(|&n| n > 0);
    let used = match architecture {
        "mistral" => true,
        "qwen2" | "qwen3" => keys.flag("use_sliding_window")?,
        _ => false,
    };
    let Some(window) = window.filter(|_| used) else { return Ok(None) };
    let sliding = match keys.get("layer_types") {
        Some(Value::Array(types)) => types.iter().filter(|t| *t == "sliding_attention").count().min(layers),
        _ if architecture == "mistral" => layers,
        _ => layers.saturating_sub(keys.size("max_window_layers")?.unwrap_or(28)),
    };
    match sliding {
        0 => Ok(None),
        n if n == layers => Ok(Some(window)),
        n => Err(Error::unsupported(format!("a sliding window in {n} of {layers} layers"))
            .file(keys.file)
            .expected("in all layers or none")),
    }
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
