// Several nodes, each with an address.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Verifier } from '@quash/quash';
import { Round } from '#quash/round';
import { FakeNode, type Peer } from './node.js';
import { mint } from './tokens.js';

const urls = ['a', 'b', 'c'].map((name) => new URL(`ws://${name}.example`));

describe('the order of addresses', () => {
  test('all are tried before any is tried again; a round after the first waits, ever longer', () => {
    const round = new Round(urls);
    let waited = 0;
    for (let n = 0; n < 12; n++) {
      const tried = urls.map(() => {
        const { address } = round.now(30_000);
        waited = round.next(false, false);
        return address.host;
      });
      assert.deepEqual([...tried].sort(), urls.map((u) => u.host));
      const most = Math.min(20 * 2 ** n, 2_000);
      assert.ok(waited >= most / 2 && waited <= most, `round ${n}: ${waited} ms`);
    }
  });

  test('one that was of use is left for the next; together they take what is left of a lease, unless all are slower', () => {
    const round = new Round(urls);
    const first = round.now(30_000);
    assert.equal(first.within, 5_000);
    assert.ok(round.next(true, false) <= 20);
    assert.notEqual(round.now(30_000).address, first.address);
    for (const want of [5_000, 10_000, 15_000, 15_000]) {
      for (let i = 0; i < urls.length; i++) {
        assert.equal(round.now(30_000).within, want);
        round.next(false, true);
      }
    }
  });

  test('verifiers spread', () => {
    const firsts = Array.from({ length: 300 }, () => new Round(urls).now(30_000).address.host);
    for (const { host } of urls) assert.ok(firsts.filter((h) => h === host).length > 50);
  });
});

/** Two nodes of one log, and a verifier that has the addresses of both. */
async function between(body: (v: Verifier, first: Peer, at: FakeNode, other: FakeNode, token: string) => Promise<void>): Promise<void> {
  const nodes = [await FakeNode.start(), await FakeNode.start()] as const;
  nodes[1].hello = nodes[0].hello;
  const opening = Verifier.open(nodes[0].config({ url: nodes.map((n) => n.url).join(', ') }));
  const [first, at] = await Promise.race(nodes.map(async (n, i) => [await n.peer(), i] as const));
  first.hello();
  first.snapshot(0);
  first.pong(await first.ping());
  const v = await opening;
  try {
    assert.equal(v.status().node, new URL(nodes[at]!.url).host);
    await body(v, first, nodes[at]!, nodes[1 - at]!, mint(nodes[0].signer, {}, nodes[0].clock.wall));
  } finally {
    await v.close(AbortSignal.timeout(50)).catch(() => {});
    nodes.forEach((n) => n.close());
  }
}

test('P4 a node that stops is left for another address without a gap: goodbye only after another lease', () => between(async (v, first, at, other, token) => {
  first.send(8, JSON.stringify({ code: 'stopping', detail: 'by hand' }));
  const peer = await Promise.race([other.peer(), at.peer().then(() => assert.fail('it came back to the node that stops'))]);
  peer.hello({ resumes: true });
  const ping = await peer.ping();
  assert.ok(!first.kinds.includes(17), 'goodbye before another lease');
  v.verify(token);
  peer.pong(ping);
  await first.sent(17);
  v.verify(token);
  assert.equal(v.status().spells, 0);
  assert.equal(v.status().node, new URL(other.url).host);
}));

test('a node that is gone is left for another address at once', () => between(async (v, first, at, other) => {
  at.close();
  first.ws.terminate();
  const peer = await other.peer();
  peer.hello({ resumes: true });
  peer.pong(await peer.ping());
  for (let i = 0; i < 200 && !v.status().connected; i++) await sleep(5);
  assert.equal(v.status().spells, 0);
}));

test('addresses that cannot be are refused', async () => {
  const config = { key: 'qk_test' };
  await assert.rejects(Verifier.open({ ...config, url: 'https://a.example,' }), /several separated by commas/);
  await assert.rejects(Verifier.open({ ...config, url: 'https://a.example,http://b.example' }), /b\.example would be spoken to unencrypted/);
  await assert.rejects(Verifier.open({ ...config, url: Array.from({ length: 33 }, () => 'https://a.example').join() }), /at most 32/);
});
