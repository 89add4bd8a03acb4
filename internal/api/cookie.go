package api

import (
	"crypto/rand"
	"net/http"
	"strings"
	"time"

	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/issuer"
)

// cookieName is that of the cookie that keeps a page's refresh token. A browser
// takes a name with this prefix only from the host itself, over TLS and for the
// whole host, so no sibling can put one in its place (RFC 6265bis, section 4.1.3.2).
const cookieName = "__Host-quash"

// presented is a refresh token as a call presents it.
type presented struct {
	token    string
	cookie   bool   // whether it came in the cookie; its successor goes there too
	retryKey string // that the cookie has beside the token
}

// present returns the refresh token in a call's body, or else the one in the
// cookie, which counts only for pages that may act by it. A token in the body is
// meant; whatever cookie comes with it is passed over.
func (a *API) present(c *call, inBody string) (presented, error) {
	if inBody != "" {
		return presented{token: inBody}, nil
	}
	values, exact := cookies(c.r)
	_, page := a.pageOf(c.r)
	switch {
	case len(values) == 0 && page:
		return presented{}, &refusal{code: client.CodeGrant, detail: "there is no session in the cookie; log in"}
	case len(values) == 0:
		return presented{}, invalid("refresh_token: missing")
	}
	if err := a.checkPage(c.r); err != nil {
		return presented{}, err
	}
	token, key, ok := strings.Cut(values[0], ".")
	if len(values) > 1 || !exact || !ok || len(key) != retryKeySize || !token68(token) || !token68(key) {
		return presented{}, invalid("cookie %s: want one, spelled so, with the value that was set; log in again", cookieName)
	}
	return presented{token: token, cookie: true, retryKey: key}, nil
}

// cookies returns the values of every cookie whose name is ours in any case,
// and whether all are spelled as ours. They are read here because net/http
// passes over what it finds malformed, and takes quotes off.
func cookies(r *http.Request) (values []string, exact bool) {
	exact = true
	for _, line := range r.Header.Values("Cookie") {
		for pair := range strings.SplitSeq(line, ";") {
			name, value, _ := strings.Cut(strings.Trim(pair, " \t"), "=")
			if strings.EqualFold(name, cookieName) {
				values, exact = append(values, value), exact && name == cookieName
			}
		}
	}
	return values, exact
}

// retryKeySize is the length of what [rand.Text] returns.
const retryKeySize = 26

// request is what the issuer is asked with. Each token that the cookie is given
// comes with an Idempotency-Key of its own, which all tabs share, so that whichever
// asks again after an answer was lost gets the same successor; one of the header
// adds nothing.
func (p presented) request(c *call) (issuer.RefreshRequest, error) {
	key, err := idempotencyKey(c.r)
	if p.cookie {
		key = p.retryKey
	}
	return issuer.RefreshRequest{Token: p.token, IdempotencyKey: key, Address: c.from(), Shared: p.cookie}, err
}

// newRetryKey returns a key for the cookie.
func newRetryKey() string { return rand.Text() }

// renewed shows what a refresh token was exchanged for, whose successor goes
// where it came from. One that is given again keeps its key: its successor may be
// there by when the answer arrives, and is had again by that key alone.
func (c *call) renewed(g issuer.Grant, p presented) client.Tokens {
	switch {
	case !p.cookie:
		return tokens(g)
	case g.RefreshToken == p.token:
		return c.inCookie(g, p.retryKey)
	}
	return c.inCookie(g, newRetryKey())
}

// inCookie shows a grant with its refresh token in the cookie, beside a key.
func (c *call) inCookie(g issuer.Grant, retryKey string) client.Tokens {
	c.setCookie(g.RefreshToken+"."+retryKey, g.Ends)
	shown := tokens(g)
	shown.RefreshToken = ""
	return shown
}

// forget takes the cookie, and what the browser keeps for this origin, from it.
// Not "cookies": that would take those of every host of the site. Nor "cache":
// no answer with a token may be stored.
func (c *call) forget() {
	c.setCookie("", 0)
	c.Header().Set("Clear-Site-Data", `"storage"`)
}

// setCookie keeps a value for so long; none deletes it. Strict, because only
// scripts of the same site use it, and no link from elsewhere needs it.
func (c *call) setCookie(value string, keep time.Duration) {
	cookie := http.Cookie{
		Name: cookieName, Value: value, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		MaxAge: int(keep / time.Second),
	}
	if cookie.MaxAge <= 0 {
		cookie.MaxAge = -1
	}
	http.SetCookie(c, &cookie)
}
