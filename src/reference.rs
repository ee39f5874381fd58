//! The CPU twin of every op: plain loops in the order of the formulas, the specification that GPU kernels are
//! tested against, and what runs where there is no adapter.

use crate::device::{Matrix, Tensor};
use crate::error::{Error, Result};
use crate::ops::{Activation, Cache, Heads, Index, Op, STEP_HEADER, Step};
use crate::quant::Kind;
use crate::quant::activations::{ActivationCode, Activations, e4m3_value, int8_code};
use std::cmp::Ordering;
use std::ops::Range;

/// What an argmax gives where there is a NaN.
pub const NO_TOKEN: u32 = u32::MAX;

/// Runs ops one after the other.
pub fn run(ops: &[Op], step_tensor: &Tensor, step: &Step) -> Result<()> {
    for op in ops {
        run_op(op, step_tensor, step)?;
    }
    Ok(())
}

/// The values of `count` rows.
fn rows(tensor: &Tensor, count: usize) -> Vec<f32> {
    tensor.cpu()[..count * tensor.cols].iter().map(|&w| f32::from_bits(w)).collect()
}

/// Row vector.
fn vector(tensor: &Tensor) -> Vec<f32> {
    rows(tensor, 1)
}

/// Writes `values` (a row each of `width`) to columns `offset..` of `out`.
fn store(out: &Tensor, offset: usize, width: usize, values: &[f32], add: bool) {
    let stride = out.cols;
    let mut words = out.cpu();
    for (row, values) in values.chunks_exact(width).enumerate() {
        for (word, value) in words[row * stride + offset..][..width].iter_mut().zip(values) {
            let before = if add { f32::from_bits(*word) } else { 0.0 };
            *word = (before + value).to_bits();
        }
    }
}

