//! Downloads into the cache of `huggingface_hub`.

use super::choice::{Source, choose, index_file};
use crate::error::{Error, Result};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::Response;
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Body};

/// Where models come from unless `HF_ENDPOINT` says otherwise.
const ENDPOINT: &str = "https://huggingface.co";
/// Longest answer of the API: a repository of ten thousand files stays below it.
const MAX_INFO: u64 = 16 << 20;
/// How often a broken download goes on without having got any further.
const RETRIES: u32 = 4;
const REDIRECTS: usize = 10;

/// How far the download of a file has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Its name in the repository.
    pub file: &'a str,
    /// Bytes that are there.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// A model in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// What to hand to [`crate::checkpoint::Checkpoint::open`]: a folder, or the one file that was named.
    pub path: PathBuf,
    /// The commit that the revision stands for.
    pub commit: String,
    /// The hub was out of reach: this is what an earlier download left.
    pub offline: bool,
}

/// Where to fetch from and to.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The hub's address; empty for huggingface.co.
    pub endpoint: String,
    /// The cache folder (`…/huggingface/hub`).
    pub cache: PathBuf,
    /// An access token.
    pub token: Option<String>,
    /// Take what is in the cache, ask nobody.
    pub offline: bool,
}

/// Where programs keep what they can make or fetch again: `XDG_CACHE_HOME` or `.cache` at home.
pub fn cache_home() -> Option<PathBuf> {
    let set = std::env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty());
    set.map(PathBuf::from).or_else(|| Some(std::env::home_dir()?.join(".cache")))
}

impl Options {
    /// What the environment says: `HF_ENDPOINT`, `HF_TOKEN` or the token that `hf auth login` left, `HF_HUB_CACHE`,
    /// `HF_HOME`, `XDG_CACHE_HOME`, `HF_HUB_OFFLINE`.
    pub fn from_env() -> Result<Self> {
        let var = |name: &str| std::env::var(name).ok().filter(|v| !v.trim().is_empty());
        let home = || cache_home().map(|cache| cache.join("huggingface"));
        let cache = var("HF_HUB_CACHE").map(PathBuf::from).or_else(|| {
            let home = var("HF_HOME").map(PathBuf::from).or_else(home);
            home.map(|home| home.join("hub"))
        });
        let cache = cache.ok_or_else(|| {
            Error::missing("no home folder to keep downloads in").remedy("set HF_HOME to a folder")
        })?;
        let token = var("HF_TOKEN").map(|t| t.trim().to_string());
        Ok(Self {
            endpoint: var("HF_ENDPOINT").unwrap_or_default(),
            token: token.or_else(|| Cache::new(cache.clone()).token()),
            cache,
            offline: var("HF_HUB_OFFLINE").is_some_and(|v| v != "0"),
        })
    }
}

/// A hub with its cache.
pub struct Hub {
    endpoint: String,
    cache: Cache,
    token: Option<String>,
    offline: bool,
    agent: Agent,
}

