//! What does on the GPU what each function of the CPU does.
//!
//! Tests hold the table against both sides: a function over [`Real`](crate::Real) that is missing
//! here fails, and so does a kernel that no row names.

/// A function for the CPU, of this crate unless it says otherwise, and parts of the names of the
/// kernels it comes to on the GPU, in the order of their launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counterpart {
    /// Its path.
    pub cpu: &'static str,
    /// What the names of the kernels have in them.
    pub gpu: &'static [&'static str],
}

const fn row(cpu: &'static str, gpu: &'static [&'static str]) -> Counterpart {
    Counterpart { cpu, gpu }
}

const PRODUCT: &str = "gemm_";
const SCORES: &str = "cross_entropy";

/// The table.
pub const COUNTERPARTS: &[Counterpart] = &[
    row("elementwise::map", &["_dense", "_strided"]),
    row("elementwise::add_assign", &["add_f32_dense"]),
    row("elementwise::add_region", &["add_f32_scattered"]),
    row("tensor::Tensor::{contiguous, to_dtype, cat}", &["copy_"]),
    row("reduce::sum", &["sum_rows", "sum_parts", "add_parts", "sum_columns"]),
    // Products are written first there.
    row("reduce::sum_products", &["mul_f32", "sum_columns"]),
    row("reduce::max", &["max_rows", "max_wide_rows", "max_columns"]),
    row("reduce::spread", &["max_backward"]),
    // The norm of all gradients together, and the factor that limits it.
    row("reduce::sum_squares", &["gradient_squares", "gradient_clip"]),
    row("adamw::update", &["adamw"]),
    row("adamw::ema", &["average"]),
    row("tensor::rng::Rng::uniform", &["uniform_"]),
    row("random::box_muller", &["normal"]),
    row("gather::gather", &["gather_"]),
    row("gather::scatter_add", &["scatter_add"]),
    row("gemm::gemm", &[PRODUCT]),
    row("gemm::gemm_keeping", &[PRODUCT]),
    row("softmax::softmax", &["softmax_"]),
    row("softmax::softmax_backward", &["softmax_backward_"]),
    row("softmax::log_softmax", &["log_softmax_"]),
    row("softmax::log_softmax_backward", &["log_softmax_backward_"]),
    row("norm::normalize", &["layer_norm_", "adaptive_layer_norm_", "rms_norm_"]),
    row(
        "norm::normalize_backward",
        &[
            "layer_norm_backward_",
            "rms_norm_backward_",
            "norm_slope_parts_",
            "norm_add_slope_parts",
        ],
    ),
    row(
        "norm::group_norm",
        &[
            "group_norm_sums",
            "group_norm_mean",
            "group_norm_squares",
            "group_norm_rstd",
            "group_norm",
        ],
    ),
    row(
        "norm::group_norm_backward",
        &[
            "group_norm_channel_sums",
            "group_norm_backward_means",
            "group_norm_backward",
            "group_norm_slopes",
        ],
    ),
    row("attention::forward", &["attention_", "attention_exact_"]),
    row(
        "attention::backward",
        &[
            "attention_delta_",
            "attention_backward_queries_",
            "attention_backward_keys_",
            "attention_backward_bias_",
            "attention_exact_backward_",
        ],
    ),
    row("conv::forward", &["conv_exact_"]),
    row("conv::transposed", &["conv_transposed_"]),
    row("conv::weight_gradient", &["conv_weight_gradient_", "sum_columns"]),
    // Enlargements are a transposed convolution by sums of weights.
    row("conv::Upsample::forward", &["upsample_sum_filters", "conv_transposed_2x2_strided"]),
    row("conv::Upsample::input_gradient", &["upsample_sum_filters", "conv_exact_4x4"]),
    row("conv::Upsample::weight_gradient", &["conv_weight_gradient_4x4", "upsample_fold_filters"]),
    row("xent::forward", &[SCORES, "add_parts"]),
    row("xent::backward", &["cross_entropy_backward"]),
    row("xent::linear_forward", &[PRODUCT, SCORES, "add_parts"]),
    row("xent::linear_backward", &[PRODUCT, "cross_entropy_backward", "sum_columns"]),
];
