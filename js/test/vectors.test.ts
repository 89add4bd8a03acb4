// testdata/vectors: the same files as the Go verifier reads, with the same verdicts.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { QuashError } from '@quash/quash';
import { completeIssuers, Issuers } from '#quash/issuers';
import { canonical } from '#quash/json';
import { KeySetFault, parseKeySet } from '#quash/jws';
import { RevocationSet } from '#quash/set';
import { State, type Facts } from '#quash/state';
import { signer, signText } from './tokens.js';

function vectors<T>(name: string): T {
  return JSON.parse(readFileSync(new URL(`../../../testdata/vectors/${name}`, import.meta.url), 'utf8')) as T;
}

const facts = {
  set: new RevocationSet(), keysText: '', names: new Set<string>(), secret: Buffer.alloc(32), issuer: 'https://issuer.example', audience: 'orders', lifetime: 300_000, others: [],
};

function verdict(state: State, token: string, now: number): string {
  try {
    const e = state.verify(token, now);
    return now >= e.expires ? 'expired' : state.revoked(e) ? 'revoked' : 'valid';
  } catch (error) {
    assert.ok(error instanceof QuashError, String(error));
    return error.code;
  }
}

test('tokens.json: every token gets its verdict', () => {
  const file = vectors<{
    keys: object; issuer: string; audience: string; now: number; max_lifetime: number;
    vectors: { id: string; about: string; token: string; verdict: string }[];
  }>('tokens.json');
  const state = new State(1, {
    ...facts, keys: parseKeySet(JSON.stringify(file.keys)), issuer: file.issuer, audience: file.audience, lifetime: file.max_lifetime * 1000,
  });
  const wrong = file.vectors.map((v) => `${v.id} (${v.about}): ${verdict(state, v.token, file.now * 1000)}, want ${v.verdict}`)
    .filter((_, i) => verdict(state, file.vectors[i]!.token, file.now * 1000) !== file.vectors[i]!.verdict);
  assert.deepEqual(wrong, []);
  assert.ok(file.vectors.length > 500);
});

test('keysets.json: a set is refused, or the keys that tokens can use are taken', () => {
  const file = vectors<{ vectors: { id: string; about: string; jwks: string; verdict: string; usable: string[] }[] }>('keysets.json');
  for (const v of file.vectors) {
    let got: string | string[];
    try {
      got = [...parseKeySet(v.jwks).keys()];
    } catch (error) {
      assert.ok(error instanceof KeySetFault, `${v.id}: ${String(error)}`);
      got = 'refused';
    }
    assert.deepEqual(got, v.verdict === 'refused' ? 'refused' : v.usable, `${v.id} (${v.about})`);
  }
});

test('revocations.json: records kill the tokens that they should', () => {
  const file = vectors<{
    hash_secret: string; issuer: string; records: { claim: string; value: string; key: string; hex: string }[];
    merged: string[]; tokens: { id: string; about: string; kid: string; claims: Record<string, unknown>; verdict: string }[];
    values: { json: string; text: string | null }[];
  }>('revocations.json');
  const raw = readFileSync(new URL('../../../testdata/vectors/revocations.json', import.meta.url), 'utf8');
  const now = 1_800_000_100_000;
  const k1 = signer('k1');
  for (const octets of [file.records.map((r) => r.hex), [...file.merged].reverse()]) {
    const set = new RevocationSet();
    const records = Buffer.from(octets.join(''), 'hex');
    set.merge(new DataView(records.buffer, records.byteOffset, records.length), 0, records.length);
    const known: Facts = {
      ...facts, set, names: new Set(file.records.map((r) => r.claim)), secret: Buffer.from(file.hash_secret, 'hex'), issuer: file.issuer,
      keys: parseKeySet(JSON.stringify({ keys: [k1.jwk, { ...k1.jwk, kid: 'stolen' }] })),
    };
    const state = new State(1, known);
    for (const r of file.records) {
      assert.equal(Buffer.from(state.key(r.claim, r.value).map((n) => n.toString(16).padStart(8, '0')).join(''), 'hex').toString('hex'), r.key, `key of ${r.claim}`);
    }
    assert.equal(set.size, file.merged.length);
    for (const t of file.tokens) {
      // The claims as they are written: numbers keep their form.
      const at = raw.indexOf('"claims":', raw.indexOf(`"id": ${JSON.stringify(t.id)},`));
      const text = objectAt(raw, raw.indexOf('{', at));
      const token = signText({ ...k1, kid: t.kid }, withDefaults(text, t.claims, file.issuer, now / 1000));
      assert.equal(verdict(state, token, now), t.verdict, `${t.id} (${t.about})`);
    }
  }
  for (const v of file.values) assert.equal(canonical(v.json) ?? null, v.text, v.json);
});

function objectAt(text: string, from: number): string {
  for (let to = text.indexOf('}', from); ; to = text.indexOf('}', to + 1)) {
    try {
      JSON.parse(text.slice(from, to + 1));
      return text.slice(from, to + 1);
    } catch { /* a brace inside */ }
  }
}

function withDefaults(text: string, has: Record<string, unknown>, issuer: string, now: number): string {
  const defaults = { iss: issuer, aud: 'orders', sub: 'u_0', client_id: 'app', sid: 's_0', jti: 't_0', iat: now, exp: now + 300 };
  const more = Object.entries(defaults).filter(([name]) => !(name in has)).map(([name, value]) => `,${JSON.stringify(name)}:${JSON.stringify(value)}`);
  return text.trim().slice(0, -1) + more.join('') + '}';
}

test('foreign.json: tokens of other issuers', () => {
  const file = vectors<{
    now: number; hash_secret: string; own: { name: string; audience: string; max_lifetime: number; keys: object }; claims: string[];
    known: { name: string; max_lifetime: number }[];
    issuers: { name: string; keys?: { keys: object[] }; secret?: string; until?: number; audience?: string; types?: string[]; max_lifetime?: number; skew?: number }[];
    records: { issuer: string; claim: string; value: string; key: string; hex: string }[];
    vectors: { id: string; about: string; token: string; verdict: string }[];
  }>('foreign.json');
  const set = new RevocationSet();
  const records = Buffer.from(file.records.map((r) => r.hex).join(''), 'hex');
  set.merge(new DataView(records.buffer, records.byteOffset, records.length), 0, records.length);
  const others = new Issuers(completeIssuers(file.issuers.map(({ secret, until, max_lifetime: maxLifetime, ...i }) => ({
    ...i, ...(secret && { secret: Buffer.from(secret, 'base64') }), ...(until && { until: new Date(until * 1000) }), ...(maxLifetime && { maxLifetime }),
  })), file.own.name));
  assert.equal(others.unserved(new Map(file.known.map((k) => [k.name, k.max_lifetime]))), '');
  const state = new State(1, {
    ...facts, set, names: new Set(file.claims), secret: Buffer.from(file.hash_secret, 'hex'), issuer: file.own.name, audience: file.own.audience,
    lifetime: file.own.max_lifetime * 1000, keys: parseKeySet(JSON.stringify(file.own.keys)), others: others.list,
  });
  for (const r of file.records) {
    assert.equal(state.key(r.claim, r.value, r.issuer).map((n) => n.toString(16).padStart(8, '0')).join(''), r.key, `key of ${r.claim}`);
  }
  const wrong = file.vectors.map((v) => [v, verdict(state, v.token, file.now * 1000)] as const).filter(([v, got]) => got !== v.verdict)
    .map(([v, got]) => `${v.id} (${v.about}): ${got}, want ${v.verdict}`);
  assert.deepEqual(wrong, []);
  assert.ok(file.vectors.length > 150);
});
