// How rows lie over lanes, and the sums of rows that SPLIT lanes share, ABREAST of them side by side: of TILES rows a lane.
// Side by side, lanes load less: what is loaded for one row serves all of a lane's, and a workgroup needs no more rows.
// provides: first_row, ACROSS, APART, share_of, together    requires: SPLIT, ABREAST, TILES, LANE_ROWS

// Lanes side by side whose rows differ.
const ACROSS: u32 = 32u / ABREAST;

// From one row of a lane to its next. Where a lane has rows to itself, eight lanes read all rows of a tile together: what
// a CPU fetches ahead is what follows in memory.
const APART: u32 = select(ACROSS, 8u, SPLIT == 1u);

// A lane's first row, of those of its workgroup.
fn first_row(lane: u32) -> u32 {
    let i = lane % ACROSS;
    return i / APART * (LANE_ROWS * APART) + i % APART;
}

// Which of the lanes that share its rows a lane is.
fn share_of(lane: vec2<u32>) -> u32 {
    return lane.y * ABREAST + lane.x / ACROSS;
}

var<workgroup> partial: array<f32, ACROSS * SPLIT * TILES>;

// The sum over the lanes of a row.
fn sum_of(tile: u32, lane: u32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < SPLIT; i++) {
        sum += partial[(tile * SPLIT + i) * ACROSS + lane];
    }
    return sum;
}

// The sums of a lane's rows, for those with share 0.
fn together(own: vec4<f32>, lane: vec2<u32>) -> vec4<f32> {
    let index = lane.y * 32u + lane.x;
    partial[index] = own.x;
    if (TILES > 1u) {
        partial[ACROSS * SPLIT + index] = own.y;
    }
    if (TILES > 2u) {
        partial[2u * ACROSS * SPLIT + index] = own.z;
        partial[3u * ACROSS * SPLIT + index] = own.w;
    }
    workgroupBarrier();
    var sums = own;
    if (share_of(lane) == 0u) {
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
