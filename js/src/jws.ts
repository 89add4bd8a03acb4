/**
 * JSON Web Signatures in compact form (RFC 7515), by the rules of RFC 8725:
 * three algorithms, each pinned to its kind of key, and nothing in a header that
 * could choose a key or an algorithm. No option relaxes one of them.
 */
import { createHash, createPublicKey, verify, type KeyObject } from 'node:crypto';
import { InvalidError } from './errors.js';
import { elements, members, string, SyntaxFault, utf8 } from './json.js';

/** The longest token that is looked at, in octets. */
export const maxToken = 8192;

/** The largest JSON Web Key Set that is read, in octets. */
export const maxKeySet = 64 << 10;

type Algorithm = 'ES256' | 'Ed25519' | 'RS256';

const algorithms: Readonly<Record<string, Algorithm>> = Object.assign(Object.create(null), {
  ES256: 'ES256', Ed25519: 'Ed25519', EdDSA: 'Ed25519', RS256: 'RS256',
});

/** A parsed token. Nothing in it is proved before {@link PublicKey.signed}. */
export interface Token {
  readonly algorithm: Algorithm | 'HS256';
  readonly kid: string; // empty: it has none
  readonly typ: string; // empty: it has none
  readonly certificate: boolean; // it names one, which chooses nothing (x5t; RFC 7515, section 4.1.7)
  readonly claims: Uint8Array;
  readonly text: string; // what the signature covers
  readonly signature: Uint8Array;
}

const never = ['jku', 'jwk', 'x5u', 'x5c', 'zip', 'enc', 'crit', 'b64', 'cty'];

/** Parses a token in compact form. Throws an InvalidError for what is not one. */
export function parse(token: string): Token {
  if (token.length > maxToken) throw new InvalidError('it is longer than any token');
  const parts = token.split('.');
  if (parts.length !== 3) throw new InvalidError('a token has three parts with a dot between');
  const [header, payload, signature] = parts as [string, string, string];
  return { ...parseHeader(header), claims: decode(payload), text: token.slice(0, token.lastIndexOf('.')), signature: decode(signature) };
}

// An issuer's tokens all have the same header until its key changes.
type Header = Pick<Token, 'algorithm' | 'kid' | 'typ' | 'certificate'>;
let latest = { text: '', header: {} as Header };

function parseHeader(text: string): Header {
  if (text !== '' && text === latest.text) return latest.header;
  const m = object(decode(text));
  if (never.some((name) => m.has(name))) throw new InvalidError('the header has a parameter that is never accepted');
  const alg = string(m.get('alg') ?? '') ?? '';
  const algorithm = alg === 'HS256' ? alg : algorithms[alg];
  const kid = string(m.get('kid') ?? '""');
  const typ = string(m.get('typ') ?? '""');
  if (!algorithm) throw new InvalidError('the header has no alg that is ES256, Ed25519, EdDSA, RS256 or HS256');
  if (kid === undefined || (m.has('kid') && !validKeyID(kid))) throw new InvalidError('the header has a kid that is not 1 to 128 visible ASCII characters');
  if (typ === undefined || (m.has('typ') && typ === '')) throw new InvalidError('the header has a typ that is no string with something in it');
  latest = { text, header: { algorithm, kid, typ, certificate: m.has('x5t') || m.has('x5t#S256') } };
  return latest.header;
}

/** Reads octets as one strict JSON object. Throws an InvalidError for anything else. */
export function object(octets: Uint8Array): Map<string, string> {
  try {
    return members(utf8(octets));
  } catch (error) {
    if (error instanceof SyntaxFault) throw new InvalidError(error.message);
    throw error;
  }
}

function validKeyID(kid: string | undefined): kid is string {
  return kid !== undefined && /^[!-~]{1,128}$/.test(kid);
}

/** Only one text encodes the octets: Buffer takes others too, but writes that one. */
function decode(text: string): Buffer {
  const octets = Buffer.from(text, 'base64url');
  if (text === '' || octets.toString('base64url') !== text) {
    throw new InvalidError('a part is empty or not base64url without padding (RFC 7515, section 2)');
  }
  return octets;
}

