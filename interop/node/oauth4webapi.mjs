import assert from 'node:assert/strict';
import * as oauth from 'oauth4webapi';
import { robotKey, scene, verify } from './scene.mjs';

const options = { [oauth.allowInsecureRequests]: true };
const issuer = new URL(scene.issuer);
const as = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, { ...options, algorithm: 'oauth2' }));

const shop = { client_id: scene.id };
const auth = oauth.ClientSecretBasic(scene.secret);

// Each client for itself, by its own method.
for (const [client, method] of [
  [shop, auth],
  [{ client_id: scene.post_id }, oauth.ClientSecretPost(scene.post_secret)],
  [{ client_id: scene.robot_id }, oauth.PrivateKeyJwt(robotKey)],
]) {
  const response = await oauth.clientCredentialsGrantRequest(as, client, method, { scope: 'read' }, options);
  const tokens = await oauth.processClientCredentialsResponse(as, client, response);
  assert.equal(tokens.refresh_token, undefined);
  await verify(tokens.access_token, `client:${client.client_id}`, 'read');
}

// A session: refreshed, with less than it was granted.
const refresh = async (token, parameters) =>
  oauth.processRefreshTokenResponse(as, shop, await oauth.refreshTokenGrantRequest(as, shop, auth, token, { ...options, additionalParameters: parameters }));
const first = await refresh(scene.refresh_token);
assert.equal((await verify(first.access_token, scene.subject, 'read write')).sid, scene.session);
const second = await refresh(first.refresh_token, { scope: 'read' });
await verify(second.access_token, scene.subject, 'read');
assert.equal(second.scope, 'read');

// The library validates a token as a resource server does.
const claims = await oauth.validateJwtAccessToken(as, new Request(scene.issuer, { headers: { authorization: `Bearer ${second.access_token}` } }), scene.audience, options);
assert.equal(claims.client_id, scene.id);

// Asked about, and revoked.
const active = async (token) =>
  oauth.processIntrospectionResponse(as, shop, await oauth.introspectionRequest(as, shop, auth, token, options));
assert.equal((await active(second.access_token)).active, true);
assert.equal((await active(second.refresh_token)).active, true);
await oauth.processRevocationResponse(await oauth.revocationRequest(as, shop, auth, second.refresh_token, options));
assert.deepEqual(await active(second.access_token), { active: false });
assert.deepEqual(await active(second.refresh_token), { active: false });
await assert.rejects(refresh(second.refresh_token), (e) => e.error === 'invalid_grant' && e.status === 400);

// Refused, in the form that the library knows.
await assert.rejects(
  oauth.clientCredentialsGrantRequest(as, shop, oauth.ClientSecretBasic('wrong'), {}, options).then((r) => oauth.processClientCredentialsResponse(as, shop, r)),
  (e) => e instanceof oauth.WWWAuthenticateChallengeError || e.error === 'invalid_client',
);
