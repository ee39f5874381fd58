//! Hadamard transforms of order `n = K · 2^m`: `H_n = (hadK ⊗ S_{n/K}) / √n`, S the Sylvester matrix.
//!
//! QuIP# and QTIP transform activations with them, in full width; EXL3 in blocks of 128. No checkpoint stores
//! the matrices, so they have to be *the same* as the maker's: the orders of [`factor`] follow the rules of
//! Paley and Williamson with the strings of N. Sloane's library, from which QuIP# took its tables.
//!
//! A [`Plan`] says how a GPU does it: a mix of contiguous runs by a small matrix of signs and a fast transform of each
//! run, in workgroup memory. The two commute.
//!
//! QuIP-for-all stores an orthogonal matrix in the place of `hadK`: the mix is of numbers then.

use crate::error::{Error, Result};
use std::sync::Arc;

/// Values of the longest run: 16 KiB of f32.
pub const MAX_RUN: usize = 4096;
/// Of the longest that is mixed with others: four for each of 256 lanes.
const MIXED_RUN: usize = 1024;
/// Rows of the largest mix; 256 suffice up to n = 65536.
pub const MAX_RUNS: usize = 1024;

/// How an odd-sized factor is built.
enum Rule {
    /// Order q + 1, q ≡ 3 mod 4.
    PaleyI(usize),
    /// Order 2(q + 1), q ≡ 1 mod 4.
    PaleyII(usize),
    /// Order 4m, from the first rows of four symmetric circulants of order m.
    Williamson([&'static str; 4]),
}
use Rule::{PaleyI, PaleyII, Williamson};

/// All orders but powers of two: the twelve of QuIP#, and 68, 76, 100, 148, which only own checkpoints use.
static ORDERS: &[(usize, Rule)] = &[
    (12, PaleyI(11)),
    (20, PaleyI(19)),
    (28, PaleyII(13)),
    (36, PaleyII(17)),
    (52, Williamson(["+-+--++++--+-", "+---++++++---", "++-+--++--+-+", "+----+--+----"])),
    (60, PaleyI(59)),
    (68, PaleyI(67)),
    (76, PaleyII(37)),
    (100, PaleyII(49)),
    (108, PaleyI(107)),
    (
        116,
        Williamson([
            "++--+--+-+++-++++-+++-+--+--+",
            "++++-++-+---++++++---+-++-+++",
            "+-+---++--+-++++++-+--++---+-",
            "+++---++--+-+----+-+--++---++",
        ]),
    ),
    (
        124,
        Williamson([
            "+--+++-+--+----++----+--+-+++--",
            "+--+++-+--+----++----+--+-+++--",
            "+-----+++-+-+--++--+-+-+++-----",
            "++++++---+-+-++--++-+-+---+++++",
        ]),
    ),
    (140, PaleyI(139)),
    (148, PaleyII(73)),
    (
        156,
        Williamson([
            "+++--+-+-----+--++----++--+-----+-+--++",
            "++++---+--++----+-+--+-+----++--+---+++",
            "+++--++-+---+-+--+----+--+-+---+-++--++",
            "+---++-+-+-----+++-++-+++-----+-+-++---",
        ]),
    ),
    (
        172,
        Williamson([
            "+---++--++++-+-+++-++--++-+++-+-++++--++---",
            "++-++++++----+-+--++-++-++--+-+----++++++-+",
            "+++-+-++--+-+-++++-+----+-++++-+-+--++-+-++",
            "++---++++-+--+--++--------++--+--+-++++---+",
        ]),
    ),
];

/// `n = order · power`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Factor {
    /// K: 1, or an order that is four times an odd number.
    pub order: usize,
    /// Order of the Sylvester factor.
    pub power: usize,
}

impl Factor {
    /// Values of a run.
    fn run(self) -> usize {
        self.power.min(MIXED_RUN)
    }
}

/// Splits `n` as QuIP# does.
///
/// QuIP# tries its orders from the largest down and takes the first that divides `n`; what is left must be a
/// power of two. Every order is 4 × an odd number, so the one with the odd part of `n` is the only candidate, and
/// the first: any other that divides `n` has a smaller odd part.
pub fn factor(n: usize) -> Result<Factor> {
    let odd = if n == 0 { 0 } else { n >> n.trailing_zeros() };
    let order = if odd == 1 { 1 } else { odd.saturating_mul(4) };
    let known = order == 1 || ORDERS.iter().any(|(k, _)| *k == order);
    if !known || !n.is_multiple_of(order) {
        let orders: Vec<String> = ORDERS.iter().map(|(k, _)| k.to_string()).collect();
        return Err(Error::unsupported("size of a Hadamard transform")
            .expected(format!("a power of two, or a power of two times one of {}", orders.join(", ")))
            .found(n));
    }
    Ok(Factor { order, power: n / order })
}

/// Every size up to `most` that [`factor`] takes.
pub fn sizes(most: usize) -> Vec<usize> {
    let orders = ORDERS.iter().map(|(k, _)| *k).chain([1]);
    let powers = |k| (0..).map(move |m| k << m).take_while(move |&n| n <= most);
    let mut sizes: Vec<usize> = orders.flat_map(powers).collect();
    sizes.sort_unstable();
    sizes
}

/// (runs, values of a run) of every [`Plan`] up to size `most` that mixes its runs.
pub fn mixes(most: usize) -> Vec<(usize, usize)> {
    let factors = sizes(most).into_iter().filter_map(|n| factor(n).ok().map(|f| (n, f.run())));
    factors.map(|(n, run)| (n / run, run)).filter(|&(runs, _)| runs > 1).collect()
}

/// A square matrix of ±1 as rows of bits: bit j of row i is set where entry (i, j) is −1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signs {
    order: usize,
    words: Vec<u32>,
}

