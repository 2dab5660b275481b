//! Attention, in either precision. The lists of tiles of recent sequences stay on the device, because all layers of a model, forward and
//! backward, have the same sequences.

use super::memory::{CudaTensor, empty};
use super::{Cuda, complete};
use crate::profile::{self, Span};
use crate::tensor::Tensor;
use crate::varlen::Varlen;
use std::sync::{Arc, Mutex, PoisonError};
use vlct_cuda::attention::{self, Attention, Plan, Saved};
use vlct_cuda::driver::Element::F32;

/// The plans of recent sequences, the most recent one last.
#[derive(Default)]
pub(super) struct Plans(Mutex<Vec<(Varlen, Arc<Plan>)>>);

impl Plans {
    /// Number of plans that are kept: encoder and decoder, with all tokens and with fewer query tokens, of the forward and of the next pass.
    const KEPT: usize = 8;

    /// Returns the plan of these sequences. `make` makes a new one.
    fn get(&self, varlen: &Varlen, make: impl FnOnce() -> Plan) -> Arc<Plan> {
        let mut plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(position) = plans.iter().position(|(known, _)| known.is_same(varlen)) {
            let found = plans.remove(position);
            let plan = Arc::clone(&found.1);
            plans.push(found);
            return plan;
        }
        if plans.len() == Self::KEPT {
            plans.remove(0);
        }
        let plan = Arc::new(make());
        plans.push((varlen.clone(), Arc::clone(&plan)));
        plan
    }
}

impl Cuda {
    fn plan(&self, varlen: &Varlen) -> Arc<Plan> {
        self.plans.get(varlen, || {
            complete(Plan::new(&self.context, varlen.cu_seqlens_k(), varlen.cu_seqlens_q()))
        })
    }

    /// Reports attention to the profile. The number of floating-point operations is `flops` · pairs of query and key · width.
    fn attention_span(&self, varlen: &Varlen, name: &str, flops: f64, qkv: &Tensor, bytes: f64) -> Option<Span<'_>> {
        let width = qkv.columns() / 3;
        profile::span(self, || {
            (
                format!("{name}, width {width}"),
                flops * (varlen.pairs() * width) as f64,
                bytes,
            )
        })
    }

    fn attention<'a>(&self, plan: &'a Plan, heads: usize, qkv: &Tensor) -> Attention<'a> {
        let width = qkv.columns() / 3 / heads.max(1);
        let capability = self.context.driver().compute_capability();
        Attention {
            plan,
            heads,
            kernel: attention::kernel_for(capability, qkv.element(), width),
        }
    }

    /// Returns the outputs of the query tokens `[queries, D]`, and the log-sum-exp of their scores `[H, queries]`.
    pub(super) fn attention_forward(&self, qkv: &Tensor, varlen: &Varlen, heads: usize) -> (Tensor, Tensor) {
        let _span = self.attention_span(varlen, "attention", 4.0, qkv, qkv.bytes() * 4.0 / 3.0);
        let plan = self.plan(varlen);
        let mut out = empty(&self.context, plan.queries(), qkv.columns() / 3, qkv.element());
        let mut log_sum_exp = empty(&self.context, heads, plan.queries(), F32);
        let attention = self.attention(&plan, heads, qkv);
        let results = (out.overwritten(), log_sum_exp.overwritten());
        complete(attention::forward(
            &self.context,
            &attention,
            qkv.matrix(),
            results.0,
            results.1,
        ));
        (out, log_sum_exp)
    }

    /// Returns the gradient of `qkv`.
    pub(super) fn attention_backward(
        &self,
        d_out: &Tensor,
        qkv: &Tensor,
        out: &Tensor,
        log_sum_exp: &Tensor,
        varlen: &Varlen,
        heads: usize,
    ) -> Tensor {
        let bytes = qkv.bytes() * 2.0 + d_out.bytes() * 2.0;
        let _span = self.attention_span(varlen, "attention gradient", 10.0, qkv, bytes);
        let plan = self.plan(varlen);
        let mut d_qkv = empty(&self.context, qkv.rows(), qkv.columns(), qkv.element());
        let attention = self.attention(&plan, heads, qkv);
        let saved = Saved {
            qkv: qkv.matrix(),
            out: out.matrix(),
            log_sum_exp: log_sum_exp.matrix(),
        };
        complete(attention::backward(
            &self.context,
            &attention,
            d_out.matrix(),
            saved,
            d_qkv.overwritten(),
        ));
        d_qkv
    }
}
