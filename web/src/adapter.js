// What the browser says of its GPU, and what wgpu's web backend does not do: ask for subgroups, keep Firefox awake, and
// wait until a loss is known.

let subgroupsWanted = false;
let shimmed = false;
/** Devices that may still be there. */
const devices = new Set();

/** ms between two looks at the GPU, and after the last wait until they end: a timer that is always new is slow. */
const LOOK = 4;
const LINGER = 500;

/**
 * Firefox looks only every 100 ms whether its GPU is done, unless something is submitted: so, while somebody waits,
 * nothing is, again and again. Ten times the tokens a second.
 */
function attentive(device) {
  const { queue } = device;
  let waiting = 0;
  let last = 0;
  let timer = null;
  function look() {
    if (waiting > 0) return queue.submit([]);
    if (performance.now() - last > LINGER) timer = clearInterval(timer);
  }
  const watched = (done) => {
    waiting++;
    timer ??= setInterval(look, LOOK);
    return done.finally(() => {
      waiting--;
      last = performance.now();
    });
  };
  const { onSubmittedWorkDone } = queue;
  queue.onSubmittedWorkDone = () => watched(onSubmittedWorkDone.call(queue));
  const { createBuffer } = device;
  device.createBuffer = (descriptor) => {
    const buffer = createBuffer.call(device, descriptor);
    const { mapAsync } = buffer;
    buffer.mapAsync = (...range) => watched(mapAsync.apply(buffer, range));
    return buffer;
  };
  return device;
}

/** Makes every later `requestDevice` ask for subgroups, if they are wanted and the adapter has them; notes the device. */
function shim() {
  if (shimmed) return;
  shimmed = true;
  const request = GPUAdapter.prototype.requestDevice;
  GPUAdapter.prototype.requestDevice = async function (descriptor = {}) {
    const more = subgroupsWanted && this.features.has('subgroups') ? ['subgroups'] : [];
    const requiredFeatures = [...new Set([...(descriptor.requiredFeatures ?? []), ...more])];
    const device = await request.call(this, { ...descriptor, requiredFeatures });
    const known = new WeakRef(device);
    devices.add(known);
    device.lost.then(() => devices.delete(known));
    return /Firefox\//.test(navigator.userAgent) ? attentive(device) : device;
  };
  // Firefox breaks a mapping off before it says that the device was lost, and the core asks at once.
  const map = GPUBuffer.prototype.mapAsync;
  GPUBuffer.prototype.mapAsync = async function (...args) {
    try {
      return await map.apply(this, args);
    } catch (error) {
      const lost = [...devices].map((known) => known.deref()?.lost).filter(Boolean);
      await Promise.race([...lost, new Promise((resolve) => setTimeout(resolve, 3000))]);
      throw error;
    }
  };
}

/** Takes every GPU device of this worker away, as a driver's crash would. */
export function loseDevices() {
  for (const known of devices) known.deref()?.destroy();
}

/**
 * Looks at the adapter that `adapter: 'gpu' | 'low-power'` will get. `info` is what the core wants to know of it, null
 * where there is none; `missing` then says why, and what to do.
 */
export async function survey({ adapter = 'auto', without = [] }) {
  const powerPreference = adapter === 'low-power' ? 'low-power' : 'high-performance';
  const found = await navigator.gpu?.requestAdapter({ powerPreference }).catch(() => null);
  if (!found) return { info: null, missing: whyNone(navigator.userAgent, isSecureContext, Boolean(navigator.gpu), location.origin) };
  shim();
  subgroupsWanted = !without.includes('subgroups');
  // Older browsers have it on the adapter.
  const { vendor = '', architecture = '', device = '', description = '', subgroupMinSize, subgroupMaxSize } = found.info ?? {};
  const fallback = found.info?.isFallbackAdapter ?? found.isFallbackAdapter ?? false;
  // Sizes are given even where the feature is not.
  const subgroups = subgroupsWanted && found.features.has('subgroups') ? [subgroupMinSize ?? 4, subgroupMaxSize ?? 128] : null;
  // Metal computes them with as many multiply-adds as there are bytes.
  const dot4 = vendor !== 'apple' && Boolean(navigator.gpu.wgslLanguageFeatures?.has('packed_4x8_integer_dot_product'));
  return { info: { vendor, architecture, device, description, fallback, subgroups, dot4 } };
}

/** Why there is no GPU, and how to get one in this browser. */
export function whyNone(agent, secure, api, origin) {
  if (!secure) {
    return `${origin} is not a secure page, and browsers give WebGPU only to those: open it over https://, or at http://localhost`;
  }
  const linux = /Linux/.test(agent) && !/Android/.test(agent);
  if (/Firefox\//.test(agent)) {
    return api
      ? 'Firefox found no GPU that it trusts with WebGPU: update the graphics driver, see "WebGPU" in about:support, or set gfx.webgpu.ignore-blocklist to true in about:config'
      : 'this Firefox has WebGPU switched off: update it, or set dom.webgpu.enabled (and dom.webgpu.workers.enabled) to true in about:config, then restart it';
  }
  if (/Chrome\//.test(agent)) {
    const name = /Edg\//.test(agent) ? 'edge' : 'chrome';
    const flags = linux
      ? `on Linux switch on ${name}://flags/#enable-unsafe-webgpu and ${name}://flags/#enable-vulkan (or start it with --enable-unsafe-webgpu --enable-features=Vulkan)`
      : `then switch on ${name}://flags/#enable-unsafe-webgpu`;
    return api
      ? `the browser found no GPU for WebGPU: switch on "graphics acceleration" in its settings and update the graphics driver; ${flags}; ${name}://gpu says more`
      : `this browser has no WebGPU: Chrome and Edge have it since version 113 (Android: 121); ${flags}`;
  }
  if (/Safari\//.test(agent)) {
    return api
      ? 'Safari found no GPU for WebGPU: update the system, and leave Lockdown Mode off for this site'
      : 'this Safari has no WebGPU: it is there from Safari 26 (macOS, iOS, iPadOS 26); before, switch on WebGPU under Settings, Feature Flags';
  }
  return 'this browser has no WebGPU: current versions of Chrome, Edge, Firefox and Safari have it';
}

/** `Firefox 153.0 (Linux)` */
export function browser(agent = navigator.userAgent) {
  const names = [['Edge', /Edg\/([\d.]+)/], ['Firefox', /Firefox\/([\d.]+)/], ['Chrome', /Chrome\/([\d.]+)/], ['Safari', /Version\/([\d.]+).*Safari/]];
  const systems = [['Android', /Android/], ['iOS', /iPhone|iPad/], ['Windows', /Windows/], ['macOS', /Mac OS X/], ['ChromeOS', /CrOS/], ['Linux', /Linux/]];
  const [name, pattern] = names.find(([, pattern]) => pattern.test(agent)) ?? ['a browser', null];
  const system = systems.find(([, pattern]) => pattern.test(agent))?.[0] ?? 'unknown system';
  return `${name} ${pattern?.exec(agent)[1] ?? ''} (${system})`;
}
