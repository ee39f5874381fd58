//! What the documents promise about the registries.

use halfbyte::checkpoint::READERS;
use halfbyte::model::ARCHITECTURES;
use halfbyte::quant::CODECS;

const README: &str = include_str!("../../README.md");

#[test]
fn the_readme_names_every_format_codec_and_model() {
    let names = READERS.iter().map(|r| r.name).chain(CODECS.iter().map(|c| c.name));
    let text = README.to_lowercase();
    let models = ARCHITECTURES.iter().map(|a| a.name);
    let missing: Vec<&str> =
        names.chain(models).filter(|name| !text.contains(&name.to_lowercase())).collect();
    assert!(missing.is_empty(), "README.md does not name {missing:?}");
}

#[test]
fn the_architecture_fits_on_a_page() {
    let lines = include_str!("../../ARCHITECTURE.md").lines().count();
    assert!(lines <= 100, "ARCHITECTURE.md has {lines} lines, at most 100");
}
