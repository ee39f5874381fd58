//! Pictures of a comparison, as SVG.

use super::Spread;
use super::compare::Row;
use crate::error::{Error, Result};
use plotters::coord::ranged1d::SegmentValue;
use plotters::prelude::*;

const WIDTH: u32 = 1000;
const COLOURS: [RGBColor; 6] = [
    RGBColor(10, 106, 85),
    RGBColor(179, 89, 15),
    RGBColor(60, 90, 160),
    RGBColor(140, 60, 120),
    RGBColor(110, 110, 40),
    RGBColor(90, 90, 90),
];
const INK: RGBColor = RGBColor(20, 32, 28);

fn failed(error: impl std::fmt::Display) -> Error {
    Error::invalid(format!("the picture cannot be drawn: {error}"))
}

/// A bar for every (label, speed), with the range of its runs.
pub fn bars(title: &str, all: &[(String, Spread)]) -> Result<String> {
    if all.is_empty() {
        return Ok(String::new());
    }
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, 90 + 30 * all.len() as u32)).into_drawing_area();
        let most = all.iter().map(|(_, s)| s.max).fold(1e-9, f64::max);
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 18, &INK))
            .margin(10)
            .x_label_area_size(24)
            .y_label_area_size(430)
            .build_cartesian_2d(0.0..most * 1.05, (0..all.len()).into_segmented())
            .map_err(failed)?;
        let label = |at: &SegmentValue<usize>| match at {
            SegmentValue::CenterOf(i) | SegmentValue::Exact(i) => {
                all.len().checked_sub(i + 1).map_or(String::new(), |i| all[i].0.clone())
            }
            SegmentValue::Last => String::new(),
        };
        chart
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(all.len() + 1)
            .y_label_formatter(&label)
            .label_style(("sans-serif", 12, &INK))
            .draw()
            .map_err(failed)?;
        for (row, (_, speed)) in all.iter().rev().enumerate() {
            let corners = [(0.0, SegmentValue::Exact(row)), (speed.median, SegmentValue::Exact(row + 1))];
            let mut bar = Rectangle::new(corners, COLOURS[0].filled());
            bar.set_margin(6, 6, 0, 0);
            let range = [(speed.min, SegmentValue::CenterOf(row)), (speed.max, SegmentValue::CenterOf(row))];
            chart.draw_series([bar]).map_err(failed)?;
            chart.draw_series([PathElement::new(range.to_vec(), INK)]).map_err(failed)?;
        }
        root.present().map_err(failed)?;
    }
    Ok(svg)
}

/// What every adapter can do for so many operations a byte, and what was reached: rings decode, discs read.
pub fn roofline(rows: &[Row<'_>]) -> Result<String> {
    let points: Vec<_> = rows.iter().flat_map(Row::intensities).collect();
    if points.is_empty() {
        return Ok(String::new());
    }
    let peaks = rows.iter().filter_map(|r| r.probe.f32_flop_per_s);
    let top = points.iter().map(|p| p.1).chain(peaks).fold(0.0, f64::max) / 1e9 * 3.0;
    let bottom = points.iter().map(|p| p.1).fold(f64::MAX, f64::min) / 1e9 / 3.0;
    let right = points.iter().map(|p| p.0).fold(0.0, f64::max) * 3.0;
    let left = points.iter().map(|p| p.0).fold(f64::MAX, f64::min) / 3.0;
    let mut adapters: Vec<&str> = Vec::new();
    for row in rows {
        if !adapters.contains(&row.adapter.as_str()) {
            adapters.push(&row.adapter);
        }
    }
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, 520)).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .caption("Roofline: rings decode, discs read prompts", ("sans-serif", 18, &INK))
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d((left..right).log_scale(), (bottom..top).log_scale())
            .map_err(failed)?;
        chart
            .configure_mesh()
            .x_desc("operations a byte")
            .y_desc("GFLOP/s")
            .label_style(("sans-serif", 12, &INK))
            .draw()
            .map_err(failed)?;
        for (adapter, colour) in adapters.iter().zip(COLOURS.iter().cycle()) {
            let own = || rows.iter().filter(|row| row.adapter == *adapter);
            if let Some((copy, peak)) =
                own().find_map(|r| Some((r.probe.copy_bytes_per_s?, r.probe.f32_flop_per_s?)))
            {
                let roof = |x: f64| (x, (x * copy).min(peak) / 1e9);
                let steps = (0..=100).map(|i| left * (right / left).powf(f64::from(i) / 100.0)).map(roof);
                let line = LineSeries::new(steps.filter(|(_, y)| *y >= bottom), colour);
                chart.draw_series(line).map_err(failed)?;
            }
            let reached: Vec<_> = own().flat_map(Row::intensities).collect();
            let circle = |&(x, y, reads): &(f64, f64, bool)| {
                let style = if reads { colour.filled() } else { colour.stroke_width(2) };
                Circle::new((x, y / 1e9), 5, style)
            };
            let key = *colour;
            chart
                .draw_series(reached.iter().map(circle))
                .map_err(failed)?
                .label(*adapter)
                .legend(move |(x, y)| Circle::new((x + 10, y), 5, key.filled()));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .label_font(("sans-serif", 12, &INK))
            .background_style(WHITE.mix(0.8))
            .draw()
            .map_err(failed)?;
        root.present().map_err(failed)?;
    }
    Ok(svg)
}
