package storetest

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/quashdev/quash/internal/backup"
	"github.com/quashdev/quash/internal/issuer"
)

// fill makes a store that has something of everything.
func fill(t *testing.T, s issuer.Store) {
	t.Helper()
	update(t, s, func(tx issuer.Tx) error { return tx.SetMaxLifetime(time.Hour) })
	rnd := rand.New(rand.NewPCG(7, 7))
	for n := range 80 {
		_, err := s.Update(t.Context(), transaction(rnd))
		if err != nil && !same(err, errRefused) && !same(err, issuer.ErrNotFound) && !same(err, issuer.ErrExists) {
			t.Fatal(err)
		}
		if n == 50 {
			if _, _, err := s.Prune(t.Context(), epoch.Add(time.Hour+10*time.Minute), 10*time.Minute, 4); err != nil {
				t.Fatal(err)
			}
		}
	}
	update(t, s, people(2, "kept1", "kept2"))
	update(t, s, writes["09 PutSigningKey"])
	update(t, s, writes["21 AppendAudit restored"])
	var l issuer.Log
	view(t, s, func(r issuer.Reader) (err error) {
		l, err = r.Log()
		return err
	})
	update(t, s, func(tx issuer.Tx) error {
		return errors.Join(tx.PutVerifier(verifier("n1", 200)), tx.PutConfirmation(confirmation("n1", l.Head.Position, l.Head.Position, 5)))
	})
}

func backupOf(t *testing.T, s issuer.Store) []byte {
	t.Helper()
	var file bytes.Buffer
	if err := backup.Write(t.Context(), s, &file, nil); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

func restoreFrom(ctx context.Context, s issuer.Store, file []byte, o backup.Options) (backup.Summary, error) {
	return backup.Restore(ctx, s, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(file)), nil }, o)
}

func whole(t *testing.T, s issuer.Store) (all state) {
	t.Helper()
	view(t, s, func(r issuer.Reader) (err error) {
		all, err = dump(r)
		return err
	})
	return all
}

// backupRoundTrip restores with and without the sessions, and looks for
// everything but what the new epoch is to change.
func backupRoundTrip(t *testing.T, h Harness) {
	fill(t, h.Store)
	before := whole(t, h.Store)
	file := backupOf(t, h.Store)
	for _, keep := range []bool{false, true} {
		to := h.another(t)
		to.Fail(Fault{}, Fault{Persisted: true})
		got, err := restoreFrom(t.Context(), to.Store, file, backup.Options{KeepSessions: keep})
		to.Fail()
		if err != nil {
			t.Fatal(err)
		}
		sessions := 0
		if keep {
			sessions = len(before.Sessions)
		}
		if got.Accounts != len(before.Accounts) || got.Sessions != sessions || got.Records != uint64(len(before.History)) || got.Epoch != before.Log.Epoch+1 {
			t.Errorf("restored: %+v, of %d accounts, %d sessions, %d records", got, len(before.Accounts), len(before.Sessions), len(before.History))
		}
		after := whole(t, to.Store)
		after.checkRestored(t, before, keep)
		check(t, to.Store)
		view(t, to.Store, func(r issuer.Reader) error {
			last := before.Log.Head.Position
			for _, n := range nodes {
				want, err := h.evidenceOf(t, n, last)
				found, err2 := evidenceIn(r, n, last)
				if d := diff(want, found); d != "" {
					t.Errorf("evidence of %d by %s (-want +got):\n%s", last, n, d)
				}
				if err := errors.Join(err, err2); err != nil {
					return err
				}
			}
			return nil
		})
		if _, err := restoreFrom(t.Context(), to.Store, file, backup.Options{}); !errors.Is(err, backup.ErrNotEmpty) {
			t.Errorf("restored twice into one store: got %v, want ErrNotEmpty", err)
		}
		again := backupOf(t, to.Store)
		if _, err := restoreFrom(t.Context(), h.another(t).Store, again, backup.Options{KeepSessions: true}); err != nil {
			t.Errorf("the backup of a restored store: %v", err)
		}
	}
}

