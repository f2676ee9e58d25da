//! Charts as SVG: computed here, drawn without scripts, legible without colours and style sheets.

use std::fmt::Write as _;

use serde::Serialize;

use super::escape::xml;
use crate::units::show_number;

/// A chart in two widths, with what a screen reader says instead.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Chart {
    /// A word for its ids.
    pub(super) id: &'static str,
    /// What it shows, in one sentence.
    pub(super) caption: String,
    /// The lines and dots in it.
    pub(super) keys: Vec<Key>,
    /// For a desk.
    pub(super) wide: String,
    /// For a phone; hidden unless a style sheet shows it.
    pub(super) narrow: String,
}

/// One line of a chart's key.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Key {
    /// `green`, `blue`, `limit`, `read` or `probe`.
    pub(super) class: &'static str,
    /// What it stands for.
    pub(super) text: String,
}

/// What is drawn; x in seconds from the beginning.
pub(super) struct Picture {
    pub(super) id: &'static str,
    pub(super) title: String,
    pub(super) caption: String,
    pub(super) keys: Vec<Key>,
    /// Seconds from the left to the right edge; above 0.
    pub(super) span: f64,
    /// The value at the upper edge; above 0.
    pub(super) top: f64,
    /// Values with their labels.
    pub(super) ticks: Vec<(f64, String)>,
    pub(super) layers: Vec<Layer>,
    pub(super) limit: Option<(f64, String)>,
    pub(super) marks: Vec<MarkLine>,
}

/// A moment worth a vertical line.
pub(super) struct MarkLine {
    pub(super) at: f64,
    pub(super) text: String,
    pub(super) bad: bool,
}

/// One layer of a chart.
pub(super) enum Layer {
    /// A line with the area below it, holding each value until the next.
    Steps(Vec<(f64, f64)>),
    /// A line; a missing value breaks it.
    Line { class: &'static str, points: Vec<(f64, Option<f64>)> },
    /// Open circles: what the router read back.
    Circles(Vec<(f64, f64)>),
    /// Small diamonds: what probes met.
    Diamonds(Vec<(f64, f64)>),
    /// Tiny dots: the router's own count.
    Specks(Vec<(f64, f64)>),
}

const RULE: &str = "#d9dee4";
const SOFT: &str = "#556170";
const GREEN: &str = "#0f7b53";
const BLUE: &str = "#2f5fd0";
const RED: &str = "#b42318";
const CARD: &str = "#ffffff";

struct Size {
    class: &'static str,
    width: f64,
    height: f64,
    font: f64,
    most_ticks: f64,
}

const WIDE: Size = Size { class: "wide", width: 1016.0, height: 196.0, font: 12.0, most_ticks: 9.0 };
const NARROW: Size = Size { class: "narrow", width: 360.0, height: 200.0, font: 12.0, most_ticks: 4.0 };

impl Picture {
    /// Draws it in both widths.
    pub(super) fn draw(self) -> Chart {
        let wide = Canvas::new(&WIDE, &self).draw();
        let narrow = Canvas::new(&NARROW, &self).draw();
        Chart { id: self.id, caption: self.caption, keys: self.keys, wide, narrow }
    }
}

struct Canvas<'a> {
    size: &'a Size,
    picture: &'a Picture,
    left: f64,
    right: f64,
    upper: f64,
    lower: f64,
    svg: String,
}

impl<'a> Canvas<'a> {
    fn new(size: &'a Size, picture: &'a Picture) -> Self {
        let longest = picture.ticks.iter().map(|(_, label)| label.chars().count()).max().unwrap_or(0);
        // The same for ordinary labels, so that the moments of all charts stand below each other.
        let left = (longest as f64).mul_add(size.font * 0.58, 10.0).max(48.0);
        let upper = if picture.marks.is_empty() { 12.0 } else { 36.0 };
        Self {
            size,
            picture,
            left,
            right: size.width - 10.0,
            upper,
            lower: size.height - 24.0,
            svg: String::new(),
        }
    }

