// Package api is the HTTP surface: it decodes requests, limits them, calls
// the issuer or the log, and encodes what they say. It holds no rule of its own.
//
// There are two listeners. [API.Public] serves users and other people's
// clients; [API.Private] serves the feed, administration and metrics, to
// holders of API keys. Bodies are the types of package client; refusals are
// problems (RFC 9457). The description in openapi.json is served beside them,
// and the tests hold every route, request and answer against it.
//
// # One straight path
//
// Every request, good or bad, goes through [route.serve]: limits, then who
// asks, then whether the question is well-formed, then the route's own
// function, then the answer, one line in the log and one point in the
// histogram. A route is a row of a table; nothing is served that has none.
package api
