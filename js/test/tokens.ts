import { createHash, generateKeyPairSync, sign, type KeyObject } from 'node:crypto';

/** A key pair of Ed25519 with its public half as a JSON Web Key. */
export interface Signer {
  readonly kid: string;
  readonly jwk: object;
  readonly key: KeyObject;
}

export function signer(kid: string): Signer {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519');
  return { kid, key: privateKey, jwk: { ...publicKey.export({ format: 'jwk' }), kid, alg: 'Ed25519', use: 'sig' } };
}

const encode = (text: string): string => Buffer.from(text).toString('base64url');

/** Signs a payload given as JSON text. */
export function signText(s: Signer, payload: string): string {
  const text = `${encode(JSON.stringify({ alg: 'Ed25519', kid: s.kid, typ: 'at+jwt' }))}.${encode(payload)}`;
  return `${text}.${sign(null, Buffer.from(text), s.key).toString('base64url')}`;
}

export const issuer = 'https://issuer.example';
let serial = 0;

/** Mints a token that is good for five minutes from a moment in Unix milliseconds, but for the claims given. */
export function mint(s: Signer, claims: object = {}, now = Date.now()): string {
  const iat = Math.floor(now / 1000);
  return signText(s, JSON.stringify({
    iss: issuer, sub: 'u_7', aud: 'orders', client_id: 'web', iat, exp: iat + 300, jti: `t_${++serial}`, sid: 's_81', rev: 0, ...claims,
  }));
}

export const secret = createHash('sha256').update('a hash secret').digest();
export const forever = 2n ** 64n - 1n;

/** A record in its 40 octets, for what a claim's value names. */
export function record(position: number, claim: string, value: string, before: bigint = BigInt(position), forget = 2 ** 32 - 1): Buffer {
  return recordOf({ issuer, claim, value, position, before, forget });
}

/** A record in its 40 octets, for what a claim's value names in tokens of any issuer. */
export function recordOf(r: { issuer: string; claim: string; value: string; position: number; before?: bigint; notBefore?: number; forget?: number }): Buffer {
  const { position, before = BigInt(position), notBefore = 0, forget = 2 ** 32 - 1 } = r;
  const key = createHash('sha256').update(secret);
  for (const text of [r.issuer, r.claim, r.value]) {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(Buffer.byteLength(text));
    key.update(length).update(text);
  }
  const b = Buffer.alloc(40);
  b.writeBigUInt64BE(BigInt(position), 0);
  key.digest().copy(b, 8, 0, 16);
  b.writeBigUInt64BE(before, 24);
  b.writeUInt32BE(notBefore, 32);
  b.writeUInt32BE(forget, 36);
  return b;
}
