//! Every shader without a GPU: naga validates it and translates it for Vulkan, Metal and DX12, and it keeps to
//! WebGPU's floor, which naga does not check. `tests/tint.mjs` shows the same list to a browser's compiler.

use halfbyte::gpu::kernels::{all_modules, distinct_modules, matrix_modules};
use halfbyte::gpu::link::{Dialect, Module, PARTS, link};
use naga::AddressSpace;
use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use std::collections::{BTreeMap, HashSet};

/// The linked text, as naga sees it.
struct Checked {
    module: naga::Module,
    info: ModuleInfo,
}

fn validate(module: &Module) -> Result<Checked, String> {
    let capabilities =
        Capabilities::SUBGROUP | Capabilities::SHADER_FLOAT16 | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    validate_with(module, capabilities)
}

fn validate_with(module: &Module, capabilities: Capabilities) -> Result<Checked, String> {
    let source = link(module, Dialect::Native, &BTreeMap::new());
    let place = |message: String| format!("{}: {message}", source.name);
    let parsed = naga::front::wgsl::parse_str(&source.text).map_err(|e| {
        let line = e.location(&source.text).map_or(0, |l| l.line_number as usize);
        place(format!("{} {}", source.locate(line), e.emit_to_string(&source.text)))
    })?;
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    let info = validator.validate(&parsed).map_err(|e| place(e.emit_to_string(&source.text)))?;
    Ok(Checked { module: parsed, info })
}

fn translate(Checked { module, info }: &Checked) -> Result<(), String> {
    // Subgroup operations came with SPIR-V 1.3, Metal 2.1 and shader model 6.0; f16 with shader model 6.2.
    let options = spv::Options { lang_version: (1, 3), ..spv::Options::default() };
    let words = spv::write_vec(module, info, &options, None).map_err(|e| format!("SPIR-V: {e}"))?;
    let options = msl::Options { lang_version: (2, 4), ..msl::Options::default() };
    let (metal, _) = msl::write_string(module, info, &options, &msl::PipelineOptions::default())
        .map_err(|e| format!("MSL: {e}"))?;
    let options = hlsl::Options { shader_model: hlsl::ShaderModel::V6_2, ..hlsl::Options::default() };
    let pipeline = hlsl::PipelineOptions::default();
    let mut text = String::new();
    let reflection = hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(module, info, None)
        .map_err(|e| format!("HLSL: {e}"))?;
    for entry in reflection.entry_point_names {
        entry.map_err(|e| format!("HLSL: {e}"))?;
    }
    if words.len() < 100 || metal.len() < 100 || text.len() < 100 {
        return Err("a translation is empty".into());
    }
    Ok(())
}

/// A limit that is exceeded, of WebGPU's guaranteed ones; where a module says that it is for adapters with more, those.
fn beyond_floor(Checked { module, info }: &Checked, asked: &Module) -> Result<(), String> {
    let invocations = asked.invocations.unwrap_or(256);
    let workgroup_bytes = asked.workgroup_bytes.unwrap_or(16 << 10);
    let [entry] = &module.entry_points[..] else {
        return Err(format!("{} entry points", module.entry_points.len()));
    };
    let (mut storage, mut uniform, mut workgroup) = (0, 0, 0);
    let within = |what: &str, found: u32, most: u32| {
        if found <= most { Ok(()) } else { Err(format!("{what}: {found}, the floor is {most}")) }
    };
    for (handle, variable) in module.global_variables.iter() {
        let size = module.types[variable.ty].inner.size(module.to_ctx());
        match variable.space {
            // Declared is enough: pipeline layouts have every declared binding.
            AddressSpace::Storage { .. } => storage += 1,
            AddressSpace::Uniform => {
                uniform += 1;
                within("bytes of a uniform", size, 64 << 10)?;
            }
            // WebGPU counts each variable rounded up to 16 bytes.
            AddressSpace::WorkGroup if !info.get_entry_point(0)[handle].is_empty() => {
                workgroup += size.next_multiple_of(16)
            }
            AddressSpace::WorkGroup | AddressSpace::Private => {}
            ref other => return Err(format!("{other:?} variables are not on the floor")),
        }
        if let Some(binding) = &variable.binding {
            within("bind group", binding.group, 3)?;
            within("binding number", binding.binding, 999)?;
        }
    }
    within("storage buffers", storage, 8)?;
    within("uniform buffers", uniform, 12)?;
    within("workgroup bytes", workgroup, workgroup_bytes)?;
    let [x, y, z] = entry.workgroup_size;
    within("workgroup x", x, invocations.max(256))?;
    within("workgroup y", y, 256)?;
    within("workgroup z", z, 64)?;
    within("invocations", x * y * z, invocations)
}

