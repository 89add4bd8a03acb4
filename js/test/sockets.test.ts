// Sockets end with their token: ws and socket.io with real clients.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Verifier } from '@quash/quash';
import { claimsOf, closeCode, endEvent, protectSockets, protectUpgrade, renew, renewEvent } from '@quash/quash/sockets';
import { Server } from 'socket.io';
import { io, type Socket } from 'socket.io-client';
import { WebSocket, WebSocketServer } from 'ws';
import { FakeNode, type Peer } from './node.js';
import { forever, mint, record } from './tokens.js';
import { eventually } from './world.js';

let node: FakeNode;
let v: Verifier;
let peer: Peer;
let position = 0;
before(async () => {
  node = await FakeNode.start();
  ({ v, peer } = await node.open());
});
after(async () => {
  await v.close(AbortSignal.timeout(50)).catch(() => {});
  node.close();
});

const token = (claims = {}) => mint(node.signer, claims, node.clock.wall);

/** Ends a session, and returns when the verifier knows. */
async function end(sid: string): Promise<void> {
  position++;
  peer.records(position, record(position, 'sid', sid, forever));
  await peer.acknowledged(position);
}

async function listening(body: (url: string, http: ReturnType<typeof createServer>) => Promise<void>): Promise<void> {
  const http = createServer().listen(0, '127.0.0.1');
  await once(http, 'listening');
  try {
    await body(`127.0.0.1:${(http.address() as AddressInfo).port}`, http);
  } finally {
    http.close();
    http.closeAllConnections();
  }
}

const bearer = (t: string) => ({ headers: { Authorization: `Bearer ${t}` } });

/** A WebSocket server that echoes, and takes `renew TOKEN`. */
const echo = (body: (url: string) => Promise<void>) => listening(async (url, http) => {
  const wss = new WebSocketServer({ noServer: true });
  http.on('upgrade', protectUpgrade(wss, v));
  wss.on('connection', (ws, req) => {
    assert.equal(claimsOf(ws), req.auth);
    ws.on('message', (data) => {
      const [verb, t] = String(data).split(' ');
      if (verb !== 'renew') return ws.send(`${claimsOf(ws).subject}: ${verb}`);
      try {
        renew(ws, t!);
        ws.send('renewed');
      } catch (error) {
        ws.send((error as { code: string }).code);
      }
    });
  });
  try {
    await body(`ws://${url}`);
  } finally {
    for (const ws of wss.clients) ws.terminate();
  }
});

async function opened(url: string, t: string): Promise<WebSocket> {
  const ws = new WebSocket(url, bearer(t));
  await once(ws, 'open');
  return ws;
}

const say = async (ws: WebSocket, text: string) => {
  ws.send(text);
  return String((await once(ws, 'message'))[0]);
};

test('ws: the handshake authenticates', () => echo(async (url) => {
  for (const [status, type, ...args] of [[401, 'no-token', {}], [401, 'invalid-token', bearer('x.y.z')], [400, 'invalid-request', bearer('a b')]] as const) {
    const ws = new WebSocket(url, ...args);
    ws.on('error', () => {});
    const [, response] = await once(ws, 'unexpected-response') as [unknown, import('node:http').IncomingMessage];
    assert.equal(response.statusCode, status);
    let body = '';
    for await (const part of response) body += part;
    assert.equal((JSON.parse(body) as { type: string }).type, `urn:quash:problem:${type}`);
    assert.ok(status !== 401 || response.headers['www-authenticate']);
  }
  const ws = await opened(url, token());
  assert.equal(await say(ws, 'hi'), 'u_7: hi');
  const browser = new WebSocket(url, ['chat', `bearer.${token()}`]);
  await once(browser, 'open');
  assert.equal(browser.protocol, 'chat');
  assert.equal(await say(browser, 'hi'), 'u_7: hi');
}));

test('ws: the socket is closed within milliseconds of the revocation, with the reason; others stay; nothing more is heard', () => echo(async (url) => {
  const [victim, other] = await Promise.all([opened(url, token({ sid: 's_1' })), opened(url, token({ sid: 's_2' }))]);
  const closed = once(victim, 'close') as Promise<[number, Buffer]>;
  await end('s_1');
  const began = performance.now();
  let heard = false;
  victim.on('message', () => { heard = true; });
  victim.send('am I here?');
  const [code, reason] = await closed;
  assert.deepEqual([code, String(reason)], [closeCode, 'revoked']);
  assert.ok(performance.now() - began < 250, `${performance.now() - began} ms`);
  assert.ok(!heard);
  assert.equal(await say(other, 'hi'), 'u_7: hi');
}));

test('ws: who presents a fresh token of the session stays when the old one ends', () => echo(async (url) => {
  const now = Math.floor(node.clock.wall / 1000);
  const ws = await opened(url, token({ sid: 's_3', jti: 'old', exp: now + 5 }));
  assert.equal(await say(ws, `renew ${token({ sid: 's_4' })}`), 'invalid');
  assert.equal(await say(ws, 'renew x.y.z'), 'invalid');
  assert.equal(await say(ws, `renew ${token({ sid: 's_3', rev: position + 1 })}`), 'renewed');
  position++;
  peer.records(position, record(position, 'sub', 'u_7', BigInt(position)));
  await peer.acknowledged(position);
  assert.equal(await say(ws, 'hi'), 'u_7: hi');
  const closed = once(ws, 'close');
  await end('s_3');
  assert.equal((await closed)[0], closeCode);
}));

