// A recording that begins at zero: fragments of a live stream carry the time since the stream began (ISO/IEC 14496-12, `tfdt`), which players would
// take for that much of nothing before the first picture.

/** The most of a box that is waited for; what is larger passes as it is. */
const MOST = 1 << 26;

const kind = (view: DataView, at: number) => String.fromCharCode(view.getUint8(at + 4), view.getUint8(at + 5), view.getUint8(at + 6), view.getUint8(at + 7));

/** Calls `see` for each box between two places, and for those within the ones that `into` names. */
function walk(view: DataView, from: number, to: number, into: string[], see: (name: string, at: number, end: number) => void) {
  for (let at = from; at + 8 <= to;) {
    const size = view.getUint32(at), end = at + size;
    if (size < 8 || end > to) return;
    const name = kind(view, at);
    see(name, at + 8, end);
    if (into.includes(name)) walk(view, at + 8, end, into, see);
    at = end;
  }
}

/** Takes the pieces of a fragmented MP4 as they come, and gives them back with times from zero on. */
export class FromZero {
  private rest = new Uint8Array();
  /** Units of a second of each track. */
  private readonly scales = new Map<number, number>();
  private first: number | null = null;
  private odd = false;

  push(piece: Uint8Array): Uint8Array<ArrayBuffer>[] {
    const all = new Uint8Array(this.rest.length + piece.length);
    all.set(this.rest);
    all.set(piece, this.rest.length);
    if (this.odd) { this.rest = new Uint8Array(); return [all]; }
    const view = new DataView(all.buffer), out: Uint8Array<ArrayBuffer>[] = [];
    let at = 0;
    while (at + 8 <= all.length) {
      const size = view.getUint32(at);
      if (size < 8 || size > MOST) { this.odd = true; break; }
      if (at + size > all.length) break;
      const name = kind(view, at);
      if (name === 'moov') this.tracks(view, at, at + size);
      if (name === 'moof') this.shift(view, at, at + size);
      out.push(all.slice(at, at + size));
      at += size;
    }
    this.rest = all.slice(at);
    if (this.odd && this.rest.length) out.push(all.slice(at));
    if (this.odd) this.rest = new Uint8Array();
    return out;
  }

  private tracks(view: DataView, from: number, to: number) {
    let track = 0;
    walk(view, from, to, ['moov', 'trak', 'mdia'], (name, at) => {
      const long = view.getUint8(at) === 1;
      if (name === 'tkhd') track = view.getUint32(at + (long ? 20 : 12));
      if (name === 'mdhd') this.scales.set(track, view.getUint32(at + (long ? 20 : 12)));
    });
  }

  private shift(view: DataView, from: number, to: number) {
    let track = 0;
    walk(view, from, to, ['moof', 'traf'], (name, at) => {
      if (name === 'tfhd') track = view.getUint32(at + 4);
      if (name !== 'tfdt') return;
      const scale = this.scales.get(track) ?? 1000, long = view.getUint8(at) === 1;
      const time = long ? Number(view.getBigUint64(at + 4)) : view.getUint32(at + 4);
      this.first ??= time / scale;
      // Of two tracks the other may begin a little earlier.
      const moved = Math.max(0, Math.round(time - this.first * scale));
      if (long) view.setBigUint64(at + 4, BigInt(moved));
      else view.setUint32(at + 4, moved);
    });
  }
}
