package api

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/issuer"
)

// route is one thing that a listener serves.
type route struct {
	method string // empty: any, for what is not served
	path   string
	user   bool         // whether it takes a live access token
	scope  issuer.Scope // that the API key needs; empty: no key
	query  []string     // names of the parameters that it reads
	body   bool         // whether it reads one
	oauth  bool         // whether it is one of the standards' endpoints, with their form of errors
	do     func(*API, *call) error
}

func (rt *route) String() string { return strings.TrimSpace(rt.method + " " + rt.path) }

// both are the routes that either listener has.
var both = []route{
	{method: "GET", path: "/healthz", do: (*API).health},
	{method: "GET", path: "/readyz", do: (*API).ready},
	{method: "GET", path: "/openapi.json", do: (*API).openAPI},
}

// publicRoutes are for users and their devices.
var publicRoutes = slices.Concat(both, []route{
	{method: "POST", path: "/v1/login", body: true, do: (*API).login},
	{method: "POST", path: "/v1/refresh", body: true, do: (*API).refresh},
	{method: "POST", path: "/v1/logout", body: true, do: (*API).logout},
	{method: "POST", path: "/v1/logout/others", user: true, do: (*API).logoutOthers},
	{method: "POST", path: "/v1/logout/all", user: true, do: (*API).logoutAll},
	{method: "GET", path: "/v1/sessions", user: true, do: (*API).ownSessions},
	{method: "DELETE", path: "/v1/sessions/{sid}", user: true, do: (*API).endOwnSession},
	{method: "POST", path: "/v1/password", body: true, do: (*API).changePassword},
	{method: "GET", path: "/v1/account", user: true, do: (*API).ownAccount},
	{method: "GET", path: "/.well-known/jwks.json", do: (*API).jwks},

	{method: "POST", path: "/oauth/token", body: true, oauth: true, do: (*API).token},
	{method: "POST", path: "/oauth/revoke", body: true, oauth: true, do: (*API).revokeToken},
	{method: "POST", path: "/oauth/introspect", body: true, oauth: true, do: (*API).introspect},
	{method: "GET", path: metadataPath, do: (*API).metadata},
})

// change are the query parameters of what revokes.
var change = []string{"reason", "dry_run"}

