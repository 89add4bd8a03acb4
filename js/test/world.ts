/** A real server, a real Go verifier and what stands between them and the one in TypeScript. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, connect, type AddressInfo, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Tokens } from '@quash/quash/client';

export const js = fileURLToPath(new URL('../../', import.meta.url));

/** Where a Go program is that was built for the tests. BUILT_QUASH names another quash. */
export function program(name: 'quash' | 'goverifier'): string {
  return (name === 'quash' && process.env['BUILT_QUASH']) || join(js, 'build', 'bin', name);
}

/** Starts a program that does not outlive this one. */
export function start(command: string, args: string[], env: NodeJS.ProcessEnv = {}): ChildProcess {
  const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ['pipe', 'pipe', process.env['VERBOSE'] ? 'inherit' : 'ignore'] });
  const kill = () => child.kill('SIGKILL');
  process.on('exit', kill);
  child.on('exit', () => process.off('exit', kill));
  return child;
}

export async function freePort(): Promise<number> {
  for (;;) {
    // Below what systems give to connections, so that none takes it while the server is down.
    const port = 10_000 + Math.floor(Math.random() * 20_000);
    const server = createServer().listen(port, '127.0.0.1');
    const free = await Promise.race([once(server, 'listening').then(() => true), once(server, 'error').then(() => false)]).catch(() => false);
    server.close();
    if (free) return port;
  }
}

export class World {
  readonly data = mkdtempSync(join(tmpdir(), 'quash-js-'));
  private server!: ChildProcess;
  public = '';
  private private = '';
  private key = '';
  private ports: [number, number] = [0, 0];

  constructor(private readonly flags: string[]) {}

  static async start(flags: string[] = []): Promise<World> {
    const w = new World(flags);
    w.ports = [await freePort(), await freePort()];
    w.public = `http://127.0.0.1:${w.ports[0]}`;
    w.private = `http://127.0.0.1:${w.ports[1]}`;
    await w.serve();
    w.key = readFileSync(join(w.data, 'admin.key'), 'utf8').trim();
    return w;
  }

  /** Starts the server, and waits until it serves. */
  async serve(): Promise<void> {
    this.server = start(program('quash'), [
      'serve', '--data', this.data, '--public', `127.0.0.1:${this.ports[0]}`, '--private', `127.0.0.1:${this.ports[1]}`, '--requests-per-second', '100000', ...this.flags,
    ]);
    this.server.stdout!.resume();
    for (let tries = 0; ; tries++) {
      const ready = await fetch(`${this.private}/readyz`).then((r) => r.ok, () => false);
      if (ready && existsSync(join(this.data, 'admin.key'))) return;
      if (tries > 400 || this.server.exitCode !== null) throw new Error('the server does not start');
      await sleep(25);
    }
  }

  async end(signal: NodeJS.Signals): Promise<void> {
    const gone = once(this.server, 'exit');
    this.server.kill(signal);
    await gone;
  }

  pause(): void {
    this.server.kill('SIGSTOP');
  }

  resume(): void {
    this.server.kill('SIGCONT');
  }

  async stop(): Promise<void> {
    this.resume();
    if (this.server.exitCode === null) await this.end('SIGKILL');
    rmSync(this.data, { recursive: true, force: true });
  }

  async admin<T>(method: string, path: string, body?: object, wait = 10): Promise<T> {
    const response = await fetch(`${this.private}/v1/admin/${path}`, {
      method, headers: { 'Authorization': `Bearer ${this.key}`, 'Content-Type': 'application/json', 'Prefer': `wait=${wait}` },
      ...(body && { body: JSON.stringify(body) }),
    });
    const answer = await response.json() as T & { detail?: string };
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${answer.detail}`);
    return answer;
  }

  /** Makes an account, with a password where it has a name. */
  async account(subject: string, more: object = {}): Promise<void> {
    await this.admin('POST', 'accounts', { subject, ...more });
  }

  /** Opens a session of an account. */
  open(subject: string, device: object = {}): Promise<Tokens> {
    return this.admin('POST', `accounts/${subject}/sessions`, device);
  }

  /** Revokes, and returns whether it was confirmed in time. */
  async revoke(claim: string, value: string, wait = 10): Promise<boolean> {
    const effect = await this.admin<{ confirmation?: { confirmed: boolean } }>('POST', 'revocations', { claim, value }, wait);
    return effect.confirmation?.confirmed ?? false;
  }

  async verifierKey(name: string): Promise<string> {
    return (await this.admin<{ secret: string }>('POST', 'keys', { name, scopes: ['feed'] })).secret;
  }

  /** Starts a proxy to what verifiers connect to. */
  proxy(): Promise<Proxy> {
    return Proxy.start(this.ports[1]);
  }
}

/** Passes connections on, until it is cut. */
export class Proxy {
  private readonly sockets = new Set<Socket>();
  private open = true;

  private constructor(private readonly server: Server) {}

  static async start(port: number): Promise<Proxy> {
    const server = createServer();
    const proxy = new Proxy(server);
    server.on('connection', (socket) => {
      if (!proxy.open) return socket.destroy();
      const target = connect(port, '127.0.0.1');
      for (const [one, other] of [[socket, target], [target, socket]] as const) {
        proxy.sockets.add(one);
        one.on('error', () => {});
        one.on('close', () => {
          proxy.sockets.delete(one);
          other.destroy();
        });
        one.pipe(other);
      }
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return proxy;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  cut(): void {
    this.open = false;
    for (const socket of this.sockets) socket.destroy();
  }

  restore(): void {
    this.open = true;
  }

  close(): void {
    this.cut();
    this.server.close();
  }
}

/** Starts the Go verifier, and returns its address once it accepts tokens. */
export async function goVerifier(url: string, key: string): Promise<{ url: string; stop: () => Promise<void> }> {
  const child = start(program('goverifier'), [], { QUASH_URL: url, QUASH_KEY: key });
  for await (const line of createInterface(child.stdout!)) {
    return {
      url: line,
      stop: async () => {
        const gone = once(child, 'exit');
        child.stdin!.end();
        await gone;
      },
    };
  }
  throw new Error('the Go verifier does not start');
}

/** Waits until a condition holds. */
export async function eventually(condition: () => boolean | Promise<boolean>, what: string, within = 10_000): Promise<void> {
  for (const began = Date.now(); Date.now() - began < within;) {
    if (await condition()) return;
    await sleep(10);
  }
  throw new Error(`never: ${what}`);
}
