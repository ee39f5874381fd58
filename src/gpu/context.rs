//! Adapter, device, capabilities: everything that differs between machines, decided at run time.

use super::kernels::{MATRIX_BYTES, NATIVE, Tuning};
use super::pipeline::Pipelines;
use crate::device::GpuBuffer;
use crate::error::{Error, Result};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// How long a thread waits for the GPU in one go: while it waits, wgpu lets no other thread present a frame.
#[cfg(not(target_arch = "wasm32"))]
const WAIT_SLICE: std::time::Duration = std::time::Duration::from_millis(1);

/// Which adapter to use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AdapterChoice {
    /// The fastest that is there.
    #[default]
    Best,
    /// The one that saves the battery.
    LowPower,
    /// By its place in [`adapters`].
    Index(usize),
    /// By a part of its name, driver or backend, in any case.
    Name(String),
    /// One that computes nothing and reads zeros: what is left of the time is the host's.
    Noop,
}

/// Which limits to ask the adapter for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LimitSet {
    /// All that the adapter has.
    #[default]
    Adapter,
    /// WebGPU's guaranteed minimum: 128 MiB bindings, 16 KiB workgroup memory, 256 invocations, 8 storage buffers.
    Floor,
    /// An iPhone-class device: the floor with 1 GiB buffers, and 1.5 GB for the whole process.
    Iphone,
}

/// What products may lose of activations, where the adapter multiplies the rest faster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// Nothing: sums are as good as those of f32.
    #[default]
    None,
    /// Prompts multiply in f16, for matrix units: weights and activations lose about 2.5e-4 of their size. Without, they
    /// multiply as two halves each.
    Halves,
    /// Activations have 8 bits, 32 of them a power of two in common, for packed dot products with integer weights: they lose
    /// about 0.8 % of their size.
    Bytes,
}

/// How to open a device.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Which adapter.
    pub adapter: AdapterChoice,
    /// Which limits.
    pub limits: LimitSet,
    /// Of [`Options::WITHOUT`], capabilities to leave unused; without `software` a software adapter gets a GPU's kernels.
    pub without: Vec<String>,
    /// What products may lose of activations where that is faster.
    pub rounding: Rounding,
    /// What a page knows of its adapter.
    pub browser: Option<Browser>,
    /// A smaller `max_storage_buffer_binding_size`, for tests of splitting.
    pub max_binding: Option<u64>,
    /// Folder to keep compiled pipelines in, where the backend can give them out; none: they are compiled at each start.
    pub pipeline_cache: Option<PathBuf>,
    /// Shader parts that replace the built-in ones, by file name; for tests that break a kernel on purpose.
    pub shader_overrides: BTreeMap<String, String>,
}

impl Rounding {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

impl Options {
    /// What one can do without.
    pub const WITHOUT: [&str; 5] = ["f16", "subgroups", "dot4", "matrix", "software"];

    fn has(&self, capability: &str) -> bool {
        self.without.iter().all(|without| without != capability)
    }

    /// The features and limits that the kernels can make use of on `adapter`: what an app passes on when it makes
    /// the device that it shares with halfbyte, see [`Context::from_device`].
    pub fn device_descriptor(&self, adapter: &wgpu::Adapter) -> wgpu::DeviceDescriptor<'static> {
        wgpu::DeviceDescriptor {
            label: Some("halfbyte"),
            required_features: features(adapter, self),
            experimental_features: experimental(adapter, self),
            required_limits: limits(adapter, self),
            ..Default::default()
        }
    }
}

/// What wgpu's web backend does not tell of an adapter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Browser {
    /// What to call it.
    pub name: String,
    /// It computes on the CPU.
    pub software: bool,
    /// Smallest and largest subgroup, if the page asks for the feature `subgroups` itself: wgpu has no name for it.
    pub subgroups: Option<(u32, u32)>,
    /// It has an instruction for packed 8-bit dot products.
    pub dot4: bool,
}

