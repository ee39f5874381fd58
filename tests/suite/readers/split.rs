//! GGUF models in several files.

use super::crafted::GgufFile;
use super::*;
use halfbyte::checkpoint::Files;
use halfbyte::checkpoint::source::Bytes;
use std::sync::Arc;

const COUNT: u16 = 3;

fn name(no: u16) -> String {
    format!("tale-{:05}-of-{COUNT:05}.gguf", no + 1)
}

/// Part `no` says that it is part `says` of `count`: metadata first, then an embedding, then a norm.
fn part(no: u16, says: u16, count: u16) -> Vec<u8> {
    let mut file = if no == 0 { GgufFile::new("llama", 64) } else { GgufFile::empty("llama") };
    file.pair("split.no", 2, &says.to_le_bytes());
    file.pair("split.count", 2, &count.to_le_bytes());
    file.pair("split.tensors.count", 5, &2i32.to_le_bytes());
    let floats = |count: usize| -> Vec<u8> { (0..count).flat_map(|i| (i as f32).to_le_bytes()).collect() };
    match no {
        1 => file.add("token_embd.weight", &[40, 64], 0, &floats(40 * 64)),
        2 => file.add("output_norm.weight", &[64], 0, &floats(64)),
        _ => {}
    }
    file.bytes()
}

/// Files with these parts under the names of others.
fn files(parts: &[(u16, Vec<u8>)]) -> Files {
    let file = |(no, bytes): &(u16, Vec<u8>)| (name(*no), Bytes::new(name(*no), bytes.clone()) as Arc<_>);
    parts.iter().map(file).collect()
}

fn all() -> Vec<(u16, Vec<u8>)> {
    (0..COUNT).map(|no| (no, part(no, no, COUNT))).collect()
}

fn check(checkpoint: &Checkpoint) {
    let embedding = block_on(checkpoint.matrix("model.embed_tokens")).unwrap().unwrap();
    let weights = decode(&embedding, BUDGETS[1]).unwrap();
    assert!(weights.iter().enumerate().all(|(i, &w)| w == i as f32));
    let norm = block_on(checkpoint.vector("model.norm.weight", 64)).unwrap().unwrap();
    assert_eq!(norm[63], 63.0);
}

#[test]
fn parts_are_one_model() {
    check(&block_on(Checkpoint::from_files(files(&all()))).unwrap());
    let folder = std::env::temp_dir().join(format!("halfbyte-split-{}", std::process::id()));
    std::fs::remove_dir_all(&folder).ok(); // of an earlier process with this number
    std::fs::create_dir_all(&folder).unwrap();
    for (no, bytes) in all() {
        std::fs::write(folder.join(name(no)), bytes).unwrap();
    }
    check(&block_on(Checkpoint::open(&folder)).unwrap());
    std::fs::write(folder.join("other.gguf"), part(0, 0, 1)).unwrap();
    for no in 0..COUNT {
        check(&block_on(Checkpoint::open(folder.join(name(no)))).unwrap());
    }
    let error = block_on(Checkpoint::open(&folder)).unwrap_err().to_string();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(error.contains("several GGUF models"), "{error}");
}

#[test]
fn parts_that_do_not_make_a_model_are_refused() {
    let without = |gone: u16| files(&all().into_iter().filter(|(no, _)| *no != gone).collect::<Vec<_>>());
    let renamed = [("tale.gguf".to_string(), Bytes::new("tale.gguf", part(0, 0, COUNT)) as Arc<_>)];
    let mut twice = all();
    twice[2].1 = part(1, 2, COUNT);
    let mut short = all();
    short[2].1 = GgufFile::empty("llama").bytes();
    let mut swapped = all();
    swapped.iter_mut().for_each(|(no, _)| *no = (*no + 1) % COUNT);
    let mut fewer = all();
    let mut file = GgufFile::empty("llama");
    file.pair("split.no", 2, &2u16.to_le_bytes());
    file.pair("split.count", 2, &COUNT.to_le_bytes());
    fewer[2].1 = file.bytes();
    for (files, says) in [
        (without(0), "missing file tale-00001-of-00003.gguf"),
        (without(2), "missing file tale-00003-of-00003.gguf"),
        (files(&all()[1..2]), "part 2 of a model in 3 file(s)"),
        (renamed.into(), "part 1 of a model in 3 file(s)"),
        (files(&short), "part 1 of a model in 1 file(s)"),
        (files(&swapped), "split.no does not fit"),
        (files(&twice), "duplicate tensor"),
        (files(&fewer), "split.tensors.count"),
    ] {
        let error = block_on(Checkpoint::from_files(files)).unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
}
