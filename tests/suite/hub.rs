//! `hf:` sources against a small server that answers as the hub does.

use crate::shared::fixtures;
use halfbyte::Error;
use halfbyte::checkpoint::Checkpoint;
use halfbyte::hub::{Hub, Options, Source};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "hf_secret";

/// What the server does and what it saw.
#[derive(Default)]
struct State {
    /// `owner/repo` → files.
    repos: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// Weights break off after this many bytes, so many times.
    breaks: (usize, usize),
    /// Weights arrive with one byte changed.
    damaged: bool,
    /// `path range` of all requests.
    seen: Vec<String>,
}

struct Server {
    endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let folder = fixtures().join("models");
        let read = |path: &str| std::fs::read(folder.join(path)).expect("a fixture");
        let mut state = State::default();
        let llama =
            ["config.json", "model.safetensors"].map(|f| (f.to_string(), read(&format!("llama/{f}"))));
        let mut llama = BTreeMap::from(llama);
        llama.insert("pytorch_model.bin".into(), vec![0; 10]);
        llama.insert("onnx/model.onnx".into(), vec![0; 10]);
        state.repos.insert("tiny/gated".into(), llama.clone());
        state.repos.insert("tiny/private".into(), llama.clone());
        state.repos.insert("tiny/llama".into(), llama);
        let sharded = std::fs::read_dir(folder.join("llama-sharded")).expect("a fixture").flatten();
        let sharded = sharded.map(|e| {
            let name = e.file_name().to_string_lossy().into_owned();
            (name.clone(), read(&format!("llama-sharded/{name}")))
        });
        state.repos.insert(
            "tiny/sharded".into(),
            sharded.chain([("consolidated.safetensors".into(), vec![0])]).collect(),
        );
        let gguf = read("llama-gguf/model.gguf");
        let one = BTreeMap::from([("model.gguf".to_string(), gguf.clone())]);
        state.repos.insert("tiny/gguf".into(), one);
        let two = ["a/model-q4.gguf", "model q8.gguf"].map(|name| (name.to_string(), gguf.clone()));
        state.repos.insert("tiny/ggufs".into(), BTreeMap::from(two));
        state.repos.insert("tiny/bin".into(), BTreeMap::from([("pytorch_model.bin".to_string(), vec![0])]));
        let state = Arc::new(Mutex::new(state));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { endpoint, state }
    }

    fn hub(&self, cache: &Path) -> Hub {
        self.hub_with(cache, None)
    }

    fn hub_with(&self, cache: &Path, token: Option<&str>) -> Hub {
        let token = token.map(str::to_string);
        Hub::new(Options { endpoint: self.endpoint.clone(), cache: cache.into(), token, offline: false })
    }

    /// Requests since the last call.
    fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().expect("no panic").seen)
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().expect("no panic"));
    }
}

/// Answers requests until one is broken off.
fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a stream"));
    while let Some((path, headers)) = request(&mut reader) {
        let mut state = state.lock().expect("no panic");
        let range = headers.get("range").cloned().unwrap_or_default();
        state.seen.push(format!("{path} {range}").trim().to_string());
        let authorized = headers.get("authorization").is_some_and(|a| a == &format!("Bearer {TOKEN}"));
        if !answer(&mut state, &path, &range, authorized, &stream) {
            stream.shutdown(std::net::Shutdown::Both).ok();
            return;
        }
    }
}

fn request(reader: &mut impl BufRead) -> Option<(String, BTreeMap<String, String>)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&n| n > 0)?;
    let path = line.split(' ').nth(1)?.to_string();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { return Some((path, headers)) };
        headers.insert(name.to_lowercase(), value.trim().to_string());
    }
}

