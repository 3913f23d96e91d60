// Where one is: `#/PAGE?..`, or `#/node/ID/ID/PAGE?..` for a platform below, seen through the links.
import { useEffect, useState } from 'preact/hooks';

export type Route = { node: string[]; page: string; query: URLSearchParams };

/** What is no code stays as it is. */
function decoded(text: string): string {
  try { return decodeURIComponent(text); } catch { return text; }
}

export function read(hash = location.hash): Route {
  const [path = '', query = ''] = hash.replace(/^#\/?/, '').split('?', 2);
  const parts = path.split('/').filter(Boolean).map(decoded);
  const node: string[] = [];
  if (parts[0] === 'node') {
    parts.shift();
    while (parts.length > 1) node.push(parts.shift()!);
  }
  return { node, page: parts[0] ?? 'wall', query: new URLSearchParams(query) };
}

export function write(route: { node?: string[]; page: string; query?: URLSearchParams | Record<string, string> }): string {
  const query = new URLSearchParams(route.query).toString();
  const node = route.node?.length ? `node/${route.node.map(encodeURIComponent).join('/')}/` : '';
  return `#/${node}${route.page}${query ? `?${query}` : ''}`;
}

export function useRoute(): Route {
  const [route, set] = useState(read);
  useEffect(() => {
    const changed = () => set(read());
    addEventListener('hashchange', changed);
    return () => removeEventListener('hashchange', changed);
  }, []);
  return route;
}

/** The prefix of a platform's paths. */
export const below = (node: string[]) => node.map(cid => `/peer/${encodeURIComponent(cid)}`).join('');
