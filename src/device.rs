//! Where a model lives: on a GPU, or in host memory for the CPU twin. Tensors, matrices, recordings.

use crate::checkpoint::PieceSource;
use crate::error::{Error, Result};
use crate::gpu::recorder::{GpuRecording, ReadBack};
use crate::gpu::{Context, Options};
use crate::ops::{Op, STEP_HEADER, Step, Tokens};
use crate::quant::{Codec, Packed, Piece, Shape, TILE_ROWS, Tiles, pack};
use crate::reference;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// Bytes of a checkpoint that are read at once.
const READ_BUDGET: usize = 4 << 20;
/// Natively `write_buffer` stages in host memory: wait for the queue after this many bytes.
const STAGED_BUDGET: usize = 32 << 20;

/// A place to run.
#[derive(Debug, Clone)]
pub enum Device {
    /// A GPU.
    Gpu(Context),
    /// The CPU twin.
    Cpu,
}

/// A row-major array of f32 (or of u32 words, for permutations and steps).
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    storage: Storage,
}

#[derive(Debug, Clone)]
enum Storage {
    Gpu(Arc<GpuBuffer>),
    Cpu(Arc<Mutex<Vec<u32>>>),
}

/// A buffer that gives its bytes back to the books.
#[derive(Debug)]
pub(crate) struct GpuBuffer {
    pub(crate) buffer: wgpu::Buffer,
    context: Context,
}

impl GpuBuffer {
    pub(crate) fn new(context: &Context, label: &str, bytes: u64) -> Result<Self> {
        Ok(Self { buffer: context.buffer(label, bytes)?, context: context.clone() })
    }
}

impl Drop for GpuBuffer {
    fn drop(&mut self) {
        self.context.release(self.buffer.size());
        self.buffer.destroy(); // a browser would keep its memory until the next garbage collection
    }
}

/// A packed weight matrix, cut by rows where it is larger than a binding.
#[derive(Debug)]
pub struct Matrix {
    /// How it is coded.
    pub codec: Arc<dyn Codec>,
    /// `[out, in]`
    pub shape: Shape,
    storage: MatrixStorage,
}

#[derive(Debug)]
enum MatrixStorage {
    Gpu(Vec<Part>),
    Cpu(Box<Mutex<Packed>>),
}

/// Rows of a matrix in buffers of their own.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) first_row: usize,
    pub(crate) shape: Shape,
    buffers: Vec<GpuBuffer>,
    codebook: Option<Arc<GpuBuffer>>,
}

impl Part {
    /// Buffer of binding `i`.
    pub(crate) fn buffers(&self) -> impl Iterator<Item = &wgpu::Buffer> {
        self.buffers.iter().chain(self.codebook.as_deref()).map(|b| &b.buffer)
    }
}

/// Ops made ready to run again and again.
#[derive(Debug)]
pub struct Recording {
    ops: Vec<Op>,
    gpu: Option<GpuRecording>,
}

/// A run whose words are on their way to the host.
#[derive(Debug)]
pub struct Pending(Under);

#[derive(Debug)]
enum Under {
    Way { staging: wgpu::Buffer, submission: wgpu::SubmissionIndex },
    Done(Vec<u32>),
}

impl Recording {
    /// Dispatches of one run (ops, on the CPU).
    pub fn dispatches(&self) -> usize {
        self.gpu.as_ref().map_or(self.ops.len(), GpuRecording::dispatches)
    }

    /// The ops.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }
}

impl Device {
    /// Opens a GPU.
    pub async fn gpu(options: &Options) -> Result<Self> {
        Ok(Device::Gpu(Context::open(options).await?))
    }

    /// The fastest GPU, or the CPU twin where there is none.
    pub async fn best() -> Result<Self> {
        match Self::gpu(&Options::default()).await {
            Err(Error::AdapterMissing(_)) => Ok(Device::Cpu),
            other => other,
        }
    }

    /// A tensor of zeros.
    pub fn zeros(&self, label: &str, rows: usize, cols: usize) -> Result<Tensor> {
        let storage = match self {
            Device::Gpu(context) => {
                Storage::Gpu(Arc::new(GpuBuffer::new(context, label, (rows * cols) as u64 * 4)?))
            }
            Device::Cpu => {
                let mut words = Vec::new();
                let reserved = rows.checked_mul(cols).map(|n| words.try_reserve_exact(n).map(|()| n));
                let Some(Ok(count)) = reserved else {
                    return Err(Error::OutOfMemory(format!(
                        "no room for {label} of {rows} × {cols} numbers"
                    )));
                };
                words.resize(count, 0);
                Storage::Cpu(Arc::new(Mutex::new(words)))
            }
        };
        Ok(Tensor { rows, cols, storage })
    }

