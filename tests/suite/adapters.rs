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
    let expected =
        std::env::var("HALFBYTE_EXPECT_ADAPTERS").ok().and_then(|count| count.parse().ok()).unwrap_or(1);
    let names =
        || reports.iter().map(|r| format!("{} ({})", r.name, r.backend)).collect::<Vec<_>>().join(", ");
    assert!(reports.len() >= expected, "{expected} adapters should be here, these are: {}", names());
    let open = |index| {
        let options = Options { adapter: AdapterChoice::Index(index), ..options.clone() };
        pollster::block_on(Context::open(&options)).expect("an adapter that is listed opens")
    };
    (0..reports.len()).map(open).collect()
}
