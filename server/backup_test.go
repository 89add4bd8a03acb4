package server_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/server"
)

// past is what happened on a server before and after its backup was made.
type past struct {
	cfg    server.Config
	file   []byte
	old    *quash.Verifier // that was connected then
	tokens map[string]client.Tokens
	stolen string // signing key that was withdrawn after the backup
}

// live makes a past: a server whose sessions end, go on and begin before and
// after the backup, and that has stopped.
func live(t *testing.T) past {
	t.Helper()
	p := past{cfg: config(t), tokens: map[string]client.Tokens{}}
	p.cfg.Issuer = "https://issuer.test"
	r := start(t, p.cfg)
	r.account(t, "ann")
	p.old = r.verifier(t)
	login := func(name string) client.Tokens {
		p.tokens[name] = r.login(t, "ann")
		return p.tokens[name]
	}
	must := func(_ client.Effect, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	login("goes on")
	refreshed, ended := login("refreshed after"), login("ended after")
	must(r.user.Logout(t.Context(), login("ended before").RefreshToken))
	var file bytes.Buffer
	if err := r.admin.Backup(t.Context(), &file); err != nil {
		t.Fatal(err)
	}
	p.file = file.Bytes()
	must(r.user.Logout(t.Context(), ended.RefreshToken))
	var err error
	if p.tokens["of the refresh"], err = r.user.Refresh(t.Context(), refreshed.RefreshToken, ""); err != nil {
		t.Fatal(err)
	}
	keys, err := r.admin.SigningKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p.stolen = keys[0].ID
	must(r.admin.Revoke(t.Context(), client.RevokeRequest{Claim: "kid", Value: p.stolen}))
	login("begun after")
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	return p
}

// restored starts a server on what was restored, which has the address, the
// secret and the first admin key of the one before.
func (p past) restored(t *testing.T, keep bool) *running {
	t.Helper()
	cfg := p.cfg
	cfg.Data, cfg.KeepSessions = filepath.Join(t.TempDir(), "data"), keep
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(p.file)), nil }
	if _, err := server.Restore(t.Context(), cfg, open, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Open(t.Context(), cfg); err == nil {
		t.Error("a restored server started without its secret")
	}
	for _, name := range []string{"secret", "admin.key"} {
		text := readFile(t, filepath.Join(p.cfg.Data, name))
		if err := os.WriteFile(filepath.Join(cfg.Data, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return start(t, cfg)
}

func (r *running) whole(t *testing.T) (head uint64) {
	t.Helper()
	report, err := r.admin.VerifyLog(t.Context())
	if err != nil || !report.Whole {
		t.Errorf("the log is not whole: %+v, %v", report, err)
	}
	return report.Head.Position
}

func refused(t *testing.T, v *quash.Verifier, what, token string) {
	t.Helper()
	if _, err := v.Verify(token); !errors.Is(err, quash.ErrRevoked) && !errors.Is(err, quash.ErrInvalid) {
		t.Errorf("access token of a session that %s: got %v, want it refused", what, err)
	}
}

// TestP9NothingRevivesByARestore restores a backup twice: nothing that was
// issued before lives on, whatever became of it since the backup.
func TestP9NothingRevivesByARestore(t *testing.T) {
	p := live(t)
	for range 2 {
		r := p.restored(t, false)
		head := r.whole(t)
		v := r.verifier(t)
		settle(t, head, v, p.old)
		for _, err := p.old.Verify(p.tokens["goes on"].AccessToken); errors.Is(err, quash.ErrStale); _, err = p.old.Verify(p.tokens["goes on"].AccessToken) {
			time.Sleep(time.Millisecond) // until it has a lease of the node that is new to it
		}
		for _, what := range slices.Sorted(maps.Keys(p.tokens)) {
			refused(t, v, what, p.tokens[what].AccessToken)
			refused(t, p.old, what, p.tokens[what].AccessToken)
			_, err := r.user.Refresh(t.Context(), p.tokens[what].RefreshToken, "")
			if !isCode(err, client.CodeGrant) {
				t.Errorf("refresh token of a session that %s: got %v, want invalid_grant", what, err)
			}
		}
		sessions, err := r.admin.Sessions(t.Context(), p.subject(t, r))
		if err != nil || len(sessions) != 0 {
			t.Errorf("%d sessions, %v, want none", len(sessions), err)
		}
		keys, err := r.admin.SigningKeys(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range keys {
			if k.ID == p.stolen && !k.Withdrawn {
				t.Error("a signing key that was withdrawn after the backup signs again")
			}
		}
		fresh := r.login(t, "ann")
		settle(t, head, v)
		accepted(t, v, fresh.AccessToken)
		p.tokens["begun on the restored server"] = fresh
		if got := metric(t, r, "quash_epoch"); got != "2" {
			t.Errorf("quash_epoch: got %s, want 2", got)
		}
		state, err := r.admin.Log(t.Context())
		if err != nil || state.Head.Position <= 1<<32 || state.Head.Position >= 1<<53 {
			t.Errorf("the log ends at %d, %v, want it above 2^32 and below 2^53", state.Head.Position, err)
		}
		why, err := r.admin.Explain(t.Context(), p.tokens["goes on"].AccessToken)
		if err != nil || len(why.Revocations) != 1 || why.Revocations[0].Claim != "iss" {
			t.Errorf("explanation of a token of before: got %+v, %v, want the first record of the epoch", why, err)
		}
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
	}
}

func (p past) subject(t *testing.T, r *running) string {
	t.Helper()
	a, err := r.admin.AccountNamed(t.Context(), "ann")
	if err != nil {
		t.Fatal(err)
	}
	return a.Subject
}

// TestRestoreKeepsSessionsIfAsked shows the price, too.
func TestRestoreKeepsSessionsIfAsked(t *testing.T) {
	p := live(t)
	r := p.restored(t, true)
	v := r.verifier(t)
	settle(t, r.whole(t), v)
	for _, c := range []struct {
		what  string
		lives bool
	}{
		{"goes on", true},
		{"ended before", false},
		{"ended after", true}, // nobody knows that it did
		{"begun after", false},
		{"of the refresh", false}, // it is ahead of its session, and the one before it is not
		{"refreshed after", true},
	} {
		what, lives := c.what, c.lives
		refused(t, v, what, p.tokens[what].AccessToken)
		next, err := r.user.Refresh(t.Context(), p.tokens[what].RefreshToken, "")
		if (err == nil) != lives || err != nil && !isCode(err, client.CodeGrant) {
			t.Errorf("refresh token of a session that %s: got %v, want it to refresh: %v", what, err, lives)
		}
		if err == nil {
			accepted(t, v, next.AccessToken)
		}
	}
}

// TestBackupOfAStoppedServer needs no server, and one that runs none but itself.
func TestBackupOfAStoppedServer(t *testing.T) {
	cfg := config(t)
	if err := server.Backup(t.Context(), cfg, io.Discard, nil); err == nil {
		t.Error("a backup of nothing: got success, want an error")
	}
	if _, err := os.Stat(cfg.Data); err == nil {
		t.Error("a backup made a data directory")
	}
	r := start(t, cfg)
	r.account(t, "ann")
	if err := server.Backup(t.Context(), cfg, io.Discard, nil); !errors.Is(err, server.ErrInUse) {
		t.Errorf("while a server runs: got %v, want ErrInUse", err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	if err := server.Backup(context.Background(), cfg, &file, nil); err != nil {
		t.Fatal(err)
	}
	to := config(t)
	got, err := server.Restore(t.Context(), to, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(file.Bytes())), nil }, nil)
	if err != nil || got.Accounts != 1 {
		t.Errorf("restored: %+v, %v, want the account", got, err)
	}
}

// metric returns the value of a metric without labels.
func metric(t *testing.T, r *running, name string) string {
	t.Helper()
	resp, err := http.Get("http://" + r.cfg.Private + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return "nothing"
}
