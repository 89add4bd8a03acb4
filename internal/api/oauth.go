package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"math"
	"mime"
	"net/http"
	"net/url"
	gopath "path"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/issuer"
)

// The endpoints of OAuth 2.0: RFC 6749 for tokens, RFC 7009 and RFC 7662. Their
// requests are forms, and their errors have the form of RFC 6749, section 5.2.

// form is the body of a request: each parameter once, and none that is empty.
type form map[string]string

// readForm reads the body as RFC 6749, section 3.2, has it. What is in the query
// string has been refused before.
func readForm(c *call) (form, error) {
	kind, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if err != nil || kind != "application/x-www-form-urlencoded" {
		return nil, &refusal{code: client.CodeMediaType, detail: "send the body as application/x-www-form-urlencoded"}
	}
	text, err := readBody(c)
	if err != nil {
		return nil, err
	}
	values, err := url.ParseQuery(string(text))
	if err != nil {
		return nil, invalid("the body is not a form")
	}
	f := form{}
	for name, all := range values {
		switch {
		case len(all) > 1:
			return nil, invalid("%.64s: there more than once", name)
		case !utf8.ValidString(name + all[0]):
			return nil, invalid("the form is not UTF-8")
		case all[0] != "":
			f[name] = all[0]
		}
	}
	return f, nil
}

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// caller reads the form and takes the client that makes the call at its word
// only where that is proved.
func (a *API) caller(c *call) (form, issuer.Client, error) {
	f, err := readForm(c)
	if err != nil {
		return nil, issuer.Client{}, err
	}
	p, err := proof(c.r, f)
	if err != nil {
		return nil, issuer.Client{}, err
	}
	p.Address = c.from()
	by, err := a.issuer.AuthenticateClient(c.r.Context(), p)
	if err == nil {
		c.actor.Name = "client:" + by.ID
	}
	return f, by, err
}

// proof returns by which one method the client shows who it is (RFC 6749,
// section 2.3).
func proof(r *http.Request, f form) (issuer.ClientProof, error) {
	p := issuer.ClientProof{Method: issuer.NoMethod, ID: f["client_id"], Secret: f["client_secret"], Assertion: f["client_assertion"]}
	methods := 0
	if p.Secret != "" {
		p.Method = issuer.SecretPost
		methods++
	}
	if p.Assertion != "" || f["client_assertion_type"] != "" {
		p.Method = issuer.PrivateKeyJWT
		methods++
	}
	if len(r.Header.Values("Authorization")) > 0 {
		id, secret, err := basic(r)
		if err != nil {
			return p, err
		}
		if p.ID != "" && p.ID != id {
			return p, invalid("client_id: not the one of the Authorization header")
		}
		p.Method, p.ID, p.Secret = issuer.SecretBasic, id, secret
		methods++
	}
	switch {
	case methods > 1:
		return p, invalid("the client shows who it is in more than one way; use one")
	case p.Method == issuer.PrivateKeyJWT && f["client_assertion_type"] != assertionType:
		return p, invalid("client_assertion_type: want %s", assertionType)
	case p.ID == "" && p.Method != issuer.PrivateKeyJWT:
		return p, &refusal{code: client.CodeClient, detail: "the client does not say who it is"}
	}
	return p, nil
}

var errBasic = &refusal{code: client.CodeClient, detail: "want one Authorization header of the form Basic, with client_id and secret, each form-encoded"}

// basic reads the Authorization header: both parts are form-encoded before they
// are put together (RFC 6749, section 2.3.1).
func basic(r *http.Request) (id, secret string, err error) {
	values := r.Header.Values("Authorization")
	scheme, encoded, _ := strings.Cut(values[0], " ")
	if len(values) > 1 || !strings.EqualFold(scheme, "Basic") {
		return "", "", errBasic
	}
	text, err := base64.StdEncoding.Strict().DecodeString(strings.TrimLeft(encoded, " "))
	if err != nil {
		return "", "", errBasic
	}
	id, secret, found := strings.Cut(string(text), ":")
	id, errID := url.QueryUnescape(id)
	secret, errSecret := url.QueryUnescape(secret)
	if !found || errID != nil || errSecret != nil || id == "" {
		return "", "", errBasic
	}
	return id, secret, nil
}

// issued answers a request for tokens (RFC 6749, section 5.1).
type issued struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in"`
	RefreshToken string `json:"refresh_token,omitempty"`
	Scope        string `json:"scope,omitempty"`
}

