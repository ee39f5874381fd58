// The positions that a query sees in SHARES runs of whole tiles of TILE (Flash-Decoding, Dao et al. 2023).
// provides: Seen, seen    requires: lib/heads.wgsl, lib/step.wgsl, SHARES, TILE

struct Seen {
    start: u32,
    end: u32,
    share: u32, // positions of a share; the last ones may be empty
}

fn seen() -> Seen {
    let end = step[POSITION] + 1u;
    var start = 0u;
    if (end > P.window) {
        start = end - P.window;
    }
    let tiles = (end - start + TILE - 1u) / TILE;
    return Seen(start, end, (tiles + SHARES - 1u) / SHARES * TILE);
}
