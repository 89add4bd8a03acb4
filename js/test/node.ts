/** A node whose every message a test chooses. */
import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Verifier, type Config } from '@quash/quash';
import { WebSocketServer, type WebSocket } from 'ws';
import { issuer, secret, signer } from './tokens.js';

export interface Ping {
  readonly applied: number;
  readonly stamp: bigint;
  readonly routes: number;
  readonly tolerance: number;
}

/** Two clocks that stand still until they are told. */
export class TestClock {
  wall = Date.now();
  mono = 1_000;
  readonly read = () => ({ wall: this.wall, mono: this.mono });

  pass(ms: number): void {
    this.wall += ms;
    this.mono += ms;
  }
}

export class Peer {
  private readonly pings: Ping[] = [];
  private arrived: (() => void) | undefined;
  /** What kinds came, in order. */
  readonly kinds: number[] = [];
  readonly closed: Promise<unknown>;

  constructor(readonly ws: WebSocket, readonly headers: IncomingHttpHeaders, private readonly node: FakeNode) {
    this.closed = once(ws, 'close');
    ws.on('message', (data: Buffer) => {
      this.kinds.push(data[0]!);
      if (data[0] === 16) {
        this.pings.push({
          applied: Number(data.readBigUInt64BE(1)), stamp: data.readBigUInt64BE(9), routes: data.readUInt16BE(17), tolerance: data.readUInt32BE(19),
        });
      }
      this.arrived?.();
    });
  }

  send(kind: number, ...bodies: (Buffer | string)[]): void {
    this.ws.send(Buffer.concat([Buffer.of(kind), ...bodies.map((b) => Buffer.from(b))]));
  }

  hello(changes: object = {}): void {
    this.send(1, JSON.stringify({ ...this.node.hello, ...changes }));
  }

  snapshot(position: number, ...records: Buffer[]): void {
    if (records.length > 0) this.send(5, ...records);
    this.send(6, mark(position));
  }

  records(position: number, ...records: Buffer[]): void {
    this.send(4, mark(position), ...records);
  }

  /** Waits for the next ping. */
  async ping(): Promise<Ping> {
    while (this.pings.length === 0) await new Promise<void>((resolve) => { this.arrived = resolve; });
    return this.pings.shift()!;
  }

  /** Waits for a ping of a position. */
  async acknowledged(position: number): Promise<Ping> {
    for (;;) {
      const p = await this.ping();
      if (p.applied >= position) return p;
    }
  }

  async sent(kind: number): Promise<void> {
    while (!this.kinds.includes(kind)) await new Promise<void>((resolve) => { this.arrived = resolve; });
  }

  pong(p: Ping, grant = 30_000, clock = this.node.clock.wall): void {
    const b = Buffer.alloc(20);
    b.writeBigUInt64BE(p.stamp, 0);
    b.writeBigUInt64BE(BigInt(Math.floor(clock)), 8);
    b.writeUInt32BE(grant, 16);
    this.send(7, mark(p.applied), b);
  }
}

export function mark(position: number): Buffer {
  const b = Buffer.alloc(40);
  b.writeBigUInt64BE(BigInt(position));
  b.fill(position % 251, 8);
  return b;
}

export class FakeNode {
  readonly clock = new TestClock();
  readonly signer = signer('k1');
  hello: Record<string, unknown> = {
    log: 'log-1', epoch: 1, head: 0, issuer, hash_secret: secret.toString('base64'), claims: ['sub', 'sid'], keys: { keys: [this.signer.jwk] },
    max_lifetime: 300, lease: 30_000, resumes: false, reason: 'new',
  };
  /** The status that answers an upgrade; 101 to accept it. */
  status = 101;
  url = '';
  private readonly http = createServer();
  private readonly wss = new WebSocketServer({ noServer: true, perMessageDeflate: false });
  private readonly waiting: Peer[] = [];
  private came: (() => void) | undefined;

  static async start(): Promise<FakeNode> {
    const node = new FakeNode();
    node.http.on('upgrade', (request, socket, head) => {
      if (node.status !== 101) return socket.end(`HTTP/1.1 ${node.status} No\r\nContent-Length: 0\r\n\r\n`);
      node.wss.handleUpgrade(request, socket, head, (ws) => {
        node.waiting.push(new Peer(ws, request.headers, node));
        node.came?.();
      });
    });
    node.http.listen(0, '127.0.0.1');
    await once(node.http, 'listening');
    node.url = `http://127.0.0.1:${(node.http.address() as AddressInfo).port}`;
    return node;
  }

  /** Waits for the next connection. */
  async peer(): Promise<Peer> {
    while (this.waiting.length === 0) await new Promise<void>((resolve) => { this.came = resolve; });
    return this.waiting.shift()!;
  }

  config(changes: Partial<Config> = {}): Config {
    return { url: this.url, key: 'qk_test', audience: 'orders', name: 'test', clock: this.clock.read, ...changes } as Config;
  }

  /** Opens a verifier that has an empty snapshot and a lease. */
  async open(changes: Partial<Config> = {}): Promise<{ v: Verifier; peer: Peer }> {
    const opening = Verifier.open(this.config(changes));
    const peer = await this.peer();
    peer.hello();
    peer.snapshot(0);
    peer.pong(await peer.ping());
    return { v: await opening, peer };
  }

  close(): void {
    for (const ws of this.wss.clients) ws.terminate();
    this.http.close();
    this.http.closeAllConnections();
  }
}
