/** The arithmetic of leases (docs/protocol.md, section 5). Times are in milliseconds. */
import { performance } from 'node:perf_hooks';

/** A reading of a machine's two clocks at once. */
export interface Moment {
  readonly wall: number; // since 1970; may be set, and goes on while the machine sleeps
  readonly mono: number; // never set, and stands still
}

export type Clock = () => Moment;

const now = performance.now.bind(performance);
const wall = Date.now;

/**
 * The machine's clock. Both readings are of one moment: where the process was
 * held up between them they are made again, since they would seem to have parted.
 */
export function system(): Moment {
  for (let tries = 0; ; tries++) {
    const moment = { mono: now(), wall: wall() };
    if (tries === 3 || now() - moment.mono < 1) return moment;
  }
}

export const defaultLease = 30_000;

/** How often a verifier pings. */
export const beat = (lease: number): number => Math.min(lease / 6, 5_000);

/** How long a verifier waits for word from a node. */
export const patience = (lease: number): number => Math.min(lease / 2, 15_000);

/** Says whether the clocks parted so far between two moments that the machine must have slept, or its clock was set. */
export function slept(lease: number, from: Moment, to: Moment): boolean {
  return Math.abs(to.wall - from.wall - (to.mono - from.mono)) > lease / 40;
}

/** The end of a lease. It is counted from the sending of the ping that earned it, which was before the node began to count. */
export class Deadline {
  /** `lease` is 0 where there was none, and `until` by the monotonic clock of `sent`. */
  constructor(readonly lease: number, readonly sent: Moment, readonly until: number) {}

  static readonly none = new Deadline(0, { wall: 0, mono: 0 }, -Infinity);

  /** Says whether the lease has ended, or cannot be measured any more. */
  over(now: Moment): boolean {
    return now.mono >= this.until || slept(this.lease, this.sent, now);
  }

  /** How long ago the lease ended, by the clock that says longer; -1 where it did not. */
  late(now: Moment): number {
    if (!this.over(now)) return -1;
    const cut = this.cut(now);
    return Math.max(now.mono - cut.until, now.wall - cut.wall, 0);
  }

  /** A lease that has ended, at a moment that has passed. One that cannot be measured ended when the clocks parted. */
  cut(now: Moment): Deadline {
    return now.mono < this.until ? new Deadline(this.lease, this.sent, now.mono) : this;
  }

  /** The end by the wall clock, as of when the ping was sent. */
  get wall(): number {
    return this.sent.wall + (this.until - this.sent.mono);
  }
}

const leaseEnded = 'its lease has ended, and no node has granted it another';

/** Until when a verifier may rely on what it knows. */
export class Freshness {
  /** `doubt` says why not at all, and is empty where it may while the lease lasts. */
  constructor(readonly doubt: string, readonly lease: Deadline) {}

  lasts(now: Moment): boolean {
    return this.doubt === '' && !this.lease.over(now);
  }

  /** Says whether tokens are accepted where an ended lease is borne for a time. Nothing else is. */
  bears(now: Moment, tolerance: number): boolean {
    return this.lasts(now) || (this.doubt === '' && this.lease.late(now) < tolerance);
  }

  /** Why tokens are refused where nothing is borne; empty where they are not. */
  reason(now: Moment): string {
    return this.doubt === '' && this.lease.over(now) ? leaseEnded : this.doubt;
  }
}

/** Remembers when pings were sent. */
export class Sendings {
  private last = 0;
  private open: { stamp: number; at: Moment }[] = [];

  /**
   * Returns the stamp of a ping that is about to be sent. Where too many are
   * open it is the latest one's, which was sent before: its lease ends sooner.
   */
  stamp(now: Moment): number {
    if (this.open.length < 64) this.open.push({ stamp: ++this.last, at: now });
    return this.last;
  }

  /** Returns when the ping of a stamp was sent, and forgets those before it. */
  answered(stamp: number): Moment | undefined {
    const i = this.open.findIndex((s) => s.stamp === stamp);
    if (i < 0) return undefined;
    this.open.splice(0, i);
    return this.open[0]!.at;
  }
}
