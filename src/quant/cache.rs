//! Formats of the KV cache: what the keys and the values of a head become as they are written.
//!
//! Integers of `b` bits have one scale for each position and KV head: `s = max|x| / (2^(b−1) − ½)`, and
//! `q = round(x · (1/s))`, ties to even, is kept within ±(2^(b−1) − 1): no element is off by more than half a step, the
//! largest neither. Both divisions are correctly rounded on every device, so that all find the same codes.
//!
//! Before 4 bits a head goes through an orthonormal Hadamard transform, which spreads what a few channels have over all of
//! them (QuaRot, Ashkboos et al. 2024). Queries go through the same one, so that products keep their value, and what
//! attention makes of values goes back through it.

use super::activations::{magnitude, quotient};
use crate::error::{Error, Result};
use std::str::FromStr;

/// In what numbers the KV cache is stored. Sums, norms and the residual stream are f32 whatever it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CacheFormat {
    /// f32.
    F32,
    /// f16: half the memory and bandwidth for errors of about 1e-3; what `auto` is.
    #[default]
    F16,
    /// 8-bit integers.
    Int8,
    /// 4-bit integers of Hadamard-transformed heads.
    Int4,
}

impl FromStr for CacheFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let named = Self::ALL.into_iter().find(|format| format.name() == name);
        named.or((name == "auto").then(Self::default)).ok_or_else(|| {
            Error::invalid("format of the KV cache").expected("auto, f32, f16, int8 or int4").found(name)
        })
    }
}

impl CacheFormat {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Int8, Self::Int4];

    /// As options and reports spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// Bits of an integer code.
    pub const fn code_bits(self) -> Option<u32> {
        match self {
            Self::F32 | Self::F16 => None,
            Self::Int8 => Some(8),
            Self::Int4 => Some(4),
        }
    }

    /// Words of GPU memory that the keys, or the values, of a head take at each position, a scale included.
    pub const fn words(self, head_dim: usize) -> usize {
        match self {
            Self::F32 => head_dim,
            Self::F16 => head_dim / 2,
            Self::Int8 => head_dim.div_ceil(4) + 1,
            Self::Int4 => head_dim.div_ceil(8) + 1,
        }
    }

    /// Order of the Hadamard transform of neighbouring channels, a power of two that divides `head_dim`; 1: none.
    pub const fn hadamard(self, head_dim: usize) -> usize {
        match self {
            Self::Int4 => 1 << head_dim.trailing_zeros(),
            _ => 1,
        }
    }

    /// Transforms a head, forth as well as back: the steps of the shaders in their order, to the same bits.
    pub fn transform(self, head: &mut [f32]) {
        let order = self.hadamard(head.len());
        for half in (0..).map(|m| 1 << m).take_while(|&half| half < order) {
            for run in head.chunks_exact_mut(2 * half) {
                let (low, high) = run.split_at_mut(half);
                for (low, high) in low.iter_mut().zip(high) {
                    (*low, *high) = (
                        (*low + *high) * std::f32::consts::FRAC_1_SQRT_2,
                        (*low - *high) * std::f32::consts::FRAC_1_SQRT_2,
                    );
                }
            }
        }
    }

    /// Rounds a head to what is left of it after a trip through the cache; NaN if one of its elements is not finite.
    pub fn round(self, head: &mut [f32]) {
        match self.code_bits() {
            None if self == Self::F32 => {}
            None => {
                head.iter_mut().for_each(|x| *x = half::f16::from_f32(x.clamp(-65504.0, 65504.0)).to_f32())
            }
            Some(bits) => {
                let half = (1u32 << (bits - 1)) as f32;
                let scale = quotient(magnitude(head), half - 0.5);
                let inverse = quotient(1.0, scale);
                let code = |x: f32| (x.abs() * inverse).round_ties_even().min(half - 1.0).copysign(x);
                head.iter_mut().for_each(|x| *x = code(*x) * scale);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(head_dim: usize) -> Vec<f32> {
        (0..head_dim).map(|i| (i as f32 * 1.7 + 0.3).sin()).collect()
    }

    #[test]
    fn names_are_read() {
        for format in CacheFormat::ALL {
            assert_eq!(format.name().parse::<CacheFormat>().unwrap(), format);
        }
        assert_eq!("auto".parse::<CacheFormat>().unwrap(), CacheFormat::F16);
        let error = "fp8".parse::<CacheFormat>().unwrap_err().to_string();
        assert!(error.contains("int4") && error.contains("fp8"), "{error}");
    }

    #[test]
    fn words_have_room_for_codes_and_a_scale() {
        assert_eq!(CacheFormat::ALL.map(|format| format.words(128)), [128, 64, 33, 17]);
        assert_eq!(CacheFormat::ALL.map(|format| format.words(20)), [20, 10, 6, 4]);
    }

    /// Half a step is the most, and the element that the scale is made of reaches it from below.
    #[test]
    fn no_element_is_off_by_more_than_half_a_step() {
        for (format, top) in [(CacheFormat::Int8, 127.5), (CacheFormat::Int4, 7.5)] {
            let given = head(80);
            let mut left = given.clone();
            format.round(&mut left);
            let step = given.iter().fold(0f32, |most, x| most.max(x.abs())) / top;
            let errors = given.iter().zip(&left).map(|(a, b)| (a - b).abs() / step);
            let worst = errors.fold(0f32, f32::max);
            assert!(worst < 0.50001 && worst > 0.49, "{format:?}: {worst}");
        }
    }

    #[test]
    fn a_head_of_zeros_or_subnormals_is_zero_and_a_broken_one_is_nan() {
        for format in [CacheFormat::Int8, CacheFormat::Int4] {
            let mut heads = [[0.0; 8], [1e-40; 8], [f32::INFINITY; 8], [1.0; 8]];
            heads[3][5] = f32::NAN;
            heads.iter_mut().for_each(|head| format.round(head));
            assert!(heads[..2].as_flattened().iter().all(|x| *x == 0.0), "{heads:?}");
            assert!(heads[2..].as_flattened().iter().all(|x| x.is_nan()), "{heads:?}");
        }
    }

    #[test]
    fn the_transform_keeps_products_and_is_its_own_inverse() {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        for head_dim in [4, 20, 80, 128] {
            let (a, mut b) = (head(head_dim), head(head_dim));
            b.reverse();
            let (mut c, mut d) = (a.clone(), b.clone());
            for x in [&mut c, &mut d] {
                CacheFormat::Int4.transform(x);
            }
            assert!((dot(&a, &b) - dot(&c, &d)).abs() < 1e-4, "{head_dim}");
            assert!((c[0] - a[0]).abs() > 1e-3, "{head_dim}: nothing has changed");
            CacheFormat::Int4.transform(&mut c);
            assert!(a.iter().zip(&c).all(|(a, c)| (a - c).abs() < 1e-5), "{head_dim}");
        }
    }
}
