package api

import (
	"net/http"
	"net/http/httptest"
	"net/netip"

	"github.com/quashdev/quash/client"
)

// Route is a row of the tables of routes.
type Route struct {
	Method, Path, Scope string
	User, Body, Public  bool
	OAuth               bool
	Query               []string
}

// Routes returns every route; those of both listeners are there twice.
func Routes() []Route {
	var all []Route
	add := func(routes []route, public bool) {
		for _, rt := range routes {
			all = append(all, Route{rt.method, rt.path, string(rt.scope), rt.user, rt.body, public, rt.oauth, rt.query})
		}
	}
	add(publicRoutes, true)
	add(privateRoutes, false)
	return all
}

// StatusOf shows how a code is answered.
func StatusOf(code client.Code) int {
	status, _ := statusOf(code)
	return status
}

// Refusing returns a handler with one route, which refuses with err.
func (a *API) Refusing(err error) http.Handler {
	return a.mux([]route{{method: "GET", path: "/refused", do: func(*API, *call) error { return err }}}, false)
}

// Broken returns a handler with one route, which panics.
func (a *API) Broken(value any) http.Handler {
	return a.mux([]route{{method: "GET", path: "/broken", do: func(*API, *call) error { panic(value) }}}, false)
}

// Crowd has as many calls wait as may at once.
func (a *API) Crowd() {
	for range maxWaiting {
		a.waiting <- struct{}{}
	}
}

// Decode reads the body of a request as a handler does.
func Decode[T any](r *http.Request) (T, error) {
	return decode[T](&call{recorder: recorder{ResponseWriter: httptest.NewRecorder()}, r: r})
}

// Form reads the body of a request to an endpoint of OAuth.
func Form(r *http.Request) (map[string]string, error) {
	return readForm(&call{recorder: recorder{ResponseWriter: httptest.NewRecorder()}, r: r})
}

// Cookie returns the refresh token and the key that a page of an origin presents.
func Cookie(r *http.Request, origin string) (token, key string, err error) {
	a := &API{origins: []string{origin}}
	p, err := a.present(&call{r: r}, "")
	return p.token, p.retryKey, err
}

// Query reads a query string of a route that takes the known parameters.
var Query = readQuery

// What is read of a request's headers.
var (
	Bearer         = bearer
	IdempotencyKey = idempotencyKey
	Preferences    = readPrefer
)

// AddressOf returns where a request comes from if the proxies are trusted.
func AddressOf(r *http.Request, trusted ...netip.Prefix) netip.Addr {
	return (&API{trusted: trusted}).addressOf(r)
}
