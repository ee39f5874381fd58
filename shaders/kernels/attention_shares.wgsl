// out[head] = Σ_s scale_s·partial[head][s] / Σ_s scale_s·total_s, scale_s = exp(most_s - max most): the shares of
// decode_attention.wgsl become one result. A workgroup a head.
// requires: lib/heads.wgsl, lib/hadamard.wgsl, lib/shares.wgsl, lib/step.wgsl

@group(0) @binding(4) var<storage, read> partial: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> out: array<vec4<f32>>;

const PARTS: u32 = LANES / D4; // of the shares, which lanes sum at the same time
var<workgroup> sums: array<vec4<f32>, LANES>;
var<workgroup> found: array<vec2<f32>, PARTS>; // most and total of each

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    let all = seen();
    let used = (all.end - all.start + all.share - 1u) / all.share;
    let part = lane.x / D4;
    if (part < PARTS) {
        let column = lane.x % D4;
        var most = -3.4e38;
        var total = 0.0;
        var sum = vec4(0.0);
        // Four at a time, so that the memory has more to do at once.
        for (var s = 4u * part; s < used; s += 4u * PARTS) {
            let own = vec4(s) + vec4(0u, 1u, 2u, 3u);
            let rows = (group.x * SHARES + min(own, vec4(used - 1u))) * (D4 + 1u);
            let a = partial[rows.x + column];
            let b = partial[rows.y + column];
            let c = partial[rows.z + column];
            let d = partial[rows.w + column];
            let e = partial[rows.x + D4];
            let f = partial[rows.y + D4];
            let g = partial[rows.z + D4];
            let h = partial[rows.w + D4];
            let mosts = vec4(e.x, f.x, g.x, h.x);
            let new_most = max(max(max(mosts.x, mosts.y), max(mosts.z, mosts.w)), most);
            let shrink = exp(max(most - new_most, -80.0));
            let scales = select(vec4(0.0), exp(max(mosts - new_most, vec4(-80.0))), own < vec4(used));
            sum = sum * shrink + scales.x * a + scales.y * b + scales.z * c + scales.w * d;
            total = total * shrink + dot(scales, vec4(e.y, f.y, g.y, h.y));
            most = new_most;
        }
        sums[lane.x] = sum;
        if (column == 0u) {
            found[part] = vec2(most, total);
        }
    }
    workgroupBarrier();
    if (lane.x < D4) {
        var most = found[0].x;
        for (var p = 1u; p < PARTS; p++) {
            most = max(most, found[p].x);
        }
        var total = 0.0;
        var sum = vec4(0.0);
        for (var p = 0u; p < PARTS; p++) {
            let scale = exp(max(found[p].x - most, -80.0));
            total += scale * found[p].y;
            sum += scale * sums[p * D4 + lane.x];
        }
        set_head4(lane.x, sum / total);
    }
    workgroupBarrier();
    hadamard(1u, lane.x);
    if (lane.x < D4) {
        out[group.x * D4 + lane.x] = head4(lane.x);
    }
}
