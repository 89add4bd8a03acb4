package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/server"
)

// childConfig names the environment variable with which the test binary runs
// as a server of its own, to be killed.
const childConfig = "QUASH_TEST_SERVER"

func TestMain(m *testing.M) {
	if text := os.Getenv(childConfig); text != "" {
		os.Exit(serveAsChild(text))
	}
	os.Exit(m.Run())
}

func serveAsChild(text string) int {
	var cfg server.Config
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	srv, err := server.Open(context.Background(), cfg)
	if err == nil {
		err = srv.Run(context.Background())
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// child is a server in a process of its own.
type child struct {
	*running
	process *os.Process
	ended   chan struct{}
}

func startChild(t *testing.T, cfg server.Config) *child {
	t.Helper()
	text, err := json.Marshal(server.Config{Data: cfg.Data, Public: cfg.Public, Private: cfg.Private, RequestsPerSecond: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childConfig+"="+string(text))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{running: &running{cfg: cfg}, process: cmd.Process, ended: make(chan struct{})}
	go func() {
		defer close(c.ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(c.kill)
	wait(t, newClient(t, cfg.Private, ""))
	private := newClient(t, cfg.Private, readFile(t, cfg.Data+"/admin.key"))
	// Nobody waits for verifiers: a server that was killed leaves behind what
	// nothing can confirm before its leases end.
	c.admin, c.user = private.WithWait(0).Admin(), newClient(t, cfg.Public, "").WithWait(0)
	return c
}

// kill ends the process without a chance to do anything more.
func (c *child) kill() {
	_ = c.process.Kill()
	<-c.ended
}

// TestNoVerifierForgets kills the server under load and starts it again, three
// times, or with QUASH_SOAK forty. No verifier ever accepts a token whose
// revocation it has applied, or was answered as confirmed, and whatever was answered with success is refused
// by all in the end, those that start later too. No reuse of a refresh token
// goes undetected either.
func TestNoVerifierForgets(t *testing.T) {
	cfg := config(t)
	c := startChild(t, cfg)
	verifiers := []*quash.Verifier{c.verifier(t), c.verifier(t), c.verifier(t)}
	for range 3 {
		if _, err := c.admin.CreateAccount(t.Context(), client.NewAccount{Subject: newSubject()}); err != nil {
			t.Fatal(err)
		}
	}
	var tokens tokenList
	var verified atomic.Int64
	watching, done := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for _, v := range verifiers {
		group.Go(func() { watch(watching, t, v, &tokens, &verified) })
	}
	kills, reuses := 3, 0
	if os.Getenv("QUASH_SOAK") != "" {
		kills = 40
	}
	for round := range kills {
		replayed := c.killUnderLoad(t, time.Duration(150+100*(round%5))*time.Millisecond, &tokens)
		c = startChild(t, cfg)
		for _, r := range replayed {
			r.mustEnd(t, c)
		}
		reuses += len(replayed)
	}
	verifiers = append(verifiers, c.verifier(t))
	log, err := c.admin.Log(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	settle(t, log.Head.Position, verifiers...)
	dead := tokens.all()
	for _, d := range dead {
		for _, v := range verifiers {
			revoked(t, v, d.token)
		}
	}
	done()
	group.Wait()
	if report, err := c.admin.VerifyLog(t.Context()); err != nil || !report.Whole {
		t.Errorf("the chain: %+v, %v", report, err)
	}
	if len(dead) == 0 {
		t.Error("nothing was revoked")
	}
	t.Logf("soak: the server killed %d times, %d revokes answered, %d verifies of dead tokens, none accepted, %d reuses found after a kill", kills, len(dead), verified.Load(), reuses)
}

// watch verifies dead tokens until ctx ends.
func watch(ctx context.Context, t *testing.T, v *quash.Verifier, tokens *tokenList, verified *atomic.Int64) {
	for ctx.Err() == nil {
		for _, d := range tokens.all() {
			verified.Add(1)
			if _, err := v.Verify(d.token); err != nil || !d.confirmed && v.Status().Position < d.position {
				continue
			}
			if _, err := v.Verify(d.token); err == nil {
				t.Errorf("a verifier at %d accepts a token that %d revoked; confirmed: %t", v.Status().Position, d.position, d.confirmed)
				return
			}
		}
		time.Sleep(time.Millisecond)
	}
}

// killUnderLoad revokes and rotates for a while, kills the server in the midst
// of it, and returns the sessions whose rotations had been answered.
func (c *child) killUnderLoad(t *testing.T, after time.Duration, tokens *tokenList) (replayed []replay) {
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			for revokeOne(t, c, tokens) == nil {
			}
		})
	}
	load.Go(func() {
		for r, err := rotateTwice(t, c); err == nil; r, err = rotateTwice(t, c) {
			replayed = append(replayed, r)
		}
	})
	time.Sleep(after)
	c.kill()
	load.Wait()
	return replayed
}

// openSession opens a session for the first of the accounts.
func (c *child) openSession(t *testing.T) (client.Tokens, error) {
	accounts, err := c.admin.Accounts(t.Context(), "", 1)
	if err != nil {
		return client.Tokens{}, err
	}
	return c.admin.OpenSession(t.Context(), accounts.Items[0].Subject, client.Device{})
}

// revokeOne opens a session and ends it. What it notes was answered with success.
func revokeOne(t *testing.T, c *child, tokens *tokenList) error {
	grant, err := c.openSession(t)
	if err != nil {
		return err
	}
	out, err := c.user.Logout(t.Context(), grant.RefreshToken)
	if err != nil {
		return err
	}
	if out.Position == 0 {
		return errors.New("the logout ended nothing")
	}
	tokens.add(deadToken{grant.AccessToken, out.Position, out.Confirmation.Confirmed})
	return nil
}

// replay is a session whose refresh token was rotated twice, as the server
// answered before it was killed.
type replay struct{ first, last string }

func rotateTwice(t *testing.T, c *child) (r replay, err error) {
	grant, err := c.openSession(t)
	if err != nil {
		return r, err
	}
	r = replay{grant.RefreshToken, grant.RefreshToken}
	for range 2 {
		if grant, err = c.user.Refresh(t.Context(), r.last, ""); err != nil {
			return r, err
		}
		r.last = grant.RefreshToken
	}
	return r, nil
}

// mustEnd presents the first token again: the server that was killed has not
// forgotten that it was used, and the session ends.
func (r replay) mustEnd(t *testing.T, c *child) {
	t.Helper()
	for _, token := range []string{r.first, r.last} {
		if _, err := c.user.Refresh(t.Context(), token, ""); !isCode(err, client.CodeGrant) {
			t.Errorf("reuse after a kill: got %v, want %s", err, client.CodeGrant)
		}
	}
}

type deadToken struct {
	token     string
	position  uint64
	confirmed bool
}

type tokenList struct {
	mu   sync.Mutex
	list []deadToken
}

func (l *tokenList) add(d deadToken) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, d)
}

func (l *tokenList) all() []deadToken {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.list[:len(l.list):len(l.list)]
}

var subjects atomic.Int64

func newSubject() string { return fmt.Sprintf("u_%d", subjects.Add(1)) }
