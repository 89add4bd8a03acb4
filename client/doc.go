// Package client calls the HTTP API of a Quash server, and defines the bodies
// of its requests and answers: the server encodes and decodes these very types.
//
// A [Client] has the calls of the public listener, for users and their
// devices; [Client.Admin] has those of the private listener, for programs with
// an API key. Each call is one request: nothing is repeated and nothing is
// cached. An answer that is not a success is a [*Problem] in the error's chain,
// whose Code says what to do:
//
//	tokens, err := c.Refresh(ctx, refreshToken, "")
//	if p, ok := errors.AsType[*client.Problem](err); ok && p.Code == client.CodeGrant {
//		// the session has ended: log in again
//	}
package client
