//! Scenes: which exist, how they are drawn at random, and what is held out of training.

use super::draw::Bounds;
use super::{Colour, Draw, Form, Point, Relation, SIDE, Size, flip, named_enum, pick};

/// Room that every object's bounding box leaves to the border of the picture.
const BORDER: f64 = 2.0;

/// Least distance of two bounding boxes along one of the axes.
const GAP: f64 = 3.0;

/// Placements tried before everything is drawn anew.
const TRIES: usize = 1000;

/// Combinations that no training scene shows and no training question names, so that a model
/// that gets them right has composed them.
pub const HELD_OUT: [(Colour, Form); 2] =
    [(Colour::Purple, Form::Triangle), (Colour::Yellow, Form::Square)];

/// Whether `colour` and `form` together are [held out](HELD_OUT) of training.
pub fn is_held_out(colour: Colour, form: Form) -> bool {
    HELD_OUT.contains(&(colour, form))
}

named_enum! {
    /// The four kinds of scene.
    SceneKind {
        /// One object.
        One = "one",
        /// Two objects of different form.
        Two = "two",
        /// Two, three or four small objects of one form and colour.
        Count = "count",
        /// Two objects of different form, [clearly placed](Placement::CLEAR).
        Place = "place",
    }
}

named_enum! {
    /// Which scenes to draw from.
    Pool {
        /// Those without a held-out combination; all of training.
        Seen = "seen",
        /// Those with one: the compositional test, reported apart.
        Novel = "novel",
    }
}

impl Pool {
    /// Whether a scene of these objects belongs to the pool.
    pub fn admits(self, mut objects: impl Iterator<Item = (Colour, Form)>) -> bool {
        objects.any(|(colour, form)| is_held_out(colour, form)) == (self == Pool::Novel)
    }
}

/// One object of a scene.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Object {
    /// Its shape.
    pub form: Form,
    /// Its colour.
    pub colour: Colour,
    /// Its size.
    pub size: Size,
    /// The origin of its form, in pixels; for a triangle not quite its centre of mass.
    pub centre: Point,
}

impl Object {
    /// The least rectangle around the object.
    pub fn bounds(&self) -> Bounds {
        self.form.bounds(self.size.radius(), self.centre)
    }
}

/// An object as someone sees it who need not be sure of everything.
///
/// Scenes give theirs with every attribute; the [judge](super::judge) gives what it finds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// Its colour, unless it is none of the palette.
    pub colour: Option<Colour>,
    /// Its form and size, unless it is malformed.
    pub shape: Option<(Form, Size)>,
    /// Where it is, for questions of place.
    pub centre: Point,
}

/// When two objects count as clearly placed: far enough apart along one axis, and farther along
/// it than along the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placement {
    /// Least distance in pixels along the axis.
    pub distance: f64,
    /// Least ratio of the distances along the axis and across it.
    pub ratio: f64,
}

impl Placement {
    /// The rule scenes obey and captions are checked by.
    pub const CLEAR: Placement = Placement { distance: 18.0, ratio: 1.5 };

    /// The rule for generated pictures, whose objects are not where exact ones would be. It also
    /// makes up for centres of mass: no clearly placed scene fails it on their account.
    pub const JUDGED: Placement = Placement { distance: 14.0, ratio: 1.2 };

    /// Where `a` is, seen from `b`.
    pub fn relation(self, a: Point, b: Point) -> Option<Relation> {
        let (dx, dy) = (a.x - b.x, a.y - b.y);
        let along =
            |d: f64, across: f64| d.abs() >= self.distance && d.abs() >= self.ratio * across.abs();
        match (along(dx, dy), along(dy, dx)) {
            (true, _) => Some(if dx < 0.0 { Relation::LeftOf } else { Relation::RightOf }),
            (_, true) => Some(if dy < 0.0 { Relation::Above } else { Relation::Below }),
            _ => None,
        }
    }
}

/// A scene: all there is to know about one picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// What kind of scene it is.
    pub kind: SceneKind,
    /// Its one to four objects, in no particular order.
    pub objects: Vec<Object>,
}

