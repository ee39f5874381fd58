//! GPTQ (Frantar et al. 2022) as AutoGPTQ and GPTQModel write it, layouts `gptq` (v1) and `gptq_v2`.
//!
//! For a layer of K inputs and N outputs, b = 2, 3, 4 or 8 bits and groups of g inputs, G = ⌈K / g⌉:
//!
//! * `M.qweight` i32 `[K·b/32, N]`: column n is a little-endian bit stream, code k in bits k·b …
//! * `M.qzeros` i32 `[G, N·b/32]`: row j is such a stream of zero points; v1 stores them minus one.
//! * `M.scales` f16, bf16 or f32 `[G, N]`
//! * `M.g_idx` i32 `[K]`: the group of every input; k / g where it is absent.
//!
//! `w = (q − z) · s`. With act-order (`desc_act`) `g_idx` jumps: the inputs are sorted by group, and the
//! activations permuted likewise.

use super::hf::Keys;
use super::tensor::{Dtype, Grid, Major, TensorInfo, lcm, unpack, words32};
use super::{BoxFuture, InputTransform, Module, PieceSource, Reader, StoredMatrix};
use crate::error::{Error, Result};
use crate::quant::int::{Int, Offset};
use crate::quant::{Extent, Piece, UNIT, WHOLE_ROW};
use std::ops::Range;
use std::sync::Arc;

/// GPTQ.
pub static READER: Reader = Reader {
    name: "GPTQ",
    about: "2, 3, 4 and 8 bits, v1 and v2 zero points, act-order",
    signature: ".qweight .qzeros .scales [.g_idx]",
    source: "AutoGPTQ, GPTQModel",
    methods: &["gptq"],
    claims: |module| module.method() == Some("gptq") && module.tensor("qweight").is_some(),
    format: |_| "GPTQ",
    read: |module| Box::pin(read(module)),
};

/// Bytes of zero points that are read at once when a layer is opened.
const ZEROS_AT_ONCE: usize = 16 << 20;

/// What the quantization configuration says.
struct Settings {
    bits: usize,
    group: Option<usize>, // None: one group a row
    /// Stored zero points are one too small.
    v1: bool,
}

fn settings(module: &Module<'_>) -> Result<Settings> {
    let keys = Keys::new(module.quantization, "config.json");
    let unsupported =
        |what: String, expected: &str| Err(Error::unsupported(what).file("config.json").expected(expected));
    let missing = || Error::missing("missing bits of quantization_config").file("config.json");
    let bits = keys.size("bits")?.ok_or_else(missing)?;
    if !matches!(bits, 2 | 3 | 4 | 8) {
        return unsupported(format!("unsupported bits {bits} of GPTQ"), "2, 3, 4 or 8");
    }
    let group = match keys.get("group_size") {
        None => None,
        Some(size) => match size.as_i64() {
            Some(-1) => None,
            Some(n) if n > 0 => usize::try_from(n).ok(),
            _ => return Err(keys.invalid("group_size", size)),
        },
    };
    let layout = match keys.text("checkpoint_format")? {
        Some(layout) => layout,
        None => keys.text("format")?.unwrap_or("gptq"),
    };
    if !matches!(layout, "gptq" | "gptq_v2") || keys.flag("is_marlin_format")? {
        let layout = if matches!(layout, "gptq" | "gptq_v2") { "marlin" } else { layout };
        return unsupported(format!("checkpoint_format {layout} of GPTQ"), "gptq or gptq_v2");
    }
    if let Some(width) = keys.text("pack_dtype")?.filter(|&w| w != "int32" && w != "torch.int32") {
        return unsupported(format!("pack_dtype {width} of GPTQ"), "int32");
    }
    if keys.get("rotation").is_some() {
        return unsupported("a rotation of GPTQModel".into(), "an unrotated model");
    }
    // Entries that only exempt modules need no care: those modules have a `.weight`.
    let dynamic = keys.get("dynamic").and_then(|d| d.as_object());
    if let Some(rule) = dynamic.and_then(|d| d.keys().find(|rule| !rule.starts_with("-:"))) {
        return unsupported(format!("dynamic rule {rule} of GPTQ"), "one setting for all modules");
    }
    Ok(Settings { bits, group, v1: layout == "gptq" })
}

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    let Settings { bits, group, v1 } = settings(module)?;
    module.only(&["qweight", "qzeros", "scales", "g_idx", "bias"])?;
    let (rows, cols) = (module.rows, module.cols);
    if !(rows * bits).is_multiple_of(32) || !(cols * bits).is_multiple_of(32) {
        let what = format!("a GPTQ layer of {cols} inputs and {rows} outputs at {bits} bits");
        return Err(Error::unsupported(what).tensor(module.name).expected("codes that fill 32-bit words"));
    }
    let group = group.filter(|&g| g < cols).unwrap_or(cols);
    let groups = cols.div_ceil(group);
    let qweight = words(module, "qweight", &[cols * bits / 32, rows])?;
    let qzeros = words(module, "qzeros", &[groups, rows * bits / 32])?;
    let scales = module.require("scales")?;
    scales.expect_shape(&[groups, rows])?;
    let kind = scales.expect_float()?;
    let order = match module.tensor("g_idx") {
        Some(_) => act_order(words(module, "g_idx", &[cols])?, group, groups).await?,
        None => None,
    };
    let zeros = Zeros { tensor: qzeros.clone(), rows, bits, plus: u32::from(v1) };
    let offset = match zeros.common(groups).await? {
        Some(zero) => Offset::Symmetric(zero),
        None => Offset::Zero,
    };
    let run = if groups == 1 { WHOLE_ROW } else { group };
    let codec = Int::new(bits as u32, run, kind, offset).map_err(|e| e.tensor(module.name))?;
    let data = Layer {
        qweight: qweight.clone(),
        scales: scales.clone(),
        zeros,
        offset,
        order: order.clone(),
        codec: codec.clone(),
        rows,
        cols,
        group,
    };
    let mut matrix = module.matrix(&READER, codec, Arc::new(data)).await?;
    matrix.input = order.map_or(InputTransform::None, |order| InputTransform::Permute(order.to_vec()));
    Ok(matrix)
}

