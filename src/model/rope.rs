//! Tables of rotations for RoPE, computed in f64: WGSL's sin and cos promise too little.

use super::config::{Rope, RopeScaling};
use std::f64::consts::TAU;

/// Frequencies (radians a position) of the `dims / 2` planes; `length` is how many positions the forward pass that uses
/// them spans, which only dynamic scaling and LongRoPE look at.
pub fn frequencies(rope: &Rope, length: usize) -> Vec<f64> {
    let d = rope.dims as f64;
    let base =
        |theta: f64| -> Vec<f64> { (0..rope.dims / 2).map(|i| theta.powf(-2.0 * i as f64 / d)).collect() };
    let theta = rope.theta;
    let divided = |by: &[f64]| base(theta).into_iter().zip(by).map(|(f, by)| f / by).collect();
    match &rope.scaling {
        RopeScaling::None => base(theta),
        RopeScaling::Linear { factor } => base(theta).into_iter().map(|f| f / factor).collect(),
        RopeScaling::Llama3 { factor, low, high, original } => {
            let original = *original as f64;
            let stretch = |f: f64| {
                let wavelength = TAU / f;
                let smooth = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 - smooth) * f / factor + smooth * f
            };
            base(theta).into_iter().map(stretch).collect()
        }
        RopeScaling::Dynamic { factor, original } => {
            let (original, length) = (*original as f64, length.max(*original) as f64);
            let growth = factor * length / original - (factor - 1.0);
            base(theta * growth.powf(d / (d - 2.0)))
        }
        RopeScaling::Yarn { factor, fast, slow, truncated, original, .. } => {
            // The index of the frequency that turns so many times within the original length.
            let index = |rotations: f64| d * (*original as f64 / (rotations * TAU)).ln() / (2.0 * theta.ln());
            let (low, high) = match truncated {
                true => (index(*fast).floor(), index(*slow).ceil()),
                false => (index(*fast), index(*slow)),
            };
            let (low, high) = (low.max(0.0), high.min(d - 1.0));
            let width = if low == high { 0.001 } else { high - low };
            let stretch = |(i, f): (usize, f64)| {
                let ramp = ((i as f64 - low) / width).clamp(0.0, 1.0);
                ramp * f / factor + (1.0 - ramp) * f
            };
            base(theta).into_iter().enumerate().map(stretch).collect()
        }
        RopeScaling::Long { short, long, original, .. } => {
            divided(if length > *original { long } else { short })
        }
        RopeScaling::Factors(factors) => divided(&factors.iter().map(|&f| f64::from(f)).collect::<Vec<_>>()),
    }
}

/// What rotated vectors are multiplied by.
pub fn amplitude(rope: &Rope) -> f64 {
    match rope.scaling {
        RopeScaling::Yarn { amplitude, .. } | RopeScaling::Long { amplitude, .. } => amplitude,
        _ => 1.0,
    }
}

/// (cos, sin) of every plane for positions `first..first + count`: `[count, dims]`.
pub fn rotations(frequencies: &[f64], amplitude: f64, first: usize, count: usize) -> Vec<f32> {
    let row = |position: usize| {
        frequencies.iter().flat_map(move |f| {
            let angle = position as f64 * f;
            [(amplitude * angle.cos()) as f32, (amplitude * angle.sin()) as f32]
        })
    };
    (first..first + count).flat_map(row).collect()
}
