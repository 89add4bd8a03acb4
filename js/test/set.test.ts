import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { Cache } from '#quash/cache';
import { FullError, RevocationSet } from '#quash/set';
import { parseKeySet } from '#quash/jws';
import { State } from '#quash/state';
import { issuer, mint, signer } from './tokens.js';

/** Records with random keys, and what set and model are asked. */
function randomRecords(n: number, forget: () => number): Buffer {
  const b = randomBytes(n * 40);
  for (let i = 0; i < n; i++) {
    b.writeBigUInt64BE(BigInt(i + 1), i * 40);
    b.writeBigUInt64BE(BigInt(i + 1), i * 40 + 24);
    b.writeUInt32BE(0, i * 40 + 32);
    b.writeUInt32BE(forget(), i * 40 + 36);
  }
  return b;
}

const view = (b: Buffer) => new DataView(b.buffer, b.byteOffset, b.length);
const keyAt = (b: Buffer, at: number) => Uint32Array.from([0, 4, 8, 12].map((o) => b.readUInt32BE(at + 8 + o)));

test('the set does what a map would: merges the greater of each field, forgets in time, never early', () => {
  const set = new RevocationSet();
  const model = new Map<string, { before: number; forget: number; notBefore: number }>();
  const pool = randomRecords(3_000, () => 0);
  for (let round = 1; round <= 20; round++) {
    const b = Buffer.alloc(1_000 * 40);
    for (let i = 0; i < 1_000; i++) {
      pool.copy(b, i * 40, Math.floor(Math.random() * 3_000) * 40, undefined);
      const before = Math.floor(Math.random() * 1e6) + 1;
      const forget = Math.floor(Math.random() * 20);
      b.writeBigUInt64BE(Math.random() < 0.1 ? 2n ** 64n - 1n : BigInt(before), i * 40 + 24);
      b.writeUInt32BE(forget, i * 40 + 36);
      const notBefore = Math.floor(Math.random() * 100);
      b.writeUInt32BE(notBefore, i * 40 + 32);
      const key = b.toString('hex', i * 40 + 8, i * 40 + 24);
      const old = model.get(key) ?? { before: 0, forget: 0, notBefore: 0 };
      const bound = b.readBigUInt64BE(i * 40 + 24) === 2n ** 64n - 1n ? Infinity : before;
      model.set(key, { before: Math.max(old.before, bound), forget: Math.max(old.forget, forget), notBefore: Math.max(old.notBefore, notBefore) });
    }
    set.merge(view(b), 0, b.length);
    set.forget(round, Infinity);
    for (const [key, { forget }] of model) if (forget < round) model.delete(key);
    assert.equal(set.size, model.size);
    for (let i = 0; i < 3_000; i++) {
      const want = model.get(pool.toString('hex', i * 40 + 8, i * 40 + 24));
      assert.equal(set.lookup(keyAt(pool, i * 40), 0), want?.before ?? 0);
      assert.equal(set.lookupTime(keyAt(pool, i * 40), 0), want?.before === Infinity ? Infinity : want === undefined ? NaN : want.notBefore || Infinity);
    }
  }
});

test('a million live revocations take at most 64 MB, all found, no other; the JavaScript heap holds none of them', () => {
  const set = new RevocationSet();
  const heap = process.memoryUsage().heapUsed;
  const parts = Array.from({ length: 40 }, () => randomRecords(25_000, () => 2 ** 32 - 1));
  for (const b of parts) set.merge(view(b), 0, b.length);
  assert.equal(set.size, 1_000_000);
  assert.ok(set.bytes <= 64e6, `${set.bytes} octets`);
  assert.ok(process.memoryUsage().heapUsed - heap < 16e6, 'objects were made for records');
  for (const b of parts) for (let at = 0; at < b.length; at += 40) assert.equal(set.lookup(keyAt(b, at), 0), at / 40 + 1);
  const others = randomRecords(25_000, () => 0);
  for (let at = 0; at < others.length; at += 40) assert.equal(set.lookup(keyAt(others, at), 0), 0);
  // In slices, all are forgotten.
  let calls = 0;
  for (; set.size > 0; calls++) set.forget(2 ** 32, 65_536);
  assert.ok(calls >= 10 && calls <= 32, `${calls} calls`);
  assert.ok(set.bytes < 1e6, `${set.bytes} octets when empty`);
});

test('beyond its limit the set says that it is not complete', () => {
  const set = new RevocationSet(1_000);
  const b = randomRecords(1_001, () => 1);
  assert.throws(() => set.merge(view(b), 0, b.length), FullError);
});

test('the cache keeps its bound, and what is used stays', () => {
  const key = signer('k1');
  const state = new State(1, {
    set: new RevocationSet(), keysText: '', names: new Set(['sub', 'sid']), secret: Buffer.alloc(32), issuer, audience: 'orders', lifetime: 300_000, others: [],
    keys: parseKeySet(JSON.stringify({ keys: [key.jwk] })),
  });
  const cache = new Cache(100_000);
  const favourite = mint(key);
  cache.put(state.verify(favourite, Date.now()));
  for (let i = 0; i < 300; i++) {
    cache.put(state.verify(mint(key), Date.now()));
    assert.ok(cache.bytes <= 100_000);
    const e = cache.get(favourite);
    assert.ok(e, `gone after ${i}`);
    e.used = true;
  }
  assert.ok(cache.count > 40 && cache.count < 100, `${cache.count} tokens`);
});
