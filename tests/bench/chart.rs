//! Prints a table in the terminal, and draws it for light and dark backgrounds.

use std::fmt::Write;

/// One diagram.
pub struct Panel {
    title: &'static str,
    unit: &'static str,
    labels: Vec<String>,
    series: Vec<Series>,
}

/// One line of a diagram, with a value for each label.
#[derive(Clone)]
pub struct Series {
    pub name: &'static str,
    pub values: Vec<f64>,
}

impl Panel {
    pub fn new(title: &'static str, unit: &'static str, labels: Vec<String>, series: Vec<Series>) -> Self {
        Self { title, unit, labels, series }
    }

    /// Prints the table, and returns it to be drawn.
    pub fn print(self) -> Self {
        println!("{}: {}", self.title, self.unit);
        print!("{:<20}", "");
        self.labels.iter().for_each(|label| print!("{label:>10}"));
        println!();
        for series in &self.series {
            print!("{:<20}", series.name);
            series.values.iter().for_each(|value| print!("{value:>10.2}"));
            println!();
        }
        println!();
        self
    }

    fn draw(&self, left: f64, svg: &mut String) -> std::fmt::Result {
        let values = || self.series.iter().flat_map(|series| &series.values);
        let top = values().fold(1.0_f64, |top, value| top.max(*value)).ceil();
        let x = |at: usize| left + WIDTH * at as f64 / (self.labels.len() - 1) as f64;
        let y = |value: f64| TOP + HEIGHT * (1.0 - value / top);
        let middle = left + WIDTH / 2.0;
        writeln!(svg, r#"<text x="{middle}" y="18" text-anchor="middle">{}</text>"#, self.title)?;
        for line in 0..=4 {
            let value = top * f64::from(line) / 4.0;
            let (at, right) = (y(value), left + WIDTH);
            writeln!(svg, r#"<path class="grid" d="M{left} {at:.1}H{right}"/>"#)?;
            writeln!(svg, r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{value}</text>"#, left - 6.0, at + 4.0)?;
        }
        for (at, label) in self.labels.iter().enumerate() {
            let (x, y) = (x(at), TOP + HEIGHT + 16.0);
            writeln!(svg, r#"<text x="{x:.1}" y="{y}" text-anchor="middle">{label}</text>"#)?;
        }
        writeln!(svg, r#"<text x="{middle}" y="{}" text-anchor="middle">{}</text>"#, TOP + HEIGHT + 34.0, self.unit)?;
        for (number, series) in self.series.iter().enumerate() {
            let points: Vec<String> =
                series.values.iter().enumerate().map(|(at, value)| format!("{:.1},{:.1}", x(at), y(*value))).collect();
            writeln!(svg, r#"<polyline class="line s{number}" points="{}"/>"#, points.join(" "))?;
            let under = TOP + HEIGHT + 54.0 + 16.0 * number as f64;
            writeln!(svg, r#"<path class="line s{number}" d="M{left} {:.1}h20"/>"#, under - 4.0)?;
            writeln!(svg, r#"<text x="{}" y="{under}">{}</text>"#, left + 26.0, series.name)?;
        }
        Ok(())
    }
}

/// All panels as SVG, with this many side by side.
pub fn draw(panels: &[Panel], columns: usize) -> String {
    let (width, height) = (columns as f64 * STEP, panels.len().div_ceil(columns) as f64 * ROW);
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">
<style>
text {{ fill: #57606a }} .grid {{ stroke: #57606a; stroke-opacity: .25 }} .line {{ fill: none; stroke-width: 2 }}
.s0 {{ stroke: #2f7ed8 }} .s1 {{ stroke: #d9822b }} .s2 {{ stroke: #2f9e6e }}
@media (prefers-color-scheme: dark) {{ text {{ fill: #a8b1bb }} .grid {{ stroke: #a8b1bb }} }}
</style>
"#
    );
    for (number, panel) in panels.iter().enumerate() {
        let (left, down) = ((number % columns) as f64 * STEP + 44.0, (number / columns) as f64 * ROW);
        svg += &format!("<g transform=\"translate(0 {down})\">\n");
        panel.draw(left, &mut svg).expect("a string takes all that is written");
        svg += "</g>\n";
    }
    svg + "</svg>\n"
}

const STEP: f64 = 330.0;
const ROW: f64 = TOP + HEIGHT + 100.0;
const WIDTH: f64 = 260.0;
const TOP: f64 = 36.0;
const HEIGHT: f64 = 160.0;
