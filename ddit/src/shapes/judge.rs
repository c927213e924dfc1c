//! What a picture shows, from its pixels alone.
//!
//! Objects are connected regions unlike the background. Their colour is the palette's nearest to
//! the mean of their inside; their form and size are those of the template, drawn as the world
//! draws, that explains their coverage best. Nothing is learned and nothing is random.
//!
//! Judgements the rules leave open are taken strictly: a region of no known colour has no
//! coverage to compare, so it has no form either; and it still counts as an object.

use super::draw::Bounds;
use super::{
    BACKGROUND, Caption, Colour, Failure, Form, NUMBERS, Object, Picture, Placement, Point, Scene,
    SceneKind, Seen, Size,
};

/// A pixel farther than this from the background belongs to an object.
const OBJECT_DISTANCE: f64 = 60.0;

/// A region of at least so many pixels is an object.
const OBJECT_PIXELS: usize = 36;

/// A region of at least so many pixels that is no object makes the picture messy.
const SPECK_PIXELS: usize = 8;

/// A region farther than this from every colour of the palette has none.
const COLOUR_DISTANCE: f64 = 70.0;

/// The greatest share of its coverage that a well-formed object's squared error comes to.
const MISFIT: f64 = 0.25;

/// How far, in pixels, templates reach beyond the region they are compared with. A template's
/// centre of mass lies inside the region's box grown by one, and the farthest point from it, a
/// large triangle's apex, is 1.2 x 13 = 15.6 away.
const REACH: f64 = 17.0;

/// All that the judge finds in a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Sight {
    /// The objects, in the order of their first pixels, rows from the top. Their `centre` is the
    /// centre of mass of their coverage.
    pub objects: Vec<Seen>,
    /// Regions too small for an object and too large for noise.
    pub specks: usize,
}

impl Sight {
    /// Whether there is anything besides objects. It is reported and does not make a picture wrong.
    pub fn is_messy(&self) -> bool {
        self.specks > 0
    }

    /// The scene that the picture shows, for questions about it; `None` if an object is malformed
    /// or of no colour, or if there is none or one too many to be counted.
    ///
    /// Several objects that no scene of the world has together, such as two circles of different
    /// colours, are taken for one of kind [`Two`](SceneKind::Two).
    pub fn scene(&self) -> Option<Scene> {
        let object = |seen: &Seen| {
            let ((form, size), colour) = (seen.shape?, seen.colour?);
            Some(Object { form, colour, size, centre: origin((form, size), seen.centre) })
        };
        let objects: Vec<Object> = self.objects.iter().map(object).collect::<Option<_>>()?;
        let kind = match &objects[..] {
            [] => return None,
            many if many.len() >= NUMBERS.len() => return None,
            [_] => SceneKind::One,
            [a, b]
                if a.form != b.form && Placement::CLEAR.relation(a.centre, b.centre).is_some() =>
            {
                SceneKind::Place
            }
            [a, others @ ..] if others.iter().all(|b| (a.form, a.colour) == (b.form, b.colour)) => {
                SceneKind::Count
            }
            _ => SceneKind::Two,
        };
        Some(Scene { kind, objects })
    }
}

/// Whether `picture` shows what `prompt` demands: those objects and no others, each with the
/// attributes that are stated, so placed; otherwise the first reason why not.
pub fn verdict(picture: &Picture, prompt: &Caption) -> Result<(), Failure> {
    prompt.check(&look(picture).objects, Placement::JUDGED)
}

/// Finds the objects of a picture of any size.
pub fn look(picture: &Picture) -> Sight {
    let regions = Regions::of(picture);
    let sizes = regions.members.iter().map(Vec::len);
    let specks = sizes.filter(|n| (SPECK_PIXELS..OBJECT_PIXELS).contains(n)).count();
    let objects = (0..regions.members.len())
        .filter(|&region| regions.members[region].len() >= OBJECT_PIXELS)
        .map(|region| identify(picture, &regions, region))
        .collect();
    Sight { objects, specks }
}

