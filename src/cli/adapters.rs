//! `halfbyte adapters`: what there is to run on.

use super::{Common, DRIVER_HINT, bytes, print_json};
use anyhow::Result;
use clap::Args;
use halfbyte::gpu::context::{AdapterReport, adapters};
use serde_json::json;
use std::io::Write;
use std::process::ExitCode;

/// List the adapters, best first, with what they can do
#[derive(Args)]
#[command(after_help = "\
Examples:
  halfbyte adapters
  halfbyte adapters --limits floor --without f16

--adapter takes the index, a part of the name, or `cpu`; so does the variable
HALFBYTE_ADAPTER. With --json: {adapters: [{index, name, backend, kind, driver,
capabilities}]}; `cpu` is always there and not in the list.")]
pub struct Adapters {
    #[command(flatten)]
    common: Common,
}

impl Adapters {
    /// Runs it.
    pub async fn run(self) -> Result<ExitCode> {
        let all = adapters(&self.common.options()).await;
        if self.common.json {
            print_json(&json!({ "adapters": all }))?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut out = std::io::stdout().lock();
        for adapter in &all {
            describe(&mut out, adapter)?;
        }
        if all.is_empty() {
            writeln!(out, "No GPU adapter found: {DRIVER_HINT}.\n")?;
        }
        writeln!(out, "cpu  the CPU twin: always there, slow, exact")?;
        Ok(ExitCode::SUCCESS)
    }
}

fn describe(out: &mut impl Write, adapter: &AdapterReport) -> std::io::Result<()> {
    let can = &adapter.capabilities;
    let subgroups = match can.subgroups {
        None => "no subgroups".to_owned(),
        Some((least, most)) if least == most => format!("subgroups of {least}"),
        Some((least, most)) => format!("subgroups of {least} to {most}"),
    };
    let f16 = if can.f16 { "f16" } else { "no f16" };
    let dot4 = if can.dot4 { "dot4" } else { "no dot4" };
    writeln!(out, "{:<4} {}", adapter.index, adapter.name)?;
    writeln!(out, "     {}, {}; {}", adapter.backend, adapter.kind, adapter.driver)?;
    let matrix = if can.matrix { ", matrix units" } else { "" };
    writeln!(out, "     {f16}, {subgroups}, {dot4}{matrix}")?;
    writeln!(
        out,
        "     bindings of {}, buffers of {}, workgroups of {} with {}",
        bytes(can.max_binding),
        bytes(can.max_buffer),
        can.invocations,
        bytes(can.workgroup_bytes.into())
    )?;
    if let Some(budget) = can.memory_budget {
        writeln!(out, "     at most {} in all", bytes(budget))?;
    }
    writeln!(out)
}
