// Hadamard transform of ORDER runs of LENGTH (a power of two up to 4096), or, where ORDER is 1, of every run by itself:
// out[t, i] (+)= after[i]·scale·((m ⊗ S)(before ⊙ x[t]))[i], S the Sylvester matrix. A workgroup makes RUNS of them for
// a token: it adds all runs of x, with signs or with weights, and transforms the sums in workgroup memory.
// Bit k of row i of `mix_words` says minus; DENSE: numbers. x, out: [tokens, strides]; that of x a multiple of four.
// requires: lib/runs_plain.wgsl or lib/runs_normed.wgsl; lib/walsh.wgsl, whose block has SHARERS · RUNS runs

struct Hadamard {
    x_stride: u32,
    y_stride: u32,
    y_offset: u32,
    scale: f32,
    width: u32, // results that are written
    runs: u32,  // of all x
    eps: f32,   // of the norm before the transform
}
@group(0) @binding(3) var<uniform> P: Hadamard;
@group(0) @binding(0) var<storage, read> mix_words: array<u32>;
@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(7) var<storage, read> before: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read> after: array<f32>;

const WORDS: u32 = (ORDER + 31u) / 32u; // of a row of signs
const QUADS: u32 = (LENGTH + 3u) / 4u; // of a run

// x[at], … x[at + 3] of a token, ready for the sum, or zeros; of shorter runs than four the rest goes unused.
fn load(token: u32, at: u32, there: bool) -> vec4<f32> {
    let first = token * P.x_stride + at;
    if (LENGTH < 4u) {
        let next = LENGTH - 1u;
        var v = vec4(x[first / 4u][first & 3u], x[(first + next) / 4u][(first + next) & 3u], 0.0, 0.0);
        if (BEFORE) {
            v *= vec4(before[at / 4u][at & 3u], before[(at + next) / 4u][(at + next) & 3u], 0.0, 0.0);
        }
        return select(vec4(0.0), v, there);
    }
    let v = weighted(select(vec4(0.0), x[first / 4u], there), at / 4u);
    if (BEFORE) {
        return v * before[at / 4u];
    }
    return v;
}

// The same of run k, times entry (i, k); `signs` has the bit.
fn term(token: u32, at: u32, i: u32, k: u32, signs: u32) -> vec4<f32> {
    let run = min(k, ORDER - 1u);
    let v = load(token, run * LENGTH + at, k < ORDER);
    if (DENSE) {
        return bitcast<f32>(mix_words[i * ORDER + run]) * v;
    }
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(v) ^ vec4((signs << (31u - (k & 31u))) & 0x80000000u));
}

// The sum over eight runs from k on: their loads are on their way together.
fn terms8(token: u32, at: u32, i: u32, k: u32) -> vec4<f32> {
    var signs = 0u;
    if (!DENSE) {
        signs = mix_words[i * WORDS + k / 32u];
    }
    return ((term(token, at, i, k, signs) + term(token, at, i, k + 1u, signs))
        + (term(token, at, i, k + 2u, signs) + term(token, at, i, k + 3u, signs)))
        + ((term(token, at, i, k + 4u, signs) + term(token, at, i, k + 5u, signs))
        + (term(token, at, i, k + 6u, signs) + term(token, at, i, k + 7u, signs)));
}

// Fills the block with the sums of runs `first` and up, all lanes together. SHARERS lanes make a quad, each of some of the
// runs; only one of SHARERS and RUNS is more than 1.
fn mix(token: u32, first: u32, lane: u32) {
    if (ORDER == 1u) {
        for (var quad = lane; quad < RUNS * QUADS; quad += LANES) {
            let i = first + quad / QUADS;
            block[quad] = within(load(token, i * LENGTH + 4u * (quad % QUADS), i < P.runs));
        }
        workgroupBarrier();
        return;
    }
    let own = lane / QUADS; // a run, or a share of one
    let at = 4u * (lane % QUADS);
    let i = min(select(first, first + own, RUNS > 1u), ORDER - 1u);
    var sum = vec4(0.0);
    for (var k = select(8u * own, 0u, RUNS > 1u); k < ORDER; k += 8u * SHARERS) {
        sum += terms8(token, at, i, k);
    }
    if (SHARERS > 1u) {
        block[lane] = sum;
        workgroupBarrier();
        for (var share = 1u; share < SHARERS; share++) {
            sum += block[(share * QUADS + lane) % LANES]; // of use to the first QUADS lanes
        }
        workgroupBarrier();
    }
    block[lane] = within(sum);
    workgroupBarrier();
}

// Result i of runs that begin at `first`, if it is written at all.
fn result(token: u32, first: u32, i: u32, scale: f32) -> f32 {
    if (i >= RUNS * LENGTH || first + i >= P.width) {
        return 0.0;
    }
    let at = i / LENGTH * 4u * QUADS + i % LENGTH;
    var v = block[at / 4u][at & 3u] * scale;
    if (AFTER) {
        v *= after[first + i];
    }
    if (ADD) {
        v += y[token * P.y_stride + P.y_offset + first + i];
    }
    return v;
}

fn write(token: u32, first: u32, i: u32, v: f32) {
    if (i < RUNS * LENGTH && first + i < P.width) {
        y[token * P.y_stride + P.y_offset + first + i] = v;
    }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    let token = group.y;
    mix(token, group.x * RUNS, lane.x);
    let scale = P.scale * norm_factor(lane.x);
    walsh(RUNS * QUADS, lane.x);
    // Four a lane at once, so that the memory has more to do.
    let first = group.x * RUNS * LENGTH;
    for (var i = lane.x; i < RUNS * LENGTH; i += 4u * LANES) {
        let a = result(token, first, i, scale);
        let b = result(token, first, i + LANES, scale);
        let c = result(token, first, i + 2u * LANES, scale);
        let d = result(token, first, i + 3u * LANES, scale);
        write(token, first, i, a);
        write(token, first, i + LANES, b);
        write(token, first, i + 2u * LANES, c);
        write(token, first, i + 3u * LANES, d);
    }
}
