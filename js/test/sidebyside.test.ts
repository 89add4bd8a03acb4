// The Go verifier and this one, beside each other on a real server: every answer is compared.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { protect, QuashError, Verifier } from '@quash/quash';
import { eventually, goVerifier, World, type Proxy } from './world.js';

/** Both verifiers, and what asks them. */
class Pair {
  private constructor(readonly node: Verifier, readonly urls: readonly [string, string], readonly close: () => Promise<void>) {}

  static async open(url: string, key: string): Promise<Pair> {
    const [go, node] = await Promise.all([goVerifier(url, key), Verifier.open({ url, key, name: 'node', signal: AbortSignal.timeout(10_000) })]);
    const routes = new Map([['/strict', protect(node)], ['/tolerant', protect(node, { acceptStale: 3_600 })]]);
    const server = createServer((req, res) => routes.get(req.url!)!(req, res, () => res.end(req.auth!.subject)));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return new Pair(node, [go.url, `http://127.0.0.1:${(server.address() as AddressInfo).port}`], async () => {
      server.close();
      await Promise.all([go.stop(), node.close(AbortSignal.timeout(1_000)).catch(() => {})]);
    });
  }

  /** What both say of tokens, at about the same moment. */
  async ask(tokens: string[]): Promise<[string[], string[]]> {
    const go = fetch(`${this.urls[0]}/verify`, { method: 'POST', body: JSON.stringify(tokens) }).then((r) => r.json() as Promise<string[]>);
    return [await go, tokens.map((t) => this.verdict(t))];
  }

  private verdict(token: string): string {
    try {
      this.node.verify(token);
      return 'valid';
    } catch (error) {
      return error instanceof QuashError ? error.code : String(error);
    }
  }

  /** Both say so, now. */
  async both(token: string, want: string): Promise<void> {
    assert.deepEqual(await this.ask([token]), [[want], [want]]);
  }

  /** Both come to say so, who may be stale for a moment where the machine has more to do than it can. */
  async come(tokens: string[], want: string[]): Promise<void> {
    let got: unknown;
    await eventually(async () => {
      got = await this.ask(tokens);
      return isDeepStrictEqual(got, [want, want]);
    }, 'both agree').catch(() => assert.deepEqual(got, [want, want]));
  }

  lives(token: string): Promise<void> {
    return this.come([token], ['valid']);
  }

  /** Neither accepts the token from now on, and both come to say why. */
  async dead(token: string): Promise<void> {
    const verdicts = (await this.ask([token])).flat();
    assert.ok(!verdicts.includes('valid'), verdicts.join());
    await this.come([token], ['revoked']);
  }

  /** The answers of both to a request, as far as they should be the same. */
  async answers(path: string, status: number, headers: string[]): Promise<void> {
    let got: Answer[] = [];
    await eventually(async () => {
      got = await Promise.all(this.urls.map((url) => answer(url + path, ['Host', 'localhost', ...headers])));
      return got.every((a) => a.status === status);
    }, 'both answer so', 5_000).catch(() => {});
    assert.deepEqual(got[1], got[0], `${path} with ${headers.join(' ').slice(0, 60)}`);
    assert.equal(got[1]!.status, status, headers.join(' ').slice(0, 60));
  }
}

interface Answer {
  readonly status: number | undefined;
  readonly headers: unknown[];
  readonly body: string;
}

function answer(url: string, headers: string[]): Promise<Answer> {
  const compared = ['www-authenticate', 'retry-after', 'quash-stale', 'cache-control'];
  return new Promise((resolve, reject) => {
    request(url, { headers: headers as never }, (res) => {
      const type = res.headers['content-type'];
      let body = '';
      res.on('data', (part) => { body += part; }).on('end', () => resolve({
        status: res.statusCode, headers: [...compared.map((name) => res.headers[name]), type?.includes('problem') ? type : ''], body,
      }));
    }).on('error', reject).end();
  });
}

let world: World;
let proxy: Proxy;
let pair: Pair;
let key: string;
let early: string; // a token of before the first test

before(async () => {
  world = await World.start(['--lease', '3s', '--token-lifetime', '20s']);
  proxy = await world.proxy();
  key = await world.verifierKey('pair');
  for (const subject of ['ada', 'bob', 'cyd', 'dan', 'eve']) {
    await world.account(subject, { claims: { tenant: subject === 'eve' ? 'acme' : 'other', roles: ['reader', subject], level: 3 } });
  }
  pair = await Pair.open(proxy.url, key);
  early = await live('bob');
});
after(async () => {
  await pair?.close();
  proxy?.close();
  await world?.stop();
});

const live = async (subject = 'ada', device = {}) => (await world.open(subject, device)).access_token;
const claims = (token: string) => JSON.parse(Buffer.from(token.split('.')[1]!, 'base64url').toString()) as Record<string, string>;