    /// A tensor of one row with these words.
    pub fn words(&self, label: &str, words: &[u32]) -> Result<Tensor> {
        let tensor = self.zeros(label, 1, words.len())?;
        self.write(&tensor, 0, words);
        Ok(tensor)
    }

    /// A tensor of one row with these values.
    pub fn vector(&self, label: &str, values: &[f32]) -> Result<Tensor> {
        self.words(label, bytemuck::cast_slice(values))
    }

    /// Writes words at an offset.
    pub fn write(&self, tensor: &Tensor, offset: usize, words: &[u32]) {
        match (self, &tensor.storage) {
            (Device::Gpu(context), Storage::Gpu(b)) => context.write(&b.buffer, offset, words),
            _ => tensor.cpu()[offset..offset + words.len()].copy_from_slice(words),
        }
    }

    /// Reads `words` words at an offset.
    pub async fn read_words(&self, tensor: &Tensor, offset: usize, words: usize) -> Result<Vec<u32>> {
        match (self, &tensor.storage) {
            (Device::Gpu(context), Storage::Gpu(b)) => context.read(&b.buffer, offset, words).await,
            _ => Ok(tensor.cpu()[offset..offset + words].to_vec()),
        }
    }

    /// Reads the first `rows` rows.
    pub async fn read(&self, tensor: &Tensor, rows: usize) -> Result<Vec<f32>> {
        let words = self.read_words(tensor, 0, rows * tensor.cols).await?;
        Ok(bytemuck::cast_vec(words))
    }

    /// Bytes in use.
    pub fn allocated(&self) -> u64 {
        match self {
            Device::Gpu(context) => context.allocated(),
            Device::Cpu => 0,
        }
    }

    /// Bytes of the codebooks in GPU memory, which all matrices share.
    pub fn codebook_bytes(&self) -> u64 {
        let Device::Gpu(context) = self else { return 0 };
        let codebooks = context.shared.codebooks.lock().unwrap_or_else(|p| p.into_inner());
        codebooks.values().filter_map(Weak::upgrade).map(|b| b.buffer.size()).sum()
    }

    /// Room for a matrix; fill it with [`Device::load_into`].
    pub fn matrix(&self, label: &str, codec: Arc<dyn Codec>, shape: Shape) -> Result<Matrix> {
        let storage = match self {
            Device::Cpu => MatrixStorage::Cpu(Box::new(Mutex::new(Packed::new(codec.clone(), shape)))),
            Device::Gpu(context) => {
                let tables = codec.tables();
                let mut parts = Vec::new();
                for (first_row, shape) in split(&*codec, shape, context.capabilities().max_binding) {
                    let mut buffers = Vec::new();
                    for words in shape.binding_words(&*codec) {
                        buffers.push(GpuBuffer::new(context, label, words as u64 * 4)?);
                    }
                    if let (false, Some(last)) = (tables.is_empty(), buffers.last()) {
                        context.write(&last.buffer, 0, &tables);
                    }
                    let codebook = codebook(context, codec.codebook())?;
                    parts.push(Part { first_row, shape, buffers, codebook });
                }
                MatrixStorage::Gpu(parts)
            }
        };
        Ok(Matrix { codec, shape, storage })
    }

    /// Streams a stored matrix into rows `first_row..` of `matrix`. `staged` counts bytes since the last wait.
    pub async fn load_into(
        &self,
        matrix: &Matrix,
        first_row: usize,
        data: &dyn PieceSource,
        staged: &mut usize,
    ) -> Result<()> {
        let mut extents = data.extents(READ_BUDGET);
        if let (Device::Gpu(context), Some(tiles)) = (self, data.tiles()) {
            let rows = extents.iter().map(|e| e.rows.end).max().unwrap_or(0);
            let written = matrix.write_tiles(context, first_row..first_row + rows, tiles, staged).await?;
            extents.iter_mut().for_each(|e| e.rows.start = e.rows.start.max(written));
            extents.retain(|e| !e.rows.is_empty());
        }
        for extent in extents {
            let mut piece = data.read(&extent).await?;
            piece.extent.rows = piece.extent.rows.start + first_row..piece.extent.rows.end + first_row;
            *staged += matrix.write_piece(self, &piece)?;
            if let (Device::Gpu(context), true) = (self, *staged > STAGED_BUDGET) {
                context.wait().await?;
                *staged = 0;
            }
        }
        Ok(())
    }

