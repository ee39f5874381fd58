//! Chooses the next token from logits.
//!
//! The filters run in llama.cpp's order: repeat penalty, top-k, top-p, min-p, and last the temperature, so that a
//! high temperature spreads the choice among the good tokens and does not bring back the bad ones.

use crate::error::{Error, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::cmp::Ordering;
use std::collections::HashSet;

/// How to choose among the next tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerOptions {
    /// 0 always takes the most likely token; 1 samples as the model says; more is more daring.
    pub temperature: f32,
    /// Only the k most likely tokens; 0 means all.
    pub top_k: usize,
    /// Only the most likely tokens that together reach this probability; 1 means all.
    pub top_p: f32,
    /// Only tokens at least this many times as likely as the most likely one; 0 means all.
    pub min_p: f32,
    /// Makes tokens of the recent text less likely; 1 means not at all.
    pub repeat_penalty: f32,
    /// How many recent tokens the penalty looks at.
    pub repeat_last: usize,
    /// The same seed gives the same text; `None` takes a new one every time.
    pub seed: Option<u64>,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        SamplerOptions {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last: 64,
            seed: None,
        }
    }
}

impl SamplerOptions {
    /// Always the most likely token.
    pub fn greedy() -> Self {
        SamplerOptions { temperature: 0.0, ..Self::default() }
    }
}

/// Chooses the next token, time after time.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplerOptions,
    seed: u64,
    random: StdRng,
    candidates: Vec<(u32, f32)>,
    weights: Vec<f64>,
}

impl Sampler {
    /// A sampler; the options must make sense.
    pub fn new(options: SamplerOptions) -> Result<Self> {
        let check = |name: &str, value: f32, good: bool, expected: &str| match good {
            true => Ok(()),
            false => Err(Error::invalid(name).expected(expected).found(value)),
        };
        let SamplerOptions { temperature: t, top_p, min_p, repeat_penalty: r, .. } = options;
        check("temperature", t, t.is_finite() && t >= 0.0, "a number from 0 (greedy) upwards, such as 0.8")?;
        check(
            "top_p",
            top_p,
            top_p > 0.0 && top_p <= 1.0,
            "more than 0, at most 1 (which keeps all tokens)",
        )?;
        check("min_p", min_p, (0.0..=1.0).contains(&min_p), "0 (which keeps all tokens) to 1")?;
        check(
            "repeat_penalty",
            r,
            r.is_finite() && r > 0.0,
            "a positive number, such as 1.1; 1 is no penalty",
        )?;
        let seed = options.seed.unwrap_or_else(new_seed);
        let random = StdRng::seed_from_u64(seed);
        Ok(Sampler { options, seed, random, candidates: Vec::new(), weights: Vec::new() })
    }

    /// The seed in use: what to pass to get the same text again.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The temperature in use.
    pub fn temperature(&self) -> f32 {
        self.options.temperature
    }

    /// True if the choice is the largest logit as it stands, so that it can be made on the GPU.
    pub fn is_greedy(&self) -> bool {
        self.options.temperature == 0.0 && !self.penalizes()
    }

    fn penalizes(&self) -> bool {
        self.options.repeat_penalty != 1.0 && self.options.repeat_last > 0
    }