// privateRoutes are for programs with an API key.
var privateRoutes = slices.Concat(both, []route{
	{method: "GET", path: "/metrics", do: (*API).metrics},
	{method: "GET", path: "/v1/feed", scope: issuer.ScopeFeed, do: (*API).feed},

	{method: "GET", path: "/v1/admin/accounts", scope: issuer.ScopeAccounts, query: []string{"name", "after", "limit"}, do: (*API).accounts},
	{method: "POST", path: "/v1/admin/accounts", scope: issuer.ScopeAccounts, body: true, do: (*API).createAccount},
	{method: "GET", path: "/v1/admin/accounts/{subject}", scope: issuer.ScopeAccounts, do: (*API).account},
	{method: "DELETE", path: "/v1/admin/accounts/{subject}", scope: issuer.ScopeAccounts, query: change, do: (*API).deleteAccount},
	{method: "PUT", path: "/v1/admin/accounts/{subject}/claims", scope: issuer.ScopeAccounts, query: change, body: true, do: (*API).putClaims},
	{method: "PUT", path: "/v1/admin/accounts/{subject}/password", scope: issuer.ScopeAccounts, query: change, body: true, do: (*API).setPassword},
	{method: "POST", path: "/v1/admin/accounts/{subject}/deactivate", scope: issuer.ScopeAccounts, query: change, do: (*API).deactivate},
	{method: "POST", path: "/v1/admin/accounts/{subject}/reactivate", scope: issuer.ScopeAccounts, query: change, do: (*API).reactivate},
	{method: "POST", path: "/v1/admin/import", scope: issuer.ScopeAccounts, body: true, do: (*API).importAccounts},

	{method: "GET", path: "/v1/admin/accounts/{subject}/sessions", scope: issuer.ScopeSessions, do: (*API).sessions},
	{method: "POST", path: "/v1/admin/accounts/{subject}/sessions", scope: issuer.ScopeSessions, body: true, do: (*API).openSession},
	{method: "DELETE", path: "/v1/admin/accounts/{subject}/sessions", scope: issuer.ScopeSessions, query: change, do: (*API).endSessions},
	{method: "DELETE", path: "/v1/admin/sessions/{sid}", scope: issuer.ScopeSessions, query: change, do: (*API).endSession},

	{method: "POST", path: "/v1/admin/revocations", scope: issuer.ScopeRevoke, query: []string{"dry_run"}, body: true, do: (*API).revoke},

	{method: "GET", path: "/v1/admin/revocations", scope: issuer.ScopeAudit, query: []string{"after", "limit", "wait"}, do: (*API).revocations},
	{method: "GET", path: "/v1/admin/revocations/{position}", scope: issuer.ScopeAudit, do: (*API).evidence},
	{method: "GET", path: "/v1/admin/requests/{id}", scope: issuer.ScopeAudit, do: (*API).request},
	{method: "GET", path: "/v1/admin/audit", scope: issuer.ScopeAudit, query: []string{"before", "subject", "event", "limit"}, do: (*API).audit},
	{method: "POST", path: "/v1/admin/explain", scope: issuer.ScopeAudit, body: true, do: (*API).explain},
	{method: "GET", path: "/v1/admin/log", scope: issuer.ScopeAudit, do: (*API).logState},
	{method: "POST", path: "/v1/admin/log/verify", scope: issuer.ScopeAudit, do: (*API).verifyLog},
	{method: "GET", path: "/v1/admin/verifiers", scope: issuer.ScopeAudit, do: (*API).verifiers},

	{method: "GET", path: "/v1/admin/keys", scope: issuer.ScopeKeys, do: (*API).keys},
	{method: "POST", path: "/v1/admin/keys", scope: issuer.ScopeKeys, body: true, do: (*API).createKey},
	{method: "DELETE", path: "/v1/admin/keys/{id}", scope: issuer.ScopeKeys, do: (*API).deleteKey},
	{method: "POST", path: "/v1/admin/keys/{id}/replace", scope: issuer.ScopeKeys, body: true, do: (*API).replaceKey},
	{method: "GET", path: "/v1/admin/clients", scope: issuer.ScopeClients, do: (*API).clients},
	{method: "POST", path: "/v1/admin/clients", scope: issuer.ScopeClients, body: true, do: (*API).createClient},
	{method: "GET", path: "/v1/admin/clients/{client_id}", scope: issuer.ScopeClients, do: (*API).client},
	{method: "PUT", path: "/v1/admin/clients/{client_id}", scope: issuer.ScopeClients, query: change, body: true, do: (*API).putClient},
	{method: "DELETE", path: "/v1/admin/clients/{client_id}", scope: issuer.ScopeClients, query: change, do: (*API).deleteClient},
	{method: "POST", path: "/v1/admin/clients/{client_id}/secret", scope: issuer.ScopeClients, body: true, do: (*API).replaceClientSecret},

	{method: "GET", path: "/v1/admin/issuers", scope: issuer.ScopeKeys, do: (*API).issuers},
	{method: "POST", path: "/v1/admin/issuers", scope: issuer.ScopeKeys, body: true, do: (*API).addIssuer},
	{method: "GET", path: "/v1/admin/signing-keys", scope: issuer.ScopeKeys, do: (*API).signingKeys},
	{method: "POST", path: "/v1/admin/signing-keys/rotate", scope: issuer.ScopeKeys, query: []string{"now"}, do: (*API).rotateSigningKey},

	{method: "GET", path: "/v1/admin/backup", scope: issuer.ScopeBackup, do: (*API).backup},
})

