// The client against a real server, and against one that fails at the worst moments.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, test } from 'node:test';
import { protect, Verifier } from '@quash/quash';
import { Client, memoryStore, RequestFailed, type ClientOptions, type Kept, type Locks, type Store } from '@quash/quash/client';
import { World, type Proxy } from './world.js';

let world: World;
let proxy: Proxy;
let v: Verifier;
let orders: string; // a resource server
const server = createServer((req, res) => protect(v)(req, res, () => {
  let body = '';
  req.on('data', (part) => { body += part; }).on('end', () => res.end(`${req.auth!.subject}:${body}`));
}));

before(async () => {
  world = await World.start(['--lease', '5s']);
  await world.account('ada', { name: 'ada', password: 'a long password of ada' });
  await world.account('bob', { name: 'bob', password: 'a long password of bob' });
  v = await Verifier.open({ url: (proxy = await world.proxy()).url, key: await world.verifierKey('orders'), signal: AbortSignal.timeout(10_000) });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  orders = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
after(async () => {
  server.close();
  server.closeAllConnections();
  await v?.close(AbortSignal.timeout(500)).catch(() => {});
  proxy?.close();
  await world?.stop();
});

/** A store that several clients share as tabs share localStorage, each told what others set. */
function tabs(): () => Store {
  let kept: string | undefined;
  const listeners: { by: object; tell: () => void }[] = [];
  return () => {
    const by = {};
    return {
      get: () => kept === undefined ? undefined : JSON.parse(kept) as Kept,
      set: (value) => {
        kept = value && JSON.stringify(value);
        for (const l of listeners) if (l.by !== by) setImmediate(l.tell);
      },
      subscribe: (tell) => listeners.push({ by, tell }),
    };
  };
}

/** What navigator.locks does, for tabs of one process. */
function webLocks(): Locks {
  let tail: Promise<unknown> = Promise.resolve();
  return {
    request(_, callback) {
      const turn = tail.then(callback, callback);
      tail = turn.catch(() => {});
      return turn;
    },
  };
}

interface Made {
  client: Client;
  sent: { path: string; key: string | null }[];
  out: () => number;
}

/** Makes a client whose requests are counted, and pass through a filter. */
function make(options: Partial<ClientOptions> = {}, filter: (path: string, go: () => Promise<Response>) => Promise<Response> = (_, go) => go()): Made {
  const sent: Made['sent'] = [];
  let out = 0;
  const client = new Client({
    url: world.public, origins: [orders], onSignedOut: () => { out++; }, ...options,
    fetch: (input, init) => {
      const request = new Request(input, init);
      const path = new URL(request.url).pathname;
      sent.push({ path, key: request.headers.get('Idempotency-Key') });
      return filter(path, () => fetch(request));
    },
  });
  return { client, sent, out: () => out };
}

const ada = { name: 'ada', password: 'a long password of ada' };
const count = (m: Made[], path: string) => m.flatMap((made) => made.sent).filter((s) => s.path === path).length;

/** Kills the access token that a client has, as a change of claims does: it has to refresh. */
const kill = () => world.revoke('sub', 'ada');

test('a request carries the token, and one that is refused refreshes and is sent again with its body', async () => {
  const made = make();
  await made.client.login(ada);
  assert.equal(await (await made.client.fetch(orders, { method: 'POST', body: 'x' })).text(), 'ada:x');
  await kill();
  assert.equal(await (await made.client.fetch(orders, { method: 'POST', body: 'y' })).text(), 'ada:y');
  assert.equal(count([made], '/v1/refresh'), 1);
  assert.match(made.sent.find((s) => s.path === '/v1/refresh')!.key!, /^"[0-9a-f]{32}"$/);
});

test('P10 parallel requests in several tabs refresh once', async () => {
  const store = tabs();
  const locks = webLocks();
  const made = [make({ store: store(), locks }), make({ store: store(), locks }), make({ store: store(), locks })];
  await made[0]!.client.login(ada);
  await kill();
  const answers = await Promise.all(made.flatMap(({ client }) => Array.from({ length: 10 }, () => client.fetch(orders))));
  assert.deepEqual(answers.map((a) => a.status), Array(30).fill(200));
  assert.equal(count(made, '/v1/refresh'), 1);
});

test('an answer that was lost is had again with the same Idempotency-Key, also by another tab, and signs nobody out', async () => {
  const store = tabs();
  let lose = true;
  const first = make({ store: store(), locks: webLocks() }, async (path, go) => {
    const response = await go();
    if (path === '/v1/refresh' && lose) throw new TypeError('the answer was lost');
    return response;
  });
  await first.client.login(ada);
  await kill();
  await assert.rejects(first.client.fetch(orders), (e) => e instanceof RequestFailed && e.status === 0);
  assert.ok(first.client.signedIn);
  lose = false;
  const second = make({ store: store(), locks: webLocks() });
  assert.equal((await second.client.fetch(orders)).status, 200);
  const keys = [first, second].map((m) => m.sent.find((s) => s.path === '/v1/refresh')!.key);
  assert.equal(keys[0], keys[1]);
  assert.equal(first.out() + second.out(), 0);
});

test('a 503 leaves the tokens alone, of a resource and of the refresh', async () => {
  let down = false;
  const made = make({}, (path, go) => down && path === '/v1/refresh' ? Promise.resolve(Response.json({ code: 'unavailable', detail: 'x' }, { status: 503 })) : go());
  await made.client.login(ada);
  const busy = createServer((_, res) => res.writeHead(503).end()).listen(0, '127.0.0.1');
  await once(busy, 'listening');
  const origin = `http://127.0.0.1:${(busy.address() as AddressInfo).port}`;
  const other = make({ origins: [origin] });
  await other.client.login(ada);
  assert.equal((await other.client.fetch(origin)).status, 503);
  assert.deepEqual(other.sent.map((s) => s.path), ['/v1/login', '/']);
  busy.close();
  await kill();
  down = true;
  await assert.rejects(made.client.fetch(orders), (e) => e instanceof RequestFailed && e.status === 503);
  assert.ok(made.client.signedIn);
  down = false;
  assert.equal((await made.client.fetch(orders)).status, 200);
});

test('one retry: a 401 that stays is the caller\'s, and the session goes on', async () => {
  const grumpy = createServer((_, res) => res.writeHead(401).end()).listen(0, '127.0.0.1');
  await once(grumpy, 'listening');
  const origin = `http://127.0.0.1:${(grumpy.address() as AddressInfo).port}`;
  const made = make({ origins: [origin] });
  await made.client.login(ada);
  assert.equal((await made.client.fetch(origin)).status, 401);
  assert.deepEqual(made.sent.map((s) => s.path), ['/v1/login', '/', '/v1/refresh', '/']);
  assert.ok(made.client.signedIn);
  grumpy.close();
});

test('only invalid_grant signs out, in every tab, once', async () => {
  const store = tabs();
  const locks = webLocks();
  const made = [make({ store: store(), locks }), make({ store: store(), locks })];
  await made[0]!.client.login(ada);
  const sid = JSON.parse(Buffer.from(((await sniff(made[0]!)).split('.')[1])!, 'base64url').toString()).sid as string;
  await world.admin('DELETE', `sessions/${sid}`);
  const answers = await Promise.all(made.map(({ client }) => client.fetch(orders)));
  assert.deepEqual(answers.map((a) => a.status), [401, 401]);
  assert.equal(count(made, '/v1/refresh'), 1);
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.ok(made.every(({ client }) => !client.signedIn));
  assert.equal(made[0]!.out(), 1);
});

/** The access token that a client sends. */
async function sniff({ client }: Made): Promise<string> {
  let seen = '';
  const spy = createServer((req, res) => {
    seen = req.headers.authorization ?? '';
    res.end();
  }).listen(0, '127.0.0.1');
  await once(spy, 'listening');
  const origin = `http://127.0.0.1:${(spy.address() as AddressInfo).port}`;
  (client as unknown as { origins: Set<string> }).origins.add(origin);
  await client.fetch(origin);
  spy.close();
  return seen.slice('Bearer '.length);
}

test('P9 a late answer of a refresh or a login never brings back who signed out', async () => {
  for (const slow of ['/v1/refresh', '/v1/login']) {
    let release!: () => void;
    const held = new Promise<void>((resolve) => { release = resolve; });
    let reached!: () => void;
    const reaches = new Promise<void>((resolve) => { reached = resolve; });
    let armed = slow === '/v1/login';
    const made = make({ store: memoryStore() }, async (path, go) => {
      const response = await go();
      if (path === slow && armed) {
        reached();
        await held;
      }
      return response;
    });
    const login = made.client.login(ada);
    let late: Promise<unknown> = login;
    if (slow === '/v1/refresh') {
      await login;
      await kill();
      armed = true;
      late = made.client.fetch(orders);
    }
    await reaches;
    await made.client.logout();
    release();
    await late;
    assert.ok(!made.client.signedIn, slow);
    assert.equal((await made.client.fetch(orders)).status, 401);
  }
});

test('who signs in as somebody else meanwhile does not repeat what another sent', async () => {
  const made = make();
  await made.client.login(ada);
  await kill();
  const slow = make({ store: (made.client as unknown as { store: Store }).store }, async (path, go) => {
    const response = await go();
    if (path === '/') {
      await made.client.logout();
      await made.client.login({ name: 'bob', password: 'a long password of bob' });
    }
    return response;
  });
  assert.equal((await slow.client.fetch(orders, { method: 'POST', body: 'of ada' })).status, 401);
  assert.equal(count([slow], '/'), 1);
});

test('tokens go to no other origin', async () => {
  const made = make({ origins: [] });
  await made.client.login(ada);
  assert.equal((await made.client.fetch(orders)).status, 401);
  assert.ok(made.client.signedIn);
});

test('a password change goes on with new tokens, and ends the others', async () => {
  const bob = { name: 'bob', password: 'a long password of bob' };
  const [one, other] = [make(), make()];
  await one.client.login(bob);
  await other.client.login(bob);
  await one.client.changePassword(bob.password, 'another long password');
  assert.equal((await one.client.fetch(orders)).status, 200);
  assert.equal((await other.client.fetch(orders)).status, 401);
  assert.ok(one.client.signedIn && !other.client.signedIn);
});