    /// A matrix of plain f32 rows, for small things (LoRA, tests).
    pub fn dense(
        &self,
        label: &str,
        codec: Arc<dyn Codec>,
        shape: Shape,
        items: Vec<Vec<u32>>,
    ) -> Result<Matrix> {
        let matrix = self.matrix(label, codec, shape)?;
        let extent = crate::quant::Extent { rows: 0..shape.rows, cols: 0..shape.cols };
        matrix.write_piece(self, &Piece { extent, items })?;
        Ok(matrix)
    }

    /// Compiles the pipelines that lists of ops need; `progress` is told how many of how many are done.
    pub async fn compile(
        &self,
        step: &Tensor,
        lists: &[&[Op]],
        mut progress: impl FnMut(u64, u64),
    ) -> Result<()> {
        let Device::Gpu(context) = self else { return Ok(()) };
        let mut sources = BTreeMap::new();
        for list in lists {
            list.iter().try_for_each(Op::check)?;
            for source in context.sources(list, step)? {
                sources.insert(source.text.clone(), source);
            }
        }
        let total = sources.len() as u64;
        progress(0, total);
        context.compile_all(sources.into_values().collect(), |done| progress(done, total)).await
    }

    /// Checks ops and makes them ready: pipelines, parameters, bind groups. On a GPU neighbours may be done together: what a
    /// tensor that one op writes for another to read holds after a run is not said.
    pub async fn record(&self, step: &Tensor, ops: Vec<Op>) -> Result<Recording> {
        for op in &ops {
            op.check()?;
        }
        let gpu = match self {
            Device::Gpu(context) => Some(GpuRecording::new(context, step, &ops).await?),
            Device::Cpu => None,
        };
        Ok(Recording { ops, gpu })
    }

    /// Writes the step and runs the recording: one upload, one submit.
    pub fn run(&self, recording: &Recording, step_tensor: &Tensor, step: &Step) -> Result<()> {
        self.write_step(step_tensor, step);
        match (self, &recording.gpu) {
            (Device::Gpu(context), Some(gpu)) => gpu.run(context, step, None).map(drop),
            _ => reference::run(&recording.ops, step_tensor, step),
        }
    }

    /// [`Device::run`], then reads `words` words of `tensor` at `offset`, in the same submit.
    pub async fn run_and_read(
        &self,
        recording: &Recording,
        step_tensor: &Tensor,
        step: &Step,
        read: (&Tensor, usize, usize),
    ) -> Result<Vec<u32>> {
        let pending = self.start(recording, step_tensor, step, read)?;
        self.finish(recording, pending).await
    }

    /// The first half of [`Device::run_and_read`]: what is submitted next may depend on it before it is read.
    pub fn start(
        &self,
        recording: &Recording,
        step_tensor: &Tensor,
        step: &Step,
        (tensor, offset, words): (&Tensor, usize, usize),
    ) -> Result<Pending> {
        self.write_step(step_tensor, step);
        Ok(Pending(match (self, &recording.gpu) {
            (Device::Gpu(context), Some(gpu)) => {
                let staging = gpu.staging(context, words);
                let copy = ReadBack { source: tensor.gpu()?, offset, words, staging: &staging };
                let submission = gpu.run(context, step, Some(copy))?;
                Under::Way { staging, submission }
            }
            _ => {
                reference::run(&recording.ops, step_tensor, step)?;
                Under::Done(tensor.cpu()[offset..offset + words].to_vec())
            }
        }))
    }

    /// The second half: waits for the words that [`Device::start`] of the same recording asked for.
    pub async fn finish(&self, recording: &Recording, Pending(under): Pending) -> Result<Vec<u32>> {
        match (self, &recording.gpu, under) {
            (Device::Gpu(context), Some(gpu), Under::Way { staging, submission }) => {
                let words = context.map(&staging, submission).await?;
                gpu.keep(staging);
                Ok(words)
            }
            (_, _, Under::Done(words)) => Ok(words),
            _ => Err(Error::invalid("a run was started on another device")),
        }
    }

