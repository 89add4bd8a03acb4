package issuer_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/storetest"
)

func (h *house) nodes() (nodes []issuer.Node) {
	h.t.Helper()
	err := h.store.View(h.ctx(), func(rd issuer.Reader) (err error) {
		nodes, err = rd.Nodes()
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return nodes
}

func (h *house) whole(what string) {
	h.t.Helper()
	r, err := h.VerifyLog(h.ctx())
	if err != nil || r.Break != nil {
		h.t.Errorf("%s: the log breaks: %v, %v", what, r.Break, err)
	}
}

// P9: where the database lost its end, nothing of before is relied on.
func TestP9AForkBeginsAnEpoch(t *testing.T) {
	var alarm bytes.Buffer
	h, shared := openShared(t, func(c *issuer.Config) { c.Logger = slog.New(slog.NewTextHandler(&alarm, nil)) })
	old := h.session("u1")
	other := issuer.Revocation{Issuer: "https://other.example", Claim: "sub", Value: "u9", Time: time.Now()}
	h.append(other)
	if err := h.Heal(t.Context()); err != nil || h.Epochs() != 0 || alarm.Len() > 0 {
		t.Errorf("where nothing was lost: %v, %d epochs, and the log says %q", err, h.Epochs(), &alarm)
	}
	before, _ := h.Log(t.Context())
	shared.Fork()
	_, err := h.refresh(old.RefreshToken, "")
	h.refused("refresh on a database that lost something", err, issuer.CodeUnavailable)
	_, err = h.Logout(t.Context(), old.RefreshToken, "")
	h.refused("logout on a database that lost something", err, issuer.CodeUnavailable)
	if err := h.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, err := h.Log(t.Context())
	if err != nil || after.Epoch != before.Epoch+1 || after.ID == before.ID || after.Head.Position < before.Head.Position+issuer.EpochLift {
		t.Errorf("log: got %+v, %v, want the next epoch after %+v", after, err, before)
	}
	if h.Epochs() != 1 || !strings.Contains(alarm.String(), "level=ERROR") || !strings.Contains(alarm.String(), "alarm") {
		t.Errorf("%d epochs were begun, and the log says %q, want one and an alarm", h.Epochs(), &alarm)
	}
	h.lives("token of before", old.AccessToken, false)
	_, err = h.refresh(old.RefreshToken, "")
	h.refused("refresh of a session of before", err, issuer.CodeGrant)
	h.lives("token of after", h.session("u1").AccessToken, true)
	if got := h.nodes(); len(got) != 1 || got[0].ID != "epoch-2" || got[0].Floor != 0 || got[0].Lease != issuer.LongestLease || got[0].Owed == "" {
		t.Errorf("nodes: got %+v, want one that owes the longest lease", got)
	}
	noted, err := h.Audit(t.Context(), issuer.AuditQuery{Event: "epoch_begun", Limit: 9})
	if err != nil || len(noted) != 1 || !strings.Contains(string(noted[0].Detail), `"sessions_ended":1`) {
		t.Errorf("audit: got %+v, %v, want one entry", noted, err)
	}
	killers, err := h.Killers(t.Context(), old.AccessToken)
	if err != nil || len(killers) != 1 || killers[0].Claim != "iss" {
		t.Errorf("killers of a token of before: got %+v, %v, want the first record of the epoch", killers, err)
	}
	if h.published(parse(t, old.AccessToken).kid) {
		t.Error("a signing key of before is still published: it may have been withdrawn in what is lost")
	}
	h.whole("after an epoch began")
	for _, r := range h.since(before.Head.Position) {
		if r.Issuer != h.cfg.Issuer {
			t.Errorf("revocation %+v is of another issuer", r)
		}
	}
}

// Of nodes that find the fork together, one begins the epoch.
func TestAForkBeginsOneEpoch(t *testing.T) {
	h, shared := openShared(t)
	h.session("u1")
	for range 5 {
		before, _ := h.Log(t.Context())
		shared.Fork()
		var g errgroup.Group
		for range 4 {
			g.Go(func() error { return h.Heal(t.Context()) })
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		if after, _ := h.Log(t.Context()); after.Epoch != before.Epoch+1 {
			t.Errorf("after a fork the epoch is %d, want %d", after.Epoch, before.Epoch+1)
		}
	}
	h.whole("after five forks")
}

// latched is a store that takes no epoch whose number it has seen.
type latched struct {
	*storetest.Shared
	seen uint64
}

func TestAnEpochIsNewToThoseWhoSawOneThatWasLost(t *testing.T) {
	h, shared := openShared(t)
	l := &latched{shared, 3}
	h.store.Store = l
	shared.Fork()
	h.store.updating = func() {
		if log, err := h.Log(t.Context()); err == nil && log.Epoch <= l.seen {
			shared.Fork()
		}
	}
	if err := h.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if log, _ := h.Log(t.Context()); log.Epoch != 4 {
		t.Errorf("epoch: got %d, want 4, above what was seen", log.Epoch)
	}
	h.whole("after three epochs at once")
}

// Sessions may be kept; what they were given is dead, and what is ahead of them
// is refused.
func TestKeepSessions(t *testing.T) {
	var alarm bytes.Buffer
	h, shared := openShared(t, func(c *issuer.Config) {
		c.KeepSessions, c.Logger = true, slog.New(slog.NewTextHandler(&alarm, nil))
	})
	kept, ahead := h.session("u1"), h.session("u2")
	lost, _ := h.row(ahead.Session)
	next := h.mustRefresh(ahead.RefreshToken, "")
	h.putRow(lost) // as the database has it that lost its end
	shared.Fork()
	if err := h.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.lives("token of before", kept.AccessToken, false)
	h.lives("token of a refresh after", h.mustRefresh(kept.RefreshToken, "").AccessToken, true)
	alarm.Reset()
	_, err := h.refresh(next.RefreshToken, "")
	h.refused("refresh with a token that is ahead of its session", err, issuer.CodeGrant)
	if !strings.Contains(alarm.String(), "alarm") || !strings.Contains(alarm.String(), "lost") {
		t.Errorf("the log says %q, want an alarm", &alarm)
	}
	if s, found := h.row(kept.Session); !found || len(s.Tokens) != 1 {
		t.Errorf("session: got %+v, %v, want it with its new token alone", s, found)
	}
}

// A store that was filled and not finished is refused.
func TestUnfinishedRestoreIsRefused(t *testing.T) {
	for what, fill := range map[string]func(issuer.Tx) error{
		"an account": func(tx issuer.Tx) error { return tx.PutAccount(issuer.Account{Subject: "u1"}) },
		"audit":      func(tx issuer.Tx) error { return tx.AppendAudit(issuer.AuditEntry{Event: "login"}) },
		"a key":      func(tx issuer.Tx) error { return tx.PutAPIKey(issuer.APIKey{ID: "k", Name: "k"}) },
	} {
		s := openStore(t, ":memory:")
		if _, err := s.Update(t.Context(), fill); err != nil {
			t.Fatal(err)
		}
		i, err := issuer.New(issuer.Config{Issuer: "https://id.example", Secret: secret}, s)
		if err != nil {
			t.Fatal(err)
		}
		if err := i.Prepare(t.Context()); err == nil || !strings.Contains(err.Error(), "restore again") {
			t.Errorf("%s in a store that was never prepared: got %v, want what to do", what, err)
		}
	}
}

// The first start after a restore revokes everything issued before.
func TestPrepareFinishesAnEpoch(t *testing.T) {
	h := open(t)
	old := h.session("u1")
	_, err := h.store.Update(t.Context(), func(tx issuer.Tx) error {
		_, err := issuer.StartEpoch(tx, "restored", true)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	h.restart()
	h.lives("token of before", old.AccessToken, false)
	head := h.head()
	h.restart()
	if h.head() != head {
		t.Error("the second start revokes everything again")
	}
	h.whole("after a restore")
}

// P9: a backup that is restored twice within a second has two epochs, and the
// first has handed out no position of the second.
func TestP9EpochsOfOneCopyDoNotMeet(t *testing.T) {
	var copied issuer.Log
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	first, second := copied.Lift("first", "restored", now), copied.Lift("second", "restored", now.Add(50*time.Millisecond))
	if apart := int64(second.Begin.Position - first.Begin.Position); apart < 50_000 {
		t.Errorf("the second epoch begins %d positions after the first, want 50,000 or more", apart)
	}
}
