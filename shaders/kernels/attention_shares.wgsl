// out[head] = Σ_s scale_s·partial[head][s] / Σ_s scale_s·total_s, scale_s = exp(most_s - max most): the shares of
// decode_attention.wgsl become one result. A workgroup a head.
// requires: lib/heads.wgsl, lib/hadamard.wgsl, lib/shares.wgsl, lib/step.wgsl

@group(0) @binding(4) var<storage, read> partial: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> out: array<vec4<f32>>;

var<workgroup> found: array<vec2<f32>, SHARES>; // most and total of each share

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    let all = seen();
    let used = (all.end - all.start + all.share - 1u) / all.share;
    let first = group.x * SHARES * (D4 + 1u);
    for (var s = lane.x; s < used; s += LANES) {
        found[s] = partial[first + s * (D4 + 1u) + D4].xy;
    }
    workgroupBarrier();
    var most = -3.4e38;
    for (var s = 0u; s < used; s++) {
        most = max(most, found[s].x);
    }
    if (lane.x < D4) {
        var sum = vec4(0.0);
        var total = 0.0;
        // Four at a time, so that the memory has more to do at once.
        for (var s = 0u; s < used; s += 4u) {
            let own = vec4(s) + vec4(0u, 1u, 2u, 3u);
            let at = min(own, vec4(used - 1u));
            let rows = first + at * (D4 + 1u) + lane.x;
            let a = partial[rows.x];
            let b = partial[rows.y];
            let c = partial[rows.z];
            let d = partial[rows.w];
            let mosts = vec4(found[at.x].x, found[at.y].x, found[at.z].x, found[at.w].x);
            let scales = select(vec4(0.0), exp(max(mosts - most, vec4(-80.0))), own < vec4(used));
            sum += scales.x * a + scales.y * b + scales.z * c + scales.w * d;
            total += dot(scales, vec4(found[at.x].y, found[at.y].y, found[at.z].y, found[at.w].y));
        }
        set_head4(lane.x, sum / total);
    }
    workgroupBarrier();
    hadamard(1u, lane.x);
    if (lane.x < D4) {
        out[group.x * D4 + lane.x] = head4(lane.x);
    }
}