func (a *API) token(c *call) error {
	f, by, err := a.caller(c)
	if err != nil {
		return err
	}
	var g issuer.Grant
	switch f["grant_type"] {
	case "":
		return invalid("grant_type: missing")
	case issuer.GrantRefresh:
		g, err = a.refreshFor(c, by, f)
	case issuer.GrantClient:
		g, err = a.issuer.ClientCredentials(c.r.Context(), by, f["scope"])
	default:
		return &refusal{code: client.CodeGrantType, detail: "grant_type: want refresh_token or client_credentials"}
	}
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, issued{
		AccessToken: g.AccessToken, TokenType: "Bearer", ExpiresIn: int64(g.ExpiresIn / time.Second), RefreshToken: g.RefreshToken, Scope: g.Scope,
	})
}

func (a *API) refreshFor(c *call, by issuer.Client, f form) (issuer.Grant, error) {
	if f["refresh_token"] == "" {
		return issuer.Grant{}, invalid("refresh_token: missing")
	}
	key, err := idempotencyKey(c.r)
	if err != nil {
		return issuer.Grant{}, err
	}
	return a.issuer.Refresh(c.r.Context(), issuer.RefreshRequest{
		Token: f["refresh_token"], IdempotencyKey: key, Address: c.from(), Client: &by, Scope: f["scope"],
	})
}

// revokeToken answers as RFC 7009, section 2.2, has it: 200 and nothing besides,
// whatever the token was. It waits for the confirmation as a logout does.
func (a *API) revokeToken(c *call) error {
	f, by, err := a.caller(c)
	if err != nil {
		return err
	}
	if f["token"] == "" {
		return invalid("token: missing")
	}
	out, err := a.issuer.RevokeToken(c.r.Context(), by, f["token"], c.from())
	if err != nil {
		return err
	}
	a.effect(c, out)
	c.WriteHeader(http.StatusOK)
	return nil
}

// introspection answers a question about a token (RFC 7662, section 2.2).
type introspection struct {
	Active    bool     `json:"active"`
	Scope     string   `json:"scope,omitempty"`
	Client    string   `json:"client_id,omitempty"`
	TokenType string   `json:"token_type,omitempty"`
	Expires   int64    `json:"exp,omitempty"`
	Issued    int64    `json:"iat,omitempty"`
	Subject   string   `json:"sub,omitempty"`
	Audience  []string `json:"aud,omitempty"`
	Issuer    string   `json:"iss,omitempty"`
	ID        string   `json:"jti,omitempty"`
	Session   string   `json:"sid,omitempty"`
}

func (a *API) introspect(c *call) error {
	f, by, err := a.caller(c)
	switch {
	case err != nil:
		return err
	case by.Method == issuer.NoMethod:
		return &refusal{code: client.CodeClient, detail: "a client has to show who it is to ask about tokens"}
	case f["token"] == "":
		return invalid("token: missing")
	}
	in, err := a.issuer.Inspect(c.r.Context(), by, f["token"])
	if err != nil {
		return err
	}
	if in.Known && !in.Refresh {
		if in.Known, err = a.lives(c.r.Context(), in); err != nil {
			return err
		}
	}
	if !in.Known {
		return c.reply(http.StatusOK, introspection{})
	}
	shown := introspection{
		Active: true, Scope: in.Scope, Client: in.Client, Expires: in.Expires.Unix(), Issued: in.Issued.Unix(),
		Subject: in.Subject, Audience: in.Audience, Issuer: a.issuer.Name(), ID: in.ID, Session: in.Session,
	}
	if !in.Refresh {
		shown.TokenType = "Bearer"
	}
	return c.reply(http.StatusOK, shown)
}

// lives reports whether no revocation kills an access token, of all that stood
// in the log when it was asked about.
func (a *API) lives(ctx context.Context, in issuer.Inspected) (bool, error) {
	wait, cancel := context.WithTimeout(ctx, standstill)
	defer cancel()
	if !a.reached(wait, in.Head) {
		return false, &refusal{code: client.CodeUnavailable, detail: "the server does not know every revocation yet; try again", retry: time.Second}
	}
	return !a.log.Kills(in.Rev, in.Carried), nil
}

const metadataPath = "/.well-known/oauth-authorization-server"

// base returns the issuer as a URL that endpoints can stand below, and its path;
// false where it is none.
func (a *API) base() (base, path string, ok bool) {
	base = strings.TrimSuffix(a.issuer.Name(), "/")
	u, err := url.Parse(base)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.User != nil {
		return "", "", false
	}
	return base, u.EscapedPath(), true
}

