//! A linear layer: codec × transform × side term — the one place where they meet.
//!
//! `x' = T_in(x);  y = T_out(decode(W)·x' + A'·(B'·x')) + bias + S·x + B·(A·x)`
//!
//! A layer may stack several modules (q, k, v; gate, up). Stored matrices are fused into one product where codec
//! and input transform agree; where they do not, each keeps a product of its own and writes its own columns.

use crate::checkpoint::lora::{self, Adapter};
use crate::checkpoint::{InputTransform, OutputTransform, Slice, Sparse, StoredMatrix};
use crate::device::{Device, Matrix, Tensor};
use crate::error::{Error, Result};
use crate::ops::{Op, Routes, Rows, Transform};
use crate::quant::activations::{ActivationCode, Activations};
use crate::quant::hadamard::Form;
use crate::quant::plain::Plain;
use crate::quant::{Codec, Kind, Shape, TILE_ROWS};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Weights with everything that happens around them.
pub struct Linear {
    /// Output features, all modules together.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    slices: Vec<Slice>,
    groups: Vec<Group>,
}

/// Modules that share one product.
struct Group {
    first_row: usize,
    /// Rows that are written; the matrix may have more, which an output transform cuts off.
    width: usize,
    matrix: Arc<Matrix>,
    input: Input,
    activations: Option<Activations>,
    output: Option<HadamardSide>,
    /// Of the product: before the output transform.
    bias: Option<Tensor>,
    sparse: Option<SparseTerm>,
    /// A term of the format itself, between the transforms.
    inner: Option<LowRank>,
    /// LoRA: outside of the transforms.
    adapters: Vec<(LowRank, Arc<Strength>)>,
}

/// `S·x`: outliers.
struct SparseTerm {
    offsets: Tensor,
    entries: Tensor,
}

enum Input {
    Direct,
    Permuted(Tensor),
    Scaled(Tensor),
    Hadamard(HadamardSide),
}

/// A transform and its sign vector.
struct HadamardSide {
    transform: Arc<Transform>,
    signs: Tensor,
}

/// `B·(A·x)`, a scale folded into B. Of a stack of experts both are stacks.
struct LowRank {
    a: Arc<Matrix>,
    b: Arc<Matrix>,
    /// Rows of A, of one expert if there are such.
    rank: usize,
}

/// How much a LoRA adapter counts: one for all its terms, which ask for it when they are recorded.
#[derive(Debug)]
pub struct Strength {
    /// The adapter.
    pub name: String,
    weight: AtomicU32, // f32
    by: Tensor,        // the weight for every row of A·x
}

impl Strength {
    /// That of an adapter on `device`, with its own weight.
    pub fn new(device: &Device, adapter: &Adapter) -> Result<Self> {
        let (name, weight) = (adapter.name.clone(), AtomicU32::new(0));
        let strength =
            Self { name, weight, by: device.zeros("adapter weight", 1, padded(adapter.most_rank()))? };
        strength.set(device, adapter.weight);
        Ok(strength)
    }

    /// 1: as it was trained.
    pub fn weight(&self) -> f32 {
        f32::from_bits(self.weight.load(Ordering::Relaxed))
    }

    /// For all that is recorded from now on.
    pub(crate) fn set(&self, device: &Device, weight: f32) {
        self.weight.store(weight.to_bits(), Ordering::Relaxed);
        device.write(&self.by, 0, &vec![weight.to_bits(); self.by.cols]);
    }
}

/// Rows of A as they are stored.
fn padded(rank: usize) -> usize {
    rank.next_multiple_of(4)
}

/// Buffers that linear layers borrow while they run; one set serves all layers of a recording.
#[derive(Debug, Clone)]
pub struct Scratch {
    /// Two of the largest width that a transform needs.
    pub wide: [Tensor; 2],
    /// `A·x` of low-rank terms.
    pub low: Tensor,
}

/// Widths that [`Scratch`] must have.
#[derive(Debug, Clone, Copy, Default)]
pub struct ScratchSize {
    /// Of `wide`.
    pub wide: usize,
    /// Of `low`.
    pub low: usize,
}

impl ScratchSize {
    /// Room for both.
    pub fn or(self, other: Self) -> Self {
        Self { wide: self.wide.max(other.wide), low: self.low.max(other.low) }
    }

