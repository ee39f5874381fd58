//! Matrices that lie in memory, not in a file.

use halfbyte::Result;
use halfbyte::checkpoint::{BoxFuture, InputTransform, OutputTransform, PieceSource, StoredMatrix};
use halfbyte::quant::plain::Plain;
use halfbyte::quant::{Extent, Kind, Piece};
use std::sync::Arc;

struct Memory {
    cols: usize,
    items: Vec<u32>,
}

impl PieceSource for Memory {
    fn extents(&self, _: usize) -> Vec<Extent> {
        vec![Extent { rows: 0..self.items.len() / self.cols, cols: 0..self.cols }]
    }

    fn read<'a>(&'a self, extent: &'a Extent) -> BoxFuture<'a, Result<Piece>> {
        let row = |row: usize| self.items[row * self.cols..][extent.cols.clone()].to_vec();
        let items = vec![extent.rows.clone().flat_map(row).collect()];
        Box::pin(async move { Ok(Piece { extent: extent.clone(), items }) })
    }
}

/// An unquantized matrix, row-major.
pub(crate) fn plain(name: &str, kind: Kind, cols: usize, items: Vec<u32>) -> StoredMatrix {
    StoredMatrix {
        name: name.into(),
        rows: items.len() / cols,
        cols,
        codec: Plain::new(kind),
        input: InputTransform::None,
        output: OutputTransform::None,
        activations: None,
        low_rank: None,
        slices: Vec::new(),
        bias: None,
        sparse: None,
        disk_bytes: items.len() as u64 * u64::from(kind.bits()) / 8,
        data: Arc::new(Memory { cols, items }),
        format: "made up",
    }
}