/** Verifies the signatures of one private key, by one algorithm. */
export class PublicKey {
  constructor(readonly kid: string, readonly algorithm: Algorithm, private readonly key: KeyObject) {}

  /** Says whether the token is signed with the key, over the octets as received. That it names this key was seen to before. */
  signed(t: Token): boolean {
    if (t.algorithm !== this.algorithm) return false;
    const text = Buffer.from(t.text, 'latin1');
    switch (this.algorithm) {
      case 'Ed25519': return verify(null, text, this.key, t.signature);
      case 'ES256': return t.signature.length === 64 && verify('sha256', text, { key: this.key, dsaEncoding: 'ieee-p1363' }, t.signature);
      case 'RS256': return verify('sha256', text, this.key, t.signature);
    }
  }
}

/** A key set that was refused as a whole: publishing it was a mistake or an attack. */
export class KeySetFault extends Error {}

/** How large a key set may be, in octets and keys, and whether keys may go without a kid: they get their thumbprint. */
interface Bounds {
  readonly octets: number;
  readonly keys: number;
  readonly nameless: boolean;
}

/**
 * Reads a JSON Web Key Set (RFC 7517, section 5) by the rules of
 * docs/protocol.md, section 4.6: throws a KeySetFault for one that should never
 * have been published, and skips keys that no token can use.
 */
export function parseKeySet(text: string, most: Bounds = { octets: maxKeySet, keys: Infinity, nameless: false }): Map<string, PublicKey> {
  if (Buffer.byteLength(text) > most.octets) throw new KeySetFault(`longer than ${most.octets} octets`);
  const list = elements(strict(text).get('keys') ?? '');
  if (!list) throw new KeySetFault('there is no array keys');
  if (list.length > most.keys) throw new KeySetFault(`it has ${list.length} keys, more than ${most.keys}`);
  const keys = new Map<string, PublicKey>();
  const kids = new Set<string>();
  for (const element of list) {
    const jwk = readKey(strict(element));
    if (most.nameless) jwk.kid ||= thumbprint(jwk);
    if (jwk.kid && kids.has(jwk.kid)) throw new KeySetFault('two keys have one kid');
    kids.add(jwk.kid ?? '');
    if (usable(jwk)) keys.set(jwk.kid, publicKey(jwk));
  }
  return keys;
}

function strict(text: string): Map<string, string> {
  try {
    return members(text);
  } catch (error) {
    if (error instanceof SyntaxFault) throw new KeySetFault(error.message);
    throw error;
  }
}

type JWK = Partial<Record<'kty' | 'crv' | 'x' | 'y' | 'n' | 'e' | 'kid' | 'use' | 'alg', string>> & { key_ops?: string[] };
const textMembers = ['kty', 'crv', 'x', 'y', 'n', 'e', 'kid', 'use', 'alg'] as const;
const privateMembers = ['d', 'p', 'q', 'dp', 'dq', 'qi', 'oth', 'k'];

function readKey(m: Map<string, string>): JWK {
  if (privateMembers.some((name) => m.has(name))) throw new KeySetFault('a key is not public; replace it, and never publish it again');
  const jwk: JWK = {};
  for (const name of textMembers) {
    const value = m.get(name);
    if (value === undefined) continue;
    const text = string(value);
    if (text === undefined) throw new KeySetFault(`member ${name} has the wrong type`);
    jwk[name] = text;
  }
  const operations = m.get('key_ops');
  if (operations !== undefined) {
    const list = elements(operations)?.map(string);
    if (!list || list.includes(undefined)) throw new KeySetFault('member key_ops has the wrong type');
    jwk.key_ops = list as string[];
  }
  if (!jwk.kty) throw new KeySetFault('a key has no kty');
  return jwk;
}

/** The key's thumbprint (RFC 7638). */
function thumbprint(k: JWK): string {
  const required = k.kty === 'RSA' ? { e: k.e, kty: k.kty, n: k.n } : { crv: k.crv, kty: k.kty, x: k.x, y: k.y };
  return createHash('sha256').update(JSON.stringify(required)).digest('base64url');
}

