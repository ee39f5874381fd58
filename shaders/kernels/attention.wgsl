// out[t, head] = softmax(scale·q·Kᵀ)·V, causal, grouped queries; one head of QUERIES tokens a workgroup.
// qkv: [tokens, stride], out: [tokens, heads · head_dim]; cache layout as in rope.wgsl.
// requires: lib/heads.wgsl, lib/hadamard.wgsl, lib/head_plain.wgsl, lib/attend.wgsl, lib/step.wgsl, lib/tanh.wgsl, reduce, cache

@group(0) @binding(4) var<storage, read> qkv: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> keys: array<Cached>;
@group(0) @binding(8) var<storage, read> values: array<Cached>;

var<private> first_end: u32; // of the positions that the first query sees

fn sees(position: u32) -> vec4<bool> {
    let ends = vec4(first_end) + vec4(0u, 1u, 2u, 3u);
    return (vec4(position) < ends) & (ends - vec4(position) <= vec4(P.window));
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    let head_index = group.x;
    let first_token = group.y * QUERIES;
    let tokens = min(QUERIES, step[TOKENS] - first_token);
    let own_end = step[POSITION] + first_token + 1u;
    first_end = own_end;
    for (var i = lane.x; i < QUERIES * D4; i += LANES) {
        // Queries beyond the tokens repeat the last one, and are not stored.
        let token = first_token + min(i / D4, tokens - 1u);
        let at = token * P.stride + P.q_offset + head_index * HEAD_DIM + 4u * (i % D4);
        queries[i] = vec4(qkv[at], qkv[at + 1u], qkv[at + 2u], qkv[at + 3u]) * P.scale;
    }
    if (P.sinks == 1u) {
        begin(vec4(sink(head_index)), 1.0);
    } else {
        begin(vec4(-3.4e38), 0.0);
    }
    workgroupBarrier();
    attend(head_index / (P.heads / P.kv_heads), own_end - min(own_end, P.window), own_end + tokens - 1u, lane.x);
    for (var q = 0u; q < tokens; q++) {
        let sum = column_sum(q, lane.x);
        if (lane.x < D4) {
            set_head4(lane.x, sum / total[q]);
        }
        workgroupBarrier();
        hadamard(1u, lane.x);
        if (lane.x < D4) {
            out[((first_token + q) * P.heads + head_index) * D4 + lane.x] = head4(lane.x);
        }
    }
}
