//! A linear layer: codec × transform × side term — the one place where they meet.
//!
//! `x' = T_in(x);  y = T_out(decode(W)·x') + bias + B·(A·x)`
//!
//! A layer may stack several modules (q, k, v; gate, up). Stored matrices are fused into one product where codec
//! and input transform agree; where they do not, each keeps a product of its own and writes its own columns.

use crate::checkpoint::lora::Adapter;
use crate::checkpoint::{InputTransform, OutputTransform, Slice, StoredMatrix};
use crate::device::{Device, Matrix, Tensor};
use crate::error::{Error, Result};
use crate::ops::{Op, Routes, Rows, Transform};
use crate::quant::hadamard::Plan;
use crate::quant::plain::Plain;
use crate::quant::{Codec, Kind, Shape, TILE_ROWS};
use std::ops::Range;
use std::sync::Arc;

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
    matrix: Arc<Matrix>,
    input: Input,
    output: Option<HadamardSide>,
    bias: Option<Tensor>,
    adapters: Vec<LowRank>,
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

/// `B·(A·x)`, the scale folded into B.
struct LowRank {
    a: Arc<Matrix>,
    b: Arc<Matrix>,
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
        let wide = || device.zeros("transform scratch", tokens, self.wide.max(4));
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

/// Whether two stored matrices can share one product.
fn fusable(a: &StoredMatrix, b: &StoredMatrix) -> bool {
    a.input == b.input
        && !matches!(a.input, InputTransform::Hadamard(_))
        && a.output == OutputTransform::None
        && b.output == OutputTransform::None
        && a.bias.is_some() == b.bias.is_some()
        && a.rows.is_multiple_of(TILE_ROWS)
}

impl Linear {
    /// Loads the stored matrices one below the other. `adapters` are LoRA folders, all applied.
    pub async fn load(
        device: &Device,
        stored: Vec<StoredMatrix>,
        parent: &str,
        adapters: &[Adapter],
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
                    slices.push(Slice { name: slice.name.clone(), rows });
                }
                first_row += member.rows;
            }
            groups.push(Group::load(device, members, group_row, staged).await?);
        }
        let mut linear = Self { rows: first_row, cols, slices, groups };
        for adapter in adapters {
            linear.adapt(device, parent, adapter)?;
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

    /// Adds a LoRA adapter's terms, one pair for each group that it touches: A stacked, B block by block.
    fn adapt(&mut self, device: &Device, parent: &str, adapter: &Adapter) -> Result<()> {
        for group in &mut self.groups {
            let rows = group.first_row..group.first_row + group.matrix.shape.rows;
            let inside = |s: &&Slice| rows.start <= s.rows.start && s.rows.end <= rows.end;
            let touched: Vec<_> = self
                .slices
                .iter()
                .filter(inside)
                .filter_map(|s| Some((s, adapter.modules.get(&module_name(parent, &s.name))?)))
                .collect();
            let rank: usize = touched.iter().map(|(_, t)| t.rank).sum();
            if rank == 0 {
                continue;
            }
            let padded = rank.next_multiple_of(4);
            let (mut a, mut b) = (vec![0f32; padded * self.cols], vec![0f32; rows.len() * padded]);
            let mut first = 0;
            for (slice, term) in touched {
                a[first * self.cols..][..term.a.len()].copy_from_slice(&term.a);
                for (row, values) in term.b.chunks_exact(term.rank).enumerate() {
                    let at = (slice.rows.start - rows.start + row) * padded + first;
                    b[at..at + term.rank].iter_mut().zip(values).for_each(|(b, v)| *b = v * term.scale);
                }
                first += term.rank;
            }
            let dense = |label: &str, rows, cols, values: &[f32]| {
                let items = vec![bytemuck::cast_slice(values).to_vec()];
                device.dense(label, Plain::new(Kind::F32), Shape { rows, cols }, items).map(Arc::new)
            };
            group.adapters.push(LowRank {
                a: dense("lora A", padded, self.cols, &a)?,
                b: dense("lora B", rows.len(), padded, &b)?,
            });
        }
        Ok(())
    }

    /// What [`Linear::forward`] needs of scratch.
    pub fn scratch(&self) -> ScratchSize {
        let of = |group: &Group| {
            let between =
                matches!(group.input, Input::Scaled(_) | Input::Hadamard(_)) || group.output.is_some();
            let low = group.adapters.iter().map(|l| l.a.shape.rows).max().unwrap_or(0);
            let wide = if between { self.cols.max(group.matrix.shape.rows) } else { 0 };
            ScratchSize { wide, low }
        };
        self.groups.iter().map(of).fold(ScratchSize::default(), ScratchSize::or)
    }

    /// Bytes of all weights, side terms included.
    pub fn bytes(&self) -> u64 {
        let side = |g: &Group| g.adapters.iter().map(|l| l.a.bytes() + l.b.bytes()).sum::<u64>();
        self.groups.iter().map(|g| g.matrix.bytes() + side(g)).sum()
    }

    /// The embedding's view of the layer: its one matrix, if rows can be gathered from it.
    pub fn table(&self) -> Result<Arc<Matrix>> {
        match self.groups.as_slice() {
            [Group { matrix, input: Input::Direct, output: None, bias: None, adapters, .. }]
                if adapters.is_empty() =>
            {
                Ok(matrix.clone())
            }
            _ => Err(Error::unsupported("an embedding with a transform, a bias or an adapter")
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
            let hadamard =
                |side: &HadamardSide, is_input: bool, [x, scratch, out]: [&Tensor; 3], offset, add| {
                    let signs = Some(side.signs.clone());
                    let (before, after) = if is_input { (signs, None) } else { (None, signs) };
                    let plan = side.transform.clone();
                    let (x, scratch, out) = (x.clone(), scratch.clone(), out.clone());
                    Op::Hadamard { rows, plan, x, before, after, scratch, out, offset, add }
                };
            let input = match &group.input {
                Input::Scaled(by) => {
                    let (x, by, out) = (x.clone(), by.clone(), wide.clone());
                    ops.push(Op::Scale { rows, x, by, out });
                    wide
                }
                Input::Hadamard(side) => {
                    ops.push(hadamard(side, true, [x, mixed, wide], 0, false));
                    wide
                }
                _ => x,
            };
            let permutation = match &group.input {
                Input::Permuted(permutation) => Some(permutation.clone()),
                _ => None,
            };
            // Before an output transform the product goes to `mixed`, at its beginning.
            let first = group.first_row;
            let (target, offset, accumulate) =
                if group.output.is_some() { (mixed, 0, false) } else { (out, first, add) };
            ops.push(Op::Product {
                rows,
                matrix: group.matrix.clone(),
                x: input.clone(),
                permutation,
                bias: group.bias.clone(),
                out: target.clone(),
                offset,
                add: accumulate,
            });
            if let Some(side) = &group.output {
                ops.push(hadamard(side, false, [mixed, wide, out], first, add));
            }
            let low_rank = |matrix: &Arc<Matrix>, x: &Tensor, out: &Tensor, offset, add| Op::Product {
                rows,
                matrix: matrix.clone(),
                x: x.clone(),
                permutation: None,
                bias: None,
                out: out.clone(),
                offset,
                add,
            };
            for side in &group.adapters {
                ops.push(low_rank(&side.a, x, &scratch.low, 0, false));
                ops.push(low_rank(&side.b, &scratch.low, out, first, true));
            }
        }
    }
}

impl Linear {
    /// `out[:, offset..offset + n]` = the product with the matrix of each row's own expert, this layer being a stack of
    /// matrices of `n` rows; `shared` rows of out share one of x.
    pub fn forward_chosen(
        &self,
        ops: &mut Vec<Op>,
        routes: &Routes,
        (n, shared): (usize, usize),
        x: &Tensor,
        out: &Tensor,
        offset: usize,
    ) -> Result<()> {
        for group in &self.groups {
            let Group { first_row, matrix, input, output, bias, adapters } = group;
            let permutation = match input {
                Input::Direct => None,
                Input::Permuted(permutation) => Some(permutation.clone()),
                _ => return Err(Error::unsupported("experts with a transform of their activations")),
            };
            if output.is_some() || !adapters.is_empty() {
                return Err(Error::unsupported("experts with transforms of their outputs or adapters"));
            }
            ops.push(Op::ExpertProduct {
                matrix: matrix.clone(),
                first: first_row / n,
                n,
                x: x.clone(),
                shared,
                permutation,
                bias: bias.clone(),
                routes: routes.clone(),
                out: out.clone(),
                offset,
            });
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
        if !bias.is_empty() && first.output != OutputTransform::None {
            return Err(Error::unsupported("a bias after an output transform").tensor(&first.name));
        }
        let side = |n: usize, transposed: bool, signs: &[f32]| -> Result<HadamardSide> {
            let plan = Plan::new(n, transposed).map_err(|e| e.tensor(&first.name))?;
            let table =
                (!plan.signs.is_empty()).then(|| device.words("hadamard signs", &plan.signs)).transpose()?;
            let transform = Arc::new(Transform { plan, signs: table });
            Ok(HadamardSide { transform, signs: device.vector("sign vector", signs)? })
        };
        let input = match &first.input {
            InputTransform::None => Input::Direct,
            InputTransform::Permute(permutation) => {
                Input::Permuted(device.words("permutation", permutation)?)
            }
            InputTransform::Scale(scales) => Input::Scaled(device.vector("input scales", scales)?),
            InputTransform::Hadamard(signs) => Input::Hadamard(side(first.cols, true, signs)?),
        };
        let output = match &first.output {
            OutputTransform::None => None,
            OutputTransform::Hadamard(signs) => Some(side(first.rows, false, signs)?),
        };
        let bias = if bias.is_empty() { None } else { Some(device.vector("bias", &bias)?) };
        Ok(Self { first_row, matrix: Arc::new(matrix), input, output, bias, adapters: Vec::new() })
    }
}
