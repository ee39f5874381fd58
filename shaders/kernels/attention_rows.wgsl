// As attention.wgsl, for adapters that are CPUs: a lane owns a token, keeps its query and sum in registers and meets no
// barrier; neighbouring lanes read the same keys and values. Caches that are transformed go by attention.wgsl, and so do
// long ones: llvmpipe ends a lane's loops after 65535 turns in all. Hence four vectors a turn; D4 is a multiple of four.
// requires: lib/heads.wgsl, lib/hadamard.wgsl, lib/head_plain.wgsl, lib/step.wgsl, lib/tanh.wgsl, cache

@group(0) @binding(4) var<storage, read> qkv: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> keys: array<Cached>;
@group(0) @binding(8) var<storage, read> values: array<Cached>;

fn key4(first: u32, i: u32) -> vec4<f32> {
    return from_cache(keys[first + i / FOURS * P.context], i);
}

fn value4(first: u32, i: u32) -> vec4<f32> {
    return from_cache(values[first + i / FOURS], i);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    let token = group.y * LANES + lane.x;
    if (token >= step[TOKENS]) {
        return;
    }
    let head_index = group.x;
    let kv_head = head_index / (P.heads / P.kv_heads);
    let end = step[POSITION] + token + 1u;
    var start = 0u;
    if (end > P.window) {
        start = end - P.window;
    }
    let source = token * P.stride + P.q_offset + head_index * HEAD_DIM;
    var query: array<vec4<f32>, D4>;
    var sum: array<vec4<f32>, D4>;
    for (var i = 0u; i < D4; i++) {
        let at = source + 4u * i;
        query[i] = vec4(qkv[at], qkv[at + 1u], qkv[at + 2u], qkv[at + 3u]) * P.scale;
        sum[i] = vec4(0.0);
    }
    var most = -3.4e38;
    var total = 0.0;
    if (P.sinks == 1u) {
        most = sink(head_index);
        total = 1.0;
    }
    for (var position = start; position < end; position++) {
        let key = kv_head * ENTRIES * P.context + position;
        var products = vec4(0.0);
        for (var i = 0u; i < D4; i += 4u) {
            products += query[i] * key4(key, i) + query[i + 1u] * key4(key, i + 1u);
            products += query[i + 2u] * key4(key, i + 2u) + query[i + 3u] * key4(key, i + 3u);
        }
        var score = products.x + products.y + products.z + products.w;
        if (SCALED) {
            score *= scale_from_cache(keys[key + (ENTRIES - 1u) * P.context]);
        }
        if (P.softcap > 0.0) {
            score = P.softcap * bounded_tanh(score / P.softcap);
        }
        let new_most = max(most, score);
        let shrink = exp(max(most - new_most, -80.0));
        var weight = exp(max(score - new_most, -80.0));
        total = total * shrink + weight;
        let value = (kv_head * P.context + position) * ENTRIES;
        if (SCALED) {
            weight *= scale_from_cache(values[value + ENTRIES - 1u]);
        }
        for (var i = 0u; i < D4; i += 4u) {
            sum[i] = sum[i] * shrink + weight * value4(value, i);
            sum[i + 1u] = sum[i + 1u] * shrink + weight * value4(value, i + 1u);
            sum[i + 2u] = sum[i + 2u] * shrink + weight * value4(value, i + 2u);
            sum[i + 3u] = sum[i + 3u] * shrink + weight * value4(value, i + 3u);
        }
        most = new_most;
    }
    for (var i = 0u; i < D4; i++) {
        out[(token * P.heads + head_index) * D4 + i] = sum[i] / total;
    }
}
