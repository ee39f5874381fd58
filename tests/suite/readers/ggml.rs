//! Every ggml block type against gguf-py: random blocks, the hash of what they decode to. See
//! `tests/fixtures/ggml/blocks.py`.

use super::crafted::GgufFile;
use super::*;
use halfbyte::checkpoint::gguf::TYPES;
use halfbyte::checkpoint::source::Bytes;

const ROWS: usize = 33;
const COLS: usize = 512;

/// Type, upper bytes of the f16 numbers of a block, hash of the weights.
const GOLDEN: &[(&str, &[usize], &str)] = &[
    ("Q4_0", &[1], "9706140a464cc3ab6bcaa4d34026d70843ae5f6f6ff412706dad713157f93120"),
    ("Q4_1", &[1, 3], "cfb119baef49634864d902efbc0ea855284bc655daf47858e9e7185693937ddd"),
    ("Q5_0", &[1], "9e76536a55d8494890d69f258a7015b8f0ea3b151a3785c9d8408340367f33c9"),
    ("Q5_1", &[1, 3], "d993d84e198d383123a0fa9a963c4d650fdc0a20c9f007464a2b52a0ccaf386e"),
    ("Q8_0", &[1], "c81ff5a18c93fbabb8936f3eb951a1765c9b1bc300451938724edd7cecc454a2"),
    ("Q1_0", &[1], "fc97bd05df220ebf968c11be0da2a0501ab38ae41e53ff88e89c83c6b3751f12"),
    ("Q2_0", &[1], "5272447ae413fcaf7b83e500796915b2fd5d4ab1bd30a20adafa0a6ecc3ad6d3"),
    ("Q2_K", &[81, 83], "04b6123d092727b7684606b24f7aa1f31dc5f8cb1e9812d4204e6db0525f1857"),
    ("Q3_K", &[109], "a0467c30ad0efc60b6f865dfb5fd4a5872ac2a394ccaf440dbdea770e3a2a670"),
    ("Q4_K", &[1, 3], "d9405b431c4b108a3cddc83527e675544f2625f862be1ea0065410f5c4ee56f8"),
    ("Q5_K", &[1, 3], "08417800507920fca3441e52e992297d32dddeeb5595ab971efbd57ff2f4d6d4"),
    ("Q6_K", &[209], "4dc1d33acdb0c5bb8eea88c106cc664dc4310a2598845dba211eb02156538d97"),
    ("IQ4_XS", &[1], "7780e5903e5acc4475af8c37960017821ca5059fd805dcbc809a972aa640e209"),
    ("IQ3_S", &[1], "5a67dd338b50f4b54de74998cc853f8edeb6f0f67a7da0cad8308016ce2a3111"),
    ("IQ3_XXS", &[1], "ec28959e15601a752026b654169a7c260e72ea42fe2998d3c2e9cbc2ee9d7bf2"),
    ("IQ2_S", &[1], "33e0e3ddb08c4c9fb7d07bb53b139e2404d69d2dc216d02355dac5c403ad90ce"),
    ("IQ2_XS", &[1], "d640f022a5750acb8d3432269798dad6b53c7cf769101a2aed5948b19a7e79a8"),
    ("IQ2_XXS", &[1], "a2e797683b4e25190835d8fb429d6f61d1bd7744e928552c2e385c90a69dd2c0"),
    ("IQ1_S", &[1], "c4191d626220d417ad69d96038fc66c0179aed8730152ae8af24f211454bb51e"),
    ("IQ1_M", &[55], "fca5435c0c9870dc8ee774379d0330d16da5c761609c894ca7a60365cd296cd7"),
    ("TQ1_0", &[53], "3c16bb4b9c602d21b6d1440a187a0c50e8f737b87c0d6dca6495008b561dc697"),
    ("TQ2_0", &[65], "9333dce4ae1f96209d28fa0eeefd1badfb5f73db28a173cbe443e3e72402a375"),
];

/// The blocks, as SHA-256 counts them out.
fn blocks(name: &str, scales: &[usize]) -> (u32, Vec<u8>) {
    let ty = TYPES.iter().find(|ty| ty.name == name).unwrap();
    let count = ROWS * COLS / ty.weights * ty.bytes;
    let digests = (0..count.div_ceil(32)).flat_map(|i| Sha256::digest(format!("{name} {i}")));
    let mut bytes: Vec<u8> = digests.take(count).collect();
    for block in bytes.chunks_mut(ty.bytes) {
        scales.iter().for_each(|&i| block[i] &= 0xbf);
    }
    (ty.id, bytes)
}

/// The embedding of a file that has nothing else.
fn embedding(id: u32, bytes: &[u8]) -> Result<StoredMatrix> {
    let mut file = GgufFile::new("llama", COLS);
    file.add("token_embd.weight", &[ROWS, COLS], id, bytes);
    let checkpoint = block_on(Checkpoint::from_gguf(Bytes::new("blocks.gguf", file.bytes())))?;
    Ok(block_on(checkpoint.matrix("model.embed_tokens"))?.unwrap())
}

#[test]
fn blocks_of_every_type_are_golden() {
    for (name, scales, hash) in GOLDEN {
        let (id, bytes) = blocks(name, scales);
        let matrix = embedding(id, &bytes).unwrap();
        assert_eq!(matrix.format, *name);
        for budget in BUDGETS {
            assert_eq!(sha256(&decode(&matrix, budget).unwrap()), *hash, "{name}");
        }
        // As compact as on disk, but for rows and blocks that are filled up: here 33 rows take as much as 40.
        let shape = Shape { rows: ROWS, cols: COLS };
        let padded = bytes.len() as f64 * 40.0 / 33.0;
        assert!(shape.packed_bytes(&*matrix.codec) as f64 <= 1.01 * padded + 64.0, "{name}");
    }
}

/// A scale that is no number, wherever a block has one.
#[test]
fn scales_that_are_no_numbers_are_refused() {
    for (name, scales, _) in GOLDEN {
        let (id, bytes) = blocks(name, scales);
        let size = TYPES.iter().find(|ty| ty.name == *name).unwrap().bytes;
        for scale in scales.iter() {
            let mut bytes = bytes.clone();
            // IQ1_M has its d in four pieces.
            let block = &mut bytes[5 * size..6 * size];
            if *name == "IQ1_M" {
                block.fill(0xff)
            } else {
                block[*scale] |= 0x7c
            }
            let error = embedding(id, &bytes).and_then(|matrix| load(&matrix, BUDGETS[0])).unwrap_err();
            assert!(error.to_string().contains("non-finite block scale"), "{name}: {error}");
        }
    }
}

/// What is left are formats of activations, which no weight has.
#[test]
fn other_types_are_refused_by_name() {
    let read = |name: &str| GOLDEN.iter().any(|(golden, ..)| *golden == name);
    for ty in TYPES.iter().filter(|ty| ty.weights > 1 && !read(ty.name)) {
        let bytes = vec![0; ROWS * COLS / ty.weights * ty.bytes];
        match embedding(ty.id, &bytes) {
            Ok(_) => {
                assert!(["IQ4_NL", "MXFP4", "NVFP4"].contains(&ty.name), "{} has no golden hash", ty.name)
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains(ty.name) && text.contains("Q4_K"), "{text}");
            }
        }
    }
}