    /// Makes the buffers for `tokens` rows.
    pub fn allocate(self, device: &Device, tokens: usize) -> Result<Scratch> {
        let wide = || device.zeros("transform scratch", tokens, self.wide.max(4).next_multiple_of(4));
        Ok(Scratch {
            wide: [wide()?, wide()?],
            low: device.zeros("low-rank scratch", tokens, self.low.max(4))?,
        })
    }
}

/// `model.layers.0.mlp` and `up_proj` → `model.layers.0.mlp.up_proj`; the head has no parent.
fn module_name(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") }
}

/// What of a module's name lies between a parent's and its last part: `experts.3`, mostly nothing.
fn between<'a>(parent: &str, name: &'a str) -> &'a str {
    let own = name.strip_prefix(parent).and_then(|rest| rest.strip_prefix('.'));
    own.and_then(|own| own.rsplit_once('.')).map_or("", |(path, _)| path)
}

/// Whether two stored matrices can share one product.
fn fusable(a: &StoredMatrix, b: &StoredMatrix) -> bool {
    a.input == b.input
        && a.activations == b.activations
        && !matches!(a.input, InputTransform::Hadamard { .. })
        && a.output == OutputTransform::None
        && b.output == OutputTransform::None
        && a.low_rank.is_none()
        && b.low_rank.is_none()
        && a.bias.is_some() == b.bias.is_some()
        && a.rows.is_multiple_of(TILE_ROWS)
}

/// The sparse terms of matrices one below the other, if any has one.
fn stack(members: &[StoredMatrix]) -> Option<Sparse> {
    members.iter().find(|member| member.sparse.is_some())?;
    let mut all = Sparse { offsets: vec![0], entries: Vec::new() };
    for member in members {
        let first = all.entries.len() as u32;
        match &member.sparse {
            Some(Sparse { offsets, entries }) => {
                all.offsets.extend(offsets.iter().skip(1).map(|offset| first + offset));
                all.entries.extend(entries);
            }
            None => all.offsets.extend(std::iter::repeat_n(first, member.rows)),
        }
    }
    Some(all)
}

impl Linear {
    /// Loads the stored matrices one below the other; `adapters` are LoRA's, with what they count.
    pub async fn load(
        device: &Device,
        stored: Vec<StoredMatrix>,
        parent: &str,
        adapters: &[(&Adapter, Arc<Strength>)],
        staged: &mut usize,
    ) -> Result<Self> {
        let cols = stored.first().map_or(0, |m| m.cols);
        let (mut slices, mut groups, mut first_row) = (Vec::new(), Vec::new(), 0);
        let mut rest = stored.into_iter().peekable();
        while let Some(first) = rest.next() {
            let mut members = vec![first];
            while let Some(next) = rest.next_if(|next| {
                let parts: Vec<(&dyn Codec, usize)> =
                    members.iter().chain([next]).map(|m| (&*m.codec, m.rows)).collect();
                members.iter().all(|m| fusable(m, next)) && members[0].codec.fuse(&parts).is_some()
            }) {
                members.push(next);
            }
            let group_row = first_row;
            for member in &members {
                for slice in &member.slices {
                    let rows = slice.rows.start + first_row..slice.rows.end + first_row;
                    let name = module_name(between(parent, &member.name), &slice.name);
                    slices.push(Slice { name, rows });
                }
                first_row += member.width();
            }
            groups.push(Group::load(device, members, group_row, staged).await?);
        }
        let mut linear = Self { rows: first_row, cols, slices, groups };
        for (adapter, strength) in adapters {
            linear.adapt(device, parent, adapter, strength)?;
        }
        Ok(linear)
    }

    /// Rows of one module.
    pub fn slice(&self, name: &str) -> Result<Range<usize>> {
        let found = self.slices.iter().find(|s| s.name == name);
        found.map(|s| s.rows.clone()).ok_or_else(|| Error::missing("module").tensor(name))
    }

    /// Full names of the modules in here.
    pub fn modules(&self, parent: &str) -> impl Iterator<Item = String> {
        self.slices.iter().map(move |s| module_name(parent, &s.name))
    }

