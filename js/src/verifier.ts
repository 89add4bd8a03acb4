import type { IncomingMessage, ServerResponse } from 'node:http';
import { Cache } from './cache.js';
import { Claims } from './claims.js';
import { complete, type Config, type Settings } from './config.js';
import { ExpiredError, InvalidError, RevokedError, StaleError } from './errors.js';
import { Follower } from './follower.js';
import type { IssuerStatus } from './issuers.js';
import { maxToken } from './jws.js';
import type { Moment } from './lease.js';
import { UnknownKeyError, type Entry, type State } from './state.js';
import { Watches, type Watch } from './watch.js';

/** How a verifier stands, for health checks and people. */
export interface Status {
  /** It is connected to a node that has said hello. */
  connected: boolean;
  /** The node that it is connected to, or tried last: host and port. */
  node: string;
  /** Why it refuses tokens; empty: it does not. */
  stale: string;
  /** Whose tokens it accepts. */
  issuer: string;
  /** What their `aud` must contain. */
  audience: string;
  /** The id of the log that it follows, and its epoch. */
  log: string;
  epoch: number;
  /** Up to which it has applied the log. */
  position: number;
  /** The revocations that live. */
  revocations: number;
  /** The keys of the issuer. */
  keys: number;
  /** Other issuers, and how it stands with their keys. */
  issuers: IssuerStatus[];
  /** It speaks to the node unencrypted, as `plaintext` allows. */
  plaintext: boolean;
  /** When connected last changed. */
  since: Date;
  /** When the node last answered that this verifier is in step. */
  lastHeard: Date | undefined;
  /** How long a lease of its node lasts, and when the latest ends, or ended. 0: it has had none. */
  leaseSeconds: number;
  leaseUntil: Date | undefined;
  /** How often it became stale. */
  spells: number;
  /** The routes that accept tokens for some time while it is stale, and the longest such time. */
  tolerantRoutes: number;
  toleranceSeconds: number;
  /** Tokens that such routes accepted while it was stale. */
  acceptedStale: number;
  /** Tokens are accepted, or might be on a route that bears an ended lease. */
  accepting: boolean;
}

/** What a route does otherwise than by default. */
export interface RoutePolicy {
  /**
   * For how many seconds after the verifier's lease has ended tokens are
   * accepted, more than 0 and at most 86,400: for requests that had better be
   * answered on what was known then than not at all. On such a route a revocation
   * may hold as much later; nodes are told how many there are, and count them
   * in their answers to who revokes. Only that the verifier is out of touch is
   * borne, nothing else. Default: none.
   */
  acceptStale?: number | undefined;
}

/** What was accepted, and how many milliseconds after the lease had ended; -1: it lasts. */
export interface Admission {
  readonly claims: Claims;
  readonly late: number;
}

/** How a token ends for who watches it. */
export interface Watched {
  /** Ends the watch, which must happen to release what it holds. */
  readonly release: () => void;
}

/**
 * Checks access tokens. It has all live revocations and the issuer's keys in
 * its own memory, in step with a Quash node through one connection. It must be
 * closed.
 */
export class Verifier {
  private readonly follower: Follower;
  private readonly cache: Cache;
  private readonly watches = new Watches();
  private readonly running: Promise<void>;
  private borne = 0;

  private constructor(private readonly settings: Settings) {
    this.cache = new Cache(settings.cacheBytes);
    this.follower = new Follower(settings, {
      recheck: () => this.watches.list().forEach((w) => this.judge(w)),
      applied: (records) => this.watches.named(records).forEach((w) => this.judge(w)),
    });
    this.running = this.follower.run();
  }

  /**
   * Returns a verifier that follows the node from then on, once it accepts
   * tokens: it has all revocations up to the log's head when it connected, a
   * lease, and a clock that agrees with the node's. Until then it tries again for
   * as long as `config.signal` is not aborted; it fails at once where the
   * configuration is wrong, the node refuses the key, or serves another issuer.
   *
   * The verifier connects again by itself whenever it loses the node, and goes
   * on verifying meanwhile, until its lease ends.
   */
  static async open(config: Config): Promise<Verifier> {
    const v = new Verifier(complete(config));
    try {
      await Promise.race([v.follower.started, aborted(config.signal, () => v.follower.unready())]);
      return v;
    } catch (error) {
      await v.close(AbortSignal.timeout(1_000)).catch(() => {});
      throw new Error(`quash: open ${config.url}: ${(error as Error).message}`, { cause: error });
    }
  }

