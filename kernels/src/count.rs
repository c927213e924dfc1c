//! How much arithmetic was done: what a profiler divides by time.

use std::sync::atomic::{AtomicU64, Ordering};

static DONE: AtomicU64 = AtomicU64::new(0);

/// Floating-point operations of matrix products and attentions that the process has begun so far,
/// on any thread; an addition and a multiplication are two. All else is bound by memory and not
/// counted.
pub fn flops() -> u64 {
    DONE.load(Ordering::Relaxed)
}

/// Counts a product: one addition to one number, however large it is.
pub(crate) fn add(flops: usize) {
    DONE.fetch_add(flops as u64, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use crate::gemm::{Reader, Size, Store, Strided, gemm};

    #[test]
    fn products_count() {
        let x = vec![1.0_f32; 300 * 200];
        let before = super::flops();
        let (a, b) = (Strided::<f32>::rows(&x, 200), Strided::<f32>::rows(&x, 300));
        gemm(Size::new(300, 300, 200), a.plain(), b.plain(), &Store, &mut vec![0.0; 300 * 300]);
        // Other tests count at the same time.
        assert!(super::flops() - before >= 2 * 300 * 300 * 200);
    }
}
