//! A model as a picture: a row a layer, a block a matrix, as wide as its bytes, coloured by its bits per weight.

use eframe::egui::{Color32, Rect, Sense, Ui, ecolor::Hsva, pos2, vec2};
use halfbyte::inspect::{Report, TensorReport};
use std::collections::BTreeMap;

/// Blue for 2 bits, by green and yellow to red for 32.
fn color(ui: &Ui, bits: f64) -> Color32 {
    let t = ((bits.log2() - 1.0) / 4.0).clamp(0.0, 1.0) as f32;
    Hsva::new(0.58 * (1.0 - t), 0.70, if ui.visuals().dark_mode { 0.40 } else { 0.65 }, 1.0).into()
}

fn kind(t: &TensorReport) -> String {
    format!("{} ({}), {:.2} bits", t.format, t.codec.as_deref().unwrap_or_default(), t.bits_per_weight)
}

pub fn show(ui: &mut Ui, report: &Report) {
    let matrices: Vec<_> = report.tensors.iter().filter(|t| t.codec.is_some()).collect();
    let layer = |t: &TensorReport| t.name.splitn(4, '.').take(3).map(String::from).collect::<Vec<_>>();
    let rows: Vec<_> = matrices.chunk_by(|a, b| layer(a) == layer(b)).collect();
    let bytes = |row: &[&TensorReport]| row.iter().map(|t| t.bytes_gpu).sum::<u64>().max(1) as f32;
    let widest = rows.iter().map(|row| bytes(row)).fold(1.0, f32::max);
    let size = vec2(ui.available_width(), (340.0 / rows.len() as f32).clamp(4.0, 20.0));
    ui.spacing_mut().item_spacing.y = 0.0;
    for row in rows {
        let (mut rest, _) = ui.allocate_exact_size(size, Sense::hover());
        for t in row {
            let right = rest.left() + size.x * bytes(&[t]) / widest;
            let block = Rect::from_min_max(rest.min, pos2(right, rest.bottom()));
            rest.set_left(right);
            ui.painter().rect_filled(block.shrink(1.0), 2.0, color(ui, t.bits_per_weight));
            let about = format!("{}\n{:?}\n{}\nactivations: {}", t.name, t.shape, kind(t), t.transform);
            ui.interact(block, ui.scope_id().with(&t.name), Sense::hover()).on_hover_text_at_pointer(about);
        }
    }
    ui.add_space(8.0);
    let mut kinds = BTreeMap::<String, (f64, f32)>::new();
    for t in &matrices {
        kinds.entry(kind(t)).or_insert((t.bits_per_weight, 0.0)).1 += bytes(&[t]) * 100.0 / bytes(&matrices);
    }
    for (kind, (bits, percent)) in kinds {
        ui.horizontal(|ui| {
            let (swatch, _) = ui.allocate_exact_size(vec2(12.0, 12.0), Sense::hover());
            ui.painter().rect_filled(swatch, 2.0, color(ui, bits));
            ui.small(format!("{kind}: {percent:.0} %"));
        });
    }
}
