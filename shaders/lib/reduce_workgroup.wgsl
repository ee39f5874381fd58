// Reductions over a workgroup of LANES (a power of two) by a tree in workgroup memory.
// provides: reduce_add, reduce_max

var<workgroup> reduction: array<f32, LANES>;

fn reduce_add(value: f32, lane: u32) -> f32 {
    reduction[lane] = value;
    workgroupBarrier();
    for (var width = LANES / 2u; width > 0u; width /= 2u) {
        if (lane < width) {
            reduction[lane] += reduction[lane + width];
        }
        workgroupBarrier();
    }
    let total = reduction[0];
    workgroupBarrier();
    return total;
}

fn reduce_max(value: f32, lane: u32) -> f32 {
    reduction[lane] = value;
    workgroupBarrier();
    for (var width = LANES / 2u; width > 0u; width /= 2u) {
        if (lane < width) {
            reduction[lane] = max(reduction[lane], reduction[lane + width]);
        }
        workgroupBarrier();
    }
    let most = reduction[0];
    workgroupBarrier();
    return most;
}