type proof struct {
	Confirmations []issuer.Confirmation
	Verifiers     []issuer.Verifier
}

func (h Harness) evidenceOf(t *testing.T, node string, position uint64) (p proof, err error) {
	view(t, h.Store, func(r issuer.Reader) error {
		p, err = evidenceIn(r, node, position)
		return err
	})
	return p, err
}

func evidenceIn(r issuer.Reader, node string, position uint64) (p proof, err error) {
	all, err := r.Confirmations(position)
	for _, c := range all {
		if c.Node != node {
			continue
		}
		p.Confirmations = append(p.Confirmations, c)
		var numbers []uint32
		for _, o := range c.Outcomes {
			numbers = append(numbers, o.Verifier)
		}
		known, err := r.Verifiers(node, numbers)
		if err != nil {
			return p, err
		}
		p.Verifiers = append(p.Verifiers, known...)
	}
	return p, err
}

func (s state) checkRestored(t *testing.T, before state, keep bool) {
	t.Helper()
	n := len(s.Epochs)
	if n == 0 || s.Log.Head != s.Epochs[n-1].Begin || s.Epochs[n-1].Before != before.Log.Head || s.Log.ID == before.Log.ID {
		t.Errorf("epochs: got %+v, want one to begin where the log ends", s.Epochs)
	}
	if len(s.Nodes) != 1 || s.Nodes[0].Lease != issuer.LongestLease {
		t.Errorf("nodes: got %+v, want the one that owes the longest lease, and no other", s.Nodes)
	}
	for i, k := range s.SigningKeys {
		if !k.Withdrawn || k.Sealed != nil {
			t.Errorf("signing key %s was not withdrawn", k.ID)
		}
		k.Withdrawn, k.Sealed, k.Retired = before.SigningKeys[i].Withdrawn, before.SigningKeys[i].Sealed, before.SigningKeys[i].Retired
		s.SigningKeys[i] = k
	}
	if s.Audit[0].Event != "epoch_begun" {
		t.Errorf("audit: got %+v, want the epoch's beginning", s.Audit[0])
	}
	s.Audit, s.Epochs = s.Audit[1:], s.Epochs[:n-1]
	if !keep {
		before.Sessions = nil
	}
	before.Sessions = slices.Clone(before.Sessions)
	for i := range before.Sessions {
		before.Sessions[i].Tokens = nil
	}
	if claims := before.Log.Claims; !slices.Equal(s.Log.Claims, claims) || !bytes.Equal(s.Log.HashSecret, before.Log.HashSecret) || s.Log.MaxLifetime != before.Log.MaxLifetime {
		t.Errorf("log: got %+v, want what %+v was", s.Log, before.Log)
	}
	for _, part := range []string{
		diff(before.Accounts, s.Accounts), diff(before.Sessions, s.Sessions), diff(before.History, s.History), diff(before.Epochs, s.Epochs),
		diff(before.SigningKeys, s.SigningKeys), diff(before.APIKeys, s.APIKeys), diff(before.Clients, s.Clients), diff(before.Audit, s.Audit), diff(before.AccountClaims, s.AccountClaims),
	} {
		if part != "" {
			t.Errorf("restored (-want +got):\n%s", part)
		}
	}
}

