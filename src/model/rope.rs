//! Tables of rotations for RoPE, computed in f64: WGSL's sin and cos promise too little.

use super::config::{ModelConfig, RopeScaling};
use std::f64::consts::TAU;

/// Frequencies (radians a position) of the `head_dim / 2` planes; `length` is how many positions the forward pass
/// that uses them spans, which only dynamic scaling looks at.
pub fn frequencies(config: &ModelConfig, length: usize) -> Vec<f64> {
    let d = config.head_dim as f64;
    let base = |theta: f64| -> Vec<f64> {
        (0..config.head_dim / 2).map(|i| theta.powf(-2.0 * i as f64 / d)).collect()
    };
    let theta = config.rope.theta;
    match &config.rope.scaling {
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
        RopeScaling::Factors(factors) => {
            base(theta).into_iter().zip(factors).map(|(f, &by)| f / by as f64).collect()
        }
    }
}

/// (cos, sin) of every plane for positions `first..first + count`: `[count, head_dim]`.
pub fn rotations(frequencies: &[f64], first: usize, count: usize) -> Vec<f32> {
    let row = |position: usize| {
        frequencies.iter().flat_map(move |f| {
            let angle = position as f64 * f;
            [angle.cos() as f32, angle.sin() as f32]
        })
    };
    (first..first + count).flat_map(row).collect()
}
