package main

import (
	"encoding/base64"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/quashdev/quash/server"
)

// load reads settings as serve does.
func load(t *testing.T, file string, environ []string, args ...string) (server.Config, error) {
	t.Helper()
	path := ""
	if file != "" {
		path = filepath.Join(t.TempDir(), "quash.yaml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := newSettings()
	if err := s.flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return s.load(path, environ, io.Discard)
}

func TestDefaults(t *testing.T) {
	got, err := load(t, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	want := server.Config{Data: "quash-data", Public: "127.0.0.1:8080", Private: "127.0.0.1:8081", Algorithm: "ES256"}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(server.Config{}, "Logger")); diff != "" {
		t.Errorf("with nothing said (-want +got):\n%s", diff)
	}
}

func TestPrecedence(t *testing.T) {
	const file = "token-lifetime: 1m\nidle-timeout: 10h\nmax-sessions: 7\naudience: [a, b]\nissuer: https://file.test\n"
	environ := []string{"QUASH_TOKEN_LIFETIME=2m", "QUASH_AUDIENCE=c,d", "QUASH_ISSUER=https://environment.test", "HOME=/"}
	got, err := load(t, file, environ, "--token-lifetime", "3m", "--trusted-proxy", "10.0.0.0/8", "--browser-origin", "https://app.test")
	if err != nil {
		t.Fatal(err)
	}
	want := server.Config{
		Data: "quash-data", Public: "127.0.0.1:8080", Private: "127.0.0.1:8081", Algorithm: "ES256",
		TokenLifetime:  3 * time.Minute,                                     // flag over environment over file
		Issuer:         "https://environment.test",                          // environment over file
		Audience:       []string{"c", "d"},                                  // a list replaces a list
		IdleTimeout:    10 * time.Hour,                                      // file over default
		MaxSessions:    7,                                                   //
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, // flag alone
		BrowserOrigins: []string{"https://app.test"},                        //
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(server.Config{}, "Logger"), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAListCanStandInAFile(t *testing.T) {
	got, err := load(t, "audience: [a, b]\n", nil)
	if err != nil || !cmp.Equal(got.Audience, []string{"a", "b"}) {
		t.Errorf("got %q, %v, want [a b]", got.Audience, err)
	}
}

func TestEveryMistakeIsNamed(t *testing.T) {
	const file = "isuer: x\ntls:\n  cert: y\nidle-timeout: soon\nmax-sessions: [1, 2]\ndata:\nsecret: swordfish\nprevious-secret: swordfish\n"
	environ := []string{"QUASH_TOKEN_LIFETIM=1m", "QUASH_MAX_REVOCATIONS=many"}
	_, err := load(t, file, environ,
		"--algorithm", "none", "--token-lifetime", "1s", "--log-level", "loud", "--log-format", "xml",
		"--trusted-proxy", "nonsense", "--browser-origin", "https://app.test/", "--tls-cert", "c.pem", "--public", "8080", "--key-lifetime", "1h", "--secret-file", "/nowhere/secret", "--previous-secret-file", "/nowhere/before")
	if err == nil {
		t.Fatal("got no error, want many")
	}
	for _, want := range []string{
		"quash.yaml: isuer: there is no such setting",
		"quash.yaml: tls.cert: there is no such setting",
		`quash.yaml: idle-timeout: "soon" is no duration, such as`,
		"quash.yaml: max-sessions: want one value",
		"quash.yaml: data: want one value",
		"quash.yaml: secret: the secret does not belong here; set secret-file, or QUASH_SECRET",
		"quash.yaml: previous-secret: the secret does not belong here; set previous-secret-file, or QUASH_PREVIOUS_SECRET",
		"QUASH_TOKEN_LIFETIM: there is no such setting",
		`QUASH_MAX_REVOCATIONS: "many" is no whole number`,
		`algorithm "none"`,
		"token lifetime 1s",
		`log-level "loud"`,
		`log-format "xml"`,
		`trusted-proxy "nonsense"`,
		`browser origin "https://app.test/"`,
		"TLS: want both a certificate and a key",
		`public address "8080"`,
		"key lifetime 1h",
		"secret: open /nowhere/secret",
		"secret: open /nowhere/before",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %q; got\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "swordfish") {
		t.Errorf("the error holds a secret:\n%v", err)
	}
}

func TestAFileThatCannotBeReadIsNamed(t *testing.T) {
	_, err := newSettings().load("/nowhere/quash.yaml", nil, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "configuration file /nowhere/quash.yaml") {
		t.Errorf("got %v, want an error that names the file", err)
	}
}

// Kubernetes gives every container variables for each service, by its name.
func TestVariablesOfKubernetesAreNoMistake(t *testing.T) {
	environ := []string{"QUASH_SERVICE_HOST=10.0.0.1", "QUASH_PORT=tcp://10.0.0.1:8080", "QUASH_PORT_8080_TCP_ADDR=10.0.0.1"}
	if _, err := load(t, "", environ); err != nil {
		t.Errorf("got %v, want none", err)
	}
}

func TestTheSecretComesFromOnePlace(t *testing.T) {
	secret := make([]byte, 32)
	text := base64.StdEncoding.EncodeToString(secret)
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	variable := []string{"QUASH_SECRET=" + text}
	if got, err := load(t, "", variable); err != nil || !cmp.Equal(got.Secret, secret) {
		t.Errorf("QUASH_SECRET: got %v, %v, want the secret", got.Secret, err)
	}
	if got, err := load(t, "", nil, "--secret-file", path); err != nil || !cmp.Equal(got.Secret, secret) {
		t.Errorf("--secret-file: got %v, %v, want the secret", got.Secret, err)
	}
	if _, err := load(t, "", variable, "--secret-file", path); err == nil || strings.Contains(err.Error(), text) {
		t.Errorf("both: got %v, want an error without the secret in it", err)
	}
	before := base64.StdEncoding.EncodeToString([]byte("the secret that there was before"))
	if got, err := load(t, "", append(variable, "QUASH_PREVIOUS_SECRET="+before)); err != nil || string(got.PreviousSecret) != "the secret that there was before" {
		t.Errorf("QUASH_PREVIOUS_SECRET: got %v, %v, want it", got.PreviousSecret, err)
	}
	if got, err := load(t, "", []string{"QUASH_SECRET=" + before}, "--previous-secret-file", path); err != nil || !cmp.Equal(got.PreviousSecret, secret) {
		t.Errorf("--previous-secret-file: got %v, %v, want it", got.PreviousSecret, err)
	}
	if _, err := load(t, "", append(variable, "QUASH_PREVIOUS_SECRET="+text)); err == nil || strings.Contains(err.Error(), text) {
		t.Errorf("both the same: got %v, want an error without the secret in it", err)
	}
	if _, err := load(t, "", []string{"QUASH_SECRET=short"}); err == nil || strings.Contains(err.Error(), "short") {
		t.Errorf("a bad one: got %v, want an error without it", err)
	}
}