    /// Runs the recording for its times: the kernel and the seconds of every dispatch. None without a GPU's clock.
    pub async fn profile(
        &self,
        recording: &Recording,
        step_tensor: &Tensor,
        step: &Step,
    ) -> Result<Option<Vec<(String, f64)>>> {
        self.write_step(step_tensor, step);
        match (self, &recording.gpu) {
            (Device::Gpu(context), Some(gpu)) => gpu.profile(context, step).await,
            _ => Ok(None),
        }
    }

    fn write_step(&self, step_tensor: &Tensor, step: &Step) {
        let mut words =
            vec![step.position as u32, step.count() as u32, step.head_first as u32, step.head_rows as u32];
        debug_assert_eq!(words.len(), STEP_HEADER);
        if let Tokens::Given(ids) = &step.tokens {
            words.extend(ids);
        }
        self.write(step_tensor, 0, &words);
    }
}

/// The buffer of a codebook, uploaded for the first matrix that needs it and shared by all; none for an empty one.
fn codebook(context: &Context, words: &'static [u32]) -> Result<Option<Arc<GpuBuffer>>> {
    if words.is_empty() {
        return Ok(None);
    }
    let mut codebooks = context.shared.codebooks.lock().unwrap_or_else(|p| p.into_inner());
    let entry = codebooks.entry(words.as_ptr() as usize).or_default();
    if let Some(found) = entry.upgrade() {
        return Ok(Some(found));
    }
    let made = Arc::new(GpuBuffer::new(context, "codebook", words.len() as u64 * 4)?);
    context.write(&made.buffer, 0, words);
    *entry = Arc::downgrade(&made);
    Ok(Some(made))
}

/// Row ranges whose bindings all fit `max_binding` bytes, cut at tiles.
pub(crate) fn split(codec: &dyn Codec, shape: Shape, max_binding: u64) -> Vec<(usize, Shape)> {
    let tables = codec.tables().len();
    let largest = |shape: Shape| {
        let words = shape.binding_words(codec);
        let sections = words.len() - usize::from(tables > 0);
        words[..sections].iter().max().copied().unwrap_or(0) as u64 * 4
    };
    let mut rows = shape.rows;
    while largest(Shape { rows, ..shape }) > max_binding && rows > TILE_ROWS {
        rows = (rows / 2).next_multiple_of(TILE_ROWS);
    }
    let starts = (0..shape.rows).step_by(rows.max(1));
    starts.map(|first| (first, Shape { rows: rows.min(shape.rows - first), ..shape })).collect()
}

impl Matrix {
    /// Parts in GPU memory.
    pub(crate) fn parts(&self) -> &[Part] {
        match &self.storage {
            MatrixStorage::Gpu(parts) => parts,
            MatrixStorage::Cpu(_) => &[],
        }
    }

