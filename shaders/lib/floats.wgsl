// Activations as they are, or rotated by Hadamard transforms of LENGTH, CHUNK units at a time in workgroup memory.
// provides: Staged, stage_units, staged_unit    requires: lib/product.wgsl, lib/walsh.wgsl with room for CHUNK units, x4, LANES, SCALE

alias Staged = X32;

// Units `first` and up of a token, all lanes together; zero beyond the last.
fn stage_units(token: u32, first: u32, index: u32) {
    for (var i = index; i < ROOM; i += LANES) {
        let j = 8u * first + i;
        var v = vec4(0.0);
        if (j < 8u * P.units) {
            v = x4(token, j);
        }
        if (LENGTH > 1u) {
            v = within(v * bitcast<f32>(SCALE));
        }
        block[i] = v;
    }
    if (LENGTH > 1u) {
        workgroupBarrier();
        walsh(ROOM, index);
    }
}

// Of those that were staged.
fn staged_unit(unit: u32) -> Staged {
    let j = 8u * unit;
    return X32(block[j], block[j + 1u], block[j + 2u], block[j + 3u],
               block[j + 4u], block[j + 5u], block[j + 6u], block[j + 7u]);
}
