package storetest

import (
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quashdev/quash/internal/issuer"
)

func sortedNames[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }

// reopening fills every table and expects to find it all again.
func reopening(t *testing.T, h Harness) {
	p := &pair{Harness: h, model: newModel(head(t, h.Store))}
	for _, name := range []string{
		"01 PutAccount", "02 PutAccount other", "03 PutSession", "04 PutSession other", "06 AppendRevocation", "07 AppendRevocations",
		"08 SetMaxLifetime", "09 PutSigningKey", "10 PutAPIKey", "12 AppendAudit",
		"16 PutNode", "17 PutVerifier", "18 PutConfirmation", "22 PutClient", "24 SpendAssertion", "25 PutIssuer",
	} {
		p.step(t, writes[name], nil)
	}
	p.prune(t, epoch.Add(2*time.Minute))
	p.Store = p.Reopen(t)
	p.step(t, appending("jti", "t1"), nil)
	check(t, p.Store)
}

func startsEmpty(t *testing.T, h Harness) {
	other := issuer.Log{}
	view(t, h.Store, func(r issuer.Reader) error {
		got, err := dump(r)
		if err != nil {
			return err
		}
		other = got.Log
		want := state{Log: got.Log, Matches: got.Matches}
		if d := diff(want, got); d != "" {
			t.Errorf("a new store (-want +got):\n%s", d)
		}
		return nil
	})
	if len(other.ID) < 32 || len(other.HashSecret) != 32 || other.Epoch != 1 {
		t.Errorf("log: got id %q, epoch %d, %d octets of secret, want 32 digits, 1, 32", other.ID, other.Epoch, len(other.HashSecret))
	}
	other.ID, other.HashSecret, other.Epoch = "", nil, 0
	if d := cmp.Diff(issuer.Log{}, other); d != "" {
		t.Errorf("log (-want +got):\n%s", d)
	}
}

