/** The issuers beside Quash whose tokens a verifier takes, and their keys. */
import { createHmac, createSecretKey, timingSafeEqual, type KeyObject } from 'node:crypto';
import { parseKeySet, type PublicKey, type Token } from './jws.js';

/** Another issuer whose tokens are accepted. Exactly one of `jwks`, `keys` and `secret` says how they are signed. */
export interface Issuer {
  /** The `iss` of its tokens, and what revocations name it by. The node must know it: `quash issuer add`. */
  name: string;
  /** Where it publishes its keys: https, or http to loopback. They are loaded in the background, and again every quarter of an hour, or as often as its Cache-Control says. */
  jwks?: string;
  /** Its keys, as a JSON Web Key Set that does not change. */
  keys?: { keys: object[] } | string;
  /** 32 octets or more: the secret of tokens that an application signed with HS256 before. They need no `iss`. */
  secret?: string | Uint8Array;
  /** When tokens signed with `secret` are accepted no more. Required with it. */
  until?: Date;
  /** What `aud` must contain. Required but with `secret`; without it, a token must have no `aud`. */
  audience?: string;
  /** The values of `typ` that are accepted; the empty one stands for none. Default: `at+jwt` alone. */
  types?: string[];
  /** How far off `exp` may be, in seconds. The node remembers revocations for as long. Default: 86400. */
  maxLifetime?: number;
  /** By how many seconds the issuer's clock may differ, 1 to 600. A revocation kills what was issued until so long after it. Default: 60. */
  skew?: number;
}

/** What a verifier holds of another issuer at one time. It does not change. */
export interface Trusted {
  readonly name: string;
  readonly keys: ReadonlyMap<string, PublicKey> | undefined; // undefined: not loaded yet, or there is a secret
  readonly secret: KeyObject | undefined;
  readonly until: number; // Unix milliseconds
  readonly audience: string | undefined;
  readonly types: readonly string[]; // in lower case, without "application/"
  readonly lifetime: number; // milliseconds
  readonly skew: number; // seconds
  readonly source: KeySource | undefined;
}

/** How it stands with the keys of another issuer. */
export interface IssuerStatus {
  name: string;
  /** Its tokens can be checked; they throw a StaleError else. */
  ready: boolean;
  /** The keys that it has; 0 with a secret. */
  keys: number;
  /** When the keys that it publishes were fetched last. */
  fetched: Date | undefined;
  /** Why they could not be, the last time; the last good ones are in use. Empty: they could. */
  failure: string;
  /** When its secret is accepted no more. */
  until: Date | undefined;
}

const maxIssuers = 16;
const defaultTypes = ['at+jwt'];
const maxSet = 1 << 20; // octets
const maxKeys = 100;

/** Checks the configuration of other issuers. Throws a TypeError for what cannot be. */
export function completeIssuers(list: readonly Issuer[], own: string | undefined): Trusted[] {
  if (list.length > maxIssuers) throw new TypeError(`issuers: ${list.length} of them, want at most ${maxIssuers}`);
  const names = new Set([own]);
  const secrets = new Set<string>();
  return list.map((i) => {
    const wrong = (text: string) => new TypeError(`issuer ${JSON.stringify(i.name)}: ${text}`);
    if (typeof i.name !== 'string' || !/^[!-~]{1,256}$/.test(i.name)) throw wrong('name: want 1 to 256 visible ASCII characters');
    if (names.has(i.name)) throw wrong('it is named twice');
    names.add(i.name);
    if ([i.jwks, i.keys, i.secret].filter((s) => s !== undefined).length !== 1) throw wrong('want exactly one of jwks, keys and secret');
    if ((i.secret === undefined) !== (i.until === undefined)) throw wrong('secret and until belong together: say until when such tokens are accepted');
    if (i.until && Number.isNaN(i.until.getTime())) throw wrong('until: not a date');
    if (i.secret === undefined && !i.audience) throw wrong("audience: required, or the issuer's tokens for others would be accepted");
    const lifetime = bounded(i.maxLifetime ?? 86_400, 1, 10 * 365 * 86_400) ?? fail(wrong('maxLifetime: want seconds, 1 to ten years'));
    const skew = bounded(i.skew ?? 60, 1, 600) ?? fail(wrong('skew: want 1 to 600 seconds'));
    const secret = i.secret === undefined ? undefined : readSecret(i.secret, wrong);
    const bits = secret?.export().toString('base64');
    if (bits && secrets.has(bits)) throw wrong('secret: another issuer has the same, and a token without iss could be of either');
    if (bits) secrets.add(bits);
    const types = (i.types ?? defaultTypes).map(typeName);
    if (types.length === 0 || types.length > 16) throw wrong('types: want 1 to 16 of them');
    return {
      name: i.name, audience: i.audience, types, lifetime: lifetime * 1000, skew, until: i.until?.getTime() ?? Infinity,
      keys: i.keys === undefined ? undefined : readSet(typeof i.keys === 'string' ? i.keys : JSON.stringify(i.keys)),
      secret,
      source: i.jwks === undefined ? undefined : new KeySource(address(i.jwks, wrong)),
    };
  });
}