// backupIsOneSnapshot writes while a backup is made.
func backupIsOneSnapshot(t *testing.T, h Harness) {
	update(t, h.Store, func(tx issuer.Tx) error { return tx.SetMaxLifetime(time.Hour) })
	update(t, h.Store, people(1, "u1", "u2"))
	update(t, h.Store, appending("sid", "1", "2"))
	began, changed := false, make(chan error, 1)
	var file bytes.Buffer
	err := backup.Write(t.Context(), h.Store, &file, func(string, int) {
		if began {
			return
		}
		began = true
		go func() {
			_, err := h.Store.Update(t.Context(), func(tx issuer.Tx) error {
				return errors.Join(tx.DeleteAccount("u1"), people(1, "u3")(tx), appending("sub", "u1")(tx))
			})
			changed <- err
		}()
		if err := <-changed; err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	to := h.another(t)
	got, err := restoreFrom(t.Context(), to.Store, file.Bytes(), backup.Options{KeepSessions: true})
	if err != nil || got.Accounts != 2 || got.Sessions != 2 || got.Records != 2 {
		t.Errorf("restored: %+v, %v, want what there was when the backup began", got, err)
	}
	check(t, to.Store)
}

// restoreBreaksOff ends a restore after each of its transactions.
func restoreBreaksOff(t *testing.T, h Harness) {
	fill(t, h.Store)
	file := backupOf(t, h.Store)
	for steps := range 100 {
		to := h.another(t)
		ctx, cancel := context.WithCancel(t.Context())
		left := steps
		written := false
		_, err := restoreFrom(ctx, to.Store, file, backup.Options{KeepSessions: true, Progress: func(what string, _ int) {
			if what == "lines checked" {
				return
			}
			written = true
			if left--; left < 0 {
				cancel()
			}
		}})
		cancel()
		if err == nil {
			if steps < 3 {
				t.Errorf("it took %d steps, want a few", steps)
			}
			return
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		i, err := issuer.New(issuer.Config{Issuer: "https://issuer.example", Secret: make([]byte, 32)}, to.Store)
		if err != nil {
			t.Fatal(err)
		}
		if err := i.Prepare(t.Context()); (err == nil) == written {
			t.Errorf("after %d steps a server starts: %v, want that it does not once something was written", steps, err)
		}
		if _, err := restoreFrom(t.Context(), to.Store, file, backup.Options{}); !errors.Is(err, backup.ErrNotEmpty) {
			t.Errorf("after %d steps, restored again into the same store: got %v, want ErrNotEmpty", steps, err)
		}
	}
}

// sameText reports whether two compressed files hold the same.
func sameText(a, b []byte) bool {
	text := func(file []byte) ([]byte, error) {
		r, err := gzip.NewReader(bytes.NewReader(file))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(r)
	}
	one, errOne := text(a)
	other, errOther := text(b)
	return errOne == nil && errOther == nil && bytes.Equal(one, other)
}

func backupIntoEmpty(t *testing.T, h Harness) {
	from := h.another(t)
	fill(t, from.Store)
	file := backupOf(t, from.Store)
	for n := range file {
		if n%97 != 0 {
			continue
		}
		cut, flipped := file[:n], slices.Clone(file)
		flipped[n] ^= 0x10
		for what, bad := range map[string][]byte{"cut": cut, "flipped": flipped} {
			if sameText(bad, file) {
				continue // compressed otherwise, and whole
			}
			if _, err := restoreFrom(t.Context(), h.Store, bad, backup.Options{}); err == nil {
				t.Errorf("a file that is %s at %d was restored", what, n)
			}
		}
	}
	if d := diff(state{Log: head(t, h.Store), Matches: whole(t, h.Store).Matches}, whole(t, h.Store)); d != "" {
		t.Errorf("a damaged file changed the store:\n%s", d)
	}
	for what, write := range map[string]func(issuer.Tx) error{
		"an account": writes["01 PutAccount"], "a record": appending("sid", "1"), "an epoch": beginEpoch("x"), "a start": writes["08 SetMaxLifetime"],
		"a key": writes["10 PutAPIKey"], "a client": writes["22 PutClient"], "another issuer": writes["25 PutIssuer"], "an entry of the audit": writes["12 AppendAudit"],
	} {
		to := h.another(t)
		update(t, to.Store, write)
		before := whole(t, to.Store)
		if _, err := restoreFrom(t.Context(), to.Store, file, backup.Options{}); !errors.Is(err, backup.ErrNotEmpty) {
			t.Errorf("into a store that has %s: got %v, want ErrNotEmpty", what, err)
		}
		if d := diff(before, whole(t, to.Store)); d != "" {
			t.Errorf("into a store that has %s (-before +after):\n%s", what, d)
		}
	}
	var none bytes.Buffer
	if err := backup.Write(t.Context(), h.Store, &none, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := restoreFrom(t.Context(), h.Store, none.Bytes(), backup.Options{}); err == nil {
		t.Error("the backup of a store that was never used: got success, want an error")
	}
}
