//! Captions: writing them, parsing them, and checking them against what is seen.
//!
//! ```text
//! caption  = object [ ("and" | relation) object ] | number [size] [colour] plural
//! object   = "a" [size] [colour] form
//! relation = "left of" | "right of" | "above" | "below"
//! number   = "two" | "three" | "four"
//! ```
//!
//! The two objects of one caption differ in form. A prompt is a caption of the picture asked
//! for, so the same [`Caption`] is also the demand that a generated picture has to meet.

use std::fmt;
use std::str::FromStr;

use super::{
    Colour, Draw, Form, NUMBERS, Object, Placement, Point, Relation, Scene, SceneKind, Seen, Size,
    flip,
};

/// What a caption says of an object: its form, and whichever attributes it mentions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Description {
    /// The size, if mentioned.
    pub size: Option<Size>,
    /// The colour, if mentioned.
    pub colour: Option<Colour>,
    /// The form.
    pub form: Form,
}

/// A sentence of the grammar. Its [`Display`](fmt::Display) is the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Caption {
    /// `a small red circle`
    One(Description),
    /// `three blue triangles`
    Group {
        /// How many: 2, 3 or 4.
        number: usize,
        /// What each of them is.
        each: Description,
    },
    /// `a red circle and a square`, `a red circle left of a square`
    Pair {
        /// The object named first.
        first: Description,
        /// The object named second, of another form.
        second: Description,
        /// Where the first is, seen from the second, if the caption says.
        relation: Option<Relation>,
    },
}

/// Why a text is not a caption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrammarError {
    /// A word that cannot stand where it does, or the text's end.
    Unexpected {
        /// What the grammar has at that place.
        expected: &'static str,
        /// The word; `None` at the end of the text.
        found: Option<String>,
        /// Words before it.
        position: usize,
    },
    /// Both objects have the same form.
    SameForm(Form),
}

/// Why a caption is not right.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// It is no sentence of the grammar.
    Grammar(GrammarError),
    /// It speaks of another number of objects than there are.
    Number {
        /// Objects the caption speaks of.
        stated: usize,
        /// Objects there are.
        seen: usize,
    },
    /// An object has none of the palette's colours, so nothing more is known of it.
    NoColour(Point),
    /// An object has no form.
    Malformed(Point),
    /// No object has the form.
    NoSuchForm(Form),
    /// The object of that form has another colour.
    WrongColour(Form, Colour),
    /// The object of that form has another size.
    WrongSize(Form, Size),
    /// The objects are not so placed.
    WrongPlace {
        /// Where the caption places the first object, seen from the second.
        stated: Relation,
        /// Where it clearly is, if anywhere.
        seen: Option<Relation>,
    },
}

impl Caption {
    /// A true caption of `scene`: full with probability 1/2, otherwise with each size and colour
    /// word kept with probability 1/2. Either of two objects is named first.
    pub fn random(scene: &Scene, rng: &mut dyn Draw) -> Caption {
        let turned = flip(rng);
        Caption::naming(scene, turned, rng)
    }

    /// The same, but of two objects that one is named first whose form is first in [`Form::ALL`].
    pub fn sorted(scene: &Scene, rng: &mut dyn Draw) -> Caption {
        let turned = scene.objects.len() == 2 && scene.objects[0].form > scene.objects[1].form;
        Caption::naming(scene, turned, rng)
    }

    fn naming(scene: &Scene, turned: bool, rng: &mut dyn Draw) -> Caption {
        let full = flip(rng);
        let mut describe = |object: &Object| Description {
            size: (full || flip(rng)).then_some(object.size),
            colour: (full || flip(rng)).then_some(object.colour),
            form: object.form,
        };
        let objects = &scene.objects;
        match scene.kind {
            SceneKind::One => Caption::One(describe(&objects[0])),
            SceneKind::Count => {
                Caption::Group { number: objects.len(), each: describe(&objects[0]) }
            }
            SceneKind::Two | SceneKind::Place => {
                let (a, b) = (&objects[usize::from(turned)], &objects[usize::from(!turned)]);
                let relation = match scene.kind {
                    SceneKind::Place => Placement::CLEAR.relation(a.centre, b.centre),
                    _ => None,
                };
                Caption::Pair { first: describe(a), second: describe(b), relation }
            }
        }
    }

