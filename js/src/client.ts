/**
 * What a browser or a program does with the tokens of a Quash server: it sends
 * them, refreshes them once for all that ask, and forgets them only where the
 * server says that the session has ended. It needs nothing of Node.
 */

/** What a login or a refresh gives. */
export interface Tokens {
  readonly access_token: string;
  /** Left out where it is in the cookie. */
  readonly refresh_token?: string;
  readonly expires_in: number;
  readonly session: string;
  readonly subject: string;
}

/** What is kept of a session. */
export interface Kept extends Tokens {
  /** The Idempotency-Key of the refresh of this refresh token, from its first attempt on. */
  readonly attempt?: string;
}

/** Where the tokens are kept. Every tab that shares a store shares the session. */
export interface Store {
  get(): Kept | undefined;
  set(kept: Kept | undefined): void;
  /** Calls listener when another tab has set something. */
  subscribe?(listener: () => void): void;
}

/** What is asked of `navigator.locks`. */
export interface Locks {
  request<T>(name: string, callback: () => Promise<T>): Promise<T>;
}

export interface ClientOptions {
  /** The base of the Quash server's public listener. */
  url: string;
  /** Origins beside those of the page and of `url` that tokens are sent to. To others none ever is. */
  origins?: readonly string[];
  /**
   * Keeps the refresh token in a cookie that no script can read, and the access
   * token in the memory of this tab. For pages of an origin that the server was
   * given; begin each with `resume`.
   */
  cookie?: boolean;
  /** Default: localStorage where there is one, so that tabs share the session; else, and with `cookie`, memory. */
  store?: Store;
  /** Called when the session has ended here, in another tab, or by the server's word. */
  onSignedOut?: () => void;
  /** Default: the Web Locks of the browser; where there are none, one of this process. */
  locks?: Locks;
  /** Default: the global one. */
  fetch?: typeof fetch;
}

/** A request of the client's own that was refused. `status` is 0 where there was no answer. */
export class RequestFailed extends Error {
  override readonly name = 'RequestFailed';

  constructor(readonly status: number, readonly code: string, message: string, options?: ErrorOptions) {
    super(message, options);
  }
}

/** A session at a Quash server. */
export class Client {
  private readonly base: string;
  private readonly origins: Set<string>;
  private readonly store: Store;
  private readonly locks: Locks;
  private readonly send: typeof fetch;
  private refreshing: { used: string; result: Promise<Kept | undefined> } | undefined; // of this tab, the latest
  private known: boolean; // whether there was a session when last looked at
  private ended = 0; // how often this tab signed out

