package storetest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
)

func errorUndoes(t *testing.T, h Harness) {
	p := &pair{Harness: h, model: newModel(head(t, h.Store))}
	p.step(t, people(1, "u1"), nil)
	for _, name := range sortedNames(writes) {
		p.step(t, func(tx issuer.Tx) error {
			_ = endSession(tx, "s5")
			return errors.Join(errRefused, writes[name](tx))
		}, nil)
		err := h.Store.Issue(t.Context(), func(tx issuer.Tx) error {
			_ = tx.PutSession(session("s6", "u1"))
			return errRefused
		})
		if err != errRefused { //nolint:errorlint // the very same
			t.Errorf("Issue: got %v, want the function's error unchanged", err)
		}
	}
	p.step(t, appending("sub", "u1"), nil)
	check(t, h.Store)
}

// errorUndoesNoOther runs functions that fail among others that do not.
func errorUndoesNoOther(t *testing.T, h Harness) {
	var g errgroup.Group
	for n := range 64 {
		g.Go(func() error {
			value := fmt.Sprint(n % 2)
			_, err := h.Store.Update(t.Context(), func(tx issuer.Tx) error {
				err := appending("sid", value, value)(tx)
				if n%2 == 1 {
					err = errRefused
				}
				return err
			})
			if want := map[int]error{1: errRefused}[n%2]; !errors.Is(err, want) {
				return fmt.Errorf("transaction %d: got %w, want %w", n, err, want)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	view(t, h.Store, func(r issuer.Reader) error {
		list, err := r.History(0, some)
		for _, rev := range list {
			if rev.Value == "1" {
				t.Errorf("record %d is of a transaction that failed", rev.Position)
			}
		}
		if len(list) != 64 {
			t.Errorf("got %d records, want 64", len(list))
		}
		return err
	})
	check(t, h.Store)
}

// readTogether has functions that fail change sessions, among others that read
// them, where a store may run all of them in one transaction.
func readTogether(t *testing.T, h Harness) {
	full, bare := session("s1", "u1"), session("s2", "u2")
	full.Registered, full.Scope, full.RetryKey = true, "read write", [32]byte{7}
	bare.Device, bare.Tokens = "", nil
	named, nameless := account("u1"), account("u2")
	nameless.Name, nameless.Claims = "", []byte(`{}`)
	update(t, h.Store, func(tx issuer.Tx) error {
		return errors.Join(tx.PutAccount(named), tx.PutAccount(nameless), tx.PutSession(full), tx.PutSession(bare))
	})
	reads := func(want issuer.Session, owner issuer.Account) func(issuer.Tx) error {
		return func(tx issuer.Tx) error {
			s, err := tx.Session(want.ID)
			if err != nil {
				return err
			}
			a, err := tx.Account(want.Subject)
			if d := diff(want, s) + diff(owner, a); err == nil && d != "" {
				err = fmt.Errorf("session and account (-want +got):\n%s", d)
			}
			return err
		}
	}
	ends := func(tx issuer.Tx) error {
		_, _, err := tx.EndSessions(issuer.Match{Claim: "sid", Value: "s1"}, "", epoch)
		return errors.Join(err, errRefused)
	}
	puts := func(tx issuer.Tx) error {
		s, err := tx.Session("s1")
		s.Counter++
		return errors.Join(err, tx.PutSession(s), errRefused)
	}
	readers := []func(issuer.Tx) error{reads(full, named), reads(bare, nameless)}
	inUpdate := func(fn func(issuer.Tx) error) error {
		_, err := h.Store.Update(t.Context(), fn)
		return err
	}
	inIssue := func(fn func(issuer.Tx) error) error { return h.Store.Issue(t.Context(), fn) }
	together(t, inUpdate, append([]func(issuer.Tx) error{ends, puts}, readers...))
	together(t, inIssue, append([]func(issuer.Tx) error{puts}, readers...))
}

// together runs each function a few times, all of them while others wait. It
// reports errors but errRefused.
func together(t *testing.T, run func(func(issuer.Tx) error) error, fns []func(issuer.Tx) error) {
	t.Helper()
	var g errgroup.Group
	var enter sync.Once
	entered, leave := make(chan struct{}), make(chan struct{})
	g.Go(func() error {
		return run(func(issuer.Tx) error {
			enter.Do(func() { close(entered) })
			<-leave
			return nil
		})
	})
	<-entered
	var queued sync.WaitGroup
	for n := range 8 * len(fns) {
		queued.Add(1)
		g.Go(func() error {
			queued.Done()
			if err := run(fns[n%len(fns)]); !errors.Is(err, errRefused) {
				return err
			}
			return nil
		})
	}
	queued.Wait()
	for range 100 {
		runtime.Gosched() // most of them have come to wait by then
	}
	close(leave)
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// viewsAreSnapshots reads twice in one view, with a commit between.
func viewsAreSnapshots(t *testing.T, h Harness) {
	update(t, h.Store, people(1, "u1"))
	view(t, h.Store, func(r issuer.Reader) error {
		before, err := dump(r)
		if err != nil {
			return err
		}
		done := make(chan error)
		go func() {
			_, err := h.Store.Update(t.Context(), func(tx issuer.Tx) error {
				return errors.Join(tx.DeleteAccount("u1"), tx.AppendRevocation(revocation("sub", "u1")))
			})
			done <- err
		}()
		if err := <-done; err != nil {
			return err
		}
		after, err := dump(r)
		if d := diff(before, after); d != "" {
			t.Errorf("the view changed (-before +after):\n%s", d)
		}
		return err
	})
	if got := head(t, h.Store).Head.Position; got != 1 {
		t.Errorf("the next view: got head %d, want 1", got)
	}
}

func issueCannotRevoke(t *testing.T, h Harness) {
	if err := h.Store.Issue(t.Context(), appending("sub", "u1")); err == nil {
		t.Error("AppendRevocation in Issue: got success, want an error")
	}
	if got := head(t, h.Store).Head.Position; got != 0 {
		t.Errorf("head: got %d, want 0", got)
	}
}

func panics(t *testing.T, h Harness) {
	fn := func(tx issuer.Tx) error {
		_ = tx.AppendRevocation(revocation("sub", "u1"))
		panic("a mistake")
	}
	if _, err := h.Store.Update(t.Context(), fn); err == nil {
		t.Error("got success, want an error")
	}
	c := update(t, h.Store, appending("sub", "u2"))
	if c.First != 1 || c.Last != 1 {
		t.Errorf("the next commit: got %d to %d, want position 1", c.First, c.Last)
	}
	check(t, h.Store)
}

func endedContext(t *testing.T, h Harness) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ran := false
	_, err := h.Store.Update(ctx, func(issuer.Tx) error { ran = true; return nil })
	if ran || !errors.Is(err, context.Canceled) {
		t.Errorf("Update: ran %v, got %v, want context.Canceled", ran, err)
	}
	if err := h.Store.View(ctx, func(issuer.Reader) error { ran = true; return nil }); ran || !errors.Is(err, context.Canceled) {
		t.Errorf("View: ran %v, got %v, want context.Canceled", ran, err)
	}
	if _, err := h.Store.Tail(ctx, feed.Mark{}, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("Tail: got %v, want context.Canceled", err)
	}
}

// leavesQueue ends a context while its transaction waits behind another, and
// the context of that one while it runs.
func leavesQueue(t *testing.T, h Harness) {
	ctx, cancel := context.WithCancel(t.Context())
	entered, leave := make(chan struct{}), make(chan struct{})
	var enter sync.Once
	var g errgroup.Group
	g.Go(func() error {
		_, err := h.Store.Update(ctx, func(tx issuer.Tx) error {
			enter.Do(func() { close(entered) })
			<-leave
			return tx.AppendRevocation(revocation("sub", "began"))
		})
		return err
	})
	<-entered
	var waiting errgroup.Group
	for range 3 {
		waiting.Go(func() error {
			_, err := h.Store.Update(ctx, appending("sub", "waited"))
			if !errors.Is(err, context.Canceled) {
				return fmt.Errorf("waiting: got %w, want context.Canceled", err)
			}
			return nil
		})
	}
	cancel()
	if err := waiting.Wait(); err != nil {
		t.Error(err)
	}
	close(leave)
	if err := g.Wait(); err != nil {
		t.Errorf("once begun: got %v, want success", err)
	}
	view(t, h.Store, func(r issuer.Reader) error {
		list, err := r.History(0, some)
		if len(list) != 1 || list[0].Value != "began" {
			t.Errorf("got %v, want the transaction alone that had begun", list)
		}
		return err
	})
}

func changedHints(t *testing.T, h Harness) {
	for _, name := range []string{"06 AppendRevocation", "09 PutSigningKey"} {
		update(t, h.Store, writes[name])
		update(t, h.Store, writes[name])
		<-h.Store.Changed()
	}
}

func closedRefuses(t *testing.T, h Harness) {
	update(t, h.Store, appending("sub", "u1"))
	if err := h.Store.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Store.Update(t.Context(), appending("sub", "u1")); err == nil {
		t.Error("Update: got success, want an error")
	}
	if err := h.Store.View(t.Context(), func(issuer.Reader) error { return nil }); err == nil {
		t.Error("View: got success, want an error")
	}
	if _, err := h.Store.Tail(t.Context(), feed.Mark{}, 1); err == nil {
		t.Error("Tail: got success, want an error")
	}
	if err := h.Store.Close(); err != nil {
		t.Errorf("Close again: got %v, want nothing", err)
	}
}