// mux returns a handler of routes, and of everything else: 405 where a path
// has other methods, 404 where there is none.
func (a *API) mux(routes []route, limited bool) http.Handler {
	mux := http.NewServeMux()
	methods, standard := map[string][]string{}, map[string]bool{}
	add := func(rt route) {
		mux.HandleFunc(rt.String(), func(w http.ResponseWriter, r *http.Request) { rt.serve(a, w, r, limited) })
	}
	for _, rt := range routes {
		add(rt)
		methods[rt.path], standard[rt.path] = append(methods[rt.path], rt.method), rt.oauth
	}
	for at, served := range methods {
		add(route{path: at, body: true, oauth: standard[at], do: func(a *API, c *call) error { return a.otherMethod(c, served) }})
	}
	unknown := route{path: "/", body: true, do: func(*API, *call) error {
		return &refusal{code: client.CodeNotFound, detail: "there is nothing at this path; /openapi.json lists what there is"}
	}}
	add(unknown)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The mux would redirect to the clean path, credentials and all.
		if at := r.URL.EscapedPath(); at != "/" && path.Clean(at) != strings.TrimSuffix(at, "/") {
			unknown.serve(a, w, r, limited)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// call is one request on its way.
type call struct {
	recorder
	r       *http.Request
	route   *route
	address netip.Addr // where it comes from; invalid where that is not known
	query   url.Values
	actor   issuer.Actor
	key     issuer.APIKey // that it presented, if its route takes one
	code    client.Code   // of the refusal
	cause   error         // of a failure, for the log
}

// recorder remembers what was answered.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	return n, err
}

// Unwrap is for [http.ResponseController].
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// serve carries a request to its answer and notes it. Limited is for requests
// of which nothing is known but the address.
func (rt *route) serve(a *API, w http.ResponseWriter, r *http.Request, limited bool) {
	began := time.Now()
	c := &call{recorder: recorder{ResponseWriter: w}, r: r, route: rt, address: a.addressOf(r)}
	c.actor = issuer.User(c.from())
	defer func() {
		broken := recover()
		if broken != nil {
			c.broken(a, broken)
		}
		a.note(c, time.Since(began))
		if broken == http.ErrAbortHandler {
			panic(broken)
		}
	}()
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	err := error(nil)
	if limited {
		a.share(w, r)
		err = a.admit(r.Context(), c.address)
	}
	if err == nil {
		err = rt.pass(a, c)
	}
	if err != nil {
		c.refuse(err)
	}
}

// pass checks who asks and whether the question is well-formed, and answers.
func (rt *route) pass(a *API, c *call) (err error) {
	switch {
	case rt.user:
		err = a.authenticateUser(c)
	case rt.scope != "":
		err = a.authenticateKey(c)
	}
	if err != nil {
		return err
	}
	if rt.method != "" {
		if c.query, err = readQuery(c.r.URL.RawQuery, rt.query); err != nil {
			return err
		}
	}
	if !rt.body {
		if err := noBody(c.r); err != nil {
			return err
		}
	}
	return rt.do(a, c)
}

// from returns the address as the evidence has it.
func (c *call) from() string {
	if !c.address.IsValid() {
		return ""
	}
	return c.address.String()
}

// broken answers a request whose handler panicked.
func (c *call) broken(a *API, value any) {
	if value == http.ErrAbortHandler {
		return
	}
	a.logger.Error("a handler panicked; this is a fault of the server", "route", c.route.String(), "panic", value, "stack", string(debug.Stack()))
	if c.status == 0 {
		c.refuse(errInternal)
	}
}

// note writes the one record of a request. Query strings, headers and bodies
// stay out of it: they can hold secrets.
func (a *API) note(c *call, took time.Duration) {
	if c.status == 0 {
		c.status = http.StatusSwitchingProtocols
	}
	if c.status != http.StatusSwitchingProtocols {
		a.requests.WithLabelValues(c.route.String(), strconv.Itoa(c.status)).Observe(took.Seconds())
	}
	level := slog.LevelInfo
	attrs := []slog.Attr{
		slog.String("method", methodOf(c.r)), slog.String("route", c.route.path), slog.Int("status", c.status),
		slog.Float64("ms", float64(took.Microseconds())/1000), slog.Int64("bytes", c.bytes),
		slog.String("address", c.from()), slog.String("actor", c.actor.Name),
	}
	if c.actor.Subject != "" {
		attrs = append(attrs, slog.String("subject", c.actor.Subject))
	}
	if c.code != "" {
		attrs = append(attrs, slog.String("code", string(c.code)))
	}
	if c.cause != nil {
		if c.r.Context().Err() == nil { // else the client left, which is no fault of the server
			level = slog.LevelError
		}
		attrs = append(attrs, slog.String("error", c.cause.Error()))
	}
	a.logger.LogAttrs(context.WithoutCancel(c.r.Context()), level, "request", attrs...)
}

// methodOf bounds what a client can write into the log.
func methodOf(r *http.Request) string {
	switch r.Method {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE":
		return r.Method
	}
	return "other"
}

// authenticateUser takes a live access token for the caller.
func (a *API) authenticateUser(c *call) error {
	token, err := bearer(c.r)
	if err != nil {
		return err
	}
	claims, err := a.verifier.Load().Verify(token)
	if err != nil {
		return err
	}
	c.actor.Subject, c.actor.Session = claims.Subject, claims.Session
	c.r = c.r.WithContext(quash.NewContext(c.r.Context(), claims))
	if claims.Session == "" {
		return &refusal{
			code: client.CodeToken, detail: "the access token is a client's own, and this is for users: send one of a session",
			challenge: `error="invalid_token"`,
		}
	}
	return nil
}

// authenticateKey takes an API key that has the route's scope.
func (a *API) authenticateKey(c *call) error {
	secret, err := bearer(c.r)
	if err != nil {
		return err
	}
	if c.key, err = a.issuer.Authenticate(c.r.Context(), secret); err != nil {
		return err
	}
	c.actor.Name, c.actor.Scopes = "admin:"+c.key.Name, c.key.Scopes
	if slices.Contains(c.key.Scopes, issuer.ScopeFeed) {
		c.actor.Name = "verifier:" + c.key.Name
	}
	if !slices.Contains(c.key.Scopes, c.route.scope) {
		return refuseScope(c.route.scope)
	}
	return nil
}

// hostOf returns the address part of a RemoteAddr.
func hostOf(remote string) (netip.Addr, error) {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	address, err := netip.ParseAddr(host)
	return address.Unmap().WithZone(""), err
}
