//! Data that is too large or too foreign for the repository: `$HALFBYTE_SHARED`, or `../shared` beside it.

use std::path::PathBuf;

/// The folder of shared data; prints what is skipped where there is none.
pub(crate) fn shared(what: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("HALFBYTE_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("HALFBYTE_SHARED not found: skipped {what}");
    None
}

/// A folder of the repository's own test data.
pub(crate) fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}
