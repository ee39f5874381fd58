//! Ops that are done together: a forward pass says what is computed, one thing after the other; where nobody else reads
//! what one op leaves for the next, a decode step does both in one dispatch. Fewer dispatches, fewer bytes; the same
//! numbers.

use super::context::Capabilities;
use super::kernels::{DecodeAttention, MATMUL_FROM, normed_fits, normed_transform, transform_fits};
use crate::device::Tensor;
use crate::ops::{Op, Rows};

/// An op, or a few that become one dispatch.
pub(crate) enum Fused<'a> {
    /// By itself.
    One(&'a Op),
    /// A product with the norm and the transform of its activations before it and the gated activation after it.
    Product { norm: Option<&'a Op>, transform: Option<&'a Op>, product: &'a Op, glu: Option<&'a Op> },
    /// A Hadamard transform with the norm before it.
    Hadamard { norm: &'a Op, hadamard: &'a Op },
    /// Rotations, cache writes and attention of one token.
    Attention { rope: &'a Op, attention: &'a Op },
}

/// What `ops` become on a device with these capabilities.
pub(crate) fn fuse<'a>(ops: &'a [Op], capabilities: &Capabilities) -> Vec<Fused<'a>> {
    let mut norms: Vec<Option<&Op>> = vec![None; ops.len()]; // that others take over
    let mut transforms = norms.clone();
    let mut taken = vec![false; ops.len()];
    for (i, op) in ops.iter().enumerate() {
        if product_of_transform(ops, i, capabilities) {
            taken[i] = true;
            transforms[i + 1] = Some(op);
        }
    }
    for (i, op) in ops.iter().enumerate() {
        if let Some(readers) = readers_of_norm(ops, &taken, i, capabilities) {
            taken[i] = true;
            readers.into_iter().for_each(|reader| norms[reader] = Some(op));
        }
    }
    let mut all = Vec::with_capacity(ops.len());
    for (i, op) in ops.iter().enumerate() {
        if taken[i] {
            continue;
        }
        let next = ops.get(i + 1);
        let follows = |fits: bool| if fits { next } else { None };
        let attention = follows(next.is_some_and(|n| attention_of_rope(op, n) && ends(ops, i + 1, n)));
        let glu = follows(next.is_some_and(|n| glu_of_product(op, n) && ends(ops, i + 1, n)));
        taken[(i + 1).min(ops.len() - 1)] |= attention.is_some() || glu.is_some();
        all.push(match (attention, norms[i], transforms[i], glu) {
            (Some(attention), ..) => Fused::Attention { rope: op, attention },
            (None, None, None, None) => Fused::One(op),
            (None, Some(norm), ..) if matches!(op, Op::Hadamard { .. }) => {
                Fused::Hadamard { norm, hadamard: op }
            }
            (None, norm, transform, glu) => Fused::Product { norm, transform, product: op, glu },
        });
    }
    all
}

/// Whether nothing after op `i` reads what the op before it left in the tensor that both know.
fn ends(ops: &[Op], i: usize, op: &Op) -> bool {
    match op {
        Op::Glu { x, .. } => dead_after(ops, i, x),
        Op::Attention { qkv, .. } => dead_after(ops, i, qkv),
        _ => false,
    }
}

/// What a tensor holds is read no more after op `i`. An op that writes to it without adding begins anew.
fn dead_after(ops: &[Op], i: usize, tensor: &Tensor) -> bool {
    for op in &ops[i + 1..] {
        let (reads, writes) = op.activations();
        if reads.iter().any(|t| t.is(tensor)) {
            return false;
        }
        if writes.iter().any(|t| t.is(tensor)) {
            return true;
        }
    }
    true
}

/// Whether op `i` transforms activations for the product after it alone, which can do so by itself.
fn product_of_transform(ops: &[Op], i: usize, capabilities: &Capabilities) -> bool {
    let (Op::Scale { rows, x, out, .. } | Op::Hadamard { rows, x, out, .. }) = &ops[i] else { return false };
    let Some(Op::Product { rows: own, matrix, x: input, int8: false, permutation: None, out: to, .. }) =
        ops.get(i + 1)
    else {
        return false;
    };
    let same = own == rows && input.is(out) && !to.is(out) && !to.is(x) && to.rows < MATMUL_FROM;
    same && transform_fits(&ops[i], matrix, capabilities) && dead_after(ops, i + 1, out)
}

/// All that reads the result of the norm that op `i` is, if all of it are products and transforms that can norm by
/// themselves, and x is the same until the last of them. Of a transform that is `taken` it is the product after it.
fn readers_of_norm(ops: &[Op], taken: &[bool], i: usize, capabilities: &Capabilities) -> Option<Vec<usize>> {
    let Op::RmsNorm { rows, x, out, add: false, .. } = &ops[i] else { return None };
    // On a CPU a dispatch costs less than norming once more in every workgroup.
    if capabilities.software || out.rows >= MATMUL_FROM || x.rows >= MATMUL_FROM && *rows == Rows::Head {
        return None;
    }
    let mut readers = Vec::new();
    let mut changed = false; // x, since the norm
    for (j, op) in ops.iter().enumerate().skip(i + 1) {
        let (reads, writes) = op.activations();
        if reads.iter().any(|t| t.is(out)) {
            let at = if taken[j] { j + 1 } else { j };
            let (own, cols, to, fits) = match &ops[at] {
                Op::Product { rows, matrix, int8: false, out, .. } => {
                    let fits = out.rows < MATMUL_FROM && normed_fits(matrix, capabilities);
                    (rows, matrix.shape.cols, out, fits)
                }
                Op::Hadamard { rows, plan, out, .. } => (rows, plan.plan.n, out, normed_transform(plan)),
                _ => return None,
            };
            // One dispatch cannot read x and write to it.
            let apart = !to.is(out) && !to.is(x);
            let same = own == rows && apart && cols == x.cols;
            if !same || changed || !fits {
                return None;
            }
            readers.push(at);
        }
        if writes.iter().any(|t| t.is(out)) {
            break;
        }
        changed |= writes.iter().any(|t| t.is(x));
    }
    if readers.is_empty() { None } else { Some(readers) }
}

/// Whether `next` gates what the product `op` leaves, and both fit into one dispatch.
fn glu_of_product(op: &Op, next: &Op) -> bool {
    let Op::Product { rows, matrix, int8: false, out, offset: 0, add: false, .. } = op else { return false };
    let Op::Glu { rows: own, x, gate, up: Some(up), out: to, .. } = next else { return false };
    let halves = [gate, up].map(|first| first + to.cols).into_iter().max() == Some(matrix.shape.rows);
    own == rows && x.is(out) && to.rows < MATMUL_FROM && halves && matrix.parts().len() == 1
}

/// Whether `next` is the attention of what `op` rotates, for one token; and a workgroup has room for its queries.
fn attention_of_rope(op: &Op, next: &Op) -> bool {
    let Op::Rope { heads, qkv, norms, .. } = op else { return false };
    let Op::Attention { heads: own, qkv: rotated, sinks, .. } = next else { return false };
    own == heads
        && rotated.is(qkv)
        && qkv.rows < MATMUL_FROM
        && DecodeAttention::fits(heads)
        && !(norms.is_some() && sinks.is_some())
}
