import { randomBytes } from 'node:crypto';
import type { Settings } from './config.js';
import { Fault, type Hello, type Mark, type Pong } from './feed.js';
import { Deadline, defaultLease, Freshness, system, type Clock, type Moment } from './lease.js';
import { Round } from './round.js';
import { Refusal, Session, Silence } from './session.js';
import { State, type Facts } from './state.js';

const clockSkew = 10_000; // between this clock and the node's that is borne
/** How many entries a second are looked at for what can be forgotten. */
const forgetBudget = 1 << 16;
/** Keeps an alarm that found nothing over, since a clock is held up, from going off all the time. */
const alarmLeast = 1;

const leaseMissing = 'no node has granted it a lease yet';

/** What history has been applied. */
interface Bookmark extends Mark {
  readonly log: string;
  readonly epoch: number;
}

/** Whom a follower tells what concerns watched tokens. */
export interface Audience {
  /** Every watched token is to be judged afresh. */
  recheck(): void;
  /** The records are in the set. */
  applied(records: DataView): void;
}

/** Keeps a verifier's state in step with the feed of one node at a time. */
export class Follower {
  readonly clock: Clock;
  state: State | undefined; // before the first complete snapshot there is none
  fresh = new Freshness('it has not begun yet', Deadline.none);
  at: Bookmark = { log: '', epoch: 0, position: 0, digest: '' };
  current: Session | undefined; // that acknowledges

  connected = false;
  since: number; // when connected last changed
  heard: Moment | undefined; // when the latest pong came
  spells = 0; // how often it became stale
  routes = 0; // that accept tokens while stale
  readonly tolerances = new Set<number>(); // for how long, in milliseconds

  address = ''; // of the node, as it was tried last
  private readonly process = randomBytes(16).toString('hex');
  private readonly sessions = new Set<Session>();
  private readonly leases = new Map<Session | undefined, Deadline>(); // by connection; under undefined the latest of those that are closed
  private relied = Deadline.none; // the latest lease, though it has ended
  private leaving: Session | undefined; // whose node stops
  private alarm: NodeJS.Timeout | undefined; // rings when a lease, or a route's tolerance, ends

  private length = defaultLease; // of the leases of the node that said hello last
  private nodeClock = 0; // by the latest pong
  private trip = 0; // how long before it came the node may have read that
  private doubt = 'it has not caught up with the log yet'; // reasons to be stale, by weight
  private skew = "the node's clock is not known yet";
  private closing = false;
  private announced = 'it has not begun yet'; // why it is stale, as was told; empty: it is not
  private failure: Error | undefined; // why the latest connection failed; none once in step
  private opened!: { resolve: () => void; reject: (why: Error) => void };
  private stopWaiting: (() => void) | undefined;

  /** Resolves when first fresh, and rejects with a refusal. */
  readonly started = new Promise<void>((resolve, reject) => { this.opened = { resolve, reject }; });

  constructor(readonly settings: Settings, private readonly audience: Audience) {
    this.clock = settings.clock ?? system;
    this.since = this.clock().wall;
    this.started.catch(() => {});
  }

  /** Follows the node, connection after connection, until it is closed. */
  async run(): Promise<void> {
    const tick = setInterval(() => this.tend(), 1_000);
    const { issuers } = this.settings;
    issuers.start(() => this.state && this.publish({ ...this.state.facts, others: issuers.list }));
    const round = new Round(this.settings.feeds);
    while (!this.closing) {
      const { address, within } = round.now(this.length);
      const { stepped, why } = await this.connection(address, within);
      if (this.closing) break;
      this.lost(why);
      if (why instanceof Refusal) this.opened.reject(why);
      await this.pause(round.next(stepped, why instanceof Silence));
    }
    clearInterval(tick);
    issuers.stop();
    clearTimeout(this.alarm);
  }

  /** Opens a connection and serves it until it has ended, or the node is about to end it. */
  private async connection(address: URL, within: number): Promise<{ stepped: boolean; why: Error }> {
    try {
      const session = new Session(this, address, within);
      this.address = address.host;
      this.sessions.add(session);
      void session.closed.then(() => this.sessions.delete(session));
      const why = await session.over();
      return { stepped: session.stepped, why };
    } catch (error) {
      return { stepped: false, why: new Refusal(`no connection can be made as configured: ${(error as Error).message}`, { cause: error }) };
    }
  }