function usable(k: JWK): k is JWK & { kid: string } {
  if (!validKeyID(k.kid) || (k.use && k.use !== 'sig') || (k.key_ops && !k.key_ops.includes('verify'))) return false;
  if (k.alg && !algorithms[k.alg]) return false;
  return k.kty === 'RSA' || (k.kty === 'EC' && k.crv === 'P-256') || (k.kty === 'OKP' && k.crv === 'Ed25519');
}

function publicKey(k: JWK & { kid: string }): PublicKey {
  const algorithm = k.kty === 'EC' ? 'ES256' : k.kty === 'OKP' ? 'Ed25519' : 'RS256';
  if (k.alg && algorithms[k.alg] !== algorithm) throw new KeySetFault(`a key of type ${k.kty} is not for ${k.alg}`);
  const { kty = '', crv = '', x = '', y = '', n = '', e = '' } = k;
  switch (algorithm) {
    case 'ES256': value(x, 32); value(y, 32); break;
    case 'Ed25519': checkEd25519(value(x, 32)); break;
    case 'RS256': checkRSA(value(n), value(e)); break;
  }
  const jwk = algorithm === 'RS256' ? { kty, n, e } : algorithm === 'ES256' ? { kty, crv, x, y } : { kty, crv, x };
  try {
    return new PublicKey(k.kid, algorithm, createPublicKey({ key: jwk, format: 'jwk' }));
  } catch {
    throw new KeySetFault('a key makes no sense');
  }
}

function value(text: string, size?: number): Buffer {
  const octets = Buffer.from(text, 'base64url');
  if (octets.toString('base64url') !== text) throw new KeySetFault('a value is not base64url without padding');
  if (size !== undefined && octets.length !== size) throw new KeySetFault(`a value has ${octets.length} octets, not ${size}`);
  return octets;
}

function checkRSA(n: Buffer, e: Buffer): void {
  if (!n[0] || !e[0]) throw new KeySetFault('a number is zero or has leading zeros');
  const bits = n.length * 8 - Math.clz32(n[0]) + 24;
  if (bits < 2048 || bits > 8192) throw new KeySetFault(`the RSA modulus has ${bits} bits, not 2048 to 8192`);
  if (n[n.length - 1]! % 2 === 0) throw new KeySetFault('the RSA modulus is even');
  const exponent = e.length > 4 ? Infinity : e.readUIntBE(0, e.length);
  if (exponent > 2 ** 31 - 1 || exponent < 65537 || exponent % 2 === 0) {
    throw new KeySetFault('the RSA exponent is even, below 65537 or above 2147483647');
  }
  if (guessable(n)) throw new KeySetFault('the RSA modulus is of a generator whose keys can be factored (CVE-2017-15361)');
}

const smallPrimes = Array.from({ length: 165 }, (_, i) => i + 3).filter((p) => !Array.from({ length: 11 }, (_, i) => i + 2).some((q) => q < p && p % q === 0));

/** Says whether n is a power of 65537 modulo each of these primes, as every modulus of that generator is, and of others one in 2^27. */
function guessable(n: Buffer): boolean {
  return smallPrimes.every((p) => {
    const rest = n.reduce((r, octet) => (r * 256 + octet) % p, 0);
    let power = 1;
    do {
      if (power === rest) return true;
      power = power * 65537 % p;
    } while (power !== 1);
    return false;
  });
}

/**
 * The y coordinates, little-endian and without the sign, of the points whose
 * order divides 8, in every encoding that a decoder takes. With one of them as
 * the key anyone can sign.
 */
const smallOrder = new Set([
  '0000000000000000000000000000000000000000000000000000000000000000',
  '0100000000000000000000000000000000000000000000000000000000000000',
  '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05',
  'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a',
  'ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
]);

/** 2^255 - 19, big-endian: coordinates are below it. Decoders differ in whether they take others. */
const field = '7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffed';

function checkEd25519(point: Buffer): void {
  const unsigned = Buffer.from(point);
  unsigned[31]! &= 0x7f;
  if (smallOrder.has(unsigned.toString('hex'))) throw new KeySetFault('the Ed25519 key is a point of small order');
  if (unsigned.reverse().toString('hex') >= field) throw new KeySetFault('the Ed25519 key is not encoded canonically (RFC 8032, section 5.1.2)');
}
