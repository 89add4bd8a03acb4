// A chat over socket.io whose sockets end at a logout on another device:
//
//     npm run chat
//
// starts a Quash server and this; then open it in two browsers.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';
import { Verifier } from '@quash/quash';
import { claimsOf, protectSockets } from '@quash/quash/sockets';
import { Server } from 'socket.io';

const files = {
  '/': ['text/html', readFileSync(new URL('index.html', import.meta.url))],
  '/client.js': ['text/javascript', readFileSync(new URL(import.meta.resolve('@quash/quash/client')))],
};

export async function start({ QUASH_URL, QUASH_KEY, QUASH_PUBLIC, PORT = '8083' }) {
  const quash = await Verifier.open({ url: QUASH_URL, key: QUASH_KEY, name: 'chat', logger: console });
  const http = createServer(async (req, res) => {
    const [type, content] = files[req.url] ?? [];
    if (content) return res.writeHead(200, { 'Content-Type': type }).end(content);
    if (!/^\/v1\/(login|refresh|logout(\/others)?)$/.test(req.url)) return res.writeHead(404).end();
    const headers = Object.fromEntries(['content-type', 'authorization', 'idempotency-key'].map((name) => [name, req.headers[name]]).filter(([, value]) => value));
    const answer = await fetch(QUASH_PUBLIC + req.url, { method: 'POST', body: req, duplex: 'half', headers });
    res.writeHead(answer.status, { 'Content-Type': answer.headers.get('Content-Type') ?? 'application/json' }).end(await answer.text());
  });
  const io = new Server(http, { connectionStateRecovery: {} });
  protectSockets(io, quash);
  io.on('connection', (socket) => {
    socket.on('say', (text) => io.emit('said', { by: claimsOf(socket).subject, text: String(text) }));
  });
  http.listen(Number(PORT), '127.0.0.1');
  await new Promise((resolve, reject) => http.once('listening', resolve).once('error', reject));
  const url = `http://127.0.0.1:${http.address().port}`;
  console.info(`open ${url}`);
  const stop = async () => {
    await io.close();
    await quash.close();
  };
  return { url, stop };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const { stop } = await start(process.env);
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, stop);
}
