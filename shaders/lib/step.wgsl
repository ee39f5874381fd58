// What changes from step to step: the one upload.
// step: position, tokens, first head row, head rows, token ids …
// provides: step, TOKEN_IDS

@group(0) @binding(6) var<storage, read> step: array<u32>;

const POSITION: u32 = 0u;   // of the first token
const TOKENS: u32 = 1u;     // in this step
const HEAD_FIRST: u32 = 2u; // first row that the head looks at
const HEAD_ROWS: u32 = 3u;
const TOKEN_IDS: u32 = 4u;
