interface Members {
  /** `iss` */
  readonly issuer: string;
  /** `sub`; this and the next three are empty in a token of another issuer that lacks them */
  readonly subject: string;
  /** `client_id` */
  readonly client: string;
  /** `sid`; empty in a token that a client has for itself */
  readonly session: string;
  /** `jti` */
  readonly id: string;
  /** `aud`, one member or more; of another issuer perhaps none */
  readonly audience: readonly string[];
  /** `iat`; an invalid date in a token of another issuer that has none */
  readonly issuedAt: Date;
  /** `exp`: from this moment on the token is dead */
  readonly expires: Date;
  /** `rev`: head of the log when the token was issued; 0 in a token of another issuer */
  readonly revision: number;
}

export interface Claims extends Members {}

/** The claims of a token that a verifier accepted. The same are returned for the same token to everyone: they are frozen. */
export class Claims {
  readonly #token: string;

  /** @internal */
  constructor(token: string, members: Members) {
    this.#token = token;
    Object.assign(this, members);
    Object.freeze(this.audience);
    Object.freeze(this);
  }

  /** Returns the whole payload, private claims too, as JSON.parse does: a new object each time. */
  decode(): Record<string, unknown> {
    return JSON.parse(Buffer.from(this.#token.split('.')[1] ?? '', 'base64url').toString()) as Record<string, unknown>;
  }

  /** @internal */
  static token(c: Claims): string {
    return c.#token;
  }
}
