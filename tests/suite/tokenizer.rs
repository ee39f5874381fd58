//! Tokenizers against the ids of others: llama.cpp's test vocabularies, the golden prompts, damaged files.

use crate::shared::shared;
use halfbyte::chat::{ChatTemplate, Message};
use halfbyte::checkpoint::gguf;
use halfbyte::checkpoint::source::{MappedFile, Source};
use halfbyte::tokenizer::{GgufVocab, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

fn read(path: impl AsRef<Path>) -> Vec<u8> {
    let path = path.as_ref();
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn json_file(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&read(path)).unwrap()
}

fn from_folder(folder: &Path) -> Tokenizer {
    let config = folder.join("tokenizer_config.json");
    let config = config.exists().then(|| json_file(config));
    Tokenizer::from_json(&read(folder.join("tokenizer.json")), config.as_ref()).unwrap()
}

/// The `tokenizer.*` keys of a GGUF file, through the project's own reader.
fn gguf_vocab(path: &Path) -> GgufVocab {
    let file: Arc<dyn Source> = MappedFile::open(path).unwrap();
    let (metadata, _) = pollster::block_on(gguf::open(&file)).unwrap();
    GgufVocab::from_metadata(&metadata).unwrap()
}

fn gguf_tokenizer(path: &Path) -> Tokenizer {
    Tokenizer::from_gguf(&gguf_vocab(path)).unwrap()
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut decoder = tokenizer.decoder();
    let text: String = ids.iter().map(|&id| decoder.push(id)).collect();
    text + &decoder.flush()
}

/// The test strings of llama.cpp with their ids.
fn vocab_cases(folder: &Path, name: &str) -> Vec<(String, Vec<u32>)> {
    let file = |ext: &str| {
        String::from_utf8(read(folder.join(format!("tokenizers/vocab/ggml-vocab-{name}.gguf.{ext}"))))
    };
    let (texts, ids) = (file("inp").unwrap(), file("out").unwrap());
    let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
    let ids: Vec<&str> = ids.split('\n').collect();
    let ids = ids.iter().map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect());
    texts.into_iter().map(str::to_owned).zip(ids).collect()
}

