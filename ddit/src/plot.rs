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
    labels: usize,
}

impl Plot {
    /// Axes with five ticks each over the ranges `x` and `y`.
    pub fn new(title: &str, [x_label, y_label]: [&str; 2], x: [f64; 2], y: [f64; 2]) -> Self {
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
        let mut plot = Self { svg: String::new(), x, y, labels: 0 };
        for tick in 0..5 {
            let share = f64::from(tick) / 4.0;
            let at = [x, y].map(|[low, high]| low + share * (high - low));
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
            let (x, y) = (WIDTH - MARGIN[2] - 4.0, MARGIN[1] + 12.0 + 14.0 * self.labels as f64);
            let attributes = format!("x=\"{x}\" y=\"{y}\" text-anchor=\"end\" fill=\"{colour}\"");
            let _ = writeln!(self.svg, "<text {attributes}>{name}</text>");
            self.labels += 1;
        }
        self
    }

    fn place(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let [left, top, right, bottom] = MARGIN;
        let share = |value: f64, [low, high]: [f64; 2]| (value - low) / (high - low);
        [
            left + share(x, self.x) * (WIDTH - left - right),
            HEIGHT - bottom - share(y, self.y) * (HEIGHT - top - bottom),
        ]
    }
}

/// Up to two decimals, none for nothing.
fn number(x: f64) -> String {
    let text = format!("{x:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