    fn x(&self, at: f64) -> f64 {
        (self.right - self.left).mul_add((at / self.picture.span).clamp(0.0, 1.0), self.left)
    }

    fn y(&self, value: f64) -> f64 {
        (self.upper - self.lower).mul_add((value / self.picture.top).clamp(0.0, 1.0), self.lower)
    }

    fn draw(mut self) -> String {
        let Size { class, width, height, .. } = self.size;
        let id = format!("{}-{class}", self.picture.id);
        // The attribute hides it where no style sheet is allowed; the style sheet shows it on a phone.
        let hidden = if *class == "narrow" { " display=\"none\"" } else { "" };
        self.put(format_args!(
            "<svg class=\"{class}\" viewBox=\"0 0 {width} {height}\" role=\"img\" \
             aria-labelledby=\"{id}\"{hidden}><title id=\"{id}\">{}</title>",
            xml(&self.picture.title)
        ));
        self.grid();
        for layer in &self.picture.layers {
            self.layer(layer);
        }
        self.limit();
        self.marks();
        self.svg.push_str("</svg>");
        self.svg
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing into a string cannot fail.
        let _ = self.svg.write_fmt(text);
    }

    fn grid(&mut self) {
        let (left, right, font) = (self.left, self.right, self.size.font);
        for (value, label) in &self.picture.ticks {
            let y = self.y(*value);
            self.put(format_args!(
                "<line class=\"grid\" stroke=\"{RULE}\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{y:.1}\" \
                 y2=\"{y:.1}\"/><text class=\"tick\" fill=\"{SOFT}\" font-size=\"{font}\" x=\"{:.1}\" \
                 y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 6.0,
                y + font * 0.35,
                xml(label)
            ));
        }
        let base = self.size.height - 6.0;
        for (at, label) in time_ticks(self.picture.span, self.size.most_ticks) {
            let x = self.x(at);
            let end = x + label.chars().count() as f64 * font * 0.3;
            let anchor = if at > 0.0 && end > right { "end" } else { "middle" };
            let at_x = if anchor == "end" { right } else { x };
            self.put(format_args!(
                "<text class=\"tick\" fill=\"{SOFT}\" font-size=\"{font}\" x=\"{at_x:.1}\" y=\"{base:.1}\" \
                 text-anchor=\"{anchor}\">{label}</text>"
            ));
        }
    }

    fn layer(&mut self, layer: &Layer) {
        match layer {
            Layer::Steps(points) => self.steps(points),
            Layer::Line { class, points } => self.line(class, points),
            Layer::Circles(points) => self.dots(points, |x, y| {
                format!(
                    "<circle class=\"dot\" fill=\"{CARD}\" stroke=\"{GREEN}\" stroke-width=\"2\" \
                     cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\"/>"
                )
            }),
            Layer::Diamonds(points) => self.dots(points, |x, y| {
                format!(
                    "<path class=\"probe\" fill=\"{GREEN}\" d=\"M{x:.1} {:.1}l3.4 3.4l-3.4 3.4l-3.4 -3.4z\"/>",
                    y - 3.4
                )
            }),
            Layer::Specks(points) => self.dots(points, |x, y| {
                format!("<circle class=\"speck\" fill=\"{GREEN}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"1.6\"/>")
            }),
        }
    }

    fn dots(&mut self, points: &[(f64, f64)], draw: impl Fn(f64, f64) -> String) {
        for (at, value) in points {
            let dot = draw(self.x(*at), self.y(*value));
            self.svg.push_str(&dot);
        }
    }

    fn steps(&mut self, points: &[(f64, f64)]) {
        let Some((first, _)) = points.first() else { return };
        let mut path = format!("M{:.1} {:.1}", self.x(*first), self.lower);
        for (at, value) in points {
            let _ = write!(path, "H{:.1}V{:.1}", self.x(*at), self.y(*value));
        }
        let _ = write!(path, "H{:.1}", self.right);
        let (start, lower) = (self.x(*first), self.lower);
        self.put(format_args!(
            "<path class=\"area\" fill=\"{GREEN}\" fill-opacity=\".14\" d=\"{path}V{lower:.1}H{start:.1}Z\"/>\
             <path class=\"green\" fill=\"none\" stroke=\"{GREEN}\" stroke-width=\"2\" d=\"{path}\"/>"
        ));
    }

