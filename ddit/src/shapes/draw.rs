//! From scenes to pictures: the geometry of the forms, and how they cover pixels.

use super::{BACKGROUND, Form, Picture, Point, SIDE, Scene};

/// Samples along each axis of a pixel.
const SAMPLES: usize = 4;

/// A rectangle of the picture, its sides parallel to the picture's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Least `x`.
    pub left: f64,
    /// Greatest `x`.
    pub right: f64,
    /// Least `y`.
    pub top: f64,
    /// Greatest `y`.
    pub bottom: f64,
}

impl Form {
    /// Whether the form of radius `r` about the origin holds the point `(dx, dy)`.
    ///
    /// A disc of radius `r`; a square of half side `0.88 r`, nearly the disc's area; a triangle
    /// `1.8 r` high with its apex at `-r` and a base of half width `1.05 r`.
    pub fn contains(self, r: f64, dx: f64, dy: f64) -> bool {
        match self {
            Form::Circle => dx * dx + dy * dy <= r * r,
            Form::Square => dx.abs() <= 0.88 * r && dy.abs() <= 0.88 * r,
            Form::Triangle => {
                let depth = dy + r;
                0.0 <= depth && dy <= 0.8 * r && dx.abs() <= depth / (1.8 * r) * 1.05 * r
            }
        }
    }

    /// The least rectangle around the form of radius `r` at `centre`.
    pub fn bounds(self, r: f64, centre: Point) -> Bounds {
        let (half_width, up, down) = match self {
            Form::Circle => (r, r, r),
            Form::Square => (0.88 * r, 0.88 * r, 0.88 * r),
            Form::Triangle => (1.05 * r, r, 0.8 * r),
        };
        Bounds {
            left: centre.x - half_width,
            right: centre.x + half_width,
            top: centre.y - up,
            bottom: centre.y + down,
        }
    }

    /// How far the form's centre of mass lies below its centre, in radii: a triangle's is two
    /// thirds of the way from its apex to its base.
    pub fn centroid_drop(self) -> f64 {
        match self {
            Form::Circle | Form::Square => 0.0,
            Form::Triangle => 0.2,
        }
    }

    /// The share of the pixel in column `x` of row `y` that the form of radius `r` at `centre`
    /// covers, to a sixteenth: by 4 x 4 samples at offsets 1/8, 3/8, 5/8 and 7/8.
    pub fn coverage(self, r: f64, centre: Point, x: usize, y: usize) -> f64 {
        let (left, top) = (x as f64 - centre.x, y as f64 - centre.y);
        // No form reaches farther along an axis than the triangle's base.
        if (left + 0.5).abs().max((top + 0.5).abs()) > 1.05 * r + 0.5 {
            return 0.0;
        }
        let offset = |i: usize| (2 * i + 1) as f64 / (2 * SAMPLES) as f64;
        let holds =
            |i: usize| self.contains(r, left + offset(i % SAMPLES), top + offset(i / SAMPLES));
        let held = (0..SAMPLES * SAMPLES).filter(|&i| holds(i)).count();
        held as f64 / (SAMPLES * SAMPLES) as f64
    }
}

impl Bounds {
    /// Columns and rows of the pixels that the rectangle meets in a picture of that size.
    pub fn pixels(
        &self,
        width: usize,
        height: usize,
    ) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        // A cast of a negative number saturates at 0.
        let span = |low: f64, high: f64, size: usize| {
            let end = (high.ceil() as usize).min(size);
            (low.floor() as usize).min(end)..end
        };
        (span(self.left, self.right, width), span(self.top, self.bottom, height))
    }
}

impl Scene {
    /// The scene's picture: every pixel `(1 - a) background + a colour` for the share `a` of it
    /// that an object covers, rounded with ties to even. Objects never share a pixel.
    pub fn draw(&self) -> Picture {
        let mut picture = Picture::filled(SIDE, SIDE, BACKGROUND);
        for object in &self.objects {
            let radius = object.size.radius();
            let (columns, rows) = object.bounds().pixels(SIDE, SIDE);
            for (x, y) in rows.flat_map(|y| columns.clone().map(move |x| (x, y))) {
                let share = object.form.coverage(radius, object.centre, x, y);
                if share > 0.0 {
                    picture.set_pixel(x, y, blend(object.colour.rgb(), share));
                }
            }
        }
        picture
    }
}

