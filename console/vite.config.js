import { readFileSync } from 'node:fs';
import { defineConfig } from 'vite';

// What is built in is said, with the licence's text as it came.
const licenses = {
  name: 'licenses',
  generateBundle() {
    const parts = ['@noble/hashes', 'hls.js', 'mpegts.js', 'preact'].map(name => {
      const { version, license } = JSON.parse(readFileSync(`node_modules/${name}/package.json`, 'utf8'));
      return `${name} ${version} (${license})\n\n${readFileSync(`node_modules/${name}/LICENSE`, 'utf8').trim()}\n`;
    });
    this.emitFile({ type: 'asset', fileName: 'licenses.txt', source: parts.join('\n----\n\n') });
  },
};

// Names without hashes: the program says of each file whether it has changed (ETag), and a diff of dist/ shows what did.
export default defineConfig({
  base: './',
  oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
  plugins: [licenses],
  build: {
    target: 'es2022',
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    rollupOptions: {
      output: { entryFileNames: '[name].js', chunkFileNames: '[name].js', assetFileNames: '[name][extname]' },
    },
  },
});
