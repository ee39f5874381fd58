// Reductions over a workgroup of LANES: inside each subgroup first, then over one value a subgroup.
// Right for any subgroup size, uneven ones too: every lane counts the subgroups by their first lanes.
// provides: reduce_add, reduce_max

var<workgroup> reduction: array<f32, LANES / 4u>; // the smallest subgroup has four lanes
var<workgroup> leaders: atomic<u32>;

// Puts one value a subgroup side by side in `reduction`; returns how many there are.
fn gather_leaders(value: f32, lane: u32) -> u32 {
    if (lane == 0u) {
        atomicStore(&leaders, 0u);
    }
    workgroupBarrier();
    if (lane == subgroupMin(lane)) {
        reduction[atomicAdd(&leaders, 1u)] = value;
    }
    workgroupBarrier();
    return atomicLoad(&leaders);
}

fn reduce_add(value: f32, lane: u32) -> f32 {
    let count = gather_leaders(subgroupAdd(value), lane);
    var total = 0.0;
    for (var i = 0u; i < count; i++) {
        total += reduction[i];
    }
    workgroupBarrier();
    return total;
}

fn reduce_max(value: f32, lane: u32) -> f32 {
    let count = gather_leaders(subgroupMax(value), lane);
    var most = reduction[0];
    for (var i = 1u; i < count; i++) {
        most = max(most, reduction[i]);
    }
    workgroupBarrier();
    return most;
}
