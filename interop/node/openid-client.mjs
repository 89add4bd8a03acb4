import assert from 'node:assert/strict';
import * as client from 'openid-client';
import { robotKey, scene, verify } from './scene.mjs';

const discover = (id, secret, method) =>
  client.discovery(new URL(scene.issuer), id, secret, method, { algorithm: 'oauth2', execute: [client.allowInsecureRequests] });

const shop = await discover(scene.id, scene.secret, client.ClientSecretBasic(scene.secret));
const posting = await discover(scene.post_id, scene.post_secret);
const robot = await discover(scene.robot_id, undefined, client.PrivateKeyJwt(robotKey));

for (const [config, id] of [[shop, scene.id], [posting, scene.post_id], [robot, scene.robot_id]]) {
  const tokens = await client.clientCredentialsGrant(config, { scope: 'write' });
  await verify(tokens.access_token, `client:${id}`, 'write');
}

const first = await client.refreshTokenGrant(shop, scene.refresh_token);
await verify(first.access_token, scene.subject, 'read write');
const second = await client.refreshTokenGrant(shop, first.refresh_token, { scope: 'write' });
await verify(second.access_token, scene.subject, 'write');
await assert.rejects(client.refreshTokenGrant(posting, second.refresh_token), (e) => e.error === 'invalid_grant');

assert.equal((await client.tokenIntrospection(shop, second.access_token)).active, true);
assert.deepEqual(await client.tokenIntrospection(posting, second.access_token), { active: false });
await client.tokenRevocation(shop, second.access_token);
assert.deepEqual(await client.tokenIntrospection(shop, second.access_token), { active: false });
await assert.rejects(client.refreshTokenGrant(shop, second.refresh_token), (e) => e.error === 'invalid_grant');
