//! Convolution and its gradients in plain loops over every pair of pixels that meet.

use super::Conv;

/// Calls `f(x, w, y)` with the indices of each input element, weight and output element that meet.
fn meetings(conv: Conv, mut f: impl FnMut(usize, usize, usize)) {
    let Conv { batch, channels, input, filters, kernel, stride, pad } = conv;
    let [rows, columns] = conv.sizes();
    for (image, filter, channel) in (0..batch)
        .flat_map(|b| (0..filters).flat_map(move |o| (0..channels).map(move |c| (b, o, c))))
    {
        for (row, column) in (0..rows).flat_map(|y| (0..columns).map(move |x| (y, x))) {
            for ky in 0..kernel[0] {
                for kx in 0..kernel[1] {
                    let (y, x) = (row * stride + ky, column * stride + kx);
                    let inside = (pad[0]..pad[0] + input[0]).contains(&y)
                        && (pad[2]..pad[2] + input[1]).contains(&x);
                    if inside {
                        let plane = (image * channels + channel) * input[0];
                        f(
                            (plane + y - pad[0]) * input[1] + x - pad[2],
                            ((filter * channels + channel) * kernel[0] + ky) * kernel[1] + kx,
                            ((image * filters + filter) * rows + row) * columns + column,
                        );
                    }
                }
            }
        }
    }
}

/// The convolution of `x` by `w`, with an optional bias.
pub fn reference(conv: Conv, x: &[f64], w: &[f64], bias: Option<&[f64]>) -> Vec<f64> {
    let len = conv.lens()[2];
    let pixels = (len / (conv.batch * conv.filters).max(1)).max(1);
    let start = |at: usize| bias.map_or(0.0, |bias| bias[at / pixels % conv.filters]);
    let mut y: Vec<f64> = (0..len).map(start).collect();
    meetings(conv, |i, j, k| y[k] += x[i] * w[j]);
    y
}

/// The gradient of the input.
pub fn reference_input_gradient(conv: Conv, w: &[f64], dy: &[f64]) -> Vec<f64> {
    let mut dx = vec![0.0; conv.lens()[0]];
    meetings(conv, |i, j, k| dx[i] += w[j] * dy[k]);
    dx
}

/// The gradient of the weights.
pub fn reference_weight_gradient(conv: Conv, x: &[f64], dy: &[f64]) -> Vec<f64> {
    let mut dw = vec![0.0; conv.lens()[1]];
    meetings(conv, |i, j, k| dw[j] += x[i] * dy[k]);
    dw
}
