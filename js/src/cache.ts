import { Claims } from './claims.js';
import type { Entry } from './state.js';

/** What an entry takes beside its token and the strings of its claims, in octets. */
const entryBytes = 1024;

const bytes = (e: Entry): number => entryBytes + 2 * Claims.token(e.claims).length + e.keys.byteLength;

/** Keeps entries by their whole token, in bounded memory. Those that were used since their turn to go came last stay. */
export class Cache {
  private readonly entries = new Map<string, Entry>();
  private size = 0;

  constructor(private readonly limit: number) {}

  get(token: string): Entry | undefined {
    return this.entries.get(token);
  }

  /** Keeps an entry, and drops others until the bound holds again. */
  put(e: Entry): void {
    this.drop(e);
    this.add(e);
    for (const old of this.entries.values()) {
      if (this.size <= this.limit) return;
      this.drop(old);
      if (old.used) this.add(old);
      old.used = false;
    }
  }

  /** Drops what stands under an entry's token. */
  drop(e: Entry): void {
    const token = Claims.token(e.claims);
    const old = this.entries.get(token);
    if (!old) return;
    this.entries.delete(token);
    this.size -= bytes(old);
  }

  private add(e: Entry): void {
    this.entries.set(Claims.token(e.claims), e);
    this.size += bytes(e);
  }

  /** How many tokens there are. */
  get count(): number {
    return this.entries.size;
  }

  /** The memory that they take, about, in octets. */
  get bytes(): number {
    return this.size;
  }
}
