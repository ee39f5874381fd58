//! QTIP (Tseng et al. 2024), as its `hfize_llama` writes it: a trellis code between Hadamard transforms of full width.
//!
//! For a layer of K inputs and N outputs at b bits, in tiles of 16 × 16 weights (`quip_params`: `L` 16, `K` b, `td_x`,
//! `td_y` 16):
//!
//! * `M.trellis` i16 `[N/16 · K/16, 16·b]`: a circular stream of 256·b bits for every tile, see below.
//! * `M.tlut` f16 `[512, 2]`, of the hybrid code: its table.
//! * `M.SU` `[K]`, `M.SV` `[N]`: signs times scales. `M.bias` `[N]`, optional.
//! * `M.rcp`, `M.tp_rank` i64 scalars: where `rcp` is 1, the transform of the inputs is one for each of `tp_rank` parts (a
//!   model for several GPUs), where it is 2 that of the outputs.
//!
//! The first state of a stream is its first 16 bits, and every further one begins b bits (the hybrid code: 2b) later.
//! `decode_mode` says what it means: `quantlut_sym` ([`hyb`](crate::quant::hyb); `V` 2, `tlut_bits` 9), `1mad` or `3inst`
//! ([`trellis`](crate::quant::trellis), row-major; `V` 1).
//!
//! 1MAD and 3INST: tiles in rows, the words of a stream in order, the highest bit first. HYB: 2 × 2 tiles lie together, as a
//! tensor core's lanes read them: `[N/32][K/32][lane 32][tile column 2][tile row 2]` of b bytes, which are 8b bits of a
//! tile's stream as a little-endian number.
//!
//! `y = SV ⊙ H (Ŵ · Hᵀ (SU ⊙ x)) + bias`

use super::hf::Keys;
use super::tensor::{Dtype, Grid, TensorInfo, words16, words64};
use super::{BoxFuture, InputTransform, Module, OutputTransform, PieceSource, Reader, StoredMatrix};
use crate::error::{Error, Result};
use crate::quant::hadamard::{Form, Plan, factor};
use crate::quant::hyb::{ENTRIES, Hyb};
use crate::quant::trellis::{Codebook, Order, TILE, Trellis};
use crate::quant::{Codec, Extent, Kind, Piece};
use std::sync::Arc;

/// QTIP.
pub static READER: Reader = Reader {
    name: "QTIP",
    about: "HYB in 2-4 bits, 1MAD and 3INST in 1-8, incoherence processing",
    signature: ".trellis .SU .SV [.tlut] [.rcp .tp_rank]",
    source: "qtip",
    methods: &["QTIP"],
    claims: |module| module.tensor("trellis").is_some() && module.method() == Some("QTIP"),
    format: |module| mode(module).map_or("QTIP", |mode| mode.format),
    read: |module| Box::pin(read(module)),
};

/// What `decode_mode` names.
struct Mode {
    name: &'static str,
    format: &'static str,
    /// `V`: weights of a state.
    pair: usize,
    /// None: the hybrid code.
    codebook: Option<Codebook>,
}

static MODES: [Mode; 3] = [
    Mode { name: "quantlut_sym", format: "QTIP HYB", pair: 2, codebook: None },
    Mode { name: "1mad", format: "QTIP 1MAD", pair: 1, codebook: Some(Codebook::OneMad) },
    Mode { name: "3inst", format: "QTIP 3INST", pair: 1, codebook: Some(Codebook::ThreeInst) },
];

fn unsupported(what: String, expected: impl Into<String>) -> Error {
    Error::unsupported(format!("{what} of QTIP")).file("config.json").expected(expected.into())
}

/// The mode that the configuration names.
fn mode(module: &Module<'_>) -> Result<&'static Mode> {
    let name = Keys::new(module.quantization, "config.json").text("decode_mode")?.unwrap_or("missing");
    let names = || MODES.iter().map(|mode| mode.name).collect::<Vec<_>>().join(", ");
    let found = MODES.iter().find(|mode| mode.name == name);
    found.ok_or_else(|| unsupported(format!("decode_mode {name}"), names()))
}

/// The codec, with everything checked that the configuration says; bits of a weight.
async fn codec(module: &Module<'_>, mode: &Mode) -> Result<(Arc<dyn Codec>, usize)> {
    let keys = Keys::new(module.quantization, "config.json");
    let mut settings =
        vec![("L", 16), ("V", mode.pair), ("td_x", TILE), ("td_y", TILE), ("codebook_version", 0)];
    if mode.codebook.is_none() {
        settings.push(("tlut_bits", ENTRIES.ilog2() as usize));
    }
    for (key, expected) in settings {
        if let Some(found) = keys.size(key)?.filter(|&found| found != expected) {
            return Err(unsupported(format!("{key} {found}"), expected.to_string()));
        }
    }
    let bits = keys.size("K")?.unwrap_or(0);
    let blame = |e: Error| e.file("config.json").tensor(module.name);
    let codec: Arc<dyn Codec> = match mode.codebook {
        Some(codebook) => Trellis::new(bits, codebook, Order::Rows).map_err(blame)?,
        None => {
            let table = module.require("tlut")?;
            table.expect_shape(&[ENTRIES, 2])?;
            if table.expect_float()? != Kind::F16 {
                return Err(table.blame(Error::corrupt("tlut must be F16").found(table.dtype)));
            }
            let items = table.float_items(&table.read_all().await?, "tlut")?;
            let items: Vec<u16> = items.into_iter().map(|item| item as u16).collect();
            Hyb::new(bits, &items).map_err(blame)?
        }
    };
    Ok((codec, bits))
}

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    let mode = mode(module)?;
    let (codec, bits) = codec(module, mode).await?;
    let mut known = vec!["trellis", "SU", "SV", "rcp", "tp_rank", "bias"];
    if mode.codebook.is_none() {
        known.push("tlut");
    }
    module.only(&known)?;
    let (rows, cols) = (module.rows, module.cols);
    let tiles = if mode.codebook.is_none() { 2 } else { 1 };
    let multiple = tiles * TILE;
    if !rows.is_multiple_of(multiple) || !cols.is_multiple_of(multiple) {
        let what = format!("a QTIP layer of {cols} inputs and {rows} outputs");
        let expected = format!("multiples of {multiple}");
        return Err(Error::unsupported(what).tensor(module.name).expected(expected));
    }
    let [input, output] = forms(module).await?;
    let trellis = module.require("trellis")?;
    if Some(trellis.dtype) != Dtype::named("I16") {
        return Err(trellis.blame(Error::corrupt("trellis must be I16").found(trellis.dtype)));
    }
    trellis.expect_shape(&[rows / TILE * (cols / TILE), TILE * bits])?;
    let lead = 16 - bits * mode.pair;
    let data = Streams { trellis: trellis.clone(), codec: codec.clone(), rows, cols, bits, lead, tiles };
    let mut matrix = module.matrix(&READER, codec, Arc::new(data)).await?;
    let (su, sv) = (module.vector("SU", cols).await?, module.vector("SV", rows).await?);
    matrix.input = InputTransform::Hadamard { signs: su, form: input };
    matrix.output = OutputTransform::Hadamard { signs: sv, form: output };
    Ok(matrix)
}