fn run_op(op: &Op, step_tensor: &Tensor, step: &Step) -> Result<()> {
    match op {
        Op::Gather { table, index, out } => {
            let ids = match *index {
                Index::Token => step_tensor.cpu()[STEP_HEADER..STEP_HEADER + step.count()].to_vec(),
                Index::Position(first) => {
                    (0..step.count()).map(|t| (first + step.position + t) as u32).collect()
                }
            };
            let values = gather(table, &ids)?;
            store(out, 0, table.shape.cols, &values, *index != Index::Token);
        }
        Op::RmsNorm { rows: which, x, weight, eps, out, add } => {
            let first = if *which == crate::ops::Rows::Head { step.head_first } else { 0 };
            let count = step.rows(*which);
            let mut values = rows(x, first + count).split_off(first * x.cols);
            let weight = vector(weight);
            values.chunks_exact_mut(x.cols).for_each(|row| rms_norm(row, &weight, *eps));
            store(out, 0, x.cols, &values, *add);
        }
        Op::LayerNorm { rows: which, x, offset, width, centered, weight, bias, eps, out } => {
            let first = if *which == crate::ops::Rows::Head { step.head_first } else { 0 };
            let stored = rows(x, first + step.rows(*which)).split_off(first * x.cols);
            let (weight, bias) = (vector(weight), bias.as_ref().map(vector));
            let mut values = Vec::new();
            for row in stored.chunks_exact(x.cols) {
                let mut runs = row[*offset..offset + weight.len()].to_vec();
                for (i, run) in runs.chunks_exact_mut(*width).enumerate() {
                    let part = i * width..(i + 1) * width;
                    match centered {
                        true => layer_norm(run, &weight[part.clone()], bias.as_ref().map(|b| &b[part]), *eps),
                        false => rms_norm(run, &weight[part], *eps),
                    }
                }
                values.extend(runs);
            }
            store(out.as_ref().unwrap_or(x), *offset, weight.len(), &values, false);
        }
        Op::Outliers { rows: which, x, cols, threshold, out } => {
            let mut values = rows(x, step.rows(*which));
            for k in 0..*cols {
                let column = || values.chunks_exact(x.cols).map(|row| row[k].abs());
                if column().fold(0.0, f32::max) < *threshold {
                    values.chunks_exact_mut(x.cols).for_each(|row| row[k] = 0.0);
                }
            }
            let kept: Vec<f32> = values.chunks_exact(x.cols).flat_map(|row| row[..*cols].to_vec()).collect();
            store(out, 0, *cols, &kept, false);
        }
        Op::Quantize { rows: which, x, cols, scheme, outliers, out } => {
            let (count, stride) = (step.rows(*which), out.cols);
            let outliers = outliers.as_ref().map(|outliers| (rows(outliers, count), outliers.cols));
            let mut words = out.cpu();
            for (t, row) in rows(x, count).chunks_exact(x.cols).enumerate() {
                let mut row = row[..*cols].to_vec();
                if let Some((outliers, stride)) = &outliers {
                    let taken = &outliers[t * stride..][..*cols];
                    row.iter_mut().zip(taken).filter(|(_, taken)| **taken != 0.0).for_each(|(x, _)| *x = 0.0);
                }
                quantize(scheme, &row, &mut words[t * stride..][..stride]);
            }
        }
        Op::Product { rows: which, matrix, x, int8: true, bias, out, offset, add, .. } => {
            let words = x.cpu()[..step.rows(*which) * x.cols].to_vec();
            let values = product_int8(matrix, &words, x.cols, bias.as_ref().map(vector).as_deref())?;
            store(out, *offset, matrix.shape.rows, &values, *add);
        }
        Op::Product { rows: which, matrix, x, permutation, bias, out, offset, add, .. } => {
            let permutation = permutation.as_ref().map(|p| p.cpu().clone());
            let bias = bias.as_ref().map(vector);
            let count = step.rows(*which);
            let all = 0..matrix.shape.rows;
            let values =
                product(matrix, all, &rows(x, count), x.cols, permutation.as_deref(), bias.as_deref())?;
            store(out, *offset, matrix.shape.rows, &values, *add);
        }
        Op::Sparse { rows: which, offsets, entries, x, out, offset } => {
            let (offsets, entries) = (offsets.cpu().clone(), entries.cpu().clone());
            let product = |x: &[f32]| -> Vec<f32> {
                let row = |bounds: &[u32]| {
                    let entries = &entries[bounds[0] as usize..bounds[1] as usize];
                    let term = |e: &u32| Kind::F16.value(e >> 16) * f64::from(x[(e & 0xffff) as usize]);
                    entries.iter().map(term).sum::<f64>() as f32
                };
                offsets.windows(2).map(row).collect()
            };
            let values: Vec<f32> =
                rows(x, step.rows(*which)).chunks_exact(x.cols).flat_map(product).collect();
            store(out, *offset, offsets.len() - 1, &values, true);
        }
        Op::Hadamard { rows: which, plan, x, before, after, out, offset, width, add, .. } => {
            let n = plan.plan.n;
            let (before, after) = (before.as_ref().map(vector), after.as_ref().map(vector));
            let scale = |row: &mut [f32], by: &Option<Vec<f32>>| {
                if let Some(by) = by {
                    row.iter_mut().zip(by).for_each(|(x, s)| *x *= s);
                }
            };
            let mut values = Vec::new();
            for row in rows(x, step.rows(*which)).chunks_exact_mut(x.cols) {
                scale(&mut row[..n], &before);
                plan.plan.apply(&mut row[..n]);
                scale(&mut row[..n], &after);
                values.extend_from_slice(&row[..*width]);
            }
            store(out, *offset, *width, &values, *add);
        }
        Op::Scale { rows: which, x, by, out } => {
            let by = vector(by);
            let scaled = |row: &[f32]| row.iter().zip(&by).map(|(x, s)| x * s).collect::<Vec<_>>();
            let values: Vec<f32> = rows(x, step.rows(*which)).chunks_exact(x.cols).flat_map(scaled).collect();
            store(out, 0, by.len(), &values, false);
        }
        Op::ExpertProduct { matrix, first, n, x, shared, permutation, bias, routes, out, offset, add } => {
            let permutation = permutation.as_ref().map(|p| p.cpu().clone());
            let bias = bias.as_ref().map(vector);
            let chosen = routes.ids.cpu()[..step.count() * routes.ids.cols].to_vec();
            let x = rows(x, chosen.len() / shared);
            let k = x.len() * shared / chosen.len();
            let mut values: Vec<f32> = rows(out, chosen.len());
            for expert in 0..matrix.shape.rows / n {
                let here = |id: &u32| *id as usize == first + expert;
                let at: Vec<usize> = (0..chosen.len()).filter(|&row| here(&chosen[row])).collect();
                let own: Vec<f32> = at.iter().flat_map(|row| x[row / shared * k..][..k].to_vec()).collect();
                let part = expert * n..(expert + 1) * n;
                let products = product(matrix, part, &own, k, permutation.as_deref(), bias.as_deref())?;
                for (row, products) in at.iter().zip(products.chunks_exact(*n)) {
                    let values = values[row * out.cols + offset..][..*n].iter_mut().zip(products);
                    values.for_each(|(y, product)| *y = if *add { *y + product } else { *product });
                }
            }
            store(out, 0, out.cols, &values, false);
        }
        Op::Route { logits, normalized, routes } => {
            let (mut ids, mut weights) = (Vec::new(), Vec::new());
            for row in rows(logits, step.count()).chunks_exact(logits.cols) {
                let chosen = route(row, routes.ids.cols, *normalized);
                ids.extend(chosen.iter().map(|c| f32::from_bits(c.0)));
                weights.extend(chosen.iter().map(|c| c.1));
            }
            store(&routes.ids, 0, routes.ids.cols, &ids, false);
            store(&routes.weights, 0, routes.ids.cols, &weights, false);
        }
        Op::Combine { x, routes, out, add } => {
            let weights = rows(&routes.weights, step.count());
            let x = rows(x, weights.len());
            let width = out.cols;
            let mut values = Vec::new();
            for (slots, weights) in
                x.chunks_exact(x.len() / step.count()).zip(weights.chunks_exact(routes.weights.cols))
            {
                let slot = |s: usize| &slots[s * (slots.len() / weights.len())..];
                let sum = |i: usize| -> f64 {
                    weights.iter().enumerate().map(|(s, &w)| w as f64 * slot(s)[i] as f64).sum()
                };
                values.extend((0..width).map(|i| sum(i) as f32));
            }
            store(out, 0, width, &values, *add);
        }
        Op::SoftCap { rows: which, x, cap } => {
            let capped = |v: f32| (*cap as f64 * (v as f64 / *cap as f64).tanh()) as f32;
            let values: Vec<f32> = rows(x, step.rows(*which)).into_iter().map(capped).collect();
            store(x, 0, x.cols, &values, false);
        }
        Op::Rope { heads, qkv, rotations, interleaved, norms, cache } => {
            let mut values = rows(qkv, step.count());
            let width = rotations.as_ref().map_or(0, |r| r.cols);
            let rotations = rotations.as_ref().map(|r| rows(r, r.rows)).unwrap_or_default();
            let norms = norms.as_ref().map(|(q, k, eps)| (vector(q), vector(k), *eps));
            let kv_heads = heads.kv_heads;
            for (t, row) in values.chunks_exact_mut(qkv.cols).enumerate() {
                let position = step.position + t;
                let angle = &rotations[position * width..][..width];
                rope(heads, row, angle, *interleaved, norms.as_ref());
                for (first, count) in heads.offsets.into_iter().zip([heads.heads, kv_heads, kv_heads]) {
                    let all = &mut row[first..first + count * heads.head_dim];
                    all.chunks_exact_mut(heads.head_dim).for_each(|head| cache.format.transform(head));
                }
                write_cache(heads, cache, row, position);
            }
            let (q, width) = (heads.offsets[0], heads.heads * heads.head_dim);
            let rotated: Vec<f32> =
                values.chunks_exact(qkv.cols).flat_map(|row| row[q..q + width].to_vec()).collect();
            store(qkv, q, width, &rotated, false);
        }
        Op::Attention { heads, qkv, cache, window, scale, softcap, sinks, out } => {
            let mut values = Vec::new();
            let score = Score { scale: *scale, softcap: *softcap, sinks: sinks.as_ref().map(vector) };
            for (t, row) in rows(qkv, step.count()).chunks_exact(qkv.cols).enumerate() {
                let end = step.position + t + 1;
                let start = window.map_or(0, |w| end.saturating_sub(w));
                attention(heads, cache, row, start..end, &score, &mut values);
            }
            store(out, 0, heads.heads * heads.head_dim, &values, false);
        }
        Op::Glu { rows: which, activation, x, gate, up, out } => {
            let width = out.cols;
            let glu = |row: &[f32]| -> Vec<f32> {
                let gated = |i: usize| activate(*activation, row[gate + i], up.map(|up| row[up + i])) as f32;
                (0..width).map(gated).collect()
            };
            let values: Vec<f32> = rows(x, step.rows(*which)).chunks_exact(x.cols).flat_map(glu).collect();
            store(out, 0, width, &values, false);
        }
        Op::Argmax { logits, step } => {
            step.cpu()[STEP_HEADER] = argmax(&vector(logits));
        }
        Op::TopK { logits, out } => {
            let logits = vector(logits);
            let broken = logits.iter().any(|l| l.is_nan() || *l == f32::INFINITY);
            let k = out.cols / 2;
            let mut words = out.cpu();
            words[0] = if broken { NO_TOKEN } else { k as u32 };
            let mut order: Vec<usize> = if broken { Vec::new() } else { (0..logits.len()).collect() };
            order.sort_unstable_by(|&a, &b| {
                logits[b].partial_cmp(&logits[a]).unwrap_or(Ordering::Equal).then(a.cmp(&b))
            });
            for (pair, &i) in words[1..].chunks_exact_mut(2).zip(order.iter().take(k)) {
                pair.copy_from_slice(&[i as u32, logits[i].to_bits()]);
            }
        }
    }
    Ok(())
}

