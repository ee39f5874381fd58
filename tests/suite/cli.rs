//! The program as its users see it: what is on stdout, what is on stderr, with which exit status.

use halfbyte::quant::CODECS;
use serde_json::Value;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn halfbyte(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_halfbyte"));
    command.args(arguments).env_remove("HALFBYTE_ADAPTER").stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    halfbyte(arguments).output().expect("the program starts")
}

/// Runs with `--json --adapter cpu`; stdout must be one object and nothing else.
fn json(arguments: &[&str]) -> Value {
    let mut command = halfbyte(arguments);
    one_object(command.args(["--json", "--adapter", "cpu"]).output().expect("the program starts"))
}

fn one_object(output: Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    let value: Value = serde_json::from_str(&text).expect("JSON");
    assert!(value.is_object(), "{text}");
    value
}

/// Runs what must fail with `status`, saying `words` on stderr and nothing on stdout.
fn fails(arguments: &[&str], status: i32, words: &[&str]) {
    let output = run(arguments);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    for word in words {
        assert!(text.contains(word), "{arguments:?}: {word:?} is not in {text:?}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name);
    path.to_str().expect("a path in UTF-8").to_owned()
}

/// A file of this test run only.
fn scratch(name: &str, content: &[u8]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli");
    std::fs::create_dir_all(&folder).expect("a folder for scratch files");
    let path = folder.join(format!("{}-{name}", std::process::id()));
    std::fs::write(&path, content).expect("a scratch file");
    path
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// Checks the shape of `run --json`.
fn check_run(value: &Value) {
    let wanted = ["text", "prompt_token_ids", "token_ids", "finish_reason", "timings", "memory", "adapter"];
    assert_eq!(keys(value), wanted);
    assert_eq!(keys(&value["timings"]), ["load_ms", "prefill_tokens_per_s", "decode_tokens_per_s"]);
    let memory = ["weights_bytes_disk", "weights_bytes_gpu", "kv_bytes", "host_peak_bytes"];
    assert_eq!(keys(&value["memory"]), memory);
    for number in memory {
        assert!(value["memory"][number].as_u64().is_some_and(|n| n > 0), "{number}: {value}");
    }
    assert!(value["timings"]["load_ms"].as_f64().is_some_and(|ms| ms > 0.0));
}

#[test]
fn run_without_anything_writes_a_story() {
    let output = run(&["--adapter", "cpu", "--max-tokens", "6", "--seed", "4"]);
    let (text, notes) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{notes}");
    assert!(text.starts_with("Once upon a time") && text.len() > 20, "{text}");
    for word in ["tokens/s", "seed 4", "weights", "KV cache", "CPU"] {
        assert!(notes.contains(word), "{word} is not in {notes}");
    }
}

#[test]
fn run_is_repeatable() {
    let greedy = ["run", "The old king", "--temperature", "0", "--max-tokens", "8"];
    let first = json(&greedy);
    check_run(&first);
    assert_eq!(first["finish_reason"], "length");
    assert_eq!(first["adapter"], "CPU");
    assert_eq!(first["token_ids"].as_array().map(Vec::len), Some(8));
    assert!(!first["text"].as_str().expect("text").contains("The old king"));
    assert_eq!(json(&greedy)["text"], first["text"]);
    let seeded =
        |seed| json(&["run", "One day", "--seed", seed, "--temperature", "1.5", "--max-tokens", "8"]);
    let one = seeded("1");
    assert_eq!(seeded("1")["token_ids"], one["token_ids"]);
    assert_ne!(seeded("2")["token_ids"], one["token_ids"]);
}

#[test]
fn run_stops_at_a_stop_string() {
    let greedy = ["run", "embedded", "The old king", "--temperature", "0", "--max-tokens", "8"];
    let text = json(&greedy)["text"].as_str().expect("text").to_owned();
    let word = text.split_whitespace().nth(2).expect("three words");
    let stopped = json(&[&greedy[..], &["--stop", "never", "--stop", word]].concat());
    assert_eq!(stopped["text"].as_str(), text.find(word).map(|at| &text[..at]));
    assert_eq!(stopped["finish_reason"], "stop");
}

#[test]
fn run_on_the_default_adapter() {
    let output =
        run(&["run", "One day", "--max-tokens", "4", "--json", "--temperature", "0", "--context", "64"]);
    let value = one_object(output);
    check_run(&value);
    assert_ne!(value["adapter"], "CPU");
}

#[test]
fn run_reads_a_prompt_from_stdin() {
    let mut command = halfbyte(&["run", "embedded", "-", "--max-tokens", "2", "--json", "--adapter", "cpu"]);
    let output = with_input(&mut command, "Once upon a time");
    assert_eq!(one_object(output)["prompt_token_ids"], tokens("Once upon a time"));
}

fn with_input(command: &mut Command, input: &str) -> Output {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("the program starts");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
    child.wait_with_output().expect("it ends")
}

fn tokens(text: &str) -> Value {
    json(&["tokenize", "embedded", text])["token_ids"].clone()
}

/// A random model of 96 words whose chat template is nothing but roles and contents.
fn chat_model() -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chat-model");
    std::fs::create_dir_all(&folder).expect("a folder");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(Path::new(&fixture("llama")).join(name), folder.join(name)).expect("a fixture");
    }
    let roles = [("system", 93), ("user", 94), ("assistant", 95)].map(|(role, id)| (role.to_owned(), id));
    let vocab: std::collections::BTreeMap<String, u32> =
        (0..93).map(|id| (format!("w{id}"), id)).chain(roles).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null, "decoder": null,
        "pre_tokenizer": { "type": "Whitespace" },
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "w0" },
    });
    let template = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}assistant";
    let config = serde_json::json!({ "chat_template": template });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).expect("a file");
    std::fs::write(folder.join("tokenizer_config.json"), config.to_string()).expect("a file");
    folder.to_str().expect("UTF-8").to_owned()
}