fn identify(picture: &Picture, regions: &Regions, region: usize) -> Seen {
    let colour = nearest_colour(mean_inside(picture, regions, region));
    match colour {
        Some(colour) => {
            let coverage = Coverage::of(picture, regions, region, colour);
            Seen { colour: Some(colour), shape: coverage.shape(), centre: coverage.centroid }
        }
        None => {
            let members = &regions.members[region];
            let centre = centroid(members.iter().map(|&(x, y)| (x, y, 1.0)));
            Seen { colour: None, shape: None, centre }
        }
    }
}

/// The 4-connected regions of object pixels.
struct Regions {
    width: usize,
    height: usize,
    /// For every pixel the region it belongs to.
    label: Vec<Option<usize>>,
    /// For every region its pixels, `(x, y)`.
    members: Vec<Vec<(usize, usize)>>,
}

const SIDES: [(isize, isize); 4] = [(0, -1), (-1, 0), (1, 0), (0, 1)];
const CORNERS: [(isize, isize); 4] = [(-1, -1), (1, -1), (-1, 1), (1, 1)];

impl Regions {
    fn of(picture: &Picture) -> Regions {
        let (width, height) = (picture.width(), picture.height());
        let label = vec![None; width * height];
        let mut regions = Regions { width, height, label, members: Vec::new() };
        for (x, y) in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))) {
            if regions.label[y * width + x].is_none() && is_object(picture, x, y) {
                regions.flood(picture, x, y);
            }
        }
        regions
    }

    /// Gives a new label to everything connected with the object pixel `(x, y)`.
    fn flood(&mut self, picture: &Picture, x: usize, y: usize) {
        let region = self.members.len();
        let mut members = vec![(x, y)];
        self.label[y * self.width + x] = Some(region);
        let mut next = 0;
        while let Some(&at) = members.get(next) {
            next += 1;
            for step in SIDES {
                let Some((x, y)) = self.step(at, step) else { continue };
                let label = &mut self.label[y * self.width + x];
                if label.is_none() && is_object(picture, x, y) {
                    *label = Some(region);
                    members.push((x, y));
                }
            }
        }
        self.members.push(members);
    }

    /// The pixel one step from `(x, y)`, unless it is outside the picture.
    fn step(&self, (x, y): (usize, usize), (dx, dy): (isize, isize)) -> Option<(usize, usize)> {
        let x = x.checked_add_signed(dx).filter(|&x| x < self.width)?;
        let y = y.checked_add_signed(dy).filter(|&y| y < self.height)?;
        Some((x, y))
    }

    fn label(&self, (x, y): (usize, usize)) -> Option<usize> {
        self.label[y * self.width + x]
    }

    /// Whether the pixel one step from `at` belongs to `region`.
    fn touches(&self, at: (usize, usize), step: (isize, isize), region: usize) -> bool {
        self.step(at, step).is_some_and(|beside| self.label(beside) == Some(region))
    }
}

/// The mean colour of the region's pixels whose four neighbours all belong to it, which the
/// background does not shine through; of all its pixels if it has no such inside.
fn mean_inside(picture: &Picture, regions: &Regions, region: usize) -> [f64; 3] {
    let members = &regions.members[region];
    let is_inside =
        |at: &&(usize, usize)| SIDES.iter().all(|&step| regions.touches(**at, step, region));
    let mut inside: Vec<_> = members.iter().filter(is_inside).collect();
    if inside.is_empty() {
        inside = members.iter().collect();
    }
    std::array::from_fn(|channel| {
        let sum: f64 = inside.iter().map(|p| f64::from(picture.pixel(p.0, p.1)[channel])).sum();
        sum / inside.len() as f64
    })
}

/// The palette's colour nearest to `rgb`, if it is near.
fn nearest_colour(rgb: [f64; 3]) -> Option<Colour> {
    let away = |colour: &Colour| distance(colour.rgb().map(f64::from), rgb);
    Colour::ALL
        .into_iter()
        .min_by(|a, b| away(a).total_cmp(&away(b)))
        .filter(|colour| away(colour) <= COLOUR_DISTANCE)
}

