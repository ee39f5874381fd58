//! Recordings: a plain list of dispatches with bind groups built once, replayed with new parameters.

use super::context::{Context, Shared};
use super::fuse::fuse;
use super::kernels::{Count, Grid, Lowered, Spare, lower, scratch_bytes};
use super::link::Binding;
use super::pipeline::Pipeline;
use crate::device::{GpuBuffer, Tensor};
use crate::error::{Error, Result};
use crate::ops::{Op, Step};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// Distance of the uniforms of neighbouring dispatches: the largest offset alignment that WebGPU allows.
const UNIFORM_SLOT: usize = 256;

/// Dispatches that are ready to go.
pub struct GpuRecording {
    dispatches: Vec<Dispatch>,
    _uniforms: wgpu::Buffer,
    _scratch: Option<GpuBuffer>,
    staging: Mutex<Vec<wgpu::Buffer>>, // read-back buffers that are free
}

/// What to bring back to the host after a run.
pub(crate) struct ReadBack<'a> {
    pub(crate) source: &'a wgpu::Buffer,
    pub(crate) offset: usize,
    pub(crate) words: usize,
    pub(crate) staging: &'a wgpu::Buffer,
}

struct Dispatch {
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    grid: Grid,
}

impl std::fmt::Debug for GpuRecording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.dispatches.iter().map(|d| &d.pipeline.name)).finish()
    }
}

impl GpuRecording {
    pub(crate) async fn new(context: &Context, step: &Tensor, ops: &[Op]) -> Result<Self> {
        let Shared { unused, capabilities, .. } = &*context.shared;
        let fused = fuse(ops, capabilities);
        let bytes = fused.iter().map(|fused| scratch_bytes(fused, capabilities)).max().unwrap_or(0);
        let scratch = match bytes {
            0 => None,
            bytes => Some(GpuBuffer::new(context, "scratch", bytes)?),
        };
        let spare = Spare { unused, scratch: scratch.as_ref().map_or(unused, |scratch| &scratch.buffer) };
        let mut lowered = Vec::new();
        for fused in &fused {
            lowered.extend(lower(fused, step, spare, capabilities)?);
        }
        let mut recording = Self::of(context, lowered).await?;
        recording._scratch = scratch;
        Ok(recording)
    }

    /// These dispatches, one after the other.
    pub(crate) async fn of(context: &Context, lowered: Vec<Lowered<'_>>) -> Result<Self> {
        let mut params = vec![0u32; lowered.len() * UNIFORM_SLOT / 4];
        for (slot, dispatch) in params.chunks_mut(UNIFORM_SLOT / 4).zip(&lowered) {
            slot[..dispatch.params.len()].copy_from_slice(&dispatch.params);
        }
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let uniforms = context.raw_buffer("parameters", params.len().max(64) as u64 * 4, usage);
        context.write(&uniforms, 0, &params);
        let mut dispatches = Vec::with_capacity(lowered.len());
        for (i, dispatch) in lowered.into_iter().enumerate() {
            let pipeline = context.pipeline(context.link(&dispatch.module)).await?;
            let bind_group = bind(context, &pipeline, &dispatch, &uniforms, (i * UNIFORM_SLOT) as u64)?;
            dispatches.push(Dispatch { pipeline, bind_group, grid: dispatch.grid });
        }
        context.check()?;
        Ok(Self { dispatches, _uniforms: uniforms, _scratch: None, staging: Mutex::default() })
    }

    /// Dispatches of one run.
    pub fn dispatches(&self) -> usize {
        self.dispatches.len()
    }

    /// A read-back buffer of `words` words; [`GpuRecording::keep`] it when it has been read.
    pub(crate) fn staging(&self, context: &Context, words: usize) -> wgpu::Buffer {
        let mut free = self.staging.lock().unwrap_or_else(|p| p.into_inner());
        match free.iter().position(|b| b.size() == words as u64 * 4) {
            Some(i) => free.swap_remove(i),
            None => context.staging(words),
        }
    }

    /// Takes a read-back buffer for the next run.
    pub(crate) fn keep(&self, staging: wgpu::Buffer) {
        self.staging.lock().unwrap_or_else(|p| p.into_inner()).push(staging);
    }

