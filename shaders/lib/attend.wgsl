// Attention of up to four queries (QUERIES), which share the keys and values that are read: positions go by in tiles of
// LANES with an online softmax (Milakov & Gimelshein 2018). Scores may be capped (Gemma 2); a sink may take a share of the
// softmax (gpt-oss). Eight entries of the cache are asked for at once: one after the other, each takes a GPU a round trip
// to its memory.
// provides: queries (scaled, filled by the kernel), most, total, begin, attend, column_sum
// requires: keys, values, sees, lib/heads.wgsl, lib/tanh.wgsl, reduce, cache

const SPLIT: u32 = LANES / D4; // lanes that share four columns of a sum
const NUMBERS: u32 = (D4 + FOURS - 1u) / FOURS; // entries of a head that are no scale
var<workgroup> queries: array<vec4<f32>, QUERIES * D4>;
var<workgroup> weights: array<vec4<f32>, LANES>; // of each query
var<workgroup> sums: array<vec4<f32>, LANES>;
var<private> most: vec4<f32>;  // of a query's scores
var<private> total: vec4<f32>; // Σ weight
var<private> part_sum: Four;   // Σ weight·v over this lane's part of the positions

// A vector of each query.
struct Four {
    a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>,
}

fn begin(first_most: vec4<f32>, first_total: f32) {
    most = first_most;
    total = vec4(first_total);
    part_sum = Four();
}

// Of the entry of a key that begins at `first`; beyond the last one, that.
fn key_at(first: u32, i: u32) -> u32 {
    return first + min(i, NUMBERS - 1u) * P.context;
}

fn add_key(products: Four, key: vec4<f32>, j: u32) -> Four {
    var all = products;
    all.a += queries[j] * key;
    if (QUERIES > 1u) {
        all.b += queries[D4 + j] * key;
    }
    if (QUERIES > 2u) {
        all.c += queries[2u * D4 + j] * key;
    }
    if (QUERIES > 3u) {
        all.d += queries[3u * D4 + j] * key;
    }
    return all;
}

// Adds the numbers of entry i of a key.
fn add_entry(products: Four, entry: Cached, i: u32) -> Four {
    var all = products;
    if (NUMBERS % 8u == 0u || i < NUMBERS) {
        all = add_key(all, from_cache(entry, i * FOURS), i * FOURS);
        if (FOURS == 2u) {
            let j = 2u * i + 1u; // beyond the last number there is 0
            all = add_key(all, from_cache(entry, j), min(j, D4 - 1u));
        }
    }
    return all;
}

fn add_value(own: Four, entry: Cached, column: u32, position: u32) -> Four {
    var all = own;
    if (LANES % (8u * SPLIT) == 0u || position < LANES) {
        let weight = weights[position]; // 0 beyond the end
        let value = from_cache(entry, column);
        all.a += weight.x * value;
        if (QUERIES > 1u) {
            all.b += weight.y * value;
        }
        if (QUERIES > 2u) {
            all.c += weight.z * value;
        }
        if (QUERIES > 3u) {
            all.d += weight.w * value;
        }
    }
    return all;
}

// As the reductions are, for the queries there are.
fn largest4(v: vec4<f32>, lane: u32) -> vec4<f32> {
    var all = v;
    all.x = reduce_max(v.x, lane);
    if (QUERIES > 1u) {
        all.y = reduce_max(v.y, lane);
    }
    if (QUERIES > 2u) {
        all.z = reduce_max(v.z, lane);
    }
    if (QUERIES > 3u) {
        all.w = reduce_max(v.w, lane);
    }
    return all;
}

fn total4(v: vec4<f32>, lane: u32) -> vec4<f32> {
    var all = v;
    all.x = reduce_add(v.x, lane);
    if (QUERIES > 1u) {
        all.y = reduce_add(v.y, lane);
    }
    if (QUERIES > 2u) {
        all.z = reduce_add(v.z, lane);
    }
    if (QUERIES > 3u) {
        all.w = reduce_add(v.w, lane);
    }
    return all;
}