/// What kernels may use. None of it changes what works, only how fast.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Capabilities {
    /// 16-bit floats in shaders.
    pub f16: bool,
    /// Subgroup operations, with the smallest and largest size.
    pub subgroups: Option<(u32, u32)>,
    /// Packed 8-bit dot products (always there; this says whether an instruction does them, and may be used).
    pub dot4: bool,
    /// Matrix units for f16 (16 × 16, into f32), in subgroups of 32 lanes.
    pub matrix: bool,
    /// How activations may be rounded.
    #[serde(skip_serializing_if = "Rounding::is_none")]
    pub rounding: Rounding,
    /// A software adapter: one row a lane beats splitting a row.
    pub software: bool,
    /// Largest storage binding in bytes.
    pub max_binding: u64,
    /// Largest buffer in bytes.
    pub max_buffer: u64,
    /// Workgroup memory in bytes.
    pub workgroup_bytes: u32,
    /// Invocations a workgroup.
    pub invocations: u32,
    /// OpenGL: its compilers are slow with large kernels.
    #[serde(skip)]
    pub gl: bool,
    /// Bytes that may be used in all, where that is known.
    pub memory_budget: Option<u64>,
    /// The kernels that were measured to be fastest; none: those of its class, see [`Context::tune`].
    #[cfg_attr(not(target_arch = "wasm32"), serde(skip_serializing_if = "Option::is_none"))]
    #[cfg_attr(target_arch = "wasm32", serde(skip))] // a page has none
    pub tuning: Option<Tuning>,
}

impl Capabilities {
    /// What WebGPU promises everywhere.
    pub const FLOOR: Self = Self {
        f16: false,
        subgroups: None,
        dot4: true,
        matrix: false,
        rounding: Rounding::None,
        software: false,
        max_binding: 128 << 20,
        max_buffer: 256 << 20,
        workgroup_bytes: 16 << 10,
        invocations: 256,
        gl: false,
        memory_budget: None,
        tuning: None,
    };
}

/// One adapter, as `halfbyte adapters` lists it.
#[derive(Debug, Clone, Serialize)]
pub struct AdapterReport {
    /// Place in the list: what `--adapter 0` means.
    pub index: usize,
    /// The driver's name for it.
    pub name: String,
    /// `vulkan`, `metal`, `dx12`, `gl`, `webgpu`.
    pub backend: String,
    /// `discrete`, `integrated`, `software` …
    pub kind: String,
    /// Driver and version.
    pub driver: String,
    /// What it can do.
    pub capabilities: Capabilities,
}

/// An open device. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) capabilities: Capabilities,
    pub(crate) overrides: BTreeMap<String, String>,
    pub(crate) pipelines: Pipelines,
    /// Bound where a kernel has a slot that is not used.
    pub(crate) unused: wgpu::Buffer,
    /// Codebooks in use, by where their words lie in the program.
    pub(crate) codebooks: Mutex<HashMap<usize, Weak<GpuBuffer>>>,
    pub(crate) counters: Counters,
    report: AdapterReport,
    allocated: AtomicU64,
    trouble: Arc<Trouble>,
    /// The device's error handlers belong to the caller: errors are caught in scopes.
    borrowed: bool,
    scopes: Mutex<Vec<Caught>>,
}

/// What an error scope has caught; a browser tells later.
#[cfg(not(target_arch = "wasm32"))]
type Caught = Pin<Box<dyn Future<Output = Option<wgpu::Error>> + Send>>;
#[cfg(target_arch = "wasm32")]
type Caught = Pin<Box<dyn Future<Output = Option<wgpu::Error>>>>;

/// The first error since the last check.
#[derive(Default)]
struct Trouble(Mutex<Option<Error>>);

impl Trouble {
    /// The first error counts, but that the device is gone explains all others.
    fn keep(&self, error: Error) {
        if let Ok(mut slot) = self.0.lock()
            && (slot.is_none() || matches!(error, Error::DeviceLost(_)))
        {
            *slot = Some(error);
        }
    }