impl Signs {
    fn from_fn(order: usize, negative: impl Fn(usize, usize) -> bool) -> Self {
        let stride = order.div_ceil(32);
        let mut words = vec![0; order * stride];
        for i in 0..order {
            for j in 0..order {
                words[i * stride + j / 32] |= u32::from(negative(i, j)) << (j % 32);
            }
        }
        Self { order, words }
    }

    /// Rows, and columns.
    pub fn order(&self) -> usize {
        self.order
    }

    /// `ceil(order / 32)` words a row.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// Whether entry (i, j) is −1.
    pub fn negative(&self, i: usize, j: usize) -> bool {
        self.words[i * self.order.div_ceil(32) + j / 32] >> (j % 32) & 1 == 1
    }
}

/// `hadK` for K = 1 and every order that [`factor`] names.
pub fn matrix(k: usize) -> Option<Signs> {
    if k == 1 {
        return Some(Signs::from_fn(1, |_, _| false));
    }
    let (_, rule) = ORDERS.iter().find(|(order, _)| *order == k)?;
    Some(match rule {
        PaleyI(q) => Signs::from_fn(k, |i, j| paley_1(*q, i, j) < 0),
        PaleyII(q) => Signs::from_fn(k, |i, j| paley_2(*q, i, j) < 0),
        Williamson(rows) => Signs::from_fn(k, |i, j| williamson(rows, i, j)),
    })
}

/// χ(x) mod the prime `p`: 1 for squares, −1 for others, 0 for 0 (Euler's criterion).
fn legendre(x: usize, p: usize) -> i32 {
    let power = (0..(p - 1) / 2).fold(1, |power, _| power * x % p);
    if power == p - 1 { -1 } else { power as i32 }
}

/// χ(i − j) in the field of `q` elements, `q` a prime or 49.
///
/// −1 is no square mod 7, so element `a + 7b` of the field of 49 is `a + b√−1`, and it is a square where its
/// norm `a² + b²` is one mod 7.
fn chi(q: usize, i: usize, j: usize) -> i32 {
    if q == 49 {
        let (a, b) = (i % 7 + 7 - j % 7, i / 7 + 7 - j / 7);
        legendre((a * a + b * b) % 7, 7)
    } else {
        legendre((i + q - j) % q, q)
    }
}

/// `[[1, −1ᵀ], [1, χ(i − j) + δ]]`.
fn paley_1(q: usize, i: usize, j: usize) -> i32 {
    match (i, j) {
        (_, 0) => 1,
        (0, _) => -1,
        _ if i == j => 1,
        _ => chi(q, i - 1, j - 1),
    }
}