  constructor(private readonly options: ClientOptions) {
    this.base = options.url.replace(/\/*$/, '');
    const page = (globalThis as { location?: { origin: string } }).location;
    this.origins = new Set([new URL(this.base).origin, ...(page ? [page.origin] : []), ...(options.origins ?? []).map((o) => new URL(o).origin)]);
    const name = `quash:${this.base}`;
    this.store = options.store ?? (options.cookie ? tabStore(name) : defaultStore(name));
    this.locks = options.locks ?? (globalThis as { navigator?: { locks?: Locks } }).navigator?.locks ?? processLocks;
    this.send = options.fetch ?? ((input, init) => fetch(input, init));
    this.known = this.signedIn;
    this.store.subscribe?.(() => this.look());
  }

  get signedIn(): boolean {
    return this.store.get() !== undefined;
  }

  /**
   * Returns the access token, for what fetch does not send, such as the handshake
   * of a socket; undefined where there is no session. Where it is the one that was
   * used already, and refused or about to expire, it is refreshed first.
   */
  async token(used?: string): Promise<string | undefined> {
    const kept = this.store.get();
    return (kept && kept.access_token === used ? await this.refresh(used) : kept)?.access_token;
  }

  /**
   * Goes on with the session of the cookie, if there is one, and says whether
   * there is: what a page does when it is loaded. Without `cookie` it only says so.
   */
  async resume(): Promise<boolean> {
    if (this.options.cookie && !this.signedIn) {
      const { ended } = this;
      await this.exclusive(async () => {
        if (this.signedIn) return;
        const tokens = await this.post('/v1/refresh', {}).catch(unlessOver) as Tokens | undefined;
        if (tokens && ended === this.ended) this.keep(tokens);
      });
    }
    return this.signedIn;
  }

  /** Opens a session by name and password. A sign-out that happens meanwhile wins. */
  async login(credentials: { name: string; password: string; device?: string; client?: string }): Promise<void> {
    const { ended } = this;
    await this.exclusive(async () => {
      const tokens = await this.post('/v1/login', this.options.cookie ? { ...credentials, cookie: true } : credentials) as Tokens;
      if (ended === this.ended) return this.keep(tokens);
      await this.post('/v1/logout', { refresh_token: tokens.refresh_token });
    });
  }

  /**
   * Ends the session, here at once and whatever becomes of the call. It rejects
   * where the server could not be told, which goes on with the session then.
   */
  async logout(): Promise<void> {
    const kept = this.store.get();
    this.ended++;
    this.keep(undefined);
    if (this.options.cookie) await this.post('/v1/logout', {}).catch(unlessOver);
    else if (kept) await this.post('/v1/logout', { refresh_token: kept.refresh_token });
  }

  /** Changes the password, which ends all other sessions; this one goes on with new tokens. */
  async changePassword(old: string, fresh: string): Promise<void> {
    await this.rotate(undefined, (kept) => this.post('/v1/password', { refresh_token: kept.refresh_token, old_password: old, new_password: fresh }, kept.attempt));
  }

  /**
   * Sends a request, with the access token where it goes to an origin that may
   * have it. An answer of 401 has the token refreshed, once for all requests and
   * tabs, and the request sent again, once. Any other answer is the caller's, who
   * keeps the session: only the server's word that it has ended signs out, and the
   * answer is then the 401. It rejects with RequestFailed where a refresh was needed
   * and could not be made now.
   */
  readonly fetch: typeof fetch = async (input, init) => {
    const request = new Request(input, init);
    const kept = this.origins.has(new URL(request.url).origin) ? this.store.get() : undefined;
    if (!kept) return this.send(request);
    const again = request.clone();
    const response = await this.send(authorized(request, kept));
    if (response.status !== 401) return response;
    const fresh = await this.refresh(kept.access_token);
    // Who signed in as somebody else meanwhile did not send this.
    if (fresh?.session !== kept.session) return response;
    await response.body?.cancel();
    return this.send(authorized(again, fresh));
  };

  /** Returns what is kept after the used access token was refreshed, by whomever; undefined where the session has ended. */
  private refresh(used: string): Promise<Kept | undefined> {
    if (this.refreshing?.used === used) return this.refreshing.result;
    const result = this.rotate(used, (kept) => this.post('/v1/refresh', { refresh_token: kept.refresh_token }, kept.attempt))
      .finally(() => { if (this.refreshing?.result === result) this.refreshing = undefined; });
    this.refreshing = { used, result };
    return result;
  }

  /**
   * Rotates the tokens by a call, one tab at a time. Where the access token is no
   * longer the used one, another tab has done it. The answer counts only while
   * the session that it is for is kept: it never brings back who signed out.
   */
  private rotate(used: string | undefined, call: (kept: Kept) => Promise<unknown>): Promise<Kept | undefined> {
    return this.locks.request(`quash:${this.base}`, async () => {
      let kept = this.store.get();
      if (!kept || (used !== undefined && kept.access_token !== used)) return kept;
      // Kept before it is sent, so that a tab that was closed meanwhile is continued, not taken for a thief.
      if (!kept.attempt && kept.refresh_token) this.store.set(kept = { ...kept, attempt: randomKey() });
      const current = () => this.store.get()?.access_token === kept.access_token;
      try {
        const tokens = await call(kept) as Tokens;
        // The cookie is of whoever signed in last, in whatever tab.
        if (current()) this.keep(tokens.session === kept.session ? tokens : undefined);
      } catch (error) {
        if (!(error instanceof RequestFailed) || error.code !== 'invalid_grant') throw error;
        if (current()) this.keep(undefined);
      }
      return this.store.get();
    });
  }

  private keep(tokens: Tokens | undefined): void {
    this.store.set(tokens);
    this.look();
  }

  /** Tells, once, that there is no session any more. */
  private look(): void {
    const { signedIn } = this;
    if (this.known && !signedIn) this.options.onSignedOut?.();
    this.known = signedIn;
  }

  private async post(path: string, body: object, attempt?: string): Promise<unknown> {
    const headers = { 'Content-Type': 'application/json', ...(attempt && { 'Idempotency-Key': `"${attempt}"` }) };
    let response: Response;
    try {
      response = await this.send(this.base + path, {
        method: 'POST', headers, body: JSON.stringify(body), ...(this.options.cookie && { credentials: 'include' as const }),
      });
    } catch (error) {
      throw new RequestFailed(0, 'no_answer', `${path}: the server did not answer: the tokens are kept`, { cause: error });
    }
    const answer = await response.json().catch(() => ({})) as { code?: string; detail?: string };
    if (response.ok) return answer;
    throw new RequestFailed(response.status, answer.code ?? '', `${path}: ${answer.detail ?? `the server answered ${response.status}`}`);
  }

  /** Runs a call that sets the cookie, one tab at a time: the browser keeps what came last. */
  private exclusive<T>(call: () => Promise<T>): Promise<T> {
    return this.options.cookie ? this.locks.request(`quash:${this.base}`, call) : call();
  }
}

/** Takes the server's word that there is no session for an answer. */
function unlessOver(error: unknown): undefined {
  if (!(error instanceof RequestFailed) || error.code !== 'invalid_grant') throw error;
}

function authorized(request: Request, { access_token }: Tokens): Request {
  const headers = new Headers(request.headers);
  headers.set('Authorization', `Bearer ${access_token}`);
  return new Request(request, { headers });
}

function randomKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (n) => n.toString(16).padStart(2, '0')).join('');
}

