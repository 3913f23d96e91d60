// Reads HLS playlists by hls-parser, strictly, and says as JSON in one line what it read and what it had to say against any.
// node playlists.mjs FILE: FILE is a JSON array of playlists.
import { readFileSync } from 'node:fs';
import HLS from 'hls-parser';

HLS.setOptions({ strictMode: true });
const out = { playlists: 0, segments: 0, parts: 0, maps: 0, discontinuities: 0, errors: [] };
for (const text of JSON.parse(readFileSync(process.argv[2], 'utf8'))) {
  try {
    const playlist = HLS.parse(text);
    const sum = of => playlist.segments.reduce((sum, segment) => sum + of(segment), 0);
    out.playlists += 1;
    out.segments += sum(() => 1);
    out.parts += sum(segment => segment.parts.length);
    out.maps += sum(segment => (segment.map ? 1 : 0));
    out.discontinuities += sum(segment => (segment.discontinuity ? 1 : 0));
  } catch (error) {
    if (out.errors.length < 5) out.errors.push(`${error.message}: ${text}`);
  }
}
console.log(JSON.stringify(out));