    /// Whether these are the modules of experts, `experts.3.up_proj`: each row of x then goes through one of them.
    fn is_stack(&self) -> bool {
        self.slices.iter().any(|slice| slice.name.contains('.'))
    }

    /// Adds a LoRA adapter's terms, one pair for each group that it touches: A stacked, B block by block. Experts have
    /// such a pair each, those that the adapter leaves alone one of zeros.
    fn adapt(
        &mut self,
        device: &Device,
        parent: &str,
        adapter: &Adapter,
        strength: &Arc<Strength>,
    ) -> Result<()> {
        let stack = self.is_stack();
        for group in &mut self.groups {
            let rows = group.first_row..group.first_row + group.width;
            let inside = |s: &&Slice| rows.start <= s.rows.start && s.rows.end <= rows.end;
            let term = |s: &'_ Slice| adapter.modules.get(&module_name(parent, &s.name));
            let terms: Vec<(&Slice, Option<&lora::LowRank>)> =
                self.slices.iter().filter(inside).map(|s| (s, term(s))).collect();
            let together = if stack { 1 } else { terms.len().max(1) };
            let rank_of = |part: &[(&Slice, Option<&lora::LowRank>)]| -> usize {
                part.iter().filter_map(|(_, term)| *term).map(|term| term.rank).sum()
            };
            let rank = terms.chunks(together).map(rank_of).max().unwrap_or(0);
            if rank == 0 {
                continue;
            }
            let padded = padded(rank);
            let height = if stack { rank.next_multiple_of(TILE_ROWS) } else { padded };
            let a_rows = terms.len() / together * height;
            let (mut a, mut b) = (vec![0f32; a_rows * self.cols], vec![0f32; rows.len() * padded]);
            for (part, terms) in terms.chunks(together).enumerate() {
                let mut first = 0;
                for (slice, term) in terms.iter().filter_map(|(slice, term)| Some((slice, (*term)?))) {
                    a[(part * height + first) * self.cols..][..term.a.len()].copy_from_slice(&term.a);
                    for (row, values) in term.b.chunks_exact(term.rank).enumerate() {
                        let at = (slice.rows.start - rows.start + row) * padded + first;
                        b[at..at + term.rank].iter_mut().zip(values).for_each(|(b, v)| *b = v * term.scale);
                    }
                    first += term.rank;
                }
            }
            let dense = |label: &str, rows, cols, values: &[f32]| {
                let items = vec![bytemuck::cast_slice(values).to_vec()];
                device.dense(label, Plain::new(Kind::F32), Shape { rows, cols }, items).map(Arc::new)
            };
            let term = LowRank {
                a: dense("lora A", a_rows, self.cols, &a)?,
                b: dense("lora B", rows.len(), padded, &b)?,
                rank: height,
            };
            group.adapters.push((term, strength.clone()));
        }
        Ok(())
    }

    /// What [`Linear::forward`] needs of scratch.
    pub fn scratch(&self) -> ScratchSize {
        let of = |group: &Group| {
            let between = matches!(group.input, Input::Scaled(_) | Input::Hadamard(_))
                || group.output.is_some()
                || group.activations.is_some();
            let weighed = group.adapters.iter().map(|(_, strength)| strength.by.cols).max().unwrap_or(0);
            let low = group.side_terms().map(|l| l.rank).max().unwrap_or(0);
            let wide = if between { self.cols.max(group.matrix.shape.rows) } else { 0 };
            ScratchSize { wide: wide.max(weighed), low: low.max(weighed) }
        };
        self.groups.iter().map(of).fold(ScratchSize::default(), ScratchSize::or)
    }

    /// Bytes of all weights, side terms included.
    pub fn bytes(&self) -> u64 {
        let words = |term: &SparseTerm| (term.offsets.cols + term.entries.cols) as u64 * 4;
        let side = |g: &Group| {
            let low_rank: u64 = g.side_terms().map(|l| l.a.bytes() + l.b.bytes()).sum();
            low_rank + g.sparse.as_ref().map_or(0, words)
        };
        self.groups.iter().map(|g| g.matrix.bytes() + side(g)).sum()
    }

