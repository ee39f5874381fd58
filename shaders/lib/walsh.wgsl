// Fast Walsh-Hadamard transforms, not scaled, of runs of LENGTH (a power of two) in workgroup memory.
// A run is as many vectors as it fills, one at least.
// provides: block, within, walsh    requires: LENGTH, ROOM (vectors), LANES

var<workgroup> block: array<vec4<f32>, ROOM>;

// The stages inside a vector, before it goes into the block.
fn within(v: vec4<f32>) -> vec4<f32> {
    if (LENGTH == 1u) {
        return v;
    }
    let pairs = vec4(v.x + v.y, v.x - v.y, v.z + v.w, v.z - v.w);
    if (LENGTH == 2u) {
        return pairs;
    }
    return vec4(pairs.xy + pairs.zw, pairs.xy - pairs.zw);
}

// The others of the first `count` vectors, two at a time and what is left over; all lanes together, before and after a barrier.
fn walsh(count: u32, lane: u32) {
    var apart = 1u;
    for (; 16u * apart <= LENGTH; apart *= 4u) {
        for (var i = lane; i < count / 4u; i += LANES) {
            let at = ((i & ~(apart - 1u)) << 2u) | (i & (apart - 1u));
            let a = block[at];
            let b = block[at + apart];
            let c = block[at + 2u * apart];
            let d = block[at + 3u * apart];
            let ab = a + b;
            let cd = c + d;
            block[at] = ab + cd;
            block[at + 2u * apart] = ab - cd;
            let a_b = a - b;
            let c_d = c - d;
            block[at + apart] = a_b + c_d;
            block[at + 3u * apart] = a_b - c_d;
        }
        workgroupBarrier();
    }
    if (4u * apart < LENGTH) {
        for (var i = lane; i < count / 2u; i += LANES) {
            let at = ((i & ~(apart - 1u)) << 1u) | (i & (apart - 1u));
            let a = block[at];
            let b = block[at + apart];
            block[at] = a + b;
            block[at + apart] = a - b;
        }
        workgroupBarrier();
    }
}
