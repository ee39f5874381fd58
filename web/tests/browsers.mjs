// Two browsers behind one small interface, for every test that needs one: Chromium on SwiftShader (Dawn and Tint,
// subgroups of 4, no f16) and Firefox on lavapipe (wgpu and naga, f16, no subgroups).
//
//   const browser = await launch('chromium');            // or 'firefox'
//   const page = await browser.open('http://127.0.0.1:1234/');
//   await page.evaluate((n) => n + 1, 41);
//
// CHROMIUM and FIREFOX name other programs. Serve pages from 127.0.0.1: WebGPU and OPFS want a secure context.

import { existsSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';

const CHROMIUM_FLAGS = [
  '--no-sandbox', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader',
];
const FIREFOX_PREFS = {
  'dom.webgpu.enabled': true,
  'dom.webgpu.workers.enabled': true,
  'gfx.webgpu.ignore-blocklist': true,
  // Nothing but the test's own traffic.
  'app.update.enabled': false,
  'network.captive-portal-service.enabled': false,
  'network.connectivity-service.enabled': false,
};
/** Of what a browser is asked for: against hangs only, a busy machine takes its time. */
const PATIENCE = 600_000;
const SIZE = { width: 1280, height: 800 };

/** Both of them, by name. */
export const NAMES = ['chromium', 'firefox'];

export const launch = (name, options) => ({ chromium, firefox })[name](options);

/**
 * Chromium with a profile of its own, so that storage is on disk as a user's is.
 * `flags`: more of the command line; `webgpu: false`: a browser without it.
 */
export async function chromium({ flags = [], webgpu = true } = {}) {
  const { chromium: playwright } = await import('playwright-core');
  const profile = mkdtempSync(join(tmpdir(), 'halfbyte-chromium-'));
  const off = webgpu ? [] : ['--disable-features=WebGPU,WebGPUService', '--disable-gpu'];
  const args = webgpu ? CHROMIUM_FLAGS : CHROMIUM_FLAGS.filter((flag) => !flag.includes('webgpu'));
  const context = await playwright.launchPersistentContext(profile, {
    executablePath: program('CHROMIUM', ['/usr/bin/chromium', '/usr/bin/google-chrome']),
    args: [...args, ...off, ...flags],
    headless: true,
    timeout: PATIENCE,
    viewport: SIZE,
  });
  context.setDefaultTimeout(PATIENCE);
  // The pages of the profile's own first window stay unused.
  return {
    name: 'chromium',
    version: context.browser()?.version() ?? '',
    context,
    async open(url, { width, height, dark } = {}) {
      const page = await context.newPage();
      if (width) await page.setViewportSize({ width, height: height ?? SIZE.height });
      if (dark !== undefined) await page.emulateMedia({ colorScheme: dark ? 'dark' : 'light' });
      const problems = watch(page);
      await page.goto(url);
      return {
        ...common(page, problems),
        evaluate: (run, argument) => page.evaluate(run, argument),
        resize: (width, height) => page.setViewportSize({ width, height }),
        setFiles: (selector, paths) => page.setInputFiles(selector, paths),
        /** Files and folders from the desktop, as the operating system hands them over. */
        async drop(selector, paths) {
          const box = await page.locator(selector).boundingBox();
          const at = { x: box.x + box.width / 2, y: box.y + box.height / 2 };
          const session = await context.newCDPSession(page);
          const data = { items: [], files: paths, dragOperationsMask: 1 };
          for (const type of ['dragEnter', 'dragOver', 'drop']) {
            await session.send('Input.dispatchDragEvent', { type, ...at, data });
          }
          await session.detach();
        },
        offline: (off) => context.setOffline(off),
        /** Ends the browser's GPU process, as a driver's crash does. */
        async crashGpu() {
          const session = await context.newCDPSession(page);
          await session.send('Browser.crashGpuProcess');
          await session.detach();
        },
      };
    },
    async close() {
      await context.close();
      rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

/** Chromium by Puppeteer, which lets one ask a worker for its heap; its own interface. */
export async function chromiumWithWorkers({ flags = [] } = {}) {
  const { default: puppeteer } = await import('puppeteer-core');
  const executablePath = program('CHROMIUM', ['/usr/bin/chromium', '/usr/bin/google-chrome']);
  return puppeteer.launch({ executablePath, args: [...CHROMIUM_FLAGS, ...flags], headless: true, timeout: PATIENCE, protocolTimeout: 900_000 });
}

/** Firefox over WebDriver BiDi. `prefs`: more of about:config; `webgpu: false`: a browser without it. */
export async function firefox({ prefs = {}, webgpu = true } = {}) {
  const { default: puppeteer } = await import('puppeteer-core');
  const off = webgpu ? {} : { 'dom.webgpu.enabled': false };
  const browser = await puppeteer.launch({
    browser: 'firefox',
    executablePath: program('FIREFOX', ['/usr/bin/firefox-esr', '/usr/bin/firefox']),
    headless: true,
    extraPrefsFirefox: { ...FIREFOX_PREFS, ...off, ...prefs },
    timeout: PATIENCE,
    protocolTimeout: 900_000,
    defaultViewport: SIZE,
  });
  return {
    name: 'firefox',
    version: await browser.version(),
    browser,
    async open(url, { width, height, dark } = {}) {
      const page = await browser.newPage();
      page.setDefaultTimeout(PATIENCE);
      if (width) await page.setViewport({ width, height: height ?? SIZE.height });
      // A preference of the whole browser: there is no other way over BiDi.
      if (dark !== undefined) console.warn("firefox: ask for dark with prefs { 'layout.css.prefers-color-scheme.content-override': 0 }");
      const problems = watch(page);
      await page.goto(url);
      const setFiles = async (selector, paths) => (await page.$(selector)).uploadFile(...[paths].flat());
      return {
        ...common(page, problems),
        evaluate: (run, argument) => page.evaluate(run, argument),
        resize: (width, height) => page.setViewport({ width, height }),
        setFiles,
        /** A drop of files (of a folder: those in it): picked by a hidden input, put into a drop event. */
        async drop(selector, paths) {
          const files = paths.flatMap((path) => (statSync(path).isDirectory() ? readdirSync(path).map((name) => join(path, name)) : path));
          await page.evaluate(() => {
            const input = Object.assign(document.createElement('input'), { type: 'file', multiple: true, id: 'halfbyte-drop', hidden: true });
            document.body.append(input);
          });
          await setFiles('#halfbyte-drop', files);
          await page.evaluate((selector) => {
            const input = document.querySelector('#halfbyte-drop');
            const dataTransfer = new DataTransfer();
            for (const file of input.files) dataTransfer.items.add(file);
            input.remove();
            const target = document.querySelector(selector);
            for (const type of ['dragenter', 'dragover', 'drop']) {
              target.dispatchEvent(new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }));
            }
          }, selector);
        },
      };
    },
    close: () => browser.close(),
  };
}

/** What is the same in both drivers. */
const common = (page, problems) => ({
  /** The driver's own page, for what is not here. */
  raw: page,
  /** Texts of uncaught errors and of `console.error`. */
  problems,
  screenshot: (path) => page.screenshot({ path }),
  click: (selector) => page.click(selector),
  type: (selector, text) => page.type(selector, text),
  reload: () => page.reload(),
  close: () => page.close(),
});

function watch(page) {
  const problems = [];
  page.on('pageerror', (error) => problems.push(String(error)));
  page.on('console', (message) => message.type() === 'error' && problems.push(message.text()));
  return problems;
}

function program(variable, paths) {
  const path = [process.env[variable], ...paths].find((path) => path && existsSync(path));
  if (path) return path;
  throw new Error(`no ${basename(paths[0])}: install it, or set ${variable} to its path`);
}
