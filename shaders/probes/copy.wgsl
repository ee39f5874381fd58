// Copies a buffer, 16 bytes a lane and step: drivers copy buffers by other means than shaders, and on some GPUs slower.

struct Copy {
    vecs: u32,
    lanes: u32, // of the whole dispatch
}
@group(0) @binding(3) var<uniform> P: Copy;
@group(0) @binding(4) var<storage, read> source: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read_write> copied: array<vec4<u32>>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    for (var i = id.x; i < P.vecs; i += P.lanes) {
        copied[i] = source[i];
    }
}