    /// The embedding's view of the layer: its one matrix, if rows can be gathered from it.
    pub fn table(&self) -> Result<Arc<Matrix>> {
        match self.groups.as_slice() {
            [
                Group {
                    matrix,
                    input: Input::Direct,
                    output: None,
                    bias: None,
                    sparse: None,
                    inner: None,
                    adapters,
                    ..
                },
            ] if adapters.is_empty() => Ok(matrix.clone()),
            _ => Err(Error::unsupported("an embedding with a transform, a bias or a side term")
                .tensor("model.embed_tokens")
                .remedy("its rows cannot be gathered")),
        }
    }

    /// `out[:, ..rows] (+)= layer(x)`.
    pub fn forward(
        &self,
        ops: &mut Vec<Op>,
        rows: Rows,
        scratch: &Scratch,
        x: &Tensor,
        out: &Tensor,
        add: bool,
    ) {
        let [wide, mixed] = &scratch.wide;
        for group in &self.groups {
            let hadamard = |side: &HadamardSide, is_input: bool, [x, out]: [&Tensor; 2], offset, add| {
                let signs = Some(side.signs.clone());
                let (before, after) = if is_input { (signs, None) } else { (None, signs) };
                let plan = side.transform.clone();
                let (x, out) = (x.clone(), out.clone());
                let width = if is_input { plan.plan.n } else { group.width };
                Op::Hadamard { rows, plan, x, before, after, out, offset, width, add }
            };
            let input = match &group.input {
                Input::Scaled(by) => {
                    let (x, by, out) = (x.clone(), by.clone(), wide.clone());
                    ops.push(Op::Scale { rows, x, by, out });
                    wide
                }
                Input::Hadamard(side) => {
                    ops.push(hadamard(side, true, [x, wide], 0, false));
                    wide
                }
                _ => x,
            };
            // What is quantized goes where no transform has left its result.
            let quantized = if matches!(group.input, Input::Direct) { wide } else { mixed };
            let outliers = group.activations.and_then(|scheme| scheme.outliers).map(|threshold| {
                let (x, out) = (input.clone(), mixed.clone());
                ops.push(Op::Outliers { rows, x, cols: self.cols, threshold, out });
                mixed
            });
            let input = match group.activations {
                Some(scheme) => {
                    let (x, out, outliers) = (input.clone(), quantized.clone(), outliers.cloned());
                    ops.push(Op::Quantize { rows, x, cols: self.cols, scheme, outliers, out });
                    quantized
                }
                None => input,
            };
            let int8 = group.activations.is_some_and(|scheme| scheme.code == ActivationCode::Int8);
            let permutation = match &group.input {
                Input::Permuted(permutation) => Some(permutation.clone()),
                _ => None,
            };
            // Before an output transform the product goes to `mixed`, at its beginning.
            let first = group.first_row;
            let (target, offset, accumulate) =
                if group.output.is_some() { (mixed, 0, false) } else { (out, first, add) };
            let side_term = |matrix: &Arc<Matrix>, x: &Tensor, out: &Tensor, offset, add| Op::Product {
                rows,
                matrix: matrix.clone(),
                x: x.clone(),
                int8: false,
                permutation: None,
                bias: None,
                out: out.clone(),
                offset,
                add,
            };
            ops.push(Op::Product {
                rows,
                matrix: group.matrix.clone(),
                x: input.clone(),
                int8,
                permutation,
                bias: group.bias.clone(),
                out: target.clone(),
                offset,
                add: accumulate,
            });
            if let Some(inner) = &group.inner {
                ops.push(side_term(&inner.a, input, &scratch.low, 0, false));
                ops.push(side_term(&inner.b, &scratch.low, target, offset, true));
            }
            if let Some(side) = &group.output {
                ops.push(hadamard(side, false, [mixed, out], first, add));
            }
            if let Some(SparseTerm { offsets, entries }) = &group.sparse {
                let (offsets, entries) = (offsets.clone(), entries.clone());
                ops.push(Op::Sparse {
                    rows,
                    offsets,
                    entries,
                    x: x.clone(),
                    out: out.clone(),
                    offset: first,
                });
            }
            if let Some(outliers) = outliers {
                ops.push(side_term(&group.matrix, outliers, out, first, true));
            }
            for (side, strength) in &group.adapters {
                let low = &scratch.low;
                let weighed = match strength.weight() {
                    0.0 => continue,
                    1.0 => low,
                    _ => wide,
                };
                ops.push(side_term(&side.a, x, low, 0, false));
                if strength.weight() != 1.0 {
                    let (x, by, out) = (low.clone(), strength.by.clone(), wide.clone());
                    ops.push(Op::Scale { rows, x, by, out });
                }
                ops.push(side_term(&side.b, weighed, out, first, true));
            }
        }
    }
}

