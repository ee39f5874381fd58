// The K largest logits with their tokens, in no order; of equals at the border the lowest tokens. A radix select: four
// passes over a byte of an order-preserving key find the smallest that belongs to them.
// x: logits of one row. y: how many there are (0xffffffff if a logit is not a finite number or −∞), then pairs of token
// and logit.

struct TopK {
    width: u32,
    k: u32, // at most width
}
@group(0) @binding(3) var<uniform> P: TopK;
@group(0) @binding(4) var<storage, read> x: array<u32>;
@group(0) @binding(5) var<storage, read_write> y: array<u32>;

const LANES: u32 = 256u;
var<workgroup> histogram: array<atomic<u32>, 256>;
var<workgroup> found: vec2<u32>; // the byte in question, and how many keys are above it
var<workgroup> taken: atomic<u32>;
var<workgroup> broken: atomic<u32>;
var<workgroup> equals: array<u32, LANES>;

// Larger for larger numbers; −0 is 0. Told by the bits, as compilers may assume that all are numbers.
fn key(i: u32) -> u32 {
    let bits = select(x[i], 0u, x[i] == 0x80000000u);
    return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}

fn put(slot: u32, i: u32) {
    y[1u + 2u * slot] = i;
    y[2u + 2u * slot] = x[i];
}

@compute @workgroup_size(LANES)
fn main(@builtin(local_invocation_id) id: vec3<u32>) {
    let lane = id.x;
    if (lane == 0u) {
        atomicStore(&broken, 0u);
        atomicStore(&taken, 0u);
    }
    workgroupBarrier();
    for (var i = lane; i < P.width; i += LANES) {
        if ((x[i] & 0x7fffffffu) >= 0x7f800000u && x[i] != 0xff800000u) {
            atomicStore(&broken, 1u);
        }
    }
    var border = 0u; // the smallest key among the K, as far as it is known
    var left = P.k;  // of those that share what is known
    for (var shift = 32u; shift > 0u;) {
        shift -= 8u;
        atomicStore(&histogram[lane], 0u);
        workgroupBarrier();
        let known = select(0xffffffffu << (shift + 8u), 0u, shift == 24u);
        for (var i = lane; i < P.width; i += LANES) {
            let k = key(i);
            if (((k ^ border) & known) == 0u) {
                atomicAdd(&histogram[(k >> shift) & 255u], 1u);
            }
        }
        workgroupBarrier();
        if (lane == 0u) {
            var byte = 255u;
            var above = 0u;
            for (; byte > 0u; byte -= 1u) {
                let here = atomicLoad(&histogram[byte]);
                if (above + here >= left) {
                    break;
                }
                above += here;
            }
            found = vec2(byte, above);
        }
        let byte_above = workgroupUniformLoad(&found);
        border |= byte_above.x << shift;
        left -= byte_above.y;
    }
    // Larger ones anywhere, equals in order: a lane counts those of its own stretch.
    for (var i = lane; i < P.width; i += LANES) {
        if (key(i) > border) {
            put(atomicAdd(&taken, 1u), i);
        }
    }
    let stretch = (P.width + LANES - 1u) / LANES;
    let end = min(P.width, (lane + 1u) * stretch);
    var count = 0u;
    for (var i = lane * stretch; i < end; i += 1u) {
        count += u32(key(i) == border);
    }
    equals[lane] = count;
    workgroupBarrier();
    var rank = 0u;
    for (var other = 0u; other < lane; other += 1u) {
        rank += equals[other];
    }
    for (var i = lane * stretch; i < end && rank < left; i += 1u) {
        if (key(i) == border) {
            put(P.k - left + rank, i);
            rank += 1u;
        }
    }
    if (lane == 0u) {
        y[0] = select(P.k, 0xffffffffu, atomicLoad(&broken) == 1u);
    }
}
