// Tokens of other issuers, against a node and key servers whose every message is chosen.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ExpiredError, InvalidError, RevokedError, StaleError, Verifier, type Issuer } from '@quash/quash';
import jwt from 'jsonwebtoken';
import { FakeNode, type Peer } from './node.js';
import { forever, mint, recordOf, signer, type Signer } from './tokens.js';

const idp = 'https://idp.example';
const legacy = 'legacy';
const secret = 'a secret of the application, of 32 octets or more';
const known = [{ name: idp, max_lifetime: 86_400 }, { name: legacy, max_lifetime: 86_400 }];

let node: FakeNode;
before(async () => {
  node = await FakeNode.start();
  node.clock.wall = Date.now(); // jsonwebtoken has no clock but the machine's
  node.hello['issuers'] = known;
});
after(() => node.close());

async function trusting(issuers: Issuer[], body: (v: Verifier, peer: Peer) => Promise<void>): Promise<void> {
  const { v, peer } = await node.open({ issuers });
  try {
    await body(v, peer);
  } finally {
    await v.close(AbortSignal.timeout(50)).catch(() => {});
  }
}

const old = (changes: Partial<Issuer> = {}): Issuer => ({ name: legacy, secret, until: new Date(node.clock.wall + 3_600_000), types: ['JWT'], ...changes });
const provider = (keys: Signer, changes: Partial<Issuer> = {}): Issuer => ({ name: idp, keys: { keys: [keys.jwk] }, audience: 'orders', ...changes });
const now = () => Math.floor(node.clock.wall / 1000);
/** A token as an identity provider makes it: without rev. */
const foreign = (key: Signer, claims: object = {}) => mint(key, { iss: idp, rev: undefined, ...claims }, node.clock.wall);

async function eventually(condition: () => boolean, what: string): Promise<void> {
  for (let i = 0; i < 600; i++) {
    if (condition()) return;
    await sleep(5);
  }
  assert.fail(`never: ${what}`);
}

describe('tokens that an application signed itself', () => {
  test('as jsonwebtoken makes them: typ JWT, without iss, sid or aud, until a date', () => trusting([old()], async (v, peer) => {
    const token = jwt.sign({ sub: 'u_7', role: 'admin' }, secret, { expiresIn: '1h' });
    const claims = v.verify(token);
    assert.deepEqual([claims.issuer, claims.subject, claims.session, claims.audience], [legacy, 'u_7', '', []]);
    assert.equal(v.verify(jwt.sign({ sub: 'u_8', iss: legacy }, secret, { expiresIn: '1h' })).subject, 'u_8');
    for (const bad of [
      jwt.sign({ sub: 'u_7' }, `${secret}!`, { expiresIn: '1h' }),
      jwt.sign({ sub: 'u_7' }, secret), // no exp
      jwt.sign({ sub: 'u_7' }, secret, { expiresIn: '25h' }),
      jwt.sign({ sub: 'u_7', aud: 'others' }, secret, { expiresIn: '1h' }),
      jwt.sign({ sub: 'u_7', iss: 'https://issuer.example' }, secret, { expiresIn: '1h' }),
      jwt.sign({ sub: 'u_7', iss: idp }, secret, { expiresIn: '1h' }),
      jwt.sign({ sub: 'u_7' }, secret, { expiresIn: '1h', algorithm: 'HS512' }),
      jwt.sign({ sub: 'u_7' }, '', { expiresIn: '1h', algorithm: 'none' }),
    ]) assert.throws(() => v.verify(bad), InvalidError);
    peer.records(1, recordOf({ issuer: legacy, claim: 'sub', value: 'u_7', position: 1, notBefore: now() }));
    await eventually(() => v.status().position === 1, 'applied');
    assert.throws(() => v.verify(token), RevokedError);
    assert.equal(v.verify(jwt.sign({ sub: 'u_8' }, secret, { expiresIn: '1h' })).subject, 'u_8');
  }));

  test('after the date they have expired, those verified before too', () => trusting([old({ until: new Date(node.clock.wall + 200) })], async (v) => {
    const token = jwt.sign({ sub: 'u_7' }, secret, { expiresIn: '1h' });
    v.verify(token);
    node.clock.wall += 200;
    try {
      assert.throws(() => v.verify(token), ExpiredError);
    } finally {
      node.clock.wall -= 200;
    }
  }));
});

