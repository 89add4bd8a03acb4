// What every client here needs: the scene, and the keys that verify tokens.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRemoteJWKSet, importPKCS8, jwtVerify } from 'jose';

export const scene = JSON.parse(readFileSync(0, 'utf8'));
export const robotKey = { key: await importPKCS8(scene.robot_key, 'ES256'), kid: scene.robot_kid };

const keys = createRemoteJWKSet(new URL(`${scene.issuer}/.well-known/jwks.json`));

/** Verifies an access token as RFC 9068, section 4, has it. */
export async function verify(token, subject, scope) {
  const { payload } = await jwtVerify(token, keys, { issuer: scene.issuer, audience: scene.audience, typ: 'at+jwt' });
  assert.equal(payload.sub, subject);
  assert.equal(payload.scope, scope);
  return payload;
}