    fn take(&self) -> Option<Error> {
        self.0.lock().ok()?.take()
    }
}

fn ours(error: wgpu::Error) -> Error {
    match error {
        wgpu::Error::OutOfMemory { source } => Error::OutOfMemory(source.to_string()),
        other => Error::Gpu(other.to_string()),
    }
}

/// What crossed the border between host and device so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Queue submissions of recordings.
    pub submits: AtomicU64,
    /// Compute passes.
    pub passes: AtomicU64,
    /// Dispatches.
    pub dispatches: AtomicU64,
    /// Buffer writes.
    pub uploads: AtomicU64,
    /// Bytes written.
    pub upload_bytes: AtomicU64,
    /// Bytes read back.
    pub read_bytes: AtomicU64,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("adapter", &self.shared.report.name).finish()
    }
}

fn instance(choice: &AdapterChoice) -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::PRIMARY | wgpu::Backends::GL;
    if *choice == AdapterChoice::Noop {
        descriptor.backends = wgpu::Backends::NOOP;
        descriptor.backend_options.noop = wgpu::NoopBackendOptions { enable: true, ..Default::default() };
    }
    wgpu::Instance::new(descriptor)
}

fn kind_name(kind: wgpu::DeviceType) -> &'static str {
    match kind {
        wgpu::DeviceType::DiscreteGpu => "discrete",
        wgpu::DeviceType::IntegratedGpu => "integrated",
        wgpu::DeviceType::VirtualGpu => "virtual",
        wgpu::DeviceType::Cpu => "software",
        wgpu::DeviceType::Other => "other",
    }
}

/// Discrete before integrated before software; Vulkan, Metal and DX12 before GL; with f16 before without.
fn rank(adapter: &wgpu::Adapter) -> (u32, bool, bool) {
    let info = adapter.get_info();
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    };
    (kind, info.backend == wgpu::Backend::Gl, !adapter.features().contains(wgpu::Features::SHADER_F16))
}

/// Adapters that can run compute shaders with the floor's limits, best first.
async fn usable(instance: &wgpu::Instance, choice: &AdapterChoice) -> Vec<wgpu::Adapter> {
    let mut all = instance.enumerate_adapters(wgpu::Backends::all()).await;
    if all.is_empty() {
        // Browsers cannot enumerate.
        let power_preference = match choice {
            AdapterChoice::LowPower => wgpu::PowerPreference::LowPower,
            _ => wgpu::PowerPreference::HighPerformance,
        };
        let options = wgpu::RequestAdapterOptions { power_preference, ..Default::default() };
        all.extend(instance.request_adapter(&options).await);
    }
    all.retain(|a| {
        let compute = a.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS);
        compute && a.limits().max_storage_buffers_per_shader_stage >= 8
    });
    all.sort_by_key(rank);
    all
}

/// Whether the adapter multiplies matrices of 16 × 16 f16 into f32, in subgroups of 32 lanes.
fn has_matrix_units(adapter: &wgpu::Adapter, options: &Options) -> bool {
    let info = adapter.get_info();
    let suits = |p: &wgpu::CooperativeMatrixProperties| {
        use wgpu::CooperativeScalarType::{F16, F32};
        (p.m_size, p.n_size, p.k_size, p.ab_type, p.cr_type) == (16, 16, 16, F16, F32)
    };
    let needed = wgpu::Features::SHADER_F16
        | wgpu::Features::SUBGROUP
        | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
    NATIVE
        && info.backend == wgpu::Backend::Vulkan
        && options.limits == LimitSet::Adapter
        && ["f16", "subgroups", "matrix"].into_iter().all(|name| options.has(name))
        && adapter.features().contains(needed)
        && (info.subgroup_min_size, info.subgroup_max_size) == (32, 32)
        && adapter.limits().max_compute_workgroup_storage_size >= MATRIX_BYTES
        && adapter.cooperative_matrix_properties().iter().any(suits)
}