impl Hub {
    /// A hub.
    pub fn new(options: Options) -> Self {
        let endpoint = match options.endpoint.trim().trim_end_matches('/') {
            "" => ENDPOINT.to_string(),
            address => address.to_string(),
        };
        let tls = if cfg!(any(target_vendor = "apple", windows)) {
            let tls = TlsConfig::builder().provider(TlsProvider::NativeTls);
            tls.root_certs(RootCerts::PlatformVerifier).build()
        } else {
            TlsConfig::builder().provider(TlsProvider::Rustls).build()
        };
        let mut config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("halfbyte/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)));
        if ["//localhost", "//127.0.0.1", "//[::1]"].iter().any(|host| endpoint.contains(host)) {
            config = config.proxy(None);
        }
        Self {
            endpoint,
            cache: Cache::new(options.cache),
            token: options.token,
            offline: options.offline,
            agent: config.build().into(),
        }
    }

    /// The hub that the environment names, see [`Options::from_env`].
    pub fn from_env() -> Result<Self> {
        Ok(Self::new(Options::from_env()?))
    }

    /// Brings the files of a model into the cache; `progress` is told of every file that has to be downloaded.
    pub fn fetch(&self, source: &Source, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Fetched> {
        let repo = Repo::with_revision(source.repo.clone(), RepoType::Model, source.revision.clone());
        let cache = self.cache.repo(repo);
        if self.offline {
            return self.cached(source, &cache)?.ok_or_else(|| {
                Error::missing(format!("{source} is not in the cache"))
                    .remedy("HF_HUB_OFFLINE is set: unset it to download the model")
            });
        }
        let (commit, names) = match self.info(source) {
            Err(error @ Error::Io { .. }) => return self.cached(source, &cache)?.ok_or(error),
            other => other?,
        };
        let snapshot = cache.pointer_path(&commit);
        let mut fetch = |name: &str| {
            let path = snapshot.join(name);
            if !path.exists() {
                self.download(source, &commit, name, &cache, &path, progress)?;
            }
            Ok(path)
        };
        let index = match index_file(source, &names) {
            Some(name) => Some(read(&fetch(name)?)?),
            None => None,
        };
        let chosen = choose(source, &names, index.as_deref())?;
        for name in &chosen.files {
            fetch(name)?;
        }
        if source.revision != commit {
            // Last: what a name points to is complete.
            cache.create_ref(&commit).map_err(|e| self.disk(e, 0))?;
        }
        let path = chosen.open.map_or(snapshot.clone(), |name| snapshot.join(name));
        Ok(Fetched { path, commit, offline: false })
    }

    /// What an earlier download left.
    fn cached(&self, source: &Source, cache: &CacheRepo) -> Result<Option<Fetched>> {
        let refs = folder(cache).join("refs").join(&source.revision);
        let commit = std::fs::read_to_string(refs).map_or(source.revision.clone(), |c| c.trim().to_string());
        let snapshot = cache.pointer_path(&commit);
        let Ok(entries) = std::fs::read_dir(&snapshot) else { return Ok(None) };
        let names: Vec<String> =
            entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        let path = match &source.file {
            Some(file) => snapshot.join(file),
            None => {
                let index = index_file(source, &names).map(|name| read(&snapshot.join(name))).transpose();
                let Ok(index) = index else { return Ok(None) };
                let Ok(chosen) = choose(source, &names, index.as_deref()) else { return Ok(None) };
                if chosen.files.iter().any(|name| !snapshot.join(name).exists()) {
                    return Ok(None);
                }
                chosen.open.map_or(snapshot.clone(), |name| snapshot.join(name))
            }
        };
        Ok(path.exists().then_some(Fetched { path, commit, offline: true }))
    }

    /// The commit that the revision stands for, and the files that it has.
    fn info(&self, source: &Source) -> Result<(String, Vec<String>)> {
        let revision = source.revision.replace('/', "%2F");
        let url = format!("{}/api/models/{}/revision/{revision}", self.endpoint, source.repo);
        let (mut response, _) = self.get(&url, 0)?;
        if response.status() != 200 {
            return Err(self.refused(source, &response, None));
        }
        let bytes = response.body_mut().with_config().limit(MAX_INFO).read_to_vec();
        let bytes = bytes.map_err(|e| self.unreachable(&url, e))?;
        let strange = |what: &str| {
            Error::corrupt(format!("the hub's answer {what}")).file(&url).remedy("check HF_ENDPOINT")
        };
        let json: Value = serde_json::from_slice(&bytes).map_err(|_| strange("is no JSON"))?;
        let commit = json["sha"].as_str().unwrap_or(&source.revision);
        if commit.is_empty() || !commit.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            return Err(strange("names no commit"));
        }
        let files = json["siblings"].as_array().ok_or_else(|| strange("lists no files"))?;
        let names = files.iter().filter_map(|f| Some(f["rfilename"].as_str()?.to_string())).collect();
        Ok((commit.to_string(), names))
    }

    /// Follows redirects by hand: the etag of the file itself is in the first answer, and the token is for the hub
    /// alone.
    fn get(&self, url: &str, start: u64) -> Result<(Response<Body>, Option<String>)> {
        let mut url = url.to_string();
        let mut etag: Option<String> = None;
        for _ in 0..REDIRECTS {
            let mut request = self.agent.get(&url);
            if let Some(token) = self.token.as_ref().filter(|_| self.is_own(&url)) {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            if start > 0 {
                request = request.header("Range", format!("bytes={start}-"));
            }
            let response = request.call().map_err(|e| self.unreachable(&url, e))?;
            let header = |name: &str| response.headers().get(name)?.to_str().ok();
            if etag.is_none() {
                // The etag of a store elsewhere is a hash of the store's own kind.
                let own = header("etag").filter(|_| response.status().is_success() && self.is_own(&url));
                etag = header("x-linked-etag").or(own).and_then(plain_etag);
            }
            let Some(location) = header("location").filter(|_| response.status().is_redirection()) else {
                return Ok((response, etag));
            };
            url = match location.strip_prefix('/') {
                Some(path) if !path.starts_with('/') => format!("{}/{path}", origin(&url)),
                _ => location.to_string(),
            };
        }
        Err(Error::io(url, io::Error::other("too many redirects")))
    }

    /// Whether an address is the hub's.
    fn is_own(&self, url: &str) -> bool {
        origin(url) == origin(&self.endpoint)
    }

    /// Downloads one file to its blob and links it into the snapshot.
    fn download(
        &self,
        source: &Source,
        commit: &str,
        name: &str,
        cache: &CacheRepo,
        path: &Path,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<()> {
        let blobs = folder(cache).join("blobs");
        for folder in [Some(blobs.as_path()), path.parent()].into_iter().flatten() {
            std::fs::create_dir_all(folder).map_err(|e| self.disk(e, 0))?;
        }
        // Commits do not change, so a part that is named for one can go on at any time. Two programs at once write
        // the same bytes to the same places.
        let key = hex(&Sha256::digest(format!("{commit}/{name}")));
        let part = blobs.join(format!("{key}.incomplete"));
        let mut failures = 0;
        let mut furthest = 0;
        let etag = loop {
            match self.transfer(source, commit, name, &part, progress) {
                Ok(etag) => break etag,
                Err(Broken::Final(error)) => return Err(error),
                Err(Broken::Network(error, reached)) => {
                    failures = if reached > furthest { 1 } else { failures + 1 };
                    furthest = furthest.max(reached);
                    if failures > RETRIES {
                        return Err(error);
                    }
                    std::thread::sleep(Duration::from_millis(200 << failures));
                }
            }
        };
        let blob = blobs.join(etag.unwrap_or(key));
        if let Err(error) = std::fs::rename(&part, &blob)
            && !blob.exists()
        {
            return Err(self.disk(error, 0));
        }
        link(&blob, path).map_err(|e| self.disk(e, 0))
    }

    /// One request; the etag of the whole file once it is there.
    fn transfer(
        &self,
        source: &Source,
        commit: &str,
        name: &str,
        part: &Path,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Option<String>, Broken> {
        let disk = |e: io::Error| Broken::Final(self.disk(e, 0));
        let mut file = File::options().create(true).truncate(false).read(true).write(true).open(part);
        let file = file.as_mut().map_err(|e| disk(io::Error::new(e.kind(), e.to_string())))?;
        let mut start = file.metadata().map_err(disk)?.len();
        let url = |revision: &str| {
            let revision = revision.replace('/', "%2F");
            format!("{}/{}/resolve/{revision}/{}", self.endpoint, source.repo, encoded(name))
        };
        let network = |error: Error| match error {
            error @ Error::Io { .. } => Broken::Network(error, start),
            error => Broken::Final(error),
        };
        let (mut response, mut etag) = self.get(&url(commit), start).map_err(network)?;
        if response.status() == 404 && source.revision != commit {
            // A mirror may know names only.
            (response, etag) = self.get(&url(&source.revision), start).map_err(network)?;
        }
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
        let total = match response.status().as_u16() {
            200 => {
                start = 0; // the server does not resume
                header("content-length").and_then(number)
            }
            206 => header("content-range").and_then(|range| number(range.rsplit('/').next()?)),
            416 => {
                let total = header("content-range").and_then(|range| number(range.rsplit('/').next()?));
                if total != Some(start) {
                    file.set_len(0).map_err(disk)?;
                    return Err(Broken::Network(self.refused(source, &response, Some(name)), 0));
                }
                total // all was there already
            }
            429 | 500.. => {
                return Err(Broken::Network(self.refused(source, &response, Some(name)), start));
            }
            _ => return Err(Broken::Final(self.refused(source, &response, Some(name)))),
        };
        let complete = response.status() == 416;

        let mut hash = etag.as_ref().filter(|e| e.len() == 64).map(|_| Sha256::new());
        if let Some(hash) = &mut hash {
            io::copy(&mut (&*file).take(start), hash).map_err(disk)?;
        }
        file.seek(SeekFrom::Start(start)).map_err(disk)?;
        let mut done = start;
        let mut tell = |done: u64| progress(Progress { file: name, done, total: total.unwrap_or(done) });
        tell(done);
        if !complete {
            let mut body = response.into_body().into_reader();
            let mut buffer = vec![0; 256 << 10];
            loop {
                let count = match body.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => count,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(e) => return Err(Broken::Network(self.unreachable(name, e.into()), done)),
                };
                let left = total.map_or(0, |total| total.saturating_sub(done));
                file.write_all(&buffer[..count]).map_err(|e| Broken::Final(self.disk(e, left)))?;
                if let Some(hash) = &mut hash {
                    hash.update(&buffer[..count]);
                }
                done += count as u64;
                tell(done);
            }
        }
        if total.is_some_and(|total| done < total) {
            let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the connection broke");
            return Err(Broken::Network(self.unreachable(name, error.into()), done));
        }
        file.set_len(done).map_err(disk)?;
        let found = hash.map(|hash| hex(&hash.finalize()));
        if let (Some(found), Some(etag)) = (found, &etag)
            && found != etag.to_lowercase()
        {
            std::fs::remove_file(part).ok();
            return Err(Broken::Final(
                Error::corrupt(format!("{name} of {source} was damaged on the way"))
                    .expected(format!("SHA-256 {etag}"))
                    .found(found)
                    .remedy("try again"),
            ));
        }
        Ok(etag)
    }

    /// What an unfriendly answer means.
    fn refused(&self, source: &Source, response: &Response<Body>, file: Option<&str>) -> Error {
        let repo = &source.repo;
        let code = response.headers().get("x-error-code").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let status = response.status().as_u16();
        match (status, code) {
            (401 | 403, "GatedRepo") | (403, _) => {
                Error::invalid(format!("{repo} asks for a licence to be accepted")).remedy(format!(
                    "accept it at {}/{repo}, then set HF_TOKEN to a token of that account",
                    self.endpoint
                ))
            }
            (401, _) => match self.token {
                None => Error::invalid(format!("{repo} does not exist, or needs a token")).remedy(format!(
                    "check the name; if it is private or gated, accept its licence at {}/{repo} and set HF_TOKEN",
                    self.endpoint
                )),
                Some(_) => Error::invalid(format!("{repo} does not exist, or the token is not allowed to read it"))
                    .remedy("check the name and HF_TOKEN, and accept the licence of the model, if it has one"),
            },
            (404, "RevisionNotFound") => self.no_revision(source),
            (404, _) => match file {
                Some(file) => Error::missing(format!("{repo} has no file {file} at {}", source.revision)),
                None if source.revision != "main" && self.exists(source) => self.no_revision(source),
                None => Error::missing(format!("no model {repo} at {}", self.endpoint))
                    .remedy("check the name: hf:owner/repo"),
            },
            (429, _) => Error::io(&self.endpoint, io::Error::other("too many requests; try again later")),
            _ => Error::io(&self.endpoint, io::Error::other(format!("HTTP status {status} for {repo}"))),
        }
    }

    fn no_revision(&self, source: &Source) -> Error {
        Error::missing(format!("{} has no revision {}", source.repo, source.revision))
            .remedy("name a branch, a tag or a commit")
    }

    /// Whether the repository has a branch `main`.
    fn exists(&self, source: &Source) -> bool {
        let url = format!("{}/api/models/{}/revision/main", self.endpoint, source.repo);
        self.get(&url, 0).is_ok_and(|(response, _)| response.status() == 200)
    }

    fn unreachable(&self, what: &str, error: ureq::Error) -> Error {
        let (kind, why) = match error {
            ureq::Error::Io(e) => (e.kind(), e.to_string()),
            ureq::Error::Timeout(_) => (io::ErrorKind::TimedOut, "no answer in time".into()),
            other => (io::ErrorKind::NotConnected, other.to_string()),
        };
        let why = format!(
            "cannot fetch it from {}: {why}; check the network, HF_ENDPOINT and the proxy, then try again: \
             downloads go on where they stopped",
            self.endpoint
        );
        Error::io(what, io::Error::new(kind, why))
    }

    /// An error of the file system; `left` bytes were still to come.
    fn disk(&self, error: io::Error, left: u64) -> Error {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        let cache = self.cache.path().display();
        if !matches!(error.kind(), StorageFull | QuotaExceeded) {
            return Error::io(cache, error);
        }
        let left = if left > 0 { format!(", {left} more bytes to come") } else { String::new() };
        let what = format!("the disk is full{left}; free some space, or set HF_HOME to another disk");
        Error::io(cache, io::Error::new(error.kind(), what))
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::io(path.display(), e))
}

/// Where the cache keeps a repository.
fn folder(cache: &CacheRepo) -> PathBuf {
    cache.pointer_path("").parent().map(Path::to_path_buf).unwrap_or_default()
}

/// Why a transfer stopped.
enum Broken {
    /// Asking again is of no use.
    Final(Error),
    /// Worth another try; so many bytes were there.
    Network(Error, u64),
}

/// `scheme://host:port` of an address.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find(['/', '?', '#']).map_or(url.len(), |at| at + host);
    &url[..end]
}

/// An etag without quotes; none if it could not be a file name.
fn plain_etag(etag: &str) -> Option<String> {
    let etag = etag.trim().trim_start_matches("W/").trim_matches('"');
    let fit = (8..=128).contains(&etag.len()) && etag.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    fit.then(|| etag.to_string())
}

/// A path as part of an address.
fn encoded(path: &str) -> String {
    let encode = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => (b as char).to_string(),
        _ => format!("%{b:02X}"),
    };
    path.bytes().map(encode).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Makes `path` stand for `blob`: a link, or where there are none the file itself.
fn link(blob: &Path, path: &Path) -> io::Result<()> {
    std::fs::remove_file(path).ok(); // a link to a blob that is gone
    #[cfg(unix)]
    {
        let ups = path.components().count() - blob.parent().map_or(0, |p| p.components().count());
        let mut target: PathBuf = std::iter::repeat_n("..", ups).collect();
        target.push("blobs");
        target.push(blob.file_name().unwrap_or_default());
        match std::os::unix::fs::symlink(target, path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()), // another program's, for the same
            other => other,
        }
    }
    #[cfg(not(unix))]
    {
        std::fs::hard_link(blob, path).or_else(|_| std::fs::rename(blob, path))
    }
}