describe('tokens of an identity provider', () => {
  const key = signer('p1');

  test('P6 a revocation kills what was issued until then, and for the skew after; for ever what names a session', () => trusting([provider(key, { skew: 10 })], async (v, peer) => {
    const at = now();
    const issued = (iat: number | undefined, sid = 's_1') => foreign(key, { iat, exp: at + 300, sid });
    peer.records(1, recordOf({ issuer: idp, claim: 'sub', value: 'u_7', position: 1, notBefore: at - 20 }));
    peer.records(2, recordOf({ issuer: idp, claim: 'sid', value: 's_9', position: 2, notBefore: at - 20, before: forever }));
    await eventually(() => v.status().position === 2, 'applied');
    assert.throws(() => v.verify(issued(at - 21)), RevokedError);
    assert.throws(() => v.verify(issued(at - 10)), RevokedError);
    assert.throws(() => v.verify(issued(undefined)), RevokedError);
    assert.throws(() => v.verify(issued(at, 's_9')), RevokedError);
    assert.equal(v.verify(issued(at - 9)).subject, 'u_7');
    assert.equal(v.verify(foreign(key, { sub: 'u_8', iat: undefined, exp: at + 300 })).issuedAt.getTime(), NaN);
    // The same claims of another issuer are others.
    assert.equal(v.verify(mint(node.signer, {}, node.clock.wall)).subject, 'u_7');
  }));

  test('a rev that it carries is not believed', () => trusting([provider(key)], async (v, peer) => {
    peer.records(1, recordOf({ issuer: idp, claim: 'sub', value: 'u_7', position: 1, notBefore: now() }));
    await eventually(() => v.status().position === 1, 'applied');
    assert.throws(() => v.verify(foreign(key, { rev: 2 ** 52 })), RevokedError);
  }));

  test('a key of one issuer never checks a token of another', () => trusting([provider(key)], async (v) => {
    assert.throws(() => v.verify(mint(key, {}, node.clock.wall)), InvalidError);
    assert.throws(() => v.verify(mint(node.signer, { iss: idp }, node.clock.wall)), InvalidError);
    assert.throws(() => v.verify(foreign(key, { iss: 'https://else.example' })), InvalidError);
  }));
});

/** Serves keys, as a listener answers that a test changes. */
async function keyServer(): Promise<{ url: string; answer: (listener: RequestListener) => void; asked: () => number; close: () => void }> {
  let listener: RequestListener = (_, response) => response.writeHead(500).end();
  let asked = 0;
  const server: Server = createServer((request, response) => {
    asked++;
    listener(request, response);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/jwks.json`, asked: () => asked,
    answer: (l) => { listener = l; },
    close: () => {
      server.close();
      server.closeAllConnections();
    },
  };
}

describe('a key set that is published', () => {
  const key = signer('p1');
  const set = (...keys: object[]) => JSON.stringify({ keys });
  const serves = (body: string): RequestListener => (_, response) => response.end(body);

  /** Runs a test against a verifier that follows the keys of a server, and has tried once. */
  const followed = async (first: RequestListener, body: (v: Verifier, server: Awaited<ReturnType<typeof keyServer>>) => Promise<void>) => {
    const server = await keyServer();
    server.answer(first);
    try {
      await trusting([{ name: idp, jwks: server.url, audience: 'orders' }], async (v) => {
        await eventually(() => v.status().issuers[0]!.fetched !== undefined || v.status().issuers[0]!.failure !== '', 'tried');
        await body(v, server);
      });
    } finally {
      server.close();
    }
  };

  const wrong: Record<string, RequestListener> = {
    'status 500': (_, response) => response.writeHead(500).end(),
    'no key': serves(set()),
    'no JSON': serves('<html>'),
    'two keys of one kid': serves(set(key.jwk, key.jwk)),
    'a private key': serves(set({ ...key.jwk, d: 'AA' })),
    'too large': serves(`${set(key.jwk)}${' '.repeat(1 << 20)}`),
    'too many': serves(set(...Array.from({ length: 101 }, (_, n) => ({ ...key.jwk, kid: `k${n}` })))),
    'elsewhere': (_, response) => response.writeHead(302, { Location: 'https://else.example/' }).end(),
    'cut off': (_, response) => response.writeHead(200, { 'Content-Length': 1000 }).write('{', () => response.destroy()),
  };
  for (const [what, answer] of Object.entries(wrong)) {
    test(`that is ${what}: nobody can tell of a token until there is a good one; the node's own are accepted`, () => followed(answer, async (v) => {
      assert.notEqual(v.status().issuers[0]!.failure, '');
      assert.throws(() => v.verify(foreign(key)), StaleError);
      assert.equal(v.verify(mint(node.signer, {}, node.clock.wall)).subject, 'u_7');
    }));

    test(`that becomes ${what}: the last good one stays`, () => followed(serves(set(key.jwk)), async (v, server) => {
      assert.equal(v.verify(foreign(key)).issuer, idp);
      server.answer(answer);
      assert.throws(() => v.verify(foreign(signer('x'))), InvalidError);
      await eventually(() => v.status().issuers[0]!.failure !== '', 'failed');
      assert.equal(v.verify(foreign(key, { sub: 'u_9' })).subject, 'u_9');
    }));
  }

  test('is loaded again for a key that is not there, once, and a key that went checks no more', async () => {
    const next = signer('p2');
    await followed(serves(set(key.jwk)), async (v, server) => {
      const former = foreign(key);
      v.verify(former);
      server.answer(serves(set(next.jwk)));
      assert.throws(() => v.verify(foreign(next)), InvalidError);
      await eventually(() => server.asked() === 2, 'asked again');
      await eventually(() => {
        try {
          return v.verify(foreign(next)).issuer === idp;
        } catch {
          return false;
        }
      }, 'the next key checks');
      assert.throws(() => v.verify(former), InvalidError);
      for (let i = 0; i < 20; i++) assert.throws(() => v.verify(foreign(signer(`x${i}`))), InvalidError);
      await sleep(20);
      assert.equal(server.asked(), 2);
    });
  });
});

