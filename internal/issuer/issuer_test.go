package issuer_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/jws"
	"github.com/quashdev/quash/internal/revset"
	"github.com/quashdev/quash/internal/sqlite"
)

var (
	secret = bytes.Repeat([]byte{7}, 32)
	admin  = issuer.Actor{Name: "admin:tests", Address: "192.0.2.1", Scopes: allScopes}

	allScopes = []issuer.Scope{issuer.ScopeRevoke, issuer.ScopeSessions, issuer.ScopeAccounts, issuer.ScopeAudit, issuer.ScopeKeys}
)

const (
	password    = "correct horse battery staple"
	newPassword = "sixteen tons and what do you get"
)

// house is an issuer over a store of its own, which can be made to fail.
type house struct {
	*issuer.Issuer
	t     testing.TB
	cfg   issuer.Config
	store *flaky
}

// open opens a house with the zero configuration, but for what edit changes.
func open(t testing.TB, edit ...func(*issuer.Config)) *house {
	t.Helper()
	h := &house{t: t, store: &flaky{Store: openStore(t, ":memory:")}, cfg: issuer.Config{Issuer: "https://id.example", Secret: secret}}
	for _, e := range edit {
		e(&h.cfg)
	}
	h.restart()
	return h
}

func openStore(t testing.TB, path string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// restart puts another issuer in place of the one there was, over the same store.
func (h *house) restart() {
	h.t.Helper()
	i, err := issuer.New(h.cfg, h.store)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := i.Prepare(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
	h.Issuer = i
}

// bubble runs a subtest in virtual time, beside its siblings.
func bubble(test func(t *testing.T)) func(*testing.T) {
	return func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, test)
	}
}

func (h *house) ctx() context.Context { return h.t.Context() }

func (h *house) account(n issuer.NewAccount) {
	h.t.Helper()
	if _, err := h.CreateAccount(h.ctx(), admin, n); err != nil {
		h.t.Fatal(err)
	}
}

// session opens a session of a subject, which is made if it is not there.
func (h *house) session(subject string) issuer.Grant {
	h.t.Helper()
	if _, err := h.Account(h.ctx(), subject); issuer.CodeOf(err) == issuer.CodeNotFound {
		h.account(issuer.NewAccount{Subject: subject})
	}
	return h.sessionOf(subject, "")
}

// sessionOf opens a session of a subject for a client.
func (h *house) sessionOf(subject, client string) issuer.Grant {
	h.t.Helper()
	g, err := h.OpenSession(h.ctx(), admin, subject, issuer.Device{Client: client})
	if err != nil {
		h.t.Fatal(err)
	}
	return g
}

func (h *house) refresh(token, key string) (issuer.Grant, error) {
	return h.Refresh(h.ctx(), issuer.RefreshRequest{Token: token, IdempotencyKey: key})
}

func (h *house) mustRefresh(token, key string) issuer.Grant {
	h.t.Helper()
	g, err := h.refresh(token, key)
	if err != nil {
		h.t.Fatalf("refresh: %v", err)
	}
	return g
}

// refused fails the test unless err is a refusal with the code.
func (h *house) refused(what string, err error, want issuer.Code) {
	h.t.Helper()
	if err == nil || issuer.CodeOf(err) != want {
		h.t.Errorf("%s: got error %v (%s), want %s", what, err, issuer.CodeOf(err), want)
	}
}

func (h *house) row(session string) (s issuer.Session, found bool) {
	h.t.Helper()
	err := h.store.View(h.ctx(), func(rd issuer.Reader) (err error) {
		s, err = rd.Session(session)
		return err
	})
	if err != nil && !errors.Is(err, issuer.ErrNotFound) {
		h.t.Fatal(err)
	}
	return s, err == nil
}

func (h *house) putRow(s issuer.Session) {
	h.t.Helper()
	if _, err := h.store.Update(h.ctx(), func(tx issuer.Tx) error { return tx.PutSession(s) }); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) head() uint64 {
	h.t.Helper()
	l, err := h.Log(h.ctx())
	if err != nil {
		h.t.Fatal(err)
	}
	return l.Head.Position
}

// since returns the revocations after a position.
func (h *house) since(after uint64) (all []issuer.Revocation) {
	h.t.Helper()
	for {
		page, err := h.Revocations(h.ctx(), after, 1000)
		if err != nil {
			h.t.Fatal(err)
		}
		if len(page) == 0 {
			return all
		}
		all, after = append(all, page...), page[len(page)-1].Position
	}
}

// everything is all that a store holds.
type everything struct {
	Log      issuer.Log
	Accounts []issuer.Account
	Sessions []issuer.Session
	History  []issuer.Revocation
	Signing  []issuer.SigningKey
	Keys     []issuer.APIKey
	Clients  []issuer.Client
	Audit    []issuer.AuditEntry
}

