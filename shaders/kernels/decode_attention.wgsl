// rope.wgsl and attention.wgsl in one, for the one token of a decode step: a workgroup takes a share of the positions for
// QUERIES of the GROUP query heads of a key/value head, so that keys and values are read once (GQA, Ainslie et al. 2023).
// It makes its queries ready by itself; those with the last position also write the token's k and v to the cache.
// SHARES = 1: out[head] is the result; else out[head][share] = (Σ weight·v, (most, total, 0, 0)) for attention_shares.wgsl.
// qkv: [1, stride]; cache layout as in rope.wgsl.
// requires: lib/heads.wgsl, lib/head.wgsl, lib/hadamard.wgsl, lib/attend.wgsl, lib/shares.wgsl, lib/step.wgsl,
// lib/tanh.wgsl, reduce, cache

@group(0) @binding(5) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> keys: array<Cached>;
@group(0) @binding(8) var<storage, read_write> values: array<Cached>;
@group(0) @binding(9) var<storage, read> qkv: array<f32>;

const PARTS: u32 = (GROUP + QUERIES - 1u) / QUERIES;

// A query sees all of its share.
fn sees(position: u32) -> vec4<bool> {
    return vec4(true);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    let kv_head = group.x / PARTS;
    let first_head = kv_head * GROUP + min(group.x % PARTS * QUERIES, GROUP - QUERIES); // parts may overlap
    let all = seen();
    let first = all.start + group.y * all.share;
    if (first >= all.end) {
        return;
    }
    let end = min(first + all.share, all.end);
    // Its queries, and where the last position is, after them k and v.
    let writes = end == all.end;
    load_heads(0u, QUERIES, P.q_offset + first_head * HEAD_DIM, lane.x);
    if (writes) {
        load_heads(QUERIES, 1u, P.k_offset + kv_head * HEAD_DIM, lane.x);
        load_heads(QUERIES + 1u, 1u, P.v_offset + kv_head * HEAD_DIM, lane.x);
    }
    workgroupBarrier();
    for (var g = 0u; g < QUERIES; g++) {
        norm_head(g, true, lane.x);
    }
    if (writes) {
        norm_head(QUERIES, false, lane.x);
    }
    rotate_heads(QUERIES + u32(writes), all.end - 1u, lane.x);
    hadamard(QUERIES + 2u * u32(writes), lane.x);
    for (var i = lane.x; i < QUERIES * D4; i += LANES) {
        queries[i] = head4(i) * P.scale;
    }
    if (writes) {
        prepare_entries(QUERIES, lane.x);
        for (var i = lane.x; i < ENTRIES; i += LANES) {
            keys[(kv_head * ENTRIES + i) * P.context + all.end - 1u] = to_cache(QUERIES, i);
        }
        workgroupBarrier();
        prepare_entries(QUERIES + 1u, lane.x);
        for (var i = lane.x; i < ENTRIES; i += LANES) {
            values[(kv_head * P.context + all.end - 1u) * ENTRIES + i] = to_cache(QUERIES + 1u, i);
        }
        storageBarrier();
    }
    workgroupBarrier();

    if (P.sinks == 1u && group.y == 0u) {
        let heads = min(first_head + vec4(0u, 1u, 2u, 3u), vec4(P.heads - 1u));
        begin(vec4(sink(heads.x), sink(heads.y), sink(heads.z), sink(heads.w)), 1.0);
    } else {
        begin(vec4(-3.4e38), 0.0);
    }
    attend(kv_head, first, end, lane.x);
    for (var g = 0u; g < QUERIES; g++) {
        let sum = column_sum(g, lane.x);
        let share = ((first_head + g) * SHARES + group.y) * (D4 + 1u);
        if (lane.x < D4) {
            if (SHARES == 1u) {
                set_head4(g * D4 + lane.x, sum / total[g]);
            } else {
                out[share + lane.x] = sum;
            }
        }
        if (SHARES > 1u && lane.x == 0u) {
            out[share + D4] = vec4(most[g], total[g], 0.0, 0.0);
        }
    }
    if (SHARES == 1u) {
        workgroupBarrier();
        hadamard(QUERIES, lane.x);
        for (var i = lane.x; i < QUERIES * D4; i += LANES) {
            out[first_head * D4 + i] = head4(i);
        }
    }
}
