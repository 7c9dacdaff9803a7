//! A plot as SVG: bars in groups, above each other for each panel.

use std::fmt::Write;

/// Bars of one panel: for each group a value of each contender.
pub struct Panel {
    pub title: String,
    pub groups: Vec<(String, Vec<f64>)>,
}

const COLOURS: [&str; 13] = [
    "#9e9e9e", "#5f5f5f", "#c8c8c8", "#1f5fa8", "#6fa8dc", "#0b8a9e", "#7cc7d4", "#7b4fa3", "#bfa3d9", "#b3541e", "#e8a06b",
    "#1d7f43", "#7fc796",
];
const WIDTH: f64 = 1400.0;
const LEFT: f64 = 50.0;
const PANEL: f64 = 300.0;
const BARS: f64 = 210.0;
const TOP: f64 = 91.0;
/// Above this a bar is cut, and its value written at it.
const MOST: f64 = 4.0;

/// With a line at 1, which is the one that the others are compared with.
pub fn svg(title: &str, names: &[String], panels: &[Panel]) -> String {
    let height = TOP + PANEL * panels.len() as f64;
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12" fill="#222">
<rect width="{WIDTH}" height="{height}" fill="#fff"/>
<text x="{LEFT}" y="20" font-size="15">{title}</text>
"##
    );
    for (i, (name, colour)) in names.iter().zip(COLOURS).enumerate() {
        let (x, y) = (LEFT + (i % 4) as f64 * 250.0, 30.0 + (i / 4) as f64 * 17.0);
        let text = x + 16.0;
        let base = y + 10.0;
        writeln!(
            svg,
            r#"<rect x="{x}" y="{y}" width="11" height="11" fill="{colour}"/><text x="{text}" y="{base}">{name}</text>"#
        )
        .unwrap();
    }
    for (i, panel) in panels.iter().enumerate() {
        draw(&mut svg, panel, TOP + PANEL * i as f64 + 40.0);
    }
    svg + "</svg>\n"
}

fn draw(svg: &mut String, Panel { title, groups }: &Panel, top: f64) {
    let floor = top + BARS;
    let most = groups.iter().flat_map(|(_, values)| values).fold(1.0, |most: f64, value| most.max(*value)).min(MOST);
    let at = |value: f64| floor - BARS * value.min(most) / most;
    writeln!(svg, r#"<text x="{LEFT}" y="{:.1}" font-size="13">{title}</text>"#, top - 14.0).unwrap();
    for step in 0..=(most * 2.0) as usize {
        let value = step as f64 / 2.0;
        let (y, colour) = (at(value), if step == 2 { "#444" } else { "#ddd" });
        writeln!(svg, r#"<path d="M{LEFT} {y:.1}H{WIDTH}" stroke="{colour}"/>"#).unwrap();
        writeln!(svg, r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{value}</text>"#, LEFT - 6.0, y + 4.0).unwrap();
    }
    let group = (WIDTH - LEFT) / groups.len() as f64;
    for (i, (name, values)) in groups.iter().enumerate() {
        let bar = group * 0.86 / values.len() as f64;
        let start = LEFT + group * (i as f64 + 0.07);
        for (k, (value, colour)) in values.iter().zip(COLOURS).enumerate() {
            let (x, y) = (start + bar * k as f64, at(*value));
            let (wide, tall, middle) = (bar - 1.5, floor - y, x + bar / 2.0);
            writeln!(svg, r#"<rect x="{x:.1}" y="{y:.1}" width="{wide:.1}" height="{tall:.1}" fill="{colour}"/>"#).unwrap();
            let above = y - 3.0;
            writeln!(svg, r#"<text x="{middle:.1}" y="{above:.1}" text-anchor="middle" font-size="8">{value:.2}</text>"#)
                .unwrap();
        }
        let (x, y) = (start + group * 0.43, floor + 16.0);
        writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="middle">{name}</text>"#).unwrap();
    }
}
