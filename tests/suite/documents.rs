//! What the documents promise about the registries.

use halfbyte::bench::random::codec_names;
use halfbyte::bench::{ModelResult, Report};
use halfbyte::checkpoint::READERS;
use halfbyte::checkpoint::formats::FORMATS;
use halfbyte::inspect::formats;
use halfbyte::model::ARCHITECTURES;
use halfbyte::quant::CODECS;
use std::collections::BTreeMap;
use std::path::Path;

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

/// Every reader and codec has a line, and lines name codecs that can be measured.
#[test]
fn the_table_of_formats_is_whole() {
    for reader in READERS {
        let found = FORMATS.iter().any(|format| format.reader.name == reader.name);
        assert!(found, "no line for {}", reader.name);
    }
    for family in CODECS {
        let mut codecs = FORMATS.iter().flat_map(|format| format.codecs);
        assert!(codecs.any(|codec| codec.name == family.name), "no line for the codec {}", family.name);
    }
    let known = codec_names();
    for format in FORMATS {
        assert!(known.contains(&format.bench.to_string()), "bench knows no {}", format.bench);
    }
}

/// What speeds are relative to.
const BASE: &str = "int4-g128";
const MARKS: [&str; 2] = [
    "<!-- formats: HALFBYTE_WRITE_README=1 cargo test --test suite documents -->\n\n",
    "\n<!-- end of formats -->",
];

/// Decoded tokens a second of each codec, relative to [`BASE`] on the same adapter.
fn speeds(folder: &Path) -> BTreeMap<String, String> {
    let file = "formats.json";
    let text = std::fs::read_to_string(folder.join("benchmarks/results").join(file)).expect(file);
    let report = Report::parse(&text, file).expect("a report of bench");
    let models = report.adapters.iter().flat_map(|adapter| &adapter.models);
    let speed = |m: &ModelResult| Some((m.format.clone(), m.decode.first()?.tokens_per_s.median));
    let measured: BTreeMap<String, f64> = models.filter_map(speed).collect();
    measured.iter().map(|(codec, speed)| (codec.clone(), format!("{:.2}", speed / measured[BASE]))).collect()
}

/// README's table is what the registries and the measurements say; with `HALFBYTE_WRITE_README` set it is made so.
#[test]
fn the_readme_has_the_table_of_formats() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let speeds = speeds(folder);
    let mut table = String::from(
        "| format | codec | transform | side term | tested on files of | bits a weight | decode speed |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for f in formats().table {
        let speed = &speeds[f.bench];
        let cells = [f.format, &f.codec, f.transform, f.side_term, f.tested, f.bits_per_weight, speed];
        let cell = |cell: &str| if cell.is_empty() { "| ".into() } else { format!("| {cell} ") };
        table += &(cells.map(cell).concat() + "|\n");
    }
    let readme = std::fs::read_to_string(folder.join("README.md")).expect("README.md");
    let (before, rest) = readme.split_once(MARKS[0]).expect("where the table begins");
    let (found, after) = rest.split_once(MARKS[1]).expect("where the table ends");
    if std::env::var_os("HALFBYTE_WRITE_README").is_some() {
        let text = format!("{before}{}{table}{}{after}", MARKS[0], MARKS[1]);
        return std::fs::write(folder.join("README.md"), text).expect("README.md can be written");
    }
    assert!(
        found == table,
        "README.md's table of formats is old: HALFBYTE_WRITE_README=1 cargo test --test suite documents"
    );
}

#[test]
fn the_architecture_fits_on_a_page() {
    let lines = include_str!("../../ARCHITECTURE.md").lines().count();
    assert!(lines <= 100, "ARCHITECTURE.md has {lines} lines, at most 100");
}