/// The lowest index of the largest value; [`NO_TOKEN`] if one is not a number.
pub fn argmax(values: &[f32]) -> u32 {
    if values.iter().any(|v| v.is_nan()) {
        return NO_TOKEN;
    }
    let mut best = 0;
    for (i, v) in values.iter().enumerate() {
        if *v > values[best] {
            best = i;
        }
    }
    best as u32
}

fn host_only<T>(found: Option<T>) -> Result<T> {
    found.ok_or_else(|| Error::invalid("a GPU matrix was given to the CPU twin"))
}

/// Rows `ids` of a table; zeros for an id beyond it.
fn gather(table: &Matrix, ids: &[u32]) -> Result<Vec<f32>> {
    let packed = host_only(table.packed())?;
    let cols = table.shape.cols;
    let mut out = vec![0.0; ids.len() * cols];
    for (row, &id) in out.chunks_exact_mut(cols).zip(ids) {
        if (id as usize) < table.shape.rows {
            packed.decode_row(id as usize, row);
        }
    }
    Ok(out)
}

/// `a·b` in f64, in eight sums side by side: one sum would wait for each of its additions.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0; 8];
    let (a_runs, b_runs) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest = a_runs.remainder().iter().zip(b_runs.remainder());
    let rest: f64 = rest.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    for (a, b) in a_runs.zip(b_runs) {
        for i in 0..8 {
            sums[i] += f64::from(a[i]) * f64::from(b[i]);
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// `x·Wᵀ + bias` for these rows of W, one decode of a row for all rows of x; f64 sums.
fn product(
    matrix: &Matrix,
    part: Range<usize>,
    x: &[f32],
    x_cols: usize,
    permutation: Option<&[u32]>,
    bias: Option<&[f32]>,
) -> Result<Vec<f32>> {
    let packed = host_only(matrix.packed())?;
    let (n, k) = (part.len(), matrix.shape.cols);
    let permute = |row: &[f32]| -> Vec<f32> {
        match permutation {
            Some(p) => p[..k].iter().map(|&i| row[i as usize]).collect(),
            None => row[..k].to_vec(),
        }
    };
    let x: Vec<Vec<f32>> = x.chunks_exact(x_cols).map(permute).collect();
    let mut out = vec![0.0; x.len() * n];
    let mut weights = vec![0.0; k];
    for (i, row) in part.enumerate() {
        packed.decode_row(row, &mut weights);
        for (t, x) in x.iter().enumerate() {
            out[t * n + i] = dot(&weights, x) as f32 + bias.map_or(0.0, |b| b[row]);
        }
    }
    Ok(out)
}

/// Codes of one row of activations.
fn quantize(scheme: &Activations, x: &[f32], out: &mut [u32]) {
    if scheme.code == ActivationCode::Int8 {
        let scale = scheme.scale(x);
        for (word, x) in out.iter_mut().zip(x.chunks(4)) {
            let bytes = x.iter().map(|&x| int8_code(x, scale) as u8);
            *word = bytes.rev().fold(0, |word, byte| word << 8 | u32::from(byte));
        }
        out[x.len() / 4] = scale.to_bits();
        return;
    }
    let run = scheme.run.min(x.len());
    for (x, out) in x.chunks(run).zip(out.chunks_mut(run)) {
        let scale = scheme.scale(x);
        out.iter_mut().zip(x).for_each(|(word, &x)| *word = e4m3_value(x, scale).to_bits());
    }
}

/// `s·S·(q·Wᵀ) + bias`, the product in integers.
fn product_int8(matrix: &Matrix, x: &[u32], stride: usize, bias: Option<&[f32]>) -> Result<Vec<f32>> {
    let packed = host_only(matrix.packed())?;
    let (n, k) = (matrix.shape.rows, matrix.shape.cols);
    let codes = |row: &[u32]| -> Vec<i32> {
        row[..k / 4].iter().flat_map(|word| word.to_le_bytes()).map(|byte| i32::from(byte as i8)).collect()
    };
    let x: Vec<(Vec<i32>, f32)> =
        x.chunks_exact(stride).map(|row| (codes(row), f32::from_bits(row[k / 4]))).collect();
    let mut out = vec![0.0; x.len() * n];
    let mut weights = vec![0; k];
    for row in 0..n {
        let no_integers = || Error::unsupported("a product in integers").found(packed.codec.name());
        let scale = packed.codec.integers(&packed, row, &mut weights).ok_or_else(no_integers)?;
        for (t, (codes, s)) in x.iter().enumerate() {
            let sum: i32 = weights.iter().zip(codes).map(|(w, q)| w * q).sum();
            let value = f64::from(sum) * f64::from(scale) * f64::from(*s);
            out[t * n + row] = value as f32 + bias.map_or(0.0, |b| b[row]);
        }
    }
    Ok(out)
}

/// `x / sqrt(mean(x²) + eps) ⊙ weight`, in place.
fn rms_norm(x: &mut [f32], weight: &[f32], eps: f32) {
    let squares: f64 = x.iter().map(|&v| v as f64 * v as f64).sum();
    let scale = 1.0 / (squares / x.len() as f64 + eps as f64).sqrt();
    x.iter_mut().zip(weight).for_each(|(v, w)| *v = (*v as f64 * scale * *w as f64) as f32);
}

/// `(x − mean) / sqrt(var + eps) ⊙ weight + bias`, in place.
fn layer_norm(x: &mut [f32], weight: &[f32], bias: Option<&[f32]>, eps: f32) {
    let n = x.len() as f64;
    let mean = x.iter().map(|&v| v as f64).sum::<f64>() / n;
    let variance = x.iter().map(|&v| (v as f64 - mean).powi(2)).sum::<f64>() / n;
    let scale = 1.0 / (variance + eps as f64).sqrt();
    for (i, (v, w)) in x.iter_mut().zip(weight).enumerate() {
        *v = ((*v as f64 - mean) * scale * *w as f64 + bias.map_or(0.0, |b| b[i] as f64)) as f32;
    }
}

/// `activation(gate)`, times `up` if there is one.
fn activate(activation: Activation, gate: f32, up: Option<f32>) -> f64 {
    let (x, up) = (gate as f64, up.map(f64::from));
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let value = match activation {
        Activation::Silu => x * sigmoid(x),
        Activation::GeluTanh => {
            let inner = std::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::Relu => x.max(0.0),
        Activation::SquaredRelu => x.max(0.0).powi(2),
        Activation::Clamped { limit } => {
            let (x, limit) = (x.min(limit as f64), limit as f64);
            return x * sigmoid(1.702 * x) * up.map_or(1.0, |up| up.clamp(-limit, limit) + 1.0);
        }
    };
    value * up.unwrap_or(1.0)
}

/// The `count` largest logits, the first of equal ones, with their weights.
fn route(logits: &[f32], count: usize, normalized: bool) -> Vec<(u32, f32)> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_unstable_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    let weight = |&i: &usize| (logits[i] as f64 - logits[order[0]] as f64).exp();
    let total: f64 = order[..if normalized { count } else { logits.len() }].iter().map(weight).sum();
    order[..count].iter().map(|i| (*i as u32, (weight(i) / total) as f32)).collect()
}

/// Norms (if any) and rotates the q and k heads of one token.
fn rope(
    heads: &Heads,
    qkv: &mut [f32],
    angle: &[f32],
    interleaved: bool,
    norms: Option<&(Vec<f32>, Vec<f32>, f32)>,
) {
    let (d, planes) = (heads.head_dim, angle.len() / 2);
    let [q, k, _] = heads.offsets;
    for (first, count, is_q) in [(q, heads.heads, true), (k, heads.kv_heads, false)] {
        for head in qkv[first..first + count * d].chunks_exact_mut(d) {
            if let Some((q_norm, k_norm, eps)) = norms {
                rms_norm(head, if is_q { q_norm } else { k_norm }, *eps);
            }
            for i in 0..planes {
                let (cos, sin) = (angle[2 * i] as f64, angle[2 * i + 1] as f64);
                let (first, second) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + planes) };
                let (a, b) = (head[first] as f64, head[second] as f64);
                head[first] = (a * cos - b * sin) as f32;
                head[second] = (b * cos + a * sin) as f32;
            }
        }
    }
}

