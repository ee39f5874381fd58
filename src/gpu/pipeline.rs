//! Compute pipelines, made once for each linked text.

use super::context::{Context, Options, Shared};
#[cfg(not(target_arch = "wasm32"))]
use super::disk_cache::DiskCache;
use super::fuse::fuse;
use super::kernels::{Spare, lower};
use super::link::{Binding, Dialect, Module, Source, link};
use crate::device::Tensor;
use crate::error::{Error, Result};
use crate::ops::Op;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

/// The dialect that this build talks to.
pub(crate) const DIALECT: Dialect = if cfg!(target_arch = "wasm32") { Dialect::Web } else { Dialect::Native };

/// Pipelines by linked text.
pub(crate) struct Pipelines {
    made: Mutex<HashMap<String, Arc<Pipeline>>>,
    #[cfg(not(target_arch = "wasm32"))]
    disk: Option<DiskCache>,
}

impl Pipelines {
    #[cfg_attr(target_arch = "wasm32", expect(unused_variables, reason = "a page has no disk"))]
    pub(crate) fn new(device: &wgpu::Device, options: &Options) -> Self {
        Self {
            made: Mutex::default(),
            #[cfg(not(target_arch = "wasm32"))]
            disk: options.pipeline_cache.as_ref().and_then(|folder| DiskCache::open(device, folder)),
        }
    }

    fn cache(&self) -> Option<&wgpu::PipelineCache> {
        #[cfg(not(target_arch = "wasm32"))]
        return self.disk.as_ref().map(|disk| &disk.cache);
        #[cfg(target_arch = "wasm32")]
        None
    }

    pub(crate) fn texts(&self) -> Vec<String> {
        self.made.lock().map(|made| made.keys().cloned().collect()).unwrap_or_default()
    }
}

/// A compiled kernel with the layout of its bindings.
pub(crate) struct Pipeline {
    pub(crate) name: String,
    pub(crate) bindings: BTreeMap<u32, Binding>,
    pub(crate) layout: wgpu::BindGroupLayout,
    pub(crate) pipeline: wgpu::ComputePipeline,
}

impl Context {
    /// The linked text of `module`.
    pub(crate) fn link(&self, module: &Module) -> Source {
        link(module, DIALECT, &self.shared.overrides)
    }

    /// The linked texts that a recording of `ops` takes.
    pub(crate) fn sources(&self, ops: &[Op], step: &Tensor) -> Result<Vec<Source>> {
        let Shared { unused, capabilities, .. } = &*self.shared;
        let mut sources = Vec::new();
        for fused in fuse(ops, capabilities) {
            let lowered = lower(&fused, step, Spare { unused, scratch: unused }, capabilities)?;
            sources.extend(lowered.iter().map(|l| self.link(&l.module)));
        }
        Ok(sources)
    }

    /// The pipeline of a linked text, compiled on first use.
    pub(crate) async fn pipeline(&self, source: Source) -> Result<Arc<Pipeline>> {
        let made = |pipelines: &Pipelines| pipelines.made.lock().ok()?.get(&source.text).cloned();
        if let Some(found) = made(&self.shared.pipelines) {
            return Ok(found);
        }
        let pipeline = Arc::new(self.compile(&source).await?);
        if let Ok(mut made) = self.shared.pipelines.made.lock() {
            made.insert(source.text, pipeline.clone());
        }
        Ok(pipeline)
    }

    /// Compiles the pipelines of many texts; `progress` is told how many are done.
    #[cfg(target_arch = "wasm32")]
    pub(crate) async fn compile_all(
        &self,
        sources: Vec<Source>,
        mut progress: impl FnMut(u64),
    ) -> Result<()> {
        for (done, source) in (1..).zip(sources) {
            self.pipeline(source).await?;
            progress(done);
        }
        Ok(())
    }

    /// Compiles the pipelines of many texts, on all cores (GL has a lock around each); `progress` is told how many are done.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) async fn compile_all(
        &self,
        sources: Vec<Source>,
        mut progress: impl FnMut(u64),
    ) -> Result<()> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = if self.capabilities().gl { 1 } else { cores.min(sources.len()) };
        let left = Mutex::new(sources.into_iter());
        let next = || left.lock().ok()?.next();
        std::thread::scope(|scope| {
            let (sender, compiled) = std::sync::mpsc::channel();
            for _ in 0..threads {
                let sender = sender.clone();
                scope.spawn(move || {
                    while let Some(source) = next() {
                        let result = pollster::block_on(self.pipeline(source));
                        if sender.send(result.map(drop)).is_err() {
                            break; // another has failed
                        }
                    }
                });
            }
            drop(sender);
            for (done, result) in (1..).zip(compiled) {
                result?;
                progress(done);
            }
            Ok(())
        })?;
        if let Some(disk) = &self.shared.pipelines.disk {
            let _ = disk.save(); // without it the next start is slower, nothing else
        }
        Ok(())
    }

    async fn compile(&self, source: &Source) -> Result<Pipeline> {
        let bindings = source.bindings();
        let entries: Vec<_> = bindings.iter().map(|(&binding, &kind)| layout_entry(binding, kind)).collect();
        let label = Some(source.name.as_str());
        let (layout, pipeline, error) = self.call(|device, _| {
            let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
            let layout = device
                .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
            let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label,
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            });
            let descriptor = wgpu::ShaderModuleDescriptor {
                label,
                source: wgpu::ShaderSource::Wgsl(source.text.as_str().into()),
            };
            let checks = wgpu::ShaderRuntimeChecks {
                force_loop_bounding: false,
                bounds_checks: !self.checks_storage(),
                ..wgpu::ShaderRuntimeChecks::checked()
            };
            // SAFETY: every loop of our kernels counts to a size that the host passes, so it ends. Where the shader does
            // without checks of indices, the device checks those of storage; those of workgroup memory are bounded by
            // constants and sizes that the host passes, and tests run all kernels with checks too.
            let module = unsafe { device.create_shader_module_trusted(descriptor, checks) };
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label,
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    zero_initialize_workgroup_memory: false,
                    ..Default::default()
                },
                cache: self.shared.pipelines.cache(),
            });
            (layout, pipeline, scope.pop())
        });
        if let Some(error) = error.await {
            return Err(Error::Gpu(explain(source, &error.to_string())));
        }
        Ok(Pipeline { name: source.name.clone(), bindings, layout, pipeline })
    }
}

fn layout_entry(binding: u32, kind: Binding) -> wgpu::BindGroupLayoutEntry {
    let ty = match kind {
        Binding::Uniform => wgpu::BufferBindingType::Uniform,
        Binding::Read => wgpu::BufferBindingType::Storage { read_only: true },
        Binding::ReadWrite => wgpu::BufferBindingType::Storage { read_only: false },
    };
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    }
}

/// Replaces `wgsl:LINE:` in a compiler's message by file and line.
fn explain(source: &Source, message: &str) -> String {
    let mut out = format!("shader {} does not compile: ", source.name);
    for line in message.lines() {
        match line.split_once("wgsl:") {
            Some((before, rest)) => {
                let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                let place = digits.parse().map(|n| source.locate(n)).unwrap_or_default();
                out.push_str(&format!("{before}{place}{}", &rest[digits.len()..]));
            }
            None => out.push_str(line),
        }
        out.push('\n');
    }
    out
}