    /// Whether `text`, as a caption of `scene`, parses and is true in every part, and all objects
    /// are in it; the caption if so, otherwise the first reason why not.
    pub fn judge(text: &str, scene: &Scene) -> Result<Caption, Failure> {
        let caption: Caption = text.parse().map_err(Failure::Grammar)?;
        caption.check(&scene.seen(), Placement::CLEAR)?;
        Ok(caption)
    }

    /// Whether `objects` are the ones the caption speaks of, and so placed by `rule`.
    pub fn check(&self, objects: &[Seen], rule: Placement) -> Result<(), Failure> {
        let stated = self.objects().count();
        if stated != objects.len() {
            return Err(Failure::Number { stated, seen: objects.len() });
        }
        objects.iter().try_for_each(is_whole)?;
        match self {
            Caption::One(each) | Caption::Group { each, .. } => {
                objects.iter().try_for_each(|object| each.check(object))
            }
            Caption::Pair { first, second, relation } => {
                // The forms differ: each object can only be meant by one of the two.
                let (a, b) = (first.find(objects)?, second.find(objects)?);
                first.check(a)?;
                second.check(b)?;
                let seen = rule.relation(a.centre, b.centre);
                match *relation {
                    Some(stated) if seen != Some(stated) => {
                        Err(Failure::WrongPlace { stated, seen })
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    /// A description of each object the caption speaks of, those of a group included one by one.
    pub fn objects(&self) -> impl Iterator<Item = Description> {
        let (first, second, number) = match *self {
            Caption::One(each) => (each, None, 1),
            Caption::Group { number, each } => (each, None, number),
            Caption::Pair { first, second, .. } => (first, Some(second), 1),
        };
        std::iter::repeat_n(first, number).chain(second)
    }

    /// The share of its objects whose size and colour are both stated.
    pub fn detail(&self) -> f64 {
        let full = self.objects().filter(|d| d.size.is_some() && d.colour.is_some()).count();
        full as f64 / self.objects().count() as f64
    }
}

impl Description {
    /// The object that is meant, by its form.
    fn find<'a>(&self, objects: &'a [Seen]) -> Result<&'a Seen, Failure> {
        let has_form = |object: &&Seen| object.shape.is_some_and(|(form, _)| form == self.form);
        objects.iter().find(has_form).ok_or(Failure::NoSuchForm(self.form))
    }

    /// Whether everything said is true of `object`.
    fn check(&self, object: &Seen) -> Result<(), Failure> {
        let (form, size) = object.shape.ok_or(Failure::Malformed(object.centre))?;
        let colour = object.colour.ok_or(Failure::NoColour(object.centre))?;
        if form != self.form {
            Err(Failure::NoSuchForm(self.form))
        } else if self.colour.is_some_and(|stated| stated != colour) {
            Err(Failure::WrongColour(form, colour))
        } else if self.size.is_some_and(|stated| stated != size) {
            Err(Failure::WrongSize(form, size))
        } else {
            Ok(())
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, article: &str, noun: &str) -> fmt::Result {
        f.write_str(article)?;
        for word in [self.size.map(Size::word), self.colour.map(Colour::word)].iter().flatten() {
            write!(f, " {word}")?;
        }
        write!(f, " {noun}")
    }
}

/// Errs if the object has no colour or no form.
fn is_whole(object: &Seen) -> Result<(), Failure> {
    match object {
        Seen { colour: None, centre, .. } => Err(Failure::NoColour(*centre)),
        Seen { shape: None, centre, .. } => Err(Failure::Malformed(*centre)),
        _ => Ok(()),
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, "a", self.form.word())
    }
}

impl fmt::Display for Caption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Caption::One(object) => object.fmt(f),
            Caption::Group { number, each } => {
                let number = NUMBERS.get(*number).unwrap_or(&"many");
                each.write(f, number, each.form.plural())
            }
            Caption::Pair { first, second, relation } => {
                write!(f, "{first} {} {second}", relation.map_or("and", Relation::word))
            }
        }
    }
}

impl FromStr for Caption {
    type Err = GrammarError;

