// What the follower promises, against a node whose every message is chosen.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ExpiredError, InvalidError, RevokedError, StaleError, Verifier } from '@quash/quash';
import { FakeNode, mark, type Peer } from './node.js';
import { forever, mint, record, signer } from './tokens.js';

let node: FakeNode;
before(async () => { node = await FakeNode.start(); });
after(() => node.close());

/** Runs a test against a verifier of its own. */
async function following(body: (v: Verifier, peer: Peer) => Promise<void>): Promise<void> {
  const { v, peer } = await node.open();
  try {
    await body(v, peer);
  } finally {
    await v.close(AbortSignal.timeout(50)).catch(() => {});
  }
}

const token = (claims: object = {}) => mint(node.signer, claims, node.clock.wall);

/** Waits until a condition holds. */
async function eventually(condition: () => boolean, what: string): Promise<void> {
  for (let i = 0; i < 500; i++) {
    if (condition()) return;
    await sleep(5);
  }
  assert.fail(`never: ${what}`);
}

const staleSoon = (v: Verifier, why: RegExp) => eventually(() => why.test(v.status().stale), `stale because ${why}`);

describe('start', () => {
  test('P7 nothing is accepted before the snapshot is complete and a lease is granted: open waits for both', async () => {
    let opened = false;
    const opening = Verifier.open(node.config()).then((v) => {
      opened = true;
      return v;
    });
    const peer = await node.peer();
    peer.hello({ head: 3 });
    peer.send(5, record(1, 'sub', 'u_1'));
    await sleep(20);
    peer.send(6, mark(2));
    peer.pong(await peer.acknowledged(2));
    await sleep(20);
    assert.ok(!opened, 'ready below the head of the hello');
    peer.records(3, record(3, 'sub', 'u_3'));
    const ping = await peer.acknowledged(3);
    await sleep(20);
    peer.pong(ping);
    const v = await opening;
    assert.throws(() => v.verify(token({ sub: 'u_3' })), RevokedError);
    await v.close(AbortSignal.timeout(50)).catch(() => {});
  });

  test('open gives up when its signal aborts, and says why', async () => {
    await assert.rejects(Verifier.open(node.config({ signal: AbortSignal.timeout(50), url: 'http://127.0.0.1:9' })), /not ready yet.*ECONNREFUSED/);
  });

  test('open fails at once where the node refuses the key, or serves another issuer', async () => {
    node.status = 401;
    await assert.rejects(Verifier.open(node.config()), /refused the verifier's key with status 401/);
    node.status = 101;
    const opening = Verifier.open(node.config({ issuer: 'https://other.example' }));
    opening.catch(() => {});
    (await node.peer()).hello();
    await assert.rejects(opening, /serves issuer "https:\/\/issuer.example"/);
  });

  test('a configuration that is not safe is refused', async () => {
    await assert.rejects(Verifier.open(node.config({ url: 'http://quash.internal:8081' })), /unencrypted/);
    await assert.rejects(Verifier.open(node.config({ url: 'ftp://127.0.0.1' })), TypeError);
    await assert.rejects(Verifier.open(node.config({ key: '' })), TypeError);
    await assert.rejects(Verifier.open(node.config({ name: 'two words' })), TypeError);
  });
});

describe('revocations', () => {
  test('a record kills what was issued before it, and is acknowledged only once it does', () => following(async (v, peer) => {
    const old = token({ rev: 0 });
    const fresh = token({ rev: 1 });
    v.verify(old);
    peer.records(1, record(1, 'sub', 'u_7'));
    await peer.acknowledged(1);
    assert.throws(() => v.verify(old), RevokedError);
    assert.equal(v.verify(fresh).subject, 'u_7');
  }));

  test('for ever kills whatever rev says', () => following(async (v, peer) => {
    peer.records(1, record(1, 'sid', 's_81', forever));
    await peer.acknowledged(1);
    assert.throws(() => v.verify(token({ rev: 2 ** 53 - 1 })), RevokedError);
  }));

  test('a signal of notify aborts with the record, not with others, and at the end of the token', () => following(async (v, peer) => {
    const one = v.notify(v.verify(token({ sid: 's_1', sub: 'u_1' })));
    const other = v.notify(v.verify(token({ sid: 's_2', sub: 'u_2' })));
    const short = v.notify(v.verify(token({ sid: 's_3', sub: 'u_3', exp: Math.floor(node.clock.wall / 1000) + 1 })));
    peer.records(1, record(1, 'sid', 's_1', forever));
    await peer.acknowledged(1);
    assert.ok(one.reason instanceof RevokedError);
    assert.ok(!other.aborted && !short.aborted);
    node.clock.pass(1_000);
    peer.pong(await (peer.records(2, record(2, 'sid', 's_9')), peer.acknowledged(2)));
    await eventually(() => short.aborted, 'the short token ends');
    assert.ok(short.reason instanceof ExpiredError);
    assert.ok(!other.aborted);
  }));

  test('a token seen before is looked at afresh when a claim name comes into use', () => following(async (v, peer) => {
    const t = token({ tenant: 'acme' });
    const signal = v.notify(v.verify(t));
    peer.send(2, JSON.stringify(['sub', 'sid', 'tenant']));
    peer.records(1, record(1, 'tenant', 'acme'));
    await peer.acknowledged(1);
    assert.throws(() => v.verify(t), RevokedError);
    assert.ok(signal.reason instanceof RevokedError);
  }));

  test('a token seen before is refused when its key is gone, and one of a new key is accepted', () => following(async (v, peer) => {
    const t = token();
    v.verify(t);
    const next = signer('k2');
    peer.send(3, JSON.stringify({ keys: [next.jwk] }));
    await eventually(() => { try { v.verify(t); return false; } catch (e) { return e instanceof InvalidError; } }, 'the old key is refused');
    v.verify(mint(next, {}, node.clock.wall));
  }));

  test('expiry and revocation are asked of a cached token each time', () => following(async (v) => {
    const t = token({ exp: Math.floor(node.clock.wall / 1000) + 2 });
    v.verify(t);
    assert.equal(v.verify(t), v.verify(t));
    node.clock.pass(2_000);
    assert.throws(() => v.verify(t), ExpiredError);
  }));
});

describe('leases', () => {
  test('P5 the lease counts from the sending of the ping, and the verifier is stale when it has ended', async () => {
    const opening = Verifier.open(node.config());
    const peer = await node.peer();
    peer.hello();
    peer.snapshot(0);
    const ping = await peer.ping();
    node.clock.pass(9_000);
    peer.pong(ping, 20_000);
    const v = await opening;
    const t = token();
    v.verify(t);
    node.clock.pass(10_999);
    v.verify(t);
    node.clock.pass(1);
    assert.throws(() => v.verify(t), StaleError);
    assert.throws(() => v.verify(mint(signer('k9'), {}, node.clock.wall)), StaleError);
    assert.throws(() => v.verify(token({ aud: 'other' })), InvalidError);
    assert.equal(v.status().accepting, false);
    peer.records(1, record(1, 'sub', 'x'));
    peer.pong(await peer.acknowledged(1), 30_000);
    await eventually(() => v.status().stale === '', 'fresh again');
    v.verify(t);
    await v.close(AbortSignal.timeout(50)).catch(() => {});
  });

  test('a sleep or a step of the wall clock voids the lease', () => following(async (v, peer) => {
    node.clock.wall += 751;
    assert.throws(() => v.verify(token()), StaleError);
    peer.records(1, record(1, 'sub', 'x'));
    peer.pong(await peer.acknowledged(1));
    await eventually(() => v.status().stale === '', 'fresh again');
  }));

  test('a clock that is more than 10 s off the node makes stale', () => following(async (v, peer) => {
    peer.records(1, record(1, 'sub', 'x'));
    peer.pong(await peer.acknowledged(1), 30_000, node.clock.wall - 10_001);
    await staleSoon(v, /more than 10 s off/);
    peer.records(2, record(2, 'sub', 'y'));
    peer.pong(await peer.acknowledged(2), 30_000, node.clock.wall - 9_999);
    await eventually(() => v.status().stale === '', 'fresh again');
  }));

  test('signals of notify abort when the lease ends by itself', async () => {
    const opening = node.open();
    const { v, peer } = await opening;
    peer.records(1, record(1, 'sub', 'x'));
    await peer.acknowledged(1);
    node.clock.pass(29_980);
    const signal = v.notify(v.verify(token()));
    // The alarm was set for the whole lease of a clock that stood still: the next look at the clocks finds it.
    node.clock.pass(20);
    await eventually(() => signal.aborted, 'aborted');
    assert.ok(signal.reason instanceof StaleError);
    await v.close(AbortSignal.timeout(50)).catch(() => {});
  });
});

describe('connections', () => {
  test('P3 a verifier resumes with what it has, and loses nothing', () => following(async (v, first) => {
    first.records(1, record(1, 'sub', 'u_1'));
    await first.acknowledged(1);
    first.ws.terminate();
    const peer = await node.peer();
    assert.equal(peer.headers['quash-process'], first.headers['quash-process']);
    assert.deepEqual(
      ['log', 'epoch', 'position', 'digest'].map((name) => peer.headers[`quash-${name}`]),
      ['log-1', '1', '1', mark(1).toString('hex', 8)],
    );
    const t = token({ sub: 'u_1' });
    assert.throws(() => v.verify(t), RevokedError, 'the set serves while there is no node');
    peer.hello({ resumes: true, head: 2 });
    peer.records(2, record(2, 'sub', 'u_2'));
    await peer.acknowledged(2);
    assert.throws(() => v.verify(token({ sub: 'u_2' })), RevokedError);
  }));

  test('the old set serves while a new one is loaded, which takes its place at the mark', () => following(async (v, first) => {
    first.records(1, record(1, 'sub', 'u_1'));
    await first.acknowledged(1);
    first.ws.terminate();
    const peer = await node.peer();
    peer.hello({ head: 3, reason: 'pruned' });
    peer.send(5, record(2, 'sub', 'u_2'));
    await sleep(20);
    v.verify(token({ sub: 'u_2' }));
    assert.throws(() => v.verify(token({ sub: 'u_1' })), RevokedError);
    peer.send(6, mark(3));
    assert.equal((await peer.ping()).applied, 3);
    assert.throws(() => v.verify(token({ sub: 'u_2' })), RevokedError);
    v.verify(token({ sub: 'u_1' }));
  }));

  test('another log makes stale until it is in step with it', () => following(async (v, first) => {
    first.ws.terminate();
    const peer = await node.peer();
    peer.hello({ log: 'log-2', reason: 'log' });
    await staleSoon(v, /log is another/);
    peer.snapshot(0);
    peer.pong(await peer.ping());
    await eventually(() => v.status().stale === '', 'fresh again');
    assert.equal(v.status().log, 'log-2');
  }));

  test('a node that stops is left once another has granted, and is told goodbye then', () => following(async (v, first) => {
    first.send(8, JSON.stringify({ code: 'stopping', detail: 'by hand' }));
    const peer = await node.peer();
    peer.hello({ resumes: true });
    const ping = await peer.ping();
    assert.ok(!first.kinds.includes(17), 'goodbye before another lease');
    v.verify(token());
    peer.pong(ping);
    await first.sent(17);
    assert.ok(!peer.kinds.includes(17));
    v.verify(token());
  }));

  test('close makes stale first, and says goodbye then', async () => {
    const { v, peer } = await node.open();
    const signal = v.notify(v.verify(token()));
    const closing = v.close();
    assert.throws(() => v.verify(token()), StaleError);
    assert.ok(signal.reason instanceof StaleError);
    await peer.sent(17);
    await closing;
    await peer.closed;
    await v.close();
  });

  const faults: [string, (p: Peer) => void][] = [
    ['a kind that the format does not have', (p) => p.send(9, 'x')],
    ['a text message', (p) => p.ws.send('hello')],
    ['an empty message', (p) => p.ws.send(Buffer.alloc(0))],
    ['a message larger than 1 MiB', (p) => p.send(5, Buffer.alloc(1 << 20))],
    ['records with a gap', (p) => p.records(2, record(2, 'sub', 'x'))],
    ['records that do not end at their position', (p) => p.records(2, record(1, 'sub', 'x'))],
    ['half a record', (p) => p.records(1, record(1, 'sub', 'x').subarray(1))],
    ['a snapshot that was not announced', (p) => p.send(5, record(1, 'sub', 'x'))],
    ['a mark without a snapshot', (p) => p.send(6, mark(0))],
    ['a pong of another position', (p) => p.pong({ applied: 5, stamp: 1n, routes: 0, tolerance: 0 })],
    ['a grant longer than a lease', (p) => p.pong({ applied: 0, stamp: 1n, routes: 0, tolerance: 0 }, 30_001)],
    ['keys that should never have been published', (p) => p.send(3, '{"keys":[{"kty":"oct","k":"AA","kid":"k1"}]}')],
    ['claims that are no names', (p) => p.send(2, '[1]')],
  ];
  for (const [what, send] of faults) {
    test(`${what}: the verifier is stale until a new connection has brought it in step`, () => following(async (v, first) => {
      v.verify(token());
      send(first);
      const peer = await node.peer();
      assert.throws(() => v.verify(token()), StaleError);
      peer.hello({ resumes: true });
      peer.pong(await peer.ping());
      await eventually(() => v.status().stale === '', 'fresh again');
      v.verify(token());
    }));
  }

  test('a mark below the position is not taken', () => following(async (v, first) => {
    first.records(1, record(1, 'sub', 'u_1'));
    await first.acknowledged(1);
    first.ws.terminate();
    const peer = await node.peer();
    peer.hello();
    peer.snapshot(0);
    await staleSoon(v, /before 1, which was applied already/);
    assert.throws(() => v.verify(token({ sub: 'u_1' })), RevokedError);
  }));
});
