// 32 activations for every lane: each of eight lanes loads four of them and shows them to its subgroup.
// All lanes of a subgroup must be at the same token and unit; a subgroup has eight lanes or more.
// provides: x_rank, x32    requires: lib/product.wgsl, lib/product_io.wgsl

fn x_rank() -> u32 {
    return subgroupExclusiveAdd(1u);
}

fn x32(token: u32, unit: u32, rank: u32) -> X32 {
    let v = x4(token, 8u * unit + (rank & 7u));
    return X32(subgroupBroadcast(v, 0u), subgroupBroadcast(v, 1u), subgroupBroadcast(v, 2u), subgroupBroadcast(v, 3u),
               subgroupBroadcast(v, 4u), subgroupBroadcast(v, 5u), subgroupBroadcast(v, 6u), subgroupBroadcast(v, 7u));
}
