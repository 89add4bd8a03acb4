import { recordSize } from './set.js';
import type { Entry } from './state.js';

/** What is told when a token ends. It is registered under the keys that the token has now. */
export interface Watch {
  readonly token: string;
  readonly tolerance: number; // for how long after the lease it goes on, in milliseconds
  readonly end: (why: Error) => void;
  entry?: Entry;
  timer?: NodeJS.Timeout; // rings when the token expires
}

/** Finds the watches that a record ends. While there are none it costs who applies records nothing. */
export class Watches {
  private readonly all = new Set<Watch>();
  private readonly byKey = new Map<string, Set<Watch>>();

  /** Registers a watch under the keys of an entry, in place of those from before. */
  put(w: Watch, e: Entry): void {
    this.remove(w);
    w.entry = e;
    this.all.add(w);
    for (const key of keysOf(e)) {
      const set = this.byKey.get(key);
      if (set) set.add(w);
      else this.byKey.set(key, new Set([w]));
    }
  }

  remove(w: Watch): void {
    clearTimeout(w.timer);
    if (!w.entry) return;
    for (const key of keysOf(w.entry)) {
      const set = this.byKey.get(key);
      if (set?.delete(w) && set.size === 0) this.byKey.delete(key);
    }
    this.all.delete(w);
    delete w.entry;
  }

  list(): Watch[] {
    return [...this.all];
  }

  /** Returns the watches that some of the records may name, which must be in the set already. */
  named(records: DataView): Watch[] {
    if (this.all.size === 0) return [];
    const found = new Set<Watch>();
    for (let at = 8; at < records.byteLength; at += recordSize) {
      for (const w of this.byKey.get(words(records.getUint32(at), records.getUint32(at + 4), records.getUint32(at + 8), records.getUint32(at + 12))) ?? []) found.add(w);
    }
    return [...found];
  }
}

function* keysOf({ keys }: Entry): Iterable<string> {
  for (let i = 0; i < keys.length; i += 4) yield words(keys[i]!, keys[i + 1]!, keys[i + 2]!, keys[i + 3]!);
}

const words = (a: number, b: number, c: number, d: number): string => `${a},${b},${c},${d}`;