/// `[[C + I, C − I], [C − I, −C − I]]` with the conference matrix `C = [[0, 1ᵀ], [1, χ(i − j)]]`.
fn paley_2(q: usize, i: usize, j: usize) -> i32 {
    let (row, col) = (i % (q + 1), j % (q + 1));
    let identity = i32::from(row == col);
    let conference = match (row, col) {
        (0, 0) => 0,
        (0, _) | (_, 0) => 1,
        _ => chi(q, row - 1, col - 1),
    };
    match (i > q, j > q) {
        (false, false) => conference + identity,
        (true, true) => -conference - identity,
        _ => conference - identity,
    }
}

/// `[[A, B, C, D], [−B, A, −D, C], [−C, D, A, −B], [−D, −C, B, A]]`: whether entry (i, j) is −1.
fn williamson(rows: &[&str; 4], i: usize, j: usize) -> bool {
    const LAYOUT: [[(usize, bool); 4]; 4] = [
        [(0, false), (1, false), (2, false), (3, false)],
        [(1, true), (0, false), (3, true), (2, false)],
        [(2, true), (3, false), (0, false), (1, true)],
        [(3, true), (2, true), (1, false), (0, false)],
    ];
    let m = rows[0].len();
    let (circulant, negated) = LAYOUT[i / m][j / m];
    (rows[circulant].as_bytes()[(j % m + m - i % m) % m] == b'-') ^ negated
}

/// Which orthogonal matrix H of a given order transforms activations.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Form {
    /// The Hadamard matrix `H_n` (QuIP#, QTIP).
    #[default]
    Whole,
    /// One of this order, a power of two, on every block (EXL3).
    Blocks(usize),
    /// `core ⊗ S / √(n/K)` with a K × K matrix of a checkpoint's own, row-major (QuIP-for-all).
    Core(Arc<[f32]>),
}

impl Form {
    /// How H of order `n`, or its transpose, is computed.
    pub fn plan(&self, n: usize, transposed: bool) -> Result<Plan> {
        match self {
            Form::Whole => Plan::new(n, transposed),
            Form::Blocks(block) => Plan::blocks(n, *block),
            Form::Core(core) => Plan::with_core(n, core, transposed),
        }
    }
}

/// What makes n values of K runs and a core of so many rows: K and n/K.
pub(crate) fn core_factor(n: usize, core: &[f32]) -> Result<Factor> {
    let order = core.len().isqrt();
    if order == 0 || order * order != core.len() || !n.is_multiple_of(order) || !(n / order).is_power_of_two()
    {
        return Err(Error::corrupt("core of a Hadamard transform")
            .expected(format!("a square matrix whose order divides {n} with a power of two"))
            .found(format!("{} numbers", core.len())));
    }
    Ok(Factor { order, power: n / order })
}

/// One transform of `n` values, as a GPU does it.
///
/// The vector is `runs` contiguous runs of `run` values, `run` a power of two of at most [`MAX_RUN`]. Run i of the result is
/// `scale · Σ_j m[i, j]·S·x[j]` over whole runs, with the numbers of [`Plan::mix`] and the unscaled Walsh-Hadamard transform
/// S; without a mix `scale · S·x[i]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Values of the vector.
    pub n: usize,
    /// L: values of a run.
    pub run: usize,
    /// K' = n / L.
    pub runs: usize,
    /// The K' × K' mix.
    pub mix: Mix,
    /// What every sum is multiplied by.
    pub scale: f32,
}

/// The matrix by which runs are mixed.
#[derive(Debug, Clone, PartialEq)]
pub enum Mix {
    /// None: there is one run, or runs are transforms of their own.
    None,
    /// Signs, `ceil(K' / 32)` words a row, bit j of row i set = −1.
    Signs(Vec<u32>),
    /// Numbers, row-major.
    Dense(Vec<f32>),
}

impl Mix {
    /// As shaders read it; empty: no mix.
    pub fn words(&self) -> &[u32] {
        match self {
            Mix::None => &[],
            Mix::Signs(words) => words,
            Mix::Dense(values) => bytemuck::cast_slice(values),
        }
    }

    /// Entry (i, j) of a mix of `runs` runs.
    fn entry(&self, runs: usize, i: usize, j: usize) -> f64 {
        match self {
            Mix::None => f64::from(u8::from(i == j)),
            Mix::Signs(words) => 1.0 - 2.0 * f64::from(words[i * runs.div_ceil(32) + j / 32] >> (j % 32) & 1),
            Mix::Dense(values) => f64::from(values[i * runs + j]),
        }
    }
}

