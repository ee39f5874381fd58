import { defineConfig } from 'vite';

export default defineConfig({
  // Relative addresses: the build works in any folder of any static host.
  base: './',
  build: { target: 'es2022' },
  // `vite dev` would bundle the package and lose its worker; it is made of modules already.
  optimizeDeps: { exclude: ['halfbyte'] },
});