fn experimental(adapter: &wgpu::Adapter, options: &Options) -> wgpu::ExperimentalFeatures {
    match has_matrix_units(adapter, options) {
        // SAFETY: wgpu asks for this before it lets anyone use cooperative matrices, whose shaders it may not check in
        // full. Ours are `matmul_matrix.wgsl` alone, whose matrices lie within arrays of its own.
        true => unsafe { wgpu::ExperimentalFeatures::enabled() },
        false => wgpu::ExperimentalFeatures::disabled(),
    }
}

fn features(adapter: &wgpu::Adapter, options: &Options) -> wgpu::Features {
    let matrix = match has_matrix_units(adapter, options) {
        true => wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX,
        false => wgpu::Features::empty(),
    };
    matrix | usual_features(adapter, options)
}

fn usual_features(adapter: &wgpu::Adapter, options: &Options) -> wgpu::Features {
    let mut wanted = wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY;
    if !options.has("f16") {
        wanted.remove(wgpu::Features::SHADER_F16);
    }
    if !options.has("subgroups") {
        wanted.remove(wgpu::Features::SUBGROUP);
    }
    if options.pipeline_cache.is_some() {
        wanted |= wgpu::Features::PIPELINE_CACHE;
    }
    wanted & adapter.features()
}

fn limits(adapter: &wgpu::Adapter, options: &Options) -> wgpu::Limits {
    let has = adapter.limits();
    let floor = wgpu::Limits::default().or_worse_values_from(&has);
    let mut limits = match options.limits {
        LimitSet::Floor => floor,
        LimitSet::Adapter => has.clone(),
        LimitSet::Iphone => {
            let buffer = 1 << 30;
            wgpu::Limits {
                max_buffer_size: has.max_buffer_size.min(buffer),
                max_storage_buffer_binding_size: has.max_storage_buffer_binding_size.min(buffer),
                ..floor
            }
        }
    };
    if let Some(max) = options.max_binding {
        limits.max_storage_buffer_binding_size = limits.max_storage_buffer_binding_size.min(max);
    }
    limits
}

fn capabilities(
    info: &wgpu::AdapterInfo,
    features: wgpu::Features,
    limits: &wgpu::Limits,
    options: &Options,
) -> Capabilities {
    let subgroups = features.contains(wgpu::Features::SUBGROUP);
    let subgroups = subgroups.then_some((info.subgroup_min_size, info.subgroup_max_size));
    let f16 = features.contains(wgpu::Features::SHADER_F16);
    // A device that the caller has made may have more than `has_matrix_units` would ask for.
    let matrix = NATIVE
        && features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX)
        && info.backend == wgpu::Backend::Vulkan
        && f16
        && subgroups == Some((32, 32))
        && limits.max_compute_workgroup_storage_size >= MATRIX_BYTES;
    let (software, asked) = options.browser.as_ref().map_or((false, None), |b| (b.software, b.subgroups));
    // Metal computes them with as many multiply-adds as there are bytes.
    let packed = options.browser.as_ref().map_or(info.backend != wgpu::Backend::Metal, |b| b.dot4);
    Capabilities {
        f16,
        subgroups: subgroups.or(asked),
        dot4: packed && options.has("dot4"),
        matrix,
        rounding: options.rounding,
        software: (software || info.device_type == wgpu::DeviceType::Cpu) && options.has("software"),
        max_binding: limits.max_storage_buffer_binding_size,
        max_buffer: limits.max_buffer_size,
        workgroup_bytes: limits.max_compute_workgroup_storage_size,
        invocations: limits.max_compute_invocations_per_workgroup,
        gl: info.backend == wgpu::Backend::Gl,
        memory_budget: (options.limits == LimitSet::Iphone).then_some(1_500_000_000),
        tuning: None,
    }
}

