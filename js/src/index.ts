/**
 * Verifies access tokens that can be revoked, in the process that gets them.
 *
 *     const quash = await Verifier.open({ url, key, audience: 'orders' });
 *     app.use('/orders', protect(quash));
 *     app.get('/orders', (req, res) => res.send(`the orders of ${req.auth?.subject}`));
 */
export type { Claims } from './claims.js';
export type { Config, Logger } from './config.js';
export { ExpiredError, InvalidError, QuashError, RevokedError, StaleError, type Code } from './errors.js';
export type { Issuer, IssuerStatus } from './issuers.js';
export {
  bearer, NoTokenError, notify, problemOf, protect, RequestError, writeError, type Middleware, type Problem, type ProtectOptions,
} from './http.js';
export { Verifier, type RoutePolicy, type Status } from './verifier.js';
