import { setImmediate as turn } from 'node:timers/promises';
import WebSocket from 'ws';
import { visible } from './config.js';
import * as feed from './feed.js';
import { Fault, Kind } from './feed.js';
import type { Follower } from './follower.js';
import { parseKeySet } from './jws.js';
import { members } from './json.js';
import { beat, defaultLease, patience, Sendings } from './lease.js';
import { recordSize, RevocationSet } from './set.js';
import type { Facts } from './state.js';

/** What trying again cannot mend. */
export class Refusal extends Error {}

/** The node said nothing for too long. */
export class Silence extends Error {
  constructor() {
    super('no word from the node for too long');
  }
}

/** The node said why it closes the connection. */
class Bye extends Error {}

/** The end of a connection that is open still: the node said that it is about to close it. */
export class Stopping extends Bye {}

/** How many records are taken without letting others have their turn: well under 1 ms. */
const slice = 2048;

/** How many messages wait before the node is not read from any more. */
const backlog = 4;

const partWithin = 5_000; // for a goodbye, and the closing of a connection
const maxLifetime = 10 * 365 * 24 * 3_600_000;

/**
 * One connection to a node. Its life:
 *
 *     hello, resuming              hello, not resuming
 *                                  snapshot* mark
 *     (records | claims | keys | pong)* bye?
 *
 * Pings begin where records may begin. Claims and keys may also come before the
 * mark. Anything else is a fault.
 *
 * A node that says bye because it stops keeps the connection open for a while.
 * Nothing that comes after is applied; the verifier says goodbye once another
 * connection has a lease.
 */
export class Session {
  /** It came in step with the node. */
  stepped = false;
  lease = defaultLease;
  /** Resolves when the connection is closed. */
  readonly closed: Promise<void>;

  private readonly ws: WebSocket;
  private readonly sent = new Sendings();
  private queue: Buffer[] = [];
  private wake: (() => void) | undefined; // waits for a message
  private failure: Error | undefined; // why no more will come
  private hello!: feed.Hello;
  private aside: Facts | undefined; // built from a snapshot on its way
  private begun = false; // records may come, and leases
  private pinged = false;
  private silent = false; // neither pings nor listens any more
  private parted = false;
  private due = false; // a ping is about to be sent
  private silence: NodeJS.Timeout;
  private metronome: NodeJS.Timeout | undefined;

  /** Connects to a node, which has to say hello within so many milliseconds. */
  constructor(private readonly follower: Follower, readonly address: URL, within: number) {
    const { tls } = follower.settings;
    this.ws = new WebSocket(address, [feed.subprotocol], {
      ...tls, rejectUnauthorized: true, headers: follower.introduction(), maxPayload: feed.maxMessage,
      perMessageDeflate: false, followRedirects: false, handshakeTimeout: within,
    });
    this.silence = this.expectWord(within);
    this.ws.on('message', (data, binary) => this.receive(data as Buffer, binary));
    this.ws.on('unexpected-response', (_, response) => this.fail(refused(response.statusCode ?? 0)));
    this.ws.on('error', (error: Error & { code?: string }) => this.fail(unconnected(error)));
    this.closed = new Promise((resolve) => this.ws.on('close', () => {
      this.fail(new Error('the connection to the node was closed'));
      clearTimeout(this.silence);
      clearInterval(this.metronome);
      follower.closed(this);
      resolve();
    }));
  }

  /** Serves the connection until it has ended, or is being left: then with Stopping. */
  async over(): Promise<Error> {
    const why = await this.serve();
    if (why instanceof Stopping && this.follower.leave(this)) {
      this.linger();
      return why;
    }
    this.fail(why);
    await this.closed;
    return why;
  }

  /** Says goodbye, and then closes the connection. The verifier must not rely any more on what was granted on it. */
  async part(): Promise<void> {
    if (!this.parted) {
      this.parted = this.silent = true;
      const open = this.ws.readyState === WebSocket.OPEN;
      if (open && this.pinged) this.ws.send(feed.goodbye);
      if (open) this.ws.close(1000, 'the verifier closes');
      else this.ws.terminate();
      setTimeout(() => this.ws.terminate(), partWithin).unref();
    }
    await this.closed;
  }

