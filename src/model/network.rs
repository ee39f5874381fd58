//! A model's weights with the buffers that its steps run in, and the recordings that are made of them.

use super::architecture::architecture;
use super::block::{Activations, Block, Layer, Norm, Rotations};
use super::config::ModelConfig;
use crate::device::{Device, Recording, Tensor};
use crate::error::{Error, Result};
use crate::linear::{Linear, Scratch};
use crate::ops::{Cache, Index, Op, Rows};

/// Everything that ops are about.
pub(super) struct Network {
    pub(super) embedding: Linear,
    pub(super) embedding_scale: Option<Tensor>, // [hidden]
    pub(super) positions: Option<Linear>,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: Norm,
    pub(super) own_head: Option<Linear>,
    pub(super) rotations: Rotations,
    pub(super) caches: Vec<Cache>,
    pub(super) many: Activations, // of a prefill
    pub(super) one: Activations,  // of a decode step
    pub(super) block_normed: Tensor,
    pub(super) head_scratch: Scratch,
    pub(super) step: Tensor,
    pub(super) logits: Tensor,       // [1, vocab]
    pub(super) largest: Tensor,      // [1, 1 + 2·LARGEST]
    pub(super) block_logits: Tensor, // [rows, vocab], when every position's are wanted
}

/// The steps of a model, ready to run.
pub(super) struct Recordings {
    pub(super) prefill: Recording, // many tokens, logits of one row
    pub(super) decode: Recording,  // one token, logits and their argmax
    pub(super) body: Recording,    // as prefill, without the head
    pub(super) head: Recording,    // logits of many rows of the last body
    pub(super) largest: Recording, // the largest of the last logits
}

impl Network {
    /// The matrix that gives logits.
    pub(super) fn head(&self) -> &Linear {
        self.own_head.as_ref().unwrap_or(&self.embedding)
    }

    /// From tokens to the residual stream after the last layer.
    fn body(&self, config: &ModelConfig, a: &Activations) -> Result<Vec<Op>> {
        let arch = architecture(config)
            .ok_or_else(|| Error::unsupported(format!("architecture {}", config.architecture)))?;
        let embed = |table, index, out: &Tensor| Op::Gather { table, index, out: out.clone() };
        let mut ops = Vec::new();
        match &self.embedding_scale {
            Some(by) => {
                let (rows, x, by, out) = (Rows::Tokens, a.normed.clone(), by.clone(), a.x.clone());
                ops.push(embed(self.embedding.table()?, Index::Token, &x));
                ops.push(Op::Scale { rows, x, by, out });
            }
            None => ops.push(embed(self.embedding.table()?, Index::Token, &a.x)),
        }
        if let (Some(positions), Some(first)) = (&self.positions, arch.learned_positions) {
            ops.push(embed(positions.table()?, Index::Position(first), &a.x));
        }
        for (index, (layer, cache)) in self.layers.iter().zip(&self.caches).enumerate() {
            let (ops, rotations) = (&mut ops, &self.rotations);
            (arch.forward)(&mut Block { ops, config, index, layer, rotations, cache, a })?;
        }
        Ok(ops)
    }

    /// From there to logits.
    fn logits(
        &self,
        ops: &mut Vec<Op>,
        config: &ModelConfig,
        a: &Activations,
        [normed, logits]: [&Tensor; 2],
    ) {
        self.norm.forward(ops, Rows::Head, &a.x, normed, false);
        self.head().forward(ops, Rows::Head, &self.head_scratch, normed, logits, false);
        if let Some(cap) = config.constants.logit_softcap {
            ops.push(Op::SoftCap { rows: Rows::Head, x: logits.clone(), cap });
        }
    }

    /// Records all steps, with the adapters as much as they count now; `progress` is told of kernels that are compiled.
    pub(super) async fn record(
        &self,
        device: &Device,
        config: &ModelConfig,
        progress: impl FnMut(u64, u64),
    ) -> Result<Recordings> {
        let token = |a| -> Result<Vec<Op>> {
            let mut ops = self.body(config, a)?;
            self.logits(&mut ops, config, a, [&self.one.normed, &self.logits]);
            ops.push(Op::Argmax { logits: self.logits.clone(), step: self.step.clone() });
            Ok(ops)
        };
        let (prefill, decode) = (token(&self.many)?, token(&self.one)?);
        let mut every = Vec::new();
        self.logits(&mut every, config, &self.many, [&self.block_normed, &self.block_logits]);
        let largest = vec![Op::TopK { logits: self.logits.clone(), out: self.largest.clone() }];
        device.compile(&self.step, &[&prefill, &decode, &every, &largest], progress).await?;
        Ok(Recordings {
            prefill: device.record(&self.step, prefill).await?,
            decode: device.record(&self.step, decode).await?,
            body: device.record(&self.step, self.body(config, &self.many)?).await?,
            head: device.record(&self.step, every).await?,
            largest: device.record(&self.step, largest).await?,
        })
    }
}