#[test]
fn a_chat_template_frames_the_prompt() {
    let model = chat_model();
    let run = |more: &[&str]| json(&[&["run", &model, "w5 w6", "--max-tokens", "2"][..], more].concat());
    let prompt = |value: Value| value["prompt_token_ids"].clone();
    assert_eq!(prompt(run(&[])), serde_json::json!([94, 5, 6, 95]));
    assert_eq!(prompt(run(&["--system", "w7"])), serde_json::json!([93, 7, 94, 5, 6, 95]));
    let raw = prompt(run(&["--raw"]));
    assert!(raw.as_array().is_some_and(|ids| ids.ends_with(&[5.into(), 6.into()])), "{raw}");
    // Old turns are forgotten when the context is full; a line that never fits ends it.
    let chat = ["chat", &model, "--max-tokens", "3", "--context", "12", "--adapter", "cpu", "--json"];
    let value = one_object(with_input(&mut halfbyte(&chat), "w1\nw2\nw3\nw4\n"));
    let messages = value["messages"].as_array().expect("messages");
    assert!(messages.len() < 8 && messages[messages.len() - 2]["content"] == "w4", "{value}");
    let output = with_input(&mut halfbyte(&chat), &"w1 ".repeat(20));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn chat_takes_turns() {
    let mut command =
        halfbyte(&["chat", "--temperature", "0", "--max-tokens", "4", "--adapter", "cpu", "--json"]);
    let value = one_object(with_input(&mut command, "A dog\n\n/reset\nA cat\nran\n/quit\nnever\n"));
    assert_eq!(keys(&value), ["messages", "adapter"]);
    let messages = value["messages"].as_array().expect("messages");
    let roles: Vec<&str> = messages.iter().filter_map(|m| m["role"].as_str()).collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
    assert_eq!(messages[0]["content"], "A cat");
    let fresh = json(&["run", "A cat", "--raw", "--temperature", "0", "--max-tokens", "4"]);
    assert_eq!(messages[1]["content"], fresh["text"]);
    let mut command = halfbyte(&["chat", "--temperature", "0", "--max-tokens", "4", "--adapter", "cpu"]);
    let output = with_input(&mut command, "A cat\n");
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), fresh["text"].as_str().unwrap().trim());
}

