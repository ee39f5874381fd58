//! Every kernel against its CPU twin, on every adapter and with every capability switched off in turn.

use crate::adapters::contexts;
use halfbyte::gpu::{LimitSet, Options};
use halfbyte::verify::{Outcome, verify};

fn assert_all_pass(options: &Options) {
    for context in contexts(options) {
        let outcomes = pollster::block_on(verify(&context, 1, |_| {})).expect("the device stays");
        let failed: Vec<&Outcome> = outcomes.iter().filter(|o| !o.pass).collect();
        assert!(failed.is_empty(), "{}: {failed:#?}", context.report().name);
        assert!(outcomes.len() > 60, "only {} kernels were run", outcomes.len());
    }
}

#[test]
fn kernels_equal_their_twins() {
    assert_all_pass(&Options::default());
}

#[test]
fn kernels_equal_their_twins_on_the_floor() {
    let without = ["f16", "subgroups", "dot4"].map(String::from).to_vec();
    assert_all_pass(&Options { limits: LimitSet::Floor, without, ..Options::default() });
}

#[test]
fn kernels_of_real_gpus_equal_their_twins() {
    assert_all_pass(&Options { as_gpu: true, ..Options::default() });
}
