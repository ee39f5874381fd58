//! Shaders as the crate embeds them: as they are, and for the page, where every byte is downloaded before the first word,
//! without comments and spaces. Lines stay where they are, for the messages of compilers.

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
    let text = if small { text.lines().map(squeeze).collect() } else { text };
    fs::write(out.join(file), text)
}

/// A line without its comment and the spaces that only part what is parted anyway.
fn squeeze(line: &str) -> String {
    let code = line.split_once("//").map_or(line, |(code, _)| code).trim();
    let (marks, operators) = (",;:(){}[]=<>&|+-*/%^", "=<>&|+-*/%^!");
    let mut out = String::new();
    for (at, c) in code.char_indices() {
        let (before, after) = (out.chars().last(), code[at + c.len_utf8()..].chars().next());
        let (Some(before), Some(after)) = (before, after) else {
            out.push(c);
            continue;
        };
        // Two operators might become another one.
        let apart = operators.contains(before) && operators.contains(after);
        let parted = marks.contains(before) || marks.contains(after);
        if c != ' ' || apart || !parted {
            out.push(c);
        }
    }
    out + "\n"
}
