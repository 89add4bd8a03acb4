package server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/sqlite"
	"github.com/quashdev/quash/server"
)

const password = "the analytical engine"

// running is a server that listens on loopback, and clients of it.
type running struct {
	*server.Server
	cfg   server.Config
	admin client.Admin
	user  *client.Client
	stop  func() error
}

// config returns a configuration with free ports and a data directory.
func config(t *testing.T) server.Config {
	t.Helper()
	return server.Config{
		Data:   filepath.Join(t.TempDir(), "data"),
		Public: freeAddress(t), Private: freeAddress(t),
	}
}

// port is the last that freeAddress tried. It begins where other processes
// that run these tests probably do not, and stays below what systems give to
// connections, so that none takes the port before the server does, or while
// it starts anew.
var port atomic.Int64

func init() { port.Store(20_000 + rand.Int64N(10_000)) }

func freeAddress(t *testing.T) string {
	t.Helper()
	for {
		address := fmt.Sprintf("127.0.0.1:%d", port.Add(1))
		if l, err := net.Listen("tcp", address); err == nil {
			_ = l.Close()
			return address
		}
		if t.Context().Err() != nil {
			t.Fatal("no port is free")
		}
	}
}

// start opens and runs a server until the test ends or stop is called.
func start(t *testing.T, cfg server.Config) *running {
	t.Helper()
	srv, err := server.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }()
	r := &running{Server: srv, cfg: cfg}
	var once error
	stopped := false
	r.stop = func() error {
		if !stopped {
			stopped = true
			cancel()
			once = <-ended
		}
		return once
	}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	key := srv.AdminKey()
	if key == "" {
		key = readFile(t, srv.AdminKeyFile())
	}
	private := newClient(t, cfg.Private, key)
	r.admin, r.user = private.Admin(), newClient(t, cfg.Public, "")
	wait(t, private)
	return r
}