/// Runs `check` on every module, on all cores; the messages of those that fail.
fn failures(check: impl Fn(&Module) -> Result<(), String> + Sync) -> Vec<String> {
    let modules = distinct_modules();
    let share = modules.len().div_ceil(std::thread::available_parallelism().map_or(2, usize::from));
    std::thread::scope(|scope| {
        let check = &check;
        let work = |modules| {
            move || -> Vec<String> {
                let named = |m: &Module| check(m).err().map(|e| format!("{}: {e}", m.name));
                <[Module]>::iter(modules).filter_map(named).collect()
            }
        };
        let threads: Vec<_> = modules.chunks(share).map(|chunk| scope.spawn(work(chunk))).collect();
        threads.into_iter().flat_map(|t| t.join().expect("a check does not panic")).collect()
    })
}

fn assert_none(failures: Vec<String>) {
    let shown = failures.iter().take(5).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{} modules fail:\n{shown}", failures.len());
}

#[test]
fn every_shader_is_valid_translates_and_keeps_to_the_floor() {
    assert_none(failures(|module| {
        let checked = validate(module)?;
        translate(&checked)?;
        beyond_floor(&checked, module)
    }));
}

/// No adapter at hand has matrix units: naga validates what they are for, and writes SPIR-V of it.
#[test]
fn shaders_for_matrix_units_are_valid() {
    let modules = matrix_modules();
    assert!(modules.len() > 100, "only {} modules", modules.len());
    for module in modules {
        let mut capabilities = Capabilities::all();
        capabilities.remove(Capabilities::SHADER_INT64);
        let checked = validate_with(&module, capabilities).expect("valid");
        let options = spv::Options { lang_version: (1, 3), ..spv::Options::default() };
        spv::write_vec(&checked.module, &checked.info, &options, None).expect("it becomes SPIR-V");
        beyond_floor(&checked, &module).expect("it keeps to its limits");
    }
}

#[test]
fn names_and_texts_of_modules_differ() {
    let modules = all_modules();
    assert!(modules.len() > 1000, "only {} modules", modules.len());
    let names: HashSet<&str> = modules.iter().map(|m| m.name.as_str()).collect();
    let mut seen = HashSet::new();
    let twice: Vec<&str> = modules.iter().map(|m| m.name.as_str()).filter(|n| !seen.insert(*n)).collect();
    assert_eq!(names.len(), modules.len(), "{twice:?}");
    let used: HashSet<&str> = modules.iter().flat_map(|m| m.parts.iter().copied()).collect();
    let unused: Vec<&str> = PARTS.iter().map(|p| p.file).filter(|f| !used.contains(f)).collect();
    assert!(unused.is_empty(), "parts in no module: {unused:?}");
}

