//! Shared test data: where it is, and how to read a small safetensors file; a row of a codec.

use super::{Codec, Extent, Packed, Piece, Shape};
use serde_json::Value;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// A file of the shared test data, or `None` with a line that says what is skipped.
pub(super) fn shared(path: &str) -> Option<PathBuf> {
    let folder = match std::env::var_os("HALFBYTE_SHARED") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared")),
    };
    let path = folder.join(path);
    if !path.exists() {
        println!("skipped: {} is not there (set HALFBYTE_SHARED)", path.display());
        return None;
    }
    Some(path)
}

/// The tensors of a safetensors file, with their shapes and bytes.
pub(super) struct Tensors(HashMap<String, (Vec<usize>, String, Vec<u8>)>);

impl Tensors {
    pub(super) fn open(path: &str) -> Option<Self> {
        let bytes = std::fs::read(shared(path)?).unwrap();
        let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: HashMap<String, Value> = serde_json::from_slice(&bytes[8..end]).unwrap();
        let tensor = |(name, entry): (String, Value)| {
            let at = |i: usize| end + entry["data_offsets"][i].as_u64().unwrap() as usize;
            let shape = entry["shape"].as_array()?.iter().map(|d| d.as_u64().unwrap() as usize).collect();
            let kind = entry["dtype"].as_str()?.to_string();
            Some((name, (shape, kind, bytes[at(0)..at(1)].to_vec())))
        };
        Some(Self(header.into_iter().filter_map(tensor).collect()))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(super) fn shape(&self, name: &str) -> &[usize] {
        &self.0[name].0
    }

    pub(super) fn bytes(&self, name: &str) -> &[u8] {
        &self.0[name].2
    }

    /// F16 or F32 as f64.
    pub(super) fn floats(&self, name: &str) -> Vec<f64> {
        let (_, kind, bytes) = &self.0[name];
        match kind.as_str() {
            "F16" => bytes.as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f64()).collect(),
            "F32" => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b) as f64).collect(),
            other => panic!("{name} is {other}"),
        }
    }
}

/// One row of `cols` weights of these items.
pub(super) fn decode(codec: Arc<dyn Codec>, cols: usize, items: Vec<Vec<u32>>) -> Vec<f32> {
    let mut packed = Packed::new(codec, Shape { rows: 1, cols });
    packed.write_piece(&Piece { extent: Extent { rows: 0..1, cols: 0..cols }, items });
    let mut row = vec![0.0; cols];
    packed.decode_row(0, &mut row);
    row
}
