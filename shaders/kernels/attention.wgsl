// out[t, head] = softmax(scale·q·Kᵀ)·V, causal, grouped queries; one head of one token a workgroup.
// Scores may be capped (Gemma 2), and a sink for each head may take its share of the softmax (gpt-oss).
// The positions go by in tiles of LANES with an online softmax (Milakov & Gimelshein 2018).
// qkv: [tokens, stride], out: [tokens, heads · head_dim]; cache layout as in rope.wgsl.
// requires: lib/heads.wgsl, lib/hadamard.wgsl, lib/head_plain.wgsl, lib/step.wgsl, lib/tanh.wgsl, reduce, cache

@group(0) @binding(4) var<storage, read> qkv: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> keys: array<Cached>;
@group(0) @binding(8) var<storage, read> values: array<Cached>;

const SPLIT: u32 = LANES / D4; // lanes that share four columns of the output
var<workgroup> query: array<vec4<f32>, D4>;
var<workgroup> weights: array<f32, LANES>;
var<workgroup> sums: array<vec4<f32>, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    let token = group.y;
    let head_index = group.x;
    let kv_head = head_index / (P.heads / P.kv_heads);
    let end = step[POSITION] + token + 1u;
    var start = 0u;
    if (end > P.window) {
        start = end - P.window;
    }
    let source = token * P.stride + P.q_offset + head_index * HEAD_DIM;
    for (var i = lane.x; i < D4; i += LANES) {
        let at = source + 4u * i;
        query[i] = vec4(qkv[at], qkv[at + 1u], qkv[at + 2u], qkv[at + 3u]) * P.scale;
    }
    workgroupBarrier();

    let column = lane.x % D4;
    let share = lane.x / D4;
    var most = -3.4e38;
    var total = 0.0;
    if (P.sinks == 1u) {
        most = sink(head_index);
        total = 1.0;
    }
    var sum = vec4(0.0);
    for (var first = start; first < end; first += LANES) {
        let position = first + lane.x;
        var score = -3.4e38;
        if (position < end) {
            var products = vec4(0.0);
            let first_key = kv_head * ENTRIES * P.context + position;
            for (var i = 0u; i < D4; i += FOURS) {
                let entry = keys[first_key + i / FOURS * P.context];
                for (var j = i; j < min(i + FOURS, D4); j++) {
                    products += query[j] * from_cache(entry, j);
                }
            }
            score = products.x + products.y + products.z + products.w;
            if (SCALED) {
                score *= scale_from_cache(keys[first_key + (ENTRIES - 1u) * P.context]);
            }
            if (P.softcap > 0.0) {
                score = P.softcap * bounded_tanh(score / P.softcap);
            }
        }
        let new_most = max(most, reduce_max(score, lane.x));
        var weight = 0.0;
        if (position < end) {
            weight = exp(score - new_most);
        }
        weights[lane.x] = weight;
        if (SCALED && position < end) {
            weights[lane.x] *= scale_from_cache(values[(kv_head * P.context + position + 1u) * ENTRIES - 1u]);
        }
        let shrink = exp(max(most - new_most, -80.0));
        total = total * shrink + reduce_add(weight, lane.x); // its barriers publish `weights`
        sum *= shrink;
        if (share < SPLIT) {
            let count = min(LANES, end - first);
            for (var i = share; i < count; i += SPLIT) {
                let at = (kv_head * P.context + first + i) * ENTRIES + column / FOURS;
                sum += weights[i] * from_cache(values[at], column);
            }
        }
        most = new_most;
        workgroupBarrier();
    }
    sums[lane.x] = sum;
    workgroupBarrier();
    if (lane.x < D4) {
        for (var i = 1u; i < SPLIT; i++) {
            sum += sums[i * D4 + lane.x];
        }
        set_head4(lane.x, sum / total);
    }
    workgroupBarrier();
    hadamard(1u, lane.x);
    if (lane.x < D4) {
        out[(token * P.heads + head_index) * D4 + lane.x] = head4(lane.x);
    }
}