#[test]
fn gguf_vocabularies_encode_as_llama_cpp_does() {
    let Some(folder) = shared("llama.cpp's vocabularies") else { return };
    let mut wrong = Vec::new();
    for name in ["gpt-2", "llama-spm", "phi-3"] {
        let tokenizer = gguf_tokenizer(&folder.join(format!("tokenizers/vocab/ggml-vocab-{name}.gguf")));
        let cases = vocab_cases(&folder, name);
        assert!(cases.len() >= 46, "{name}: {} cases", cases.len());
        for (text, expected) in &cases {
            let found = tokenizer.encode(text, false).unwrap();
            if found != *expected {
                wrong.push(format!("{name}: {text:?}: {found:?} instead of {expected:?}"));
            }
            if tokenizer.decode(&found) != *text {
                wrong.push(format!("{name}: {text:?} comes back as {:?}", tokenizer.decode(&found)));
            }
            assert_eq!(streamed(&tokenizer, &found), *text);
        }
        println!("{name}: {} strings", cases.len());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_two_phi_3_files_agree() {
    let Some(folder) = shared("Phi-3 from tokenizer.json and from GGUF") else { return };
    let hf = from_folder(&folder.join("tokenizers/phi-3-mini"));
    let gguf = gguf_tokenizer(&folder.join("tokenizers/vocab/ggml-vocab-phi-3.gguf"));
    for (text, ids) in vocab_cases(&folder, "phi-3") {
        // Where runs of spaces follow a newline or such, SentencePiece and its BPE conversion still agree.
        assert_eq!(hf.encode(&text, false).unwrap(), ids, "{text:?}");
    }
    // Special tokens swallow the white space behind them.
    let turn = "<|user|>\n Hello<|end|>\n<|assistant|>\n";
    assert_eq!(hf.encode_rendered(turn).unwrap(), [32010, 15043, 32007, 32001]);
    assert_eq!(gguf.encode_rendered(turn).unwrap(), [32010, 15043, 32007, 32001]);
    assert_eq!(hf.encode(turn, false).unwrap(), gguf.encode(turn, false).unwrap());
    assert!(hf.encode(turn, false).unwrap().iter().all(|&id| id < 32000));
    assert_eq!(gguf.eos(), [32000, 32007]);
    assert_eq!(hf.decode(&[32010, 15043, 32007]), "Hello");
    assert_eq!(hf.piece(32010), "<|user|>");
}

/// The same vocabulary as a GGUF file would carry it.
fn as_gguf(path: &Path, pre: &str) -> GgufVocab {
    let json = json_file(path.join("tokenizer.json"));
    let mut vocab = GgufVocab { model: "gpt2".into(), pre: Some(pre.into()), ..GgufVocab::default() };
    let ids = json["model"]["vocab"].as_object().unwrap();
    vocab.tokens.resize(ids.len(), String::new());
    vocab.token_types.resize(ids.len(), 1);
    for (token, id) in ids {
        vocab.tokens[id.as_u64().unwrap() as usize] = token.clone();
    }
    for token in json["added_tokens"].as_array().unwrap() {
        vocab.token_types[token["id"].as_u64().unwrap() as usize] = 3;
    }
    let merge = |merge: &Value| match merge {
        Value::String(text) => text.clone(),
        pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
    };
    vocab.merges = json["model"]["merges"].as_array().unwrap().iter().map(merge).collect();
    vocab
}

#[test]
fn byte_level_bpe_agrees_between_its_two_files() {
    let Some(folder) = shared("byte-level BPE from tokenizer.json and as GGUF") else { return };
    let shakespeare = String::from_utf8(read(folder.join("text/tinyshakespeare.txt"))).unwrap();
    let wiki = String::from_utf8(read(folder.join("text/wiki.test.raw"))).unwrap();
    for (name, pre) in [("tokenizers/smollm", "smollm"), ("models/tale-start", "gpt-2")] {
        let hf = from_folder(&folder.join(name));
        let gguf = Tokenizer::from_gguf(&as_gguf(&folder.join(name), pre)).unwrap();
        let texts = vocab_cases(&folder, "gpt-2").into_iter().map(|(text, _)| text);
        let long: String = wiki.chars().take(200_000).collect();
        for text in
            texts.chain([shakespeare[..200_000].to_owned(), long, "a<|endoftext|>b <|im_end|>".into()])
        {
            for special in [false, true] {
                let ids = hf.encode(&text, special).unwrap();
                assert!(gguf.encode(&text, special).unwrap() == ids, "{name}: {:.80}", text);
                assert!(gguf.decode(&ids) == hf.decode(&ids), "{name}: {:.80}", text);
            }
        }
    }
}

#[test]
fn golden_prompts_have_their_ids() {
    let Some(folder) = shared("golden prompts of the fixtures") else { return };
    let mut checked = 0;
    for model in ["tinystories-656k", "stories260K-w256"] {
        for fixture in std::fs::read_dir(folder.join("fixtures").join(model)).unwrap() {
            let fixture = fixture.unwrap().path();
            let mut files = std::fs::read_dir(&fixture).unwrap().map(|file| file.unwrap().path());
            let gguf_file = files.find(|file| file.extension().is_some_and(|ext| ext == "gguf"));
            let tokenizer = if let Some(file) = &gguf_file {
                gguf_tokenizer(file)
            } else if fixture.join("tokenizer.json").exists() {
                from_folder(&fixture)
            } else {
                println!("SKIPPED: {}: no tokenizer", fixture.display());
                continue;
            };
            let golden = json_file(fixture.join("golden.json"));
            let more = golden["more_prompts"].as_array().cloned().unwrap_or_default();
            for case in std::iter::once(&golden).chain(&more) {
                let Some(prompt) = case["prompt"].as_str() else { continue };
                let ids: Vec<u32> = serde_json::from_value(case["prompt_token_ids"].clone()).unwrap();
                assert_eq!(tokenizer.encode(prompt, true).unwrap(), ids, "{}: {prompt:?}", fixture.display());
                assert_eq!(tokenizer.decode(&ids), prompt);
                checked += 1;
            }
            assert_eq!(tokenizer.bos(), Some(1), "{}", fixture.display());
        }
    }
    for (model, golden) in [
        ("stories260K-hf", "stories260K/golden.json"),
        ("tale-start", "tale-start/golden.json"),
        ("tinystories-656k", "tinystories-656k/golden.json"),
    ] {
        let models = folder.join("models");
        let mut tokenizer = from_folder(&models.join(model));
        let config = json_file(models.join(model).join("config.json"));
        tokenizer.set_bos(config["bos_token_id"].as_u64().unwrap() as u32, true);
        tokenizer.check_vocab(config["vocab_size"].as_u64().unwrap() as usize).unwrap();
        for case in json_file(models.join(golden))["prompts"].as_array().unwrap() {
            let prompt = case["prompt"].as_str().unwrap();
            let ids = case.get("prompt_token_ids").or(case.get("ids")).unwrap().clone();
            let ids: Vec<u32> = serde_json::from_value(ids).unwrap();
            assert_eq!(tokenizer.encode(prompt, true).unwrap(), ids, "{model}: {prompt:?}");
            if let (Some(text), Some(next)) = (case["text"].as_str(), case.get("greedy_next_40")) {
                let next: Vec<u32> = serde_json::from_value(next.clone()).unwrap();
                let mut decoder = tokenizer.decoder_after(&ids);
                let answer: String = next.iter().map(|&id| decoder.push(id)).collect();
                assert!(text.ends_with(&(answer.clone() + &decoder.flush())), "{text:?} {answer:?}");
            }
            checked += 1;
        }
    }
    println!("{checked} prompts");
    assert!(checked >= 130, "{checked}");
}

#[test]
fn stories260k_agrees_between_its_two_files() {
    let Some(folder) = shared("stories260K from tokenizer.json and from GGUF") else { return };
    let hf = from_folder(&folder.join("models/stories260K-hf"));
    let gguf = gguf_tokenizer(&folder.join("models/stories260K/stories260Ktok512.gguf"));
    let text = String::from_utf8(read(folder.join("text/tinystories_sample.txt"))).unwrap();
    let mut stories = 0;
    for story in text.split("<|endoftext|>").take(200).chain(["", " ", "  a", "naïve 🦀 <s>\t\u{0}", "日本"])
    {
        let ids = hf.encode(story, true).unwrap();
        assert_eq!(gguf.encode(story, true).unwrap(), ids, "{story:?}");
        assert_eq!(hf.decode(&ids), gguf.decode(&ids));
        assert_eq!(streamed(&hf, &ids), hf.decode(&ids));
        stories += 1;
    }
    println!("{stories} stories");
    assert_eq!((hf.bos(), gguf.bos(), gguf.eos()), (Some(1), Some(1), &[2][..]));
}

#[test]
fn decoding_agrees_with_the_tokenizers_crate() {
    let Some(folder) = shared("decoding of real tokenizer.json files") else { return };
    let text = String::from_utf8(read(folder.join("text/tinyshakespeare.txt"))).unwrap();
    for name in ["tokenizers/phi-3-mini", "tokenizers/smollm", "models/tale-start", "models/stories260K-hf"] {
        let path = folder.join(name);
        let ours = from_folder(&path);
        let theirs = tokenizers::Tokenizer::from_bytes(read(path.join("tokenizer.json"))).unwrap();
        for part in [&text[..20_000], "🦀 naïve\r\n\t  ﷽ <|im_end|> x", " a", "   "] {
            let ids = theirs.encode(part, false).unwrap().get_ids().to_vec();
            assert_eq!(ours.encode_rendered(part).unwrap(), ids, "{name}");
            assert_eq!(ours.decode(&ids), theirs.decode(&ids, true).unwrap(), "{name}");
            assert_eq!(streamed(&ours, &ids), ours.decode(&ids), "{name}");
        }
        assert_eq!(ours.vocab_size(), theirs.get_vocab_size(true), "{name}");
    }
}

#[test]
fn phi_3_renders_and_encodes_a_conversation() {
    let Some(folder) = shared("the chat template of Phi-3's GGUF") else { return };
    let vocab = gguf_vocab(&folder.join("tokenizers/vocab/ggml-vocab-phi-3.gguf"));
    let template = ChatTemplate::from_gguf(&vocab).unwrap().unwrap();
    let text = template.render(&[Message::new("user", "Hello")], true).unwrap();
    assert_eq!(text, "<s><|user|>\nHello<|end|>\n<|assistant|>\n");
    let ids = Tokenizer::from_gguf(&vocab).unwrap().encode_rendered(&text).unwrap();
    assert_eq!(ids, [1, 32010, 15043, 32007, 32001]);
}

#[test]
fn smollm_ends_where_its_turns_end() {
    let Some(folder) = shared("SmolLM's special tokens") else { return };
    let tokenizer = from_folder(&folder.join("tokenizers/smollm"));
    assert!(tokenizer.eos().contains(&0) && tokenizer.eos().contains(&2), "{:?}", tokenizer.eos());
    let ids = tokenizer.encode_rendered("<|im_start|>user\nHi<|im_end|>").unwrap();
    assert_eq!((ids[0], ids.last()), (1, Some(&2)));
    assert_eq!(tokenizer.decode(&ids), "user\nHi");
    assert!(tokenizer.encode("<|im_end|>", false).unwrap().len() > 1);
}

#[test]
fn a_decoder_continues_a_prompt() {
    let Some(folder) = shared("decoding behind a prompt") else { return };
    let tokenizer = from_folder(&folder.join("models/stories260K-hf"));
    let prompt = tokenizer.encode("Once upon a", true).unwrap();
    let whole = tokenizer.encode("Once upon a time 🦀", true).unwrap();
    for cut in 1..whole.len() {
        let mut decoder = tokenizer.decoder_after(&whole[..cut]);
        let rest: String = whole[cut..].iter().map(|&id| decoder.push(id)).collect();
        let mut start = tokenizer.decoder();
        let before: String = whole[..cut].iter().map(|&id| start.push(id)).collect();
        assert_eq!(before + &rest, "Once upon a time 🦀");
    }
    assert_eq!(tokenizer.decoder_after(&prompt).push(whole[prompt.len()]), " time");
}

#[test]
fn hostile_tokenizers_are_refused_by_name() {
    let Some(folder) = shared("damaged tokenizer.json files") else { return };
    for (name, expected) in [
        ("tok_truncated", "not valid JSON"),
        ("tok_merge_unknown", "merge (a, zz): token not in vocabulary"),
        ("tok_id_huge", "token id out of range of the model vocabulary"),
        ("tok_bad_regex", "invalid regex in pre_tokenizer"),
    ] {
        let bytes = read(folder.join("fixtures/hostile").join(name).join("tokenizer.json"));
        let error = Tokenizer::from_json(&bytes, None).unwrap_err();
        assert!(matches!(error, halfbyte::Error::Corrupt(_)), "{name}: {error:?}");
        let message = error.to_string();
        assert!(message.starts_with("tokenizer.json: ") && message.contains(expected), "{name}: {message}");
        println!("{name}: {message}");
    }
    let mut control = from_folder(&folder.join("fixtures/hostile/ok_tiny_llama"));
    control.check_vocab(32).unwrap();
    let message = control.check_vocab(31).unwrap_err().to_string();
    assert!(message.contains("out of range of the model vocabulary"), "{message}");
}

#[test]
fn real_files_cut_anywhere_are_refused() {
    let Some(folder) = shared("cut tokenizer.json files") else { return };
    let bytes = read(folder.join("models/stories260K-hf/tokenizer.json"));
    for end in (0..bytes.len() - 2).step_by(97) {
        assert!(Tokenizer::from_json(&bytes[..end], None).is_err(), "{end} bytes");
    }
}

/// A small byte-level tokenizer.json.
fn small() -> Value {
    let mut vocab = serde_json::Map::new();
    for (id, c) in ('!'..='~').chain(['Ġ', 'Ċ']).enumerate() {
        vocab.insert(c.to_string(), id.into());
    }
    let n = vocab.len();
    vocab.insert("th".into(), n.into());
    vocab.insert("the".into(), (n + 1).into());
    json!({
        "version": "1.0",
        "added_tokens": [
            {"id": n + 2, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
            {"id": n + 3, "content": "<|im_end|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}
        ],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": [["t", "h"], ["th", "e"]]}
    })
}

fn load(json: &Value, config: Option<&Value>) -> halfbyte::Result<Tokenizer> {
    Tokenizer::from_json(json.to_string().as_bytes(), config)
}

#[test]
fn bos_and_eos_follow_the_configuration_and_never_double() {
    let bos = small()["added_tokens"][0]["id"].as_u64().unwrap() as u32;
    let plain = load(&small(), None).unwrap();
    let the = plain.encode("the", true).unwrap();
    assert_eq!((the.len(), plain.bos(), plain.eos()), (1, None, &[bos + 1][..]));

    let config = json!({"bos_token": {"content": "<s>"}, "eos_token": "<|im_end|>", "add_bos_token": true, "add_eos_token": true});
    let both = load(&small(), Some(&config)).unwrap();
    assert_eq!(both.encode("the", true).unwrap(), [bos, the[0], bos + 1]);
    assert_eq!(both.encode("<s>the", true).unwrap(), [bos, the[0], bos + 1]);
    assert_eq!(both.encode("the", false).unwrap(), the);
    assert_eq!(both.encode("<s>", false).unwrap().len(), 3);
    assert_eq!(both.encode_rendered("<s>the").unwrap(), [bos, the[0]]);
    assert_eq!(both.encode("", true).unwrap(), [bos, bos + 1]);

    let mut template = small();
    template["post_processor"] = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [bos], "tokens": ["<s>"]}}});
    let by_template = load(&template, None).unwrap();
    assert_eq!(by_template.bos(), Some(bos));
    assert_eq!(by_template.encode("<s>the", true).unwrap(), [bos, the[0]]);
    let never = load(&template, Some(&json!({"bos_token": "<s>", "add_bos_token": false}))).unwrap();
    assert_eq!(never.encode("the", true).unwrap(), the);
    assert_eq!(never.encode("<s>the", true).unwrap(), [bos, the[0]]);
    let neither = load(&small(), Some(&json!({"bos_token": "<s>", "add_bos_token": false}))).unwrap();
    assert_eq!(neither.encode("<s>the", true).unwrap(), [bos, the[0]], "what the text says itself stays");

    template["post_processor"]["special_tokens"]["<s>"]["ids"] = json!([4_000_000_000u32]);
    let message = load(&template, None).unwrap_err().to_string();
    assert!(message.contains("post_processor"), "{message}");
}

