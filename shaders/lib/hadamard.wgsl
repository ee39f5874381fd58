// Heads in workgroup memory, and their orthonormal Hadamard transform in blocks of HADAMARD (1: none).
// provides: head, head4, set_head4, hadamard    requires: lib/heads.wgsl, HELD (heads), LANES, HADAMARD

var<workgroup> head: array<f32, HELD * HEAD_DIM>;

fn head4(i: u32) -> vec4<f32> {
    return vec4(head[4u * i], head[4u * i + 1u], head[4u * i + 2u], head[4u * i + 3u]);
}

fn set_head4(i: u32, v: vec4<f32>) {
    head[4u * i] = v.x;
    head[4u * i + 1u] = v.y;
    head[4u * i + 2u] = v.z;
    head[4u * i + 3u] = v.w;
}

// Transforms the first `count` heads; all lanes together, before and after a barrier.
fn hadamard(count: u32, lane: u32) {
    for (var half = 1u; half < HADAMARD; half *= 2u) {
        for (var i = lane; i < count * HEAD_DIM / 2u; i += LANES) {
            let low = (i / half) * 2u * half + i % half;
            let a = head[low];
            let b = head[low + half];
            head[low] = (a + b) * 0.70710678;
            head[low + half] = (a - b) * 0.70710678;
        }
        workgroupBarrier();
    }
}