  /** Ends the connection at once. */
  kill(): void {
    this.ws.terminate();
  }

  /** Sends a ping, soon: what is applied until then is acknowledged by the same. */
  acknowledge(): void {
    if (this.due) return;
    this.due = true;
    setImmediate(() => {
      this.due = false;
      this.ping();
    });
  }

  private ping(): void {
    if (this.silent || this.ws.readyState !== WebSocket.OPEN) return;
    this.pinged = true;
    const stamp = this.sent.stamp(this.follower.clock());
    this.ws.send(feed.encodePing({ applied: this.follower.at.position, stamp, ...this.follower.tolerated() }));
  }

  private receive(data: Buffer, binary: boolean): void {
    if (this.silent || this.failure) return;
    if (!binary) return this.fail(new Fault('the node sent a message that is not binary'));
    if (data.length === 0) return this.fail(new Fault('the node sent an empty message'));
    this.queue.push(data);
    if (this.queue.length > backlog) this.ws.pause();
    this.wake?.();
  }

  /** Notes why nothing more will come, and closes the connection. What came before is taken still. */
  private fail(why: Error): void {
    this.failure ??= why;
    this.wake?.();
    this.ws.terminate();
  }

  /** Leaves the connection open until the node closes it, or the lease from it must have ended. */
  private linger(): void {
    this.silent = true;
    clearTimeout(this.silence);
    this.silence = setTimeout(() => this.ws.terminate(), this.lease);
    this.queue = [];
    this.ws.resume();
  }

