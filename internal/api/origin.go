package api

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/quashdev/quash/client"
)

// CheckOrigin says what is wrong with an origin of pages. It must be written as
// browsers write it, since it is compared as text (RFC 6454, section 6.2), and
// be https, unless its host is loopback.
func CheckOrigin(origin string) error {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789.-_:[]"
	u, err := url.Parse(origin)
	switch {
	case err != nil, u.Hostname() == "", u.Scheme+"://"+u.Host != origin, strings.Trim(u.Host, letters) != "", strings.HasSuffix(u.Host, ":"),
		u.Scheme == "https" && u.Port() == "443", u.Scheme == "http" && u.Port() == "80":
		return fmt.Errorf("browser origin %q: want it as browsers write it, such as https://app.example or https://app.example:8443", origin)
	case u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())):
		return fmt.Errorf("browser origin %q: want https; only pages on loopback may do without", origin)
	}
	return nil
}

func loopback(host string) bool {
	address, err := netip.ParseAddr(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil && address.IsLoopback()
}

// pageOf returns the origin of the page that makes a request, if it is one of
// the listed.
func (a *API) pageOf(r *http.Request) (origin string, listed bool) {
	values := r.Header.Values("Origin")
	if len(values) != 1 {
		return "", false
	}
	return values[0], slices.Contains(a.origins, values[0])
}

// checkPage refuses what does not come from a listed page of the same site. A
// browser names the origin with every POST, so one that is not named counts as
// foreign; "null" and a sibling are not in the list.
func (a *API) checkPage(r *http.Request) error {
	if _, listed := a.pageOf(r); !listed {
		return &refusal{code: client.CodeForbidden, detail: "only pages of the origins that the server was given with --browser-origin may act by cookie, and the Origin header names none of them"}
	}
	switch site := r.Header.Get("Sec-Fetch-Site"); site {
	case "", "same-origin", "same-site": // absent: an older browser
		return nil
	}
	return &refusal{code: client.CodeForbidden, detail: "this page is of another site than the server, so browsers keep no cookie for it; serve both under one registrable domain, both by https"}
}

const (
	// exposed are the headers of answers that pages may read besides those that
	// every page may.
	exposed = "Preference-Applied, Retry-After, WWW-Authenticate"
	// accepted are the headers of requests that pages may set besides.
	accepted = "Authorization, Content-Type, Idempotency-Key, Prefer"
	// preflightAge is in seconds, and the longest that Chromium keeps one.
	preflightAge = "7200"
)

// share lets listed pages read an answer (Fetch Standard, section 3.3).
func (a *API) share(w http.ResponseWriter, r *http.Request) {
	if len(a.origins) == 0 {
		return
	}
	w.Header().Add("Vary", "Origin")
	if origin, listed := a.pageOf(r); listed {
		w.Header().Set("Access-Control-Allow-Origin", origin)
		w.Header().Set("Access-Control-Allow-Credentials", "true")
		w.Header().Set("Access-Control-Expose-Headers", exposed)
	}
}

// otherMethod answers what a path does not serve: the preflight of a listed
// page, and everything else with a refusal.
func (a *API) otherMethod(c *call, served []string) error {
	shared := c.Header().Get("Access-Control-Allow-Origin") != ""
	if c.r.Method != http.MethodOptions || !shared || c.r.Header.Get("Access-Control-Request-Method") == "" {
		return refuseMethod(served)
	}
	c.Header().Set("Access-Control-Allow-Methods", strings.Join(served, ", "))
	c.Header().Set("Access-Control-Allow-Headers", accepted)
	c.Header().Set("Access-Control-Max-Age", preflightAge)
	c.WriteHeader(http.StatusNoContent)
	return nil
}
