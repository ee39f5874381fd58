// The experts of a token: those with the largest logits, the lowest of equals first, and their softmax, over the chosen
// ones or over all (Shazeer et al. 2017; Jiang et al. 2024). A workgroup a token.
// x: [tokens, experts] logits; ids, weights: [tokens, per_token].
// requires: reduce

struct Route {
    experts: u32,
    per_token: u32,
    normalized: u32,
}
@group(0) @binding(3) var<uniform> P: Route;
@group(0) @binding(4) var<storage, read> x: array<f32>;
@group(0) @binding(5) var<storage, read_write> ids: array<u32>;
@group(0) @binding(7) var<storage, read_write> weights: array<f32>;

var<workgroup> taken: array<u32, 1024>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    let row = group.y * P.experts;
    let chosen = group.y * P.per_token;
    for (var i = lane.x; i < P.experts; i += LANES) {
        taken[i] = 0u;
    }
    workgroupBarrier();
    var largest = 0.0;
    var total = 0.0;
    for (var slot = 0u; slot < P.per_token; slot++) {
        var best = -3.4e38;
        var best_at = 0u;
        for (var i = lane.x; i < P.experts; i += LANES) {
            if (taken[i] == 0u && x[row + i] > best) {
                best = x[row + i];
                best_at = i;
            }
        }
        let most = reduce_max(best, lane.x);
        let first = -reduce_max(select(-1e9, -f32(best_at), best == most), lane.x);
        let at = min(u32(first), P.experts - 1u);
        if (slot == 0u) {
            largest = most;
        }
        let weight = exp(most - largest);
        total += weight;
        if (lane.x == 0u) {
            taken[at] = 1u;
            ids[chosen + slot] = at;
            weights[chosen + slot] = weight;
        }
        workgroupBarrier();
    }
    if (P.normalized == 0u) {
        var sum = 0.0;
        for (var i = lane.x; i < P.experts; i += LANES) {
            sum += exp(x[row + i] - largest);
        }
        total = reduce_add(sum, lane.x);
    }
    if (lane.x == 0u) {
        for (var slot = 0u; slot < P.per_token; slot++) {
            weights[chosen + slot] /= total;
        }
    }
}