  /**
   * Returns the claims of a token that is to be accepted now. Otherwise it throws
   * an InvalidError, ExpiredError, RevokedError or StaleError: the first check
   * that fails decides, in the order of form, key, signature, claims, expiry,
   * revocation, and last whether the verifier may still rely on what it knows. One
   * exception: while the verifier is stale, a key that it does not know may be
   * one that it has not heard of, and throws a StaleError.
   *
   * It does no input or output, and costs a look-up for a token that it has
   * verified before.
   */
  verify(token: string): Claims {
    return this.admit(token, 0).claims;
  }

  /**
   * Returns a signal that aborts when the token of the claims is no longer
   * accepted, with the error that says why. It is for what lives longer than a
   * request. It ends with the signal given, too, which should happen where that is
   * sooner: until it ends it holds memory.
   */
  notify(claims: Claims, signal?: AbortSignal): AbortSignal {
    return this.notifyFor(claims, 0, signal);
  }

  /** @internal notify, on a route that bears an ended lease for so many milliseconds. */
  notifyFor(claims: Claims, tolerance: number, signal?: AbortSignal): AbortSignal {
    const controller = new AbortController();
    const watch = this.watch(claims, tolerance, (why) => {
      signal?.removeEventListener('abort', end);
      controller.abort(why);
    });
    const end = () => {
      watch.release();
      controller.abort(signal?.reason);
    };
    if (signal?.aborted) end();
    else if (!controller.signal.aborted) signal?.addEventListener('abort', end, { once: true });
    return controller.signal;
  }

  /** @internal Tells end, once, when the token of the claims is no longer accepted; perhaps at once. */
  watch(claims: Claims, tolerance: number, end: (why: Error) => void): Watched {
    const w: Watch = { token: Claims.token(claims), tolerance, end };
    this.judge(w);
    return { release: () => this.watches.remove(w) };
  }

  /** Ends a watch whose token is not accepted, and registers it anew where its keys may be others. */
  private judge(w: Watch): void {
    try {
      const e = this.entry(w.token, w.tolerance).entry;
      if (w.entry !== e) this.watches.put(w, e);
      // A timer cannot wait longer than some 25 days.
      clearTimeout(w.timer);
      const left = Math.max(e.expires - this.follower.clock().wall, 0);
      w.timer = setTimeout(() => this.judge(w), Math.min(left, 2 ** 31 - 1)).unref();
    } catch (why) {
      this.watches.remove(w);
      w.end(why as Error);
    }
  }

  /** @internal Counts a route, and returns its tolerance in milliseconds. */
  route({ acceptStale }: RoutePolicy): number {
    if (acceptStale === undefined) return 0;
    if (!(acceptStale > 0 && acceptStale <= 86_400)) throw new RangeError(`acceptStale: want more than 0 and at most 86400 seconds, got ${acceptStale}`);
    this.follower.tolerate(acceptStale * 1000);
    return acceptStale * 1000;
  }

  /** @internal Accepts a token on a route that bears an ended lease for so many milliseconds. */
  admit(token: string, tolerance: number): Admission {
    const { entry, late } = this.entry(token, tolerance);
    if (late >= 0) this.borne++;
    return { claims: entry.claims, late };
  }

  /** @internal Says whether the token of the claims is accepted still. */
  accepts(claims: Claims, tolerance: number): boolean {
    try {
      this.entry(Claims.token(claims), tolerance);
      return true;
    } catch {
      return false;
    }
  }

  private entry(token: string, tolerance: number): { entry: Entry; late: number } {
    if (token.length > maxToken) throw new InvalidError('it is longer than any token');
    const now = this.follower.clock();
    const { state, fresh } = this.follower;
    if (!state) throw new StaleError('no complete snapshot yet');
    let e = this.cache.get(token);
    if (e?.generation !== state.generation) e = this.learn(state, token, now);
    else e.used = true;
    if (now.wall >= e.expires) throw new ExpiredError(`at ${e.claims.expires.toISOString()}`);
    if (state.revoked(e)) throw new RevokedError(`known as of position ${state.facts.set.position} of the log`);
    if (fresh.lasts(now)) return { entry: e, late: -1 };
    if (!fresh.bears(now, tolerance)) throw new StaleError(fresh.reason(now));
    return { entry: e, late: fresh.lease.late(now) };
  }

  private learn(state: State, token: string, now: Moment): Entry {
    try {
      const e = state.verify(token, now.wall);
      if (now.wall < e.expires) this.cache.put(e);
      return e;
    } catch (error) {
      const stale = this.follower.fresh.reason(now);
      if (error instanceof UnknownKeyError && stale) throw new StaleError(`${stale}, so it may not know every key`);
      throw error;
    }
  }