/// The floor test would not notice a limit that it does not reach: it must see one module break each.
#[test]
fn a_module_beyond_the_floor_is_noticed() {
    let check = |text: &str| {
        let module = naga::front::wgsl::parse_str(text).expect("parses");
        let info =
            Validator::new(ValidationFlags::all(), Capabilities::all()).validate(&module).expect("valid");
        beyond_floor(&Checked { module, info }, &Module::default())
    };
    let storage = |count: u32| {
        let declare = |i| format!("@group(0) @binding({i}) var<storage, read_write> b{i}: array<u32>;\n");
        (0..count).map(declare).collect::<String>() + "@compute @workgroup_size(1) fn main() { b0[0] = 1u; }"
    };
    assert_eq!(check(&storage(8)), Ok(()));
    assert!(check(&storage(9)).is_err());
    let workgroup = |words: u32, unused: u32| {
        format!(
            "var<workgroup> a: array<f32, {words}>; var<workgroup> u: array<f32, {unused}>;
             @compute @workgroup_size(1) fn main() {{ a[0] = 1.0; }}"
        )
    };
    assert_eq!(check(&workgroup(4096, 9999)), Ok(()));
    assert!(check(&workgroup(4097, 1)).is_err());
    assert!(check("@compute @workgroup_size(16, 17) fn main() {}").is_err());
    assert!(check("@compute @workgroup_size(1, 1, 65) fn main() {}").is_err());
}

/// What naga takes and Tint does not, found by running both; what only Tint takes fails in naga's validation.
/// Non-uniform control flow around barriers needs Tint itself: `tests/tint.mjs`.
const ONLY_NAGA: &[&str] = &[
    "subgroupBarrier",
    "binding_array",
    "coop_mat",
    "@coherent",
    "f64",
    "i64",
    "u64",
    "i16",
    "u16",
    "atomic<f32>",
    "var<immediate>",
    // Constants that are not finite: legal to naga as a bitcast, an error in Tint.
    "bitcast<f32>(0x7f800000",
    "bitcast<f32>(0xff800000",
    "bitcast<f32>(0x7fc00000",
    // naga bitcasts u32 to vec2<f16> wrongly.
    "bitcast<vec2<f16>>",
];

#[test]
fn parts_keep_to_what_naga_and_tint_both_take() {
    let code = |line: &'static str| line.split_once("//").map_or(line, |(code, _)| code);
    let native = ["kernels/matmul_f16.wgsl", "kernels/matmul_matrix.wgsl"];
    for part in PARTS.iter().filter(|part| !native.contains(&part.file)) {
        for (number, line) in part.text.lines().map(code).enumerate() {
            let bad = ONLY_NAGA.iter().find(|bad| line.contains(**bad));
            assert_eq!(bad, None, "{}:{}", part.file, number + 1);
            let directive = ["enable ", "requires ", "diagnostic("].iter().find(|d| line.starts_with(**d));
            assert_eq!(directive, None, "{}:{}: directives stand in the header", part.file, number + 1);
        }
    }
    for module in all_modules() {
        let text = link(&module, Dialect::Web, &BTreeMap::new()).text;
        let code_only: String =
            text.lines().map(|l| l.split_once("//").map_or(l, |(code, _)| code)).collect();
        for (extension, marks) in [("subgroups", &["subgroup"][..]), ("f16", &["f16>", ": f16", "f16("])] {
            let used = marks.iter().any(|m| code_only.replace("enable subgroups;", "").contains(m));
            let enabled = module.enable.contains(&extension);
            assert!(enabled || !used, "{} uses {extension} and does not enable it", module.name);
        }
    }
}

/// Writes every module in the browser's dialect to the folder of `HALFBYTE_DUMP_SHADERS`, for `tests/tint.mjs`.
#[test]
fn dump_shaders_for_tint() {
    let Some(folder) = std::env::var_os("HALFBYTE_DUMP_SHADERS") else { return };
    let modules: Vec<[String; 2]> = distinct_modules()
        .iter()
        .map(|module| [module.name.clone(), link(module, Dialect::Web, &BTreeMap::new()).text])
        .collect();
    let json = serde_json::to_string(&modules).expect("strings");
    std::fs::write(std::path::Path::new(&folder).join("shaders.json"), json)
        .expect("the folder can be written");
}
