// The token of the largest logit, the lowest of equals, goes where the next step reads it; 0xffffffff if a logit
// is not a number (told by its bits: compilers may assume that there is none).
// x: logits of one row.

struct Argmax {
    width: u32,
    slot: u32,
}
@group(0) @binding(3) var<uniform> P: Argmax;
@group(0) @binding(4) var<storage, read> x: array<f32>;
@group(0) @binding(5) var<storage, read_write> chosen: array<u32>;

var<workgroup> best: array<f32, LANES>;
var<workgroup> best_at: array<u32, LANES>;
var<workgroup> broken: atomic<u32>;

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_id) lane: vec3<u32>) {
    if (lane.x == 0u) {
        atomicStore(&broken, 0u);
    }
    workgroupBarrier();
    var value = -3.4e38;
    var at = 0u;
    for (var i = lane.x; i < P.width; i += LANES) {
        if ((bitcast<u32>(x[i]) & 0x7fffffffu) > 0x7f800000u) {
            atomicStore(&broken, 1u);
        }
        if (x[i] > value) {
            value = x[i];
            at = i;
        }
    }
    best[lane.x] = value;
    best_at[lane.x] = at;
    workgroupBarrier();
    for (var width = LANES / 2u; width > 0u; width /= 2u) {
        if (lane.x < width) {
            let other = best[lane.x + width];
            let other_at = best_at[lane.x + width];
            if (other > best[lane.x] || (other == best[lane.x] && other_at < best_at[lane.x])) {
                best[lane.x] = other;
                best_at[lane.x] = other_at;
            }
        }
        workgroupBarrier();
    }
    if (lane.x == 0u) {
        chosen[P.slot] = select(best_at[0], 0xffffffffu, atomicLoad(&broken) == 1u);
    }
}
