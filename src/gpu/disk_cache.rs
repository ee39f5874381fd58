//! Compiled pipelines on disk, where the backend can give them out (Vulkan): a driver that has no such cache of its own
//! compiles each kernel once, not at each start.

use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Bytes of a SHA-256.
const DIGEST: usize = 32;

/// One adapter's pipelines, in a file of their own: a SHA-256, then the data that it is of.
pub(crate) struct DiskCache {
    pub(crate) cache: wgpu::PipelineCache,
    file: PathBuf,
}

impl DiskCache {
    /// The cache of `device` in `folder`, empty where there is no sound file; none where the backend has no such thing.
    pub(crate) fn open(device: &wgpu::Device, folder: &Path) -> Option<Self> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let file = folder.join(wgpu::util::pipeline_cache_key(&device.adapter_info())?);
        let bytes = fs::read(&file).unwrap_or_default();
        let sound = |(digest, data): &(&[u8], &[u8])| Sha256::digest(data).as_slice() == *digest;
        let data = bytes.split_at_checked(DIGEST).filter(sound).map(|(_, data)| data);
        let descriptor = wgpu::PipelineCacheDescriptor { label: Some("pipelines"), data, fallback: true };
        // SAFETY: the data is what `get_data` once gave, or somebody forged the digest in the user's own folder; wgpu
        // and the driver look at its header, and do without it where it is of another driver.
        let cache = unsafe { device.create_pipeline_cache(&descriptor) };
        Some(Self { cache, file })
    }

    /// Writes what has been compiled so far, unless the file has it.
    pub(crate) fn save(&self) -> io::Result<()> {
        let Some(data) = self.cache.get_data() else { return Ok(()) };
        let bytes = [Sha256::digest(&data).as_slice(), &data].concat();
        if fs::read(&self.file).is_ok_and(|kept| kept == bytes) {
            return Ok(());
        }
        replace(&self.file, &bytes)
    }
}

/// Writes a file and its folder; a reader sees the old file or the new one.
pub(super) fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let part = file.with_extension(format!("{}.part", std::process::id()));
    let written = fs::write(&part, bytes).and_then(|()| fs::rename(&part, file));
    written.inspect_err(|_| drop(fs::remove_file(&part)))
}
