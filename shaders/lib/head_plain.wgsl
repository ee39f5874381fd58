// Heads without a norm of their own; each may have a score without a value that takes its share of the softmax (gpt-oss).
// provides: norm_head, sink

@group(0) @binding(1) var<storage, read> sinks: array<f32>;

fn norm_head(h: u32, is_q: bool, lane: u32) {}

fn sink(index: u32) -> f32 {
    return sinks[index];
}
