// Package issuer holds every rule of the server: who may log in, how a session
// goes on and how it ends, what a revocation names and whom it reaches.
//
// # One straight path
//
// A login opens a [Session] and issues an access token; a refresh rotates the
// session's refresh token and issues the next; whatever ends sessions or
// tokens is an [Event] and goes through one function, which ends the
// rows and appends the revocations of that event in one transaction.
//
// Issuing and revoking never share a transaction. Issuing reads the account,
// the session and the log's head in one snapshot and signs after the commit,
// so a token's rev is never ahead of what its issuing saw, and never behind.
//
// The rules are written once, here; a [Store] holds rows and no rules.
package issuer