/** Returns a store in memory, for one process. */
export function memoryStore(): Store {
  let kept: Kept | undefined;
  return { get: () => kept, set: (value) => { kept = value; } };
}

function defaultStore(name: string): Store {
  if (!('addEventListener' in globalThis && 'localStorage' in globalThis)) return memoryStore();
  return {
    get: () => JSON.parse(localStorage.getItem(name) ?? 'null') as Kept | null ?? undefined,
    set: (kept) => kept ? localStorage.setItem(name, JSON.stringify(kept)) : localStorage.removeItem(name),
    subscribe: (listener) => addEventListener('storage', (event) => { if (event.key === name || event.key === null) listener(); }),
  };
}

/** Keeps the tokens in the memory of this tab, and hears where another ends their session or begins another. */
function tabStore(name: string): Store {
  const { get, set } = memoryStore();
  const channel = new BroadcastChannel(name);
  return {
    get,
    set: (kept) => {
      const before = get()?.session;
      set(kept);
      if (kept?.session !== before) channel.postMessage(kept ? { began: kept.session } : { ended: before });
    },
    subscribe: (listener) => channel.addEventListener('message', ({ data }: MessageEvent<{ began?: string; ended?: string }>) => {
      const session = get()?.session;
      if (session === undefined || (data.ended !== session && (data.began ?? session) === session)) return;
      set(undefined);
      listener();
    }),
  };
}

const tails = new Map<string, Promise<unknown>>();

/** Stands in for Web Locks where there are none: then there is one tab. */
const processLocks: Locks = {
  request(name, callback) {
    const turn = (tails.get(name) ?? Promise.resolve()).then(callback, callback);
    tails.set(name, turn);
    return turn;
  },
};