impl Linear {
    /// `out[:, offset..offset + n]` = the product with the matrix of each row's own expert, this layer being a stack of
    /// matrices of `n` rows; `shared` rows of out share one of x. `low` are two buffers with a row for each of out's, for
    /// `A·x` of low-rank terms.
    pub fn forward_chosen(
        &self,
        ops: &mut Vec<Op>,
        routes: &Routes,
        (n, shared): (usize, usize),
        x: &Tensor,
        [low, weighed]: &[Tensor; 2],
        (out, offset): (&Tensor, usize),
    ) -> Result<()> {
        for group in &self.groups {
            let Group { first_row, matrix, input, bias, .. } = group;
            let first = first_row / n;
            let permutation = match input {
                Input::Direct => None,
                Input::Permuted(permutation) => Some(permutation.clone()),
                _ => return Err(Error::unsupported("experts with a transform of their activations")),
            };
            if group.activations.is_some() {
                let error = Error::unsupported("experts with quantized activations");
                return Err(error.remedy("load it with activations as they are"));
            }
            if group.output.is_some() || group.sparse.is_some() || group.inner.is_some() {
                return Err(Error::unsupported("experts with transforms of their outputs or side terms"));
            }
            ops.push(Op::ExpertProduct {
                matrix: matrix.clone(),
                first,
                n,
                x: x.clone(),
                shared,
                permutation,
                bias: bias.clone(),
                routes: routes.clone(),
                out: out.clone(),
                offset,
                add: false,
            });
            let side_term = |matrix: &Arc<Matrix>,
                             n,
                             (x, shared): (&Tensor, usize),
                             out: &Tensor,
                             offset,
                             add| {
                let (matrix, x, routes, out) = (matrix.clone(), x.clone(), routes.clone(), out.clone());
                let (permutation, bias) = (None, None);
                Op::ExpertProduct { matrix, first, n, x, shared, permutation, bias, routes, out, offset, add }
            };
            for (side, strength) in group.adapters.iter().filter(|(_, strength)| strength.weight() != 0.0) {
                ops.push(side_term(&side.a, side.rank, (x, shared), low, 0, false));
                let mut by_rank = low;
                if strength.weight() != 1.0 {
                    let (rows, x) = (Rows::Chosen(routes.ids.cols), low.clone());
                    ops.push(Op::Scale { rows, x, by: strength.by.clone(), out: weighed.clone() });
                    by_rank = weighed;
                }
                ops.push(side_term(&side.b, n, (by_rank, 1), out, offset, true));
            }
        }
        Ok(())
    }
}

