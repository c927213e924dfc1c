//! The shapes world: a procedural data set whose every picture, caption and answer can be judged
//! exactly, with no network in the judge.
//!
//! It plays, in miniature, the parts of a captioned image set (training pairs), of VQAv2, GQA and
//! POPE (questions) and of GenEval (prompts whose pictures are judged). One scene is a handful of
//! flat-coloured forms on a pale ground; everything true of it follows from its few numbers.
//!
//! | file | what it knows |
//! |---|---|
//! | [`scene`] | which scenes exist, how they are drawn at random, what is held out of training |
//! | [`draw`] | how a form covers pixels, how a scene becomes a picture |
//! | [`picture`] | 8-bit pictures and the model's `[-1, 1]` values |
//! | [`caption`] | the grammar: writing, parsing and checking captions |
//! | [`question`] | five kinds of question and their true answers |
//! | [`judge`] | what a picture shows, by its pixels alone; whether a prompt demands that |
//! | [`suite`] | evaluation sets and their scores |
//!
//! The world is a value of its seed: every random choice is taken from a [`Draw`] passed in by
//! the caller, so scene `i` of a set is a pure function of `(seed, i)` when the caller opens
//! stream `i` of its generator for it.

pub mod caption;
pub mod draw;
pub mod judge;
pub mod picture;
pub mod question;
pub mod scene;
pub mod suite;
#[cfg(test)]
mod tests;

pub use caption::{Caption, Description, Failure, GrammarError};
pub use judge::{Sight, look, verdict};
pub use picture::{Picture, PictureError};
pub use question::{Question, QuestionKind};
pub use scene::{Object, Placement, Pool, Scene, SceneKind, Seen};

/// Side of a picture in pixels.
pub const SIDE: usize = 64;

/// The ground that objects lie on.
pub const BACKGROUND: [u8; 3] = [235, 235, 235];

/// Every word of the captions, questions and answers, each once, as a word-level tokenizer sees
/// them that splits at white space and takes punctuation apart: `Q:` is the two words `Q` and `:`.
#[rustfmt::skip]
pub const WORDS: [&str; 42] = [
    "a", "and", "left", "right", "of", "above", "below",
    "small", "large", "red", "green", "blue", "yellow", "purple", "orange",
    "circle", "square", "triangle", "circles", "squares", "triangles",
    "Q", "A", ":", "?", "is", "there", "what", "color", "the", "shape", "object",
    "how", "many", "are",
    "yes", "no", "zero", "one", "two", "three", "four",
];

/// Length in [`WORDS`] of the longest text: `Q: what is left of the circle? A: square`.
pub const MAX_WORDS: usize = 12;

/// A source of random choices.
///
/// The world asks no more of a generator than this, so that it can be drawn from any of them.
pub trait Draw {
    /// A number uniform in `[0, 1)`.
    fn uniform(&mut self) -> f64;

    /// An integer uniform in `0..n`; `n` is at least 1.
    fn below(&mut self, n: usize) -> usize;
}

/// One of `options`, each as likely.
fn pick<T: Copy>(rng: &mut dyn Draw, options: &[T]) -> T {
    options[rng.below(options.len())]
}

/// A fair coin.
fn flip(rng: &mut dyn Draw) -> bool {
    rng.below(2) == 1
}

/// Declares an enum whose members have a name in the world's language.
macro_rules! named_enum {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $member:ident = $word:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$doc])* $member,)* }

        impl $name {
            /// Every member, in the order of declaration.
            pub const ALL: [$name; [$($word),*].len()] = [$($name::$member),*];

            /// The member's name in captions, questions and reports.
            pub fn word(self) -> &'static str {
                match self { $($name::$member => $word,)* }
            }

            /// The member of that name.
            pub fn from_word(word: &str) -> Option<$name> {
                match word { $($word => Some($name::$member),)* _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}
use named_enum;

named_enum! {
    /// What colour an object has.
    Colour {
        /// (220, 40, 40)
        Red = "red",
        /// (40, 170, 70)
        Green = "green",
        /// (50, 80, 220)
        Blue = "blue",
        /// (235, 205, 50)
        Yellow = "yellow",
        /// (140, 60, 180)
        Purple = "purple",
        /// (240, 140, 30)
        Orange = "orange",
    }
}

impl Colour {
    /// Red, green and blue, 8 bits each.
    pub fn rgb(self) -> [u8; 3] {
        match self {
            Colour::Red => [220, 40, 40],
            Colour::Green => [40, 170, 70],
            Colour::Blue => [50, 80, 220],
            Colour::Yellow => [235, 205, 50],
            Colour::Purple => [140, 60, 180],
            Colour::Orange => [240, 140, 30],
        }
    }
}

named_enum! {
    /// What shape an object has; its geometry is in [`draw`].
    Form {
        /// A disc.
        Circle = "circle",
        /// An upright square.
        Square = "square",
        /// A triangle with its apex up.
        Triangle = "triangle",
    }
}

impl Form {
    /// The word for several of them.
    pub fn plural(self) -> &'static str {
        match self {
            Form::Circle => "circles",
            Form::Square => "squares",
            Form::Triangle => "triangles",
        }
    }
}

named_enum! {
    /// How large an object is.
    Size {
        /// Radius 8.
        Small = "small",
        /// Radius 13.
        Large = "large",
    }
}

impl Size {
    /// The length `r` in pixels that scales a form.
    pub fn radius(self) -> f64 {
        match self {
            Size::Small => 8.0,
            Size::Large => 13.0,
        }
    }
}

named_enum! {
    /// Where one object lies, seen from another.
    Relation {
        /// To the left of it.
        LeftOf = "left of",
        /// To the right of it.
        RightOf = "right of",
        /// Higher in the picture.
        Above = "above",
        /// Lower in the picture.
        Below = "below",
    }
}

/// The words for 0 to 4.
pub const NUMBERS: [&str; 5] = ["zero", "one", "two", "three", "four"];

/// A point of the picture in pixels: `x` to the right, `y` down, `(0, 0)` the top left corner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Pixels from the left edge.
    pub x: f64,
    /// Pixels from the top edge.
    pub y: f64,
}

impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "({:.1}, {:.1})", self.x, self.y)
    }
}