// Positions start .. end, as far as `sees(position)` lets each query; all lanes together, after a barrier.
fn attend(kv_head: u32, start: u32, end: u32, lane: u32) {
    let column = lane % D4;
    let part = lane / D4;
    for (var tile = start; tile < end; tile += LANES) {
        let at = tile + lane;
        var products = Four();
        var scales = vec2(1.0); // of the key and of the value
        if (at < end) {
            let first_key = kv_head * ENTRIES * P.context + at;
            for (var i = 0u; i < NUMBERS; i += 8u) {
                let a = keys[key_at(first_key, i)];
                let b = keys[key_at(first_key, i + 1u)];
                let c = keys[key_at(first_key, i + 2u)];
                let d = keys[key_at(first_key, i + 3u)];
                let e = keys[key_at(first_key, i + 4u)];
                let f = keys[key_at(first_key, i + 5u)];
                let g = keys[key_at(first_key, i + 6u)];
                let h = keys[key_at(first_key, i + 7u)];
                products = add_entry(products, a, i);
                products = add_entry(products, b, i + 1u);
                products = add_entry(products, c, i + 2u);
                products = add_entry(products, d, i + 3u);
                products = add_entry(products, e, i + 4u);
                products = add_entry(products, f, i + 5u);
                products = add_entry(products, g, i + 6u);
                products = add_entry(products, h, i + 7u);
            }
            if (SCALED) {
                scales.x = scale_from_cache(keys[first_key + (ENTRIES - 1u) * P.context]);
                scales.y = scale_from_cache(values[(kv_head * P.context + at + 1u) * ENTRIES - 1u]);
            }
        }
        let ones = vec4(1.0);
        var scores = vec4(dot(products.a, ones), dot(products.b, ones), dot(products.c, ones), dot(products.d, ones));
        scores *= scales.x;
        if (P.softcap > 0.0) {
            let s = scores / P.softcap;
            scores = P.softcap * vec4(bounded_tanh(s.x), bounded_tanh(s.y), bounded_tanh(s.z), bounded_tanh(s.w));
        }
        let counts = sees(at) & vec4(at < end);
        let new_most = max(most, largest4(select(vec4(-3.4e38), scores, counts), lane));
        let weight = select(vec4(0.0), exp(min(scores - new_most, vec4(0.0))), counts);
        weights[lane] = weight * scales.y;
        let shrink = exp(max(most - new_most, vec4(-80.0)));
        total = total * shrink + total4(weight, lane); // its barriers publish `weights`
        most = new_most;
        part_sum = Four(part_sum.a * shrink.x, part_sum.b * shrink.y, part_sum.c * shrink.z, part_sum.d * shrink.w);
        if (part < SPLIT) {
            let last = min(LANES, end - tile) - 1u;
            let first_value = (kv_head * P.context + tile) * ENTRIES + column / FOURS;
            for (var i = part; i <= last; i += 8u * SPLIT) {
                let a = values[first_value + min(i, last) * ENTRIES];
                let b = values[first_value + min(i + SPLIT, last) * ENTRIES];
                let c = values[first_value + min(i + 2u * SPLIT, last) * ENTRIES];
                let d = values[first_value + min(i + 3u * SPLIT, last) * ENTRIES];
                let e = values[first_value + min(i + 4u * SPLIT, last) * ENTRIES];
                let f = values[first_value + min(i + 5u * SPLIT, last) * ENTRIES];
                let g = values[first_value + min(i + 6u * SPLIT, last) * ENTRIES];
                let h = values[first_value + min(i + 7u * SPLIT, last) * ENTRIES];
                part_sum = add_value(part_sum, a, column, i);
                part_sum = add_value(part_sum, b, column, i + SPLIT);
                part_sum = add_value(part_sum, c, column, i + 2u * SPLIT);
                part_sum = add_value(part_sum, d, column, i + 3u * SPLIT);
                part_sum = add_value(part_sum, e, column, i + 4u * SPLIT);
                part_sum = add_value(part_sum, f, column, i + 5u * SPLIT);
                part_sum = add_value(part_sum, g, column, i + 6u * SPLIT);
                part_sum = add_value(part_sum, h, column, i + 7u * SPLIT);
            }
        }
        workgroupBarrier();
    }
}

// Four columns of Σ weight·v of query q, for lanes below D4; all lanes together.
fn column_sum(q: u32, lane: u32) -> vec4<f32> {
    var all = array(part_sum.a, part_sum.b, part_sum.c, part_sum.d);
    var whole = all[q];
    sums[lane] = whole;
    workgroupBarrier();
    if (lane < D4) {
        for (var i = 1u; i < SPLIT; i++) {
            whole += sums[i * D4 + lane];
        }
    }
    workgroupBarrier();
    return whole;
}