fn report(
    index: usize,
    info: wgpu::AdapterInfo,
    features: wgpu::Features,
    limits: &wgpu::Limits,
    options: &Options,
) -> AdapterReport {
    let capabilities = capabilities(&info, features, limits, options);
    AdapterReport {
        index,
        backend: info.backend.to_string(),
        kind: kind_name(info.device_type).into(),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        name: options.browser.as_ref().map_or(info.name, |b| b.name.clone()),
        capabilities,
    }
}

/// All usable adapters, best first, with what `options` would let them use.
pub async fn adapters(options: &Options) -> Vec<AdapterReport> {
    let adapters = usable(&instance(&options.adapter), &options.adapter).await;
    let report = |(i, a): (usize, &wgpu::Adapter)| {
        report(i, a.get_info(), features(a, options), &limits(a, options), options)
    };
    adapters.iter().enumerate().map(report).collect()
}

fn choose(adapters: Vec<wgpu::Adapter>, choice: &AdapterChoice) -> Result<(usize, wgpu::Adapter)> {
    let describe = |a: &wgpu::Adapter| {
        let info = a.get_info();
        format!("{} {} {} {}", info.name, info.driver, info.backend, kind_name(info.device_type))
    };
    let names: Vec<String> = adapters.iter().map(describe).collect();
    let index = match choice {
        AdapterChoice::Best | AdapterChoice::Noop => (!adapters.is_empty()).then_some(0),
        AdapterChoice::LowPower => {
            let integrated = |a: &wgpu::Adapter| a.get_info().device_type == wgpu::DeviceType::IntegratedGpu;
            adapters.iter().position(integrated).or((!adapters.is_empty()).then_some(0))
        }
        AdapterChoice::Index(i) => (*i < adapters.len()).then_some(*i),
        AdapterChoice::Name(name) => {
            names.iter().position(|n| n.to_lowercase().contains(&name.to_lowercase()))
        }
    };
    match index.and_then(|i| adapters.into_iter().nth(i).map(|a| (i, a))) {
        Some(found) => Ok(found),
        None if names.is_empty() => Err(Error::AdapterMissing(
            "no GPU adapter found; on Debian or Ubuntu install mesa-vulkan-drivers (or your vendor's Vulkan \
             driver), or use --adapter cpu"
                .into(),
        )),
        None => {
            let list: Vec<String> = names.iter().enumerate().map(|(i, n)| format!("{i}: {n}")).collect();
            let wanted = match choice {
                AdapterChoice::Best | AdapterChoice::LowPower | AdapterChoice::Noop => String::new(),
                AdapterChoice::Index(index) => index.to_string(),
                AdapterChoice::Name(name) => format!("`{name}`"),
            };
            let list = list.join("; ");
            Err(Error::AdapterMissing(format!("no adapter matches {wanted}; there are {list}")))
        }
    }
}

impl Context {
    /// Opens the adapter that `options` name.
    pub async fn open(options: &Options) -> Result<Self> {
        for name in &options.without {
            if !Options::WITHOUT.contains(&name.as_str()) {
                return Err(Error::invalid("unknown capability")
                    .expected(Options::WITHOUT.join(", "))
                    .found(name)
                    .remedy("see --without in the help"));
            }
        }
        let (index, adapter) =
            choose(usable(&instance(&options.adapter), &options.adapter).await, &options.adapter)?;
        let descriptor = options.device_descriptor(&adapter);
        let (device, queue) = adapter
            .request_device(&descriptor)
            .await
            .map_err(|e| Error::Gpu(format!("{} refused: {e}", adapter.get_info().name)))?;
        let trouble = Arc::new(Trouble::default());
        let slot = trouble.clone();
        device.on_uncaptured_error(Arc::new(move |error| slot.keep(ours(error))));
        let slot = trouble.clone();
        device.set_device_lost_callback(move |_, message| slot.keep(Error::DeviceLost(message)));
        let report = report(index, adapter.get_info(), device.features(), &device.limits(), options);
        Ok(Self::new(device, queue, report, options, Some(trouble)))
    }

