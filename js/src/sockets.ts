/**
 * Sockets that end with their token: socket.io and ws. What is asked of them is
 * written down as interfaces, so that neither has to be installed.
 */
import { STATUS_CODES, type IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import type { Claims } from './claims.js';
import { InvalidError, type QuashError } from './errors.js';
import { answer, bearer, expected, gate, NoTokenError, problemOf, RequestError, type ProtectOptions } from './http.js';
import type { RoutePolicy, Verifier, Watched } from './verifier.js';

/** A socket's token, for as long as it is accepted. */
class Tether {
  private watched: Watched;
  private over = false;

  /** Tells end, once, why the token is no longer accepted; perhaps at once. */
  constructor(readonly verifier: Verifier, readonly tolerance: number, public claims: Claims, private readonly end: (why: QuashError) => void) {
    this.watched = this.watch();
  }

  private watch(): Watched {
    return this.verifier.watch(this.claims, this.tolerance, (why) => {
      if (this.over) return;
      this.over = true;
      this.end(why as QuashError);
    });
  }

  /** Puts a fresh token of the same session in place of the present one. */
  renew(token: string): Claims {
    const { claims } = this.verifier.admit(token, this.tolerance);
    if (claims.session !== this.claims.session) throw new InvalidError('it is of another session: connect again with it');
    if (this.over) throw new InvalidError('the socket has ended already');
    this.watched.release();
    this.claims = claims;
    this.watched = this.watch();
    return claims;
  }

  release(): void {
    this.over = true;
    this.watched.release();
  }
}

const tethers = new WeakMap<object, Pick<Tether, 'claims'>>();

/** Returns the claims of a protected socket's token, of socket.io or ws: of the latest, where it was renewed. */
export function claimsOf(socket: object): Claims {
  const tether = tethers.get(socket);
  if (!tether) throw new Error('claimsOf: the socket carries no claims: is it protected?');
  return tether.claims;
}

// ws

/** What is asked of a WebSocket of ws. */
export interface WebSocketLike {
  close(code: number, reason: string): void;
  terminate(): void;
  removeAllListeners(event: string): unknown;
  once(event: 'close', listener: () => void): unknown;
}

/** What is asked of a WebSocketServer of ws, made with `noServer`. */
export interface WebSocketServerLike<Socket extends WebSocketLike> {
  handleUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer, done: (ws: Socket, request: IncomingMessage) => void): void;
  emit(event: 'connection', ws: Socket, request: IncomingMessage): boolean;
}

/** The close code of a WebSocket whose token ended (RFC 6455, section 7.4.1: a policy is violated); the reason is the error's code. */
export const closeCode = 1008;

/** How long a peer has to answer that its WebSocket closes. Nothing that it sends meanwhile is heard. */
const closeWithin = 1_000;

/**
 * Returns a listener for an HTTP server's `upgrade` that hands on to a
 * WebSocketServer what comes with an accepted token, and answers the rest as
 * `writeError` does. The token stands in the Authorization header or, since
 * browsers cannot set one, among the subprotocols behind `bearer.`:
 * `new WebSocket(url, ['chat', 'bearer.' + token])`. The WebSocket is closed
 * within milliseconds of its token's end, with {@link closeCode}.
 */
export function protectUpgrade<Socket extends WebSocketLike>(
  server: WebSocketServerLike<Socket>, verifier: Verifier, options: ProtectOptions = {},
): (request: IncomingMessage, socket: Duplex, head: Buffer) => void {
  const check = gate(verifier, { token: upgradeToken, ...options });
  const tolerance = options.acceptStale === undefined ? 0 : options.acceptStale * 1000;
  return (request, socket, head) => {
    try {
      check(request);
    } catch (error) {
      refuse(socket, error);
      if (!expected(error)) throw error;
      return;
    }
    server.handleUpgrade(request, socket, head, (ws) => {
      let open = true;
      const tether = new Tether(verifier, tolerance, request.auth!, (why) => {
        open = false;
        ws.removeAllListeners('message');
        ws.close(closeCode, why.code);
        setTimeout(() => ws.terminate(), closeWithin).unref();
      });
      tethers.set(ws, tether);
      ws.once('close', () => tether.release());
      if (open) server.emit('connection', ws, request);
    });
  };
}

/**
 * Puts a fresh token of the same session in place of a WebSocket's, which goes
 * on then, and returns its claims. Throws as `verify` does, and leaves the
 * socket as it was then.
 */
export function renew(ws: WebSocketLike, token: string): Claims {
  const tether = tethers.get(ws);
  if (!(tether instanceof Tether)) throw new Error('renew: the socket carries no claims: is it protected?');
  return tether.renew(token);
}

function upgradeToken(request: IncomingMessage): string | undefined {
  const offered = (request.headers['sec-websocket-protocol'] ?? '').split(',').map((p) => p.trim()).filter((p) => p.startsWith('bearer.'));
  const tokens = [bearer(request), ...offered.map((p) => p.slice('bearer.'.length))].filter((t) => t !== undefined);
  if (tokens.length > 1) throw new RequestError('more than one token');
  return tokens[0];
}