    /// The next token. `recent` is the text so far, for the repeat penalty, which changes `logits` in place.
    ///
    /// Of equally likely tokens the lowest id comes first. A logit that is NaN or +∞ is an error: the weights or a
    /// kernel must be broken. −∞ forbids a token.
    pub fn sample(&mut self, logits: &mut [f32], recent: &[u32]) -> Result<u32> {
        if let Some(i) = logits.iter().position(|l| l.is_nan() || *l == f32::INFINITY) {
            return Err(Error::corrupt(format!("the logit of token {i}"))
                .expected("a finite number")
                .found(logits[i])
                .remedy("check the model file, and the GPU with `halfbyte verify`"));
        }
        for id in self.penalized(recent) {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = self.penalty(*logit);
            }
        }
        self.candidates.clear();
        self.candidates.extend((0..).zip(logits.iter().copied()));
        self.choose()
    }

    /// How many of the largest logits are enough, after a text of `recent` tokens; none if all are needed.
    pub fn needs(&self, recent: usize) -> Option<usize> {
        let k = match (self.options.temperature == 0.0, self.options.top_k) {
            (true, _) => 1,
            (false, 0) => return None,
            (false, k) => k,
        };
        match self.options.repeat_penalty {
            _ if !self.penalizes() => Some(k),
            // Each token that it pushes back may let another in; what it pushes forward may come from anywhere.
            r if r > 1.0 => Some(k.saturating_add(recent.min(self.options.repeat_last))),
            _ => None,
        }
    }

    /// The token that [`Sampler::sample`] takes of all logits, of which `largest` are the largest: at least as many as it
    /// [needs](Sampler::needs).
    pub fn sample_largest(&mut self, mut largest: Vec<(u32, f32)>, recent: &[u32]) -> Result<u32> {
        let penalized = self.penalized(recent);
        for (_, logit) in largest.iter_mut().filter(|(id, _)| penalized.contains(id)) {
            *logit = self.penalty(*logit);
        }
        self.candidates = largest;
        self.choose()
    }

    /// The tokens that the penalty is for.
    fn penalized(&self, recent: &[u32]) -> HashSet<u32> {
        let last = if self.penalizes() { self.options.repeat_last } else { 0 };
        recent[recent.len().saturating_sub(last)..].iter().copied().collect()
    }

    fn penalty(&self, logit: f32) -> f32 {
        let r = self.options.repeat_penalty;
        if logit > 0.0 { logit / r } else { logit * r }
    }

    /// One of the candidates.
    fn choose(&mut self) -> Result<u32> {
        self.candidates.retain(|(_, logit)| *logit > f32::NEG_INFINITY);
        if self.candidates.is_empty() {
            return Err(Error::invalid("no token to choose from").expected("at least one logit above -inf"));
        }
        if self.options.temperature == 0.0 {
            return self
                .candidates
                .iter()
                .copied()
                .min_by(better)
                .map(|(id, _)| id)
                .ok_or_else(|| Error::invalid("no token to choose from"));
        }
        self.filter();
        let t = f64::from(self.options.temperature);
        let total = self.weigh(t);
        let mut left = self.random.random::<f64>() * total;
        let mut chosen = self.candidates[0].0;
        for (&(id, _), &weight) in self.candidates.iter().zip(&self.weights) {
            if weight > 0.0 {
                chosen = id;
                left -= weight;
                if left < 0.0 {
                    break;
                }
            }
        }
        Ok(chosen)
    }

    /// Leaves the candidates that top-k, top-p and min-p let through, most likely first.
    fn filter(&mut self) {
        let k = if self.options.top_k == 0 { usize::MAX } else { self.options.top_k };
        if k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(k - 1, better);
            self.candidates.truncate(k);
        }
        self.candidates.sort_unstable_by(better);
        if self.options.top_p < 1.0 {
            let goal = self.weigh(1.0) * f64::from(self.options.top_p);
            let mut sum = 0.0;
            let enough = self.weights.iter().position(|w| {
                sum += w;
                sum >= goal
            });
            self.candidates.truncate(enough.map_or(usize::MAX, |last| last + 1));
        }
        if self.options.min_p > 0.0 {
            let best = self.candidates[0].1;
            let worst = best + self.options.min_p.ln();
            self.candidates.retain(|&(_, logit)| logit >= worst);
        }
    }

    /// e^(logit / t), relative to the largest; the candidates must be sorted. Returns the sum.
    fn weigh(&mut self, t: f64) -> f64 {
        let best = f64::from(self.candidates[0].1);
        self.weights.clear();
        self.weights.extend(self.candidates.iter().map(|&(_, logit)| ((f64::from(logit) - best) / t).exp()));
        self.weights.iter().sum()
    }
}

/// Larger logits first, lower ids first among equals.
fn better(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal).then(a.0.cmp(&b.0))
}

