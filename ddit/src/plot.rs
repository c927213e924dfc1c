//! Plots as SVG text: axes, lines, dots. Numbers are written with one decimal, so that the same
//! data give the same bytes.

use std::fmt::Write;

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 300.0;
/// Room for the labels: left, top, right, bottom.
const MARGIN: [f64; 4] = [52.0, 30.0, 16.0, 40.0];

/// A plot being drawn.
pub struct Plot {
    svg: String,
    x: [f64; 2],
    y: [f64; 2],
    scale: Scale,
    labels: usize,
    labels_at_foot: bool,
}

/// How values are laid along an axis.
#[derive(Clone, Copy)]
enum Scale {
    Linear,
    Logarithmic,
}

impl Scale {
    /// How far along a range a value lies.
    fn share(self, value: f64, [low, high]: [f64; 2]) -> f64 {
        match self {
            Self::Linear => (value - low) / (high - low),
            Self::Logarithmic => (value / low).ln() / (high / low).ln(),
        }
    }

    /// The value that lies so far along a range.
    fn at(self, share: f64, [low, high]: [f64; 2]) -> f64 {
        match self {
            Self::Linear => low + share * (high - low),
            Self::Logarithmic => low * (high / low).powf(share),
        }
    }
}

/// Several plots as one picture, in rows of `columns`.
pub fn sheet(plots: Vec<Plot>, columns: usize) -> String {
    let rows = plots.len().div_ceil(columns).max(1);
    let (width, height) = (WIDTH * columns as f64, HEIGHT * rows as f64);
    let mut svg =
        format!("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\">\n");
    for (i, plot) in plots.into_iter().enumerate() {
        let [x, y] = [WIDTH * (i % columns) as f64, HEIGHT * (i / columns) as f64];
        let place = format!("x=\"{x}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{HEIGHT}\"");
        let _ = write!(svg, "<svg {place}>\n{}</svg>\n", plot.finish());
    }
    svg + "</svg>\n"
}

impl Plot {
    /// Axes with five ticks each over the ranges `x` and `y`.
    pub fn new(title: &str, labels: [&str; 2], x: [f64; 2], y: [f64; 2]) -> Self {
        Self::scaled(title, labels, x, y, Scale::Linear)
    }

    /// The same with a logarithmic y axis, of positive numbers.
    pub fn logarithmic(title: &str, labels: [&str; 2], x: [f64; 2], y: [f64; 2]) -> Self {
        Self::scaled(title, labels, x, y, Scale::Logarithmic)
    }