  /** Ends the connection, unless the node is heard. What it sent while this process was held up is read first. */
  private expectWord(within = patience(this.lease)): NodeJS.Timeout {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => {
      const { silence } = this;
      setImmediate(() => setImmediate(() => {
        if (silence === this.silence) this.fail(new Silence());
      }));
    }, within);
    return this.silence;
  }

  private async read(): Promise<Buffer> {
    if (this.queue.length === 0 && this.ws.isPaused) this.ws.resume();
    while (this.queue.length === 0) {
      if (this.failure) throw this.failure;
      await new Promise<void>((resolve) => { this.wake = resolve; });
    }
    return this.queue.shift()!;
  }

  private async serve(): Promise<Error> {
    try {
      await this.greet(await this.read());
      for (;;) {
        const message = await this.read();
        await this.take(message[0]!, message.subarray(1));
      }
    } catch (error) {
      const known = error === this.failure || [Fault, Refusal, Bye].some((kind) => error instanceof kind);
      return known ? error as Error : new Fault(`the node sent what cannot be taken: ${(error as Error).message}`, { cause: error });
    }
  }

  private async greet(message: Buffer): Promise<void> {
    const body = message.subarray(1);
    if (message[0] === Kind.bye) throw this.bye(body);
    if (message[0] !== Kind.hello) throw new Fault(`the node began with a message of kind ${message[0]}, not with hello`);
    const f = this.follower;
    this.hello = readHello(body);
    const h = this.hello;
    if (f.settings.issuer !== undefined && h.issuer !== f.settings.issuer) {
      throw new Refusal(`the node serves issuer ${JSON.stringify(h.issuer)}, not ${JSON.stringify(f.settings.issuer)}: check the url`);
    }
    const { issuers } = f.settings;
    if (issuers.list.some((i) => i.name === h.issuer)) throw new Refusal(`issuer ${h.issuer} is the node's own, whose keys it sends: leave it out of issuers`);
    const unserved = issuers.unserved(h.issuers);
    if (unserved) throw new Fault(unserved);
    this.lease = h.lease;
    this.expectWord();
    f.arrive(h.lease);
    const facts = {
      keys: parseKeySet(h.keys), keysText: h.keys, names: new Set(h.claims), secret: h.secret,
      issuer: h.issuer, audience: f.settings.audience ?? h.issuer, lifetime: h.lifetime,
      others: f.settings.issuers.list,
    };
    const same = f.state !== undefined && f.at.log === h.log && f.at.epoch === h.epoch;
    if (h.resumes) {
      if (!same) throw new Fault('the node resumes a log that this verifier does not have');
      f.publish({ ...facts, set: f.state!.facts.set });
      this.begin();
      return;
    }
    if (f.state && !same) f.suspect("the node's log is another than the one that was followed");
    this.aside = { ...facts, set: new RevocationSet(f.settings.maxRevocations) };
  }

  /** Handles a message after hello. */
  private async take(kind: number, body: Buffer): Promise<void> {
    switch (kind) {
      case Kind.claims: return this.change({ names: new Set(readNames(parseJSON(body))) });
      case Kind.keys: return this.change({ keys: parseKeySet(body.toString()), keysText: body.toString() });
      case Kind.records: return this.takeRecords(body);
      case Kind.snapshot: return this.takeSnapshot(body);
      case Kind.mark: return this.takeMark(feed.decodeMark(body));
      case Kind.pong: return this.takePong(feed.decodePong(body));
      case Kind.bye: throw this.bye(body);
    }
    throw new Fault(`the node sent a message of kind ${kind}, which ${feed.subprotocol} does not have`);
  }

  /** Edits what a snapshot on its way will become, or else what is known now. */
  private change(edit: Partial<Facts>): void {
    if (this.aside) this.aside = { ...this.aside, ...edit };
    else this.follower.publish({ ...this.follower.state!.facts, ...edit });
  }

  /** Merges records, and lets others have their turn in between. */
  private async merge(set: RevocationSet, records: DataView): Promise<void> {
    for (let at = 0; at < records.byteLength; at += slice * recordSize) {
      if (at > 0) await turn();
      const end = Math.min(at + slice * recordSize, records.byteLength);
      feed.checkPositions(records, at, end);
      set.merge(records, at, end);
    }
  }

  private async takeRecords(body: Buffer): Promise<void> {
    if (this.aside) throw new Fault('the node sent records in the middle of a snapshot');
    const f = this.follower;
    const { mark, records } = feed.decodeLog(body, f.at.position + 1);
    const { set } = f.state!.facts;
    await this.merge(set, records);
    set.position = mark.position;
    f.at = { ...f.at, ...mark };
    this.acknowledge();
    f.applied(records);
    this.reach();
  }

  private async takeSnapshot(body: Buffer): Promise<void> {
    if (!this.aside) throw new Fault('the node sent part of a snapshot that it had not announced');
    this.expectWord();
    await this.merge(this.aside.set, feed.decodeRecords(body));
    await turn();
  }

  /** Puts the snapshot in the place of what the verifier had. */
  private takeMark(mark: feed.Mark): void {
    const f = this.follower;
    const { log, epoch } = this.hello;
    if (!this.aside) throw new Fault('the node sent a mark without a snapshot');
    if (f.at.log === log && f.at.epoch === epoch && mark.position < f.at.position) {
      throw new Fault(`the node's log ends at ${mark.position}, before ${f.at.position}, which was applied already`);
    }
    this.aside.set.position = mark.position;
    if (f.at.log !== '' && (f.at.log !== log || f.at.epoch !== epoch)) {
      f.settings.logger.warn('following another log', { log, epoch, position: mark.position, former: f.at });
    }
    f.at = { log, epoch, ...mark };
    f.publish({ ...this.aside, others: f.settings.issuers.list });
    this.aside = undefined;
    this.begin();
  }

  private takePong(p: feed.Pong): void {
    const { at } = this.follower;
    if (this.aside || p.mark.position !== at.position || p.mark.digest !== at.digest) {
      throw new Fault(`the node speaks of position ${p.mark.position} with digest ${p.mark.digest} where ${at.position} with ${at.digest} was applied`);
    }
    if (p.grant > this.lease) throw new Fault(`the node grants ${p.grant} ms, where its leases last ${this.lease} ms`);
    this.expectWord();
    const sent = this.sent.answered(p.stamp);
    if (sent) this.follower.hear(this, p, sent);
  }

  private bye(body: Buffer): Error {
    const { code, detail } = parseJSON(body) as { code?: unknown; detail?: unknown };
    const text = `the node said goodbye: ${code}: ${detail}`;
    return code === 'stopping' && this.begun ? new Stopping(text) : new Bye(text);
  }

  /** Starts the acknowledgements. From here on records may come. */
  private begin(): void {
    this.expectWord();
    this.begun = true;
    this.follower.current = this;
    this.metronome = setInterval(() => this.ping(), beat(this.lease));
    this.acknowledge();
    this.reach();
  }

  /** At the head of the hello, the verifier is in step. */
  private reach(): void {
    if (this.stepped || this.follower.at.position < this.hello.head) return;
    this.stepped = true;
    this.follower.step(this.hello);
  }
}