impl Plan {
    /// `H_n`, or its transpose: an orthogonal matrix either way, and each the inverse of the other.
    pub fn new(n: usize, transposed: bool) -> Result<Self> {
        let factor @ Factor { order, power } = factor(n)?;
        let run = factor.run();
        let (runs, rest) = (n / run, power / run);
        if runs > MAX_RUNS {
            return Err(Error::unsupported("size of a Hadamard transform")
                .expected(format!("at most {MAX_RUNS} runs of {run} values"))
                .found(format!("{n} = {runs} runs of {run}")));
        }
        let mix = match matrix(order) {
            Some(core) if runs > 1 => {
                // hadK ⊗ S_{2^m} = (hadK ⊗ S_rest) ⊗ S_run, and a Sylvester entry is the parity of i & j.
                let mix = |i: usize, j: usize| {
                    let (row, col) = if transposed { (j / rest, i / rest) } else { (i / rest, j / rest) };
                    core.negative(row, col) ^ (((i % rest) & (j % rest)).count_ones() % 2 == 1)
                };
                Mix::Signs(Signs::from_fn(runs, mix).words)
            }
            _ => Mix::None,
        };
        Ok(Self { n, run, runs, mix, scale: (1.0 / (n as f64).sqrt()) as f32 })
    }

    /// `core ⊗ S / √(n/K)`, or its transpose.
    fn with_core(n: usize, core: &[f32], transposed: bool) -> Result<Self> {
        let factor @ Factor { order, power } = core_factor(n, core)?;
        let run = factor.run();
        let (runs, rest) = (n / run, power / run);
        if runs > MAX_RUNS {
            return Err(Error::unsupported("core of a Hadamard transform")
                .expected(format!("at most {MAX_RUNS} rows"))
                .found(runs));
        }
        let entry = |i: usize| {
            let (row, col) = (i / runs, i % runs);
            let (i, j) = if transposed { (col / rest, row / rest) } else { (row / rest, col / rest) };
            let odd = ((row % rest) & (col % rest)).count_ones() % 2 == 1;
            if odd { -core[i * order + j] } else { core[i * order + j] }
        };
        let mix = Mix::Dense((0..runs * runs).map(entry).collect());
        Ok(Self { n, run, runs, mix, scale: (1.0 / (power as f64).sqrt()) as f32 })
    }

    /// `S_block / √block` on every slice of `block` values; its own transpose and inverse.
    pub fn blocks(n: usize, block: usize) -> Result<Self> {
        if !block.is_power_of_two() || block > MAX_RUN || n == 0 || !n.is_multiple_of(block) {
            return Err(Error::unsupported("block size of a Hadamard transform")
                .expected(format!("a power of two of at most {MAX_RUN} that divides the size"))
                .found(format!("blocks of {block} in {n} values")));
        }
        let scale = (1.0 / (block as f64).sqrt()) as f32;
        Ok(Self { n, run: block, runs: n / block, mix: Mix::None, scale })
    }

    /// Transforms vectors of `n` values that lie one after the other in `x`: the CPU twin.
    pub fn apply(&self, x: &mut [f32]) {
        debug_assert!(x.len().is_multiple_of(self.n), "{} values, vectors of {}", x.len(), self.n);
        for x in x.chunks_exact_mut(self.n) {
            x.chunks_exact_mut(self.run).for_each(walsh);
            if self.mix == Mix::None {
                x.iter_mut().for_each(|x| *x *= self.scale);
            } else {
                self.apply_mix(x);
            }
        }
    }

    /// The sum over j, in f64.
    fn apply_mix(&self, x: &mut [f32]) {
        let source = x.to_vec();
        let mut sums = vec![0f64; self.run];
        for (i, y) in x.chunks_exact_mut(self.run).enumerate() {
            sums.fill(0.0);
            for (j, x) in source.chunks_exact(self.run).enumerate() {
                let by = self.mix.entry(self.runs, i, j);
                sums.iter_mut().zip(x).for_each(|(sum, &x)| *sum += by * x as f64);
            }
            y.iter_mut().zip(&sums).for_each(|(y, sum)| *y = (sum * self.scale as f64) as f32);
        }
    }
}

