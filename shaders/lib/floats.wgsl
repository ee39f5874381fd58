// Activations as they are, CHUNK units at a time in workgroup memory.
// provides: Staged, stage_units, staged_unit    requires: lib/product.wgsl, x4, CHUNK, LANES

alias Staged = X32;

var<workgroup> floats: array<vec4<f32>, 8u * CHUNK>;

// Units `first` and up of a token, all lanes together; zero beyond the last.
fn stage_units(token: u32, first: u32, index: u32) {
    for (var i = index; i < 8u * CHUNK; i += LANES) {
        let j = 8u * first + i;
        var v = vec4(0.0);
        if (j < 8u * P.units) {
            v = x4(token, j);
        }
        floats[i] = v;
    }
}

// Of those that were staged.
fn staged_unit(unit: u32) -> Staged {
    let j = 8u * unit;
    return X32(floats[j], floats[j + 1u], floats[j + 2u], floats[j + 3u],
               floats[j + 4u], floats[j + 5u], floats[j + 6u], floats[j + 7u]);
}
