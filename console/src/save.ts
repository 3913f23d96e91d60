// Pictures and recordings on the operator's disk.
import { inPath, socket as address } from './api';
import { FromZero } from './mp4';

/** A recording that is larger is saved and ended: it is in memory until then. */
const MOST_BYTES = 1 << 30;

function download(data: Blob, name: string) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(data);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

const stamped = (stream: string, suffix: string) =>
  `${stream.replaceAll('/', '_')}-${new Date().toISOString().slice(0, 19).replaceAll(':', '')}.${suffix}`;

/** What is shown, as it is. */
export async function screenshot(video: HTMLVideoElement, stream: string): Promise<boolean> {
  if (!video.videoWidth) return false;
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext('2d')!.drawImage(video, 0, 0);
  const data = await new Promise<Blob | null>(done => canvas.toBlob(done, 'image/png'));
  if (data) download(data, stamped(stream, 'png'));
  return data !== null;
}

let running = 0;
addEventListener('beforeunload', event => { if (running) event.preventDefault(); });

/** Records the stream as the node sends it, nothing coded anew. Returns what ends it. By WebSocket: of HTTP/1.1 a browser has six connections. */
export function record(stream: string, ended: (why: string | null) => void): () => void {
  const socket = new WebSocket(address(`/play/${inPath(stream)}.mp4`)), zero = new FromZero(), pieces: BlobPart[] = [];
  let bytes = 0, texts = 0;
  socket.binaryType = 'arraybuffer';
  running += 1;
  socket.onmessage = ({ data }: MessageEvent<ArrayBuffer | string>) => {
    // A second type is another size or codec, which one file does not hold.
    if (typeof data === 'string') { texts += 1; if (texts > 1) socket.close(); return; }
    if (texts > 1) return;
    for (const piece of zero.push(new Uint8Array(data))) { pieces.push(piece); bytes += piece.byteLength; }
    if (bytes > MOST_BYTES) socket.close();
  };
  socket.onclose = event => {
    running -= 1;
    if (bytes) download(new Blob(pieces, { type: 'video/mp4' }), stamped(stream, 'mp4'));
    ended(bytes ? null : event.reason || 'no-socket');
  };
  return () => socket.close();
}
