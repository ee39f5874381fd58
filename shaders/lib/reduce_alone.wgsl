// Reductions over a workgroup that is one subgroup, or a part of one.
// provides: reduce_add, reduce_max

fn reduce_add(value: f32, lane: u32) -> f32 {
    workgroupBarrier();
    return subgroupAdd(value);
}

fn reduce_max(value: f32, lane: u32) -> f32 {
    return subgroupMax(value);
}
