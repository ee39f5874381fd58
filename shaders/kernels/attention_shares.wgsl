// out[head] = Σ_s scale_s·partial[head][s] / Σ_s scale_s·total_s, scale_s = exp(most_s - max most): the shares of
// decode_attention.wgsl become one result. A workgroup a head.
// requires: lib/heads.wgsl, lib/hadamard.wgsl, lib/shares.wgsl, lib/step.wgsl

@group(0) @binding(4) var<storage, read> partial: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> out: array<vec4<f32>>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    let all = seen();
    let used = (all.end - all.start + all.share - 1u) / all.share;
    let first = group.x * SHARES * (D4 + 1u);
    var most = -3.4e38;
    for (var s = 0u; s < used; s++) {
        most = max(most, partial[first + s * (D4 + 1u) + D4].x);
    }
    if (lane.x < D4) {
        var sum = vec4(0.0);
        var total = 0.0;
        for (var s = 0u; s < used; s++) {
            let at = first + s * (D4 + 1u);
            let scale = exp(max(partial[at + D4].x - most, -80.0));
            sum += scale * partial[at + lane.x];
            total += scale * partial[at + D4].y;
        }
        set_head4(lane.x, sum / total);
    }
    workgroupBarrier();
    hadamard(1u, lane.x);
    if (lane.x < D4) {
        out[group.x * D4 + lane.x] = head4(lane.x);
    }
}
