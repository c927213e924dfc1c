//! From an expression on one lane to a function on all: the vocabulary of the tables in
//! [`crate::decode`].

/// `lanes!(a, b => e)`: a function of warp registers that computes `e` in each lane.
macro_rules! lanes {
    ($($x:ident),+ => $e:expr) => {
        |$($x),+| {
            let mut out = [Default::default(); crate::isa::LANES];
            for i in 0..crate::isa::LANES {
                $(let $x = $x[i];)+
                out[i] = $e;
            }
            out
        }
    };
}

/// The same with lanes read as f32; the result is stored with the canonical NaN.
macro_rules! f32s {
    ($($x:ident),+ => $e:expr) => {
        crate::lanes::lanes!($($x),+ => {
            $(let $x = f32::from_bits($x);)+
            crate::float::canonical($e)
        })
    };
}

/// The same with lanes read as f64.
macro_rules! f64s {
    ($($x:ident),+ => $e:expr) => {
        crate::lanes::lanes!($($x),+ => {
            $(let $x = f64::from_bits($x);)+
            crate::float::canonical64($e)
        })
    };
}

pub(crate) use {f32s, f64s, lanes};