/// Index of component `i` of a key (an f32 a word here, whatever the cache stores).
fn key_index(cache: &Cache, heads: &Heads, kv_head: usize, position: usize, i: usize) -> usize {
    ((kv_head * (heads.head_dim / 4) + i / 4) * cache.context + position) * 4 + i % 4
}

fn value_index(cache: &Cache, heads: &Heads, kv_head: usize, position: usize, i: usize) -> usize {
    (kv_head * cache.context + position) * heads.head_dim + i
}

fn write_cache(heads: &Heads, cache: &Cache, qkv: &mut [f32], position: usize) {
    let d = heads.head_dim;
    let (mut keys, mut values) = (cache.keys.cpu(), cache.values.cpu());
    for kv_head in 0..heads.kv_heads {
        let [_, k, v] = heads.offsets.map(|offset| offset + kv_head * d);
        cache.format.round(&mut qkv[k..k + d]);
        cache.format.round(&mut qkv[v..v + d]);
        for i in 0..d {
            keys[key_index(cache, heads, kv_head, position, i)] = qkv[k + i].to_bits();
            values[value_index(cache, heads, kv_head, position, i)] = qkv[v + i].to_bits();
        }
    }
}

/// How scores are made of products.
struct Score {
    scale: f32,
    softcap: Option<f32>,
    sinks: Option<Vec<f32>>,
}

