import type { KeyObject } from 'node:crypto';
import { hash } from './digest.js';
import { Claims } from './claims.js';
import { InvalidError, StaleError } from './errors.js';
import { canonical, decimal, elements, integer, string } from './json.js';
import { authentic, keyOf, typeName, type Trusted } from './issuers.js';
import { object, parse, type PublicKey, type Token } from './jws.js';
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
  readonly age: number | undefined; // of another issuer's token: Unix seconds of iat less the skew; -Infinity where it has none
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
  readonly others: readonly Trusted[]; // other issuers whose tokens are accepted
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
    const t = parse(token);
    const other = this.facts.others.length === 0 ? undefined : this.issuerOf(t);
    if (other) return this.verifyOther(t, token, other, now);
    const claims = this.authenticate(t);
    const c = this.read(claims, token);
    this.check(c, claims, now);
    return {
      claims: c, expires: instant(claims, 'exp')!, generation: this.generation, age: undefined,
      keys: this.revocationKeys(this.facts.issuer, t.kid, claims), position: -1, used: false,
    };
  }

  /** Proves that a key of the issuer signed the token as an access token (RFC 9068, section 4). */
  private authenticate(t: Token): Map<string, string> {
    if (t.kid === '' || t.certificate) throw new InvalidError('the header has no kid, or names a certificate, which is never accepted');
    const key = this.facts.keys.get(t.kid);
    if (!key) throw new UnknownKeyError('the issuer has no key of that kid');
    if (!key.signed(t)) throw new InvalidError('the key did not sign it');
    if (typeName(t.typ) !== 'at+jwt') throw new InvalidError('typ is not at+jwt');
    return object(t.claims);
  }

  /**
   * Returns the other issuer whose token this says to be, which nothing proves
   * yet, and undefined where it must be one of the node's issuer. A token without
   * iss can only be told by the secret that it was signed with.
   */
  private issuerOf(t: Token): Trusted | undefined {
    const iss = object(t.claims).get('iss');
    if (iss !== undefined) return this.facts.others.find((i) => i.name === string(iss));
    return this.facts.others.find((i) => i.secret && authentic(t, i.secret));
  }

  /** Checks everything of another issuer's token that no revocation changes, but for expiry. */
  private verifyOther(t: Token, token: string, i: Trusted, now: number): Entry {
    const kid = i.secret ? this.sealed(t, i.secret) : this.signed(t, i);
    if (!i.types.includes(typeName(t.typ))) throw new InvalidError('typ is none that is accepted of the issuer');
    const claims = object(t.claims);
    if (!claims.has('iss')) claims.set('iss', JSON.stringify(i.name)); // so that a revocation of it names this token, too
    const optional = (name: string) => (claims.has(name) ? string(claims.get(name)!) ?? fail(name) : '');
    const aud = claims.get('aud');
    const audience = (aud === undefined ? [] : elements(aud) ?? [aud]).map((value) => string(value) ?? fail('aud'));
    const { iat, exp } = times(claims, now, i.lifetime, i.skew * 1000);
    const expires = Math.min(exp, i.until);
    if (iat !== undefined && exp > iat + i.lifetime) throw new InvalidError('it lives longer than the longest lifetime');
    if (i.audience === undefined ? aud !== undefined : !audience.includes(i.audience)) throw new InvalidError('aud is not the audience');
    const c = new Claims(token, {
      issuer: i.name, subject: optional('sub'), client: optional('client_id'), session: optional('sid'), id: optional('jti'), audience,
      issuedAt: new Date(iat ?? NaN), expires: new Date(expires), revision: 0,
    });
    return {
      claims: c, expires, generation: this.generation, age: iat === undefined ? -Infinity : Math.floor(iat / 1000) - i.skew,
      keys: this.revocationKeys(i.name, kid, claims), position: -1, used: false,
    };
  }

  /** Proves that the token bears the code of a secret. Returns its kid, which is the application's own affair. */
  private sealed(t: Token, secret: KeyObject): string {
    if (!authentic(t, secret)) throw new InvalidError('it was signed with another secret');
    return t.kid;
  }

  /** Proves that one of an issuer's keys signed the token. Returns its kid. */
  private signed(t: Token, i: Trusted): string {
    if (!i.keys) throw new StaleError(`the keys of ${i.name} have not been loaded yet`);
    const key = keyOf(t, i.keys);
    if (!key) {
      i.source?.missed();
      throw new InvalidError('the issuer has no such key');
    }
    if (!key.signed(t)) throw new InvalidError('the key did not sign it');
    return key.kid;
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
    if (c.issuer !== issuer) throw new InvalidError('iss is not the issuer');
    if (!c.audience.includes(audience)) throw new InvalidError('aud does not contain the audience');
    times(claims, now, lifetime, leeway);
  }

  /** Returns the keys of the revocations that would name the token: one for each value of each claim that any record names. */
  private revocationKeys(issuer: string, kid: string, claims: Map<string, string>): Uint32Array {
    const keys: number[] = [];
    for (const name of this.facts.names) {
      // A revocation of a kid means the header's; a claim of that name in the payload means nothing.
      if (name === 'kid') {
        if (kid !== '') keys.push(...this.key(name, kid, issuer));
        continue;
      }
      const value = claims.get(name);
      for (const one of value === undefined ? [] : elements(value) ?? [value]) {
        const text = canonical(one);
        // Quash's own issuer writes no such number; in another's token none can be named, so none is revoked.
        if (text === undefined && issuer !== this.facts.issuer) continue;
        if (text === undefined) throw new InvalidError(`claim ${JSON.stringify(name)} is revocable and has a number that is too large to compare`);
        if (text !== null) keys.push(...this.key(name, text, issuer));
      }
    }
    return Uint32Array.from(keys);
  }

  /** The key of a claim's value (docs/protocol.md, section 2.1). */
  key(claim: string, value: string, issuer = this.facts.issuer): [number, number, number, number] {
    return hash(this.facts.secret, [issuer, claim, value]);
  }

  /**
   * Says whether a record kills the token. It looks the keys up only where the
   * set has changed since they were last looked up in vain.
   */
  revoked(e: Entry): boolean {
    const { set } = this.facts;
    if (e.position === set.position) return false;
    for (let at = 0; at < e.keys.length; at += 4) {
      if (e.age === undefined ? e.claims.revision < set.lookup(e.keys, at) : e.age <= set.lookupTime(e.keys, at)) return true;
    }
    e.position = set.position;
    return false;
  }

  /** Says whether the facts differ in nothing from these. */
  same(o: Facts): boolean {
    const f = this.facts;
    return f.set === o.set && f.others === o.others && f.keysText === o.keysText && f.secret.equals(o.secret) && f.issuer === o.issuer &&
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

/** Judges the times of a token, in Unix milliseconds, but for expiry: iat may be missing only where the caller bears it. */
function times(claims: Map<string, string>, now: number, lifetime: number, skew: number): { iat: number | undefined; exp: number } {
  const latest = now + skew;
  const time = (name: string) => (claims.has(name) ? instant(claims, name) ?? fail(name) : undefined);
  const exp = time('exp') ?? fail('exp');
  const iat = time('iat');
  const nbf = time('nbf') ?? 0;
  if (iat !== undefined && iat > latest) throw new InvalidError('iat is in the future');
  if (nbf > latest || nbf > exp) throw new InvalidError('nbf is in the future, or after exp');
  if (exp > now + Math.max(skew, leeway) + lifetime) throw new InvalidError('exp is further off than the longest lifetime');
  return { iat, exp };
}

/** Reads a NumericDate (RFC 7519, section 2) as Unix milliseconds. */
function instant(claims: Map<string, string>, name: string): number | undefined {
  const t = decimal(claims.get(name) ?? '');
  return t && (t.whole + t.rest) * 1000;
}
