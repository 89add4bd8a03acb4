// The figures that matter, beside jose, in one run: node --expose-gc build/bench/bench.js
import { fork } from 'node:child_process';
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Verifier } from '@quash/quash';
import { RevocationSet } from '#quash/set';
import { importJWK, jwtVerify, SignJWT } from 'jose';
import { WebSocketServer } from 'ws';

const records = 1_000_000;
const issuer = 'https://issuer.example';

/** The median of several rounds, in nanoseconds a call. */
async function rate(calls: number, rounds: number, call: (i: number) => unknown): Promise<number> {
  const took: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const began = performance.now();
    for (let i = 0; i < calls; i++) await call(i);
    took.push((performance.now() - began) * 1e6 / calls);
  }
  return took.sort((a, b) => a - b)[rounds >> 1]!;
}

function rateSync(calls: number, rounds: number, call: (i: number) => unknown): number {
  const took: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const began = performance.now();
    for (let i = 0; i < calls; i++) call(i);
    took.push((performance.now() - began) * 1e6 / calls);
  }
  return took.sort((a, b) => a - b)[rounds >> 1]!;
}

const line = (what: string, figure: string): void => console.log(`${what.padEnd(58)} ${figure.padStart(14)}`);
const mega = (octets: number): string => `${(octets / 1e6).toFixed(1)} MB`;

/** A node that sends a snapshot of so many records to whoever comes, and a new one when it is told. */
async function serve(jwks: object): Promise<void> {
  const wss = new WebSocketServer({ port: 0, host: '127.0.0.1', perMessageDeflate: false });
  await once(wss, 'listening');
  const mark = Buffer.alloc(40);
  mark.writeBigUInt64BE(BigInt(records));
  const parts = Array.from({ length: records / 25_000 }, (_, part) => {
    const b = randomBytes(1 + 25_000 * 40);
    b[0] = 5;
    for (let i = 0; i < 25_000; i++) {
      b.writeBigUInt64BE(BigInt(part * 25_000 + i + 1), 1 + i * 40);
      b.writeBigUInt64BE(BigInt(part * 25_000 + i + 1), 1 + i * 40 + 24);
      b.writeUInt32BE(2 ** 32 - 1, 1 + i * 40 + 36);
    }
    return b;
  });
  wss.on('connection', (ws) => {
    ws.send(Buffer.concat([Buffer.of(1), Buffer.from(JSON.stringify({
      log: 'bench', epoch: 1, head: records, issuer, hash_secret: randomBytes(32).toString('base64'), claims: ['sub', 'sid', 'jti'], keys: jwks,
      max_lifetime: 3_600, lease: 60_000, resumes: false, reason: 'new',
    }))]));
    for (const part of parts) ws.send(part);
    ws.send(Buffer.concat([Buffer.of(6), mark]));
    ws.on('message', (data: Buffer) => {
      if (data[0] !== 16) return;
      const pong = Buffer.alloc(61);
      pong[0] = 7;
      mark.copy(pong, 1);
      data.copy(pong, 41, 9, 17);
      pong.writeBigUInt64BE(BigInt(Date.now()), 49);
      pong.writeUInt32BE(60_000, 57);
      ws.send(pong);
    });
  });
  process.on('message', () => { for (const ws of wss.clients) ws.close(); });
  process.send!((wss.address() as { port: number }).port);
}

/** Finds the longest turn of the event loop, in milliseconds. */
class Turns {
  longest = 0;
  private on = true;

  constructor() {
    let at = performance.now();
    const turn = () => {
      const took = performance.now() - at;
      this.longest = Math.max(this.longest, took);
      at += took;
      if (this.on) setImmediate(turn);
    };
    setImmediate(turn);
  }

  end(): void {
    this.on = false;
  }
}

async function main(): Promise<void> {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const jwk = { ...publicKey.export({ format: 'jwk' }), kid: 'k1', alg: 'ES256', use: 'sig' };
  const mint = (): Promise<string> => new SignJWT({ client_id: 'web', sid: `s_${Math.random()}`, rev: records })
    .setProtectedHeader({ alg: 'ES256', kid: 'k1', typ: 'at+jwt' }).setIssuer(issuer).setAudience('orders').setSubject('u_7')
    .setJti(`${Math.random()}`).setIssuedAt().setExpirationTime('30m').sign(privateKey);
  const headers = await Promise.all(Array.from({ length: 1_000 }, async () => `Bearer ${await mint()}`));

  const set = new RevocationSet();
  const part = randomBytes(25_000 * 40);
  for (let i = 0; i < records / 25_000; i++) {
    randomBytes(part.length).copy(part);
    set.merge(new DataView(part.buffer, part.byteOffset, part.length), 0, part.length);
  }
  line(`${set.size} live revocations (at most 64 MB)`, mega(set.bytes));

  const node = fork(fileURLToPath(import.meta.url), ['node']);
  node.send({ keys: [jwk] });
  const [port] = await once(node, 'message') as [number];
  globalThis.gc?.();
  const idle = new Turns();
  await sleep(500);
  idle.end();
  const first = new Turns();
  const began = performance.now();
  const v = await Verifier.open({ url: `http://127.0.0.1:${port}`, key: 'k', audience: 'orders' });
  line('a snapshot of 1,000,000', `${(performance.now() - began).toFixed(0)} ms`);
  first.end();
  // What blocks by itself blocks each time; what others do to this machine does not.
  const turns = [first];
  for (let i = 0; i < 6; i++) {
    const { since } = v.status();
    const next = new Turns();
    node.send('again');
    while (Number(v.status().lastHeard) <= Number(v.status().since) || Number(v.status().since) === Number(since)) {
      v.verify(headers[0]!.slice(7));
      await sleep(1);
    }
    next.end();
    turns.push(next);
  }
  line('  longest turn of the event loop, the first time', `${first.longest.toFixed(1)} ms`);
  line('  least of six more, while the old set serves (at most 20)', `${Math.min(...turns.slice(1).map((t) => t.longest)).toFixed(1)} ms`);
  line('  and while nothing happens', `${idle.longest.toFixed(1)} ms`);

  // What a server does: the token comes in a string that it has not seen before.
  const fresh = (i: number): string => Buffer.from(headers[i % headers.length]!, 'latin1').toString('latin1').slice(7);
  const uncached = rateSync(1_000, 1, (i) => v.verify(headers[i]!.slice(7)));
  const cached = rateSync(50_000, 9, (i) => v.verify(fresh(i))) - rateSync(50_000, 9, fresh);
  const key = await importJWK(jwk, 'ES256');
  const jose = await rate(500, 5, (i) => jwtVerify(headers[i]!.slice(7), key, { issuer, audience: 'orders', typ: 'at+jwt' }));
  line('verify, the first time (ES256)', `${(uncached / 1e3).toFixed(1)} us`);
  line('verify, a token seen before', `${cached.toFixed(0)} ns`);
  line("jose's jwtVerify (ES256)", `${(jose / 1e3).toFixed(1)} us`);
  line('  times as long as ours (at least 50)', `${(jose / cached).toFixed(0)} x`);
  await v.close();
  node.kill();
}

if (process.argv[2] === 'node') process.once('message', (jwks: object) => void serve(jwks));
else await main();
