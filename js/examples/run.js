// Starts a Quash server with an account `ada`, and then an example beside it:
//
//     node examples/run.js express
//
// It needs Go, which builds the server, and nothing else. What it writes is in
// a directory that goes away with it.
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../', import.meta.url));
const dir = mkdtempSync(join(tmpdir(), 'quash-example-'));
const quash = process.env.BUILT_QUASH ?? join(dir, 'quash');
const data = join(dir, 'data');
const addresses = { public: process.env.PUBLIC ?? '127.0.0.1:8080', private: process.env.PRIVATE ?? '127.0.0.1:8081' };
const QUASH_URL = `http://${addresses.private}`;
const QUASH_PUBLIC = `http://${addresses.public}`;
const password = 'correct horse battery staple';

if (!process.env.BUILT_QUASH) execFileSync('go', ['build', '-o', quash, './cmd/quash'], { cwd: root, stdio: 'inherit' });
const server = spawn(quash, ['serve', '--data', data, '--public', addresses.public, '--private', addresses.private], { stdio: ['ignore', 'ignore', 'inherit'] });
process.on('exit', () => {
  server.kill();
  rmSync(dir, { recursive: true, force: true });
});
server.on('exit', () => process.exit(1));
while (!await fetch(`${QUASH_URL}/readyz`).then((r) => r.ok, () => false)) await new Promise((resolve) => setTimeout(resolve, 50));

const run = (args, input) => execFileSync(quash, args, { env: { ...process.env, QUASH_URL, QUASH_DATA: data }, encoding: 'utf8', input, stdio: ['pipe', 'pipe', 'pipe'] }).trim();
run(['account', 'create', 'ada', '--password-stdin'], `${password}\n`);
const QUASH_KEY = run(['key', 'create', 'example', '--verifier']);
const { start } = await import(`./${process.argv[2] ?? 'express'}/server.js`);
const { stop } = await start({ ...process.env, QUASH_URL, QUASH_PUBLIC, QUASH_KEY });
console.info(`log in as ada with the password: ${password}`);
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => stop().then(() => process.exit(0)));
