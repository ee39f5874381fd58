// rope.wgsl and attention.wgsl in one, for the one token of a decode step: a workgroup takes a share of the positions for
// the GROUP query heads of one key/value head, so that keys and values are read once (GQA, Ainslie et al. 2023). It makes
// its queries ready by itself; the one with the last position also writes the token's k and v to the cache.
// SHARES = 1: out[head] is the result; else out[head][share] = (Σ weight·v, (most, total, 0, 0)) for attention_shares.wgsl.
// qkv: [1, stride]; cache layout as in rope.wgsl.
// requires: lib/heads.wgsl, lib/head.wgsl, lib/hadamard.wgsl, lib/shares.wgsl, lib/step.wgsl, lib/tanh.wgsl, reduce, cache

@group(0) @binding(5) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> keys: array<Cached>;
@group(0) @binding(8) var<storage, read_write> values: array<Cached>;
@group(0) @binding(9) var<storage, read> qkv: array<f32>;

const SPLIT: u32 = LANES / D4; // lanes that share four columns of the output
var<workgroup> queries: array<vec4<f32>, GROUP * D4>;
var<workgroup> weights: array<f32, GROUP * LANES>;
var<workgroup> sums: array<vec4<f32>, LANES>;

// Adds query · key over the numbers of one entry.
fn add_keys(products: ptr<function, array<vec4<f32>, GROUP>>, entry: Cached, index: u32) {
    for (var j = index * FOURS; j < min((index + 1u) * FOURS, D4); j++) {
        let key = from_cache(entry, j);
        for (var g = 0u; g < GROUP; g++) {
            (*products)[g] += queries[g * D4 + j] * key;
        }
    }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    let kv_head = group.x;
    let all = seen();
    let first = all.start + group.y * all.share;
    if (first >= all.end) {
        return;
    }
    let end = min(first + all.share, all.end);
    let position = all.end - 1u;
    prepare_heads(GROUP, P.q_offset + kv_head * GROUP * HEAD_DIM, Q, position, lane.x);
    for (var i = lane.x; i < GROUP * D4; i += LANES) {
        queries[i] = head4(i) * P.scale;
    }
    workgroupBarrier();
    if (end == all.end) {
        prepare_heads(1u, P.k_offset + kv_head * HEAD_DIM, K, position, lane.x);
        prepare_entries(lane.x);
        for (var i = lane.x; i < ENTRIES; i += LANES) {
            keys[(kv_head * ENTRIES + i) * P.context + position] = to_cache(i);
        }
        workgroupBarrier();
        prepare_heads(1u, P.v_offset + kv_head * HEAD_DIM, V, position, lane.x);
        prepare_entries(lane.x);
        for (var i = lane.x; i < ENTRIES; i += LANES) {
            values[(kv_head * P.context + position) * ENTRIES + i] = to_cache(i);
        }
        storageBarrier();
    }

    let column = lane.x % D4;
    let part = lane.x / D4;
    var most: array<f32, GROUP>;
    var total: array<f32, GROUP>;
    var sum: array<vec4<f32>, GROUP>;
    for (var g = 0u; g < GROUP; g++) {
        most[g] = -3.4e38;
        total[g] = 0.0;
        sum[g] = vec4(0.0);
        if (P.sinks == 1u && group.y == 0u) {
            most[g] = sink(kv_head * GROUP + g);
            total[g] = 1.0;
        }
    }
    for (var tile = first; tile < end; tile += LANES) {
        let at = tile + lane.x;
        var products: array<vec4<f32>, GROUP>;
        for (var g = 0u; g < GROUP; g++) {
            products[g] = vec4(0.0);
        }
        var scales = vec2(1.0); // of the key and of the value
        if (at < end) {
            let first_key = kv_head * ENTRIES * P.context + at;
            // Four at a time, so that the memory has more to do at once.
            for (var i = 0u; i * FOURS < D4; i += 4u) {
                let entries = first_key + min(vec4(i) + vec4(0u, 1u, 2u, 3u), vec4((D4 - 1u) / FOURS)) * P.context;
                let a = keys[entries.x];
                let b = keys[entries.y];
                let c = keys[entries.z];
                let d = keys[entries.w];
                add_keys(&products, a, i);
                add_keys(&products, b, i + 1u);
                add_keys(&products, c, i + 2u);
                add_keys(&products, d, i + 3u);
            }
            if (SCALED) {
                scales.x = scale_from_cache(keys[first_key + (ENTRIES - 1u) * P.context]);
                scales.y = scale_from_cache(values[(kv_head * P.context + at + 1u) * ENTRIES - 1u]);
            }
        }
        for (var g = 0u; g < GROUP; g++) {
            var score = (products[g].x + products[g].y + products[g].z + products[g].w) * scales.x;
            if (P.softcap > 0.0) {
                score = P.softcap * bounded_tanh(score / P.softcap);
            }
            let new_most = max(most[g], reduce_max(select(-3.4e38, score, at < end), lane.x));
            let weight = select(0.0, exp(min(score - new_most, 0.0)), at < end);
            weights[g * LANES + lane.x] = weight * scales.y;
            let shrink = exp(max(most[g] - new_most, -80.0));
            total[g] = total[g] * shrink + reduce_add(weight, lane.x); // its barriers publish `weights`
            sum[g] *= shrink;
            most[g] = new_most;
        }
        if (part < SPLIT) {
            let count = min(LANES, end - tile);
            let first_value = kv_head * P.context + tile;
            for (var i = part; i < count; i += 4u * SPLIT) {
                let own = vec4(i) + SPLIT * vec4(0u, 1u, 2u, 3u);
                let at = min(own, vec4(count - 1u));
                let entries = (first_value + at) * ENTRIES + column / FOURS;
                let a = values[entries.x];
                let b = values[entries.y];
                let c = values[entries.z];
                let d = values[entries.w];
                let within = select(vec4(0.0), vec4(1.0), own < vec4(count));
                for (var g = 0u; g < GROUP; g++) {
                    let w = within * vec4(weights[g * LANES + at.x], weights[g * LANES + at.y],
                                          weights[g * LANES + at.z], weights[g * LANES + at.w]);
                    sum[g] += w.x * from_cache(a, column) + w.y * from_cache(b, column)
                        + w.z * from_cache(c, column) + w.w * from_cache(d, column);
                }
            }
        }
        workgroupBarrier();
    }
    for (var g = 0u; g < GROUP; g++) {
        sums[lane.x] = sum[g];
        workgroupBarrier();
        let query_head = kv_head * GROUP + g;
        if (lane.x < D4) {
            var whole = sum[g];
            for (var i = 1u; i < SPLIT; i++) {
                whole += sums[i * D4 + lane.x];
            }
            if (SHARES == 1u) {
                set_head4(g * D4 + lane.x, whole / total[g]);
            } else {
                out[(query_head * SHARES + group.y) * (D4 + 1u) + lane.x] = whole;
            }
        }
        if (SHARES > 1u && lane.x == 0u) {
            out[(query_head * SHARES + group.y) * (D4 + 1u) + D4] = vec4(most[g], total[g], 0.0, 0.0);
        }
        workgroupBarrier();
    }
    if (SHARES == 1u) {
        hadamard(GROUP, lane.x);
        for (var i = lane.x; i < GROUP * D4; i += LANES) {
            out[kv_head * GROUP * D4 + i] = head4(i);
        }
    }
}