// withMetadata adds the place where the metadata of an issuer with a path is
// looked for: the path follows the well-known one (RFC 8414, section 3.1). No
// request arrives by a path that is unclean, such as /a//b.
func (a *API) withMetadata(routes []route) []route {
	const plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/"
	_, path, _ := a.base()
	if path == "" || strings.Trim(path, plain) != "" || gopath.Clean(path) != path {
		return routes
	}
	return append(routes[:len(routes):len(routes)], route{method: "GET", path: metadataPath + path, do: (*API).metadata})
}

// metadata is what RFC 8414, section 2, has a server say of itself.
type metadata struct {
	Issuer              string   `json:"issuer"`
	Token               string   `json:"token_endpoint"`
	Keys                string   `json:"jwks_uri"`
	ResponseTypes       []string `json:"response_types_supported"`
	GrantTypes          []string `json:"grant_types_supported"`
	TokenMethods        []string `json:"token_endpoint_auth_methods_supported"`
	TokenAlgorithms     []string `json:"token_endpoint_auth_signing_alg_values_supported"`
	Revocation          string   `json:"revocation_endpoint"`
	RevocationMethods   []string `json:"revocation_endpoint_auth_methods_supported"`
	RevocationAlgs      []string `json:"revocation_endpoint_auth_signing_alg_values_supported"`
	Introspection       string   `json:"introspection_endpoint"`
	IntrospectionMethod []string `json:"introspection_endpoint_auth_methods_supported"`
	IntrospectionAlgs   []string `json:"introspection_endpoint_auth_signing_alg_values_supported"`
}

func (a *API) metadata(c *call) error {
	base, _, ok := a.base()
	if !ok {
		return &refusal{code: client.CodeNotFound, detail: "the issuer is no URL, so it has no metadata; configure the URL that clients reach this listener at"}
	}
	confidential := []string{string(issuer.SecretBasic), string(issuer.SecretPost), string(issuer.PrivateKeyJWT)}
	every := append(confidential[:3:3], string(issuer.NoMethod))
	algorithms := []string{"ES256", "Ed25519", "EdDSA", "RS256"}
	c.Header().Set("Cache-Control", "no-cache")
	return c.reply(http.StatusOK, metadata{
		Issuer: a.issuer.Name(), Token: base + "/oauth/token", Keys: base + "/.well-known/jwks.json",
		ResponseTypes: []string{}, GrantTypes: []string{issuer.GrantRefresh, issuer.GrantClient},
		TokenMethods: every, TokenAlgorithms: algorithms,
		Revocation: base + "/oauth/revoke", RevocationMethods: every, RevocationAlgs: algorithms,
		Introspection: base + "/oauth/introspect", IntrospectionMethod: confidential, IntrospectionAlgs: algorithms,
	})
}

// oauthError is a refusal as RFC 6749, section 5.2, has it.
type oauthError struct {
	Error       string `json:"error"`
	Description string `json:"error_description,omitempty"`
}

// oauthErrors are those of RFC 6749, section 5.2; the others of a caller are
// invalid_request.
var oauthErrors = map[client.Code]bool{
	client.CodeClient: true, client.CodeGrant: true, client.CodeUnauthorizedClient: true, client.CodeGrantType: true, client.CodeScope: true,
}

// refuseOAuth answers with an error of the standards. No code of theirs says
// that the server cannot now, or that a caller is to slow down; the status does.
func (c *call) refuseOAuth(e *refusal, err error) {
	status, _ := statusOf(e.code)
	body := oauthError{Error: string(e.code), Description: described(e.detail)}
	switch {
	case oauthErrors[e.code]:
	case status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable:
		body.Error = "temporarily_unavailable"
		e = &refusal{code: e.code, retry: max(e.retry, time.Second)}
	case status >= http.StatusInternalServerError:
		body.Error = "server_error"
	default:
		body.Error = "invalid_request"
	}
	c.code = e.code
	if status >= http.StatusInternalServerError {
		c.cause = causeOf(err)
	}
	h := c.Header()
	if status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Basic realm="quash"`)
	}
	if e.allow != "" {
		h.Set("Allow", e.allow)
	}
	if e.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.retry.Seconds()))))
	}
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	c.WriteHeader(status)
	_ = json.NewEncoder(c).Encode(body)
}

// described keeps to the characters that a description may have: neither
// quotation marks nor backslashes.
func described(detail string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '"':
			return '\''
		case r < ' ' || r > '~' || r == '\\':
			return '?'
		}
		return r
	}, detail)
}