/// Whether the connection goes on.
fn answer(state: &mut State, path: &str, range: &str, authorized: bool, mut stream: &TcpStream) -> bool {
    let mut send = |status: &str, headers: &str, body: &[u8], cut: usize| {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
        stream.write_all(head.as_bytes()).is_ok() && stream.write_all(&body[..body.len().min(cut)]).is_ok()
    };
    const ALL: usize = usize::MAX;
    let parts: Vec<&str> = path.split('/').collect();
    let (repo, revision, file) = match parts[..] {
        ["", "api", "models", owner, name, "revision", revision] => {
            (format!("{owner}/{name}"), revision, None)
        }
        ["", owner, name, "resolve", revision, ..] => {
            (format!("{owner}/{name}"), revision, Some(parts[5..].join("/").replace("%20", " ")))
        }
        // The store that large files lie in.
        ["", "store", owner, name, ..] => {
            assert!(!authorized || owner.is_empty(), "the store is of the same host in this test");
            (format!("{owner}/{name}"), "main", Some(parts[4..].join("/")))
        }
        _ => return send("404 Not Found", "", b"", ALL),
    };
    let Some(files) = state.repos.get(&repo) else {
        return send("404 Not Found", "x-error-code: RepoNotFound\r\n", b"", ALL);
    };
    if repo == "tiny/gated" && !authorized {
        return send("403 Forbidden", "x-error-code: GatedRepo\r\n", b"", ALL);
    }
    if repo == "tiny/private" && !authorized {
        return send("401 Unauthorized", "x-error-code: RepoNotFound\r\n", b"", ALL);
    }
    if !["main", "v1.0", "refs%2Fpr%2F1", COMMIT].contains(&revision) {
        return send("404 Not Found", "x-error-code: RevisionNotFound\r\n", b"", ALL);
    }
    let Some(file) = file else {
        let siblings: Vec<_> = files.keys().map(|f| serde_json::json!({ "rfilename": f })).collect();
        let json = serde_json::json!({ "id": repo, "sha": COMMIT, "siblings": siblings });
        return send("200 OK", "Content-Type: application/json\r\n", json.to_string().as_bytes(), ALL);
    };
    let Some(mut body) = files.get(&file).cloned() else {
        return send("404 Not Found", "x-error-code: EntryNotFound\r\n", b"", ALL);
    };
    let digest: String = Sha256::digest(&body).iter().map(|b| format!("{b:02x}")).collect();
    let large = file.ends_with(".safetensors") || file.ends_with(".gguf");
    let etag = if large { digest } else { format!("{}-{}", &digest[..32], body.len()) };
    let headers = format!("ETag: \"{etag}\"\r\nx-repo-commit: {COMMIT}\r\nAccept-Ranges: bytes\r\n");
    if large && file.contains("-00002-of-") {
        let headers = format!("{headers}X-Linked-Etag: \"{etag}\"\r\nLocation: /store/{repo}/{file}\r\n");
        if parts[1] != "store" {
            return send("302 Found", &headers.replacen("ETag", "X-Other", 1), b"", ALL);
        }
    }
    if large && state.damaged {
        body[1000] ^= 1;
    }
    let cut = if large && state.breaks.1 > 0 {
        state.breaks.1 -= 1;
        state.breaks.0
    } else {
        ALL
    };
    let total = body.len();
    match range.strip_prefix("bytes=").and_then(|r| r.trim_end_matches('-').parse::<usize>().ok()) {
        None => send("200 OK", &headers, &body, cut) && cut == ALL,
        Some(start) if start >= total => {
            send("416 Range Not Satisfiable", &format!("Content-Range: bytes */{total}\r\n"), b"", ALL)
        }
        Some(start) => {
            let range = format!("{headers}Content-Range: bytes {start}-{}/{total}\r\n", total - 1);
            send("206 Partial Content", &range, &body[start..], cut) && cut == ALL
        }
    }
}

/// A folder that goes away again.
struct Cache(PathBuf);

impl Cache {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("halfbyte-hub-{}-{name}", std::process::id()));
        std::fs::remove_dir_all(&path).ok();
        Self(path)
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn source(text: &str) -> Source {
    text.parse().expect("a source")
}

fn opens(path: &Path) {
    let checkpoint = pollster::block_on(Checkpoint::open(path)).expect("a checkpoint");
    checkpoint.check().expect("all tensors");
}

fn fails(hub: &Hub, text: &str) -> String {
    let error = hub.fetch(&source(text), &mut |_| {}).expect_err(text);
    error.to_string()
}

#[test]
fn downloads_once_and_only_what_a_model_needs() {
    let (server, cache) = (Server::start(), Cache::new("once"));
    let mut progress = Vec::new();
    let fetched = server
        .hub(&cache.0)
        .fetch(&source("hf:tiny/llama"), &mut |p| progress.push((p.file.to_string(), p.done, p.total)))
        .expect("a download");
    assert_eq!(fetched.commit, COMMIT);
    opens(&fetched.path);
    let seen = server.seen();
    assert_eq!(seen.len(), 3, "{seen:?}");
    let weights = progress.iter().filter(|(file, ..)| file == "model.safetensors").collect::<Vec<_>>();
    assert_eq!(weights.first().map(|(_, done, _)| *done), Some(0));
    assert!(weights.last().is_some_and(|(_, done, total)| done == total && *total == 273_744), "{weights:?}");

    let again = server.hub(&cache.0).fetch(&source("hf:tiny/llama"), &mut |_| panic!("no download"));
    assert_eq!(again.expect("the cache"), fetched);
    assert_eq!(server.seen(), ["/api/models/tiny/llama/revision/main"]);

    // Without the hub, what is there is taken.
    let nowhere =
        Options { endpoint: "http://127.0.0.1:9".into(), cache: cache.0.clone(), ..Options::default() };
    let offline = Hub::new(nowhere.clone()).fetch(&source("hf:tiny/llama"), &mut |_| {}).expect("the cache");
    assert!(offline.offline && offline.path == fetched.path, "{offline:?}");
    let error = Hub::new(nowhere.clone()).fetch(&source("hf:tiny/gguf"), &mut |_| {}).expect_err("not there");
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert!(error.to_string().contains("check the network"), "{error}");
    let asked = Hub::new(Options { offline: true, ..nowhere });
    assert!(asked.fetch(&source("hf:tiny/llama"), &mut |_| {}).is_ok());
    assert!(fails(&asked, "hf:tiny/gguf").contains("HF_HUB_OFFLINE"));
}

