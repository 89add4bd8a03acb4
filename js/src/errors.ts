/** Why a token was not accepted, for programs. */
export type Code = 'invalid' | 'expired' | 'revoked' | 'stale';

/**
 * What {@link Verifier.verify} throws where it does not accept a token. The
 * message is for logs: it holds no token, and must not reach a client, whom it
 * would tell which check to get past. {@link writeError} keeps to that.
 */
export abstract class QuashError extends Error {
  abstract readonly code: Code;
}

/** This is no access token of the issuer for this audience, and never was one. The client has to get another. */
export class InvalidError extends QuashError {
  readonly code = 'invalid';
  override readonly name = 'InvalidError';
}

/** The token was good until its time ran out. The client should refresh. */
export class ExpiredError extends QuashError {
  readonly code = 'expired';
  override readonly name = 'ExpiredError';
}

/** A revocation killed the token. The client should refresh once; where its session has ended that fails too. */
export class RevokedError extends QuashError {
  readonly code = 'revoked';
  override readonly name = 'RevokedError';
}

/**
 * The token would have been accepted, but the verifier cannot rely on its
 * revocations now. The client should keep the token and try again.
 */
export class StaleError extends QuashError {
  readonly code = 'stale';
  override readonly name = 'StaleError';
}
