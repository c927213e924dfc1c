//! Products of few results: small tiles, and sums that are cut into parts.

use kernels::gemm::ptx::{Squares, Tiles, Way, Writing};
use kernels::gemm::{KC, Size, block_depth};
use kernels::ptx::Storage;

use crate::assert_bits;
use crate::gemm::{Case, SQUARES, assert_close, family, rounded, to_bf16};

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
            let part = block_depth(size.k);
            let ([out, kept], _) = case.got_by(&kernel, part, writing).expect("no fault");
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
        for squares in SQUARES {
            let kernel = family(Storage::Bf16, transposed, Writing::Store).tensor_cores(squares);
            let ([out, _], _) = case.got_by(&kernel, 64, Writing::Store).expect("no fault");
            assert_close(&format!("{transposed:?}"), size.k, &out, &case.want(Writing::Store)[0]);
        }
    }
}

/// How long parts are of a product in float32.
fn part(tiles: Tiles, batch: usize, size: [usize; 3]) -> usize {
    family(Storage::F32, [false; 2], Writing::Store).part(Way::Exact(tiles), batch, size)
}

/// Squares and parts of a product on tensor cores.
fn on_tensor_cores(transposed: bool, batch: usize, size: [usize; 3]) -> (Squares, usize) {
    let gemm = family(Storage::Bf16, [transposed, false], Writing::Store);
    let squares = gemm.squares(batch, size);
    (squares, gemm.part(Way::TensorCores(squares), batch, size))
}

#[test]
fn tiles_and_parts_keep_a_card_busy() {
    let exact = |size: [usize; 3]| {
        let tiles = Tiles::of(1, size[0], size[1]);
        (tiles, part(tiles, 1, size))
    };
    // There are tiles enough.
    assert_eq!(exact([1024, 1536, 6144]), (Tiles::LARGE, 6144));
    assert_eq!(exact([100, 16_384, 1536]), (Tiles::LARGE, 1536));
    // There are, if they are small.
    assert_eq!(exact([1024, 900, 1536]), (Tiles::SMALL, 1536));
    assert_eq!(exact([30, 32_768, 1536]), (Tiles::SMALL, 1536));
    // Small ones are too few: a step's gradient of a small model, a text head's gradient. Sums are
    // cut into the CPU's blocks.
    assert_eq!(exact([192, 192, 2048]), (Tiles::SMALL, 1024));
    assert_eq!(exact([128, 1536, 32_100]), (Tiles::SMALL, 1536));
    // And sums are of one block.
    assert_eq!(exact([1, 9216, 1536]), (Tiles::SMALL, 1536));
    assert_eq!(exact([32, 192, 192]), (Tiles::SMALL, 192));
}

#[test]
fn squares_and_parts_keep_a_card_busy() {
    let product = |m, n| on_tensor_cores(false, 1, [m, n, 1536]).0;
    assert_eq!(product(1178, 6144), Squares::LARGE);
    assert_eq!(product(1178, 1536), Squares::SMALL);
    // Half of a large one would be beyond the matrix.
    assert_eq!([product(64, 32_768), product(32_768, 64)], [Squares::SMALL; 2]);
    let gradient = |size| on_tensor_cores(true, 1, size);
    assert_eq!(gradient([4096, 4096, 4096]), (Squares::LARGE, 4096));
    // There are large ones enough if sums are cut, and there are not.
    assert_eq!(gradient([128, 1536, 32_100]), (Squares::LARGE, 1536));
    assert_eq!(gradient([384, 384, 1024]), (Squares::SMALL, 256));
    assert_eq!(gradient([384, 384, 100]), (Squares::SMALL, 100));
}

/// How a sample's sums are made may not depend on what else is in the batch.
#[test]
fn only_gradients_of_weights_are_cut_on_tensor_cores() {
    for m in [1, 128, 1280, 5120] {
        assert_eq!(on_tensor_cores(false, 1, [m, 1536, 6144]).1, 6144, "{m} rows");
        assert_eq!(on_tensor_cores(false, 4, [m, 64, 6144]).1, 6144, "{m} rows");
    }
}

/// Nothing is cut into more parts than a grid has places for, or into sums that fill a card.
#[test]
fn parts_have_bounds() {
    let small = Tiles::SMALL;
    assert_eq!(part(small, 512, [1, 1, 127 * KC]), KC);
    assert_eq!(part(small, 512, [1, 1, 128 * KC]), 128 * KC);
    assert_eq!(part(small, 1, [512, 512, 256 * KC]), KC);
    assert_eq!(part(small, 1, [512, 512, 257 * KC]), 257 * KC);
}