/// Appends the attention output of every head of one token.
fn attention(
    heads: &Heads,
    cache: &Cache,
    qkv: &[f32],
    seen: Range<usize>,
    rule: &Score,
    out: &mut Vec<f32>,
) {
    let d = heads.head_dim;
    let (keys, values) = (cache.keys.cpu(), cache.values.cpu());
    for head in 0..heads.heads {
        let kv_head = head / (heads.heads / heads.kv_heads);
        let query = &qkv[heads.offsets[0] + head * d..][..d];
        let score = |position: usize| -> f64 {
            let key = |i| f32::from_bits(keys[key_index(cache, heads, kv_head, position, i)]) as f64;
            let score = (0..d).map(|i| query[i] as f64 * key(i)).sum::<f64>() * rule.scale as f64;
            rule.softcap.map_or(score, |cap| cap as f64 * (score / cap as f64).tanh())
        };
        let mut weights: Vec<f64> = seen.clone().map(score).collect();
        let sink = rule.sinks.as_ref().map_or(f64::NEG_INFINITY, |sinks| sinks[head] as f64);
        let most = weights.iter().copied().fold(sink, f64::max);
        weights.iter_mut().for_each(|w| *w = (*w - most).exp());
        let total: f64 = weights.iter().sum::<f64>() + (sink - most).exp();
        let first = out.len();
        out.resize(first + d, 0.0);
        for (i, o) in out[first..].iter_mut().enumerate() {
            let value = |p| f32::from_bits(values[value_index(cache, heads, kv_head, p, i)]) as f64;
            let sum: f64 = seen.clone().zip(&weights).map(|(p, w)| w * value(p)).sum();
            *o = (sum / total) as f32;
        }
        cache.format.transform(&mut out[first..]);
    }
}
