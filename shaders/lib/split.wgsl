// How rows lie over lanes, and the sums of rows that SPLIT lanes share: of TILES rows a lane.
// provides: first_row, APART, together    requires: SPLIT, TILES, LANE_ROWS

// From one row of a lane to its next. Where a lane has rows to itself, eight lanes read all rows of a tile together: what
// a CPU fetches ahead is what follows in memory.
const APART: u32 = select(32u, 8u, SPLIT == 1u);

// A lane's first row, of those of its workgroup.
fn first_row(lane: u32) -> u32 {
    return lane / APART * (LANE_ROWS * APART) + lane % APART;
}

var<workgroup> partial: array<f32, 32u * SPLIT * TILES>;

// The sum over the lanes of a row.
fn sum_of(tile: u32, lane: u32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < SPLIT; i++) {
        sum += partial[(tile * SPLIT + i) * 32u + lane];
    }
    return sum;
}

// The sums of the rows of lane.x, for those with lane.y = 0.
fn together(own: vec4<f32>, lane: vec2<u32>) -> vec4<f32> {
    let index = lane.y * 32u + lane.x;
    partial[index] = own.x;
    if (TILES > 1u) {
        partial[32u * SPLIT + index] = own.y;
    }
    if (TILES > 2u) {
        partial[64u * SPLIT + index] = own.z;
        partial[96u * SPLIT + index] = own.w;
    }
    workgroupBarrier();
    var sums = own;
    if (lane.y == 0u) {
        sums.x = sum_of(0u, lane.x);
        if (TILES > 1u) {
            sums.y = sum_of(1u, lane.x);
        }
        if (TILES > 2u) {
            sums.z = sum_of(2u, lane.x);
            sums.w = sum_of(3u, lane.x);
        }
    }
    return sums;
}