test('tokens of every kind, good and bad', async () => {
  const good = await live();
  await pair.lives(good);
  const file = JSON.parse(readFileSync(new URL('../../../testdata/vectors/tokens.json', import.meta.url), 'utf8')) as { vectors: { token: string }[] };
  const [header, payload, signature] = good.split('.') as [string, string, string];
  const mutations = Array.from(good, (c, i) => `${good.slice(0, i)}${c === 'A' ? 'B' : 'A'}${good.slice(i + 1)}`);
  const changed = { ...claims(good), sub: 'eve' };
  const forged = `${header}.${Buffer.from(JSON.stringify(changed)).toString('base64url')}.${signature}`;
  const odd = ['', '.', '..', `${header}.${payload}`, `${good}.`, `${good}=`, ` ${good}`, forged, 'A'.repeat(8193)];
  const tokens = [...file.vectors.map((v) => v.token), ...mutations, ...odd];
  await pair.come(tokens, tokens.map(() => 'invalid'));
});

test('P4 a revocation that was confirmed holds at both, whatever it names; others live', async () => {
  const other = await live('bob');
  for (const [subject, claim, value] of [
    ['cyd', 'sid', (t) => claims(t)['sid']!], ['cyd', 'jti', (t) => claims(t)['jti']!], ['cyd', 'sub', () => 'cyd'], ['dan', 'client_id', () => 'phone'],
    ['eve', 'tenant', () => 'acme'], ['dan', 'roles', () => 'dan'],
  ] as [string, string, (t: string) => string][]) {
    const token = await live(subject, { client: subject === 'dan' ? 'phone' : 'web' });
    await pair.lives(token);
    assert.ok(await world.revoke(claim, value(token)), `${claim} is confirmed`);
    await pair.dead(token);
    await pair.lives(other);
  }
  await pair.lives(await live('cyd'));
});

test('answers over HTTP are the same to the letter', async () => {
  const good = await live();
  const dead = await live('bob');
  await world.revoke('jti', claims(dead)['jti']!);
  const header = (value: string) => ['Authorization', value];
  const cases: [number, ...string[]][] = [
    [200, ...header(`Bearer ${good}`)], [200, 'authorization', `bearer   ${good}`],
    [401], [401, ...header('')], [401, ...header('Basic YTpi')], [401, ...header(`BearerX ${good}`)],
    [401, ...header(`Bearer ${dead}`)], [401, ...header('Bearer nonsense')],
    [400, ...header('Bearer')], [400, ...header('Bearer a b')], [400, ...header('Bearer non,sense')], [400, ...header(`Bearer ${good}`), ...header(`Bearer ${good}`)],
  ];
  for (const [status, ...headers] of cases) {
    await pair.answers('/strict', status, headers);
  }
});

for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
  test(`the server ends by ${signal} and comes back`, async () => {
    const token = await live('bob');
    const dead = await live('bob');
    await world.revoke('jti', claims(dead)['jti']!);
    await world.end(signal);
    await pair.dead(dead);
    await pair.both(token, 'valid'); // by the lease
    await world.serve();
    await pair.lives(token);
    await pair.dead(dead);
    const next = await live('bob');
    await pair.lives(next);
    assert.ok(await world.revoke('jti', claims(next)['jti']!));
    await pair.dead(next);
  });
}

test('P5 cut off, both refuse when the lease has ended, but for routes that bear it; and catch up', async () => {
  const token = await live('bob');
  const victim = await live('bob');
  await pair.lives(victim);
  proxy.cut();
  // Confirmed by the end of the leases: no verifier accepts it any more, though none was told.
  assert.ok(await world.revoke('jti', claims(victim)['jti']!));
  await pair.both(victim, 'stale');
  await pair.both(token, 'stale');
  await pair.both('nonsense', 'invalid');
  await pair.answers('/strict', 503, ['Authorization', `Bearer ${token}`]);
  const borne = await fetch(`${pair.urls[1]}/tolerant`, { headers: { Authorization: `Bearer ${token}` } });
  assert.equal(borne.status, 200);
  assert.match(borne.headers.get('Quash-Stale')!, /^[0-9]+$/);
  assert.equal((await fetch(`${pair.urls[0]}/tolerant`, { headers: { Authorization: `Bearer ${token}` } })).status, 200);
  proxy.restore();
  await pair.lives(token);
  await pair.dead(victim);
});

test('a server that is stopped and goes on', async () => {
  const token = await live('bob');
  await pair.lives(token);
  world.pause();
  await pair.come([token], ['stale']);
  world.resume();
  await pair.lives(token);
});

test('verifiers that come later get a snapshot, and say the same', async () => {
  const later = await Pair.open(proxy.url, key);
  try {
    const dead = await live('bob');
    await world.revoke('jti', claims(dead)['jti']!);
    const tokens = [dead, await live('eve'), await live('cyd')];
    for (const p of [pair, later]) await p.come(tokens, ['revoked', 'valid', 'valid']);
    assert.deepEqual([later.node.status().position, later.node.status().revocations], [pair.node.status().position, pair.node.status().revocations]);
  } finally {
    await later.close();
  }
});

test('a token that expires', async () => {
  await sleep(Number(claims(early)['exp']) * 1000 - Date.now() + 5);
  await pair.come([early], ['expired']);
});

test('a signing key that is revoked, and the one that takes its place', async () => {
  const old = await live('bob');
  await pair.lives(old);
  const kid = (token: string) => (JSON.parse(Buffer.from(token.split('.')[0]!, 'base64url').toString()) as { kid: string }).kid;
  assert.ok(await world.revoke('kid', kid(old)));
  await pair.both(old, 'invalid');
  const next = await live('bob');
  assert.notEqual(kid(next), kid(old));
  await pair.lives(next);
});
