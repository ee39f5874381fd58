//! VPTQ (Liu et al. 2024), packed, as microsoft/VPTQ writes it (`vptq/layers/vqlinear.py`, `vptq/utils/pack.py`) and
//! transformers reads it.
//!
//! `config_for_layers` of `quantization_config` has for every module, under its full name: the length v of a vector in
//! `vector_lens[1]`, c = `num_centroids[1]` main vectors and r = `num_res_centroids[1]` residual ones (none if r < 1); the
//! numbers at 0 are those of outliers. For a layer `[N, K]`, in one group, c and r powers of two, b = log2 c + log2 r:
//!
//! * `M.indices` i32 `[1, ⌈N/v⌉, ⌈K·b/32⌉]`: a stream of bits for v rows, the lowest bit of the first word first; for each column
//!   b bits, the index of the main vector in the low ones.
//! * `M.centroids.weight` f16 or bf16 `[1, c·v]`, `M.res_centroids.weight` `[1, r·v]`: vector by vector.
//! * `M.perm` i16 (as u16) `[K]`, with `enable_perm`: column k of the stream is input `perm[k]`.
//! * `M.weight_scale`, `M.weight_bias` `[K]`, with `enable_norm`, of the dtype of the centroids.
//!
//! `W[n, perm[k]] = scale · (centroids[i][n mod v] + res_centroids[j][n mod v]) + bias`, scale and bias being those of input
//! `perm[k]`. Vectors do not reach over columns, so columns are put in the order of the inputs while they are read.

use super::hf::Keys;
use super::tensor::{Dtype, Grid, TensorInfo, unpack, words16, words32};
use super::{BoxFuture, Module, PieceSource, Reader, StoredMatrix};
use crate::error::{Error, Result};
use crate::quant::vectors::{Sizes, Vectors};
use crate::quant::{Extent, Kind, Piece};
use serde_json::Value;
use std::sync::Arc;

/// VPTQ.
pub static READER: Reader = Reader {
    name: "VPTQ",
    about: "packed, vectors of 2, 4, 8 or 16 outputs, with a residual codebook or not",
    signature: ".indices .centroids.weight [.res_centroids.weight] [.weight_scale .weight_bias] [.perm]",
    source: "microsoft/VPTQ, transformers",
    methods: &["vptq"],
    claims: |module| module.tensor("indices").is_some() && module.tensor("centroids.weight").is_some(),
    format: |_| "VPTQ",
    read: |module| Box::pin(read(module)),
};

/// The settings of a module.
fn settings<'a>(module: &Module<'a>) -> Result<&'a Value> {
    let all = module.quantization.get("config_for_layers").and_then(|all| all.get(module.name));
    all.filter(|settings| settings.is_object()).ok_or_else(|| {
        Error::missing("nothing says how long the vectors of a VPTQ layer are")
            .tensor(module.name)
            .file("config.json")
            .expected("quantization_config.config_for_layers with the module's full name")
    })
}

/// The second number of a pair; the first is about outliers.
fn second(keys: &Keys<'_>, settings: &Value, key: &str) -> Result<i64> {
    let value = keys.get(key).ok_or_else(|| Error::missing(format!("missing {key}")).file("config.json"))?;
    let number = settings.get(key).and_then(|pair| pair.get(1)).and_then(Value::as_i64);
    number.ok_or_else(|| keys.invalid(key, value))
}

/// Sizes of the codebooks, or an error that names what is not read.
fn sizes(module: &Module<'_>) -> Result<Sizes> {
    let settings = settings(module)?;
    let keys = Keys::new(settings, "config.json");
    let unsupported = |what: String, expected: &str| {
        Error::unsupported(format!("VPTQ with {what}")).tensor(module.name).expected(expected)
    };
    if keys.get("is_indice_packed").is_some_and(|packed| *packed == Value::Bool(false))
        || module.tensor("res_indices").is_some()
    {
        let error = unsupported("indices that are not packed".into(), "is_indice_packed true");
        return Err(error.remedy("pack it with vptq.utils.pack"));
    }
    if module.tensor("outlier_indices").is_some() || keys.size("outlier_size")?.is_some_and(|size| size > 0) {
        let error = unsupported("outlier columns".into(), "outlier_size 0");
        return Err(error.remedy("use a model of the same weights without outliers"));
    }
    if let Some(groups) = keys.size("group_num")?.filter(|&groups| groups != 1) {
        return Err(unsupported(format!("{groups} groups of columns"), "group_num 1"));
    }
    if let Some(dim) = keys.text("vector_quant_dim")?.filter(|&dim| dim != "out") {
        return Err(unsupported(format!("vectors along {dim}"), "vector_quant_dim out"));
    }
    if let Some(size) = keys.size("group_size")?.filter(|&size| size != module.cols) {
        let error = Error::corrupt("group_size of config.json is not that of the layer").tensor(module.name);
        return Err(error.expected(module.cols).found(size));
    }
    let bits = |key: &str, count: i64| match u32::try_from(count) {
        Ok(count) if count.is_power_of_two() && (2..=1 << 16).contains(&count) => Ok(count.ilog2()),
        _ => Err(unsupported(format!("{key} {count}"), "a power of two up to 65536")),
    };
    let length = second(&keys, settings, "vector_lens")?;
    if !matches!(length, 2 | 4 | 8 | 16 | 32) {
        return Err(unsupported(format!("vectors of {length}"), "vectors of 2, 4, 8, 16 or 32"));
    }
    let residuals = second(&keys, settings, "num_res_centroids")?;
    Ok(Sizes {
        bits: bits("num_centroids", second(&keys, settings, "num_centroids")?)?,
        residual_bits: if residuals < 1 { 0 } else { bits("num_res_centroids", residuals)? },
        length: length as usize,
    })
}