/// How much of each pixel an object covers, in a window about it that holds every template.
struct Coverage {
    columns: std::ops::Range<usize>,
    rows: std::ops::Range<usize>,
    /// Shares of the window's pixels, row by row; 0 where the object is not.
    share: Vec<f64>,
    centroid: Point,
}

impl Coverage {
    /// A pixel's share is its distance from the background in parts of the colour's. It is taken
    /// of the region's pixels and of the pixels around it, where an object thins out.
    fn of(picture: &Picture, regions: &Regions, region: usize, colour: Colour) -> Coverage {
        let (columns, rows) =
            window(&regions.members[region]).pixels(regions.width, regions.height);
        let full = distance(colour.rgb().map(f64::from), BACKGROUND.map(f64::from));
        let share_of = |at: (usize, usize)| {
            let belongs = match regions.label(at) {
                Some(label) => label == region,
                None => {
                    let mut around = SIDES.iter().chain(&CORNERS);
                    around.any(|&step| regions.touches(at, step, region))
                }
            };
            if belongs { (from_background(picture, at.0, at.1) / full).min(1.0) } else { 0.0 }
        };
        let pixels = || rows.clone().flat_map(|y| columns.clone().map(move |x| (x, y)));
        let share: Vec<f64> = pixels().map(share_of).collect();
        let centroid = centroid(pixels().zip(&share).map(|((x, y), &share)| (x, y, share)));
        Coverage { columns, rows, share, centroid }
    }

    /// The form and size whose template, centred on the same mass, differs least.
    fn shape(&self) -> Option<(Form, Size)> {
        let templates = Form::ALL.into_iter().flat_map(|f| Size::ALL.map(|s| (f, s)));
        let (shape, error) = templates
            .map(|shape| (shape, self.squared_error(shape)))
            .min_by(|a, b| a.1.total_cmp(&b.1))?;
        let total: f64 = self.share.iter().sum();
        (error <= MISFIT * total).then_some(shape)
    }

    fn squared_error(&self, (form, size): (Form, Size)) -> f64 {
        let (r, centre) = (size.radius(), origin((form, size), self.centroid));
        let pixels = self.rows.clone().flat_map(|y| self.columns.clone().map(move |x| (x, y)));
        let error = |((x, y), share): ((usize, usize), &f64)| {
            (share - form.coverage(r, centre, x, y)).powi(2)
        };
        pixels.zip(&self.share).map(error).sum()
    }
}

/// The origin of a form whose centre of mass lies there.
fn origin((form, size): (Form, Size), centroid: Point) -> Point {
    Point { y: centroid.y - form.centroid_drop() * size.radius(), ..centroid }
}

/// The region's box, grown so that the coverage and all templates lie in it.
fn window(members: &[(usize, usize)]) -> Bounds {
    let empty = Bounds {
        left: f64::INFINITY,
        right: f64::NEG_INFINITY,
        top: f64::INFINITY,
        bottom: f64::NEG_INFINITY,
    };
    members.iter().fold(empty, |around, &(x, y)| Bounds {
        left: around.left.min(x as f64 - REACH),
        right: around.right.max(x as f64 + 1.0 + REACH),
        top: around.top.min(y as f64 - REACH),
        bottom: around.bottom.max(y as f64 + 1.0 + REACH),
    })
}

/// The centre of mass of pixels `(x, y, weight)`.
fn centroid(pixels: impl Iterator<Item = (usize, usize, f64)>) -> Point {
    let (mut mass, mut sum_x, mut sum_y) = (0.0, 0.0, 0.0);
    for (x, y, weight) in pixels {
        mass += weight;
        sum_x += weight * (x as f64 + 0.5);
        sum_y += weight * (y as f64 + 0.5);
    }
    Point { x: sum_x / mass, y: sum_y / mass }
}

fn is_object(picture: &Picture, x: usize, y: usize) -> bool {
    from_background(picture, x, y) > OBJECT_DISTANCE
}

fn from_background(picture: &Picture, x: usize, y: usize) -> f64 {
    distance(picture.pixel(x, y).map(f64::from), BACKGROUND.map(f64::from))
}

fn distance(a: [f64; 3], b: [f64; 3]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
}