#[test]
fn adapters_are_added_and_switched() {
    let Some(shared) = crate::shared::shared("adapters") else { return };
    let path = |name: &str| shared.join("fixtures/tinystories-656k").join(name).display().to_string();
    let (base, name) = (path("bnb-nf4-dq"), "lora-on-bnb-nf4-dq");
    let (lora, half) = (path(name), format!("{}=0.5", path(name)));
    let logits =
        |more: &[&str]| json(&[&["logits", &base, "--tokens", "1,80"], more].concat())["logits"].to_string();
    let [none, whole] = [logits(&[]), logits(&["--lora", &lora])];
    assert_eq!(logits(&["--lora", &format!("{lora}=0")]), none);
    assert_ne!(whole, none);
    let twice = logits(&["--lora", &half, "--lora", &half]); // the second has its path for a name
    assert!(twice != none && twice != logits(&["--lora", &half]));

    let much = format!("{lora}=-10");
    let chat =
        ["chat", &base, "--lora", &much, "--temperature", "0", "--max-tokens", "8", "--adapter", "cpu"];
    let with = |lines: &str| {
        let output = with_input(&mut halfbyte(&chat), lines);
        assert!(output.status.success());
        (String::from_utf8(output.stdout).expect("UTF-8"), String::from_utf8(output.stderr).expect("UTF-8"))
    };
    let say = "Once upon a time";
    let (texts, notes) = with(&format!(
        "{say}\n/reset\n/lora {name}=0\n{say}\n/reset\n/lora {name} = -10\n{say}\n/lora nobody=1\n/lora x\n"
    ));
    let texts: Vec<&str> = texts.lines().collect();
    assert!(texts.len() == 3 && texts[0] == texts[2] && texts[0] != texts[1], "{texts:?}");
    for note in [format!("({name}=0)"), format!("({name}=-10)"), "found nobody".into(), "NAME=WEIGHT".into()]
    {
        assert!(notes.contains(&note), "{notes}");
    }
}

