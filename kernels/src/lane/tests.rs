//! Every instruction set gives the bits of the portable path.

use super::*;
use crate::num::Dual;

/// Every primitive of `Num` once, chained over `x` and `y`; sums and maxima of the lanes last.
struct Everything<'a>(&'a [f32; LANES], &'a [f32; LANES]);

impl Task<f32> for Everything<'_> {
    type Output = Vec<u32>;
    #[inline(always)]
    fn run<S: Simd<T = f32>>(self, isa: S) -> Vec<u32> {
        let (x, y) = (isa.load(self.0), isa.load(self.1));
        let values = [
            x + y,
            x - y,
            x * y,
            x / y,
            -x,
            x.mul_add(y, x),
            x.abs().sqrt(),
            x.max(y),
            x.min(y),
            x.recip(),
            S::V::select(x.lt(y), x, y),
            x.exp(),
            x.lift(-87.33).max(x.lift(88.37).min(x)).exp_normal(),
            x.lift(-126.0).max(x.lift(127.0).min(x)).exp2_normal(),
            x.ln(),
            x.abs().ln(),
            x.tanh(),
            Dual::variable(x).tanh().d,
            isa.splat(isa.sum(x)),
            isa.splat(isa.largest(y)),
            isa.load_head(&self.0[..5], 2.0),
            isa.load_head(&[], 2.0),
            isa.load_around(self.0, 0),
            isa.load_around(self.0, -3),
            isa.load_around(&self.0[..7], 2),
            isa.load_around(&self.0[3..9], -5),
            isa.load_around(&self.0[..4], 4),
            isa.load_around(&self.0[..4], -40),
            isa.load_around(&self.0[..4], 40),
            isa.load_around(&self.0[..4], isize::MIN),
            isa.load_around(&self.0[..4], isize::MAX),
            isa.load_joined(&self.0[1..5], &self.1[4..]),
            isa.load_joined(&self.0[8..], &self.1[3..11]),
            isa.load_joined(&self.0[2..14], &self.1[..4]),
            isa.load_joined(self.0, &[]),
            isa.load_joined(&[], self.1),
        ];
        let mut bits = Vec::new();
        let mut square = [x; LANES];
        for i in 0..LANES {
            square[i] = isa.splat(self.1[i]) + x;
        }
        isa.transpose(&mut square);
        for v in values.into_iter().chain(square) {
            let mut out = [0.0; LANES];
            isa.store(v, &mut out);
            // A NaN's payload is the processor's own affair.
            let canonical = |v: &f32| if v.is_nan() { 0x7fc0_0000 } else { v.to_bits() };
            bits.extend(out.iter().map(canonical));
            // Heads of all lengths, and what lies beyond them, which is left alone.
            for len in 0..=LANES {
                let mut head = [7.0; LANES + 1];
                isa.store_head(isa.load_head(&out[..len], 2.0), &mut out);
                isa.store_head(v, &mut head[..len]);
                bits.extend(out.iter().chain(&head).map(canonical));
                isa.store(v, &mut out);
            }
        }
        bits
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    let special = [0.0, -0.0, 1.0, -1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-40];
    let mut state = 1u32;
    let rounds = (0..200u32).map(|round| {
        let mut next = || {
            state = crate::random::philox4x32([1, 2], [round, state, 0, 0])[0];
            let wide = f32::from_bits(state);
            let plain = (state as f32 / u32::MAX as f32 - 0.5) * 20.0;
            match state % 5 {
                0 => special[(state / 5) as usize % special.len()],
                1 => wide,
                // Exponentials of all sizes, denormal ones too.
                2 => plain * 11.0,
                _ => plain,
            }
        };
        [std::array::from_fn(|_| next()), std::array::from_fn(|_| next())]
    });
    let rounds: Vec<[[f32; LANES]; 2]> = rounds.collect();
    on_every_isa("lanes", |isa| {
        for [x, y] in &rounds {
            let want = Everything(x, y).run(Portable::new());
            assert_eq!(f32::dispatch(Everything(x, y)), want, "{isa:?} {x:?} {y:?}");
        }
    });
}

#[test]
fn names_parse_and_unknown_names_say_what_is_known() {
    for isa in Isa::ALL {
        assert_eq!(isa.name().parse(), Ok(isa));
    }
    assert!("sse2".parse::<Isa>().unwrap_err().contains("avx512"));
}
