// An API with login, logout, password change and a list of devices over Quash:
//
//     npm run express
//
// starts a Quash server and this. What it needs of the environment: QUASH_URL
// and QUASH_KEY, of the private listener, and QUASH_PUBLIC, of the public one.
import { pathToFileURL } from 'node:url';
import { bearer, protect, Verifier } from '@quash/quash';
import express from 'express';

export async function start({ QUASH_URL, QUASH_KEY, QUASH_PUBLIC, PORT = '8082' }) {
  const quash = await Verifier.open({ url: QUASH_URL, key: QUASH_KEY, name: 'orders', logger: console });
  const app = express();
  app.use(express.json());

  // Whose sessions these are is for Quash to say: calls are passed on as they are.
  const pass = (method, path) => async (req, res) => {
    const token = bearer(req);
    const answer = await fetch(QUASH_PUBLIC + path(req), {
      method,
      headers: {
        ...(token && { 'Authorization': `Bearer ${token}` }),
        ...(req.get('Idempotency-Key') && { 'Idempotency-Key': req.get('Idempotency-Key') }),
        ...(req.body && { 'Content-Type': 'application/json' }),
      },
      ...(req.body && { body: JSON.stringify(req.body) }),
    });
    const retry = answer.headers.get('Retry-After');
    if (retry) res.set('Retry-After', retry);
    res.status(answer.status).type(answer.headers.get('Content-Type') ?? 'json').send(await answer.text());
  };
  app.post('/login', pass('POST', () => '/v1/login'));
  app.post('/refresh', pass('POST', () => '/v1/refresh'));
  app.post('/logout', pass('POST', () => '/v1/logout'));
  app.post('/password', pass('POST', () => '/v1/password'));
  app.get('/devices', pass('GET', () => '/v1/sessions'));
  app.delete('/devices/:id', pass('DELETE', (req) => `/v1/sessions/${encodeURIComponent(req.params.id)}`));

  // What is the application's own is checked in its own memory.
  app.use('/orders', protect(quash));
  app.get('/orders', (req, res) => res.json({ orders: `of ${req.auth.subject}` }));

  app.get('/healthz', quash.health());
  const server = app.listen(Number(PORT), '127.0.0.1');
  await new Promise((resolve, reject) => server.once('listening', resolve).once('error', reject));
  const url = `http://127.0.0.1:${server.address().port}`;
  console.info(`listening on ${url}`);
  const stop = async () => {
    await new Promise((resolve) => server.close(resolve)); // requests under way are answered, and
    await quash.close(); // only then is goodbye said
  };
  return { url, stop };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const { stop } = await start(process.env);
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, stop);
}