    fn line(&mut self, class: &str, points: &[(f64, Option<f64>)]) {
        let (stroke, dash) = if class == "blue" { (BLUE, " stroke-dasharray=\"5 3\"") } else { (GREEN, "") };
        let mut path = String::new();
        let mut drawing = false;
        for (index, (at, value)) in points.iter().enumerate() {
            let Some(value) = value else {
                drawing = false;
                continue;
            };
            let (x, y) = (self.x(*at), self.y(*value));
            let _ = write!(path, "{}{x:.1} {y:.1}", if drawing { "L" } else { "M" });
            let alone = !drawing && points.get(index + 1).is_none_or(|(_, next)| next.is_none());
            if alone {
                // A single value would be invisible as a line.
                path.push_str("h.1");
            }
            drawing = true;
        }
        if !path.is_empty() {
            self.put(format_args!(
                "<path class=\"{class}\" fill=\"none\" stroke=\"{stroke}\" stroke-width=\"2\" \
                 stroke-linejoin=\"round\" stroke-linecap=\"round\"{dash} d=\"{path}\"/>"
            ));
        }
    }

    fn limit(&mut self) {
        let Some((value, label)) = &self.picture.limit else { return };
        let (y, left, right, font) = (self.y(*value), self.left, self.right, self.size.font);
        self.put(format_args!(
            "<line class=\"limit\" stroke=\"{RED}\" stroke-width=\"1.5\" stroke-dasharray=\"6 4\" \
             x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"limit-text\" \
             fill=\"{RED}\" font-size=\"{font}\" x=\"{right:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            y - 5.0,
            xml(label)
        ));
    }

    /// Labels go into two rows above the picture; one that fits into neither is left to the table.
    fn marks(&mut self) {
        let (upper, lower, font) = (self.upper, self.lower, self.size.font);
        let mut taken = [f64::MIN, f64::MIN];
        for mark in &self.picture.marks {
            let x = self.x(mark.at);
            let (class, stroke, text_class) =
                if mark.bad { ("mark bad", RED, "limit-text") } else { ("mark", SOFT, "tick") };
            self.put(format_args!(
                "<line class=\"{class}\" stroke=\"{stroke}\" stroke-dasharray=\"2 3\" x1=\"{x:.1}\" \
                 x2=\"{x:.1}\" y1=\"{upper:.1}\" y2=\"{lower:.1}\"/>"
            ));
            let width = mark.text.chars().count() as f64 * font * 0.56;
            let (from, anchor) = if x + width / 2.0 > self.size.width {
                (self.right.max(x) - width, "end")
            } else if x - width / 2.0 < 0.0 {
                (x.min(self.left), "start")
            } else {
                (x - width / 2.0, "middle")
            };
            let Some(row) = taken.iter().position(|end| from > end + 8.0) else { continue };
            taken[row] = from + width;
            let at_x = match anchor {
                "end" => from + width,
                "start" => from,
                _ => x,
            };
            let y = upper - 7.0 - row as f64 * (font + 3.0);
            self.put(format_args!(
                "<text class=\"{text_class}\" fill=\"{stroke}\" font-size=\"{font}\" x=\"{at_x:.1}\" \
                 y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
                xml(&mark.text)
            ));
        }
    }
}