    fn scaled(
        title: &str,
        [x_label, y_label]: [&str; 2],
        x: [f64; 2],
        y: [f64; 2],
        scale: Scale,
    ) -> Self {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"11\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
        );
        let mut text = |x: f64, y: f64, anchor: &str, text: &str| {
            let attributes = format!("x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\"");
            let _ = writeln!(svg, "<text {attributes}>{text}</text>");
        };
        text(WIDTH / 2.0, 18.0, "middle", title);
        text(WIDTH / 2.0, HEIGHT - 6.0, "middle", x_label);
        text(6.0, 18.0, "start", y_label);
        let nothing = String::new();
        let mut plot = Self { svg: nothing, x, y, scale, labels: 0, labels_at_foot: false };
        for tick in 0..5 {
            let share = f64::from(tick) / 4.0;
            let at = [Scale::Linear.at(share, x), scale.at(share, y)];
            let [column, row] = plot.place(at);
            text(column, HEIGHT - 24.0, "middle", &number(at[0]));
            text(MARGIN[0] - 6.0, row + 4.0, "end", &number(at[1]));
        }
        let (right, bottom) = (WIDTH - MARGIN[2], HEIGHT - MARGIN[3]);
        let frame = format!("M{} {}V{bottom}H{right}", MARGIN[0], MARGIN[1]);
        let _ = writeln!(svg, "<path d=\"{frame}\" fill=\"none\" stroke=\"#888\"/>");
        plot.svg = svg;
        plot
    }

    /// Names go to the lower right, where curves that rise leave room.
    pub fn labels_at_foot(mut self) -> Self {
        self.labels_at_foot = true;
        self
    }

    /// A polyline, named in its colour at the upper right if it has a name.
    pub fn line(mut self, colour: &str, name: &str, points: &[[f64; 2]]) -> Self {
        let corner = |point: &[f64; 2]| {
            let [x, y] = self.place(*point);
            format!("{x:.1},{y:.1}")
        };
        let corners: Vec<String> = points.iter().map(corner).collect();
        let corners = corners.join(" ");
        let style = format!("fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"");
        let _ = writeln!(self.svg, "<polyline points=\"{corners}\" {style}/>");
        self.label(colour, name)
    }

    /// Dots, named like a line.
    pub fn dots(mut self, colour: &str, name: &str, points: &[[f64; 2]]) -> Self {
        for point in points {
            let [x, y] = self.place(*point);
            let place = format!("cx=\"{x:.1}\" cy=\"{y:.1}\"");
            let _ = writeln!(self.svg, "<circle {place} r=\"2.2\" fill=\"{colour}\"/>");
        }
        self.label(colour, name)
    }

    /// The plot as it stands.
    pub fn finish(self) -> String {
        self.svg + "</svg>\n"
    }

    fn label(mut self, colour: &str, name: &str) -> Self {
        if !name.is_empty() {
            let down = 14.0 * self.labels as f64;
            let y = match self.labels_at_foot {
                false => MARGIN[1] + 12.0 + down,
                true => HEIGHT - MARGIN[3] - 8.0 - down,
            };
            let x = WIDTH - MARGIN[2] - 4.0;
            let attributes = format!("x=\"{x}\" y=\"{y}\" text-anchor=\"end\" fill=\"{colour}\"");
            let _ = writeln!(self.svg, "<text {attributes}>{name}</text>");
            self.labels += 1;
        }
        self
    }

    fn place(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let [left, top, right, bottom] = MARGIN;
        [
            left + Scale::Linear.share(x, self.x) * (WIDTH - left - right),
            HEIGHT - bottom - self.scale.share(y, self.y) * (HEIGHT - top - bottom),
        ]
    }
}

/// Up to two decimals, none for nothing; of small numbers two digits.
fn number(x: f64) -> String {
    let small = x.abs().log10().floor();
    if (-12.0..-4.0).contains(&small) {
        return format!("{x:.1e}");
    }
    let decimals = if (-4.0..-1.0).contains(&small) { (1.0 - small) as usize } else { 2 };
    let text = format!("{x:.decimals$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_never_vanish() {
        let written = [0.0, -0.75, 3.0, 1.0 / 3.0, 0.05, 2.5e-4, 1e-3, 2.5e-5, 1e-17, 20_000.0];
        let expected =
            ["0", "-0.75", "3", "0.33", "0.05", "0.00025", "0.001", "2.5e-5", "0", "20000"];
        assert_eq!(written.map(number), expected);
    }

    #[test]
    fn a_logarithmic_axis_gives_every_factor_the_same_room() {
        let plot = Plot::logarithmic("", ["", ""], [0.0, 1.0], [0.1, 10.0]);
        let rows = [0.1, 1.0, 10.0].map(|y| plot.place([0.0, y])[1]);
        assert_eq!(rows.map(f64::round), [260.0, 145.0, 30.0]);
        assert!(plot.finish().contains("text-anchor=\"end\">0.32</text>"), "a tick at √0.1");
    }

    #[test]
    fn plots_of_a_sheet_lie_side_by_side() {
        let plots =
            (0..3).map(|i| Plot::new(&format!("plot {i}"), ["", ""], [0.0, 1.0], [0.0, 1.0]));
        let svg = sheet(plots.collect(), 2);
        assert!(svg.contains("viewBox=\"0 0 960 600\"") && svg.contains("plot 2"));
        for place in ["x=\"0\" y=\"0\" w", "x=\"480\" y=\"0\" w", "x=\"0\" y=\"300\" w"] {
            assert!(svg.contains(place), "{place}");
        }
        assert_eq!(svg.matches("<svg").count(), svg.matches("</svg>").count());
    }
}
