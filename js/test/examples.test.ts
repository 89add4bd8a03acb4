// Both examples, each run with its one command and used by real clients.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, describe, test } from 'node:test';
import { Client, type Tokens } from '@quash/quash/client';
import { io } from 'socket.io-client';
import { freePort, js, program, start } from './world.js';

/** Runs an example, and returns its address. */
async function run(name: string): Promise<{ url: string; password: string; stop: () => Promise<void> }> {
  const child = start(process.execPath, [join(js, 'examples/run.js'), name], {
    BUILT_QUASH: program('quash'), PUBLIC: `127.0.0.1:${await freePort()}`, PRIVATE: `127.0.0.1:${await freePort()}`, PORT: '0',
  });
  let url = '';
  for await (const line of createInterface(child.stdout!)) {
    url ||= /(http:\S+)$/.exec(line)?.[1] ?? '';
    const password = /password: (.*)$/.exec(line)?.[1];
    if (!password) continue;
    const stop = async () => {
      const gone = once(child, 'exit');
      child.kill('SIGTERM');
      await gone;
    };
    return { url, password, stop };
  }
  throw new Error(`the example ${name} does not start`);
}

describe('express', () => {
  let app: Awaited<ReturnType<typeof run>>;
  before(async () => { app = await run('express'); });
  after(() => app?.stop());

  const call = async (method: string, path: string, options: { token?: string; body?: object } = {}) => {
    const response = await fetch(app.url + path, {
      method, headers: { ...(options.token && { Authorization: `Bearer ${options.token}` }), ...(options.body && { 'Content-Type': 'application/json' }) },
      ...(options.body && { body: JSON.stringify(options.body) }),
    });
    return { status: response.status, body: await response.json() as never };
  };
  const login = async (device: string, password = app.password): Promise<Tokens> =>
    (await call('POST', '/login', { body: { name: 'ada', password, device } })).body;

  test('it has fewer than 80 lines', () => {
    assert.ok(readFileSync(join(js, 'examples/express/server.js'), 'utf8').split('\n').length < 80);
  });

  test('login, devices, logout of one from another, password change', async () => {
    const [phone, laptop] = [await login('phone'), await login('laptop')];
    assert.equal((await call('GET', '/orders')).status, 401);
    assert.deepEqual(await call('GET', '/orders', { token: phone.access_token }), { status: 200, body: { orders: `of ${phone.subject}` } });

    const { items } = (await call('GET', '/devices', { token: laptop.access_token })).body as { items: { id: string; device: string; current: boolean }[] };
    assert.deepEqual(items.map((s) => [s.device, s.current]).sort(), [['laptop', true], ['phone', false]]);
    assert.equal((await call('DELETE', `/devices/${items.find((s) => s.device === 'phone')!.id}`, { token: laptop.access_token })).status, 200);
    assert.equal((await call('GET', '/orders', { token: phone.access_token })).status, 401);

    const tablet = await login('tablet');
    const changed = await call('POST', '/password', { body: { refresh_token: laptop.refresh_token, old_password: app.password, new_password: 'another long password' } });
    assert.equal(changed.status, 200);
    for (const { access_token } of [laptop, tablet]) assert.equal((await call('GET', '/orders', { token: access_token })).status, 401);
    const { access_token, refresh_token } = changed.body as Tokens;
    assert.equal((await call('GET', '/orders', { token: access_token })).status, 200);

    assert.equal((await call('POST', '/logout', { body: { refresh_token } })).status, 200);
    assert.equal((await call('GET', '/orders', { token: access_token })).status, 401);
    assert.equal((await call('POST', '/refresh', { body: { refresh_token } })).body['code'], 'invalid_grant');
  });
});

test('chat: a socket ends at the logout on another device, the other goes on', async () => {
  const chat = await run('chat');
  try {
    assert.match(await (await fetch(chat.url)).text(), /<title>Chat/);
    assert.match(await (await fetch(`${chat.url}/client.js`)).text(), /export class Client/);
    const devices = await Promise.all(['phone', 'laptop'].map(async (device) => {
      const client = new Client({ url: chat.url });
      await client.login({ name: 'ada', password: chat.password, device });
      const socket = io(chat.url, { auth: (done) => void client.token().then((token) => done({ token })), transports: ['websocket'], forceNew: true });
      await new Promise((resolve) => socket.once('connect', () => resolve(undefined)));
      return { client, socket };
    }));
    const [phone, laptop] = devices as [typeof devices[0], typeof devices[0]];
    const said = new Promise((resolve) => laptop!.socket.once('said', resolve));
    phone!.socket.emit('say', 'hello');
    assert.equal((await said as { text: string }).text, 'hello');

    const ended = new Promise((resolve) => phone!.socket.once('quash:end', resolve));
    const gone = new Promise((resolve) => phone!.socket.once('disconnect', resolve));
    await laptop!.client.fetch(`${chat.url}/v1/logout/others`, { method: 'POST' });
    assert.deepEqual(await ended, { code: 'revoked' });
    await gone;
    assert.equal(await phone!.client.token(await phone!.client.token()), undefined, 'the phone is signed out');

    const still = new Promise((resolve) => laptop!.socket.once('said', resolve));
    laptop!.socket.emit('say', 'still here');
    assert.equal((await still as { text: string }).text, 'still here');
    for (const { socket } of devices) socket.close();
  } finally {
    await chat.stop();
  }
});
