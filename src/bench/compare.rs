//! Reports side by side: a table for people, one for a README, a page with pictures.

use super::plot::{bars, roofline};
use super::{Decode, ModelResult, Prefill, Report, Spread};
use crate::error::Result;
use crate::gpu::Probe;
use std::fmt::Write;

/// One model on one adapter in one report.
pub struct Row<'a> {
    /// The report's file.
    pub file: &'a str,
    /// `NVIDIA H200 (vulkan)`, with the browser if there was one.
    pub adapter: String,
    /// What the adapter can do.
    pub probe: Probe,
    /// What the model did.
    pub model: &'a ModelResult,
}

impl<'a> Row<'a> {
    /// The longest prompt.
    pub fn prefill(&self) -> Option<&'a Prefill> {
        self.model.prefill.iter().max_by_key(|p| p.tokens)
    }

    /// Generation at the beginning of the context.
    pub fn decode(&self) -> Option<&'a Decode> {
        self.model.decode.iter().min_by_key(|d| d.depth)
    }

    /// Generation deepest in the context, if that was another place.
    pub fn deep(&self) -> Option<&'a Decode> {
        let deepest = self.model.decode.iter().max_by_key(|d| d.depth);
        deepest.filter(|d| self.decode().is_none_or(|first| first.depth < d.depth))
    }

    /// Bytes that reading a prompt moves at least: all weights, once for every step.
    fn prefill_bytes(&self, prefill: &Prefill) -> f64 {
        let weights = self.decode().map_or(self.model.memory.weights_bytes_gpu, |d| d.bytes_per_token);
        weights as f64 * prefill.tokens.div_ceil(self.model.chunk.max(1)) as f64
    }
}

/// All models of all reports, each with the name of its file.
pub fn rows(reports: &[(String, Report)]) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    for (file, report) in reports {
        for result in &report.adapters {
            let text = |key: &str| result.adapter[key].as_str().unwrap_or("?");
            let browser = report.browser.as_ref().map(|b| format!(", {b}")).unwrap_or_default();
            let adapter = format!("{} ({}{browser})", text("name"), text("backend"));
            let row = |model| Row { file, adapter: adapter.clone(), probe: result.probe, model };
            rows.extend(result.models.iter().map(row));
        }
    }
    rows
}

