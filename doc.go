// Package quash verifies access tokens that can be revoked.
//
// A [Verifier] keeps the live revocations and the issuer's public keys in its
// own memory, in step with a Quash node through one connection. Verifying
// takes nothing but memory and processor time: no look-up over the network, no
// database, no lock.
//
//	v, err := quash.Open(ctx, quash.Config{URL: url, Key: key, Audience: "orders"})
//	if err != nil {
//		return err
//	}
//	defer v.Close(context.Background())
//	mux.Handle("/orders", v.Protect(orders))
//
// Behind [Verifier.Protect] a handler finds the token's claims with
// [FromContext]. What lives longer than a request, such as a WebSocket, lives
// on a context of [NotifyContext], which ends when the token does.
//
// # Which tokens are accepted
//
// Access tokens as RFC 9068 profiles them, signed with ES256, Ed25519 or RS256
// by a key that the node publishes, for this issuer and audience, within their
// time, that no revocation kills. A token is killed by a revocation that names
// one of its claims and came after the token was issued; claim rev says when
// that was, as a position of the node's log, so that no clock takes part.
//
// [Config.Issuers] names others whose tokens are accepted beside: an identity
// provider's, or for a while those that an application made with a secret of its
// own before it came to Quash. They say nothing of the log, so revocations name
// them by their iat; see [Issuer].
//
// # Leases
//
// A verifier may rely on its revocations for as long as its lease lasts: 30
// seconds unless the node says otherwise, counted from the latest ping whose
// answer said that it lacks nothing. One that is cut off refuses when its lease
// has ended, and by then the node knows that it does; so a revocation holds
// everywhere at the latest one lease after it was made, and as a rule some
// milliseconds after. A route that had better answer goes on for a bounded time
// more, by [AcceptStale]. [Verifier.Health] and [Verifier.Metrics] show how it
// stands.
//
// # Errors
//
// [Verifier.Verify] returns errors that match one of five with errors.Is. The
// first check that fails decides, in this order: form, key, signature, claims
// (all [ErrInvalid]), expiry ([ErrExpired]), revocation ([ErrRevoked]), and last
// whether the verifier may still rely on what it knows ([ErrStale]). So a
// client that is told to keep its token and to come back has a token that is
// worth keeping. One exception: while the verifier is stale, a key that it does
// not know may be one that it has not heard of, and is [ErrStale]. A verifier without keys and revocations can tell nothing, and
// answers [ErrNotReady]; so does one that could not fetch the keys of
// another issuer yet, of that issuer's tokens.
package quash
