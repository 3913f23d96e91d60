// The smaller build has the same types.
declare module 'hls.js/light' {
  export { default } from 'hls.js';
}
