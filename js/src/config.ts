import { hostname } from 'node:os';
import type { ConnectionOptions } from 'node:tls';
import { completeIssuers, Issuers, type Issuer } from './issuers.js';
import type { Clock } from './lease.js';

/** Which node a verifier follows and what it accepts. No option turns a check off. */
export interface Config {
  /**
   * The base of the node's private listener, such as `https://quash.internal:8081`.
   * Where there are several nodes it may hold up to 32 such addresses, separated by
   * commas: verifiers spread over them, and one that loses its node, or is told that
   * it stops, turns to another.
   */
  url: string;
  /** The verifier's key: an API key whose only scope is the feed. */
  key: string;
  /** What a token's `aud` must contain. Default: the issuer. */
  audience?: string;
  /** The only issuer that the node may serve: where it serves another, `open` fails. Default: the node's, whichever it is. */
  issuer?: string;
  /** Other issuers whose tokens are accepted, too, such as an identity provider, or the application itself from before: 32 at most. */
  issuers?: Issuer[];
  /** What people call this verifier, 1 to 64 visible ASCII characters. Default: the host's name. */
  name?: string;
  /** Used for connections to the node. Default: the system's roots. The node's certificate is verified whatever stands here. */
  tls?: Pick<ConnectionOptions, 'ca' | 'cert' | 'key' | 'passphrase' | 'pfx' | 'servername'>;
  /** Allows http and ws to other hosts than loopback, for networks that encrypt underneath. It shows in the status. */
  plaintext?: boolean;
  /** Bounds the memory for tokens already verified, in octets. Default: 32 MiB. */
  cacheBytes?: number;
  /** Bounds the live revocations, at about 45 octets each. Beyond it the verifier is stale. Default: 16 million. */
  maxRevocations?: number;
  /** Gets a line at each change of state; `console` is one. Default: none. */
  logger?: Logger;
  /** Bounds the start only: `open` tries for as long as it is not aborted. */
  signal?: AbortSignal;
}

export interface Logger {
  info(message: string, details: object): void;
  warn(message: string, details: object): void;
}

export interface Settings extends Omit<Config, 'signal' | 'issuers'> {
  readonly issuers: Issuers;
  readonly name: string;
  readonly cacheBytes: number;
  readonly logger: Logger;
  readonly feeds: readonly URL[];
  readonly exposed: boolean; // what is sent to the node leaves this machine unencrypted, as far as one can tell from here
  readonly clock?: Clock; // default: the machine's
}

const silent: Logger = { info() {}, warn() {} };

/** Checks a configuration and fills in the defaults. */
export function complete(config: Config): Settings {
  const { signal: _, issuers = [], ...c } = config;
  if (!visible(c.key, 512)) throw new TypeError("key: want the verifier's key, 1 to 512 visible ASCII characters; quash key create NAME --verifier makes one");
  for (const n of [c.cacheBytes, c.maxRevocations]) {
    if (n !== undefined && !(Number.isSafeInteger(n) && n > 0)) throw new TypeError('cacheBytes and maxRevocations must be whole numbers above 0');
  }
  const name = c.name ?? (visible(hostname(), 64) ? hostname() : 'verifier');
  if (!visible(name, 64)) throw new TypeError('name: want 1 to 64 visible ASCII characters');
  const list = String(c.url).split(',');
  if (list.length > 32) throw new TypeError(`url: ${list.length} addresses, want at most 32`);
  const feeds = list.map((base) => feedURL(base.trim()));
  const exposed = feeds.find((u) => u.protocol === 'ws:' && !loopback(u.hostname));
  if (exposed && !c.plaintext) {
    throw new TypeError(`url: ${exposed.hostname} would be spoken to unencrypted: use https, or set plaintext where the network encrypts underneath`);
  }
  return { ...c, issuers: new Issuers(completeIssuers(issuers, c.issuer)), name, cacheBytes: c.cacheBytes ?? 32 << 20, logger: c.logger ?? silent, feeds, exposed: exposed !== undefined };
}

const schemes: Readonly<Record<string, string>> = { 'https:': 'wss:', 'wss:': 'wss:', 'http:': 'ws:', 'ws:': 'ws:' };

function feedURL(base: string): URL {
  const u = URL.canParse(base) ? new URL(base) : undefined;
  const scheme = schemes[u?.protocol ?? ''];
  if (!u || !scheme || u.username || u.password || u.search || u.hash) {
    throw new TypeError("url: want the base address of the node's private listener, such as https://quash.internal:8081, or several separated by commas");
  }
  return new URL(`${scheme}//${u.host}${u.pathname.replace(/\/*$/, '')}/v1/feed`);
}

function loopback(host: string): boolean {
  return host === 'localhost' || host === '[::1]' || /^127\.\d+\.\d+\.\d+$/.test(host);
}

export function visible(s: unknown, most: number): s is string {
  return typeof s === 'string' && s.length <= most && /^[!-~]+$/.test(s);
}