function unconnected(error: Error & { code?: string }): Error {
  if (error.code === 'WS_ERR_UNSUPPORTED_MESSAGE_LENGTH') return new Fault(`the node sent a message larger than ${feed.maxMessage} octets`);
  if (error.message === 'Opening handshake has timed out') return new Silence();
  return new Error(`connection to the node: ${error.message || error.code}`, { cause: error });
}

function refused(status: number): Error {
  return status === 401 || status === 403
    ? new Refusal(`the node refused the verifier's key with status ${status}: make one with quash key create NAME --verifier`)
    : new Error(`the node answered the upgrade with status ${status}`);
}

function parseJSON(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString());
  } catch (error) {
    throw new Fault(`the node sent a message that is no JSON: ${(error as Error).message}`);
  }
}

function readNames(value: unknown): string[] {
  const list = Array.isArray(value) ? value as unknown[] : [''];
  if (!list.every((name) => typeof name === 'string' && name !== '')) throw new Fault('the node sent claim names that are none');
  return list as string[];
}

function readIssuers(list: unknown): Map<string, number> {
  if (!Array.isArray(list)) throw new Fault("the node's hello has issuers that are no array");
  return new Map(list.map((i: { name?: unknown; max_lifetime?: unknown } | null) => {
    if (!visible(i?.name, 256) || !Number.isSafeInteger(i.max_lifetime)) throw new Fault("the node's hello has an issuer that is none");
    return [i.name, i.max_lifetime as number];
  }));
}

function readHello(body: Buffer): feed.Hello {
  const h = parseJSON(body) as Record<string, unknown>;
  const secret = Buffer.from(String(h['hash_secret']), 'base64');
  const whole = (name: string, least: number, most: number): number => {
    const n = h[name];
    if (Number.isSafeInteger(n) && (n as number) >= least && (n as number) <= most) return n as number;
    throw new Fault(`the node's hello has ${name} ${String(n)}`);
  };
  if (!visible(h['log'], 64)) throw new Fault("the node's hello has no log of 1 to 64 visible ASCII characters");
  if (typeof h['issuer'] !== 'string' || h['issuer'] === '') throw new Fault("the node's hello has no issuer");
  if (secret.length !== 32) throw new Fault(`the node's hello has a hash_secret of ${secret.length} octets, not 32`);
  return {
    log: h['log'], epoch: whole('epoch', 0, Number.MAX_SAFE_INTEGER), head: whole('head', 0, Number.MAX_SAFE_INTEGER), issuer: h['issuer'], secret,
    claims: readNames(h['claims'] ?? []), keys: members(body.toString()).get('keys') ?? '',
    lifetime: whole('max_lifetime', 1, maxLifetime / 1000) * 1000, lease: whole('lease', 1_000, 600_000),
    issuers: readIssuers(h['issuers'] ?? []), resumes: h['resumes'] === true, reason: String(h['reason'] ?? ''),
  };
}
