package quash

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Answers to requests that no token could mend. They are Protect's own.
var (
	errNoToken = errors.New("quash: the request has no token")
	errRequest = errors.New("quash: the request is malformed: want one Authorization header of the form Bearer and the token")
)

// Protect returns a handler that calls h for requests with an accepted token,
// and answers others as [WriteError] does. H finds the token's claims with
// [FromContext].
//
// The token is where Config.Token looks; by default in the one Authorization
// header (RFC 6750, section 2.1). Query parameters and bodies are not looked
// at. A request without a token is answered with 401 and no error code (section
// 3.1), a malformed one with 400.
//
// Each call is one route, which counts for as long as the verifier lives; its
// policy is to refuse while the verifier is stale, unless an option says
// otherwise.
func (v *Verifier) Protect(h http.Handler, options ...Option) http.Handler {
	admit := v.Route(options...)
	find := v.config.Token
	if find == nil {
		find = Bearer
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, err := find(r)
		switch {
		case err != nil:
			WriteError(w, r, errRequest)
			return
		case token == "":
			WriteError(w, r, errNoToken)
			return
		}
		ctx, late, err := admit(r.Context(), token)
		if err != nil {
			WriteError(w, r, err)
			return
		}
		if late >= 0 {
			w.Header().Set("Quash-Stale", strconv.FormatInt(int64(late/time.Second), 10))
		}
		h.ServeHTTP(w, r.WithContext(ctx))
	})
}

// Bearer returns the token of the one Authorization header (RFC 6750, section
// 2.1; RFC 9110, section 11.4): empty where there is no such header, or one of
// another scheme, and an error where there are several, or what follows Bearer
// has not the form of a token. It is where [Verifier.Protect] looks, unless
// Config.Token says otherwise.
func Bearer(r *http.Request) (string, error) {
	values := r.Header["Authorization"]
	switch len(values) {
	case 0:
		return "", nil
	case 1:
	default:
		return "", errRequest
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", nil
	}
	token = strings.TrimLeft(token, " ")
	if !token68(token) {
		return "", errRequest
	}
	return token, nil
}

// token68 says whether s has the form that RFC 9110, section 11.2, gives to
// credentials of one token.
func token68(s string) bool {
	s = strings.TrimRight(s, "=")
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '-', c == '.', c == '_', c == '~', c == '+', c == '/':
		default:
			return false
		}
	}
	return s != ""
}

// problem is an answer as RFC 9457 describes it.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`

	challenge string // WWW-Authenticate
	retry     string // Retry-After, in seconds
}

const realm = `Bearer realm="quash"`

// The answers. Invalid, expired and revoked tokens have the same, because the
// difference helps nobody but an attacker (RFC 6750, section 3.1).
var (
	problemNoToken = problem{
		Type: "urn:quash:problem:no-token", Title: "No access token", Status: http.StatusUnauthorized,
		Detail:    "This resource needs an access token in the Authorization header.",
		challenge: realm,
	}
	problemRequest = problem{
		Type: "urn:quash:problem:invalid-request", Title: "Malformed credentials", Status: http.StatusBadRequest,
		Detail:    "Send one access token: one Authorization header of the form Bearer and the token.",
		challenge: realm + `, error="invalid_request", error_description="The request has malformed credentials, or more than one"`,
	}
	problemToken = problem{
		Type: "urn:quash:problem:invalid-token", Title: "Access token not accepted", Status: http.StatusUnauthorized,
		Detail:    "The access token is invalid, expired or revoked. Refresh it once; log in again only if that answers invalid_grant.",
		challenge: realm + `, error="invalid_token", error_description="The access token is invalid, expired or revoked"`,
	}
	problemStale = problem{
		Type: "urn:quash:problem:stale", Title: "Tokens cannot be checked now", Status: http.StatusServiceUnavailable,
		Detail: "This server is not sure to know every revocation. Keep your tokens and try again.",
		retry:  "2",
	}
	problemNotReady = problem{
		Type: "urn:quash:problem:not-ready", Title: "Tokens cannot be checked yet", Status: http.StatusServiceUnavailable,
		Detail: "This server is starting. Keep your tokens and try again.",
		retry:  "2",
	}
	problemUnknown = problem{Type: "about:blank", Title: http.StatusText(http.StatusInternalServerError), Status: http.StatusInternalServerError}
)

// WriteError answers a request whose token Verify did not accept: 401 with a
// challenge for [ErrInvalid], [ErrExpired] and [ErrRevoked] (RFC 6750, section
// 3), which look alike; 503 with Retry-After for [ErrStale] and [ErrNotReady];
// 500 for any other error. The body is a problem (RFC 9457) that says nothing
// of the error's text.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	p := problemOf(err)
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	if p.challenge != "" {
		h.Set("WWW-Authenticate", p.challenge)
	}
	if p.retry != "" {
		h.Set("Retry-After", p.retry)
	}
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p)
}

func problemOf(err error) problem {
	switch {
	case errors.Is(err, errNoToken):
		return problemNoToken
	case errors.Is(err, errRequest):
		return problemRequest
	case errors.Is(err, ErrInvalid), errors.Is(err, ErrExpired), errors.Is(err, ErrRevoked):
		return problemToken
	case errors.Is(err, ErrStale):
		return problemStale
	case errors.Is(err, ErrNotReady):
		return problemNotReady
	}
	return problemUnknown
}