/// The unscaled Walsh-Hadamard transform of a power of two of values.
fn walsh(x: &mut [f32]) {
    let mut half = 1;
    while half < x.len() {
        for pair in x.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Tensors;
    use super::*;
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    /// The published orders, in QuIP#'s order of trial.
    const PUBLISHED: [usize; 12] = [172, 156, 140, 124, 116, 108, 60, 52, 36, 28, 20, 12];

    fn random(n: usize) -> Vec<f32> {
        let mut rng = StdRng::seed_from_u64(n as u64);
        (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    /// Row `i` of H_n (or its transpose) times x, in f64, straight from the definition.
    fn dense_row(core: &Signs, n: usize, transposed: bool, x: &[f32], i: usize) -> f64 {
        let power = n / core.order();
        let entry = |j: usize| {
            let (row, col) = if transposed { (j, i) } else { (i, j) };
            let sylvester = ((i % power) & (j % power)).count_ones() % 2 == 1;
            if core.negative(row / power, col / power) ^ sylvester { -1.0 } else { 1.0 }
        };
        let sum: f64 = x.iter().enumerate().map(|(j, &x)| entry(j) * x as f64).sum();
        sum / (n as f64).sqrt()
    }

    /// Compares with the definition in `rows` rows; forward then transposed is the identity; norms stay.
    fn check(n: usize, rows: usize) {
        let core = matrix(factor(n).unwrap().order).unwrap();
        let x = random(n);
        let norm = |x: &[f32]| x.iter().map(|&x| x as f64 * x as f64).sum::<f64>().sqrt();
        for transposed in [false, true] {
            let plan = Plan::new(n, transposed).unwrap();
            assert_eq!((plan.run * plan.runs, plan.run <= MAX_RUN), (n, true));
            let mut y = x.clone();
            plan.apply(&mut y);
            for i in (0..rows).map(|r| (r * n / rows + r * 37) % n) {
                let expected = dense_row(&core, n, transposed, &x, i);
                assert!((y[i] as f64 - expected).abs() < 2e-6, "{n}: row {i}: {} {expected}", y[i]);
            }
            assert!((norm(&y) / norm(&x) - 1.0).abs() < 1e-6, "{n}: norm");
            Plan::new(n, !transposed).unwrap().apply(&mut y);
            assert!(y.iter().zip(&x).all(|(y, x)| (y - x).abs() < 3e-6), "{n}: identity");
        }
    }

    #[test]
    fn matrices_are_orthogonal() {
        for k in ORDERS.iter().map(|(k, _)| *k).chain([1]) {
            let h = matrix(k).unwrap();
            if let Some((_, Williamson(rows))) = ORDERS.iter().find(|(order, _)| *order == k) {
                assert!(rows.iter().all(|r| r.len() * 4 == k), "{k}");
            }
            for i in 0..k {
                for j in 0..k {
                    let product: i32 =
                        (0..k).map(|c| 1 - 2 * i32::from(h.negative(i, c) ^ h.negative(j, c))).sum();
                    assert_eq!(product, if i == j { k as i32 } else { 0 }, "{k}: rows {i} and {j}");
                }
            }
        }
        assert_eq!(matrix(44), None);
    }

    /// For 20, 100 and 124 the folder has another construction's matrix (Hall, Williamson, Paley II).
    #[test]
    fn matrices_equal_sloanes() {
        let Some(tensors) = Tensors::open("models/hadamard-orders-1-256.safetensors") else { return };
        let differs = |k: &usize| {
            let (h, stored) = (matrix(*k).unwrap(), tensors.bytes(&k.to_string()));
            (0..k * k).any(|i| h.negative(i / k, i % k) != (stored[i] as i8 == -1))
        };
        let others: Vec<usize> = ORDERS.iter().map(|(k, _)| *k).filter(differs).collect();
        assert_eq!(others, [20, 100, 124]);
    }

    #[test]
    fn sizes_of_published_models_factor_as_published() {
        let published = [
            (4096, 1),
            (12288, 12),
            (11008, 172),
            (22016, 172),
            (5120, 20),
            (15360, 60),
            (13824, 108),
            (27648, 108),
            (8192, 1),
            (10240, 20),
            (28672, 28),
            (57344, 28),
            (6144, 12),
            (14336, 28),
        ];
        for (n, order) in published {
            assert_eq!(factor(n).unwrap(), Factor { order, power: n / order });
        }
    }

    /// Wherever QuIP#'s rule gives an answer, so do we, and the same; and a mix never exceeds 172 rows.
    #[test]
    fn factors_follow_the_published_rule() {
        for n in 1..=65536usize {
            let published = if n.is_power_of_two() {
                Some(1)
            } else {
                PUBLISHED.into_iter().find(|k| n % k == 0).filter(|k| (n / k).is_power_of_two())
            };
            match (published, factor(n)) {
                (Some(k), found) => assert_eq!(found.unwrap().order, k, "{n}"),
                (None, Ok(Factor { order, power })) => {
                    assert!([68, 76, 100, 148].contains(&order) && power.is_power_of_two(), "{n}");
                }
                (None, Err(_)) => continue,
            }
            assert!(n / factor(n).unwrap().run() <= 256, "{n}");
        }
    }

    #[test]
    fn plans_equal_the_definition_for_every_order() {
        for k in ORDERS.iter().map(|(k, _)| *k).chain([1]) {
            for power in [1, 2, 8] {
                check(k * power, k * power);
            }
        }
    }

    #[test]
    fn plans_equal_the_definition_in_large_sizes() {
        for n in [4096, 8192, 11008, 14336, 57344, 65536, 98304] {
            check(n, 40);
        }
    }

    /// `core ⊗ S / √(n/K)` from its definition, both ways, with a core of any numbers.
    #[test]
    fn cores_are_mixed() {
        for (order, power) in [(3, 8), (43, 4), (1, 16), (3, 8192)] {
            let (n, core) = (order * power, random(order * order));
            let x = random(n);
            for transposed in [false, true] {
                let mut y = x.clone();
                Form::Core(core.clone().into()).plan(n, transposed).unwrap().apply(&mut y);
                for i in (0..24).map(|r| r * n / 24) {
                    let entry = |j: usize| {
                        let (row, col) = if transposed { (j, i) } else { (i, j) };
                        let odd = ((row % power) & (col % power)).count_ones() % 2;
                        f64::from(core[row / power * order + col / power]) * (1.0 - 2.0 * f64::from(odd))
                    };
                    let sum: f64 = x.iter().enumerate().map(|(j, &x)| entry(j) * x as f64).sum();
                    let wanted = sum / (power as f64).sqrt();
                    assert!((f64::from(y[i]) - wanted).abs() < 1e-5, "{order} × {power}: {} {wanted}", y[i]);
                }
            }
        }
        for (n, len) in [(12, 8), (12, 25), (0, 0), (24, 16), (1 << 40, 4)] {
            assert!(Form::Core(vec![0.0; len].into()).plan(n, false).is_err(), "{n} {len}");
        }
    }

    #[test]
    fn blocks_are_transforms_of_their_own() {
        let x = random(512);
        let (mut blocks, mut alone) = (x.clone(), x);
        Plan::blocks(512, 128).unwrap().apply(&mut blocks);
        Plan::new(128, false).unwrap().apply(&mut alone);
        assert_eq!(blocks, alone);
    }

    #[test]
    fn errors_name_the_size() {
        for n in [0, 3, 6, 22528, 128256, usize::MAX, usize::MAX / 4 + 2] {
            let message = Plan::new(n, false).unwrap_err().to_string();
            assert!(message.contains(&n.to_string()) && message.contains("172"), "{message}");
        }
        assert!(Plan::new(1 << 40, false).unwrap_err().to_string().contains("1099511627776"));
        for (n, block) in [(100, 128), (0, 128), (256, 0), (300, 100), (8192, 8192)] {
            assert!(Plan::blocks(n, block).unwrap_err().to_string().contains(&n.to_string()));
        }
    }

    proptest! {
        #[test]
        fn there_and_back(order in 0..ORDERS.len(), power in 0..6u32, turned: bool) {
            let n = ORDERS[order].0 << power;
            let (x, mut y) = (random(n), random(n));
            Plan::new(n, turned).unwrap().apply(&mut y);
            Plan::new(n, !turned).unwrap().apply(&mut y);
            prop_assert!(y.iter().zip(&x).all(|(y, x)| (y - x).abs() < 3e-6));
        }
    }
}
