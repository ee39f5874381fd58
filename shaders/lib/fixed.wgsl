// Activations as integers (lib/x_integers.wgsl), CHUNK units at a time in workgroup memory. Their sums with integer weights are
// exact, by packed dot products.
// provides: Staged, fixed_dot, fixed_dot16, stage_units, staged_unit
// requires: lib/product.wgsl, lib/integers.wgsl, lib/x_integers.wgsl, CHUNK, LANES, PLANES

// 16 neighbouring activations, four bytes a word; of one plane `high` has all.
struct Fixed16 {
    high: vec4<u32>, middle: vec4<u32>, low: vec4<u32>,
    sum: f32, // Σx
}

struct Staged {
    a: Fixed16, b: Fixed16,
    scale: f32, // what the integers are multiplied by
}

var<workgroup> planes: array<vec4<u32>, 2u * PLANES * CHUNK>; // of a unit high, middle and low, two vec4s each
var<workgroup> half_sums: array<f32, 2u * CHUNK>;
var<workgroup> factors: array<f32, CHUNK>;

// high·2¹⁶ + middle·2⁸ + low.
fn joined(high: i32, middle: i32, low: i32) -> f32 {
    return 65536.0 * f32(high) + f32(256 * middle + low);
}

// Σ q·x.
fn fixed_dot(q: Codes32, x: Staged) -> f32 {
    if (PLANES == 1u) {
        return f32(integer_dot(q.a, x.a.high) + integer_dot(q.b, x.b.high)) * x.scale;
    }
    return joined(integer_dot(q.a, x.a.high) + integer_dot(q.b, x.b.high),
                  integer_dot(q.a, x.a.middle) + integer_dot(q.b, x.b.middle),
                  integer_dot(q.a, x.a.low) + integer_dot(q.b, x.b.low)) * x.scale;
}

// The same of half a unit, without its scale.
fn fixed_dot16(q: vec4<u32>, x: Fixed16) -> f32 {
    if (PLANES == 1u) {
        return f32(integer_dot(q, x.high));
    }
    return joined(integer_dot(q, x.high), integer_dot(q, x.middle), integer_dot(q, x.low));
}

// Units `first` and up of a token, all lanes together; neighbouring lanes must be neighbours in their subgroup.
fn stage_units(token: u32, first: u32, index: u32) {
    for (var begin = 0u; begin < 2u * CHUNK; begin += LANES) {
        let at = begin + index; // which half of a unit
        let n = integers16(token, 8u * first + 4u * at, at < 2u * CHUNK && first + at / 2u < P.units);
        if (at < 2u * CHUNK) {
            let place = at / 2u * 2u * PLANES + (at & 1u);
            if (PLANES == 1u) {
                planes[place] = bytes_of(n, 0u);
            } else {
                planes[place] = bytes_of(n, 16u);
                planes[place + 2u] = bytes_of(n, 8u) ^ vec4(0x80808080u);
                planes[place + 4u] = bytes_of(n, 0u) ^ vec4(0x80808080u);
            }
            half_sums[at] = sum_of_integers(n) * n.scale;
            if ((at & 1u) == 0u) {
                factors[at / 2u] = n.scale;
            }
        }
    }
}

// Of those that were staged.
fn staged_unit(unit: u32) -> Staged {
    let at = 2u * PLANES * unit;
    let sum_a = half_sums[2u * unit];
    let sum_b = half_sums[2u * unit + 1u];
    if (PLANES == 1u) {
        let none = vec4(0u);
        return Staged(Fixed16(planes[at], none, none, sum_a), Fixed16(planes[at + 1u], none, none, sum_b), factors[unit]);
    }
    return Staged(Fixed16(planes[at], planes[at + 2u], planes[at + 4u], sum_a),
                  Fixed16(planes[at + 1u], planes[at + 3u], planes[at + 5u], sum_b), factors[unit]);
}