    /// One compute pass, one submit.
    pub(crate) fn run(
        &self,
        context: &Context,
        step: &Step,
        read: Option<ReadBack<'_>>,
    ) -> Result<wgpu::SubmissionIndex> {
        let counters = &context.shared.counters;
        counters.submits.fetch_add(1, Ordering::Relaxed);
        counters.passes.fetch_add(1, Ordering::Relaxed);
        counters.dispatches.fetch_add(self.dispatches.len() as u64, Ordering::Relaxed);
        let submission = context.call(|device, queue| {
            let mut encoder = device.create_command_encoder(&Default::default());
            let mut pass = encoder.begin_compute_pass(&Default::default());
            self.dispatches.iter().for_each(|dispatch| dispatch.encode(&mut pass, step));
            drop(pass);
            if let Some(ReadBack { source, offset, words, staging }) = read {
                encoder.copy_buffer_to_buffer(source, offset as u64 * 4, staging, 0, words as u64 * 4);
            }
            queue.submit([encoder.finish()])
        });
        context.check()?;
        Ok(submission)
    }

    /// Runs with a pass for every dispatch: the kernel of each and its seconds, as the GPU's clock has them. None where
    /// there is no such clock.
    pub(crate) async fn profile(&self, context: &Context, step: &Step) -> Result<Option<Vec<(String, f64)>>> {
        let has = context.call(|device, _| device.features().contains(wgpu::Features::TIMESTAMP_QUERY));
        if !has {
            return Ok(None);
        }
        let mut times = Vec::new();
        for dispatches in self.dispatches.chunks(wgpu::QUERY_SET_MAX_QUERIES as usize / 2) {
            let count = 2 * dispatches.len() as u32;
            let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
            let resolved = context.raw_buffer("timestamps", u64::from(count) * 8, usage);
            context.call(|device, queue| {
                let ty = wgpu::QueryType::Timestamp;
                let queries = device.create_query_set(&wgpu::QuerySetDescriptor { label: None, ty, count });
                let mut encoder = device.create_command_encoder(&Default::default());
                for (i, dispatch) in (0..).zip(dispatches) {
                    let timestamp_writes = Some(wgpu::ComputePassTimestampWrites {
                        query_set: &queries,
                        beginning_of_pass_write_index: Some(2 * i),
                        end_of_pass_write_index: Some(2 * i + 1),
                    });
                    let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
                    dispatch.encode(&mut encoder.begin_compute_pass(&descriptor), step);
                }
                encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
                queue.submit([encoder.finish()]);
            });
            let words = context.read(&resolved, 0, 2 * count as usize).await?;
            let period = context.call(|_, queue| queue.get_timestamp_period()) as f64 * 1e-9;
            let ticks: Vec<u64> = words.chunks(2).map(|w| u64::from(w[0]) | u64::from(w[1]) << 32).collect();
            let seconds = ticks.chunks(2).map(|t| t[1].saturating_sub(t[0]) as f64 * period);
            times.extend(dispatches.iter().map(|d| d.pipeline.name.clone()).zip(seconds));
        }
        Ok(Some(times))
    }
}

impl Dispatch {
    fn encode(&self, pass: &mut wgpu::ComputePass<'_>, step: &Step) {
        let count = |count| match count {
            Count::Fixed(count) => count,
            Count::Rows(rows, per) => (step.rows(rows) as u32).div_ceil(per),
        };
        let [x, y] = [self.grid.0, self.grid.1].map(count);
        pass.set_pipeline(&self.pipeline.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(x, y, 1);
    }
}

fn bind(
    context: &Context,
    pipeline: &Pipeline,
    dispatch: &Lowered<'_>,
    uniforms: &wgpu::Buffer,
    offset: u64,
) -> Result<wgpu::BindGroup> {
    let mut entries = Vec::with_capacity(pipeline.bindings.len());
    for (&binding, &kind) in &pipeline.bindings {
        let resource = if kind == Binding::Uniform {
            let size = std::num::NonZero::new(UNIFORM_SLOT as u64);
            wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer: uniforms, offset, size })
        } else {
            let buffer = dispatch.buffers.iter().find(|(b, _)| *b == binding).map(|(_, buffer)| *buffer);
            let missing = || Error::Gpu(format!("{}: nothing is bound at {binding}", pipeline.name));
            buffer.ok_or_else(missing)?.as_entire_binding()
        };
        entries.push(wgpu::BindGroupEntry { binding, resource });
    }
    let (label, layout) = (Some(pipeline.name.as_str()), &pipeline.layout);
    let descriptor = wgpu::BindGroupDescriptor { label, layout, entries: &entries };
    Ok(context.call(|device, _| device.create_bind_group(&descriptor)))
}
