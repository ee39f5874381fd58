//! Quantized activations, as some formats are made for: each token's codes and scale are found as the product runs.
//!
//! `s = max|x| / top` over a run of columns (or a stored scale); `q = round(x / s)`, ties to even, to −128…127 or to the
//! nearest E4M3. The divisions are correctly rounded f32 on every device: the largest element of a token lies on or
//! beside a tie (127.5), where one unit in the last place decides what its code is. Subnormals count as zero.

use super::{Kind, UNIT, WHOLE_ROW};

/// How activations are quantized before a product.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Activations {
    /// What the codes are.
    pub code: ActivationCode,
    /// Columns that share a scale; [`WHOLE_ROW`] for one a token.
    pub run: usize,
    /// Where the scale comes from.
    pub scale: ActivationScale,
    /// From this magnitude on an element is an outlier: the columns that have one in any token of a step are multiplied
    /// as they are, and do not count for the scale (LLM.int8, Dettmers et al. 2022).
    pub outliers: Option<f32>,
}

/// Codes of activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActivationCode {
    /// Integers of −128…127, multiplied with the weights' integers and summed in 32 bits.
    Int8,
    /// E4M3 numbers, multiplied and summed as f32.
    E4m3,
}

/// Scale of activations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ActivationScale {
    /// `max(max|x|, floor) / top` of each run.
    Dynamic {
        /// What the largest element becomes: 127, 127.5, 448.
        top: f32,
        /// What the largest element counts as at least; 0 mostly.
        floor: f32,
    },
    /// The checkpoint's own.
    Static(f32),
}

impl Activations {
    /// 8-bit integers with a scale a token, the largest element being `top`.
    pub fn int8(top: f32) -> Self {
        Self {
            code: ActivationCode::Int8,
            run: WHOLE_ROW,
            scale: ActivationScale::Dynamic { top, floor: 0.0 },
            outliers: None,
        }
    }

    /// E4M3 with a scale for every `run` columns of a token.
    pub fn e4m3(run: usize) -> Self {
        Self {
            code: ActivationCode::E4m3,
            run,
            scale: ActivationScale::Dynamic { top: 448.0, floor: 0.0 },
            outliers: None,
        }
    }

    /// The scale of a run; NaN if one of its elements is not finite.
    pub fn scale(&self, x: &[f32]) -> f32 {
        let largest = magnitude(x);
        match self.scale {
            _ if largest.is_nan() => f32::NAN,
            ActivationScale::Static(scale) => scale,
            ActivationScale::Dynamic { top, floor } => quotient(largest.max(floor), top),
        }
    }
}

/// `max|x|`; NaN if one is not finite.
pub(super) fn magnitude(x: &[f32]) -> f32 {
    let largest = x.iter().map(|x| x.to_bits() & 0x7fff_ffff).max().unwrap_or(0);
    if Kind::F32.finite(largest) { f32::from_bits(largest) } else { f32::NAN }
}

/// `a / b` of numbers that are not negative; 0 where one of the three is subnormal or 0.
pub(super) fn quotient(a: f32, b: f32) -> f32 {
    let flush = |x: f32| if x < f32::MIN_POSITIVE { 0.0 } else { x };
    let (a, b) = (flush(a), flush(b));
    if a == 0.0 || b == 0.0 { 0.0 } else { flush(a / b) }
}

/// The integer code of `x`.
pub fn int8_code(x: f32, scale: f32) -> i8 {
    let magnitude = quotient(x.abs(), scale).min(128.0).round_ties_even();
    (if x < 0.0 { -magnitude } else { magnitude }) as i8 // 128 becomes 127
}

/// What products multiply of a row with [`Rounding::Bytes`](crate::gpu::Rounding::Bytes): 32 neighbours are integers of up
/// to 127 times the same power of two, the least that has room for them; ties to even.
pub fn bytes(row: &[f32]) -> impl Iterator<Item = f32> {
    row.chunks(UNIT).flat_map(|unit| {
        let largest = unit.iter().map(|x| x.to_bits() & 0x7fff_ffff).max().unwrap_or(0);
        let exponent = ((largest + 0x1_0000) >> 23).clamp(8, 255); // 127½ would become 128
        let [up, down] = [260 - exponent, exponent - 6].map(|bits| f32::from_bits(bits << 23));
        unit.iter().map(move |x| (x * up).round_ties_even() * down)
    })
}

/// The multiple of `scale` by an E4M3 number that stands for `x`.
pub fn e4m3_value(x: f32, scale: f32) -> f32 {
    let v = quotient(x.abs(), scale).min(448.0);
    let rounded = if v < 1.0 / 64.0 {
        (v * 512.0).round_ties_even() / 512.0
    } else {
        let bits = v.to_bits();
        f32::from_bits((bits + 0x7_ffff + (bits >> 20 & 1)) & 0xfff0_0000)
    };
    (if x < 0.0 { -rounded } else { rounded }) * scale
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a search for the nearest of all E4M3 numbers.
    #[test]
    fn e4m3_is_the_nearest() {
        let numbers: Vec<f64> = (0..127).map(|code| Kind::E4m3.value(code)).collect();
        for i in 0..50_000u32 {
            let x = (i as f32 * 0.37 % 8.8).exp2() + i as f32 * 1e-6; // 1 to 446
            for x in [x, x / 40_000.0] {
                let distance = |code: &usize| (numbers[*code] - x as f64).abs();
                let nearest =
                    (0..127).min_by(|a, b| distance(a).total_cmp(&distance(b)).then((a % 2).cmp(&(b % 2))));
                assert_eq!(e4m3_value(-x, 1.0) as f64, -numbers[nearest.unwrap()], "{x}");
            }
        }
    }

    /// The largest element lands on the tie 127.5, above and below zero.
    #[test]
    fn integer_codes() {
        let scheme = Activations::int8(127.5);
        let scale = scheme.scale(&[1.0, -51.0, 0.1]);
        assert_eq!(scale, 0.4);
        let codes = [-51.0f32, 51.0, 0.2, 0.6, -0.3, 0.0].map(|x| int8_code(x, scale));
        assert_eq!(codes, [-128, 127, 0, 2, -1, 0]); // 0.2 / 0.4 and 0.6 / 0.4 are ties: even
        assert_eq!(int8_code(1.0, 0.0), 0);
        let floored = Activations { scale: ActivationScale::Dynamic { top: 127.0, floor: 1e-5 }, ..scheme };
        assert_eq!([floored.scale(&[0.0, 1e-6]), floored.scale(&[-1e-4])], [1e-5 / 127.0, 1e-4 / 127.0]);
        assert_eq!(int8_code(1e-6, 1e-5 / 127.0), 13);
        assert!(floored.scale(&[f32::NAN]).is_nan());
        assert!(scheme.scale(&[1.0, f32::NAN]).is_nan() && scheme.scale(&[f32::INFINITY]).is_nan());
    }
}
