//! Unquantized weights: f32, f16, bf16. `w = item`.

use super::{Codec, Family, Field, Kind, Packed, Section, interchangeable};
use std::any::Any;
use std::sync::Arc;

/// f32, f16, bf16.
pub static FAMILY: Family = Family {
    name: "plain",
    about: "unquantized f32, f16 or bf16",
    wgsl: &["codecs/plain.wgsl"],
    samples: || [Kind::F32, Kind::F16, Kind::Bf16].into_iter().map(|k| Plain::new(k) as _).collect(),
};

/// Weights as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plain {
    kind: Kind,
}

impl Plain {
    /// A plain codec of `kind` (F32, F16 or Bf16).
    pub fn new(kind: Kind) -> Arc<Self> {
        Arc::new(Self { kind })
    }
}

impl Codec for Plain {
    fn family(&self) -> &'static Family {
        &FAMILY
    }

    fn name(&self) -> String {
        match self.kind {
            Kind::F32 => "f32".into(),
            Kind::F16 => "f16".into(),
            Kind::Bf16 => "bf16".into(),
            other => format!("{other:?}"),
        }
    }

    fn fields(&self) -> Vec<Field> {
        vec![Field::new("weights", self.kind, 1)]
    }

    fn sections(&self) -> Vec<Section> {
        let bits = self.kind.bits();
        vec![Section { binding: 0, field: 0, shift: 0, bits, cell: 128 / bits as usize }]
    }

    fn is_light(&self) -> bool {
        true
    }

    fn constants(&self) -> Vec<(&'static str, u32)> {
        vec![("FORMAT", self.kind.scale_format())]
    }

    fn decode_row(&self, packed: &Packed, row: usize, out: &mut [f32]) {
        let mut items = vec![0; out.len()];
        packed.items(0, row, &mut items);
        for (w, item) in out.iter_mut().zip(items) {
            *w = self.kind.value(item) as f32;
        }
    }

    fn fuse(&self, parts: &[(&dyn Codec, usize)]) -> Option<Arc<dyn Codec>> {
        interchangeable(parts).then(|| Arc::new(self.clone()) as _)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
