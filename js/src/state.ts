import { hash } from './digest.js';
import { Claims } from './claims.js';
import { InvalidError } from './errors.js';
import { canonical, decimal, elements, integer, string } from './json.js';
import { object, parse, type PublicKey } from './jws.js';
import type { RevocationSet } from './set.js';

/**
 * How far iat and nbf may lie in the future, and by how much exp may exceed the
 * longest lifetime: clocks differ. It never makes a token live longer.
 */
const leeway = 60_000;

/** The token names a key that the verifier does not have. It may be one that was made while the verifier was out of touch. */
export class UnknownKeyError extends InvalidError {}

/**
 * A token whose signature and claims were found good under one generation of
 * the state. Whether it has expired or was revoked is asked again each time.
 */
export interface Entry {
  readonly claims: Claims;
  readonly expires: number; // Unix milliseconds
  readonly generation: number;
  readonly keys: Uint32Array; // four words for each revocation that would name it
  position: number; // of the set when the token was last found alive
  used: boolean; // since the cache looked last
}

export interface Facts {
  readonly set: RevocationSet;
  readonly keys: ReadonlyMap<string, PublicKey>;
  readonly keysText: string;
  readonly names: ReadonlySet<string>; // of claims that any record names
  readonly secret: Buffer;
  readonly issuer: string;
  readonly audience: string;
  readonly lifetime: number; // the longest of the issuer's tokens, in milliseconds
}

/**
 * What a verifier knows. But for the set it never changes: another state takes
 * its place, of another generation, and what was found out under the former one
 * holds no longer.
 */
export class State {
  constructor(readonly generation: number, readonly facts: Facts) {}

  /** Checks everything of a token that no revocation changes, but for expiry. Throws an InvalidError. */
  verify(token: string, now: number): Entry {
    const { kid, claims } = this.authenticate(token);
    const c = this.read(claims, token);
    this.check(c, claims, now);
    return { claims: c, expires: instant(claims, 'exp')!, generation: this.generation, keys: this.revocationKeys(kid, claims), position: -1, used: false };
  }

  /** Proves that a key of the issuer signed the token as an access token (RFC 9068, section 4). */
  private authenticate(token: string): { kid: string; claims: Map<string, string> } {
    const t = parse(token);
    const key = this.facts.keys.get(t.kid);
    if (!key) throw new UnknownKeyError('the issuer has no key of that kid');
    if (!key.signed(t)) throw new InvalidError('the key did not sign it');
    // Media types compare without regard to case, and may leave out "application/" (RFC 7515, section 4.1.9).
    if (!/^(application\/)?at\+jwt$/i.test(t.typ)) throw new InvalidError('typ is not at+jwt');
    return { kid: t.kid, claims: object(t.claims) };
  }

  private read(claims: Map<string, string>, token: string): Claims {
    const aud = claims.get('aud') ?? '';
    const revision = integer(claims.get('rev') ?? '');
    if (revision === undefined) throw new InvalidError('rev is no position');
    return new Claims(token, {
      issuer: text(claims, 'iss'), subject: text(claims, 'sub'), client: text(claims, 'client_id'),
      session: claims.has('sid') ? text(claims, 'sid') : '', id: text(claims, 'jti'),
      audience: (elements(aud) ?? [aud]).map((value) => string(value) ?? fail('aud')),
      issuedAt: new Date(instant(claims, 'iat') ?? fail('iat')), expires: new Date(instant(claims, 'exp') ?? fail('exp')), revision,
    });
  }

  /** Judges the claims of a token whose signature is good. */
  private check(c: Claims, claims: Map<string, string>, now: number): void {
    const { issuer, audience, lifetime } = this.facts;
    const latest = now + leeway;
    const exp = instant(claims, 'exp')!;
    const nbf = claims.has('nbf') ? instant(claims, 'nbf') ?? fail('nbf') : 0;
    if (c.issuer !== issuer) throw new InvalidError('iss is not the issuer');
    if (!c.audience.includes(audience)) throw new InvalidError('aud does not contain the audience');
    if (instant(claims, 'iat')! > latest) throw new InvalidError('iat is in the future');
    if (nbf > latest || nbf > exp) throw new InvalidError('nbf is in the future, or after exp');
    if (exp > latest + lifetime) throw new InvalidError('exp is further off than the longest lifetime');
  }

  /** Returns the keys of the revocations that would name the token: one for each value of each claim that any record names. */
  private revocationKeys(kid: string, claims: Map<string, string>): Uint32Array {
    const keys: number[] = [];
    for (const name of this.facts.names) {
      // A revocation of a kid means the header's; a claim of that name in the payload means nothing.
      if (name === 'kid') {
        keys.push(...this.key(name, kid));
        continue;
      }
      const value = claims.get(name);
      for (const one of value === undefined ? [] : elements(value) ?? [value]) {
        const text = canonical(one);
        if (text === undefined) throw new InvalidError(`claim ${JSON.stringify(name)} is revocable and has a number that is too large to compare`);
        if (text !== null) keys.push(...this.key(name, text));
      }
    }
    return Uint32Array.from(keys);
  }

  /** The key of a claim's value (docs/protocol.md, section 2.1). */
  key(claim: string, value: string): [number, number, number, number] {
    return hash(this.facts.secret, [this.facts.issuer, claim, value]);
  }

  /**
   * Says whether a record kills the token. It looks the keys up only where the
   * set has changed since they were last looked up in vain.
   */
  revoked(e: Entry): boolean {
    const { set } = this.facts;
    if (e.position === set.position) return false;
    for (let at = 0; at < e.keys.length; at += 4) {
      if (e.claims.revision < set.lookup(e.keys, at)) return true;
    }
    e.position = set.position;
    return false;
  }

  /** Says whether the facts differ in nothing from these. */
  same(o: Facts): boolean {
    const f = this.facts;
    return f.set === o.set && f.keysText === o.keysText && f.secret.equals(o.secret) && f.issuer === o.issuer &&
      f.audience === o.audience && f.lifetime === o.lifetime && f.names.size === o.names.size && [...f.names].every((n) => o.names.has(n));
  }
}

function fail(claim: string): never {
  throw new InvalidError(`${claim} is missing, or not of its type`);
}

/** Every one of the claims that are strings is required, and has something in it. */
function text(claims: Map<string, string>, name: string): string {
  return string(claims.get(name) ?? '') || fail(name);
}

/** Reads a NumericDate (RFC 7519, section 2) as Unix milliseconds. */
function instant(claims: Map<string, string>, name: string): number | undefined {
  const t = decimal(claims.get(name) ?? '');
  return t && (t.whole + t.rest) * 1000;
}