    /// Uses a device and queue that the caller owns and goes on using: an app's that draws with the same GPU.
    ///
    /// Make the device with [`Options::device_descriptor`], or add what that asks for to your own; a device with
    /// less runs slower, and one below WebGPU's guaranteed minimum for compute is an error. The device's
    /// `on_uncaptured_error` and lost callback stay the caller's: errors of halfbyte's own calls come back from
    /// them as [`enum@Error`]s, that of a lost device when something is next read from it.
    ///
    /// Frames share the queue with the model, so a frame may have to wait for the step before it. Run the model
    /// on a thread of its own: its calls block while the GPU works.
    pub fn from_device(device: wgpu::Device, queue: wgpu::Queue) -> Result<Self> {
        let has = device.limits();
        let found = [
            has.max_storage_buffers_per_shader_stage,
            has.max_compute_invocations_per_workgroup,
            has.max_compute_workgroup_storage_size,
        ];
        let floor = [8, Capabilities::FLOOR.invocations, Capabilities::FLOOR.workgroup_bytes];
        if found.iter().zip(floor).any(|(&found, floor)| found < floor) {
            return Err(Error::unsupported("the device was made with limits that compute cannot do with")
                .expected(format!("storage buffers, invocations, workgroup bytes {floor:?}"))
                .found(format!("{found:?}"))
                .remedy("make it with halfbyte::gpu::Options::device_descriptor"));
        }
        let options = Options::default();
        let report = report(0, device.adapter_info(), device.features(), &has, &options);
        Ok(Self::new(device, queue, report, &options, None))
    }