/// The transforms of inputs and outputs, as `rcp` and `tp_rank` say it.
async fn forms(module: &Module<'_>) -> Result<[Form; 2]> {
    let mut scalars = [0, 1];
    for (scalar, suffix) in scalars.iter_mut().zip(["rcp", "tp_rank"]) {
        let Some(tensor) = module.tensor(suffix) else { continue };
        if tensor.dtype != Dtype::I64 || tensor.bytes() != 8 {
            return Err(tensor.blame(Error::corrupt(format!("{suffix} must be one I64")).found(tensor.dtype)));
        }
        *scalar = words64(&tensor.read_all().await?).next().unwrap_or(0) as usize;
    }
    let [side, count] = scalars;
    let mut forms = [Form::Whole, Form::Whole];
    for (i, size) in [module.cols, module.rows].into_iter().enumerate() {
        if side == i + 1 {
            let block = size.checked_div(count).unwrap_or(0);
            Plan::blocks(size, block).map_err(|e| e.tensor(module.name))?;
            forms[i] = Form::Blocks(block);
        } else {
            factor(size).map_err(|e| e.tensor(module.name))?;
        }
    }
    match side {
        0..=2 => Ok(forms),
        _ => Err(module.require("rcp")?.blame(Error::corrupt("rcp").expected("0, 1 or 2").found(side))),
    }
}

/// The streams of a layer on disk.
struct Streams {
    trellis: TensorInfo,
    codec: Arc<dyn Codec>,
    rows: usize,
    cols: usize,
    bits: usize,
    /// Bits of the first state that are none of the first weights'.
    lead: usize,
    /// Tiles that lie together, each way: 1 or 2.
    tiles: usize,
}

impl Streams {
    /// Words of a tile as codecs take them, whose states end where a weight's bits end: here they begin there.
    fn words(&self, stream: &[u8]) -> impl Iterator<Item = u32> {
        (0..stream.len() / 4).map(|i| {
            let byte = |b: usize| u64::from(stream[(4 * i + self.lead / 8 + b) % stream.len()]);
            let window = (0..5).fold(0, |window, b| window << 8 | byte(b));
            (window >> (8 - self.lead % 8)) as u32
        })
    }

    /// Bytes of the stream of the tile at (row, column) of a block of tiles.
    fn stream(&self, block: &[u8], row: usize, col: usize) -> Vec<u8> {
        if self.tiles == 1 {
            return words16(block).flat_map(|word| (word as u16).to_be_bytes()).collect();
        }
        let lane = |lane: usize| &block[((lane * 2 + col) * 2 + row) * self.bits..][..self.bits];
        (0..32).flat_map(|i| lane(i).iter().rev().copied()).collect()
    }
}

impl PieceSource for Streams {
    fn extents(&self, budget: usize) -> Vec<Extent> {
        Grid::new(self.rows, self.cols, &*self.codec).cut(budget)
    }

    fn read<'a>(&'a self, extent: &'a Extent) -> BoxFuture<'a, Result<Piece>> {
        Box::pin(async move {
            let side = self.tiles * TILE; // of a block
            let block = side * side * self.bits / 8;
            let bands = extent.rows.start / side..extent.rows.end / side;
            let wide = extent.cols.len() / side;
            let part = extent.cols.start / side * block..extent.cols.end / side * block;
            let bytes = self.trellis.read_rows(self.cols / side * block, bands, part).await?;
            let mut words = Vec::with_capacity(bytes.len() / 4);
            for band in bytes.chunks_exact(wide * block) {
                for row in 0..self.tiles {
                    for (block, col) in
                        band.chunks_exact(block).flat_map(|b| (0..self.tiles).map(move |c| (b, c)))
                    {
                        words.extend(self.words(&self.stream(block, row, col)));
                    }
                }
            }
            Ok(Piece { extent: extent.clone(), items: vec![words] })
        })
    }
}
