// Keeps a stream playing in a <video>: the protocols in turn, again after a while, and at once when the stream comes back.
import { admitted, type Track } from '../api';
import { begin, order, type Figures, type Player, type Protocol, type Report } from './index';

export type Choice = Protocol | 'auto';
export type State =
  | { is: 'connecting'; protocol: Protocol }
  | { is: 'playing'; protocol: Protocol }
  | { is: 'waiting'; why: string; until: number };

export type Kept = { stop(): void; now(): void; lost(): void; figures(): Promise<Figures> };

const FIRST_MS = 1000, LONGEST_MS = 15_000;
/** One that is connected and shows nothing for so long does not play. */
const PICTURE_MS = 15_000;
/** Nor does one whose picture stands for so long: a connection may be there with nobody at its other end. */
const STANDS_MS = 15_000, LOOK_MS = 5000;
/** Above so many tiles each is a socket: offers and agreements of so many at once take longer than they save. */
const MANY = 16;

export function keep(
  video: HTMLVideoElement, name: string, choice: Choice, tracks: () => Track[] | undefined, isLive: () => boolean, tiles: number, say: (state: State) => void,
): Kept {
  let over = false, player: Player | null = null, wait = FIRST_MS, timer: ReturnType<typeof setTimeout> | undefined, round = 0;
  let look: ReturnType<typeof setInterval> | undefined;

  const protocols = (): Protocol[] => {
    if (choice !== 'auto') return [choice];
    const able = order(tracks() ?? []);
    // One that has to be started first waits in a socket, which holds up nobody.
    return tiles > MANY || !isLive() ? [...able.filter(one => one !== 'whep'), ...able.filter(one => one === 'whep')] : able;
  };
  const drop = () => {
    clearTimeout(timer);
    clearInterval(look);
    timer = undefined;
    player?.stop();
    player = null;
  };
  const later = (why: string, ms: number) => {
    drop();
    if (over) return;
    say({ is: 'waiting', why, until: Date.now() + ms });
    timer = setTimeout(attempt, ms);
  };

  async function attempt() {
    drop();
    const own = round += 1;
    // What the first one said: those after it are worse, and their reasons with them.
    let why = '', final = false;
    for (const protocol of protocols()) {
      if (over || own !== round) return;
      if (final) break;
      say({ is: 'connecting', protocol });
      const start = await Promise.all([begin(protocol), admitted()]).then(([start]) => start).catch(error => { why ||= String(error); return null; });
      if (!start || over || own !== round) continue;
      const ended = await new Promise<string | null>(done => {
        let shown = false, patience: ReturnType<typeof setTimeout> | undefined;
        // What is decoded after this player was given up is another's.
        const finish = (why: string | null) => {
          clearTimeout(patience);
          video.removeEventListener('loadeddata', seen);
          done(why);
        };
        const seen = () => {
          if (over || own !== round || shown) return finish(null);
          shown = true;
          wait = FIRST_MS;
          say({ is: 'playing', protocol });
          watch(own);
          finish(null);
        };
        const hear = (report: Report) => {
          if (over || own !== round) return finish(null);
          if (report.state === 'playing') {
            video.play().catch(() => {});
            if (!hasPictures()) return seen();
            // Decoded is enough: a browser with many tiles paints them when it can.
            if (video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA) return seen();
            video.addEventListener('loadeddata', seen, { once: true });
            patience = setTimeout(() => finish('no_picture'), PICTURE_MS);
            return;
          }
          // What has played before it failed did not fail for its protocol.
          if (report.state === 'failed' && !shown) {
            final = report.final ?? false;
            return finish(report.why);
          }
          finish(null);
          later(report.state === 'failed' ? report.why : 'stream_gone', FIRST_MS);
        };
        try { player = start(video, name, hear); } catch (error) { finish(String(error)); }
      });
      // What ended is tried again by `later`; what plays goes on.
      if (ended === null) return;
      why ||= ended;
      player?.stop();
      player = null;
    }
    if (over || own !== round) return;
    later(why, wait);
    wait = Math.min(wait * 2, LONGEST_MS);
  }
  /** Begins anew when nothing moves any more. */
  const watch = (own: number) => {
    let last = -1, since = performance.now();
    clearInterval(look);
    look = setInterval(() => {
      const now = video.getVideoPlaybackQuality().totalVideoFrames || video.currentTime;
      if (now !== last || video.paused && !video.ended) { last = now; since = performance.now(); return; }
      if (own === round && performance.now() - since >= STANDS_MS) later('stands', FIRST_MS);
    }, LOOK_MS);
  };
  const hasPictures = () => tracks()?.some(track => track.width !== undefined || track.codec.match(/^(h26|av1|vp)/)) ?? true;

  attempt();
  return {
    stop() {
      over = true;
      round += 1;
      drop();
    },
    /** The stream is there now: why wait. */
    now() { if (timer !== undefined && !over) attempt(); },
    /** The stream is there no more, whatever its connection says. */
    lost() { if (timer === undefined && !over) later('stream_gone', FIRST_MS); },
    figures: async () => (await player?.figures()) ?? {},
  };
}