func rowErrors(t *testing.T, h Harness) {
	update(t, h.Store, people(1, "u1", "u2"))
	update(t, h.Store, writes["10 PutAPIKey"])
	clash := account("u3")
	clash.Name = account("u1").Name
	for _, c := range []struct {
		name string
		want error
		fn   func(issuer.Tx) error
	}{
		{"Account", issuer.ErrNotFound, func(tx issuer.Tx) error { _, err := tx.Account("u9"); return err }},
		{"AccountNamed", issuer.ErrNotFound, func(tx issuer.Tx) error { _, err := tx.AccountNamed("u9"); return err }},
		{"AccountNamed nothing", issuer.ErrNotFound, func(tx issuer.Tx) error { _, err := tx.AccountNamed(""); return err }},
		{"Session", issuer.ErrNotFound, func(tx issuer.Tx) error { _, err := tx.Session("s9"); return err }},
		{"Oldest", issuer.ErrNotFound, func(tx issuer.Tx) error { _, err := tx.Oldest(issuer.Match{Claim: "sub", Value: "u9"}); return err }},
		{"APIKey", issuer.ErrNotFound, func(tx issuer.Tx) error { _, err := tx.APIKey("k9"); return err }},
		{"Client", issuer.ErrNotFound, func(tx issuer.Tx) error { _, err := tx.Client("c9"); return err }},
		{"DeleteClient", issuer.ErrNotFound, func(tx issuer.Tx) error { return tx.DeleteClient("c9") }},
		{"SpendAssertion twice", issuer.ErrExists, func(tx issuer.Tx) error {
			return errors.Join(tx.SpendAssertion([32]byte{1}, epoch), tx.SpendAssertion([32]byte{1}, epoch))
		}},
		{"PutAccount with another's name", issuer.ErrExists, func(tx issuer.Tx) error { return tx.PutAccount(clash) }},
		{"DeleteAccount", issuer.ErrNotFound, func(tx issuer.Tx) error { return tx.DeleteAccount("u9") }},
		{"PutSession of nobody", issuer.ErrNotFound, func(tx issuer.Tx) error { return tx.PutSession(session("s9", "u9")) }},
		{"PutAPIKey with another's name", issuer.ErrExists, func(tx issuer.Tx) error { return tx.PutAPIKey(issuer.APIKey{ID: "b", Name: "ci"}) }},
		{"DeleteNode", issuer.ErrNotFound, func(tx issuer.Tx) error { return tx.DeleteNode("n9") }},
		{"DeleteAPIKey", issuer.ErrNotFound, func(tx issuer.Tx) error { return tx.DeleteAPIKey("k9") }},
	} {
		if _, err := h.Store.Update(t.Context(), c.fn); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	nameless := func(subject string) issuer.Account { a := account(subject); a.Name = ""; return a }
	update(t, h.Store, func(tx issuer.Tx) error {
		return errors.Join(tx.PutAccount(nameless("u4")), tx.PutAccount(nameless("u5")))
	})
	check(t, h.Store)
}

func listings(t *testing.T, h Harness) {
	update(t, h.Store, people(4, "u3", "u1", "u2"))
	for _, event := range []string{"login", "logout", "login", "logout", "login"} {
		update(t, h.Store, func(tx issuer.Tx) error { return tx.AppendAudit(audit(event, "u1", epoch)) })
	}
	update(t, h.Store, appending("sid", "s1", "s2"))
	update(t, h.Store, func(tx issuer.Tx) error {
		return errors.Join(appending("sid", "s3", "s4", "s5")(tx), tx.AppendAudit(audit("revoked", "u1", epoch)), tx.AppendAudit(audit("ended", "u1", epoch)))
	})
	view(t, h.Store, func(r issuer.Reader) error {
		for position, want := range map[uint64]int{1: 2, 3: 2, 5: 2, 6: 0} {
			if noted, err := r.Audit(issuer.AuditQuery{Position: position}); err != nil || len(noted) != want || want > 0 && noted[0].Event != "ended" {
				t.Errorf("Audit of position %d: got %v, %v, want %d entries, the newest first", position, noted, err, want)
			}
		}
		accounts, err := r.Accounts("u1", 1)
		if err != nil || len(accounts) != 1 || accounts[0].Subject != "u2" {
			t.Errorf("Accounts after u1: got %v, %v, want u2 alone", accounts, err)
		}
		for _, m := range []issuer.Match{{Claim: "sub", Value: "u2"}, {Claim: "client_id", Value: "web"}, {Claim: "tenant", Value: "acme"}, {}} {
			list, err := r.Sessions(m, "u2-1", 2)
			if err != nil || len(list) != 2 || list[0].ID != "u2-2" || list[1].ID != "u2-3" {
				t.Errorf("Sessions %v after u2-1: got %v, %v, want u2-2, u2-3", m, list, err)
			}
		}
		newest, err := r.Audit(issuer.AuditQuery{Event: "login", Subject: "u1", Limit: 2})
		if err != nil || len(newest) != 2 || newest[0].ID <= newest[1].ID {
			t.Fatalf("Audit: got %v, %v, want the two newest", newest, err)
		}
		before, err := r.Audit(issuer.AuditQuery{Event: "login", Before: newest[1].ID})
		if err != nil || len(before) != 1 || before[0].ID >= newest[1].ID {
			t.Errorf("Audit before %d: got %v, %v, want the first", newest[1].ID, before, err)
		}
		return nil
	})
}

func matches(t *testing.T, h Harness) {
	doc := account("u1")
	doc.Claims = []byte(`{"tenant":"acme","roles":["admin","dev"],"level":3,"beta":true,"none":null,"deep":{"x":"y"},"mixed":["a",1,false]}`)
	update(t, h.Store, people(2, "u1", "u2"))
	update(t, h.Store, func(tx issuer.Tx) error { return tx.PutAccount(doc) })
	view(t, h.Store, func(r issuer.Reader) error {
		for m, want := range map[issuer.Match]int{
			{}:                                   4,
			{Claim: "sub", Value: "u1"}:          2,
			{Claim: "sid", Value: "u1-1"}:        1,
			{Claim: "client_id", Value: "web"}:   4,
			{Claim: "tenant", Value: "acme"}:     4,
			{Claim: "roles", Value: "dev"}:       4,
			{Claim: "beta", Value: "true"}:       2,
			{Claim: "level", Value: "3"}:         4,
			{Claim: "mixed", Value: "false"}:     2,
			{Claim: "mixed", Value: "1"}:         2,
			{Claim: "tenant", Value: "Acme"}:     0,
			{Claim: "deep", Value: `{"x":"y"}`}:  0,
			{Claim: "none", Value: "null"}:       0,
			{Claim: "none", Value: ""}:           0,
			{Claim: "client_id", Value: "phone"}: 0,
		} {
			got, tokens, err := r.CountSessions(m, epoch.Add(90*time.Second))
			if err != nil || got != want || tokens != want {
				t.Errorf("%v: got %d sessions, %d tokens, %v, want %d of both", m, got, tokens, err, want)
			}
		}
		return nil
	})
	check(t, h.Store)
}

func sessionsEnd(t *testing.T, h Harness) {
	for _, c := range []struct {
		by     issuer.Match
		except string
		left   []string
	}{
		{issuer.Match{Claim: "sid", Value: "u1-0"}, "", []string{"u1-1", "u2-0", "u2-1"}},
		{issuer.Match{Claim: "sub", Value: "u1"}, "", []string{"u2-0", "u2-1"}},
		{issuer.Match{Claim: "sub", Value: "u1"}, "u1-1", []string{"u1-1", "u2-0", "u2-1"}},
		{issuer.Match{Claim: "client_id", Value: "web"}, "u2-0", []string{"u2-0"}},
		{issuer.Match{Claim: "tenant", Value: "acme"}, "", nil},
		{issuer.Match{Claim: "tenant", Value: "other"}, "", []string{"u1-0", "u1-1", "u2-0", "u2-1"}},
		{issuer.Match{}, "u1-0", []string{"u1-0"}},
	} {
		update(t, h.Store, people(2, "u1", "u2"))
		var sessions, tokens int
		update(t, h.Store, func(tx issuer.Tx) (err error) {
			sessions, tokens, err = tx.EndSessions(c.by, c.except, epoch.Add(90*time.Second))
			return err
		})
		if want := 4 - len(c.left); sessions != want || tokens != want {
			t.Errorf("%v except %q: got %d sessions, %d tokens, want %d of both", c.by, c.except, sessions, tokens, want)
		}
		view(t, h.Store, func(r issuer.Reader) error {
			got, err := match(r, issuer.Match{})
			if !slices.Equal(got.Sessions, c.left) {
				t.Errorf("%v except %q: got %q left, want %q", c.by, c.except, got.Sessions, c.left)
			}
			return err
		})
	}
}

// An assertion that was spent stays so for as long as it could be presented, and
// what the clocks may differ by.
func assertionsExpire(t *testing.T, h Harness) {
	one := [32]byte{7}
	spend := func(want error) {
		t.Helper()
		_, err := h.Store.Update(t.Context(), func(tx issuer.Tx) error { return tx.SpendAssertion(one, epoch) })
		if !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	prune := func(now time.Time) {
		t.Helper()
		if _, _, err := h.Store.Prune(t.Context(), now, time.Hour, some); err != nil {
			t.Fatal(err)
		}
	}
	spend(nil)
	spend(issuer.ErrExists)
	prune(epoch.Add(time.Minute))
	spend(issuer.ErrExists)
	prune(epoch.Add(time.Minute + time.Second))
	spend(nil)
}

// More assertions than a batch has are all forgotten at once: they come faster
// than batches do.
func everyAssertionExpires(t *testing.T, h Harness) {
	spend := func(want error) {
		t.Helper()
		for n := range byte(5) {
			_, err := h.Store.Update(t.Context(), func(tx issuer.Tx) error { return tx.SpendAssertion([32]byte{n}, epoch) })
			if !errors.Is(err, want) {
				t.Errorf("assertion %d: got %v, want %v", n, err, want)
			}
		}
	}
	spend(nil)
	if records, sessions, err := h.Store.Prune(t.Context(), epoch.Add(time.Hour), time.Hour, 2); records != 0 || sessions != 0 || err != nil {
		t.Errorf("got %d records, %d sessions, %v; want none of both", records, sessions, err)
	}
	spend(nil)
	if _, _, err := h.Store.Prune(t.Context(), epoch.Add(time.Hour), time.Hour, 0); err != nil {
		t.Error(err)
	}
	spend(issuer.ErrExists)
}
