// The access token is in this variable and nowhere else; undefined: signed out.
let access;

const find = (id) => document.getElementById(id);
const tabs = new BroadcastChannel('session');

/** Runs a call that sets the cookie, one tab at a time: the browser keeps what came last. */
const exclusive = (call) => navigator.locks.request('session', call);

/** Calls the server. The browser adds the cookie, which says whose session it is. */
const post = (path, body) => fetch(path, {
  method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body),
});

async function problem(response) {
  const { code, detail } = await response.json().catch(() => ({}));
  return Object.assign(new Error(detail ?? `the server answered ${response.status}`), { code });
}

/** Gets a new access token by the cookie, unless another call of this tab already has. */
const refresh = (used) => exclusive(async () => {
  if (access !== used) return;
  const response = await post('/v1/refresh', {});
  if (response.ok) {
    access = (await response.json()).access_token;
    return;
  }
  const error = await problem(response);
  if (error.code !== 'invalid_grant') throw error; // the session goes on: try later
  access = undefined;
});

/** Calls with the access token; one that is refused is refreshed, once. */
async function call(path, method = 'GET') {
  for (const last of [false, true]) {
    const used = access;
    const response = await fetch(path, { method, headers: { Authorization: `Bearer ${used}` } });
    if (response.ok) return response.json();
    if (response.status !== 401 || last) throw await problem(response);
    await refresh(used);
    if (!access) throw new Error('The session has ended.');
  }
}

function list(id, rows) {
  find(id).replaceChildren(...rows.map(([text, note]) => {
    const row = document.createElement('li');
    row.append(text);
    row.append(Object.assign(document.createElement('span'), { textContent: note }));
    return row;
  }));
}

async function show(said = '') {
  find('said').textContent = said;
  try {
    if (access) {
      const [{ subject, orders }, { items }] = [await call('/orders'), await call('/v1/sessions')];
      find('who').textContent = subject;
      list('orders', orders.map((order, n) => [order, `no. ${n + 1}`]));
      list('sessions', items.map((s) => [`since ${new Date(s.created).toLocaleString()}`, s.current ? 'this browser' : s.address]));
    }
  } catch (error) {
    find('said').textContent = error.message;
  }
  find('login').hidden = Boolean(access);
  find('inside').hidden = !access;
  if (!access) find('who').textContent = '';
  find('readable').textContent = `document.cookie ${JSON.stringify(document.cookie)}, localStorage ${JSON.stringify(localStorage)}`;
}

/** Forgets the session, at once, and tells the server, and the other tabs. */
async function leave(all) {
  if (all) await call('/v1/logout/all', 'POST');
  access = undefined;
  tabs.postMessage('ended');
  const response = await post('/v1/logout', {}); // deletes the cookie
  if (!response.ok) throw await problem(response);
  await show(all ? 'You are logged out everywhere.' : 'You are logged out.');
}

/** Runs what a button does, one at a time. */
const act = (id, event, action) => find(id).addEventListener(event, async (e) => {
  e.preventDefault();
  const buttons = document.querySelectorAll('button');
  for (const button of buttons) button.disabled = true;
  await action(e).catch((error) => show(error.message));
  for (const button of buttons) button.disabled = false;
});

act('login', 'submit', async ({ target }) => {
  const credentials = Object.fromEntries(new FormData(target));
  await exclusive(async () => {
    const response = await post('/v1/login', { ...credentials, cookie: true });
    if (!response.ok) throw await problem(response);
    access = (await response.json()).access_token;
  });
  target.reset();
  tabs.postMessage('began');
  await show();
});
act('reload', 'click', () => show());
act('logout', 'click', () => leave(false));
act('everywhere', 'click', () => leave(true));

tabs.onmessage = async ({ data }) => {
  access = undefined;
  if (data === 'began') await refresh(undefined).catch(() => {});
  await show(data === 'ended' ? 'You were logged out in another tab.' : '');
};

await refresh(undefined).catch((error) => show(error.message));
await show();