/// Different on every call: the standard library seeds its hash maps from the system's randomness.
/// (A browser gives it none; the web page passes a seed.)
fn new_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0x68616c6662797465_u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(seed: u64) -> SamplerOptions {
        SamplerOptions {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: Some(seed),
            ..SamplerOptions::default()
        }
    }

    fn counts(options: SamplerOptions, logits: &[f32], n: usize) -> Vec<usize> {
        let mut sampler = Sampler::new(options).unwrap();
        let mut counts = vec![0; logits.len()];
        for _ in 0..n {
            counts[sampler.sample(&mut logits.to_vec(), &[]).unwrap() as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals() {
        let mut greedy = Sampler::new(SamplerOptions::greedy()).unwrap();
        assert!(greedy.is_greedy());
        assert_eq!(greedy.sample(&mut [1.0, 3.0, 3.0, -1.0], &[]).unwrap(), 1);
        assert_eq!(greedy.sample(&mut [-0.0, 0.0], &[]).unwrap(), 0);
        assert_eq!(greedy.sample(&mut [f32::NEG_INFINITY, -1e30], &[]).unwrap(), 1);
    }

    #[test]
    fn the_penalty_looks_at_recent_tokens_only() {
        let options = SamplerOptions { repeat_penalty: 2.0, repeat_last: 2, ..SamplerOptions::greedy() };
        let mut sampler = Sampler::new(options.clone()).unwrap();
        assert!(!sampler.is_greedy());
        let logits = [4.0, 3.0, -1.0];
        assert_eq!(sampler.sample(&mut logits.to_vec(), &[0, 1, 2]).unwrap(), 0);
        assert_eq!(sampler.sample(&mut logits.to_vec(), &[0, 0, u32::MAX]).unwrap(), 1);
        let mut changed = logits;
        sampler.sample(&mut changed, &[1, 2]).unwrap();
        assert_eq!(changed, [4.0, 1.5, -2.0]);
        assert!(Sampler::new(SamplerOptions { repeat_last: 0, ..options }).unwrap().is_greedy());
    }

    proptest! {
        /// The largest logits, in any order, are as good as all of them.
        #[test]
        fn the_largest_logits_are_enough(
            logits in prop::collection::vec((-40i8..40).prop_map(|l| f32::from(l) / 8.0), 60..200),
            recent in prop::collection::vec(0u32..200, 0..30),
            temperature in prop::sample::select(vec![0.0f32, 0.7]),
            repeat_penalty in prop::sample::select(vec![1.0f32, 1.3]),
        ) {
            let (top_k, repeat_last, seed) = (12, 8, Some(7));
            let options = SamplerOptions {
                temperature, top_k, repeat_penalty, repeat_last, seed, ..SamplerOptions::default()
            };
            let mut sampler = Sampler::new(options).unwrap();
            let needed = sampler.needs(recent.len()).unwrap();
            let mut largest: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
            largest.sort_by(better);
            largest.truncate(needed);
            largest.reverse();
            let mut of_all = sampler.clone();
            prop_assert_eq!(
                sampler.sample_largest(largest, &recent).unwrap(),
                of_all.sample(&mut logits.clone(), &recent).unwrap()
            );
        }
    }

    #[test]
    fn some_need_all_logits() {
        let needs = |options| Sampler::new(options).unwrap().needs(100);
        assert_eq!(needs(plain(1)), None);
        assert_eq!(needs(SamplerOptions { repeat_penalty: 0.9, ..SamplerOptions::default() }), None);
        assert_eq!(needs(SamplerOptions { repeat_penalty: 1.1, ..SamplerOptions::default() }), Some(104));
        assert_eq!(needs(SamplerOptions::default()), Some(40));
        assert_eq!(needs(SamplerOptions::greedy()), Some(1));
    }

    #[test]
    fn samples_follow_the_probabilities() {
        let logits = [0.5f32, 0.25, 0.125, 0.125].map(f32::ln);
        let n = 40_000;
        let share = |options| {
            counts(options, &logits, n).into_iter().map(|c| c as f64 / n as f64).collect::<Vec<_>>()
        };
        for (found, expected) in share(plain(1)).iter().zip([0.5, 0.25, 0.125, 0.125]) {
            assert!((found - expected).abs() < 0.01, "{found} {expected}");
        }
        // At temperature 1/2 probabilities are squared: 16, 4, 1, 1 of 22.
        let cold = share(SamplerOptions { temperature: 0.5, ..plain(2) });
        for (found, expected) in cold.iter().zip([16.0, 4.0, 1.0, 1.0]) {
            assert!((found - expected / 22.0).abs() < 0.01, "{found} {expected}");
        }
    }

    #[test]
    fn each_filter_cuts_where_it_should() {
        let logits = [0.125f32, 0.5, 0.25, 0.125].map(f32::ln);
        let left = |options| counts(options, &logits, 500).iter().map(|&c| c > 0).collect::<Vec<_>>();
        assert_eq!(left(SamplerOptions { top_k: 3, ..plain(3) }), [true, true, true, false]);
        assert_eq!(left(SamplerOptions { top_k: 1, ..plain(3) }), [false, true, false, false]);
        assert_eq!(left(SamplerOptions { top_p: 0.7, ..plain(3) }), [false, true, true, false]);
        assert_eq!(left(SamplerOptions { top_p: 0.01, ..plain(3) }), [false, true, false, false]);
        assert_eq!(left(SamplerOptions { min_p: 0.4, ..plain(3) }), [false, true, true, false]);
        assert_eq!(left(SamplerOptions { min_p: 1.0, ..plain(3) }), [false, true, false, false]);
        assert_eq!(left(plain(3)), [true; 4]);
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        let mut sampler = Sampler::new(plain(4)).unwrap();
        assert!(sampler.sample(&mut [0.0, f32::NAN], &[]).unwrap_err().to_string().contains("token 1"));
        assert!(sampler.sample(&mut [f32::INFINITY], &[]).is_err());
        assert!(sampler.sample(&mut [f32::NEG_INFINITY; 3], &[]).is_err());
        assert!(sampler.sample(&mut [], &[]).is_err());
        let d = SamplerOptions::default;
        for bad in [
            SamplerOptions { temperature: -1.0, ..d() },
            SamplerOptions { temperature: f32::NAN, ..d() },
            SamplerOptions { top_p: 0.0, ..d() },
            SamplerOptions { top_p: 1.5, ..d() },
            SamplerOptions { min_p: -0.1, ..d() },
            SamplerOptions { min_p: f32::NAN, ..d() },
            SamplerOptions { repeat_penalty: 0.0, ..d() },
            SamplerOptions { repeat_penalty: f32::INFINITY, ..d() },
        ] {
            let message = Sampler::new(bad).unwrap_err().to_string();
            assert!(message.contains("expected") && message.contains("found"), "{message}");
        }
    }

    #[test]
    fn no_seed_means_a_new_one() {
        let seed = || Sampler::new(SamplerOptions::default()).unwrap().seed();
        assert_ne!(seed(), seed());
        assert_eq!(Sampler::new(plain(7)).unwrap().seed(), 7);
    }

    proptest! {
        #[test]
        fn any_logits_and_options_give_a_token_or_an_error(
            bits in prop::collection::vec(any::<u32>(), 0..40),
            recent in prop::collection::vec(0u32..50, 0..8),
            temperature in prop_oneof![Just(0.0f32), Just(f32::MIN_POSITIVE), 0.0f32..5.0, Just(f32::MAX)],
            top_k in 0usize..50, top_p in 0.001f32..=1.0, min_p in 0.0f32..=1.0, repeat_penalty in 0.1f32..3.0, seed in any::<u64>(),
        ) {
            let options = SamplerOptions { temperature, top_k, top_p, min_p, repeat_penalty, repeat_last: 5, seed: Some(seed) };
            let logits: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
            let one = Sampler::new(options.clone()).unwrap().sample(&mut logits.clone(), &recent);
            let two = Sampler::new(options).unwrap().sample(&mut logits.clone(), &recent);
            match (one, two) {
                (Ok(a), Ok(b)) => {
                    prop_assert_eq!(a, b);
                    prop_assert!(logits[a as usize] > f32::NEG_INFINITY);
                }
                (Err(_), Err(_)) => {}
                _ => prop_assert!(false, "the same seed gave two answers"),
            }
        }

        #[test]
        fn a_narrow_sampler_is_greedy(logits in prop::collection::vec(-30.0f32..30.0, 1..60), seed in any::<u64>()) {
            let best = Sampler::new(SamplerOptions::greedy()).unwrap().sample(&mut logits.clone(), &[]).unwrap();
            for options in [
                SamplerOptions { top_k: 1, ..plain(seed) },
                SamplerOptions { top_p: 1e-6, ..plain(seed) },
                SamplerOptions { temperature: 1e-30, ..plain(seed) },
            ] {
                let found = Sampler::new(options).unwrap().sample(&mut logits.clone(), &[]).unwrap();
                prop_assert_eq!(logits[found as usize], logits[best as usize]);
            }
        }
    }
}