/// The I32 tensor `suffix` of the module.
fn words<'a>(module: &Module<'a>, suffix: &str, shape: &[usize]) -> Result<&'a TensorInfo> {
    let tensor = module.require(suffix)?;
    if tensor.dtype != Dtype::I32 {
        let error = Error::corrupt(format!("{suffix} must be I32"));
        return Err(tensor.blame(error.found(tensor.dtype)));
    }
    tensor.expect_shape(shape)?;
    Ok(tensor)
}

/// The inputs sorted by group, unless they are sorted already.
async fn act_order(g_idx: &TensorInfo, group: usize, groups: usize) -> Result<Option<Arc<[u32]>>> {
    let bytes = g_idx.read_all().await?;
    let of: Vec<i64> = words32(&bytes).map(|word| i64::from(word as i32)).collect();
    if let Some(bad) = of.iter().find(|&&g| g < 0 || g >= groups as i64) {
        return Err(g_idx.blame(Error::corrupt(format!("g_idx out of range ({bad} >= {groups})"))));
    }
    let in_place = |k: usize, g: i64| g == (k / group) as i64;
    if of.iter().enumerate().all(|(k, &g)| in_place(k, g)) {
        return Ok(None);
    }
    let mut order: Vec<u32> = (0..of.len() as u32).collect();
    order.sort_by_key(|&k| of.get(k as usize));
    if let Some((k, _)) = order.iter().enumerate().find(|&(k, &from)| !in_place(k, of[from as usize])) {
        let found = of.iter().filter(|&&g| g == (k / group) as i64).count();
        let error = Error::corrupt(format!("g_idx gives group {} the wrong number of inputs", k / group));
        return Err(g_idx.blame(error.expected(group).found(found)));
    }
    Ok(Some(order.into()))
}

/// The packed zero points of a layer.
struct Zeros {
    tensor: TensorInfo,
    rows: usize,
    bits: usize,
    /// What the stored ones lack: 1 in v1.
    plus: u32,
}