  /** Makes the verifier stale for good, and says goodbye. What was granted is dropped before any node is told. */
  async close(signal?: AbortSignal): Promise<void> {
    this.closing = true;
    this.weigh(this.clock());
    this.audience.recheck();
    this.stopWaiting?.();
    const kill = () => this.sessions.forEach((s) => s.kill());
    if (signal?.aborted) kill();
    signal?.addEventListener('abort', kill);
    await Promise.all([...this.sessions].map((s) => s.part()));
    signal?.removeEventListener('abort', kill);
    if (signal?.aborted) throw new Error('quash: close: the node did not answer the goodbye', { cause: signal.reason });
  }

  private pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.stopWaiting = () => {
        clearTimeout(timer);
        resolve();
      };
      if (this.closing) this.stopWaiting();
    });
  }

  /** Does what must be done now and then: comparing the clocks, and forgetting. */
  private tend(): void {
    const now = this.clock();
    this.compare(now);
    if (!this.state || !this.heard) return;
    // By the node's clock, too, lest a jump of this one drop a record that is needed still.
    const seconds = Math.min(now.wall, this.nodeClock + now.mono - this.heard.mono) / 1000;
    this.state.facts.set.forget(Math.max(Math.floor(seconds), 0), forgetBudget);
  }

  /** Introduces the verifier, and says what it has. */
  introduction(): Record<string, string> {
    const { key, name } = this.settings;
    const { log, epoch, position, digest } = this.at;
    return {
      'Authorization': `Bearer ${key}`, 'Quash-Process': this.process, 'Quash-Name': name,
      ...(this.state && { 'Quash-Log': log, 'Quash-Epoch': `${epoch}`, 'Quash-Position': `${position}`, 'Quash-Digest': digest }),
    };
  }

  /** Makes these facts what the verifier knows. Where they differ from before, a new generation begins. */
  publish(facts: Facts): void {
    if (this.state?.same(facts)) return;
    this.state = new State((this.state?.generation ?? 0) + 1, facts);
    this.audience.recheck();
  }

  applied(records: DataView): void {
    this.audience.applied(records);
  }

  /** Notes that a node said hello. */
  arrive(lease: number): void {
    this.length = lease;
    this.connected = true;
    this.since = this.clock().wall;
  }

  /** Notes that everything up to the head of the hello has been applied. */
  step(h: Hello): void {
    this.failure = undefined;
    this.doubt = '';
    this.settings.logger.info('in step with the node', { log: h.log, epoch: h.epoch, position: this.at.position, resumed: h.resumes, reason: h.reason });
    this.weigh(this.clock());
  }

  /** Notes the end of a connection, or that there was none. */
  private lost(why: Error): void {
    if (why instanceof Fault) this.suspect(why.message);
    if (!this.failure) this.settings.logger.warn('no connection to the node: trying again', { error: why.message });
    if (this.connected) this.since = this.clock().wall;
    this.connected = false;
    this.failure = why;
  }

  /** Explains why the verifier is not ready when its start is given up. */
  unready(): string {
    return this.failure ? `not ready yet: latest attempt: ${this.failure.message}` : `not ready yet: ${this.doubt || this.skew || leaseMissing}`;
  }

  /** Makes the verifier stale until it is in step, and has a lease from after that. */
  suspect(doubt: string): void {
    this.doubt = doubt;
    this.relied = Deadline.none;
    this.leases.clear();
    this.weigh(this.clock());
  }

  /** Keeps a connection whose node stops until another has a lease; one is enough. Returns whether it does. */
  leave(s: Session): boolean {
    this.current = undefined;
    if (this.closing) return false;
    if (this.leaving) void s.part();
    else this.leaving = s;
    return true;
  }

  /** Notes that a connection is closed. That gives nothing back: what was granted on it counts until it ends. */
  closed(s: Session): void {
    if (this.leaving === s) this.leaving = undefined;
    if (this.current === s) this.current = undefined;
    this.trim(this.clock());
    const d = this.leases.get(s);
    if (d && d.until > (this.leases.get(undefined)?.until ?? -Infinity)) this.leases.set(undefined, d);
    this.leases.delete(s);
  }

  /**
   * Takes what a pong tells beside its mark: the node's clock, which was read
   * between the ping's sending and now, and the lease that it grants. Once the
   * connection has one, another that is being left is not needed any more.
   */
  hear(s: Session, p: Pong, sent: Moment): void {
    const now = this.clock();
    this.heard = now;
    this.nodeClock = p.clock;
    this.trip = now.mono - sent.mono;
    const until = sent.mono + p.grant;
    this.trim(now);
    if (p.grant > 0 && until > (this.leases.get(s)?.until ?? -Infinity)) this.leases.set(s, new Deadline(s.lease, sent, until));
    this.trim(now);
    const old = this.leaving;
    if (old && this.leases.has(s)) {
      this.leases.delete(old);
      this.leaving = undefined;
    }
    this.compare(now);
    if (!this.leaving) void old?.part();
  }

  /** Drops the leases that are over. What was once noticed stays so, whatever the clocks say later. */
  private trim(now: Moment): void {
    for (const [s, d] of this.leases) if (d.over(now)) this.leases.delete(s);
  }

  /** Returns the latest lease, or else the one that was relied on last. */
  private latest(now: Moment): Deadline {
    this.trim(now);
    let latest = Deadline.none;
    for (const d of this.leases.values()) if (d.until > latest.until) latest = d;
    return this.relied = latest === Deadline.none ? this.relied.cut(now) : latest;
  }

  /** Makes the verifier stale or fresh by the reasons there are. */
  private weigh(now: Moment): void {
    const lease = this.latest(now);
    const doubt = this.closing ? 'it was closed' : this.doubt || this.skew || (lease.lease === 0 ? leaseMissing : '');
    this.fresh = new Freshness(doubt, lease);
    clearTimeout(this.alarm);
    const wait = this.wait(now);
    if (wait > 0 && !this.closing) this.alarm = setTimeout(() => this.ring(), Math.max(wait, alarmLeast));
    this.announce(this.fresh.reason(now));
  }

  /** How long it is until the lease, or a route's tolerance, ends by itself; 0: neither will. */
  private wait(now: Moment): number {
    const { doubt, lease } = this.fresh;
    if (doubt !== '') return 0;
    if (!lease.over(now)) return lease.until - now.mono;
    const late = lease.late(now);
    const left = [...this.tolerances].map((t) => t - late).filter((t) => t > 0);
    return left.length === 0 ? 0 : Math.min(...left);
  }

  private ring(): void {
    this.weigh(this.clock());
    this.audience.recheck();
  }

  /** Tells whom it concerns that the verifier became stale, for a reason, or fresh, without one. */
  private announce(reason: string): void {
    const former = this.announced;
    if (reason === former) return;
    this.announced = reason;
    const { logger } = this.settings;
    if (reason === '') {
      logger.info('fresh: accepting tokens', {});
      this.opened.resolve();
      return;
    }
    if (former === '') this.spells++;
    this.audience.recheck();
    const expected = this.closing || !this.heard || reason === leaseMissing; // it ends, or has not begun
    logger[expected ? 'info' : 'warn']('stale: refusing tokens', { reason });
  }

  /**
   * Makes the verifier stale while its wall clock and the node's part. The
   * node's is carried on by the monotonic clock, so that a step of the wall
   * clock shows while no node is there to ask.
   */
  private compare(now: Moment): void {
    if (this.heard) {
      const earliest = this.nodeClock + now.mono - this.heard.mono;
      const off = now.wall < earliest - clockSkew || now.wall > earliest + this.trip + clockSkew;
      this.skew = off ? `its clock is more than ${clockSkew / 1000} s off the node's: set both by NTP` : '';
    }
    this.weigh(now);
  }

  /** Notes a route that accepts tokens for some time after the lease. */
  tolerate(ms: number): void {
    this.routes++;
    this.tolerances.add(ms);
    this.current?.acknowledge();
  }

  /** How many routes accept tokens while stale, and for how many seconds at most. */
  tolerated(): { routes: number; tolerance: number } {
    return { routes: this.routes, tolerance: Math.max(0, ...this.tolerances) / 1000 };
  }
}
