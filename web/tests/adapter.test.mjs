// What is said where there is no GPU.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { browser, whyNone } from '../src/adapter.js';

const AGENTS = {
  chrome: 'Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36',
  linux: 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36',
  edge: 'Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36 Edg/140.0.0.0',
  android: 'Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Mobile Safari/537.36',
  firefox: 'Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0',
  safari: 'Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605.1.15',
  iphone: 'Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1',
};

test('why there is no GPU', () => {
  const why = (agent, api, secure = true) => whyNone(AGENTS[agent], secure, api, 'http://192.168.0.7:8000');
  assert.match(why('chrome', false, false), /http:\/\/192\.168\.0\.7:8000 is not a secure page.*https/);
  assert.match(why('chrome', true), /graphics acceleration.*chrome:\/\/gpu/);
  assert.match(why('linux', true), /--enable-features=Vulkan/);
  assert.doesNotMatch(why('android', true), /Vulkan/);
  assert.match(why('edge', false), /since version 113.*edge:\/\/flags/);
  assert.match(why('firefox', false), /dom\.webgpu\.enabled/);
  assert.match(why('firefox', true), /ignore-blocklist/);
  assert.match(why('safari', false), /Safari 26/);
});

test('names of browsers', () => {
  assert.deepEqual(Object.values(AGENTS).map((agent) => browser(agent)), [
    'Chrome 140.0.0.0 (Windows)', 'Chrome 140.0.0.0 (Linux)', 'Edge 140.0.0.0 (Windows)', 'Chrome 140.0.0.0 (Android)',
    'Firefox 153.0 (Linux)', 'Safari 18.5 (macOS)', 'Safari 18.5 (iOS)',
  ]);
});