impl Zeros {
    /// The zero points of groups `groups` and output rows `rows`, by group. Rows begin at a multiple of 32, where a
    /// word begins.
    async fn read(&self, groups: Range<usize>, rows: Range<usize>) -> Result<Vec<u32>> {
        let stride = self.rows * self.bits / 8;
        let part = rows.start * self.bits / 32 * 4..(rows.end * self.bits).div_ceil(32) * 4;
        let bytes = self.tensor.read_rows(stride, groups.clone(), part.clone()).await?;
        let mut zeros = Vec::with_capacity(groups.len() * rows.len());
        for line in bytes.chunks_exact(part.len()) {
            unpack(words32(line), self.bits, rows.len(), &mut zeros);
        }
        let mask = (1 << self.bits) - 1;
        zeros.iter_mut().for_each(|zero| *zero = (*zero + self.plus) & mask);
        Ok(zeros)
    }

    /// The one zero point that the whole layer has, if it has one.
    async fn common(&self, groups: usize) -> Result<Option<u32>> {
        let at_once = (ZEROS_AT_ONCE / (self.rows * 4)).max(1);
        let mut common = None;
        for first in (0..groups).step_by(at_once) {
            for zero in self.read(first..groups.min(first + at_once), 0..self.rows).await? {
                if *common.get_or_insert(zero) != zero {
                    return Ok(None);
                }
            }
        }
        Ok(common)
    }
}

/// A layer on disk.
struct Layer {
    qweight: TensorInfo,
    scales: TensorInfo,
    zeros: Zeros,
    offset: Offset,
    order: Option<Arc<[u32]>>,
    codec: Arc<Int>,
    rows: usize,
    cols: usize,
    group: usize,
}

impl Layer {
    /// The codes of a rectangle, row-major. With act-order a band of rows is read over all inputs.
    async fn codes(&self, extent: &Extent) -> Result<Vec<u32>> {
        let bits = self.zeros.bits;
        let (width, cols) = (extent.rows.len(), extent.cols.clone());
        let inputs = if self.order.is_some() { 0..self.cols } else { cols.clone() };
        let lines = inputs.start * bits / 32..(inputs.end * bits).div_ceil(32);
        let part = extent.rows.start * 4..extent.rows.end * 4;
        let bytes = self.qweight.read_rows(self.rows * 4, lines, part).await?;
        let words: Vec<u32> = words32(&bytes).collect();
        let mut codes = Vec::with_capacity(width * cols.len());
        let mut row = Vec::with_capacity(self.cols);
        for n in 0..width {
            let stream = words.iter().skip(n).step_by(width).copied();
            match &self.order {
                None => unpack(stream, bits, cols.len(), &mut codes),
                Some(order) => {
                    row.clear();
                    unpack(stream, bits, self.cols, &mut row);
                    codes.extend(order[cols.clone()].iter().map(|&k| row[k as usize]));
                }
            }
        }
        Ok(codes)
    }
}

/// `[groups][rows]` → `[rows][groups]`.
fn transpose(items: &[u32], rows: usize) -> Vec<u32> {
    let column = |n: usize| items.iter().skip(n).step_by(rows.max(1)).copied();
    (0..rows).flat_map(column).collect()
}

impl PieceSource for Layer {
    fn extents(&self, budget: usize) -> Vec<Extent> {
        let grid = Grid::new(self.rows, self.cols, &*self.codec);
        let group = if self.group < self.cols { self.group } else { UNIT };
        let col_step = lcm(grid.col_step, group);
        let major = if self.order.is_some() { Major::Rows } else { Major::Cols };
        Grid { col_step, major, ..grid }.cut(budget)
    }

    fn read<'a>(&'a self, extent: &'a Extent) -> BoxFuture<'a, Result<Piece>> {
        Box::pin(async move {
            let rows = extent.rows.clone();
            let groups = extent.cols.start / self.group..extent.cols.end.div_ceil(self.group);
            let codes = self.codes(extent).await?;
            let size = self.scales.expect_float()?.bits() as usize / 8;
            let part = rows.start * size..rows.end * size;
            let bytes = self.scales.read_rows(self.rows * size, groups.clone(), part).await?;
            let scales = transpose(&self.scales.float_items(&bytes, "scale")?, rows.len());
            let mut items = vec![codes, scales];
            if self.offset == Offset::Zero {
                items.push(transpose(&self.zeros.read(groups, rows.clone()).await?, rows.len()));
            }
            Ok(Piece { extent: extent.clone(), items })
        })
    }
}
