// What npm pack makes installs and runs in an empty project, and its types check under strict.
import assert from 'node:assert/strict';
import { execFileSync, type ExecFileSyncOptionsWithStringEncoding } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { js } from './world.js';

const program = `
import { createServer } from 'node:http';
import { Verifier, protect, notify, RevokedError, type Claims, type Status } from '@quash/quash';
import { Client, memoryStore, RequestFailed } from '@quash/quash/client';
import { claimsOf, protectSockets, protectUpgrade, renew } from '@quash/quash/sockets';

const handler = async (): Promise<void> => {
  const quash: Verifier = await Verifier.open({ url: 'https://quash.internal:8081', key: 'k', audience: 'orders', signal: AbortSignal.timeout(1_000), tls: { ca: 'pem' } });
  const guard = protect(quash, { acceptStale: 60, token: (req) => req.headers.cookie });
  createServer((req, res) => guard(req, res, () => {
    const claims: Claims | undefined = req.auth;
    const session: string | undefined = claims?.session;
    notify(req).addEventListener('abort', () => res.end(session));
    // @ts-expect-error the claims are not to be written
    claims!.session = 'x';
  }));
  const status: Status = quash.status();
  try {
    const claims: Claims = quash.verify(status.issuer);
    // @ts-expect-error a claim that there is not
    void claims.nonsense;
  } catch (error) {
    if (error instanceof RevokedError) { const code: 'revoked' = error.code; void code; }
  }
};
void [handler, protectSockets, protectUpgrade, renew, claimsOf, RequestFailed];
const client = new Client({ url: 'https://id.example', store: memoryStore() });
console.log(client.signedIn);
await Verifier.open({ url: 'http://elsewhere.example', key: 'k' }).catch((error: Error) => console.log(error.message));
`;

const sockets = `
import { createServer } from 'node:http';
import express from 'express';
import { Verifier, protect } from '@quash/quash';
import { protectSockets, protectUpgrade } from '@quash/quash/sockets';
import { Server } from 'socket.io';
import { WebSocketServer } from 'ws';

interface Said { said: (text: string) => void }
declare const quash: Verifier;
protectSockets(new Server(), quash);
protectSockets(new Server<Said, Said, Record<string, never>, { name: string }>(), quash, { acceptStale: 5 });
protectSockets(new Server(), quash, { token: (socket) => String(socket.handshake.auth['ticket']) });
createServer().on('upgrade', protectUpgrade(new WebSocketServer({ noServer: true }), quash));
const app = express();
app.use('/orders', protect(quash));
app.get('/orders/:id', protect(quash), (req, res) => { res.json({ id: req.params.id, of: req.auth?.subject }); });
`;

const options: ExecFileSyncOptionsWithStringEncoding = { stdio: ['ignore', 'pipe', 'pipe'], encoding: 'utf8' };

function run(cwd: string, command: string, ...args: string[]): string {
  try {
    return execFileSync(command, args, { ...options, cwd });
  } catch (error) {
    const { stdout, stderr } = error as { stdout: string; stderr: string };
    throw new Error(`${command} ${args.join(' ')}:\n${stdout}${stderr}`);
  }
}

const tsc = join(js, 'node_modules/typescript/bin/tsc');
const strict = { strict: true, module: 'nodenext', target: 'es2022', lib: ['es2023'], types: ['node'], noEmitOnError: true, exactOptionalPropertyTypes: true, noUncheckedIndexedAccess: true };

test('npm pack: it installs and runs in an empty project, with ws alone beside it, and types check under strict', () => {
  const dir = mkdtempSync(join(tmpdir(), 'quash-pack-'));
  try {
    const [packed] = JSON.parse(run(js, 'npm', 'pack', '--json', '--ignore-scripts', '--pack-destination', dir)) as [{ filename: string; files: { path: string }[] }];
    assert.deepEqual(packed.files.map((f) => f.path).filter((path) => !/^(dist\/[a-z]+\.(js|d\.ts)|package\.json|README\.md|LICENSE)$/.test(path)), []);
    writeFileSync(join(dir, 'package.json'), JSON.stringify({ name: 'empty', private: true, type: 'module' }));
    const { version } = JSON.parse(readFileSync(join(js, 'node_modules/@types/node/package.json'), 'utf8')) as { version: string };
    run(dir, 'npm', 'install', '--prefer-offline', '--no-audit', '--no-fund', join(dir, packed.filename), `@types/node@${version}`);
    assert.deepEqual(run(dir, 'ls', 'node_modules').trim().split(/\s+/), ['@quash', '@types', 'undici-types', 'ws']);
    writeFileSync(join(dir, 'program.ts'), program);
    writeFileSync(join(dir, 'tsconfig.json'), JSON.stringify({ compilerOptions: strict, files: ['program.ts'] }));
    run(dir, process.execPath, tsc, '-p', '.');
    assert.equal(run(dir, process.execPath, 'program.js'), 'false\nurl: elsewhere.example would be spoken to unencrypted: use https, or set plaintext where the network encrypts underneath\n');
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});

test('types: servers of Express, socket.io and ws are taken as they are, with types of their own', () => {
  const dir = mkdtempSync(join(js, 'build', 'types-'));
  try {
    writeFileSync(join(dir, 'sockets.ts'), sockets);
    writeFileSync(join(dir, 'tsconfig.json'), JSON.stringify({ compilerOptions: { ...strict, skipLibCheck: true, noEmit: true }, files: ['sockets.ts'] }));
    writeFileSync(join(dir, 'package.json'), JSON.stringify({ name: 'types', private: true, type: 'module' }));
    run(dir, 'mkdir', '-p', 'node_modules/@quash');
    symlinkSync(js, join(dir, 'node_modules/@quash/quash'));
    run(dir, process.execPath, tsc, '-p', '.');
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});

test('the public surface has no any', () => {
  for (const name of ['index', 'verifier', 'http', 'claims', 'config', 'errors', 'sockets', 'client']) {
    assert.doesNotMatch(readFileSync(join(js, 'dist', `${name}.d.ts`), 'utf8').replace(/\/\*[^]*?\*\//g, ''), /\bany\b/, name);
  }
});