const TIMES: &[(f64, f64, &str)] = &[
    (0.1, 0.001, "ms"),
    (0.2, 0.001, "ms"),
    (0.5, 0.001, "ms"),
    (1.0, 1.0, "s"),
    (2.0, 1.0, "s"),
    (5.0, 1.0, "s"),
    (10.0, 1.0, "s"),
    (15.0, 1.0, "s"),
    (30.0, 1.0, "s"),
    (60.0, 60.0, "min"),
    (120.0, 60.0, "min"),
    (300.0, 60.0, "min"),
    (600.0, 60.0, "min"),
    (900.0, 60.0, "min"),
    (1800.0, 60.0, "min"),
    (3600.0, 3600.0, "h"),
    (7200.0, 3600.0, "h"),
    (10_800.0, 3600.0, "h"),
    (21_600.0, 3600.0, "h"),
    (43_200.0, 3600.0, "h"),
    (86_400.0, 86_400.0, "d"),
    (172_800.0, 86_400.0, "d"),
    (604_800.0, 86_400.0, "d"),
    (2_592_000.0, 86_400.0, "d"),
];

/// Round moments from 0 to `span` seconds, at most `most` of them beside 0.
fn time_ticks(span: f64, most: f64) -> Vec<(f64, String)> {
    let fallback = (span / most, 86_400.0, "d");
    let (step, unit, name) = *TIMES.iter().find(|(step, ..)| span / step <= most).unwrap_or(&fallback);
    // 1.5 h reads better than 90 min where most ticks are hours.
    let (unit, name) = if name == "min" && span > 7200.0 { (3600.0, "h") } else { (unit, name) };
    let mut ticks = Vec::new();
    let mut at = 0.0;
    while at <= span * 1.000_001 && ticks.len() < 40 {
        ticks.push((at, format!("{} {name}", show_number(at / unit))));
        at += step;
    }
    ticks
}

/// The round value at the upper edge for values up to `highest`, and three to five ticks below it.
pub(super) fn value_ticks(highest: f64) -> (f64, Vec<f64>) {
    if !(highest.is_finite() && highest > 0.0) {
        return (1.0, vec![0.0, 1.0]);
    }
    let raw = highest / 4.0;
    let magnitude = 10_f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].iter().map(|n| n * magnitude).find(|s| *s >= raw * 0.999_999);
    let step = step.unwrap_or(magnitude * 10.0);
    let mut ticks = vec![0.0];
    while ticks.len() < 7 && ticks[ticks.len() - 1] < highest * 0.999_999 {
        ticks.push(ticks.len() as f64 * step);
    }
    (ticks[ticks.len() - 1], ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        let labels = |span, most| time_ticks(span, most).into_iter().map(|t| t.1).collect::<Vec<_>>();
        assert_eq!(labels(75_600.0, 9.0), ["0 h", "3 h", "6 h", "9 h", "12 h", "15 h", "18 h", "21 h"]);
        assert_eq!(labels(9000.0, 9.0), ["0 h", "0.5 h", "1 h", "1.5 h", "2 h", "2.5 h"]);
        assert_eq!(labels(20.0, 4.0), ["0 s", "5 s", "10 s", "15 s", "20 s"]);
        assert!(time_ticks(1e12, 4.0).len() < 10);
        assert_eq!(value_ticks(120.0), (150.0, vec![0.0, 50.0, 100.0, 150.0]));
        assert_eq!(value_ticks(0.03).1.len(), 4);
        assert_eq!(value_ticks(0.0), (1.0, vec![0.0, 1.0]));
        assert_eq!(value_ticks(f64::NAN), (1.0, vec![0.0, 1.0]));
    }

    #[test]
    fn a_hostile_label_stays_text() {
        let picture = Picture {
            id: "t",
            title: "</title><script>alert(1)</script>".into(),
            caption: String::new(),
            keys: Vec::new(),
            span: 10.0,
            top: 1.0,
            ticks: vec![(0.0, "<b>".into())],
            layers: vec![Layer::Line { class: "green", points: vec![(1.0, Some(0.5)), (2.0, None)] }],
            limit: Some((0.9, "\"&<".into())),
            marks: vec![MarkLine { at: 5.0, text: "<script>".into(), bad: true }],
        };
        let chart = picture.draw();
        for svg in [chart.wide, chart.narrow] {
            assert!(!svg.contains("<script") && !svg.contains("<b>"), "{svg}");
            assert!(svg.contains("<title id=") && svg.contains("role=\"img\""));
        }
    }
}