impl Group {
    async fn load(
        device: &Device,
        members: Vec<StoredMatrix>,
        first_row: usize,
        staged: &mut usize,
    ) -> Result<Self> {
        let first = &members[0];
        let parts: Vec<(&dyn Codec, usize)> = members.iter().map(|m| (&*m.codec, m.rows)).collect();
        let codec = if parts.len() == 1 { Some(first.codec.clone()) } else { first.codec.fuse(&parts) };
        let codec = codec.ok_or_else(|| Error::unsupported("fused layer").tensor(&first.name))?;
        let rows: usize = members.iter().map(|m| m.rows).sum();
        let shape = Shape { rows, cols: first.cols };
        let matrix = device.matrix(&first.name, codec, shape)?;
        let mut at = 0;
        let mut bias = Vec::new();
        for member in &members {
            let named = |e: Error| e.tensor(&member.name);
            device.load_into(&matrix, at, &*member.data, staged).await.map_err(named)?;
            bias.extend(member.bias.iter().flatten());
            at += member.rows;
        }
        let side = |n: usize, transposed: bool, signs: &[f32], form: &Form| -> Result<HadamardSide> {
            let plan = form.plan(n, transposed).map_err(|e| e.tensor(&first.name))?;
            let transform = Arc::new(Transform::new(device, plan)?);
            Ok(HadamardSide { transform, signs: device.vector("sign vector", signs)? })
        };
        let input = match &first.input {
            InputTransform::None => Input::Direct,
            InputTransform::Permute(permutation) => {
                Input::Permuted(device.words("permutation", permutation)?)
            }
            InputTransform::Scale(scales) => Input::Scaled(device.vector("input scales", scales)?),
            InputTransform::Hadamard { signs, form } => Input::Hadamard(side(first.cols, true, signs, form)?),
        };
        let output = match &first.output {
            OutputTransform::None => None,
            OutputTransform::Hadamard { signs, form } => {
                if !bias.is_empty() {
                    bias = before_transform(&bias, signs, form).map_err(|e| e.tensor(&first.name))?;
                }
                Some(side(first.rows, false, signs, form)?)
            }
        };
        let inner = match first.low_rank.as_deref() {
            None => None,
            Some([down, up]) => {
                let (a, b) = (load(device, down, staged).await?, load(device, up, staged).await?);
                Some(LowRank { a, b, rank: down.rows })
            }
        };
        if let Some(scheme) = first.activations {
            let room = scheme.outliers.is_none() || matches!(input, Input::Direct);
            let product_fits = scheme.code != ActivationCode::Int8 || matrix.codec.has_integers();
            if !product_fits || !room || matches!(input, Input::Permuted(_)) || output.is_some() {
                return Err(Error::unsupported(format!(
                    "quantized activations before {}",
                    matrix.codec.name()
                ))
                .tensor(&first.name)
                .remedy("load it with activations as they are"));
            }
        }
        let sparse = match stack(&members) {
            Some(Sparse { offsets, entries }) => Some(SparseTerm {
                offsets: device.words("sparse offsets", &offsets)?,
                entries: device.words("sparse entries", &entries)?,
            }),
            None => None,
        };
        let bias = if bias.is_empty() { None } else { Some(device.vector("bias", &bias)?) };
        let (matrix, width) = (Arc::new(matrix), members.iter().map(StoredMatrix::width).sum());
        let (activations, adapters) = (first.activations, Vec::new());
        Ok(Self { first_row, width, matrix, input, activations, output, bias, sparse, inner, adapters })
    }

    fn side_terms(&self) -> impl Iterator<Item = &LowRank> {
        self.inner.iter().chain(self.adapters.iter().map(|(term, _)| term))
    }
}

/// A matrix of a low-rank term.
async fn load(device: &Device, stored: &StoredMatrix, staged: &mut usize) -> Result<Arc<Matrix>> {
    let shape = Shape { rows: stored.rows, cols: stored.cols };
    let matrix = device.matrix(&stored.name, stored.codec.clone(), shape)?;
    device.load_into(&matrix, 0, &*stored.data, staged).await?;
    Ok(Arc::new(matrix))
}

/// The b' with `signs ⊙ (H b') = bias`: products have a slot for a bias, output transforms have none.
fn before_transform(bias: &[f32], signs: &[f32], form: &Form) -> Result<Vec<f32>> {
    let mut before = vec![0.0; signs.len()]; // rows past the bias are cut off
    for ((before, &bias), &sign) in before.iter_mut().zip(bias).zip(signs) {
        if bias != 0.0 {
            *before = bias / sign;
        }
        if !before.is_finite() {
            return Err(Error::corrupt("a bias where the scale of the output is zero").found(bias));
        }
    }
    let (there, back) = (form.plan(signs.len(), false)?, form.plan(signs.len(), true)?);
    let wanted = before.clone();
    back.apply(&mut before);
    // A core of f16 numbers is orthogonal to three digits: two more rounds make it seven.
    for _ in 0..if matches!(form, Form::Core(_)) { 2 } else { 0 } {
        let mut rest = before.clone();
        there.apply(&mut rest);
        rest.iter_mut().zip(&wanted).for_each(|(rest, wanted)| *rest = wanted - *rest);
        back.apply(&mut rest);
        before.iter_mut().zip(&rest).for_each(|(before, rest)| *before += rest);
    }
    Ok(before)
}
