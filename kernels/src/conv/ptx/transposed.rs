//! The gradient of a convolution's input: the transposed convolution, phase by phase as on the CPU.

use super::super::phase::Phase;
use super::{Axis, Conv, Patches, TILES, axis_numbers};
use crate::gemm::ptx::exact::{self, Line, Reader};
use crate::gemm::ptx::{Arrays, Writer, Writing};
use crate::ptx::{Body, F32, Global, Kernel, Reg, U32};

/// A family of transposed convolutions: what is known when its kernel is made.
///
/// `dx[c, p] = Σ over outputs that saw it of w·dy + bias[c]`, for the pixels of one phase: those a
/// stride apart, which meet the same taps of the filter. Each image is a product of the weights
/// \[channels, filters·taps\], read where they lie, and the patches of dy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Transposed {
    /// Rows and columns of the filter's part that the phase meets; at least one.
    pub taps: [u32; 2],
    /// Whether there are several phases: pixels of one are a stride apart.
    pub strided: bool,
    /// Whether a number for each channel is added.
    pub bias: bool,
}

/// What a launch for one phase needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhaseLaunch {
    /// Of which [`Transposed`].
    pub taps: [u32; 2],
    /// The extent of its grid: pixels by channels by images.
    pub extent: [usize; 3],
    /// Its last arguments.
    pub numbers: Vec<u32>,
}

/// The launches that write all of dx; phases without pixels have none.
///
/// # Panics
/// If there is no output ([`Conv::output`]).
pub fn phases(conv: &Conv) -> Vec<PhaseLaunch> {
    let Conv { batch, channels, filters, stride, .. } = *conv;
    let firsts = (0..stride).flat_map(|row| (0..stride).map(move |column| [row, column]));
    let launch = |first: [usize; 2]| {
        let phases = [0, 1].map(|axis| Phase::new(conv, axis, first[axis]));
        let [pixels, taps] = [
            phases.map(|phase| phase.map.to).into_iter().product::<usize>(),
            phases.map(|phase| phase.map.taps).into_iter().product(),
        ];
        let sizes = [channels, pixels, filters * taps, conv.lens()[2] / batch.max(1)];
        let filter = [phases[0].tap, phases[1].tap, conv.kernel[0], conv.kernel[1], stride];
        let mut numbers: Vec<u32> =
            [&sizes[..], &filter].concat().iter().map(|&n| n as u32).collect();
        numbers.extend(axis_numbers(phases.map(|phase| phase.map)));
        if stride > 1 {
            numbers.extend([first, conv.input].concat().iter().map(|&n| n as u32));
        }
        PhaseLaunch {
            taps: phases.map(|phase| phase.map.taps.max(1) as u32),
            extent: [pixels, channels, batch],
            numbers,
        }
    };
    firsts.map(launch).filter(|launch| !launch.extent.contains(&0)).collect()
}

impl Transposed {
    /// The kernel, for float32. Parameters: w, dy, dx (named out), bias where there is one, and the
    /// numbers of a [`PhaseLaunch`].
    pub fn kernel(&self) -> Kernel {
        let Transposed { taps: [down, across], strided, bias } = *self;
        let strided = if strided { "_strided" } else { "" };
        let bias = if bias { "_bias" } else { "" };
        let name = format!("conv_transposed_{down}x{across}{strided}{bias}");
        Kernel::new(&name, TILES.threads(), TILES.per_block(), |k| self.write(k))
    }

    fn write(&self, k: &Body) {
        let (w, dy) = (k.global::<F32>("w"), k.global::<F32>("dy"));
        let writing = if self.bias { Writing::RowBias } else { Writing::Store };
        let arrays = Arrays::parameters(k, writing);
        let [channels, pixels, depth, next_dy] =
            ["channels", "pixels", "depth", "next_dy"].map(|name| k.u32(name));
        let [first_row, first_column, rows, columns, stride] =
            ["tap_row", "tap_column", "filter_rows", "filter_columns", "stride"]
                .map(|name| k.u32(name));
        let taps = self.taps;
        let filters =
            Filters { w, first: [first_row, first_column], channels, rows, columns, stride, taps };
        let axes = Axis::parameters(k, taps);
        let image = k.block(2);
        let patches = Patches { x: dy.at(image * next_dy), axes, pixels_along_depth: false };
        let (size, range) = ([channels, pixels], [k.value(0), depth]);
        if !self.strided {
            let writer = Writer::new(k, writing, arrays, [image, channels, pixels]);
            return exact::multiply(
                k,
                TILES,
                size,
                range,
                [&filters, &patches],
                |row, column, sums| {
                    writer.write(row, column, sums, false);
                },
            );
        }
        let [from_row, from_column, input_rows, input_columns] =
            ["pixel_row", "pixel_column", "rows", "columns"].map(|name| k.u32(name));
        let across = axes[1].to;
        exact::multiply(k, TILES, size, range, [&filters, &patches], |channel, pixel, sums| {
            let inside = channel.lt(channels);
            let plane = image.mad(channels, channel) * input_rows;
            for (i, &sum) in (0..).zip(sums) {
                let pixel = pixel + i;
                k.if_(inside & pixel.lt(pixels), || {
                    let row = (pixel / across).mad(stride, from_row);
                    let column = (pixel % across).mad(stride, from_column);
                    let sum = arrays.bias_of(channel).map_or(sum, |bias| sum + bias);
                    arrays.out().at((plane + row).mad(input_columns, column)).store(sum);
                });
            }
        });
    }
}

/// The weights that a phase meets, as the matrix \[channel, (filter, tap)\].
struct Filters<'k> {
    w: Global<'k, F32>,
    /// The first tap; the others follow a stride apart.
    first: [Reg<'k, U32>; 2],
    channels: Reg<'k, U32>,
    /// Of the whole filter.
    rows: Reg<'k, U32>,
    columns: Reg<'k, U32>,
    stride: Reg<'k, U32>,
    taps: [u32; 2],
}

impl<'k> Reader<'k> for Filters<'k> {
    fn along_depth(&self) -> bool {
        true
    }

    fn line(&self, channel: Reg<'k, U32>) -> Line<'_, 'k> {
        let [down, across] = self.taps;
        Box::new(move |depth, _| {
            let (line, tap_column) = (depth / across, depth % across);
            let (filter, tap_row) = (line / down, line % down);
            let row = tap_row.mad(self.stride, self.first[0]);
            let column = tap_column.mad(self.stride, self.first[1]);
            let plane = filter.mad(self.channels, channel);
            let at = plane.mad(self.rows, row).mad(self.columns, column);
            vec![self.w.at(at).load()]
        })
    }
}