/// The 16-bit floats of the tensor `suffix`, which has to be of `kind` and this shape.
async fn halves(module: &Module<'_>, suffix: &str, kind: Kind, shape: &[usize]) -> Result<Vec<u16>> {
    let tensor = module.require(suffix)?;
    tensor.expect_shape(shape)?;
    if tensor.dtype.kind() != Some(kind) {
        let error = Error::unsupported(format!("unexpected dtype {} for {}", tensor.dtype, tensor.name));
        return Err(error.file(tensor.source.name()).expected(format!("{kind:?}, as the centroids")));
    }
    let items = tensor.items(kind, &tensor.read_all().await?, suffix)?;
    Ok(items.into_iter().map(|item| item as u16).collect())
}

/// Where in the stream each input is, unless it is the input's own place.
async fn places(module: &Module<'_>) -> Result<Option<Vec<u32>>> {
    let Some(tensor) = module.tensor("perm") else { return Ok(None) };
    tensor.expect_shape(&[module.cols])?;
    if tensor.dtype != Dtype::named("I16").unwrap_or(tensor.dtype) {
        let error = Error::unsupported("perm of a packed VPTQ layer").expected("I16");
        return Err(tensor.blame(error.found(tensor.dtype)));
    }
    let mut places = vec![u32::MAX; module.cols];
    for (place, input) in words16(&tensor.read_all().await?).enumerate() {
        match places.get_mut(input as usize) {
            Some(free) if *free == u32::MAX => *free = place as u32,
            _ => return Err(tensor.blame(Error::corrupt("perm is not a permutation").found(input))),
        }
    }
    Ok(places.iter().enumerate().any(|(input, &place)| input != place as usize).then_some(places))
}

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    let sizes = sizes(module)?;
    let tensors = [
        "indices",
        "centroids.weight",
        "res_centroids.weight",
        "perm",
        "weight_scale",
        "weight_bias",
        "bias",
    ];
    module.only(&tensors)?;
    let (rows, cols) = (module.rows, module.cols);
    let Sizes { length, .. } = sizes;
    let centroids = module.require("centroids.weight")?;
    let kind = centroids.expect_float()?;
    let mut values = halves(module, "centroids.weight", kind, &[1, length << sizes.bits]).await?;
    if sizes.residual_bits > 0 {
        let shape = [1, length << sizes.residual_bits];
        values.extend(halves(module, "res_centroids.weight", kind, &shape).await?);
    } else if let Some(tensor) = module.tensor("res_centroids.weight") {
        let error = Error::corrupt("residual centroids where config.json has none");
        return Err(tensor.blame(error.expected("num_res_centroids above 0")));
    }
    let flags = Keys::new(settings(module)?, "config.json");
    let normed = module.tensor("weight_scale").is_some() || flags.flag("enable_norm")?;
    if flags.flag("enable_perm")? {
        module.require("perm")?;
    }
    let columns = if normed {
        let scales = halves(module, "weight_scale", kind, &[cols]).await?;
        let offsets = halves(module, "weight_bias", kind, &[cols]).await?;
        scales.into_iter().zip(offsets).map(|(scale, offset)| [scale, offset]).collect()
    } else {
        let one = if kind == Kind::Bf16 { half::bf16::ONE.to_bits() } else { half::f16::ONE.to_bits() };
        vec![[one, 0]; cols]
    };
    let indices = module.require("indices")?;
    let words = (cols * sizes.all_bits() as usize).div_ceil(32);
    indices.expect_shape(&[1, rows.div_ceil(length), words])?;
    if indices.dtype != Dtype::I32 {
        let error = Error::unsupported("packed indices").expected(Dtype::I32);
        return Err(indices.blame(error.found(indices.dtype)));
    }
    let codec = Vectors::new(sizes, kind, &columns, &values).map_err(|e| centroids.blame(e))?;
    let places = places(module).await?;
    let data = Layer { indices: indices.clone(), places, codec: codec.clone(), sizes, rows, cols, words };
    module.matrix(&READER, codec, Arc::new(data)).await
}

/// A layer on disk.
struct Layer {
    indices: TensorInfo,
    places: Option<Vec<u32>>,
    codec: Arc<Vectors>,
    sizes: Sizes,
    rows: usize,
    cols: usize,
    words: usize,
}

impl PieceSource for Layer {
    fn extents(&self, budget: usize) -> Vec<Extent> {
        Grid::new(self.rows, self.cols, &*self.codec).cut(budget)
    }

    fn read<'a>(&'a self, extent: &'a Extent) -> BoxFuture<'a, Result<Piece>> {
        Box::pin(async move {
            let length = self.sizes.length;
            let lines = extent.rows.start / length..extent.rows.end.div_ceil(length);
            let (stride, mut items, mut line) = (4 * self.words, Vec::new(), Vec::new());
            // Inputs of a part may be anywhere in a line.
            let bytes = self.indices.read_rows(stride, lines, 0..stride).await?;
            for bytes in bytes.chunks_exact(stride) {
                line.clear();
                unpack(words32(bytes), self.sizes.all_bits() as usize, self.cols, &mut line);
                let place = |k: usize| self.places.as_ref().map_or(k, |places| places[k] as usize);
                items.extend(extent.cols.clone().map(|k| line[place(k)]));
            }
            Ok(Piece { extent: extent.clone(), items: vec![items] })
        })
    }
}