#[test]
fn logits_are_those_of_the_golden_file() {
    let folder = fixture("llama");
    let golden = std::fs::read_to_string(Path::new(&folder).join("golden.json")).expect("golden.json");
    let golden: Value = serde_json::from_str(&golden).expect("JSON");
    let prompt = &golden["prompts"][0];
    let list = prompt["prompt_token_ids"].to_string();
    let value = json(&["logits", &folder, "--tokens", list.trim_matches(['[', ']'])]);
    assert_eq!(keys(&value), ["logits", "argmax"]);
    assert_eq!(value["argmax"], prompt["argmax_per_position"]);
    let pairs = value["logits"]
        .as_array()
        .expect("logits")
        .iter()
        .zip(prompt["logits_last"].as_array().expect("logits"));
    let worst = pairs.map(|(a, b)| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs()).fold(0.0, f64::max);
    assert!(worst < 1e-3, "{worst}");
    let output = run(&["logits", "embedded", "--tokens", "1,5", "--adapter", "cpu"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 11);
}

#[test]
fn activations_that_nothing_rounds_are_told_of() {
    let errors = |more: &[&str]| {
        let args = [&["logits", "embedded", "--tokens", "1"], more].concat();
        let output = run(&args);
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let told = "they stay f32";
    assert!(errors(&["--activations", "int8"]).contains(told));
    assert!(errors(&["--activations", "f16", "--adapter", "cpu"]).contains(told));
    assert!(!errors(&["--activations", "int8", "--without", "software"]).contains(told));
    assert!(!errors(&[]).contains(told));
}

#[test]
fn activations_are_quantized_where_that_is_asked_for() {
    let Some(shared) = crate::shared::shared("a W8A8 model") else { return };
    let folder = shared.join("fixtures/tinystories-656k/ct-w8a8-int8-smoothquant");
    let folder = folder.to_str().expect("a path in UTF-8");
    let logits =
        |mode: &str| json(&["logits", folder, "--tokens", "1,80", "--activations", mode])["logits"].clone();
    let f32 = json(&["logits", folder, "--tokens", "1,80"])["logits"].clone();
    assert_eq!(logits("f32"), f32);
    assert_ne!(logits("native"), f32);
}

#[test]
fn a_model_is_quantized_while_it_is_loaded() {
    let folder = fixture("llama-f16");
    let logits = |more: &[&str]| {
        let report = json(&[&["logits", &folder, "--tokens", "1,80"], more].concat());
        report["logits"].as_array().expect("logits").iter().filter_map(Value::as_f64).collect::<Vec<f64>>()
    };
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let plain = logits(&[]);
    let error = |name: &str| {
        let found = logits(&["--quantize", name]);
        norm(&found.iter().zip(&plain).map(|(a, b)| a - b).collect::<Vec<f64>>()) / norm(&plain)
    };
    let [int8, int4, nf4] = ["int8", "int4", "nf4"].map(error);
    assert!(0.0 < int8 && int8 < 0.05 && int8 < int4.min(nf4) && int4.max(nf4) < 0.3, "{int8} {int4} {nf4}");
    fails(&["logits", &folder, "--tokens", "1", "--quantize", "nf5"], 2, &["nf4, int8 or int4", "nf5"]);
}

#[test]
fn perplexity_of_documents_and_windows() {
    let story = "Once upon a time there was a king. He had a dog. The dog ran away and the king was sad.";
    let text = format!("{story}\n<|endoftext|>\n  {story}<|endoftext|>\n");
    let two = scratch("two.txt", text.as_bytes());
    let one = scratch("one.txt", story.as_bytes());
    let measure = |file: &Path, context: &str| {
        json(&["perplexity", "embedded", file.to_str().expect("UTF-8"), "--context", context])
    };
    let (two, whole, windows) = (measure(&two, "128"), measure(&one, "128"), measure(&one, "8"));
    assert_eq!(keys(&two), ["perplexity", "nll", "tokens"]);
    let number = |value: &Value, key: &str| value[key].as_f64().expect("a number");
    assert!((number(&two, "nll") - number(&whole, "nll")).abs() < 1e-9);
    assert_eq!(number(&two, "tokens"), 2.0 * number(&whole, "tokens"));
    assert!((number(&whole, "nll").exp() / number(&whole, "perplexity") - 1.0).abs() < 1e-9);
    assert!(number(&windows, "perplexity") > number(&whole, "perplexity"));
    assert_eq!(number(&windows, "tokens"), number(&whole, "tokens"));
}

#[test]
fn tokenize_goes_both_ways() {
    let value = json(&["tokenize", "embedded", "Once upon a time"]);
    assert_eq!(keys(&value), ["token_ids", "pieces"]);
    let ids = value["token_ids"].to_string();
    let plain = json(&["tokenize", "embedded", "Once upon a time", "--no-special"]);
    let count = |value: &Value| value["token_ids"].as_array().map_or(0, Vec::len);
    assert_eq!(count(&plain) + 1, count(&value), "BOS is not added");
    assert_eq!(count(&value), value["pieces"].as_array().map_or(0, Vec::len));
    let back = json(&["tokenize", "embedded", "--decode", ids.trim_matches(['[', ']'])]);
    assert_eq!(back["text"], "Once upon a time");
    let file = scratch("text.txt", b"Once upon a time");
    assert_eq!(json(&["tokenize", "embedded", "--file", file.to_str().expect("UTF-8")]), value);
    let mut command = halfbyte(&["tokenize", "embedded", "--json"]);
    assert_eq!(one_object(with_input(&mut command, "Once upon a time")), value);
    fails(&["tokenize", "embedded", "--decode", "99999999"], 1, &["99999999", "vocabulary"]);
}

#[test]
fn tokenize_needs_no_weights() {
    let tokenizer = r#"{"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"Whitespace"},
        "post_processor":null,"decoder":null,"model":{"type":"WordLevel","vocab":{"a":0,"cat":1,"?":2},"unk_token":"?"}}"#;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bare-tokenizer");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("tokenizer.json"), tokenizer).expect("a file");
    for path in [folder.clone(), folder.join("tokenizer.json")] {
        let value = json(&["tokenize", path.to_str().expect("UTF-8"), "a cat"]);
        assert_eq!(value["token_ids"], serde_json::json!([0, 1]));
    }
}

#[test]
fn verify_lists_the_kernels() {
    // `kernels.rs` runs all of them, on every adapter; here a few that are compiled quickly.
    let verify = |words: &[&str]| {
        let value = one_object(run(&[&["verify", "--json", "--quick", "--seed", "3"], words].concat()));
        let kernels = value["kernels"].as_array().expect("kernels").clone();
        for kernel in &kernels {
            let text = |key: &str| kernel[key].as_str().expect("a text").to_owned();
            assert!(words.iter().all(|word| (text("name") + &text("codec")).contains(word)), "{kernel}");
            assert!(kernel["max_error"].is_number() && kernel["pass"] == true, "{kernel}");
        }
        kernels.len()
    };
    assert_eq!(verify(&["gather"]), CODECS.len(), "one codec of each family");
    assert!(verify(&["gated", "f32"]) >= 2, "with a norm before it, and without");
    fails(&["verify", "--adapter", "cpu"], 1, &["CPU"]);
}

