// A real server, real pages and a real browser, by npm run browser: what no imitation of one can show.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer as createTLS } from 'node:https';
import { connect, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { createServer as createTunnel } from 'node:tls';
import { protect, Verifier } from '@quash/quash';
import type { Client } from '@quash/quash/client';
import puppeteer, { type Browser, type BrowserContext, type Page } from 'puppeteer-core';
import { freePort, js, start, World, type Proxy } from './world.js';

/** What the pages below leave in their window. */
declare global {
  var session: Client;
  var ended: number;
}

const ada = { name: 'ada', password: 'a long password of ada' };
const dir = mkdtempSync(join(tmpdir(), 'quash-browser-'));
let world: World;
let proxy: Proxy;
let verifier: Verifier;
let browser: Browser;
let tabs: BrowserContext; // of one test
let id: string; // the server
let app: string; // its pages, of the one origin that is listed
let sibling: string;
let foreign: string;
let tls: { key: string; cert: string };

const page = () => `<!doctype html><script type="module">
  import { Client } from '/client.js';
  globalThis.ended = 0;
  globalThis.session = new Client({ url: '${id}', cookie: true, onSignedOut: () => { ended++; } });
</script>`;

// Pages of every host, and orders, which are protected.
const web = createTLS((req, res) => {
  const { url = '/' } = req;
  if (url === '/orders') return protect(verifier)(req, res, () => res.end(req.auth!.subject));
  if (url === '/client.js') return res.setHeader('Content-Type', 'text/javascript').end(readFileSync(join(js, 'dist/client.js')));
  return res.setHeader('Content-Type', 'text/html').end(url === '/' ? page() : '');
});

// The server behind TLS, as it is behind a proxy.
const tunnel = createTunnel((socket) => {
  const inner = connect(Number(new URL(world.public).port), '127.0.0.1');
  socket.on('error', () => inner.destroy()).pipe(inner).on('error', () => socket.destroy()).pipe(socket);
});

before(async () => {
  const goroot = execFileSync('go', ['env', 'GOROOT'], { encoding: 'utf8' }).trim();
  execFileSync('go', ['run', join(goroot, 'src/crypto/tls/generate_cert.go'), '--host', 'localhost', '--ecdsa-curve', 'P256'], { cwd: dir, stdio: 'ignore' });
  tls = { key: readFileSync(join(dir, 'key.pem'), 'utf8'), cert: readFileSync(join(dir, 'cert.pem'), 'utf8') };
  const ports = await Promise.all([web, tunnel].map(async (server) => {
    server.setSecureContext(tls);
    await once(server.listen(0, '127.0.0.1'), 'listening');
    return (server.address() as AddressInfo).port;
  }));
  [app, sibling, foreign] = ['app.quash.test', 'other.quash.test', 'evil.test'].map((host) => `https://${host}:${ports[0]}`) as [string, string, string];
  id = `https://id.quash.test:${ports[1]}`;
  world = await World.start(['--browser-origin', app]);
  await world.account('ada', ada);
  verifier = await Verifier.open({ url: (proxy = await world.proxy()).url, key: await world.verifierKey('orders'), signal: AbortSignal.timeout(10_000) });
  browser = await puppeteer.launch({
    executablePath: chromium(), acceptInsecureCerts: true,
    args: ['--host-resolver-rules=MAP *.test 127.0.0.1', '--disable-gpu', ...(process.getuid?.() === 0 ? ['--no-sandbox'] : [])],
  });
});
after(async () => {
  await browser?.close();
  await verifier?.close(AbortSignal.timeout(500)).catch(() => {});
  proxy?.close();
  await world?.stop();
  web.close();
  web.closeAllConnections();
  tunnel.close();
  rmSync(dir, { recursive: true, force: true });
});
afterEach(() => tabs?.close());

function chromium(): string {
  const found = [process.env['CHROMIUM'], '/usr/bin/chromium', '/usr/bin/google-chrome'].find((path) => path && existsSync(path));
  if (!found) throw new Error('there is no Chromium: install it with make browser, or say in CHROMIUM where it is');
  return found;
}

/** Opens a tab. */
async function open(url = app): Promise<Page> {
  const tab = await tabs.newPage();
  await tab.goto(url);
  return tab;
}

/** Opens a tab of a browser that knows nothing, and signs in. */
async function signIn(): Promise<Page> {
  tabs = await browser.createBrowserContext();
  const tab = await open();
  await tab.evaluate((credentials) => session.login(credentials), ada);
  return tab;
}

const orders = (tab: Page) => tab.evaluate(async () => { const r = await session.fetch('/orders'); return r.ok ? r.text() : r.status; });
const resume = (tab: Page) => tab.evaluate(() => session.resume());
const cookies = async () => (await tabs.cookies()).filter(({ name }) => name === '__Host-quash');
const kill = () => world.revoke('sub', 'ada');

test('no script can read the refresh token, and it is kept for the host alone', async () => {
  const tab = await signIn();
  assert.equal(await orders(tab), 'ada');
  for (const origin of [app, id]) {
    const reader = await open(`${origin}/readyz`);
    assert.deepEqual(await reader.evaluate(() => [document.cookie, localStorage.length, sessionStorage.length]), ['', 0, 0]);
  }
  assert.deepEqual(await tab.evaluate(() => [document.cookie, localStorage.length, sessionStorage.length]), ['', 0, 0]);
  const [cookie, ...more] = await cookies();
  assert.equal(more.length, 0);
  const { domain, path, httpOnly, secure, sameSite } = cookie!;
  assert.deepEqual({ domain, path, httpOnly, secure, sameSite }, { domain: 'id.quash.test', path: '/', httpOnly: true, secure: true, sameSite: 'Strict' });
});

test('a refused request refreshes by the cookie, and a page that is loaded again goes on', async () => {
  const tab = await signIn();
  const [before] = await cookies();
  await kill();
  assert.equal(await orders(tab), 'ada');
  const [after] = await cookies();
  assert.equal(after!.value, before!.value); // it was new, and was given again
  await tab.reload();
  assert.equal(await orders(tab), 401);
  assert.ok(await resume(tab));
  assert.equal(await orders(tab), 'ada');
});

test('P10 five tabs that refresh at once stay signed in', async () => {
  const first = await signIn();
  const all = [first, ...await Promise.all(Array.from({ length: 4 }, () => open()))];
  assert.deepEqual(await Promise.all(all.slice(1).map(resume)), [true, true, true, true]);
  for (let round = 0; round < 3; round++) {
    await kill();
    assert.deepEqual(await Promise.all(all.map(orders)), Array(5).fill('ada'));
  }
  assert.deepEqual(await Promise.all(all.map((tab) => tab.evaluate(() => ended))), [0, 0, 0, 0, 0]);
});

test('P10 five tabs that refresh at once and do not wait for each other stay signed in', async () => {
  await signIn();
  const all = await Promise.all(Array.from({ length: 5 }, () => open()));
  const refresh = (tab: Page) => tab.evaluate(async (url) => {
    const init: RequestInit = { method: 'POST', credentials: 'include', headers: { 'Content-Type': 'application/json' }, body: '{}' };
    return (await fetch(`${url}/v1/refresh`, init)).status;
  }, id);
  for (let round = 0; round < 3; round++) assert.deepEqual(await Promise.all(all.map(refresh)), Array(5).fill(200));
});

test('a logout refuses at once, in every tab, and takes the cookie and no other', async () => {
  const tab = await signIn();
  const other = await open();
  assert.ok(await resume(other));
  await tab.evaluate(() => { document.cookie = 'theme=dark; Domain=quash.test; Secure'; });
  const access = await other.evaluate(() => session.token());
  const told = other.waitForFunction(() => ended === 1);
  await tab.evaluate(() => session.logout());
  assert.throws(() => verifier.verify(access!), { code: 'revoked' });
  await told;
  assert.deepEqual(await Promise.all([tab, other].map(orders)), [401, 401]);
  assert.deepEqual(await cookies(), []);
  assert.equal(await tab.evaluate(() => document.cookie), 'theme=dark');
  assert.equal(await resume(other), false);
});

test('a tab never goes on as somebody who signed in in another', async () => {
  await world.account('bob', { name: 'bob', password: 'a long password of bob' });
  const tab = await signIn();
  const other = await open();
  await other.evaluate(() => session.login({ name: 'bob', password: 'a long password of bob' }));
  await tab.waitForFunction(() => ended === 1);
  assert.equal(await orders(tab), 401);
  assert.equal(await orders(other), 'bob');
});

test('a session that the server ended signs every tab out at the next refresh', async () => {
  const tab = await signIn();
  await world.admin('DELETE', 'accounts/ada/sessions');
  assert.equal(await orders(tab), 401);
  assert.equal(await tab.evaluate(() => ended), 1);
  assert.equal(await resume(tab), false);
});

/** Posts from a tab by every way a page has, and returns the statuses of what reached the server. */
async function attack(tab: Page, path: string, body: string): Promise<number[]> {
  const urls = new Map<string, string>();
  const answers: { requestId: string; statusCode: number }[] = [];
  const devtools = await tab.createCDPSession();
  await devtools.send('Network.enable');
  devtools.on('Network.requestWillBeSent', ({ requestId, request }) => { urls.set(requestId, request.url); });
  devtools.on('Network.responseReceivedExtraInfo', (answer) => { answers.push(answer); });
  await tab.evaluate(async (url, text) => {
    const post = (mode: RequestMode, type: string) => fetch(url, { method: 'POST', mode, credentials: 'include', headers: { 'Content-Type': type }, body: text }).catch(() => {});
    await post('no-cors', 'text/plain');
    await post('cors', 'text/plain');
    await post('cors', 'application/json'); // ends at the preflight
  }, id + path, body);
  await Promise.all([
    tab.waitForNavigation(),
    tab.evaluate((url, text) => {
      const form = Object.assign(document.createElement('form'), { method: 'POST', action: url, enctype: 'text/plain' });
      form.append(Object.assign(document.createElement('input'), { name: text, value: '' }));
      document.body.append(form);
      form.submit();
    }, id + path, body),
  ]);
  await devtools.detach();
  return answers.filter(({ requestId }) => urls.get(requestId) === id + path).map(({ statusCode }) => statusCode);
}

test('pages of other sites and of siblings cannot act by the cookie', async () => {
  const tab = await signIn();
  const [before] = await cookies();
  for (const origin of [foreign, sibling]) {
    for (const [path, body] of [['/v1/logout', '{}'], ['/v1/login', JSON.stringify({ ...ada, cookie: true })]] as const) {
      const statuses = await attack(await open(`${origin}/empty`), path, body);
      assert.ok(statuses.length >= 3 && statuses.every((status) => status >= 400), `${origin} ${path}: ${statuses}`);
    }
    const reader = await open(`${origin}/empty`);
    assert.equal(await reader.evaluate((url) => fetch(`${url}/healthz`).then((r) => r.status, () => 'unreadable'), id), 'unreadable');
  }
  assert.equal((await cookies())[0]!.value, before!.value);
  assert.equal(await orders(tab), 'ada');
  await kill();
  assert.equal(await orders(tab), 'ada');
});

test('the example', async () => {
  const [port, inner] = [await freePort(), await freePort()];
  const example = start(join(js, 'build/bin/browser'), ['-listen', `127.0.0.1:${port}`, '-private', `127.0.0.1:${inner}`, '-data', join(dir, 'data')]);
  try {
    await until(() => fetch(`http://127.0.0.1:${inner}/readyz`).then((r) => r.ok, () => false));
    const made = await fetch(`http://127.0.0.1:${inner}/v1/admin/accounts`, {
      method: 'POST', body: JSON.stringify({ subject: 'ada', ...ada }),
      headers: { 'Content-Type': 'application/json', 'Authorization': `Bearer ${readFileSync(join(dir, 'data', 'admin.key'), 'utf8').trim()}` },
    });
    assert.equal(made.status, 201);
    await walkThrough(`http://localhost:${port}`);
  } finally {
    example.kill();
  }
});

async function until(done: () => Promise<boolean>): Promise<void> {
  const end = AbortSignal.timeout(10_000);
  while (!await done()) end.throwIfAborted();
}

/** Does what a visitor of the example does. */
async function walkThrough(url: string): Promise<void> {
  tabs = await browser.createBrowserContext();
  const [tab, text] = [await open(url), (id: string, part: string) => `document.getElementById('${id}').innerText.includes(${JSON.stringify(part)})`];
  const logIn = async () => {
    await tab.locator('input[name=name]').fill(ada.name);
    await tab.locator('input[name=password]').fill(ada.password);
    await tab.locator('#login button').click();
    await tab.waitForFunction(text('orders', 'Difference engine'));
  };
  await logIn();
  await tab.waitForFunction(text('readable', 'document.cookie "", localStorage {}'));
  const second = await open(url);
  await second.waitForFunction(text('orders', 'Difference engine'));
  await second.locator('#logout').click();
  await Promise.all([second.waitForFunction(text('said', 'logged out')), tab.waitForFunction(text('said', 'logged out in another tab'))]);
  await tab.bringToFront();
  await logIn();
  await tab.locator('#everywhere').click();
  await tab.waitForFunction(text('said', 'logged out everywhere'));
  assert.deepEqual(await cookies(), []);
}
