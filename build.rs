//! Shaders as the crate embeds them: as they are, and for the page, where every byte is downloaded before the first word,
//! without comments and indentation. Lines stay where they are, for the messages of compilers.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=shaders");
    let small = env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "wasm32");
    let out = env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default();
    for folder in fs::read_dir("shaders")? {
        let folder = folder?.path();
        fs::create_dir_all(out.join(&folder))?;
        for file in fs::read_dir(&folder)? {
            embed(&file?.path(), &out, small)?;
        }
    }
    Ok(())
}

fn embed(file: &Path, out: &Path, small: bool) -> io::Result<()> {
    let text = fs::read_to_string(file)?;
    let code = |line: &str| line.split_once("//").map_or(line, |(code, _)| code).trim().to_owned() + "\n";
    let text = if small { text.lines().map(code).collect() } else { text };
    fs::write(out.join(file), text)
}
