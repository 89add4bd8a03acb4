package interop_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/server"
)

// scene is a server, the clients that are registered with it, and a session of
// one of them. A client reads it as JSON.
type scene struct {
	Issuer       string `json:"issuer"`
	Audience     string `json:"audience"`
	ID           string `json:"id"` // has characters that are encoded
	Secret       string `json:"secret"`
	PostID       string `json:"post_id"`
	PostSecret   string `json:"post_secret"`
	RobotID      string `json:"robot_id"`
	RobotKey     string `json:"robot_key"` // PKCS #8, PEM
	RobotKid     string `json:"robot_kid"`
	RefreshToken string `json:"refresh_token"` // of a session of ID, with the scope "read write"
	Session      string `json:"session"`
	Subject      string `json:"subject"`
}

func start(t *testing.T) scene {
	t.Helper()
	public, private := httptest.NewUnstartedServer(nil), httptest.NewUnstartedServer(nil)
	s := scene{
		Issuer: "http://" + public.Listener.Addr().String(), Audience: "orders",
		ID: "shop:1+%/x", PostID: "posting", RobotID: "robot", RobotKid: "robot-1", Subject: "u_1",
	}
	srv, err := server.Open(t.Context(), server.Config{Data: t.TempDir() + "/data", Issuer: s.Issuer})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close(context.Background()) })
	public.Config.Handler, private.Config.Handler = srv.Handler(), srv.PrivateHandler()
	for _, web := range []*httptest.Server{public, private} {
		web.Start()
		t.Cleanup(web.Close)
	}
	c, err := client.New(client.Config{URL: private.URL, Key: srv.AdminKey()})
	if err != nil {
		t.Fatal(err)
	}
	s.register(t, c.Admin())
	return s
}

func (s *scene) register(t *testing.T, admin client.Admin) {
	t.Helper()
	var keys json.RawMessage
	s.RobotKey, keys = keyPair(t, s.RobotKid)
	for _, c := range []struct {
		id, method string
		keys       json.RawMessage
		secret     *string
	}{{s.ID, "client_secret_basic", nil, &s.Secret}, {s.PostID, "client_secret_post", nil, &s.PostSecret}, {s.RobotID, "private_key_jwt", keys, nil}} {
		made, err := admin.CreateClient(t.Context(), client.NewRegistration{
			ID: c.id, Method: c.method, Keys: c.keys, Grants: []string{"refresh_token", "client_credentials"},
			Scopes: []string{"read", "write"}, Audience: []string{s.Audience},
		})
		if err != nil {
			t.Fatal(err)
		}
		if c.secret != nil {
			*c.secret = made.Secret
		}
	}
	if _, err := admin.CreateAccount(t.Context(), client.NewAccount{Subject: s.Subject}); err != nil {
		t.Fatal(err)
	}
	tokens, err := admin.OpenSession(t.Context(), s.Subject, client.Device{Client: s.ID})
	if err != nil {
		t.Fatal(err)
	}
	s.RefreshToken, s.Session = tokens.RefreshToken, tokens.Session
}

// keyPair returns a private key, and the key set that is registered of it.
func keyPair(t *testing.T, kid string) (private string, public json.RawMessage) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	public = fmt.Appendf(nil, `{"keys":[{"kty":"EC","crv":"P-256","kid":%q,"x":%q,"y":%q}]}`, kid, encode(point[1:33]), encode(point[33:]))
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), public
}

// golang.org/x/oauth2 gets and refreshes tokens, and github.com/coreos/go-oidc
// verifies them by the published keys.
func TestGo(t *testing.T) {
	s := start(t)
	keys := oidc.NewRemoteKeySet(t.Context(), s.Issuer+"/.well-known/jwks.json")
	verifier := oidc.NewVerifier(s.Issuer, keys, &oidc.Config{ClientID: s.Audience, SupportedSigningAlgs: []string{oidc.ES256}})
	verify := func(what string, token *oauth2.Token, err error, subject, scope string) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		verified, err := verifier.Verify(t.Context(), token.AccessToken)
		if err != nil {
			t.Fatalf("%s: verify: %v", what, err)
		}
		var claims struct{ Scope string }
		if err := verified.Claims(&claims); err != nil || verified.Subject != subject || claims.Scope != scope || token.Type() != "Bearer" {
			t.Errorf("%s: got a %s token of %s with scope %q, %v", what, token.Type(), verified.Subject, claims.Scope, err)
		}
	}
	endpoint := oauth2.Endpoint{TokenURL: s.Issuer + "/oauth/token"} // finds out by which method
	own := clientcredentials.Config{ClientID: s.ID, ClientSecret: s.Secret, TokenURL: endpoint.TokenURL, Scopes: []string{"read"}}
	token, err := own.Token(t.Context())
	verify("client_credentials", token, err, "client:"+s.ID, "read")
	own = clientcredentials.Config{ClientID: s.PostID, ClientSecret: s.PostSecret, TokenURL: endpoint.TokenURL}
	token, err = own.Token(t.Context())
	verify("client_secret_post", token, err, "client:"+s.PostID, "read write")

	shop := oauth2.Config{ClientID: s.ID, ClientSecret: s.Secret, Endpoint: endpoint}
	first, err := shop.TokenSource(t.Context(), &oauth2.Token{RefreshToken: s.RefreshToken, Expiry: time.Now().Add(-time.Hour)}).Token()
	verify("refresh", first, err, s.Subject, "read write")
	if first.RefreshToken == s.RefreshToken {
		t.Error("refresh: the refresh token did not rotate")
	}
	answer, err := http.PostForm(s.Issuer+"/oauth/revoke", url.Values{"token": {first.RefreshToken}, "client_id": {s.PostID}, "client_secret": {s.PostSecret}})
	if err != nil || answer.StatusCode != http.StatusBadRequest {
		t.Fatalf("revoked by another client: got %v, %v, want 400", answer, err)
	}
	answer.Body.Close()
	if _, err = shop.TokenSource(t.Context(), &oauth2.Token{RefreshToken: first.RefreshToken, Expiry: time.Now().Add(-time.Hour)}).Token(); err != nil {
		t.Fatal(err)
	}
	// Its successor has been used, so the first is reuse.
	_, err = shop.TokenSource(t.Context(), &oauth2.Token{RefreshToken: s.RefreshToken, Expiry: time.Now().Add(-time.Hour)}).Token()
	refused, ok := errors.AsType[*oauth2.RetrieveError](err)
	if !ok || refused.ErrorCode != "invalid_grant" {
		t.Errorf("reuse: got %v, want invalid_grant", err)
	}
}

// run gives the scene to a program and fails with what it says where it fails.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	text, err := json.Marshal(start(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = bytes.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v (make interop installs what it needs)\n%s", strings.Join(cmd.Args, " "), err, out)
	}
}

// TestNode is oauth4webapi, openid-client and jose.
func TestNode(t *testing.T) {
	for _, name := range []string{"oauth4webapi", "openid-client"} {
		t.Run(name, func(t *testing.T) { run(t, "node", "node/"+name+".mjs") })
	}
}

// TestPython is Authlib and PyJWT, as Debian packages them.
func TestPython(t *testing.T) {
	run(t, "/usr/bin/python3", "python/authlib_client.py")
}
