package client

import (
	"fmt"
	"time"
)

// Problem is a refusal, as RFC 9457 describes it.
type Problem struct {
	Type   string `json:"type"`   // "urn:quash:problem:" and the code
	Title  string `json:"title"`  // the same for every problem of this code
	Status int    `json:"status"` // of the HTTP answer
	Detail string `json:"detail"` // what happened and what to do
	Code   Code   `json:"code"`

	// RetryAfter is when trying again makes sense; 0 where it does not by
	// itself.
	RetryAfter time.Duration `json:"-"`
}

// Error returns the problem in words for people.
func (p *Problem) Error() string {
	text := p.Detail
	if text == "" {
		text = p.Title
	}
	code := string(p.Code)
	if code == "" {
		code = fmt.Sprintf("HTTP %d", p.Status)
	}
	if p.RetryAfter > 0 {
		return fmt.Sprintf("%s (%s; try again in %v)", text, code, p.RetryAfter)
	}
	return fmt.Sprintf("%s (%s)", text, code)
}

// Code names, for programs, why a call was refused. Others may be added.
type Code string

// The codes, and the status that each comes with.
const (
	CodeInvalid            Code = "invalid_request"        // 400: the request itself is wrong
	CodeGrant              Code = "invalid_grant"          // 400: the refresh token is no good: log in again
	CodePassword           Code = "weak_password"          // 400: the new password is not acceptable
	CodeUnknownClaim       Code = "unknown_claim"          // 400: no token carries the claim
	CodeScope              Code = "invalid_scope"          // 400: more was asked for than is granted
	CodeUnauthorizedClient Code = "unauthorized_client"    // 400: the client is not allowed this
	CodeGrantType          Code = "unsupported_grant_type" // 400: there is no such grant type
	CodeClient             Code = "invalid_client"         // 401: the client did not show who it is
	CodeCredentials        Code = "invalid_credentials"    // 401: no such account and password
	CodeToken              Code = "invalid_token"          // 401: the access token or API key is no good
	CodeNoToken            Code = "no_token"               // 401: there is none
	CodeForbidden          Code = "forbidden"              // 403: the API key lacks the scope
	CodeNotFound           Code = "not_found"              // 404
	CodeMethod             Code = "method_not_allowed"     // 405
	CodeConflict           Code = "conflict"               // 409: something else has the name, or changed meanwhile
	CodeTooLarge           Code = "content_too_large"      // 413
	CodeMediaType          Code = "unsupported_media_type" // 415
	CodeLimited            Code = "too_many_requests"      // 429
	CodeInternal           Code = "internal_error"         // 500
	CodeBusy               Code = "busy"                   // 503: more password checks are waiting than can be
	CodeFull               Code = "full"                   // 503: the live revocations are near their bound
	CodeUnavailable        Code = "unavailable"            // 503: the store did not answer; what the call was for was not done
	CodeOutcomeUnknown     Code = "outcome_unknown"        // 503: the change may stand or not: look before making it again
	CodeStale              Code = "stale"                  // 503: the server cannot rely on its revocations: keep the tokens
	CodeNotReady           Code = "not_ready"              // 503: the server is starting: keep the tokens
)

// The codes of the feed besides.
const (
	CodeHandshake   Code = "feed_handshake"       // 400, 426 or 505: the request opens no feed
	CodeVersion     Code = "feed_version"         // 400: it offers no version that the node speaks
	CodeConnections Code = "too_many_connections" // 503: the verifier's key has as many as it may
)
