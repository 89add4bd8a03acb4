import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Claims } from './claims.js';
import { QuashError, StaleError } from './errors.js';
import type { RoutePolicy, Verifier } from './verifier.js';

declare module 'http' {
  interface IncomingMessage {
    /** The claims of the request's token, behind {@link protect}. */
    auth?: Claims;
  }
}

/** What a protected route does otherwise than by default. */
export interface ProtectOptions extends RoutePolicy {
  /**
   * Finds the token in a request: undefined where there is none. It throws where
   * the request is malformed. Default: the Authorization header (RFC 6750, section
   * 2.1).
   */
  token?: (request: IncomingMessage) => string | undefined;
}

/** Middleware as Express and Connect call it. */
export type Middleware = (request: IncomingMessage, response: ServerResponse, next: (error?: unknown) => void) => void;

/** The request has no token: 401 without an error code (RFC 6750, section 3.1). */
export class NoTokenError extends Error {}

/** The request's credentials are malformed: 400. */
export class RequestError extends Error {}

const routes = new WeakMap<IncomingMessage, { verifier: Verifier; tolerance: number; response: ServerResponse | undefined }>();

/**
 * Returns middleware that goes on to `next` for requests with an accepted
 * token, whose claims are then `request.auth`, and answers others as
 * {@link writeError} does. With plain http, `next` is the handler.
 *
 * Each call is one route, which counts for as long as the verifier lives; its
 * policy is to refuse while the verifier is stale, unless an option says
 * otherwise. A response to a request that was accepted then has the header
 * Quash-Stale, with the whole seconds since the lease ended.
 */
export function protect(verifier: Verifier, options: ProtectOptions = {}): Middleware {
  const check = gate(verifier, options);
  return (request, response, next) => {
    let late: number;
    try {
      late = check(request, response);
    } catch (error) {
      if (!expected(error)) return next(error);
      return writeError(response, error);
    }
    if (late >= 0) response.setHeader('Quash-Stale', Math.floor(late / 1000));
    next();
  };
}

/** @internal Returns what accepts a request or throws, and returns how late the lease is: -1 where it lasts. */
export function gate(verifier: Verifier, options: ProtectOptions): (request: IncomingMessage, response?: ServerResponse) => number {
  const tolerance = verifier.route(options);
  const find = options.token ?? bearer;
  return (request, response) => {
    const token = found(find, request);
    const { claims, late } = verifier.admit(token, tolerance);
    request.auth = claims;
    routes.set(request, { verifier, tolerance, response });
    return late;
  };
}

function found(find: (request: IncomingMessage) => string | undefined, request: IncomingMessage): string {
  let token: string | undefined;
  try {
    token = find(request);
  } catch (error) {
    throw new RequestError('the request is malformed', { cause: error });
  }
  if (!token) throw new NoTokenError('the request has no token');
  return token;
}

/** @internal Says whether an error is one that a client is answered for. */
export function expected(error: unknown): error is Error {
  return error instanceof QuashError || error instanceof NoTokenError || error instanceof RequestError;
}

/**
 * Returns a signal that aborts when the token of a request behind
 * {@link protect} is no longer accepted on its route, with the error that says
 * why; and when the response is over. It is for what lives longer than a request:
 * an event stream, a long job.
 */
export function notify(request: IncomingMessage): AbortSignal {
  const route = routes.get(request);
  if (!route || !request.auth) throw new Error('notify: the request carries no claims: is the handler behind protect?');
  const over = new AbortController();
  route.response?.once('close', () => over.abort(new Error('the response is over')));
  return route.verifier.notifyFor(request.auth, route.tolerance, over.signal);
}

/** Returns the token of the one Authorization header (RFC 6750, section 2.1; RFC 9110, section 11.4): undefined where there is none of the scheme. */
export function bearer(request: IncomingMessage): string | undefined {
  const { rawHeaders } = request;
  let value: string | undefined;
  for (let i = 0; i < rawHeaders.length; i += 2) {
    if (rawHeaders[i]!.length !== 13 || rawHeaders[i]!.toLowerCase() !== 'authorization') continue;
    if (value !== undefined) throw new RequestError('more than one Authorization header');
    value = rawHeaders[i + 1]!;
  }
  if (value === undefined || !/^bearer(?: |$)/i.test(value)) return undefined;
  const token = value.slice(7).replace(/^ +/, '');
  if (!/^[A-Za-z0-9\-._~+/]+=*$/.test(token)) throw new RequestError('the credentials are not one token');
  return token;
}

/** An answer as RFC 9457 describes it. */
export interface Problem {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail: string;
}

const realm = 'Bearer realm="quash"';

const noToken = {
  type: 'urn:quash:problem:no-token', title: 'No access token', status: 401,
  detail: 'This resource needs an access token in the Authorization header.',
};
const malformed = {
  type: 'urn:quash:problem:invalid-request', title: 'Malformed credentials', status: 400,
  detail: 'Send one access token: one Authorization header of the form Bearer and the token.',
};
// Invalid, expired and revoked tokens have the same, because the difference helps nobody but an attacker.
const badToken = {
  type: 'urn:quash:problem:invalid-token', title: 'Access token not accepted', status: 401,
  detail: 'The access token is invalid, expired or revoked. Refresh it once; log in again only if that answers invalid_grant.',
};
const stale = {
  type: 'urn:quash:problem:stale', title: 'Tokens cannot be checked now', status: 503,
  detail: 'This server is not sure to know every revocation. Keep your tokens and try again.',
};
const unknown = { type: 'about:blank', title: 'Internal Server Error', status: 500, detail: '' };

const challenges = new Map<Problem, string>([
  [noToken, realm],
  [malformed, `${realm}, error="invalid_request", error_description="The request has malformed credentials, or more than one"`],
  [badToken, `${realm}, error="invalid_token", error_description="The access token is invalid, expired or revoked"`],
]);

/** Returns the problem that answers an error, which says nothing of its text. */
export function problemOf(error: unknown): Problem {
  if (error instanceof StaleError) return stale;
  if (error instanceof QuashError) return badToken;
  if (error instanceof NoTokenError) return noToken;
  return error instanceof RequestError ? malformed : unknown;
}

/** @internal Returns the headers and the body of the answer to an error. */
export function answer(error: unknown): { status: number; headers: Record<string, string>; body: string } {
  const p = problemOf(error);
  const challenge = challenges.get(p);
  return {
    status: p.status, body: JSON.stringify(p) + '\n',
    headers: {
      'Content-Type': 'application/problem+json', 'Cache-Control': 'no-store',
      ...(challenge && { 'WWW-Authenticate': challenge }), ...(p === stale && { 'Retry-After': '2' }),
    },
  };
}

/**
 * Answers a request whose token was not accepted: 401 with a challenge where it
 * is invalid, expired or revoked (RFC 6750, section 3), which look alike; 503 with
 * Retry-After where the verifier is stale; 500 for any other error. The body is
 * a problem (RFC 9457).
 */
export function writeError(response: ServerResponse, error: unknown): void {
  const { status, headers, body } = answer(error);
  response.writeHead(status, headers).end(body);
}
