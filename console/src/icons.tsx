// Pictures on buttons, drawn here: no font is needed for them.
const PATHS = {
  close: 'M5 5l14 14M19 5L5 19',
  sound: 'M4 9v6h4l5 4V5L8 9zM16.5 8.5a5 5 0 010 7M19 6a9 9 0 010 12',
  muted: 'M4 9v6h4l5 4V5L8 9zM17 9.5l5 5M22 9.5l-5 5',
  shot: 'M4 7h4l2-2h4l2 2h4v12H4zM12 16.5a3.5 3.5 0 100-7 3.5 3.5 0 000 7z',
  record: 'M12 18a6 6 0 100-12 6 6 0 000 12z',
  stop: 'M7 7h10v10H7z',
  stats: 'M5 19v-6M10 19V5M15 19v-9M20 19v-4',
  inset: 'M3 5h18v14H3zM12 12h7v5h-7z',
  full: 'M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5',
  menu: 'M4 6h16M4 12h16M4 18h16',
  theme: 'M12 3a9 9 0 109 9 7 7 0 01-9-9z',
  play: 'M7 5l12 7-12 7z',
  picture: 'M3 5h18v14H3zM3 16l5-5 4 4 3-3 6 5',
} as const;

export type Name = keyof typeof PATHS;

export function Icon({ name }: { name: Name }) {
  return <svg viewBox="0 0 24 24" width="18" height="18" fill="none" stroke="currentColor" stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round"
    aria-hidden="true"><path d={PATHS[name]} /></svg>;
}