/** A socket.io chat with connection state recovery as it is by default. */
const chat = (body: (url: string, server: Server) => Promise<void>) => listening(async (url, http) => {
  const server = new Server(http, { connectionStateRecovery: {}, pingInterval: 500 });
  protectSockets(server, v);
  for (const name of ['/', '/staff']) {
    server.of(name).on('connection', (socket) => {
      void socket.join('room');
      socket.on('who', (reply: (who: string) => void) => reply(claimsOf(socket).subject));
    });
  }
  try {
    await body(`http://${url}`, server);
  } finally {
    for (const socket of clients.splice(0)) socket.close();
    await server.close();
  }
});

const clients: Socket[] = [];

function client(url: string, auth: object | ((done: (auth: object) => void) => void)): Socket {
  const socket = io(url, { auth, transports: ['websocket'], reconnectionDelay: 20, reconnectionDelayMax: 40, forceNew: true });
  clients.push(socket);
  return socket;
}

const event = (socket: Socket, name: string) => new Promise<unknown>((resolve) => socket.once(name, resolve));

test('socket.io: the handshake authenticates, in every namespace', () => chat(async (url) => {
  for (const name of ['/', '/staff']) {
    for (const [auth, type] of [[{}, 'no-token'], [{ token: 'x' }, 'invalid-token'], [{ token: 7 }, 'no-token']] as const) {
      const socket = client(url + name, auth);
      const error = await event(socket, 'connect_error') as Error & { data: { type: string } };
      assert.equal(error.data.type, `urn:quash:problem:${type}`);
    }
    const socket = client(url + name, { token: token({ rev: position }) });
    await event(socket, 'connect');
    assert.equal(await socket.emitWithAck('who'), 'u_7');
  }
}));

test('socket.io: the socket is closed within milliseconds of the revocation, with the reason; a fresh token stays', () => chat(async (url) => {
  const socket = client(url, { token: token({ sid: 's_11', rev: position }) });
  const other = client(url, { token: token({ sid: 's_12', rev: position, jti: 'old' }) });
  await Promise.all([event(socket, 'connect'), event(other, 'connect')]);
  assert.deepEqual(await other.emitWithAck(renewEvent, 'x'), { ok: false, code: 'invalid' });
  assert.deepEqual(await other.emitWithAck(renewEvent, token({ sid: 's_12', rev: position + 5 })), { ok: true });
  const told = event(socket, endEvent);
  const gone = event(socket, 'disconnect');
  await end('s_11');
  const began = performance.now();
  assert.deepEqual(await told, { code: 'revoked' });
  await gone;
  assert.ok(performance.now() - began < 250, `${performance.now() - began} ms`);
  position++;
  peer.records(position, record(position, 'sub', 'u_7', BigInt(position)));
  await peer.acknowledged(position);
  assert.equal(await other.emitWithAck('who'), 'u_7');
}));

/** Cuts a client off, sees to it that the server has noticed, and returns a promise of what becomes of its return. */
async function cutOff(socket: Socket, server: Server): Promise<{ back: Promise<string> }> {
  const back = Promise.race([
    event(socket, 'connect').then(() => 'connected'),
    event(socket, 'connect_error').then((e) => (e as Error & { data: { type: string } }).data.type),
  ]);
  socket.io.reconnectionDelay(200);
  socket.io.engine.close();
  await eventually(() => server.of('/').sockets.size === 0, 'the server has noticed');
  return { back };
}

test('socket.io: connection state recovery brings back who was cut off, and not who was revoked meanwhile', () => chat(async (url, server) => {
  for (const revoked of [false, true]) {
    const sid = `s_2${Number(revoked)}`;
    const socket = client(url, { token: token({ sid, rev: position }) });
    const heard: string[] = []; // on the wire
    socket.io.on('packet', (packet: { data?: unknown }) => { if (Array.isArray(packet.data)) heard.push(String(packet.data[1])); });
    await event(socket, 'connect');
    server.to('room').emit('news', 'one'); // recovery needs an offset to begin at
    await event(socket, 'news');
    const { back } = await cutOff(socket, server);
    server.to('room').emit('news', 'two');
    if (revoked) await end(sid);
    assert.equal(await back, revoked ? 'urn:quash:problem:invalid-token' : 'connected');
    await sleep(50);
    assert.deepEqual(heard, revoked ? ['one'] : ['one', 'two']);
    assert.equal(socket.recovered, !revoked);
    socket.close();
  }
}));

test('socket.io: a recovered socket has to be of the same session', () => chat(async (url, server) => {
  let t = token({ sid: 's_31', rev: position });
  const socket = client(url, (done) => done({ token: t }));
  await event(socket, 'connect');
  server.to('room').emit('news', 'one');
  await event(socket, 'news');
  t = token({ sid: 's_32', sub: 'u_8', rev: position });
  const { back } = await cutOff(socket, server);
  assert.equal(await back, 'urn:quash:problem:invalid-token');
}));