impl Scene {
    /// A training scene: its kind uniform, free of the [held-out](HELD_OUT) combinations.
    ///
    /// What it shows is drawn first and kept while the centres are redrawn until they fit;
    /// otherwise large objects, which fit less often, would be rare.
    pub fn random(rng: &mut dyn Draw) -> Scene {
        Scene::from_pool(Pool::Seen, rng)
    }

    /// A scene of `pool`, its kind uniform.
    pub fn from_pool(pool: Pool, rng: &mut dyn Draw) -> Scene {
        loop {
            let kind = pick(rng, &SceneKind::ALL);
            if let Some(scene) = Scene::attempt(kind, pool, rng) {
                return scene;
            }
        }
    }

    /// A scene of `pool` and of that kind.
    pub fn of_kind(kind: SceneKind, pool: Pool, rng: &mut dyn Draw) -> Scene {
        loop {
            if let Some(scene) = Scene::attempt(kind, pool, rng) {
                return scene;
            }
        }
    }

    /// Whether the scene shows a [held-out](HELD_OUT) combination.
    pub fn is_novel(&self) -> bool {
        self.objects.iter().any(|o| is_held_out(o.colour, o.form))
    }

    /// The scene's objects as an observer who misses nothing sees them.
    pub fn seen(&self) -> Vec<Seen> {
        let see = |o: &Object| Seen {
            colour: Some(o.colour),
            shape: Some((o.form, o.size)),
            centre: o.centre,
        };
        self.objects.iter().map(see).collect()
    }

    /// Draws what the scene shows, then looks for a place for it; `None` after too many tries.
    fn attempt(kind: SceneKind, pool: Pool, rng: &mut dyn Draw) -> Option<Scene> {
        let mut objects = unplaced(kind, pool, rng);
        for _ in 0..TRIES {
            for object in &mut objects {
                object.centre = random_centre(object, rng);
            }
            if fits(kind, &objects) {
                return Some(Scene { kind, objects });
            }
        }
        None
    }
}

/// Objects for a scene of that kind and pool, uniform over all there are, at no place yet.
fn unplaced(kind: SceneKind, pool: Pool, rng: &mut dyn Draw) -> Vec<Object> {
    loop {
        let objects = match kind {
            SceneKind::One => vec![random_object(rng)],
            SceneKind::Two | SceneKind::Place => vec![random_object(rng), random_object(rng)],
            SceneKind::Count => {
                let object = Object { size: Size::Small, ..random_object(rng) };
                vec![object; 2 + rng.below(3)]
            }
        };
        let forms_differ =
            kind == SceneKind::Count || objects.len() < 2 || objects[0].form != objects[1].form;
        if forms_differ && pool.admits(objects.iter().map(|o| (o.colour, o.form))) {
            return objects;
        }
    }
}

fn random_object(rng: &mut dyn Draw) -> Object {
    Object {
        form: pick(rng, &Form::ALL),
        colour: pick(rng, &Colour::ALL),
        size: if flip(rng) { Size::Large } else { Size::Small },
        centre: Point { x: 0.0, y: 0.0 },
    }
}

/// A centre uniform over those that leave room to the border.
fn random_centre(object: &Object, rng: &mut dyn Draw) -> Point {
    let around = object.form.bounds(object.size.radius(), Point { x: 0.0, y: 0.0 });
    let mut between = |low: f64, high: f64| low + (high - low) * rng.uniform();
    Point {
        x: between(BORDER - around.left, SIDE as f64 - BORDER - around.right),
        y: between(BORDER - around.top, SIDE as f64 - BORDER - around.bottom),
    }
}

/// Whether no two objects come too close and a scene for questions of place is clear.
fn fits(kind: SceneKind, objects: &[Object]) -> bool {
    let apart = |a: Bounds, b: Bounds| {
        let gap_x = (a.left - b.right).max(b.left - a.right);
        let gap_y = (a.top - b.bottom).max(b.top - a.bottom);
        gap_x.max(gap_y) >= GAP
    };
    let all_apart = objects
        .iter()
        .enumerate()
        .all(|(i, a)| objects[..i].iter().all(|b| apart(a.bounds(), b.bounds())));
    all_apart
        && (kind != SceneKind::Place
            || Placement::CLEAR.relation(objects[0].centre, objects[1].centre).is_some())
}
