// Single items of small fields, as quant/packed.rs places them.
// provides: item    requires: lib/product.wgsl, binding groups

// Item `i` of cell `index` of a section in `groups`: cells of `cell` items of `bits` bits.
fn item(which: u32, bits: u32, cell: u32, index: u32, i: u32) -> u32 {
    let mask = 0xffffffffu >> (32u - bits);
    let size = cell * bits;
    if (size < 32u) {
        // Several cells a word, their items in order.
        let cells = 32u / size;
        let word = groups[section(which) + index / cells];
        return (word >> (index % cells * size + i * bits)) & mask;
    }
    let per_word = 32u / bits;
    let word = groups[section(which) + index * (size / 32u) + i / per_word];
    let j = i % per_word;
    if (bits >= 16u) {
        return (word >> (j * bits)) & mask;
    }
    return (word >> ((j & 3u) * 8u + j / 4u * bits)) & mask; // quads
}
