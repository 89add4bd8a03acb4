/**
 * The revocation set: the live revocations, merged by key, in typed arrays.
 * There is no object a record. A set of a million takes less than 50 MB.
 */

/** A record's size on the wire, in octets. */
export const recordSize = 40;

const shardCount = 256;
const fullest = 0.8; // share of a shard's slots that may be taken
const defaultLimit = 16_000_000;

/** The set would exceed its limit. It no longer holds all that it was given. */
export class FullError extends Error {
  constructor() {
    super('the revocation set is full: raise maxRevocations');
  }
}

/** Open addressing in one block of memory. A slot whose before is 0 is free: that kills nothing. */
class Shard {
  count = 0;
  oldest = Infinity; // no entry has a lesser forget
  readonly before: Float64Array; // a position, or Infinity for ever
  readonly keys: Uint32Array; // four words each
  readonly forget: Uint32Array; // Unix seconds
  readonly notBefore: Uint32Array; // Unix seconds; 0 where it plays no part

  constructor(readonly slots: number) {
    const block = new ArrayBuffer(slots * 32);
    this.before = new Float64Array(block, 0, slots);
    this.keys = new Uint32Array(block, slots * 8, slots * 4);
    this.forget = new Uint32Array(block, slots * 24, slots);
    this.notBefore = new Uint32Array(block, slots * 28, slots);
  }

  /** Returns the slot of a key, or the free one where it belongs. There is a free one, by the bound on count. */
  find(seed: number, a: number, b: number, c: number, d: number): number {
    const { before, keys, slots } = this;
    let at = Math.floor(((Math.imul(d ^ seed, 0x9e3779b1) >>> 0) / 2 ** 32) * slots);
    while (before[at] !== 0) {
      const k = at * 4;
      if (keys[k] === a && keys[k + 1] === b && keys[k + 2] === c && keys[k + 3] === d) return at;
      if (++at === slots) at = 0;
    }
    return at;
  }

  fill(at: number, a: number, b: number, c: number, d: number, before: number, forget: number, notBefore: number): void {
    this.before[at] = before;
    this.forget[at] = forget;
    this.notBefore[at] = notBefore;
    const k = at * 4;
    this.keys[k] = a;
    this.keys[k + 1] = b;
    this.keys[k + 2] = c;
    this.keys[k + 3] = d;
    this.oldest = Math.min(this.oldest, forget);
    this.count++;
  }

  /** Returns a shard of the entries that are not to be forgotten before now, with room for more. */
  rebuild(seed: number, now: number): Shard {
    const { before, keys, forget, notBefore, slots } = this;
    let rest = this.count;
    if (now > 0) for (let i = 0; i < slots; i++) if (before[i] !== 0 && forget[i]! < now) rest--;
    // By a random amount, so that the shards do not all grow at the same time.
    const to = new Shard(Math.ceil((rest * (1.125 + Math.random() / 4) + 8) / fullest));
    for (let i = 0; i < slots; i++) {
      if (before[i] === 0 || forget[i]! < now) continue;
      const k = i * 4;
      const a = keys[k]!, b = keys[k + 1]!, c = keys[k + 2]!, d = keys[k + 3]!;
      to.fill(to.find(seed, a, b, c, d), a, b, c, d, before[i]!, forget[i]!, notBefore[i]!);
    }
    return to;
  }
}

const empty = new Shard(1);

/**
 * Holds the merged record of every key, exactly: all 128 bits of a key are
 * compared. It grows and forgets one shard of 256 at a time, so that no call
 * takes long.
 */
export class RevocationSet {
  /** The position of the log up to which the set is complete. */
  position = 0;
  private count = 0;
  private next = 0; // shard at which forget goes on
  private readonly shards: Shard[] = new Array<Shard>(shardCount).fill(empty);
  // Entries that came in the order of another set, as in a snapshot, would else crowd in a few places.
  private readonly seed = (Math.random() * 2 ** 32) | 0;

  constructor(private readonly limit = defaultLimit) {}

  /** The number of entries. */
  get size(): number {
    return this.count;
  }

  /** The memory that the entries take, free slots included, in octets. */
  get bytes(): number {
    return this.shards.reduce((sum, shard) => sum + shard.before.buffer.byteLength, 0);
  }

  /**
   * Merges the records that stand in a view, each recordSize octets: of one key
   * the greater of each field counts. Throws a FullError at the limit.
   */
  merge(records: DataView, from: number, to: number): void {
    for (let at = from; at < to; at += recordSize) {
      const hi = records.getUint32(at + 24);
      // From 2^53 on a bound is above every rev, as for ever is.
      const before = hi >= 2 ** 21 ? Infinity : hi * 2 ** 32 + records.getUint32(at + 28);
      this.put(
        records.getUint32(at + 8), records.getUint32(at + 12), records.getUint32(at + 16), records.getUint32(at + 20),
        before, records.getUint32(at + 36), records.getUint32(at + 32),
      );
    }
  }

  private put(a: number, b: number, c: number, d: number, before: number, forget: number, notBefore: number): void {
    if (before === 0) return;
    const n = a >>> 24;
    let shard = this.shards[n]!;
    let at = shard.find(this.seed, a, b, c, d);
    if (shard.before[at] !== 0) {
      if (before > shard.before[at]!) shard.before[at] = before;
      if (forget > shard.forget[at]!) shard.forget[at] = forget;
      if (notBefore > shard.notBefore[at]!) shard.notBefore[at] = notBefore;
      return;
    }
    if (this.count >= this.limit) throw new FullError();
    if (shard.count + 1 > shard.slots * fullest) {
      shard = this.shards[n] = shard.rebuild(this.seed, 0);
      at = shard.find(this.seed, a, b, c, d);
    }
    shard.fill(at, a, b, c, d, before, forget, notBefore);
    this.count++;
  }

  /** Returns what revs have to be below to be killed by the records of a key, of which `keys` has the words at `at`: 0 where there is none. */
  lookup(keys: Uint32Array, at: number): number {
    const a = keys[at]!;
    const shard = this.shards[a >>> 24]!;
    return shard.before[shard.find(this.seed, a, keys[at + 1]!, keys[at + 2]!, keys[at + 3]!)]!;
  }

  /** Returns the Unix second up to which tokens without a rev are killed by the records of a key: Infinity for ever, NaN where there is none. */
  lookupTime(keys: Uint32Array, at: number): number {
    const a = keys[at]!;
    const shard = this.shards[a >>> 24]!;
    const slot = shard.find(this.seed, a, keys[at + 1]!, keys[at + 2]!, keys[at + 3]!);
    const before = shard.before[slot]!;
    // A record that bears no time leaves in doubt what it kills, which refuses.
    return before === 0 ? NaN : before === Infinity ? Infinity : shard.notBefore[slot]! || Infinity;
  }

  /**
   * Drops entries that are kept until before now, in Unix seconds, and returns
   * how many. It goes on where the last call stopped, and ends after a round or
   * once it has looked at budget entries.
   */
  forget(now: number, budget: number): number {
    const before = this.count;
    for (let i = 0; i < shardCount && budget > 0; i++) {
      const shard = this.shards[this.next]!;
      if (shard.oldest < now) {
        budget -= shard.count;
        const rest = this.shards[this.next] = shard.rebuild(this.seed, now);
        this.count -= shard.count - rest.count;
      }
      this.next = (this.next + 1) % shardCount;
    }
    return before - this.count;
  }
}