/// `colour` over the background where it covers `share` of a pixel.
fn blend(colour: [u8; 3], share: f64) -> [u8; 3] {
    // Exact before the rounding: shares are sixteenths.
    let mix = |ground: u8, ink: u8| f64::from(ground) * (1.0 - share) + f64::from(ink) * share;
    std::array::from_fn(|i| mix(BACKGROUND[i], colour[i]).round_ties_even() as u8)
}

#[cfg(test)]
mod tests {
    use super::super::tests::SplitMix;
    use super::super::{Colour, Draw, Object, SceneKind, Size};
    use super::*;

    /// A pixel straight from the definition, in absolute coordinates and integers: no bounding
    /// box, no shared helper, rounding by remainders.
    fn pixel_by_definition(scene: &Scene, px: usize, py: usize) -> [u8; 3] {
        let mut pixel = [235u8, 235, 235];
        for o in &scene.objects {
            let (cx, cy) = (o.centre.x, o.centre.y);
            let r = if o.size == Size::Small { 8.0 } else { 13.0 };
            let mut hits = 0u32;
            for oy in [0.125, 0.375, 0.625, 0.875] {
                for ox in [0.125, 0.375, 0.625, 0.875] {
                    let (x, y) = (px as f64 + ox, py as f64 + oy);
                    let inside = match o.form {
                        Form::Circle => (x - cx).hypot(y - cy) <= r,
                        Form::Square => (x - cx).abs().max((y - cy).abs()) <= 0.88 * r,
                        Form::Triangle => {
                            y >= cy - r
                                && y <= cy + 0.8 * r
                                && (x - cx).abs() <= (y - (cy - r)) / (1.8 * r) * 1.05 * r
                        }
                    };
                    hits += u32::from(inside);
                }
            }
            if hits > 0 {
                let ink = o.colour.rgb();
                pixel = std::array::from_fn(|i| {
                    let sum = 235 * (16 - hits) + u32::from(ink[i]) * hits;
                    let (floor, rest) = (sum / 16, sum % 16);
                    (floor + u32::from(rest > 8 || rest == 8 && floor % 2 == 1)) as u8
                });
            }
        }
        pixel
    }

    #[test]
    fn pictures_follow_the_definition_pixel_by_pixel() {
        let mut rng = SplitMix(1);
        for _ in 0..300 {
            let scene = Scene::random(&mut rng);
            let picture = scene.draw();
            for (y, x) in (0..SIDE).flat_map(|y| (0..SIDE).map(move |x| (y, x))) {
                assert_eq!(picture.pixel(x, y), pixel_by_definition(&scene, x, y), "{scene:?}");
            }
        }
    }

    #[test]
    fn coverage_sums_to_the_area_and_balances_at_the_centroid() {
        let mut rng = SplitMix(2);
        for (form, area) in [
            (Form::Circle, std::f64::consts::PI),
            (Form::Square, 1.76 * 1.76),
            (Form::Triangle, 1.89),
        ] {
            for size in Size::ALL {
                let r = size.radius();
                let centre = Point { x: 30.0 + rng.uniform(), y: 30.0 + rng.uniform() };
                let (mut sum, mut sum_x, mut sum_y) = (0.0, 0.0, 0.0);
                for (y, x) in (0..SIDE).flat_map(|y| (0..SIDE).map(move |x| (y, x))) {
                    let share = form.coverage(r, centre, x, y);
                    sum += share;
                    sum_x += share * (x as f64 + 0.5);
                    sum_y += share * (y as f64 + 0.5);
                }
                // Samples lie 1/4 px apart: each of a square's sides, 1.76 r, is known to that.
                assert!((sum - area * r * r).abs() < 0.88 * r, "{form} {size}: {sum}");
                let below = sum_y / sum - centre.y - form.centroid_drop() * r;
                assert!((sum_x / sum - centre.x).abs() < 0.1 && below.abs() < 0.1, "{form} {size}");
            }
        }
    }

    #[test]
    fn a_half_covered_pixel_rounds_to_even() {
        // The square's right side runs through the middle of column 39: half of every pixel.
        let square = Object {
            form: Form::Square,
            colour: Colour::Yellow,
            size: Size::Small,
            centre: Point { x: 39.5 - 7.04, y: 32.0 },
        };
        let picture = Scene { kind: SceneKind::One, objects: vec![square] }.draw();
        assert_eq!(picture.pixel(38, 32), Colour::Yellow.rgb());
        // (235 + 235) / 2, (235 + 205) / 2, and (235 + 50) / 2 = 142.5, which goes down.
        assert_eq!(picture.pixel(39, 32), [235, 220, 142]);
        assert_eq!(picture.pixel(40, 32), BACKGROUND);
    }
}