#[test]
fn adapters_are_listed() {
    let value = one_object(run(&["adapters", "--json"]));
    let first = &value["adapters"][0];
    assert_eq!(keys(first), ["index", "name", "backend", "kind", "driver", "capabilities"]);
    let floor = one_object(run(&["adapters", "--json", "--without", "f16,subgroups", "--limits", "floor"]));
    let can = &floor["adapters"][0]["capabilities"];
    assert_eq!((&can["f16"], &can["subgroups"]), (&Value::Bool(false), &Value::Null));
    assert_eq!(can["max_binding"], 128 << 20);
    let output = run(&["adapters"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(first["name"].as_str().expect("a name")) && text.contains("cpu"), "{text}");
    fails(&["run", "--adapter", "no such adapter"], 1, &["no such adapter"]);
}

#[test]
fn wrong_arguments_are_usage_errors() {
    for arguments in [
        &["tell"][..],
        &["run", "--no-such-flag"],
        &["run", "--temperature", "hot"],
        &["run", "--temperature=-1"],
        &["run", "--top-p", "1.5"],
        &["run", "--top-p", "0"],
        &["run", "--repeat-penalty", "0"],
        &["run", "--context", "0"],
        &["run", "--without", "f64"],
        &["run", "--limits", "none"],
        &["run", "--raw", "--system", "Be brief."],
        &["logits", "embedded"],
        &["logits", "embedded", "--tokens", "1,x"],
        &["perplexity", "embedded"],
        &["tokenize"],
        &["tokenize", "embedded", "text", "--decode", "1"],
    ] {
        fails(arguments, 2, &["error:"]);
    }
}

#[test]
fn failures_say_what_is_wrong() {
    let cpu = |arguments: &[&str], words: &[&str]| {
        fails(&[arguments, &["--adapter", "cpu"]].concat(), 1, words);
        fails(&[arguments, &["--adapter", "cpu", "--json"]].concat(), 1, words);
    };
    cpu(&["run", "no/such/model.gguf"], &["no/such/model.gguf"]);
    cpu(&["logits", "no/such/model", "--tokens", "1"], &["no/such/model"]);
    cpu(&["tokenize", "no/such/model", "text"], &["no/such/model"]);
    cpu(&["perplexity", "embedded", "no/such/text"], &["no/such/text"]);
    cpu(&["run", "embedded", "One day", "--lora", "no/such/lora"], &["no/such/lora"]);
    cpu(&["run", "embedded", "--quantize", "nf4"], &["quantized already", "tale.gguf", "without --quantize"]);
    cpu(&["run", "embedded", "Hi", "--system", "Be brief."], &["no chat template"]);
    cpu(&["run", "embedded", &"again and ".repeat(50), "--context", "32"], &["prompt", "32", "--context"]);
    cpu(&["logits", "embedded", "--tokens", "1,99999999"], &["99999999", "vocabulary"]);
    let file = std::fs::read(Path::new(&fixture("llama-gguf")).join("model.gguf")).expect("a fixture");
    let broken = scratch("broken.gguf", &file[..file.len() / 2]);
    cpu(&["run", broken.to_str().expect("UTF-8"), "Hi"], &["broken.gguf"]);
    let page = scratch("page.safetensors", b"<!DOCTYPE html><html></html>");
    cpu(&["run", page.to_str().expect("UTF-8"), "Hi"], &["page.safetensors"]);
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let mut child = halfbyte(&["run", "--adapter", "cpu", "--max-tokens", "40"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut some = [0; 4];
    child.stdout.take().expect("a pipe").read_exact(&mut some).expect("it writes");
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !text.contains("panicked"), "{text}");
}

#[test]
fn every_command_has_an_example() {
    for command in
        ["run", "chat", "logits", "perplexity", "tokenize", "inspect", "verify", "adapters", "bench"]
    {
        let output = run(&[command, "--help"]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("Example"), "{text}");
        let flags = [
            "--json",
            "--adapter",
            "--kv-cache",
            "--activations",
            "--quantize",
            "--context",
            "--without",
            "--limits",
        ];
        for flag in flags {
            assert!(text.contains(flag), "{command} has no {flag}");
        }
    }
}