#[test]
fn a_broken_connection_goes_on_where_it_stopped() {
    let (server, cache) = (Server::start(), Cache::new("resume"));
    server.set(|s| s.breaks = (100_000, 1));
    let fetched = server.hub(&cache.0).fetch(&source("hf:tiny/llama"), &mut |_| {}).expect("a download");
    opens(&fetched.path);
    let seen = server.seen();
    assert!(seen.iter().any(|r| r.ends_with("model.safetensors bytes=100000-")), "{seen:?}");

    // The same over two runs: the first gives up.
    server.set(|s| s.breaks = (0, 100));
    let cache = Cache::new("resume-later");
    let message = fails(&server.hub(&cache.0), "hf:tiny/gguf");
    assert!(message.contains("model.gguf") && message.contains("go on where they stopped"), "{message}");
    server.set(|s| s.breaks = (50_000, 1));
    let fetched = server.hub(&cache.0).fetch(&source("hf:tiny/gguf"), &mut |_| {}).expect("a download");
    opens(&fetched.path);
    assert!(server.seen().iter().any(|r| r.ends_with("model.gguf bytes=50000-")));

    // A part that was complete when the program ended.
    let cache = Cache::new("complete");
    server.set(|s| s.breaks = (100_000, 100));
    let part = part(&cache, "gguf", "model.gguf");
    let gguf = fixtures().join("models/llama-gguf/model.gguf");
    std::fs::copy(gguf, part).expect("a copy");
    let fetched = server.hub(&cache.0).fetch(&source("hf:tiny/gguf"), &mut |_| {}).expect("no download");
    opens(&fetched.path);
}