  /** Returns how the verifier stands now. */
  status(): Status {
    const f = this.follower;
    const now = f.clock();
    const facts = f.state?.facts;
    const { routes, tolerance } = f.tolerated();
    const { lease } = f.fresh;
    return {
      connected: f.connected, node: f.address, stale: f.fresh.reason(now), issuer: facts?.issuer ?? '', audience: facts?.audience ?? '',
      log: f.at.log, epoch: f.at.epoch, position: f.at.position, revocations: facts?.set.size ?? 0, keys: facts?.keys.size ?? 0, issuers: this.settings.issuers.status(),
      plaintext: this.settings.exposed, since: new Date(f.since), lastHeard: f.heard && new Date(f.heard.wall),
      leaseSeconds: lease.lease / 1000, leaseUntil: lease.lease === 0 ? undefined : new Date(lease.wall), spells: f.spells,
      tolerantRoutes: routes, toleranceSeconds: tolerance, acceptedStale: this.borne, accepting: f.fresh.bears(now, tolerance * 1000),
    };
  }

  /**
   * Returns a handler that says whether this server should get requests: 200
   * while tokens are accepted, 503 while they are not, with the status in JSON. It
   * is for a readiness check; as a check of liveness it would have servers
   * restarted because a node is out of reach, which mends nothing.
   */
  health(): (request: IncomingMessage, response: ServerResponse) => void {
    return (_, response) => {
      const { accepting, ...status } = this.status();
      response.writeHead(accepting ? 200 : 503, { 'Content-Type': 'application/json', 'Cache-Control': 'no-store' });
      const members = Object.entries({ ready: true, ...status }).map(([name, value]) => [snake(name), value]);
      response.end(JSON.stringify(Object.fromEntries(members)) + '\n');
    };
  }

  /**
   * Returns a handler that answers with the verifier's metrics in the text format
   * of Prometheus, version 0.0.4, under the same names as the verifier in Go.
   */
  metrics(): (request: IncomingMessage, response: ServerResponse) => void {
    return (_, response) => {
      const s = this.status();
      const now = this.follower.clock();
      const { lease } = this.follower.fresh;
      const all: [string, 'gauge' | 'counter', string, number][] = [
        ['ready', 'gauge', 'Whether the verifier has had a complete snapshot.', this.follower.state ? 1 : 0],
        ['connected', 'gauge', 'Whether the verifier is connected to a node.', s.connected ? 1 : 0],
        ['stale', 'gauge', 'Whether the verifier refuses tokens because it cannot rely on its revocations.', s.stale === '' ? 0 : 1],
        ['stale_total', 'counter', 'Times the verifier became stale.', s.spells],
        ['lease_seconds', 'gauge', "Time left of the verifier's lease.", lease.over(now) ? 0 : (lease.until - now.mono) / 1000],
        ['position', 'gauge', 'Position of the log that the verifier has applied.', s.position],
        ['revocations', 'gauge', 'Revocations that live.', s.revocations],
        ['accepted_stale_total', 'counter', 'Requests accepted while the verifier was stale.', s.acceptedStale],
        ['issuers', 'gauge', 'Other issuers whose tokens the verifier accepts.', s.issuers.length],
        ['issuers_ready', 'gauge', 'Other issuers whose keys the verifier has.', s.issuers.filter((i) => i.ready).length],
        ['issuers_failing', 'gauge', 'Other issuers whose keys could not be fetched the last time.', s.issuers.filter((i) => i.failure !== '').length],
      ];
      response.writeHead(200, { 'Content-Type': 'text/plain; version=0.0.4; charset=utf-8' });
      response.end(all.map(([name, kind, help, value]) =>
        `# HELP quash_verifier_${name} ${help}\n# TYPE quash_verifier_${name} ${kind}\nquash_verifier_${name} ${value}\n`).join(''));
    };
  }

  /**
   * Ends the verifier, and tells the node, so that no revocation waits for it:
   * from then on verify throws a StaleError, and signals of notify have aborted.
   * It is called after the server that uses the verifier has drained. Where the
   * signal aborts first, it leaves without waiting for the node, and rejects; what
   * the node granted then ends by itself.
   */
  async close(signal?: AbortSignal): Promise<void> {
    try {
      await this.follower.close(signal);
    } finally {
      await this.running;
    }
  }
}

function aborted(signal: AbortSignal | undefined, why: () => string): Promise<never> {
  return new Promise((_, reject) => {
    const end = () => reject(new Error(why(), { cause: signal?.reason }));
    if (signal?.aborted) end();
    signal?.addEventListener('abort', end, { once: true });
  });
}

const snake = (name: string): string => name.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);