/** A node of its own, to which nobody tries to connect yet. */
async function knowing(): Promise<FakeNode> {
  const n = await FakeNode.start();
  n.hello['issuers'] = known;
  n.clock.wall = node.clock.wall;
  return n;
}

test('a node that comes to know an issuer serves; one whose own it is never does', async () => {
  const node = await knowing();
  const signal = AbortSignal.timeout(20_000);
  const opening = Verifier.open(node.config({ issuers: [old()], signal }));
  (await node.peer()).hello({ issuers: [] });
  const peer = await node.peer();
  peer.hello();
  peer.snapshot(0);
  peer.pong(await peer.ping());
  const v = await opening;
  await v.close(AbortSignal.timeout(50)).catch(() => {});
  const wrong = Verifier.open(node.config({ issuers: [old({ name: 'https://issuer.example' })], signal }));
  wrong.catch(() => {});
  (await node.peer()).hello();
  await assert.rejects(wrong, /the node's own/);
  node.close();
});

test('a node that does not know an issuer, or remembers too short, does not serve', async () => {
  for (const issuers of [[old({ name: 'https://stranger.example' })], [old({ maxLifetime: 86_401 })]]) {
    const node = await knowing();
    const opening = Verifier.open(node.config({ issuers, signal: AbortSignal.timeout(300) }));
    opening.catch(() => {});
    (await node.peer()).hello();
    await assert.rejects(opening, /quash issuer add/);
    node.close();
  }
});

test('a configuration that cannot be is refused', async () => {
  const key = signer('p1');
  const wrong: [Issuer[], RegExp][] = [
    [[old({ secret: 'short' })], /32 octets|fewer/],
    [[{ name: legacy, secret }], /until/],
    [[provider(key, { secret, until: new Date() })], /exactly one/],
    [[{ name: idp, jwks: 'http://idp.example/jwks', audience: 'orders' }], /https/],
    [[{ name: idp, jwks: 'https://idp.example/jwks' }], /audience/],
    [[old(), old()], /twice/],
    [[old(), old({ name: 'older' })], /same/],
    [[old({ skew: 0 })], /skew/],
    [[old({ maxLifetime: 1e12 })], /maxLifetime/],
    [[provider(key, { keys: { keys: [] } })], /no key/],
  ];
  for (const [issuers, why] of wrong) await assert.rejects(Verifier.open(node.config({ issuers })), why);
});