    /// The packed form in host memory; `None` on a GPU.
    pub(crate) fn packed(&self) -> Option<MutexGuard<'_, Packed>> {
        match &self.storage {
            MatrixStorage::Gpu(_) => None,
            MatrixStorage::Cpu(packed) => Some(packed.lock().unwrap_or_else(|p| p.into_inner())),
        }
    }

    /// Bytes of the packed form, all parts; without the code's own [codebook](Codec::codebook), which is shared.
    pub fn bytes(&self) -> u64 {
        match &self.storage {
            MatrixStorage::Gpu(parts) => {
                parts.iter().flat_map(|part| &part.buffers).map(|b| b.buffer.size()).sum()
            }
            MatrixStorage::Cpu(packed) => packed.lock().unwrap_or_else(|p| p.into_inner()).bytes(),
        }
    }

    /// Writes `tiles` over and over to `rows`; the rows that are done, which are all but those of a part of a tile.
    async fn write_tiles(
        &self,
        context: &Context,
        rows: Range<usize>,
        tiles: &Tiles,
        staged: &mut usize,
    ) -> Result<usize> {
        let (sections, own) = (self.codec.sections(), tiles.codec());
        if sections != own.sections() || self.codec.fields() != own.fields() {
            return Ok(0); // fused with others into a codec that packs otherwise
        }
        let done = rows.len() / TILE_ROWS * TILE_ROWS;
        for part in self.parts() {
            let from = rows.start.max(part.first_row);
            let to = (rows.start + done).min(part.first_row + part.shape.rows) / TILE_ROWS * TILE_ROWS;
            let offsets = part.shape.section_offsets(&*self.codec);
            for (i, (section, offset)) in sections.iter().zip(offsets).enumerate() {
                let tile_words = tiles.words(i, 0, 1).len();
                let at_once = (READ_BUDGET / 4 / tile_words.max(1)).max(1);
                for row in (from..to).step_by(at_once * TILE_ROWS) {
                    let count = at_once.min((to - row) / TILE_ROWS);
                    let words = tiles.words(i, (row - rows.start) / TILE_ROWS, count);
                    let at = offset + (row - part.first_row) / TILE_ROWS * tile_words;
                    context.write(&part.buffers[section.binding].buffer, at, &words);
                    *staged += words.len() * 4;
                    if *staged > STAGED_BUDGET {
                        context.wait().await?;
                        *staged = 0;
                    }
                }
            }
        }
        Ok(done)
    }

    /// Packs a piece and writes it; returns the bytes written.
    fn write_piece(&self, device: &Device, piece: &Piece) -> Result<usize> {
        let (parts, context) = match (&self.storage, device) {
            (MatrixStorage::Cpu(packed), _) => {
                packed.lock().unwrap_or_else(|p| p.into_inner()).write_piece(piece);
                return Ok(0);
            }
            (MatrixStorage::Gpu(parts), Device::Gpu(context)) => (parts, context),
            _ => return Err(Error::invalid("a GPU matrix cannot be written from the CPU device")),
        };
        let mut bytes = 0;
        for part in parts {
            let rows = part.first_row..part.first_row + part.shape.rows;
            let Some(piece) = rows_of(piece, &*self.codec, rows) else { continue };
            for run in pack(&*self.codec, part.shape, &piece, part.first_row) {
                context.write(&part.buffers[run.binding].buffer, run.offset, &run.words);
                bytes += run.words.len() * 4;
            }
        }
        Ok(bytes)
    }
}

/// The part of a piece that lies in `rows`.
fn rows_of(piece: &Piece, codec: &dyn Codec, rows: Range<usize>) -> Option<Piece> {
    let (from, to) = (piece.extent.rows.start.max(rows.start), piece.extent.rows.end.min(rows.end));
    if from >= to {
        return None;
    }
    if piece.extent.rows == (from..to) {
        return Some(piece.clone());
    }
    let fields = codec.fields();
    let cut = |(i, items): (usize, &Vec<u32>)| {
        let (field, a_line) = (&fields[i], codec.items(i, piece.extent.cols.clone()).len());
        let (first, end) = (from - piece.extent.rows.start, to - piece.extent.rows.start);
        items[field.lines(first) * a_line..field.lines(end) * a_line].to_vec()
    };
    let items = piece.items.iter().enumerate().map(cut).collect();
    Some(Piece { extent: crate::quant::Extent { rows: from..to, cols: piece.extent.cols.clone() }, items })
}

impl Tensor {
    /// Whether both are the same memory.
    pub(crate) fn is(&self, other: &Tensor) -> bool {
        match (&self.storage, &other.storage) {
            (Storage::Gpu(a), Storage::Gpu(b)) => Arc::ptr_eq(a, b),
            (Storage::Cpu(a), Storage::Cpu(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// Its GPU buffer; an error for a host tensor.
    pub(crate) fn gpu(&self) -> Result<&wgpu::Buffer> {
        match &self.storage {
            Storage::Gpu(b) => Ok(&b.buffer),
            Storage::Cpu(_) => Err(Error::invalid("a host tensor was given to the GPU")),
        }
    }

    /// Its host words; empty for a GPU tensor.
    pub(crate) fn cpu(&self) -> MutexGuard<'_, Vec<u32>> {
        static NOTHING: Mutex<Vec<u32>> = Mutex::new(Vec::new());
        let words = match &self.storage {
            Storage::Cpu(words) => words.as_ref(),
            Storage::Gpu(_) => &NOTHING,
        };
        words.lock().unwrap_or_else(|p| p.into_inner())
    }

    /// Bytes.
    pub fn bytes(&self) -> u64 {
        (self.rows * self.cols) as u64 * 4
    }
}
