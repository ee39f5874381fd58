// Attention of QUERIES queries, which share the keys and values that are read: positions go by in tiles of LANES with an
// online softmax (Milakov & Gimelshein 2018). Scores may be capped (Gemma 2); a sink may take a share of the softmax
// (gpt-oss). Entries of the cache are asked for AHEAD at a time, so that the memory has more to do at once.
// provides: queries (scaled, filled by the kernel), most, total, begin, attend, column_sum
// requires: keys, values, sees, lib/heads.wgsl, lib/tanh.wgsl, reduce, cache

const SPLIT: u32 = LANES / D4; // lanes that share four columns of a sum
var<workgroup> queries: array<vec4<f32>, QUERIES * D4>;
var<workgroup> weights: array<f32, QUERIES * LANES>;
var<workgroup> sums: array<vec4<f32>, LANES>;
var<private> most: array<f32, QUERIES>;  // of a query's scores
var<private> total: array<f32, QUERIES>; // Σ weight
var<private> sum: array<vec4<f32>, QUERIES>; // Σ weight·v, this lane's part

fn begin(q: u32, first_most: f32, first_total: f32) {
    most[q] = first_most;
    total[q] = first_total;
    sum[q] = vec4(0.0);
}

// Positions start .. end, as far as `sees(q, position)` lets query q; all lanes together, after a barrier.
fn attend(kv_head: u32, start: u32, end: u32, lane: u32) {
    let column = lane % D4;
    let part = lane / D4;
    for (var tile = start; tile < end; tile += LANES) {
        let at = tile + lane;
        var products: array<vec4<f32>, QUERIES>;
        for (var q = 0u; q < QUERIES; q++) {
            products[q] = vec4(0.0);
        }
        var scales = vec2(1.0); // of the key and of the value
        if (at < end) {
            let first_key = kv_head * ENTRIES * P.context + at;
            for (var i = 0u; i * FOURS < D4; i += AHEAD) {
                var some: array<Cached, AHEAD>;
                for (var k = 0u; k < AHEAD; k++) {
                    some[k] = keys[first_key + min(i + k, (D4 - 1u) / FOURS) * P.context];
                }
                for (var k = 0u; k < AHEAD; k++) {
                    for (var j = (i + k) * FOURS; j < min((i + k + 1u) * FOURS, D4); j++) {
                        let key = from_cache(some[k], j);
                        for (var q = 0u; q < QUERIES; q++) {
                            products[q] += queries[q * D4 + j] * key;
                        }
                    }
                }
            }
            if (SCALED) {
                scales.x = scale_from_cache(keys[first_key + (ENTRIES - 1u) * P.context]);
                scales.y = scale_from_cache(values[(kv_head * P.context + at + 1u) * ENTRIES - 1u]);
            }
        }
        for (var q = 0u; q < QUERIES; q++) {
            var score = (products[q].x + products[q].y + products[q].z + products[q].w) * scales.x;
            if (P.softcap > 0.0) {
                score = P.softcap * bounded_tanh(score / P.softcap);
            }
            let counts = at < end && sees(q, at);
            let new_most = max(most[q], reduce_max(select(-3.4e38, score, counts), lane));
            let weight = select(0.0, exp(min(score - new_most, 0.0)), counts);
            weights[q * LANES + lane] = weight * scales.y;
            let shrink = exp(max(most[q] - new_most, -80.0));
            total[q] = total[q] * shrink + reduce_add(weight, lane); // its barriers publish `weights`
            sum[q] *= shrink;
            most[q] = new_most;
        }
        if (part < SPLIT) {
            let count = min(LANES, end - tile);
            let first_value = kv_head * P.context + tile;
            for (var i = part; i < count; i += AHEAD * SPLIT) {
                var some: array<Cached, AHEAD>;
                for (var k = 0u; k < AHEAD; k++) {
                    some[k] = values[(first_value + min(i + k * SPLIT, count - 1u)) * ENTRIES + column / FOURS];
                }
                for (var k = 0u; k < AHEAD; k++) {
                    let own = i + k * SPLIT;
                    let value = from_cache(some[k], column);
                    for (var q = 0u; q < QUERIES; q++) {
                        sum[q] += select(0.0, weights[q * LANES + min(own, count - 1u)], own < count) * value;
                    }
                }
            }
        }
        workgroupBarrier();
    }
}

// Four columns of Σ weight·v of a query, for lanes below D4; all lanes together.
fn column_sum(q: u32, lane: u32) -> vec4<f32> {
    sums[lane] = sum[q];
    workgroupBarrier();
    var whole = sum[q];
    if (lane < D4) {
        for (var i = 1u; i < SPLIT; i++) {
            whole += sums[i * D4 + lane];
        }
    }
    workgroupBarrier();
    return whole;
}
