//! The shortest program: opens a model on the best GPU (or the CPU) and streams a text.
//!
//!     cargo run --release --example generate -- models/tale.gguf "One day"

use halfbyte::Session;
use halfbyte::session::GenerateOptions;
use std::io::Write;

fn main() -> halfbyte::Result<()> {
    let mut args = std::env::args().skip(1);
    let model = args.next().unwrap_or_else(|| "models/tale.gguf".into());
    let prompt = args.next().unwrap_or_else(|| "Once upon a time".into());

    let mut session = pollster::block_on(Session::open(model, |p| eprint!("\r{p} ")))?;
    eprintln!();
    print!("{prompt}");
    let mut text = session.generate(&prompt, &GenerateOptions::default())?;
    while let Some(piece) = pollster::block_on(text.next()) {
        print!("{}", piece?);
        let _ = std::io::stdout().flush();
    }
    println!();
    Ok(())
}
