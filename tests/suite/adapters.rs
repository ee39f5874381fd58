//! The adapters that tests walk. A machine without any fails the GPU tests; it does not skip them.

use halfbyte::gpu::context::adapters;
use halfbyte::gpu::{AdapterChoice, Context, Options};

/// Opens every adapter at hand with `options`.
pub fn contexts(options: &Options) -> Vec<Context> {
    let reports = pollster::block_on(adapters(options));
    assert!(
        !reports.is_empty(),
        "no GPU adapter: install mesa-vulkan-drivers (lavapipe) to run the GPU tests"
    );
    let open = |index| {
        let options = Options { adapter: AdapterChoice::Index(index), ..options.clone() };
        pollster::block_on(Context::open(&options)).expect("an adapter that is listed opens")
    };
    (0..reports.len()).map(open).collect()
}