/// Against the first row of another report that has measured the same of a model of the same name.
fn ratio(rows: &[Row<'_>], row: &Row<'_>, speed: impl Fn(&Row<'_>) -> Option<(usize, f64)>) -> Option<f64> {
    let (point, own) = speed(row)?;
    let same = |other: &&Row<'_>| {
        other.model.name == row.model.name && speed(other).is_some_and(|(other, _)| other == point)
    };
    let first = rows.iter().find(same)?;
    let (_, first) = speed(first).filter(|_| !std::ptr::eq(first.model, row.model))?;
    (first > 0.0).then(|| own / first)
}

fn prefill_ratio(rows: &[Row<'_>], row: &Row<'_>) -> Option<f64> {
    ratio(rows, row, |r| r.prefill().map(|p| (p.tokens, p.tokens_per_s.median)))
}

fn decode_ratio(rows: &[Row<'_>], row: &Row<'_>) -> Option<f64> {
    ratio(rows, row, |r| r.decode().map(|d| (d.depth, d.tokens_per_s.median)))
}

/// The cells of the table, the head first.
fn cells(rows: &[Row<'_>]) -> Vec<[String; 9]> {
    let none = || "–".to_string();
    let percent = |share: Option<f64>| share.map_or_else(none, |s| format!("{:.0} %", 100.0 * s));
    let speed = |spread: &Spread| match spread.median {
        median if median < 100.0 => format!("{median:.1}"),
        median => format!("{median:.0}"),
    };
    let against = |ratio: Option<f64>| ratio.map(|r| format!(" ({r:.2}×)")).unwrap_or_default();
    let head = [
        "adapter",
        "model",
        "bits",
        "prefill tokens/s",
        "of f32",
        "decode tokens/s",
        "of copy",
        "deep decode",
        "error",
    ];
    let mut cells = vec![head.map(str::to_string)];
    for row in rows {
        let (prefill, decode) = (prefill_ratio(rows, row), decode_ratio(rows, row));
        let at = |depth: usize| if depth > 0 { format!(" @{depth}") } else { String::new() };
        cells.push([
            row.adapter.clone(),
            row.model.name.clone(),
            format!("{:.2}", row.model.bits_per_weight),
            row.prefill().map_or_else(none, |p| {
                format!("{} @{}{}", speed(&p.tokens_per_s), p.tokens, against(prefill))
            }),
            percent(row.prefill().and_then(|p| p.of_f32_rate)),
            row.decode().map_or_else(none, |d| {
                format!("{}{}{}", speed(&d.tokens_per_s), at(d.depth), against(decode))
            }),
            percent(row.decode().and_then(|d| d.of_copy_bandwidth)),
            row.deep().map_or_else(none, |d| format!("{} @{}", speed(&d.tokens_per_s), d.depth)),
            row.model.agreement.map_or_else(none, |a| format!("{:.0e}", a.max_relative_error)),
        ]);
    }
    cells
}

/// A table for a terminal. A number in parentheses is against the first report with the same model and point.
pub fn table(rows: &[Row<'_>]) -> String {
    let cells = cells(rows);
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for row in &cells {
        for (column, cell) in row.iter().enumerate() {
            let pad = " ".repeat(width(column) - cell.chars().count());
            let _ = if column < 2 { write!(text, "{cell}{pad}  ") } else { write!(text, "{pad}{cell}  ") };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// The same for programs: `{"rows": […]}`, each with its file, adapter and model as in a report, and its speeds over those of
/// the first file with the same model (`null`: it is the first).
pub fn json(rows: &[Row<'_>]) -> serde_json::Value {
    let row = |row: &Row<'_>| {
        serde_json::json!({
            "file": row.file,
            "adapter": row.adapter,
            "probe": row.probe,
            "model": row.model,
            "prefill_ratio": prefill_ratio(rows, row),
            "decode_ratio": decode_ratio(rows, row),
        })
    };
    serde_json::json!({ "rows": rows.iter().map(row).collect::<Vec<_>>() })
}

/// The same in Markdown.
pub fn markdown(rows: &[Row<'_>]) -> String {
    let mut text = String::new();
    for (i, row) in cells(rows).iter().enumerate() {
        let _ = writeln!(text, "| {} |", row.clone().map(|cell| cell.replace('|', "\\|")).join(" | "));
        if i == 0 {
            text.push_str("|---|---|--:|--:|--:|--:|--:|--:|--:|\n");
        }
    }
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#14201c}\
table{border-collapse:collapse;width:100%;font-size:.85rem}th,td{padding:.3rem .6rem;border-bottom:1px solid #dbe3dc;\
text-align:right}th:nth-child(-n+2),td:nth-child(-n+2){text-align:left}svg{max-width:100%;height:auto}";

/// A page that stands for itself: the table, bars for every adapter and model, the roofline.
pub fn html(reports: &[(String, Report)]) -> Result<String> {
    let rows = rows(reports);
    let label = |row: &Row<'_>| format!("{} · {}", row.model.name, row.adapter);
    let prefill: Vec<_> = rows
        .iter()
        .filter_map(|r| Some((format!("{} @{}", label(r), r.prefill()?.tokens), r.prefill()?.tokens_per_s)))
        .collect();
    let decode: Vec<_> = rows.iter().filter_map(|r| Some((label(r), r.decode()?.tokens_per_s))).collect();
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>halfbyte benchmark</title>\n\
         <style>{STYLE}</style>\n<h1>halfbyte benchmark</h1>\n<table>\n"
    );
    for (i, row) in cells(&rows).iter().enumerate() {
        let tag = if i == 0 { "th" } else { "td" };
        let cells: String = row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect();
        let _ = writeln!(page, "<tr>{cells}</tr>");
    }
    page.push_str("</table>\n");
    for svg in [bars("Decode, tokens/s", &decode)?, bars("Prefill, tokens/s", &prefill)?, roofline(&rows)?] {
        let _ = writeln!(page, "{svg}");
    }
    page.push_str("<p>Bars are medians, lines the range of the runs. A roof is what a copy and multiply-adds in registers reach on the same adapter.</p>\n<ul>\n");
    for (file, report) in reports {
        let commit = report.commit.as_deref().unwrap_or("unknown commit");
        let about = format!("{file}: halfbyte {} ({commit}), {}", report.halfbyte, report.system);
        let _ = writeln!(page, "<li>{}</li>", escaped(&about));
    }
    page.push_str("</ul>\n</html>\n");
    Ok(page)
}

impl Row<'_> {
    /// (operations a byte, operations a second) of every point, and whether it is a prefill.
    pub(super) fn intensities(&self) -> Vec<(f64, f64, bool)> {
        let mut points = Vec::new();
        for p in &self.model.prefill {
            points.push((p.flop_per_s * p.first_token_s / self.prefill_bytes(p), p.flop_per_s, true));
        }
        for d in &self.model.decode {
            points.push((d.flop_per_s / d.bytes_per_s, d.flop_per_s, false));
        }
        points.retain(|(x, y, _)| x.is_finite() && y.is_finite() && *x > 0.0 && *y > 0.0);
        points
    }
}