function refuse(socket: Duplex, error: unknown): void {
  const { status, headers, body } = answer(error);
  const head = Object.entries({ ...headers, 'Content-Length': Buffer.byteLength(body), 'Connection': 'close' }).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.on('error', () => {});
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${head.join('')}\r\n${body}`);
}

// socket.io

/** What is asked of a socket of socket.io. */
export interface SocketLike {
  readonly handshake: { readonly auth: { readonly [name: string]: unknown } };
  readonly recovered: boolean;
  data: unknown;
  emit(event: string, ...args: unknown[]): unknown;
  on(event: string, listener: (...args: unknown[]) => void): unknown;
  disconnect(close?: boolean): unknown;
}

/** What is asked of a namespace of socket.io. */
export interface NamespaceLike {
  use(middleware: (socket: SocketLike, next: (error?: Error) => void) => void): unknown;
  on(event: 'connection', listener: (socket: SocketLike) => void): unknown;
  readonly adapter: unknown;
}

/** What is asked of a server of socket.io. */
export interface ServerLike {
  of(name: string): NamespaceLike;
  on(event: 'new_namespace', listener: (namespace: NamespaceLike) => void): unknown;
}

export interface SocketOptions<Socket extends SocketLike = SocketLike> extends RoutePolicy {
  /** Finds the token of a socket. Default: `auth.token` of its handshake, as in `io(url, { auth: { token } })`. */
  token?: (socket: Socket) => string | undefined;
}

/** The event that tells a client why its socket is about to be closed: `{ code }`. */
export const endEvent = 'quash:end';

/** The event with which a client presents a fresh token and stays: the token, and a callback that gets `{ ok, code }`. */
export const renewEvent = 'quash:renew';

/**
 * Protects every namespace of a socket.io server, and those that are made
 * later: a socket connects with an accepted token, and is closed within
 * milliseconds of the token's end. It is called before namespaces other than the
 * main one are made, and after the adapter was set.
 *
 * Connection state recovery gives a socket back what it missed before any
 * middleware runs; so it recovers only what a token that is still accepted had
 * left, to a token of the same session, and middlewares are never skipped.
 */
export function protectSockets<Socket extends SocketLike = SocketLike>(server: ServerLike, verifier: Verifier, options: SocketOptions<Socket> = {}): void {
  const tolerance = verifier.route(options);
  const find = options.token ?? ((socket) => typeof socket.handshake.auth['token'] === 'string' ? socket.handshake.auth['token'] : undefined);
  const guard = new SocketGuard(verifier, tolerance, find as (socket: SocketLike) => string | undefined);
  const { opts } = server as { opts?: { connectionStateRecovery?: { skipMiddlewares?: boolean } } };
  if (opts?.connectionStateRecovery) opts.connectionStateRecovery.skipMiddlewares = false;
  guard.protect(server.of('/'));
  server.on('new_namespace', (namespace) => guard.protect(namespace));
}

interface SavedSession {
  readonly data: unknown;
}

interface Recovery {
  restoreSession?(pid: string, offset: string): SavedSession | null | Promise<SavedSession | null>;
}

class SocketGuard {
  // By the data of a socket that may be recovered, which its successor gets.
  private readonly left = new WeakMap<object, Claims>();

  constructor(private readonly verifier: Verifier, private readonly tolerance: number, private readonly find: (socket: SocketLike) => string | undefined) {}

  protect(namespace: NamespaceLike): void {
    this.restrict(namespace.adapter as Recovery);
    namespace.use((socket, next) => {
      try {
        tethers.set(socket, { claims: this.authenticate(socket) });
      } catch (error) {
        if (!expected(error)) return next(error as Error);
        const problem = problemOf(error);
        return next(Object.assign(new Error(problem.title), { data: problem }));
      }
      next();
    });
    namespace.on('connection', (socket) => this.attach(socket));
  }

  private authenticate(socket: SocketLike): Claims {
    const token = this.find(socket);
    if (!token) throw new NoTokenError('the handshake has no token');
    const { claims } = this.verifier.admit(token, this.tolerance);
    if (socket.recovered && this.saved(socket.data)?.session !== claims.session) throw new InvalidError('the socket was of another session');
    return claims;
  }

  private attach(socket: SocketLike): void {
    const end = ({ code }: { code?: string }) => {
      socket.emit(endEvent, { code });
      socket.disconnect(true);
    };
    let tether: Tether;
    try {
      // Where middlewares were skipped after all, it is authenticated here.
      tether = new Tether(this.verifier, this.tolerance, tethers.get(socket)?.claims ?? this.authenticate(socket), end);
    } catch (error) {
      return end(error as QuashError);
    }
    tethers.set(socket, tether);
    socket.on(renewEvent, (token, reply) => {
      const outcome = this.renewed(tether, token);
      if (typeof reply === 'function') (reply as (outcome: object) => void)(outcome);
    });
    socket.on('disconnecting', () => {
      tether.release();
      if (typeof socket.data === 'object' && socket.data) this.left.set(socket.data, tether.claims);
    });
  }

  private renewed(tether: Tether, token: unknown): { ok: boolean; code?: string } {
    try {
      tether.renew(String(token));
      return { ok: true };
    } catch (error) {
      return { ok: false, code: (error as QuashError).code };
    }
  }

  private saved(data: unknown): Claims | undefined {
    return typeof data === 'object' && data ? this.left.get(data) : undefined;
  }

  /** Has an adapter give back only what a token that is still accepted had left. */
  private restrict(adapter: Recovery): void {
    const restore = adapter.restoreSession?.bind(adapter);
    if (!restore) return;
    adapter.restoreSession = async (pid, offset) => {
      const session = await restore(pid, offset);
      const claims = this.saved(session?.data);
      return claims && this.verifier.accepts(claims, this.tolerance) ? session : null;
    };
  }
}
