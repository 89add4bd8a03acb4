package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/issuer"
)

// refusal is an error that says how it is answered.
type refusal struct {
	code      client.Code
	detail    string
	retry     time.Duration
	challenge string // parameters of WWW-Authenticate after the realm
	allow     string // Allow
}

func (e *refusal) Error() string { return e.detail }

func invalid(format string, args ...any) error {
	return &refusal{code: client.CodeInvalid, detail: fmt.Sprintf(format, args...)}
}

var (
	errInternal = &refusal{code: client.CodeInternal, detail: "the server failed; its log says how"}
	errNoToken  = &refusal{code: client.CodeNoToken, detail: "send an access token or API key in the Authorization header"}
	errBearer   = &refusal{
		code: client.CodeInvalid, detail: "want one Authorization header of the form Bearer and the token",
		challenge: `error="invalid_request", error_description="The request has malformed credentials, or more than one"`,
	}
)

func refuseScope(s issuer.Scope) error {
	return &refusal{
		code: client.CodeForbidden, detail: fmt.Sprintf("the API key lacks the scope %s; use one that has it", s),
		challenge: fmt.Sprintf(`error="insufficient_scope", scope=%q`, s),
	}
}

func refuseMethod(served []string) error {
	allow := strings.Join(served, ", ")
	if strings.Contains(allow, "GET") {
		allow += ", HEAD"
	}
	return &refusal{code: client.CodeMethod, detail: "this path takes " + allow, allow: allow}
}

// statusOf returns the status and title that a code is answered with.
func statusOf(code client.Code) (status int, title string) {
	switch code {
	case client.CodeInvalid:
		return http.StatusBadRequest, "Invalid request"
	case client.CodeGrant:
		return http.StatusBadRequest, "Refresh token not accepted"
	case client.CodePassword:
		return http.StatusBadRequest, "Password not acceptable"
	case client.CodeUnknownClaim:
		return http.StatusBadRequest, "Unknown claim"
	case client.CodeScope:
		return http.StatusBadRequest, "Scope not granted"
	case client.CodeUnauthorizedClient:
		return http.StatusBadRequest, "Client not allowed this"
	case client.CodeGrantType:
		return http.StatusBadRequest, "Unsupported grant type"
	case client.CodeClient:
		return http.StatusUnauthorized, "Client not accepted"
	case client.CodeCredentials:
		return http.StatusUnauthorized, "Wrong name or password"
	case client.CodeToken:
		return http.StatusUnauthorized, "Token not accepted"
	case client.CodeNoToken:
		return http.StatusUnauthorized, "No token"
	case client.CodeForbidden:
		return http.StatusForbidden, "Not allowed"
	case client.CodeNotFound:
		return http.StatusNotFound, "Not found"
	case client.CodeMethod:
		return http.StatusMethodNotAllowed, "Method not allowed"
	case client.CodeConflict:
		return http.StatusConflict, "Conflict"
	case client.CodeTooLarge:
		return http.StatusRequestEntityTooLarge, "Content too large"
	case client.CodeMediaType:
		return http.StatusUnsupportedMediaType, "Unsupported media type"
	case client.CodeLimited:
		return http.StatusTooManyRequests, "Too many requests"
	case client.CodeBusy:
		return http.StatusServiceUnavailable, "Busy"
	case client.CodeFull:
		return http.StatusServiceUnavailable, "Too many live revocations"
	case client.CodeUnavailable:
		return http.StatusServiceUnavailable, "Unavailable"
	case client.CodeOutcomeUnknown:
		return http.StatusServiceUnavailable, "Outcome unknown"
	case client.CodeStale:
		return http.StatusServiceUnavailable, "Tokens cannot be checked now"
	case client.CodeNotReady:
		return http.StatusServiceUnavailable, "Not ready"
	}
	return http.StatusInternalServerError, "Internal error"
}

// refusalOf puts every error into words for the caller. What is not known to
// be for the caller stays out of them.
func refusalOf(err error) *refusal {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r
	}
	if e, ok := errors.AsType[*issuer.Error](err); ok {
		r := &refusal{code: client.Code(e.Code), detail: e.Detail, retry: e.RetryAfter}
		switch e.Code {
		case issuer.CodeToken:
			r.challenge = `error="invalid_token"`
		case issuer.CodeForbidden:
			r.challenge = `error="insufficient_scope"`
		}
		return r
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &refusal{code: client.CodeTooLarge, detail: fmt.Sprintf("the body has more than %d octets", maxBody)}
	}
	switch {
	case errors.Is(err, quash.ErrInvalid), errors.Is(err, quash.ErrExpired), errors.Is(err, quash.ErrRevoked):
		return &refusal{
			code: client.CodeToken, detail: "the access token is invalid, expired or revoked; refresh it once, and log in again only if that answers invalid_grant",
			challenge: `error="invalid_token", error_description="The access token is invalid, expired or revoked"`,
		}
	case errors.Is(err, quash.ErrStale):
		return &refusal{code: client.CodeStale, detail: "the server is not sure to know every revocation; keep your tokens and try again", retry: 2 * time.Second}
	case errors.Is(err, quash.ErrNotReady):
		return &refusal{code: client.CodeNotReady, detail: "the server is starting; keep your tokens and try again", retry: 2 * time.Second}
	}
	return &refusal{code: client.Code(issuer.CodeOf(err)), detail: "the server could not do this now; try again", retry: time.Second}
}

// refuse answers with a problem (RFC 9457), or in the standards' own form.
func (c *call) refuse(err error) {
	e := refusalOf(err)
	if c.route.oauth {
		c.refuseOAuth(e, err)
		return
	}
	p := client.Problem{Type: "urn:quash:problem:" + strings.ReplaceAll(string(e.code), "_", "-"), Detail: e.detail, Code: e.code}
	p.Status, p.Title = statusOf(e.code)
	c.code = e.code
	if p.Status >= http.StatusInternalServerError {
		c.cause = causeOf(err)
	}
	h := c.Header()
	if p.Status == http.StatusUnauthorized || e.challenge != "" {
		challenge := `Bearer realm="quash"`
		if e.challenge != "" {
			challenge += ", " + e.challenge
		}
		h.Set("WWW-Authenticate", challenge)
	}
	if e.allow != "" {
		h.Set("Allow", e.allow)
	}
	if e.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.retry.Seconds()))))
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	c.WriteHeader(p.Status)
	_ = json.NewEncoder(c).Encode(p)
}

// causeOf returns what the issuer's own words stand for, for the log.
func causeOf(err error) error {
	if e, ok := errors.AsType[*issuer.Error](err); ok && e.Unwrap() != nil {
		return fmt.Errorf("%w: %w", err, e.Unwrap())
	}
	return err
}
