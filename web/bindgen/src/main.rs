//! `bindgen CORE.wasm FOLDER`: the JavaScript around the core, and the core as it expects it.

use anyhow::{Result, bail};
use wasm_bindgen_cli_support::Bindgen;

fn main() -> Result<()> {
    let [core, folder] = &std::env::args().skip(1).collect::<Vec<_>>()[..] else {
        bail!("usage: bindgen CORE.wasm FOLDER");
    };
    Bindgen::new().input_path(core).web(true)?.typescript(false).out_name("halfbyte_core").generate(folder)
}