    /// `trouble` hears of a device's errors; of a caller's device there is none.
    fn new(
        device: wgpu::Device,
        queue: wgpu::Queue,
        report: AdapterReport,
        options: &Options,
        trouble: Option<Arc<Trouble>>,
    ) -> Self {
        let unused = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("unused slot"),
            size: 16,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        });
        let shared = Shared {
            capabilities: report.capabilities.clone(),
            overrides: options.shader_overrides.clone(),
            pipelines: Pipelines::new(&device, options),
            device,
            queue,
            unused,
            codebooks: Mutex::default(),
            counters: Counters::default(),
            report,
            allocated: AtomicU64::new(0),
            borrowed: trouble.is_none(),
            trouble: trouble.unwrap_or_default(),
            scopes: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// From now on products go by these kernels; nothing may have been made with the context before.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn set_tuning(&mut self, tuning: Tuning) -> Result<()> {
        let in_use =
            || Error::invalid("a context in use cannot be tuned").remedy("tune it when it is opened");
        let shared = Arc::get_mut(&mut self.shared).ok_or_else(in_use)?;
        shared.capabilities.tuning = Some(tuning);
        shared.report.capabilities.tuning = Some(tuning);
        Ok(())
    }

    /// What kernels may use here.
    pub fn capabilities(&self) -> &Capabilities {
        &self.shared.capabilities
    }

    /// The adapter, for people.
    pub fn report(&self) -> &AdapterReport {
        &self.shared.report
    }

    /// Whether the device itself checks accesses to storage (Vulkan's `robustBufferAccess`, which wgpu asks for), and is no
    /// program on the CPU, whose memory everything else is.
    pub(crate) fn checks_storage(&self) -> bool {
        let report = &self.shared.report;
        NATIVE
            && report.backend == wgpu::Backend::Vulkan.to_str()
            && report.kind != kind_name(wgpu::DeviceType::Cpu)
    }

    /// Whether it computes nothing, see [`AdapterChoice::Noop`].
    pub fn is_noop(&self) -> bool {
        self.shared.report.backend == wgpu::Backend::Noop.to_str()
    }

    /// Bytes of all buffers made so far.
    pub fn allocated(&self) -> u64 {
        self.shared.allocated.load(Ordering::Relaxed)
    }

    /// Work counted so far.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// The linked texts of all pipelines made so far.
    pub fn shaders(&self) -> Vec<String> {
        self.shared.pipelines.texts()
    }

    /// The first error that the device reported since the last check; that it was lost, for ever.
    pub fn check(&self) -> Result<()> {
        if self.shared.borrowed
            && let Ok(mut scopes) = self.shared.scopes.lock()
        {
            // Natively they all know; in a browser the rest is asked again next time.
            let mut waker = std::task::Context::from_waker(std::task::Waker::noop());
            scopes.retain_mut(|scope| match scope.as_mut().poll(&mut waker) {
                std::task::Poll::Ready(error) => {
                    error.into_iter().for_each(|error| self.shared.trouble.keep(ours(error)));
                    false
                }
                std::task::Poll::Pending => true,
            });
        }
        let Some(error) = self.shared.trouble.take() else { return Ok(()) };
        self.shared.trouble.keep(error);
        let _ = self.shared.device.poll(wgpu::PollType::Poll); // lets a lost device say so
        match self.shared.trouble.take() {
            Some(Error::DeviceLost(why)) => {
                self.shared.trouble.keep(Error::DeviceLost(why.clone()));
                Err(Error::DeviceLost(why))
            }
            other => other.map_or(Ok(()), Err),
        }
    }

    /// Calls the device; its errors are for [`Context::check`], not for the handlers of a device's owner.
    pub(crate) fn call<T>(&self, call: impl FnOnce(&wgpu::Device, &wgpu::Queue) -> T) -> T {
        let Shared { device, queue, .. } = &*self.shared;
        if !self.shared.borrowed {
            return call(device, queue);
        }
        use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
        let [a, b, c] = [Internal, OutOfMemory, Validation].map(|filter| device.push_error_scope(filter));
        let result = call(device, queue);
        let caught: [Caught; 3] = [Box::pin(c.pop()), Box::pin(b.pop()), Box::pin(a.pop())];
        if let Ok(mut scopes) = self.shared.scopes.lock() {
            scopes.extend(caught);
        }
        result
    }

    /// A zeroed storage buffer of `bytes` (at least 16, a multiple of 16).
    pub(crate) fn buffer(&self, label: &str, bytes: u64) -> Result<wgpu::Buffer> {
        let bytes = bytes.max(16).next_multiple_of(16);
        let capabilities = &self.shared.capabilities;
        if bytes > capabilities.max_buffer || bytes > capabilities.max_binding {
            let most = capabilities.max_buffer.min(capabilities.max_binding);
            return Err(Error::OutOfMemory(format!(
                "{label} takes {bytes} bytes, a buffer holds {most} here"
            )));
        }
        let total = self.shared.allocated.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(budget) = capabilities.memory_budget.filter(|&b| total > b) {
            self.release(bytes);
            return Err(Error::OutOfMemory(format!(
                "{label} would bring GPU memory to {total} bytes, the limit is {budget}; \
                 take a smaller model or a smaller --context"
            )));
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = self.raw_buffer(label, bytes, usage);
        self.check().inspect_err(|_| self.release(bytes))?;
        Ok(buffer)
    }

    /// A buffer that is in no books.
    pub(crate) fn raw_buffer(&self, label: &str, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
        let descriptor =
            wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
        self.call(|device, _| device.create_buffer(&descriptor))
    }

    /// Gives `bytes` back to the books when buffers are dropped.
    pub(crate) fn release(&self, bytes: u64) {
        self.shared.allocated.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Writes words at a word offset.
    pub(crate) fn write(&self, buffer: &wgpu::Buffer, offset: usize, words: &[u32]) {
        self.shared.counters.uploads.fetch_add(1, Ordering::Relaxed);
        self.shared.counters.upload_bytes.fetch_add(words.len() as u64 * 4, Ordering::Relaxed);
        self.call(|_, queue| queue.write_buffer(buffer, offset as u64 * 4, bytemuck::cast_slice(words)));
    }

    /// Waits until everything submitted is done; natively `write_buffer` keeps staging memory until then.
    pub(crate) async fn wait(&self) -> Result<()> {
        let submission = self.call(|_, queue| queue.submit([]));
        #[cfg(target_arch = "wasm32")]
        {
            let (done, wait) = signal();
            self.shared.queue.on_submitted_work_done(move || done.set(()));
            wait.await;
        }
        self.wait_for(submission);
        self.check()
    }

    /// [`Context::check`], after errors that a browser is about to report have arrived.
    pub async fn check_late(&self) -> Result<()> {
        let scope = self.shared.device.push_error_scope(wgpu::ErrorFilter::Internal);
        scope.pop().await;
        self.check()
    }

    /// Copies `words` words of `buffer` to the host.
    pub(crate) async fn read(&self, buffer: &wgpu::Buffer, offset: usize, words: usize) -> Result<Vec<u32>> {
        let staging = self.staging(words);
        let submission = self.call(|device, queue| {
            let mut encoder = device.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(buffer, offset as u64 * 4, &staging, 0, words as u64 * 4);
            queue.submit([encoder.finish()])
        });
        self.check()?;
        self.map(&staging, submission).await
    }

    /// A buffer that the host can read.
    pub(crate) fn staging(&self, words: usize) -> wgpu::Buffer {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        self.raw_buffer("read-back", words as u64 * 4, usage)
    }

    /// Waits for `submission`, which fills `staging`, and takes what is in it.
    pub(crate) async fn map(
        &self,
        staging: &wgpu::Buffer,
        submission: wgpu::SubmissionIndex,
    ) -> Result<Vec<u32>> {
        let (done, wait) = signal();
        self.call(|_, _| staging.map_async(wgpu::MapMode::Read, .., move |result| done.set(result)));
        self.wait_for(submission);
        if let Err(error) = wait.await {
            if self.shared.borrowed {
                // All went well before, so the buffer has gone with its device; only the owner is told of that.
                self.shared.trouble.keep(Error::DeviceLost(error.to_string()));
            }
            self.check_late().await?; // a lost device explains why
            return Err(Error::Gpu(format!("reading back: {error}")));
        }
        self.check()?;
        let view = staging.get_mapped_range(..).map_err(|e| Error::Gpu(format!("reading back: {e}")))?;
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&view);
        self.shared.counters.read_bytes.fetch_add(words.len() as u64 * 4, Ordering::Relaxed);
        drop(view);
        staging.unmap();
        Ok(words)
    }

    /// Blocks until `submission` is done; what others submit after it is not waited for.
    #[cfg_attr(target_arch = "wasm32", expect(unused_variables, reason = "a browser's event loop polls"))]
    fn wait_for(&self, submission: wgpu::SubmissionIndex) {
        #[cfg(not(target_arch = "wasm32"))]
        loop {
            let submission_index = Some(submission.clone());
            let wait = wgpu::PollType::Wait { submission_index, timeout: Some(WAIT_SLICE) };
            match self.shared.device.poll(wait) {
                Err(wgpu::PollError::Timeout) => {}
                Ok(_) => return,
                Err(_) => {
                    // The submission was refused, so there is nothing to wait for; `check` says why.
                    let _ = self.shared.device.poll(wgpu::PollType::Poll);
                    return;
                }
            }
        }
    }
}

/// A value that a callback delivers to a future.
struct Signal<T> {
    state: Arc<Mutex<(Option<T>, Option<std::task::Waker>)>>,
}

fn signal<T>() -> (Signal<T>, impl Future<Output = T>) {
    let state = Arc::new(Mutex::new((None, None::<std::task::Waker>)));
    let theirs = Signal { state: state.clone() };
    let wait = std::future::poll_fn(move |context| {
        let mut slot = state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match slot.0.take() {
            Some(value) => std::task::Poll::Ready(value),
            None => {
                slot.1 = Some(context.waker().clone());
                std::task::Poll::Pending
            }
        }
    });
    (theirs, wait)
}

impl<T> Signal<T> {
    fn set(self, value: T) {
        let mut slot = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        slot.0 = Some(value);
        if let Some(waker) = slot.1.take() {
            waker.wake();
        }
    }
}
