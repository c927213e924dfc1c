//! The gradients of a linear layer's operands.

use kernels::par;
use tensor::Result;

use super::rows;
use crate::backward::Gradient;
use crate::profile::lists_events;
use crate::{Kept, Var, anomaly, no_grad, scope};

/// The gradients of x, W and b, of those that are there and needed, from that of x·Wᵀ + b.
pub(super) fn gradients<A: Sync>(
    kept: Kept<'_, A>,
    dy: &Var,
    needs: &[bool],
) -> Result<Vec<Option<Gradient>>> {
    let need = |i: usize| needs.get(i) == Some(&true);
    let dx = || need(0).then(|| dy.matmul(kept.x(1)).map(Gradient::Whole)).transpose();
    let dw = || {
        let flat = |v: &Var| v.reshape(rows(v.shape()));
        need(1).then(|| Gradient::product(&flat(dy)?, &flat(kept.x(0))?)).transpose()
    };
    let db = || need(2).then(|| dy.sum_to(kept.shape(2)).map(Gradient::Whole)).transpose();
    // One product beside another, at 50 GFLOP/s a core.
    let ns = if need(0) && need(1) { dy.numel() * rows(kept.shape(0))[1] / 25 } else { 0 };
    let (dx, [dw, db]) = at_once(dy, ns, dx, || [dw(), db()]);
    Ok([dx?, dw?, db?].into_iter().take(needs.len()).collect())
}

/// Runs both, on the CPU at once unless they are recorded, watched or listed: at the end of a
/// product threads wait for its last tile, and so they do it once for both. `ns` is the time of the
/// shorter one, 0 if it has nothing to do.
pub(super) fn at_once<A: Send, B: Send>(
    dy: &Var,
    ns: usize,
    a: impl FnOnce() -> A + Send,
    b: impl FnOnce() -> B + Send,
) -> (A, B) {
    // Switches are a thread's own: another one records, and watches nothing, until it is told.
    let is_seen = anomaly::is_watching() || lists_events();
    if scope::is_recording() || is_seen || dy.value().cuda().is_some() {
        return (a(), b());
    }
    par::join(ns, || no_grad(a), || no_grad(b))
}