function fail(why: Error): never {
  throw why;
}

function bounded(n: number, least: number, most: number): number | undefined {
  return Number.isSafeInteger(n) && n >= least && n <= most ? n : undefined;
}

/** Media types compare without regard to case, and may leave out "application/" (RFC 7515, section 4.1.9). */
export function typeName(typ: string): string {
  return typ.toLowerCase().replace(/^application\//, '');
}

function readSecret(secret: string | Uint8Array, wrong: (text: string) => Error): KeyObject {
  const octets = Buffer.from(secret as Uint8Array);
  if (octets.length < 32) throw wrong('secret: fewer than 32 octets can be guessed (RFC 7518, section 3.2); replace it, and let its tokens end');
  return createSecretKey(octets);
}

function address(text: string, wrong: (text: string) => Error): URL {
  const u = URL.canParse(text) ? new URL(text) : undefined;
  const near = u && ['localhost', '[::1]', '127.0.0.1'].includes(u.hostname);
  if (!u || u.username || u.password || u.hash || !(u.protocol === 'https:' || (u.protocol === 'http:' && near))) {
    throw wrong('jwks: want an https address; http only to loopback');
  }
  return u;
}

/** Reads a key set of which something can be used. */
function readSet(text: string): ReadonlyMap<string, PublicKey> {
  const keys = parseKeySet(text, { octets: maxSet, keys: maxKeys, nameless: true });
  if (keys.size === 0) throw new Error('there is no key in it that can be used: ES256, Ed25519 or RS256');
  return keys;
}

/** Returns the key that a token names, or, where it names none, the only one of its algorithm. */
export function keyOf(t: Token, keys: ReadonlyMap<string, PublicKey>): PublicKey | undefined {
  if (t.kid !== '') return keys.get(t.kid);
  const fitting = [...keys.values()].filter((k) => k.algorithm === t.algorithm);
  return fitting.length === 1 ? fitting[0] : undefined;
}

/** Says whether a token bears the code of a secret over the octets as received (RFC 7518, section 3.2). */
export function authentic(t: Token, secret: KeyObject): boolean {
  const want = createHmac('sha256', secret).update(t.text, 'latin1').digest();
  return t.algorithm === 'HS256' && t.signature.length === want.length && timingSafeEqual(t.signature, want);
}

const patience = 10_000; // for one answer
const refreshUsual = 15 * 60_000;
const refreshLeast = 60_000;
const refreshMost = 3_600_000;
const retryFirst = 1_000; // while there are no keys at all

/**
 * Keeps up with the keys that an issuer publishes. What it has is good until it
 * gets another set that is: an answer that cannot be used changes nothing.
 */
export class KeySource {
  keys: ReadonlyMap<string, PublicKey> | undefined;
  fetched: Date | undefined;
  failure = '';
  private text = '';
  private timer: NodeJS.Timeout | undefined;
  private retry = retryFirst;
  private asked = -Infinity; // when an unknown key last had the set loaded, by the monotonic clock
  private busy: AbortController | undefined;
  private changed: (() => void) | undefined; // undefined: not begun, or ended

  constructor(private readonly url: URL) {}

  start(changed: () => void): void {
    this.changed = changed;
    void this.load();
  }

  stop(): void {
    this.changed = undefined;
    clearTimeout(this.timer);
    this.busy?.abort();
  }

  /** Notes that a token named a key that is not here. Once a minute that has the set loaded, in the background. */
  missed(): void {
    const now = performance.now();
    if (now - this.asked < refreshLeast || !this.keys) return;
    this.asked = now;
    void this.load();
  }

  private async load(): Promise<void> {
    if (this.busy || !this.changed) return;
    this.busy = new AbortController();
    clearTimeout(this.timer);
    let next: number;
    try {
      next = await this.fetch(AbortSignal.any([this.busy.signal, AbortSignal.timeout(patience)]));
    } catch (error) {
      const { message, cause } = error as Error;
      this.failure = cause instanceof Error ? `${message}: ${cause.message}` : message;
      next = this.keys ? refreshLeast : this.retry;
      this.retry = Math.min(2 * this.retry, refreshLeast);
    }
    this.busy = undefined;
    this.wait(next);
  }

  private wait(ms: number): void {
    if (this.changed) this.timer = setTimeout(() => void this.load(), ms).unref();
  }

  /** Loads the set, and returns after how many milliseconds to do so again. */
  private async fetch(signal: AbortSignal): Promise<number> {
    const response = await fetch(this.url, { signal, redirect: 'error', headers: { Accept: 'application/jwk-set+json, application/json' } });
    if (response.status !== 200) throw new Error(`it answered with status ${response.status}`);
    const text = await readBody(response);
    const keys = readSet(text);
    this.failure = '';
    this.fetched = new Date();
    if (text !== this.text) {
      [this.keys, this.text] = [keys, text];
      this.changed?.();
    }
    const age = /(?:^|[\s,])max-age=(\d{1,9})/i.exec(response.headers.get('cache-control') ?? '');
    return age ? Math.min(Math.max(Number(age[1]) * 1000, refreshLeast), refreshMost) : refreshUsual;
  }
}

async function readBody(response: Response): Promise<string> {
  const parts: Uint8Array[] = [];
  const reader = response.body?.getReader();
  for (let size = 0; ;) {
    const { value, done } = await reader?.read() ?? { value: undefined, done: true };
    if (done || !value) break;
    size += value.length;
    if (size > maxSet) {
      await reader?.cancel();
      throw new Error(`it is longer than ${maxSet} octets`);
    }
    parts.push(value);
  }
  return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(Buffer.concat(parts));
}

/** The other issuers of a verifier, as they stand now. */
export class Issuers {
  constructor(private base: readonly Trusted[]) {}

  get list(): readonly Trusted[] {
    return this.base;
  }

  /** Follows the issuers' keys. Changed is called whenever the list is another. */
  start(changed: () => void): void {
    this.base.forEach(({ source }, n) => source?.start(() => {
      this.base = this.base.map((i, at) => (at === n ? { ...i, keys: source.keys } : i));
      changed();
    }));
  }

  stop(): void {
    this.base.forEach((i) => i.source?.stop());
  }

  /** Says why a node that knows these longest lifetimes, in seconds, cannot serve this verifier; empty: it can. */
  unserved(known: ReadonlyMap<string, number>): string {
    for (const { name, lifetime } of this.base) {
      const longest = known.get(name);
      const command = `run quash issuer add ${name} --max-lifetime ${lifetime / 1000}s`;
      if (longest === undefined) return `the node does not know issuer ${name}, and would forget its revocations: ${command}`;
      if (lifetime / 1000 > longest) return `the node remembers revocations of issuer ${name} for tokens of ${longest} s, fewer than maxLifetime: ${command}`;
    }
    return '';
  }

  status(): IssuerStatus[] {
    return this.base.map(({ name, keys, secret, source, until }) => ({
      name, ready: secret !== undefined || keys !== undefined, keys: keys?.size ?? 0, fetched: source?.fetched, failure: source?.failure ?? '',
      until: secret && new Date(until),
    }));
  }
}
