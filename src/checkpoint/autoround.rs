//! AutoRound (Cheng et al. 2024), which packs like GPTQ or AWQ, as `packing_format` says: with zero points stored minus
//! one in `auto_round:auto_gptq`, as they are in AutoRound's own `auto_round`. `extra_config` has settings by layer.

use super::hf::Keys;
use super::{Module, Reader, StoredMatrix, awq, gptq};
use crate::error::{Error, Result};
use serde_json::Value;

/// AutoRound.
pub static READER: Reader = Reader {
    name: "AutoRound",
    about: "2, 3, 4 and 8 bits, packed like GPTQ or AWQ, settings by layer",
    signature: ".qweight .qzeros .scales [.g_idx]",
    source: "auto-round",
    methods: METHODS,
    claims: |module| {
        module.method().is_some_and(|method| METHODS.contains(&method)) && module.tensor("qweight").is_some()
    },
    format: |_| "AutoRound",
    read: |module| Box::pin(read(module)),
};

const METHODS: &[&str] = &["auto-round", "intel/auto-round"];
const FILE: &str = "config.json";

async fn read(module: &Module<'_>) -> Result<StoredMatrix> {
    let keys = Keys::new(module.quantization, FILE);
    let own = Keys::new(extra(module, &keys)?, FILE);
    let with = |key: &str| if own.get(key).is_some() { &own } else { &keys };
    if let Some(data) = with("data_type").text("data_type")?.filter(|&data| data != "int") {
        let error = Error::unsupported(format!("data_type {data} of AutoRound")).file(FILE);
        return Err(error.expected("int"));
    }
    let missing = || Error::missing("missing bits of quantization_config").file(FILE);
    let bits = with("bits").size("bits")?.ok_or_else(missing)?;
    let group = with("group_size").group("group_size")?;
    let packing = match keys.text("packing_format")? {
        Some(packing) => packing,
        None => keys.text("backend")?.unwrap_or("auto_round"), // before 0.4
    };
    let unsupported = |what: String, expected: &str| {
        Err(Error::unsupported(format!("{what} of AutoRound")).file(FILE).expected(expected))
    };
    let (first, rest) = packing.split_once(':').unwrap_or((packing, ""));
    let layout = match (first, rest.split(':').next().unwrap_or(rest)) {
        ("auto_round", "auto_gptq" | "gptq") | ("auto_gptq" | "gptq", _) => gptq::Packing::V1,
        ("auto_round", "" | "gptqmodel" | "exllamav2" | "triton" | "tritonv2") => gptq::Packing::V2,
        ("auto_round", "auto_awq" | "awq") | ("auto_awq" | "awq", _) if bits == 4 => {
            module.only(&["qweight", "qzeros", "scales", "bias"])?;
            let group = group.map_or(module.cols, |group| group.min(module.cols));
            return awq::gemm(module, group)?.matrix(module, &READER).await;
        }
        _ => {
            let known = "auto_round, auto_round:auto_gptq or auto_round:auto_awq at 4 bits";
            return unsupported(format!("packing_format {packing} at {bits} bits"), known);
        }
    };
    if !matches!(bits, 2 | 3 | 4 | 8) {
        return unsupported(format!("unsupported bits {bits}"), "2, 3, 4 or 8");
    }
    gptq::layer(module, gptq::Settings { bits, group, layout, word: 32 }, &READER).await
}

/// The module's own settings: under its name, or under the first regular expression that matches it.
fn extra<'a>(module: &Module<'_>, keys: &Keys<'a>) -> Result<&'a Value> {
    let Some(extra) = keys.get("extra_config").and_then(Value::as_object) else { return Ok(&Value::Null) };
    if let Some(own) = extra.get(module.name) {
        return Ok(own);
    }
    for (pattern, own) in extra.iter().filter(|(name, _)| name.contains(['*', '+', '[', '(', '\\', '$'])) {
        if module.matches(pattern)? {
            return Ok(own);
        }
    }
    Ok(&Value::Null)
}