func (h *house) everything() (all everything) {
	h.t.Helper()
	err := h.store.View(h.ctx(), func(rd issuer.Reader) error {
		var errs [8]error
		all.Log, errs[0] = rd.Log()
		all.Accounts, errs[1] = rd.Accounts("", 1000)
		all.Sessions, errs[2] = rd.Sessions(issuer.Match{}, "", 1000)
		all.History, errs[3] = rd.History(0, 1000)
		all.Signing, errs[4] = rd.SigningKeys()
		all.Keys, errs[5] = rd.APIKeys()
		all.Clients, errs[7] = rd.Clients()
		all.Audit, errs[6] = rd.Audit(issuer.AuditQuery{Limit: 1000})
		return errors.Join(errs[:]...)
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return all
}

// unchanged fails the test if the store holds anything else than before.
func (h *house) unchanged(what string, before everything) {
	h.t.Helper()
	if diff := cmp.Diff(before, h.everything()); diff != "" {
		h.t.Errorf("%s changed the store (-before +after):\n%s", what, diff)
	}
}

// access is an access token as a verifier reads it.
type access struct {
	text   string
	kid    string
	claims map[string]any
}

func parse(t testing.TB, text string) access {
	t.Helper()
	var header struct{ Kid string }
	a := access{text: text}
	for n, into := range []any{&header, &a.claims} {
		raw, err := base64.RawURLEncoding.DecodeString(strings.Split(text, ".")[n])
		if err != nil {
			t.Fatal(err)
		}
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		if err := d.Decode(into); err != nil {
			t.Fatal(err)
		}
	}
	a.kid = header.Kid
	return a
}

func (a access) number(claim string) int64 {
	n, _ := a.claims[claim].(json.Number)
	i, _ := n.Int64()
	return i
}

// carries reports whether the token has a value under a claim, as the string
// or as a member of the array.
func (a access) carries(claim, value string) bool {
	if claim == "kid" {
		return a.kid == value
	}
	if list, ok := a.claims[claim].([]any); ok {
		return slices.ContainsFunc(list, func(v any) bool { return fmt.Sprint(v) == value })
	}
	v, ok := a.claims[claim]
	return ok && fmt.Sprint(v) == value
}

// killedBy is the rule of the whole project, in its plainest form.
func (a access) killedBy(r issuer.Revocation) bool {
	return a.carries(r.Claim, r.Value) && (r.Before == revset.Forever || uint64(a.number("rev")) < r.Before)
}

// alive reports whether a verifier that is in step accepts the token.
func (h *house) alive(text string) bool {
	h.t.Helper()
	var t jws.Token
	if err := t.Parse(text); err != nil {
		h.t.Fatal(err)
	}
	keys, err := h.PublicKeys(h.ctx())
	if err != nil {
		h.t.Fatal(err)
	}
	key, ok := keys.Key(t.Header.KeyID)
	return ok && key.Verify(&t) == nil && unrevoked(parse(h.t, text), h.since(0))
}

// unrevoked reports whether the token has not expired and no revocation kills it.
func unrevoked(a access, log []issuer.Revocation) bool {
	return time.Now().Unix() < a.number("exp") && !slices.ContainsFunc(log, a.killedBy)
}

// lives fails the test unless the token is as alive as wanted.
func (h *house) lives(what, text string, want bool) {
	h.t.Helper()
	if got := h.alive(text); got != want {
		h.t.Errorf("%s: access token alive = %v, want %v", what, got, want)
	}
}

// flaky is a store whose transactions fail when told to.
type flaky struct {
	issuer.Store
	failWrite int           // the write of an Update that fails, from 1; 0: none
	failed    bool          // whether it did
	lose      bool          // an Update is rolled back and its outcome unknown
	hide      bool          // an Update commits and its outcome is unknown
	failIssue error         // what the next Issue returns instead of running
	skew      time.Duration // by which its clock is ahead when it issues
	issuing   func()        // runs before each Issue
	updating  func()        // runs before each Update
}

var errDisk = errors.New("disk on fire")

func (f *flaky) Issue(ctx context.Context, fn func(issuer.Tx) error) error {
	if err := f.failIssue; err != nil {
		f.failIssue = nil
		return err
	}
	if f.issuing != nil {
		f.issuing()
	}
	return f.Store.Issue(ctx, func(tx issuer.Tx) error { return fn(&skewedTx{tx, f.skew}) })
}

func (f *flaky) Update(ctx context.Context, fn func(issuer.Tx) error) (issuer.Commit, error) {
	if f.updating != nil {
		f.updating()
	}
	var result error
	commit, err := f.Store.Update(ctx, func(tx issuer.Tx) error {
		result = fn(&flakyTx{Tx: tx, store: f, left: f.failWrite})
		if result == nil && f.lose {
			return errDisk
		}
		return result
	})
	if f.lose && errors.Is(err, errDisk) || f.hide && err == nil {
		return issuer.Commit{}, issuer.ErrUnknown
	}
	return commit, err
}

// skewedTx has a clock that is off.
type skewedTx struct {
	issuer.Tx
	skew time.Duration
}

func (t *skewedTx) Now() time.Time { return t.Tx.Now().Add(t.skew) }

// flakyTx fails at one of its writes.
type flakyTx struct {
	issuer.Tx
	store *flaky
	left  int
}

func (t *flakyTx) fails() error {
	if t.left--; t.left == 0 {
		t.store.failed = true
		return errDisk
	}
	return nil
}

func (t *flakyTx) PutAccount(a issuer.Account) error {
	return errors.Join(t.fails(), t.Tx.PutAccount(a))
}

func (t *flakyTx) DeleteAccount(subject string) error {
	return errors.Join(t.fails(), t.Tx.DeleteAccount(subject))
}

func (t *flakyTx) EndSessions(m issuer.Match, except string, now time.Time) (int, int, error) {
	if err := t.fails(); err != nil {
		return 0, 0, err
	}
	return t.Tx.EndSessions(m, except, now)
}

func (t *flakyTx) ForgetTokens(m issuer.Match) error {
	return errors.Join(t.fails(), t.Tx.ForgetTokens(m))
}

func (t *flakyTx) AppendRevocation(r issuer.Revocation) error {
	return errors.Join(t.fails(), t.Tx.AppendRevocation(r))
}

func (t *flakyTx) PutSigningKey(k issuer.SigningKey) error {
	return errors.Join(t.fails(), t.Tx.PutSigningKey(k))
}

func (t *flakyTx) AppendAudit(e issuer.AuditEntry) error {
	return errors.Join(t.fails(), t.Tx.AppendAudit(e))
}