/// Where a download of a file of `tiny/name` lies until it is complete.
fn part(cache: &Cache, name: &str, file: &str) -> PathBuf {
    let key = Sha256::digest(format!("{COMMIT}/{file}"));
    let key: String = key.iter().map(|b| format!("{b:02x}")).collect();
    let blobs = cache.0.join(format!("models--tiny--{name}/blobs"));
    std::fs::create_dir_all(&blobs).expect("a folder");
    blobs.join(format!("{key}.incomplete"))
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_says_so() {
    let (server, cache) = (Server::start(), Cache::new("full"));
    std::os::unix::fs::symlink("/dev/full", part(&cache, "gguf", "model.gguf")).expect("a link");
    let message = fails(&server.hub(&cache.0), "hf:tiny/gguf");
    assert!(message.contains("disk is full") && message.contains("HF_HOME"), "{message}");
    assert_eq!(server.seen().len(), 2);
}

#[test]
fn damage_on_the_way_is_noticed() {
    let (server, cache) = (Server::start(), Cache::new("damage"));
    server.set(|s| s.damaged = true);
    assert!(fails(&server.hub(&cache.0), "hf:tiny/llama").contains("SHA-256"));
    server.set(|s| s.damaged = false);
    let fetched = server.hub(&cache.0).fetch(&source("hf:tiny/llama"), &mut |_| {}).expect("a download");
    opens(&fetched.path);
}

#[test]
fn shards_and_single_files() {
    let (server, cache) = (Server::start(), Cache::new("files"));
    let hub = server.hub(&cache.0);
    opens(&hub.fetch(&source("hf:tiny/sharded"), &mut |_| {}).expect("a download").path);
    let seen = server.seen();
    assert!(!seen.iter().any(|r| r.contains("consolidated")), "{seen:?}");
    assert!(seen.iter().any(|r| r.starts_with("/store/")), "{seen:?}");
    opens(&hub.fetch(&source("hf:tiny/gguf"), &mut |_| {}).expect("the only one").path);

    let message = fails(&hub, "hf:tiny/ggufs");
    assert!(message.contains("a/model-q4.gguf, model q8.gguf"), "{message}");
    for file in ["a/model-q4.gguf", "model q8.gguf"] {
        let fetched = hub.fetch(&source(&format!("hf:tiny/ggufs/{file}@v1.0")), &mut |_| {}).expect(file);
        assert!(fetched.path.ends_with(file), "{}", fetched.path.display());
        opens(&fetched.path);
    }
    let message = fails(&hub, "hf:tiny/ggufs/q2.gguf");
    assert!(message.contains("q2.gguf") && message.contains("model q8.gguf"), "{message}");
    let message = fails(&hub, "hf:tiny/bin");
    assert!(message.contains("pytorch_model.bin"), "{message}");
}

#[test]
fn a_split_model_is_one_choice() {
    let names = ["q8-00001-of-00002.gguf", "q8-00002-of-00002.gguf", "README.md"].map(String::from);
    let chosen = |text: &str, names: &[String]| halfbyte::hub::choose(&source(text), names, None);
    let found = chosen("hf:tiny/split", &names).expect("a choice");
    assert_eq!((&found.files[..], found.open.as_ref()), (&names[..2], Some(&names[0])));
    let found = chosen("hf:tiny/split/q8-00002-of-00002.gguf", &names).expect("a choice");
    assert_eq!((&found.files[..], found.open.as_ref()), (&names[..2], Some(&names[1])));
    let message = chosen("hf:tiny/split", &names[1..]).expect_err("a part is missing").to_string();
    assert!(message.contains("has no file q8-00001-of-00002.gguf"), "{message}");
}

#[test]
fn revisions() {
    let (server, cache) = (Server::start(), Cache::new("revision"));
    let hub = server.hub(&cache.0);
    for revision in ["v1.0", "refs/pr/1", COMMIT] {
        let fetched = hub.fetch(&source(&format!("hf:tiny/llama@{revision}")), &mut |_| {}).expect(revision);
        opens(&fetched.path);
    }
    let seen = server.seen();
    assert_eq!(seen.iter().filter(|r| r.contains("model.safetensors")).count(), 1, "{seen:?}");
    let message = fails(&hub, "hf:tiny/llama@v2");
    assert!(message.contains("no revision v2"), "{message}");
}

#[test]
fn refusals_say_what_to_do() {
    let (server, cache) = (Server::start(), Cache::new("refused"));
    let hub = server.hub(&cache.0);
    let message = fails(&hub, "hf:tiny/nothing");
    assert!(message.contains("no model tiny/nothing"), "{message}");
    for repo in ["gated", "private"] {
        let message = fails(&hub, &format!("hf:tiny/{repo}"));
        assert!(message.contains("HF_TOKEN") && message.contains(&format!("/tiny/{repo}")), "{message}");
        let hub = server.hub_with(&cache.0, Some(TOKEN));
        opens(&hub.fetch(&source(&format!("hf:tiny/{repo}")), &mut |_| {}).expect("with a token").path);
    }
    let message = fails(&server.hub_with(&cache.0, Some("wrong")), "hf:tiny/private");
    assert!(message.contains("HF_TOKEN"), "{message}");
}

#[test]
fn names() {
    let parsed = source("hf:a/b-c_1.5/sub/x.gguf@refs/pr/1");
    let file = Some("sub/x.gguf".to_string());
    assert_eq!(parsed, Source { repo: "a/b-c_1.5".into(), revision: "refs/pr/1".into(), file });
    for text in ["hf:a/b", "hf:a/b@v1", "hf:a/b/c.gguf", "hf:a/b/c.gguf@v1"] {
        assert_eq!(source(text).to_string(), text);
    }
    for text in [
        "a/b",
        "hf:",
        "hf:a",
        "hf:a/",
        "hf:/b",
        "hf:../b",
        "hf:a/..",
        "hf:a/b@",
        "hf:a/b/",
        "hf:a/b@../x",
        "hf:a/b/../../c.gguf",
        "hf:a b/c",
    ] {
        let error = text.parse::<Source>().expect_err(text).to_string();
        assert!(error.contains("hf:owner/repo@revision"), "{error}");
    }
}

/// The program itself, told by the environment.
#[cfg(feature = "cli")]
#[test]
fn the_command_line_reads_the_environment() {
    let (server, cache) = (Server::start(), Cache::new("cli"));
    let run = |model: &str| {
        std::process::Command::new(env!("CARGO_BIN_EXE_halfbyte"))
            .args(["inspect", "--json", "--adapter", "cpu", model])
            .env("HF_ENDPOINT", &server.endpoint)
            .env("HF_HOME", &cache.0)
            .env("HF_TOKEN", TOKEN)
            .env_remove("HF_HUB_CACHE")
            .env_remove("HF_HUB_OFFLINE")
            .output()
            .expect("the program runs")
    };
    let output = run("hf:tiny/private");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(json["architecture"], "llama");
    assert!(cache.0.join("hub/models--tiny--private/refs/main").is_file());
    let output = run("hf:tiny/nothing");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no model tiny/nothing"));
}