func newClient(t *testing.T, address, key string) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{URL: "http://" + address, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func wait(t *testing.T, c *client.Client) {
	t.Helper()
	for c.Ready(t.Context()) != nil {
		if t.Context().Err() != nil {
			t.Fatal("the server did not become ready")
		}
		time.Sleep(time.Millisecond)
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// verifier opens a verifier in the way that a service does.
func (r *running) verifier(t *testing.T) *quash.Verifier {
	t.Helper()
	secret, err := r.admin.CreateKey(t.Context(), client.NewKey{Name: t.Name() + fmt.Sprint(time.Now().UnixNano()), Scopes: []string{"feed"}})
	if err != nil {
		t.Fatal(err)
	}
	v, err := quash.Open(t.Context(), quash.Config{URL: "http://" + r.cfg.Private, Key: secret.Secret})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close(context.Background()) })
	return v
}

func (r *running) account(t *testing.T, name string) client.Account {
	t.Helper()
	a, err := r.admin.CreateAccount(t.Context(), client.NewAccount{Name: name, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (r *running) login(t *testing.T, name string) client.Tokens {
	t.Helper()
	tokens, err := r.user.Login(t.Context(), client.LoginRequest{Name: name, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

// settle waits until verifiers have applied a position.
func settle(t *testing.T, position uint64, verifiers ...*quash.Verifier) {
	t.Helper()
	for _, v := range verifiers {
		for v.Status().Position < position {
			if t.Context().Err() != nil {
				t.Fatalf("a verifier stayed at %d, want %d", v.Status().Position, position)
			}
			time.Sleep(100 * time.Microsecond)
		}
	}
}

func accepted(t *testing.T, v *quash.Verifier, token string) {
	t.Helper()
	if _, err := v.Verify(token); err != nil {
		t.Errorf("a live token is refused: %v", err)
	}
}

func revoked(t *testing.T, v *quash.Verifier, token string) {
	t.Helper()
	if _, err := v.Verify(token); !errors.Is(err, quash.ErrRevoked) {
		t.Errorf("a dead token: got %v, want ErrRevoked", err)
	}
}

// TestLogoutIsTrue is the main job: login, verify, revoke, refused, at every
// service, and nothing else ends.
func TestLogoutIsTrue(t *testing.T) {
	r := start(t, config(t))
	orders, billing := r.verifier(t), r.verifier(t)
	r.account(t, "ada")
	phone, laptop := r.login(t, "ada"), r.login(t, "ada")
	for _, v := range []*quash.Verifier{orders, billing} {
		accepted(t, v, phone.AccessToken)
		accepted(t, v, laptop.AccessToken)
	}
	out, err := r.user.Logout(t.Context(), phone.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	if out.Sessions != 1 || out.Tokens != 1 || !out.Confirmation.Confirmed || out.Confirmation.Verifiers != (client.Tally{Applied: 2}) {
		t.Errorf("the logout answered %+v and %+v, want one session, one token, and that both services have confirmed", out, out.Confirmation)
	}
	for _, v := range []*quash.Verifier{orders, billing} {
		revoked(t, v, phone.AccessToken)
		accepted(t, v, laptop.AccessToken)
	}
	if _, err := r.user.Refresh(t.Context(), phone.RefreshToken, ""); !isCode(err, client.CodeGrant) {
		t.Errorf("refresh after the logout: got %v, want %s", err, client.CodeGrant)
	}
}

func isCode(err error, code client.Code) bool {
	var p *client.Problem
	return errors.As(err, &p) && p.Code == code
}

// TestP6ExactWithinTheSecond issues a token right before and right after a
// password change, mostly within one second.
func TestP6ExactWithinTheSecond(t *testing.T) {
	r := start(t, config(t))
	v := r.verifier(t)
	r.account(t, "ada")
	before := r.login(t, "ada")
	this := r.login(t, "ada")
	changed, err := r.user.ChangePassword(t.Context(), client.PasswordChange{RefreshToken: this.RefreshToken, OldPassword: password, NewPassword: password + "!"}, "")
	if err != nil {
		t.Fatal(err)
	}
	after, err := r.user.Login(t.Context(), client.LoginRequest{Name: "ada", Password: password + "!"})
	if err != nil {
		t.Fatal(err)
	}
	settle(t, changed.Effect.Position, v)
	revoked(t, v, before.AccessToken)
	revoked(t, v, this.AccessToken)
	accepted(t, v, changed.AccessToken)
	accepted(t, v, after.AccessToken)
}

// TestP11Evidence reads who revoked what and why, from the revocation, the
// audit and the explanation of a dead token, and proves the chain.
func TestP11Evidence(t *testing.T) {
	r := start(t, config(t))
	if _, err := r.admin.CreateAccount(t.Context(), client.NewAccount{Subject: "u_1", Claims: []byte(`{"tenant":"acme"}`)}); err != nil {
		t.Fatal(err)
	}
	grant, err := r.admin.OpenSession(t.Context(), "u_1", client.Device{})
	if err != nil {
		t.Fatal(err)
	}
	out, err := r.admin.Revoke(t.Context(), client.RevokeRequest{Claim: "tenant", Value: "acme", Reason: "left us"})
	if err != nil {
		t.Fatal(err)
	}
	page, err := r.admin.Revocations(t.Context(), client.RevocationQuery{})
	if err != nil || len(page.Items) != 1 {
		t.Fatalf("got %v, %v, want one revocation", page.Items, err)
	}
	if got := page.Items[0]; got.Position != out.Position || got.Claim != "tenant" || got.Value != "acme" || got.Actor != "admin:admin" || got.Reason != "left us" || got.Time.IsZero() {
		t.Errorf("the revocation says %+v", got)
	}
	audit, err := r.admin.Audit(t.Context(), client.AuditQuery{Event: "revoked"})
	if err != nil || len(audit.Items) != 1 || audit.Items[0].Position != out.Position || audit.Items[0].Reason != "left us" {
		t.Errorf("the audit says %+v, %v", audit.Items, err)
	}
	why, err := r.admin.Explain(t.Context(), grant.AccessToken)
	if err != nil || why.Verdict != "revoked" || len(why.Revocations) != 1 || why.Revocations[0].Reason != "left us" {
		t.Errorf("the explanation says %+v, %v", why, err)
	}
	if report, err := r.admin.VerifyLog(t.Context()); err != nil || !report.Whole || report.Checked != 1 {
		t.Errorf("the chain: %+v, %v", report, err)
	}
}

// TestP11ConfirmationsOutliveTheServer reads when each verifier confirmed, from
// the server that saw it and from the next on the same data. Its own verifier
// is waited for, but is no service; those of a program that embeds it are.
func TestP11ConfirmationsOutliveTheServer(t *testing.T) {
	cfg := config(t)
	r := start(t, cfg)
	v := r.verifier(t)
	embedded, err := r.Verifier(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	out, err := r.admin.Revoke(t.Context(), client.RevokeRequest{Claim: "sub", Value: "u_1", Reason: "left us"})
	if err != nil || !out.Confirmation.Confirmed {
		t.Fatalf("got %+v, %v, want that it is confirmed", out, err)
	}
	before, err := r.admin.Revocation(t.Context(), out.Position)
	if err != nil || len(before.Confirmations) != 1 || before.Confirmations[0].Confirmed != 2 || !before.Confirmation.Confirmed {
		t.Fatalf("got %+v, %v, want two verifiers that confirmed", before, err)
	}
	if err := errors.Join(embedded.Close(t.Context()), v.Close(t.Context()), r.stop()); err != nil {
		t.Fatal(err)
	}
	after, err := start(t, cfg).admin.Revocation(t.Context(), out.Position)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before.Confirmations, after.Confirmations); diff != "" || after.Audit == nil || after.Audit.Reason != "left us" {
		t.Errorf("by the next server (-before +after):\n%s\nand %+v", diff, after.Audit)
	}
}

// TestMetrics shows what the store, the log and the requests did.
func TestMetrics(t *testing.T) {
	r := start(t, config(t))
	r.verifier(t)
	if _, err := r.admin.Revoke(t.Context(), client.RevokeRequest{Claim: "sub", Value: "u_1"}); err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get("http://" + r.cfg.Private + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"quash_log_position", "quash_live_revocations", "quash_verifiers 1\n", "quash_verifier_lag_positions{",
		"quash_http_request_seconds_bucket{", "quash_commit_seconds_count", "quash_commit_transactions_count", "quash_confirmation_seconds_count 1\n", "go_goroutines",
	} {
		if !strings.Contains(string(text), name) {
			t.Errorf("/metrics does not show %s", name)
		}
	}
}

// TestP1DurableAcrossRestart stops a server in order and starts it again on
// the same data: a verifier that stays, and one that starts afterwards, refuse
// what was revoked before, and sessions go on.
func TestP1DurableAcrossRestart(t *testing.T) {
	cfg := config(t)
	r := start(t, cfg)
	stays := r.verifier(t)
	r.account(t, "ada")
	dead, live := r.login(t, "ada"), r.login(t, "ada")
	out, err := r.user.Logout(t.Context(), dead.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	settle(t, out.Position, stays)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	revoked(t, stays, dead.AccessToken)
	accepted(t, stays, live.AccessToken)

	again := start(t, cfg)
	if again.AdminKey() != "" {
		t.Error("the second start made another admin key")
	}
	joins := again.verifier(t)
	for _, v := range []*quash.Verifier{stays, joins} {
		revoked(t, v, dead.AccessToken)
		accepted(t, v, live.AccessToken)
	}
	if _, err := again.user.Refresh(t.Context(), live.RefreshToken, ""); err != nil {
		t.Errorf("a session did not survive the restart: %v", err)
	}
}

// TestRevocationsAreNeverRefused goes beyond the bound of live revocations:
// logins are refused, while every revocation reaches every verifier, and a
// server that starts with so many starts.
func TestRevocationsAreNeverRefused(t *testing.T) {
	cfg := config(t)
	cfg.MaxRevocations = 1000
	r := start(t, cfg)
	stays := r.verifier(t)
	r.account(t, "ada")
	tokens := r.login(t, "ada")
	var group errgroup.Group
	group.SetLimit(32)
	for i := range cfg.MaxRevocations + 50 {
		group.Go(func() error {
			_, err := r.admin.Revoke(t.Context(), client.RevokeRequest{Claim: "sub", Value: fmt.Sprintf("somebody-%d", i)})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.user.Login(t.Context(), client.LoginRequest{Name: "ada", Password: password}); !isCode(err, client.CodeFull) {
		t.Errorf("a login beyond the bound: got %v, want %s", err, client.CodeFull)
	}
	out, err := r.user.Logout(t.Context(), tokens.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	own, err := r.Verifier(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	settle(t, out.Position, stays, own)
	revoked(t, stays, tokens.AccessToken)
	revoked(t, own, tokens.AccessToken)
	if err := errors.Join(own.Close(t.Context()), r.stop()); err != nil {
		t.Fatal(err)
	}
	again := start(t, cfg)
	revoked(t, again.verifier(t), tokens.AccessToken)
	if _, err := again.user.Account(t.Context(), tokens.AccessToken); !isCode(err, client.CodeToken) {
		t.Errorf("the server's own verifier, after a restart: got %v, want %s", err, client.CodeToken)
	}
}

// TestStopsWhileAClientFollowsTheLog stops at once though a client waits for
// the next revocation.
func TestStopsWhileAClientFollowsTheLog(t *testing.T) {
	r := start(t, config(t))
	followed := make(chan struct{})
	began := time.Now()
	go func() {
		defer close(followed)
		_, _ = r.admin.Revocations(context.Background(), client.RevocationQuery{Wait: time.Minute})
	}()
	time.Sleep(200 * time.Millisecond) // it waits by then; a request that comes later is refused, which proves less
	if err := r.stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	<-followed
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestOneAddressIsTaken holds neither address where it cannot have both, and
// makes no data.
func TestOneAddressIsTaken(t *testing.T) {
	cfg := config(t)
	for _, one := range []string{cfg.Public, cfg.Private} {
		taken, err := net.Listen("tcp", one)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := server.Open(t.Context(), cfg); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), one) {
			t.Errorf("got %v, want that %s is in use", err, one)
		}
		if _, err := os.Stat(cfg.Data); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the data directory: %v, want none", err)
		}
		_ = taken.Close()
	}
	r := start(t, cfg) // nothing holds them any more
	if err := r.stop(); err != nil {
		t.Error(err)
	}
}

// TestAServerClosedBeforeItRanLetsGoOfItsAddresses can be opened again at once.
func TestAServerClosedBeforeItRanLetsGoOfItsAddresses(t *testing.T) {
	cfg := config(t)
	for range 2 {
		srv, err := server.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := srv.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTheLogBeginsAndEndsWithTheServer has no word of the verifier in the same
// process, which starts after the server and ends before it.
func TestTheLogBeginsAndEndsWithTheServer(t *testing.T) {
	cfg := config(t)
	var logged bytes.Buffer
	cfg.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if err := start(t, cfg).stop(); err != nil {
		t.Fatal(err)
	}
	if got := logged.String(); strings.Contains(got, "stale") || !strings.HasSuffix(got, "level=INFO msg=stopped\n") {
		t.Errorf("got\n%s\nwant nothing stale, and stopped at the end", got)
	}
}

// TestZeroConfigurationWorks opens a server with nothing but a place to be.
func TestZeroConfigurationWorks(t *testing.T) {
	srv, err := server.Open(t.Context(), server.Config{Data: filepath.Join(t.TempDir(), "d"), Issuer: "https://shop.example"})
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestConfigurationNamesEveryMistake(t *testing.T) {
	_, err := server.Open(t.Context(), server.Config{
		Data: filepath.Join(t.TempDir(), "data"), Public: "nowhere", Private: "also:no:where", TLSCert: "cert.pem",
	})
	for _, part := range []string{"public address", "private address", "TLS"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("got %v, want it to name %q", err, part)
		}
	}
	for _, public := range []string{":8080", "0.0.0.0:8080", "[::]:8080"} {
		c := server.Config{Data: filepath.Join(t.TempDir(), "data"), Public: public}
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "issuer") {
			t.Errorf("public address %q without an issuer: got %v, want it to name the issuer", public, err)
		}
		c.Issuer = "https://shop.example"
		if err := c.Validate(); err != nil {
			t.Errorf("public address %q with an issuer: %v", public, err)
		}
	}
	_, err = server.Open(t.Context(), server.Config{
		Data: filepath.Join(t.TempDir(), "data"), Issuer: "https://shop.example",
		Algorithm: "none", TokenLifetime: time.Second, MaxSessions: -1, Lease: time.Hour,
	})
	for _, part := range []string{"algorithm", "token lifetime", "sessions", "lease"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("got %v, want it to name %q", err, part)
		}
	}
}

// TestDataIsPrivate checks the modes of what the first start makes, and that
// a directory that others may read is refused.
func TestDataIsPrivate(t *testing.T) {
	cfg := config(t)
	srv, err := server.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close(t.Context())
	for name, want := range map[string]os.FileMode{"": 0o700, "secret": 0o600, "admin.key": 0o600} {
		info, err := os.Stat(filepath.Join(cfg.Data, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%q has mode %o, want %o", name, got, want)
		}
	}
	open := config(t)
	if err := os.MkdirAll(open.Data, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Open(t.Context(), open); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("a directory that others may read: got %v, want what to do", err)
	}
}

// TestSecretIsNeeded refuses to start on data whose secret is gone or another.
func TestSecretIsNeeded(t *testing.T) {
	cfg := config(t)
	srv, err := server.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := cfg
	other.Secret = make([]byte, 32)
	if _, err := server.Open(t.Context(), other); err == nil || !strings.Contains(err.Error(), "another secret") {
		t.Errorf("another secret: got %v", err)
	}
	if err := os.Remove(filepath.Join(cfg.Data, "secret")); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "restore it") {
		t.Errorf("the secret is gone: got %v", err)
	}
}

// TestFirstStartCutOff repeats a first start that ended before the admin key
// was written down: nobody is locked out.
func TestFirstStartCutOff(t *testing.T) {
	cfg := config(t)
	srv, err := server.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	lost := srv.AdminKey()
	if err := srv.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(srv.AdminKeyFile()); err != nil {
		t.Fatal(err)
	}
	r := start(t, cfg)
	if r.AdminKey() == "" || r.AdminKey() == lost {
		t.Error("want a new admin key")
	}
	if _, err := r.admin.Keys(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestOtherKeysAreNotReplaced starts where the one key is not an
// administrator's: a start must not take it from whoever has it.
func TestOtherKeysAreNotReplaced(t *testing.T) {
	cfg := config(t)
	srv, err := server.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	orders := issuer.APIKey{ID: "orders", Name: "orders", Scopes: []issuer.Scope{issuer.ScopeFeed}, Hash: [32]byte{1}}
	change(t, cfg, func(tx issuer.Tx) error {
		keys, err := tx.APIKeys()
		if err != nil {
			return err
		}
		return errors.Join(tx.DeleteAPIKey(keys[0].ID), tx.PutAPIKey(orders))
	})
	if err := os.Remove(srv.AdminKeyFile()); err != nil {
		t.Fatal(err)
	}
	srv, err = server.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	change(t, cfg, func(tx issuer.Tx) error {
		k, err := tx.APIKey(orders.ID)
		if err == nil && k.Hash != orders.Hash {
			t.Error("the verifier's key has another secret")
		}
		return err
	})
}

// change edits the database of a server that does not run.
func change(t *testing.T, cfg server.Config, fn func(issuer.Tx) error) {
	t.Helper()
	store, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(cfg.Data, "quash.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if _, err := store.Update(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

// TestOneProcessOnTheData refuses a second server on the same directory.
func TestOneProcessOnTheData(t *testing.T) {
	r := start(t, config(t))
	second := config(t)
	second.Data = r.cfg.Data
	if srv, err := server.Open(t.Context(), second); err == nil {
		_ = srv.Close(t.Context())
		t.Fatal("a second server opened the same data")
	}
}
