//! Shader linking: a generated header and plain `.wgsl` parts, joined by concatenation.
//!
//! WGSL declarations may come in any order, so linking is joining. A kernel names the parts it needs; slots
//! (codec, reduction, cache format) are filled by choosing one part or another. The line map turns a compiler's
//! line numbers back into `file:line`.

use std::collections::BTreeMap;
use std::fmt::Write;

/// A `.wgsl` file below `shaders/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Path below `shaders/`.
    pub file: &'static str,
    /// Its text.
    pub text: &'static str,
}

macro_rules! parts {
    ($($(#[$condition:meta])? $file:literal),* $(,)?) => {
        /// Every shader part of the crate.
        pub static PARTS: &[Part] = &[$(
            $(#[$condition])?
            Part { file: $file, text: include_str!(concat!(env!("OUT_DIR"), "/shaders/", $file)) }
        ),*];
    };
}

parts![
    "codecs/bilevel.wgsl",
    "codecs/bilevel_fixed.wgsl",
    "codecs/codebook.wgsl",
    "codecs/vectors.wgsl",
    "codecs/e8p12.wgsl",
    "codecs/e8p12_fixed.wgsl",
    "codecs/e8p12_fixed_dot.wgsl",
    "codecs/plain.wgsl",
    "codecs/fp8.wgsl",
    "codecs/grid.wgsl",
    "codecs/grid_fixed.wgsl",
    "codecs/hyb.wgsl",
    "codecs/int.wgsl",
    "codecs/int_fixed.wgsl",
    #[cfg(not(target_arch = "wasm32"))]
    "codecs/int_halves.wgsl",
    "codecs/kquant.wgsl",
    "codecs/kquant_fixed.wgsl",
    "codecs/lookup.wgsl",
    "codecs/lookup_floats.wgsl",
    "codecs/mixed.wgsl",
    "codecs/mixed_fixed.wgsl",
    "codecs/ternary.wgsl",
    "codecs/ternary_fixed.wgsl",
    "codecs/trellis.wgsl",
    "kernels/argmax.wgsl",
    "kernels/attention.wgsl",
    "kernels/attention_rows.wgsl",
    "kernels/attention_shares.wgsl",
    "kernels/bytes.wgsl",
    "kernels/combine.wgsl",
    "kernels/decode_attention.wgsl",
    "kernels/expert_product.wgsl",
    "kernels/gather.wgsl",
    "kernels/glu.wgsl",
    #[cfg(not(target_arch = "wasm32"))]
    "kernels/halves.wgsl",
    "kernels/hadamard.wgsl",
    "kernels/layer_norm.wgsl",
    "kernels/matmul.wgsl",
    "kernels/matmul_bytes.wgsl",
    #[cfg(not(target_arch = "wasm32"))]
    "kernels/matmul_f16.wgsl",
    #[cfg(not(target_arch = "wasm32"))]
    "kernels/matmul_matrix.wgsl",
    "kernels/matmul_rows.wgsl",
    "kernels/matvec.wgsl",
    "kernels/matvec_staged.wgsl",
    "kernels/outliers.wgsl",
    "kernels/product_int8.wgsl",
    "kernels/quantize.wgsl",
    "kernels/rms_norm.wgsl",
    "kernels/rope.wgsl",
    "kernels/route.wgsl",
    "kernels/scale.wgsl",
    "kernels/softcap.wgsl",
    "kernels/sparse.wgsl",
    "kernels/top_k.wgsl",
    "lib/activation.wgsl",
    "lib/attend.wgsl",
    "lib/cache_f16.wgsl",
    "lib/cache_f32.wgsl",
    "lib/cache_int.wgsl",
    "lib/columns.wgsl",
    "lib/eight_rows.wgsl",
    "lib/fixed.wgsl",
    "lib/fixed_dot.wgsl",
    "lib/floats.wgsl",
    "lib/floats_dot.wgsl",
    "lib/hadamard.wgsl",
    "lib/head.wgsl",
    "lib/head_normed.wgsl",
    "lib/head_plain.wgsl",
    #[cfg(not(target_arch = "wasm32"))]
    "lib/halves_decoded.wgsl",
    "lib/heads.wgsl",
    "lib/integers.wgsl",
    "lib/items.wgsl",
    #[cfg(not(target_arch = "wasm32"))]
    "lib/matrix.wgsl",
    #[cfg(not(target_arch = "wasm32"))]
    "lib/nearest_half.wgsl",
    "lib/nibbles.wgsl",
    "lib/plane_codes.wgsl",
    "lib/planes.wgsl",
    "lib/product.wgsl",
    "lib/product_io.wgsl",
    "lib/product_io_normed.wgsl",
    "lib/product_out.wgsl",
    "lib/quotient.wgsl",
    "lib/reduce_alone.wgsl",
    "lib/reduce_subgroup.wgsl",
    "lib/reduce_workgroup.wgsl",
    "lib/rows_gated.wgsl",
    "lib/rows_plain.wgsl",
    "lib/runs_normed.wgsl",
    "lib/runs_plain.wgsl",
    "lib/shares.wgsl",
    "lib/split.wgsl",
    "lib/step.wgsl",
    "lib/tanh.wgsl",
    "lib/trellis.wgsl",
    "lib/ungrouped.wgsl",
    "lib/walsh.wgsl",
    "lib/x_integers.wgsl",
    "lib/x_lane.wgsl",
    "lib/x_subgroup.wgsl",
    "probes/copy.wgsl",
    "probes/f16.wgsl",
    "probes/f32.wgsl",
    "probes/int8.wgsl",
    "probes/rate.wgsl",
];

/// The part of that file name.
pub fn part(file: &str) -> Part {
    let found = PARTS.iter().find(|p| p.file == file);
    *found.unwrap_or_else(|| panic!("no shader part {file}: a name in the source is misspelt"))
}

/// Who compiles the shader: their dialects differ in one directive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// naga, through wgpu.
    Native,
    /// A browser, which wants `enable subgroups;`.
    Web,
}

/// What to link.
#[derive(Debug, Clone, Default)]
pub struct Module {
    /// For labels and errors: kernel and codec.
    pub name: String,
    /// Directives: `f16`, `subgroups`, `wgpu_cooperative_matrix`.
    pub enable: Vec<&'static str>,
    /// `const` lines.
    pub constants: Vec<(&'static str, Constant)>,
    /// Files below `shaders/`.
    pub parts: Vec<&'static str>,
    /// Invocations of a workgroup, where they are more than WebGPU promises: for adapters that have them.
    pub invocations: Option<u32>,
    /// The same for bytes of workgroup memory.
    pub workgroup_bytes: Option<u32>,
}

impl Module {
    /// Whether it is for adapters with matrix units.
    pub fn needs_matrix_units(&self) -> bool {
        self.parts.iter().any(|part| ["kernels/halves.wgsl", "lib/matrix.wgsl"].contains(part))
    }
}

/// The value of a header constant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Constant {
    /// `u32`
    U32(u32),
    /// `bool`
    Bool(bool),
}

impl From<u32> for Constant {
    fn from(value: u32) -> Self {
        Constant::U32(value)
    }
}

impl From<bool> for Constant {
    fn from(value: bool) -> Self {
        Constant::Bool(value)
    }
}

/// A linked shader.
#[derive(Debug, Clone)]
pub struct Source {
    /// Kernel and codec.
    pub name: String,
    /// WGSL.
    pub text: String,
    files: Vec<(usize, &'static str)>, // first line, file
}

/// How a binding is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// `var<uniform>`
    Uniform,
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`
    ReadWrite,
}

/// Joins header and parts. `overrides` replace parts by file name.
pub fn link(module: &Module, dialect: Dialect, overrides: &BTreeMap<String, String>) -> Source {
    let mut text = String::new();
    for name in &module.enable {
        if dialect == Dialect::Web || *name != "subgroups" {
            let _ = writeln!(text, "enable {name};");
        }
    }
    for (name, value) in &module.constants {
        let _ = match value {
            Constant::U32(v) => writeln!(text, "const {name}: u32 = {v}u;"),
            Constant::Bool(v) => writeln!(text, "const {name}: bool = {v};"),
        };
    }
    let mut files = vec![(1, "header")];
    for file in &module.parts {
        files.push((text.lines().count() + 1, *file));
        text.push_str(overrides.get(*file).map_or(part(file).text, String::as_str));
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    Source { name: module.name.clone(), text, files }
}

impl Source {
    /// Which file and line a line of the linked text comes from.
    pub fn locate(&self, line: usize) -> String {
        let at = self.files.partition_point(|(first, _)| *first <= line).saturating_sub(1);
        let (first, file) = self.files[at];
        format!("{file}:{}", (line + 1).saturating_sub(first))
    }

    /// `@group(0)` bindings in the text, by number.
    pub fn bindings(&self) -> BTreeMap<u32, Binding> {
        let declaration = |line: &str| {
            // A page's shaders have no space between the two.
            let binding = line.strip_prefix("@group(0)")?.trim_start().strip_prefix("@binding(")?;
            let (number, rest) = binding.split_once(')')?;
            let kind = if rest.contains("var<uniform>") {
                Binding::Uniform
            } else if rest.contains("read_write") {
                Binding::ReadWrite
            } else {
                Binding::Read
            };
            Some((number.parse().ok()?, kind))
        };
        self.text.lines().filter_map(declaration).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_traced_to_its_file() {
        let module = Module {
            constants: vec![("A", 1.into()), ("B", true.into())],
            parts: vec!["kernels/glu.wgsl", "kernels/argmax.wgsl"],
            ..Module::default()
        };
        let source = link(&module, Dialect::Native, &BTreeMap::new());
        assert_eq!(source.locate(1), "header:1");
        assert_eq!(source.locate(3), "kernels/glu.wgsl:1");
        let lines = part("kernels/glu.wgsl").text.lines().count();
        assert_eq!(source.locate(3 + lines), "kernels/argmax.wgsl:1");
        let wanted = part("kernels/argmax.wgsl").text.lines().nth(4);
        assert_eq!(source.text.lines().nth(2 + lines + 4), wanted);
    }

    #[test]
    fn directives_stand_only_in_the_header() {
        for part in PARTS {
            let bad = part.text.lines().find(|l| l.starts_with("enable ") || l.starts_with("requires "));
            assert_eq!(bad, None, "{}", part.file);
        }
    }
}
