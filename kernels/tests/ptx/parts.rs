//! Products of few results: small tiles, and sums that are cut into parts.

use kernels::gemm::ptx::{Gemm, Tiles, Writing};
use kernels::gemm::{KC, Size};
use kernels::ptx::Storage;

use crate::assert_bits;
use crate::gemm::{Case, assert_close, family, rounded, to_bf16};

/// Sums that are cut are those of the CPU: its blocks are the parts.
#[test]
fn products_in_parts_have_the_bits_of_the_cpu() {
    for (size, transposed) in [
        (Size::new(5, 6, 2 * KC + 300).batched(2), [false, false]),
        (Size::new(5, 8, KC + 1), [false, true]),
        (Size::new(9, 7, 2 * KC), [true, false]),
    ] {
        let case = Case::new(size, transposed);
        let kernel = family(Storage::F32, transposed, Writing::Store).exact(Tiles::SMALL);
        for writing in Writing::ALL {
            let ([out, kept], _) = case.got_by(&kernel, KC, writing).expect("no fault");
            let [want, want_kept] = case.want(writing);
            assert_bits(&format!("{size:?} {writing:?}"), &out, &want);
            if !kept.is_empty() {
                assert_bits(&format!("kept by {writing:?}"), &kept, &want_kept);
            }
        }
    }
}

#[test]
fn products_of_tensor_cores_in_parts_are_those_of_the_whole() {
    let size = Size::new(136, 72, 200).batched(2);
    for transposed in [[true, false], [true, true]] {
        let case = rounded(Case::new(size, transposed), to_bf16);
        let kernel = family(Storage::Bf16, transposed, Writing::Store).tensor_cores();
        let ([out, _], _) = case.got_by(&kernel, 64, Writing::Store).expect("no fault");
        assert_close(&format!("{transposed:?}"), size.k, &out, &case.want(Writing::Store)[0]);
    }
}

fn part(tiles: Option<Tiles>, transposed: bool, batch: usize, size: [usize; 3]) -> usize {
    let operands = if tiles.is_some() { Storage::F32 } else { Storage::Bf16 };
    let gemm = Gemm { operands, transposed: [transposed, false], writing: Writing::Store };
    gemm.part(tiles, batch, size)
}

#[test]
fn tiles_and_parts_keep_a_card_busy() {
    let exact = |size: [usize; 3]| {
        let tiles = Tiles::of(1, size[0], size[1]);
        (tiles, part(Some(tiles), false, 1, size))
    };
    // There are tiles enough.
    assert_eq!(exact([1024, 1536, 6144]), (Tiles::LARGE, 6144));
    assert_eq!(exact([100, 16_384, 1536]), (Tiles::LARGE, 1536));
    // There are, if they are small.
    assert_eq!(exact([1024, 900, 1536]), (Tiles::SMALL, 1536));
    assert_eq!(exact([30, 32_768, 1536]), (Tiles::SMALL, 1536));
    // Small ones are too few: a step's gradient of a small model, a modulation of one sample, a text
    // head's gradient. Sums are cut into the CPU's blocks.
    assert_eq!(exact([192, 192, 2048]), (Tiles::SMALL, KC));
    assert_eq!(exact([1, 9216, 1536]), (Tiles::SMALL, KC));
    assert_eq!(exact([128, 1536, 32_100]), (Tiles::SMALL, KC));
    // And sums are short.
    assert_eq!(exact([32, 192, 192]), (Tiles::SMALL, 192));
    let gradient = |size| part(None, true, 1, size);
    assert_eq!(gradient([4096, 4096, 4096]), 4096);
    assert_eq!(gradient([384, 384, 1024]), 256);
    assert_eq!(gradient([384, 384, 100]), 100);
}

/// How a sample's sums are made may not depend on what else is in the batch.
#[test]
fn only_gradients_of_weights_are_cut_on_tensor_cores() {
    for m in [1, 128, 1280, 5120] {
        assert_eq!(part(None, false, 1, [m, 1536, 6144]), 6144, "{m} rows");
        assert_eq!(part(None, false, 4, [m, 64, 6144]), 6144, "{m} rows");
    }
}

/// Nothing is cut into more parts than a grid has places for, or into sums that fill a card.
#[test]
fn parts_have_bounds() {
    let small = Some(Tiles::SMALL);
    assert_eq!(part(small, false, 512, [1, 1, 127 * KC]), KC);
    assert_eq!(part(small, false, 512, [1, 1, 128 * KC]), 128 * KC);
    assert_eq!(part(small, false, 1, [512, 512, 256 * KC]), KC);
    assert_eq!(part(small, false, 1, [512, 512, 257 * KC]), 257 * KC);
}