    fn from_str(text: &str) -> Result<Caption, GrammarError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let mut words = Words { words: &words, position: 0 };
        let caption = match words.take(|w| NUMBERS[2..].iter().position(|n| *n == w)) {
            Some(index) => {
                let form = |w: &str| Form::ALL.into_iter().find(|form| form.plural() == w);
                let each = words.description("a size, a colour or a plural form", form)?;
                Caption::Group { number: index + 2, each }
            }
            None => {
                let first = words.object("'a' or a number")?;
                if words.is_done() {
                    return Ok(Caption::One(first));
                }
                let relation = words.conjunction()?;
                let second = words.object("'a'")?;
                if first.form == second.form {
                    return Err(GrammarError::SameForm(first.form));
                }
                Caption::Pair { first, second, relation }
            }
        };
        if words.is_done() { Ok(caption) } else { Err(words.unexpected("the end")) }
    }
}

/// A parser's place in a text.
struct Words<'a> {
    words: &'a [&'a str],
    position: usize,
}

impl Words<'_> {
    /// Steps over the next word if `meaning` knows it.
    fn take<T>(&mut self, meaning: impl Fn(&str) -> Option<T>) -> Option<T> {
        let meant = meaning(self.words.get(self.position)?)?;
        self.position += 1;
        Some(meant)
    }

    fn literal(&mut self, word: &str) -> Option<()> {
        self.take(|w| (w == word).then_some(()))
    }

    fn object(&mut self, expected: &'static str) -> Result<Description, GrammarError> {
        self.literal("a").ok_or_else(|| self.unexpected(expected))?;
        self.description("a size, a colour or a form", Form::from_word)
    }

    fn description(
        &mut self,
        expected: &'static str,
        form: impl Fn(&str) -> Option<Form>,
    ) -> Result<Description, GrammarError> {
        let size = self.take(Size::from_word);
        let colour = self.take(Colour::from_word);
        let form = self.take(form).ok_or_else(|| self.unexpected(expected))?;
        Ok(Description { size, colour, form })
    }

    /// What joins two objects: `and`, or a relation.
    fn conjunction(&mut self) -> Result<Option<Relation>, GrammarError> {
        if self.literal("and").is_some() {
            return Ok(None);
        }
        for relation in Relation::ALL {
            let mut words = relation.word().split(' ');
            if words.next().and_then(|word| self.literal(word)).is_some() {
                return match words.next() {
                    Some(of) if self.literal(of).is_none() => Err(self.unexpected("'of'")),
                    _ => Ok(Some(relation)),
                };
            }
        }
        Err(self.unexpected("'and' or a relation"))
    }

    fn is_done(&self) -> bool {
        self.position == self.words.len()
    }

    fn unexpected(&self, expected: &'static str) -> GrammarError {
        let found = self.words.get(self.position).map(|word| word.to_string());
        GrammarError::Unexpected { expected, found, position: self.position }
    }
}

impl fmt::Display for GrammarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GrammarError::Unexpected { expected, found: Some(word), position } => {
                write!(f, "word {} is '{word}' where {expected} should be", position + 1)
            }
            GrammarError::Unexpected { expected, found: None, .. } => {
                write!(f, "the text ends where {expected} should be")
            }
            GrammarError::SameForm(form) => write!(f, "both objects are a {form}"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: &usize| match n {
            1 => "1 object".to_string(),
            n => format!("{n} objects"),
        };
        match self {
            Failure::Grammar(error) => write!(f, "not a caption: {error}"),
            Failure::Number { stated, seen } => {
                write!(f, "{} stated, {} there", number(stated), number(seen))
            }
            Failure::NoColour(at) => write!(f, "the object at {at} has no colour of the palette"),
            Failure::Malformed(at) => write!(f, "the object at {at} is malformed"),
            Failure::NoSuchForm(form) => write!(f, "there is no {form}, or too few"),
            Failure::WrongColour(form, colour) => write!(f, "the {form} is {colour}"),
            Failure::WrongSize(form, size) => write!(f, "the {form} is {size}"),
            Failure::WrongPlace { stated, seen: Some(seen) } => {
                write!(f, "the first object is {seen} the second, not {stated} it")
            }
            Failure::WrongPlace { stated, seen: None } => {
                write!(f, "the first object is not clearly {stated} the second")
            }
        }
    }
}

impl std::error::Error for GrammarError {}

impl std::error::Error for Failure {}
