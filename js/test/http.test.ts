import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { notify, protect, type Verifier } from '@quash/quash';
import express from 'express';
import express4 from 'express4';
import { FakeNode, type Peer } from './node.js';
import { forever, mint, record } from './tokens.js';

let node: FakeNode;
let v: Verifier;
let peer: Peer;
before(async () => {
  node = await FakeNode.start();
  ({ v, peer } = await node.open());
});
after(async () => {
  await v.close(AbortSignal.timeout(50)).catch(() => {});
  node.close();
});

const token = (claims = {}) => mint(node.signer, claims, node.clock.wall);

async function serving(listener: RequestListener, body: (url: string) => Promise<void>): Promise<void> {
  const server = createServer(listener).listen(0, '127.0.0.1');
  await once(server, 'listening');
  try {
    await body(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  } finally {
    server.close();
    server.closeAllConnections();
  }
}

const get = (url: string, bearer?: string) => fetch(url, bearer === undefined ? {} : { headers: { Authorization: `Bearer ${bearer}` } });

function app(framework: typeof express): RequestListener {
  const app = framework();
  app.use('/orders', protect(v));
  app.get('/orders', (req, res) => { res.send(`the orders of ${req.auth?.subject}`); });
  app.get('/news', protect(v, { acceptStale: 60 }), (req, res) => { res.json(req.auth?.decode()); });
  return app;
}

const plain: RequestListener = (() => {
  let strict: ReturnType<typeof protect> | undefined;
  let tolerant: ReturnType<typeof protect> | undefined;
  return (req, res) => {
    strict ??= protect(v);
    tolerant ??= protect(v, { acceptStale: 60 });
    if (req.url === '/orders') strict(req, res, () => res.end(`the orders of ${req.auth?.subject}`));
    else tolerant(req, res, () => res.end(JSON.stringify(req.auth?.decode())));
  };
})();

for (const [name, listener] of [['Express 5', () => app(express)], ['Express 4', () => app(express4 as typeof express)], ['plain http', () => plain]] as const) {
  test(`${name}: a request with an accepted token has its claims, others are answered`, () => serving(listener(), async (url) => {
    const good = await get(`${url}/orders`, token());
    assert.deepEqual([good.status, await good.text()], [200, 'the orders of u_7']);
    const none = await get(`${url}/orders`);
    assert.deepEqual([none.status, none.headers.get('WWW-Authenticate')], [401, 'Bearer realm="quash"']);
    const bad = await get(`${url}/orders`, 'x.y.z');
    assert.equal(bad.status, 401);
    assert.match(bad.headers.get('WWW-Authenticate')!, /error="invalid_token"/);
    assert.equal((await bad.json() as { type: string }).type, 'urn:quash:problem:invalid-token');
    const odd = await get(`${url}/orders`, 'two words');
    assert.deepEqual([odd.status, (await odd.json() as { type: string }).type], [400, 'urn:quash:problem:invalid-request']);
  }));
}

test('a stale verifier: 503 with Retry-After, but on routes that bear it, for as long as they do; and they are counted', () => serving(app(express), async (url) => {
  const { tolerantRoutes, toleranceSeconds } = v.status();
  assert.ok(tolerantRoutes > 0);
  assert.equal(toleranceSeconds, 60);
  peer.records(1, record(1, 'sub', 'nobody'));
  const ping = await peer.acknowledged(1);
  assert.ok(ping.routes > 0 && ping.tolerance === 60);
  peer.pong(ping);
  await new Promise((resolve) => setTimeout(resolve, 20));
  const t = mint(node.signer, {}, node.clock.wall + 30_000);
  node.clock.pass(30_000 + 5_900);
  const strict = await get(`${url}/orders`, t);
  assert.deepEqual([strict.status, strict.headers.get('Retry-After'), (await strict.json() as { type: string }).type], [503, '2', 'urn:quash:problem:stale']);
  const borne = await get(`${url}/news`, t);
  assert.deepEqual([borne.status, borne.headers.get('Quash-Stale')], [200, '5']);
  assert.equal(v.status().acceptedStale, 1);
  node.clock.pass(54_100);
  assert.equal((await get(`${url}/news`, t)).status, 503);
  // Fresh again, for the tests that follow.
  peer.records(2, record(2, 'sub', 'nobody'));
  peer.pong(await peer.acknowledged(2));
  for (let i = 0; v.status().stale !== '' && i < 100; i++) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.equal((await get(`${url}/orders`, t)).status, 200);
}));

describe('notify', () => {
  test('an event stream ends with its token, and what it held is released when the response is over', () => serving((req, res) => protect(v)(req, res, () => {
    res.write('data: hello\n\n');
    notify(req).addEventListener('abort', function () {
      res.end(`event: end\ndata: ${(this.reason as Error).name}\n\n`);
    });
  }), async (url) => {
    const response = await get(url, token({ sid: 's_stream' }));
    const text = response.text();
    peer.records(3, record(3, 'sid', 's_stream', forever));
    assert.match(await text, /data: RevokedError/);
  }));

  test('health says how it stands', () => serving(v.health(), async (url) => {
    const response = await fetch(url);
    assert.equal(response.status, 200);
    const status = await response.json() as Record<string, unknown>;
    assert.equal(status['log'], 'log-1');
    assert.equal(status['tolerance_seconds'], 60);
  }));

  test('metrics say the same to Prometheus, under the names of the verifier in Go', () => serving(v.metrics(), async (url) => {
    const text = await (await fetch(url)).text();
    const names = [...text.matchAll(/^quash_verifier_(\w+) [\d.]+$/gm)].map((m) => m[1]);
    const inGo = readFileSync(new URL('../../../health.go', import.meta.url), 'utf8').matchAll(/^\t\t\t\{"(\w+)", "(?:gauge|counter)"/gm);
    assert.deepEqual(names, [...inGo].map((m) => m[1]));
    assert.match(text, /^quash_verifier_connected 1$/m);
  }));
});