#[test]
fn config_json_names_bos_where_nothing_else_does() {
    let bos = small()["added_tokens"][0]["id"].as_u64().unwrap() as u32;
    let ids = |config: Option<Value>, add| {
        let mut tokenizer = load(&small(), config.as_ref()).unwrap();
        tokenizer.set_bos(bos, add);
        assert_eq!(tokenizer.bos(), Some(bos));
        tokenizer.encode("the", true).unwrap().len()
    };
    assert_eq!([ids(None, true), ids(None, false)], [2, 1]);
    assert_eq!(ids(Some(json!({"add_bos_token": false})), true), 1);
}

#[test]
fn added_tokens_beyond_the_model_are_errors_only_when_used() {
    let mut tokenizer = load(&small(), None).unwrap();
    let n = tokenizer.vocab_size();
    tokenizer.check_vocab(n - 2).unwrap();
    assert!(tokenizer.eos().is_empty());
    tokenizer.encode("the", true).unwrap();
    let message = tokenizer.encode("the <s>", true).unwrap_err().to_string();
    assert!(message.contains("\"<s>\" is unknown to the model"), "{message}");
    assert!(tokenizer.check_vocab(n - 3).is_err());
}

#[test]
fn contradictions_in_json_are_errors() {
    let change = |path: &str, value: Value| {
        let mut json = small();
        *json.pointer_mut(path).unwrap() = value;
        load(&json, None)
    };
    for (path, value, expected) in [
        ("/model", json!(3), "model"),
        ("/model/vocab", json!(null), "model.vocab"),
        ("/model/vocab/t", json!(-1), "whole number"),
        ("/model/vocab/t", json!(5e9), "whole number"),
        ("/model/vocab/t", json!(u64::MAX), "out of range"),
        ("/model/merges/0", json!("t"), "entry 0"),
        ("/model/merges/0", json!(["t"]), "entry 0"),
        ("/model/merges/0", json!(["t", "e"]), "token not in vocabulary"),
        ("/added_tokens/0/id", json!(u32::MAX), "out of range"),
        ("/added_tokens/0/content", json!(null), "content"),
        (
            "/pre_tokenizer",
            json!({"type": "FixedLength", "length": 0}),
            "pre_tokenizer: not what its type says",
        ),
        ("/pre_tokenizer", json!({"type": "Nonsense"}), "tokenizers library"),
        (
            "/normalizer",
            json!({"type": "Replace", "pattern": {"Regex": "("}, "content": ""}),
            "invalid regex in normalizer",
        ),
        (
            "/normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
            "normalizer: not what its type says",
        ),
        ("/decoder", json!({"type": "CTC"}), "CTC"),
        ("/decoder", json!({"type": "Strip", "content": "x", "start": 1, "stop": 0}), "leading spaces"),
    ] {
        let message = change(path, value.clone()).unwrap_err().to_string();
        assert!(
            message.starts_with("tokenizer.json: ") && message.contains(expected),
            "{path} {value}: {message}"
        );
    }
    // A prefix longer than the token that should carry it.
    let mut json = small();
    json["model"]["continuing_subword_prefix"] = json!("######");
    assert!(load(&json, None).unwrap_err().to_string().contains("merge (t, h)"));
    // Older files write merges as one string.
    let mut json = small();
    json["model"]["merges"] = json!(["t h", "th e"]);
    assert_eq!(load(&json, None).unwrap().encode("the", false).unwrap().len(), 1);
    // Random dropout, truncation and padding are ignored.
    let mut json = small();
    json["model"]["dropout"] = json!(0.9);
    json["truncation"] =
        json!({"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0});
    let tokenizer = load(&json, None).unwrap();
    assert_eq!(tokenizer.encode("the the", false).unwrap().len(), 3);
}

/// A vocabulary in the manner of SentencePiece.
fn small_spm() -> GgufVocab {
    let mut tokens: Vec<String> =
        ["<unk>", "<s>", "</s>", "\u{2581}", "a", "b", "ab", "\u{2581}a", "bb", "<tool>", "<0x0A>"]
            .map(String::from)
            .to_vec();
    tokens.push("<|im_end|>".into());
    GgufVocab {
        model: "llama".into(),
        scores: vec![0., 0., 0., -9., -8., -8., -2., -1., -3., 0., 0., 0.],
        token_types: vec![2, 3, 3, 1, 1, 1, 1, 1, 1, 4, 6, 1],
        tokens,
        ..GgufVocab::default()
    }
}

#[test]
fn sentence_piece_rules() {
    let spm = Tokenizer::from_gguf(&small_spm()).unwrap();
    let plain = |text: &str| spm.encode(text, false).unwrap();
    assert_eq!(plain("ab"), [7, 5], "▁a scores better than ab");
    assert_eq!(plain("abb"), [7, 8]);
    assert_eq!(plain("b ab"), [3, 5, 7, 5]);
    assert_eq!(plain("a\n"), [7, 10]);
    assert_eq!(plain("aéé!a"), [7, 0, 4], "a run of unknown characters is one token");
    assert_eq!(plain("b<tool>a"), [3, 5, 9, 7], "user-defined tokens are always cut out");
    assert_eq!(plain(""), [0u32; 0]);
    assert_eq!(spm.encode("", true).unwrap(), [1]);
    assert_eq!(spm.encode("</s>a", true).unwrap(), [1, 2, 7]);
    assert_eq!(spm.encode("<s>a", true).unwrap(), [1, 7]);
    assert_eq!(spm.encode_rendered("a</s>").unwrap(), [7, 2]);
    assert_eq!(spm.eos(), [2, 11]);
    assert_eq!(spm.decode(&[1, 7, 9, 3, 10, 2, 11, 99]), "a<tool> \n");

    let bare =
        GgufVocab { add_space_prefix: Some(false), add_bos: Some(false), add_eos: Some(true), ..small_spm() };
    let bare = Tokenizer::from_gguf(&bare).unwrap();
    assert_eq!(bare.encode("ab a", true).unwrap(), [6, 7, 2]);
    assert_eq!(bare.decode(&[7, 6]), " aab");
}

#[test]
fn contradictions_in_gguf_are_errors() {
    for (vocab, expected) in [
        (GgufVocab { model: "bert".into(), ..small_spm() }, "tokenizer.ggml.model"),
        (GgufVocab { tokens: vec![], ..small_spm() }, "no vocabulary"),
        (GgufVocab { scores: vec![0.0], ..small_spm() }, "scores"),
        (GgufVocab { scores: vec![f32::NAN; 12], ..small_spm() }, "not a number"),
        (GgufVocab { token_types: vec![1], ..small_spm() }, "token_type"),
        (GgufVocab { token_types: vec![6; 12], ..small_spm() }, "type byte"),
        (GgufVocab { model: "gpt2".into(), ..small_spm() }, "merges"),
        (GgufVocab { model: "gpt2".into(), merges: vec!["ab".into()], ..small_spm() }, "entry 0"),
        (
            GgufVocab { model: "gpt2".into(), merges: vec!["a c".into()], ..small_spm() },
            "merge (a, c): token not in vocabulary",
        ),
        (GgufVocab { model: "gpt2".into(), pre: Some("new".into()), ..small_spm() }, "qwen2"),
    ] {
        let message = Tokenizer::from_gguf(&vocab).unwrap_err().to_string();
        assert!(message.contains(expected), "{expected}: {message}");
    }
    // What llama.cpp knows besides is named in the error.
    for model in ["bert", "t5", "rwkv", "plamo2", "gemma4", "none"] {
        let message = Tokenizer::from_gguf(&GgufVocab { model: model.into(), ..small_spm() }).unwrap_err();
        assert!(message.to_string().contains(&format!("{model:?}")), "{message}");
    }
    for pre in [
        "afmoe",
        "chameleon",
        "gemma4",
        "granite-embed-multi-311m",
        "granite-embed-multi-97m",
        "hy_v4",
        "jais-2",
        "jina-de",
        "jina-es",
        "jina-v1-en",
        "jina-v2-code",
        "jina-v2-de",
        "jina-v2-es",
        "jina-v5-nano",
        "k2-horizon",
        "kimi-k2",
        "laguna",
        "modern-bert",
        "roberta-bpe",
        "sarvam-moe",
        "spark2_5",
        "superbpe",
        "ufakzeka",
        "whitespace",
        "youtu",
    ] {
        let vocab = GgufVocab { model: "gpt2".into(), pre: Some(pre.into()), ..small_spm() };
        let message = Tokenizer::from_gguf(&vocab).unwrap_err().to_string();
        assert!(
            message.contains("unknown pre-tokenizer") && message.contains(&format!("{pre:?}")),
            "{message}"
        );
    }
    // Special ids out of range count as absent, as in llama.cpp.
    let absent = GgufVocab { bos: Some(u32::MAX), eos: Some(12), ..small_spm() };
    assert_eq!(Tokenizer::from_gguf(&absent).unwrap().bos(), Some(1));
}

#[test]
fn byte_level_pre_tokenizers_differ_where_they_should() {
    let letters: Vec<String> =
        ('!'..='~').map(String::from).chain(["Ġ".into(), "12".into(), "123".into(), "1234".into()]).collect();
    let vocab = |pre: &str| GgufVocab {
        model: "gpt2".into(),
        pre: Some(pre.into()),
        tokens: letters.clone(),
        merges: ["1 2", "12 3", "123 4"].map(String::from).to_vec(),
        ..GgufVocab::default()
    };
    let pieces = |pre: &str| {
        let tokenizer = Tokenizer::from_gguf(&vocab(pre)).unwrap();
        let ids = tokenizer.encode("1234", false).unwrap();
        ids.iter().map(|&id| tokenizer.piece(id)).collect::<Vec<_>>()
    };
    assert_eq!(pieces("gpt-2"), ["1234"]);
    assert_eq!(pieces("llama-bpe"), ["123", "4"]);
    assert_eq!(pieces("qwen2"), ["1", "2", "3", "4"]);
    assert_eq!(pieces("default"), ["123", "4"]);
}

#[test]
fn tokenizers_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Tokenizer>();
    shared::<halfbyte::tokenizer::Decoder>();
    shared::<ChatTemplate>();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_bytes_are_a_tokenizer_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Tokenizer::from_json(&bytes, None).is_err());
    }

    /// Puts a strange value into every place of a good file.
    #[test]
    fn any_change_is_a_tokenizer_or_an_error(pick in any::<prop::sample::Index>(), strange in 0usize..9, text in ".{0,20}") {
        let mut json = small();
        json["normalizer"] = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "a"}, {"type": "NFC"}]});
        let strange = [json!(null), json!(-1), json!(0), json!(1e300), json!(""), json!("é"), json!([]), json!({}), json!([[""]])][strange].clone();
        let mut places = Vec::new();
        collect(&json, String::new(), &mut places);
        *json.pointer_mut(&places[pick.index(places.len())]).unwrap() = strange;
        let Ok(tokenizer) = load(&json, None) else { return Ok(()) };
        let Ok(ids) = tokenizer.encode(&text, true) else { return Ok(()) };
        prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
        prop_assert_eq!(streamed(&tokenizer, &ids), tokenizer.decode(&ids));
    }

    #[test]
    fn sentence_piece_takes_any_text(text in "[ab▁é <tool>/s\n]{0,30}", special in any::<bool>()) {
        let spm = Tokenizer::from_gguf(&small_spm()).unwrap();
        let ids = spm.encode(&text, special).unwrap();
        prop_assert!(ids.iter().all(|&id| (id as usize) < spm.vocab_size()));
        prop_assert_eq!(streamed(&spm, &ids), spm.decode(&ids));
    }
}

fn collect(json: &Value, at: String, places: &mut Vec<String>) {
    match json {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| {
            collect(value, format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), places);
        }),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, value)| collect(value, format!("{at}/{i}"), places));
        }
        _ => {}
    }
    places.push(at);
}
