package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sync/errgroup"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revset"
)

// tail returns what Tail must return where a view shows s.
func (s state) tail(after uint64, limit int) issuer.Tail {
	t := issuer.Tail{Log: s.Log, SigningKeys: s.SigningKeys, Nodes: s.Nodes}
	if after < s.Log.Pruned.Position || after > s.Log.Head.Position {
		return t
	}
	to := after + min(uint64(max(limit, 0)), s.Log.Head.Position-after)
	for _, h := range beyond(s.History, after)[:to-after] {
		t.Records = append(t.Records, h.Record())
	}
	t.At, t.Mark = s.markAt(after), s.markAt(to)
	return t
}

func (s state) markAt(position uint64) feed.Mark { return markAt(s.History, s.Epochs, position) }

// checkTail asks for the tail at each kind of position.
func (s state) checkTail(ctx context.Context, store issuer.Store) error {
	head, pruned := s.Log.Head.Position, s.Log.Pruned.Position
	for _, c := range []struct {
		after uint64
		limit int
	}{{0, some}, {pruned, some}, {(pruned + head) / 2, 2}, {max(head, 3) - 3, some}, {head, 1}, {head + 1, 1}, {pruned, 0}, {head, -1}} {
		got, err := store.Tail(ctx, feed.Mark{Position: c.after, Digest: feed.Digest{1}}, c.limit)
		if err != nil {
			return err
		}
		if len(got.Records) == 0 {
			got.Records = nil
		}
		if d := diff(s.tail(c.after, c.limit), got); d != "" {
			return fmt.Errorf("tail after %d, %d records, of %d to %d (-want +got):\n%s", c.after, c.limit, pruned, head, d)
		}
	}
	return nil
}

// tailAtEveryPosition makes all that a tail shows, and prunes a part of it.
func tailAtEveryPosition(t *testing.T, h Harness) {
	check(t, h.Store)
	for _, name := range []string{"06 AppendRevocation", "07 AppendRevocations", "08 SetMaxLifetime", "09 PutSigningKey", "16 PutNode"} {
		update(t, h.Store, writes[name])
		check(t, h.Store)
	}
	update(t, h.Store, appending("sid", "1", "2", "3", "4", "5", "6"))
	if n, _, err := h.Store.Prune(t.Context(), epoch.Add(time.Hour), time.Hour, 2); n != 2 || err != nil {
		t.Fatalf("Prune: got %d records, %v, want 2", n, err)
	}
	check(t, h.Store)
	update(t, h.Store, writes["19 DeleteNode"])
	check(t, h.Store)
	check(t, h.Reopen(t))
}

// tailHasCommits has writers look for what they have just written.
func tailHasCommits(t *testing.T, h Harness) {
	var g errgroup.Group
	for w := range 8 {
		g.Go(func() error {
			id, at := fmt.Sprint("w", w), feed.Mark{}
			for n := range uint64(20) {
				row := issuer.Node{ID: id, Counter: n, Started: epoch}
				c, err := h.Store.Update(t.Context(), func(tx issuer.Tx) error {
					return errors.Join(tx.PutNode(row), appending("sid", id)(tx))
				})
				if err != nil {
					return err
				}
				got, err := h.Store.Tail(t.Context(), at, some)
				if err != nil {
					return err
				}
				if !slices.Contains(got.Nodes, row) || got.Mark.Position < c.Last || got.Log.Head.Position < c.Head.Position || got.At != at {
					return fmt.Errorf("after the commit of %d, asked for %v: got it from %v to %v, and nodes %v", c.Last, at, got.At, got.Mark, got.Nodes)
				}
				at = got.Mark
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	check(t, h.Store)
}

// tailIsOneSnapshot keeps in a node's row, and in a key, the position of the
// latest revocation; a tail that shows one must show the others.
func tailIsOneSnapshot(t *testing.T, h Harness) {
	const commits = 150
	var g errgroup.Group
	for range 3 {
		g.Go(func() error {
			for range commits / 3 {
				if _, err := h.Store.Update(t.Context(), atHead(countUp)); err != nil {
					return err
				}
				// What is undone is never shown.
				_, err := h.Store.Update(t.Context(), atHead(func(tx issuer.Tx, head uint64) error { return errors.Join(countUp(tx, head), errRefused) }))
				if !errors.Is(err, errRefused) {
					return err
				}
			}
			return nil
		})
	}
	for range 2 {
		g.Go(func() error { return followTail(t, h.Store, commits) })
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	check(t, h.Store)
}

func countUp(tx issuer.Tx, head uint64) error {
	key := issuer.SigningKey{ID: "k", Algorithm: fmt.Sprint(head + 1), Created: epoch}
	return errors.Join(tx.PutNode(issuer.Node{ID: "n1", Floor: head + 1, Started: epoch}), tx.PutSigningKey(key), appending("sid", "a")(tx))
}

// followTail reads the log to the given end. What a view has shown, or a tail
// before, a tail knows.
func followTail(t *testing.T, s issuer.Store, end uint64) error {
	for at := (feed.Mark{}); at.Position < end; {
		got, err := s.Tail(t.Context(), at, 5)
		if err != nil {
			return err
		}
		if got.At != at {
			return fmt.Errorf("asked for %v: got it from %v", at, got.At)
		}
		for i, rec := range got.Records {
			if want := at.Position + 1 + uint64(i); rec.Position != want {
				return fmt.Errorf("ordered: record %d stands where %d belongs", rec.Position, want)
			}
		}
		if p := got.Log.Head.Position; p > 0 && (got.Nodes[0].Floor != p || got.SigningKeys[0].Algorithm != fmt.Sprint(p)) {
			return fmt.Errorf("head %d with node %+v and key %+v", p, got.Nodes[0], got.SigningKeys[0])
		}
		at = got.Mark
		if l := head(t, s); l.Head.Position > at.Position {
			seen, err := s.Tail(t.Context(), l.Head, 0)
			if err != nil || seen.At != l.Head {
				return fmt.Errorf("a view ended at %v, and a tail after it says %v, %w", l.Head, seen.At, err)
			}
		}
	}
	return nil
}

// tailStays holds tails while what they show is changed and undone.
func tailStays(t *testing.T, h Harness) {
	type held struct{ got, copy issuer.Tail }
	var all []held
	for n := range 50 {
		update(t, h.Store, atHead(countUp))
		got, err := h.Store.Tail(t.Context(), feed.Mark{}, some)
		if err != nil {
			t.Fatal(err)
		}
		c := got
		c.Records, c.Nodes, c.SigningKeys = slices.Clone(c.Records), slices.Clone(c.Nodes), slices.Clone(c.SigningKeys)
		all = append(all, held{got, c})
		h.Fail(faults[n%len(faults)]...)
		_, err = h.Store.Update(t.Context(), atHead(func(tx issuer.Tx, head uint64) error {
			return errors.Join(countUp(tx, head), appending("claim", "x", "y")(tx), map[bool]error{true: errRefused}[n%3 == 0])
		}))
		h.Fail()
		if err != nil && !errors.Is(err, errRefused) && !errors.Is(err, issuer.ErrUnknown) {
			t.Fatal(err)
		}
	}
	for n, h := range all {
		if d := cmp.Diff(h.copy, h.got); d != "" {
			t.Errorf("tail %d (-then +now):\n%s", n, d)
		}
	}
	check(t, h.Store)
}

func verifier(node string, number uint32) issuer.Verifier {
	return issuer.Verifier{Node: node, Number: number, Process: fmt.Sprint("process ", number), Name: "orders", Key: "key_1", Address: "192.0.2.9", Since: epoch}
}

// confirmation makes evidence with some outcomes.
func confirmation(node string, first, last uint64, outcomes int) issuer.Confirmation {
	c := issuer.Confirmation{Node: node, First: first, Last: last, Began: epoch, Took: 1234567 * time.Nanosecond, Confirmed: outcomes, Lost: 1, Left: 2}
	for n := range outcomes {
		c.Outcomes = append(c.Outcomes, issuer.Outcome{
			Verifier: ^uint32(0) - uint32(n*n), End: issuer.End(1 + n%3), After: time.Duration(outcomes-n) * 1234567 * time.Microsecond,
		})
	}
	return c
}

// evidenceStays puts evidence again, and evidence for a part of what has some.
func evidenceStays(t *testing.T, h Harness) {
	second := verifier("n1", 1)
	second.Name = "another"
	update(t, h.Store, func(tx issuer.Tx) error {
		return errors.Join(tx.PutVerifier(verifier("n1", 1)), tx.PutVerifier(second), tx.PutVerifier(verifier("n1", 7)), tx.PutVerifier(verifier("n2", 1)),
			tx.PutConfirmation(confirmation("n2", 5, 5, 1)), tx.PutConfirmation(confirmation("n1", 4, 6, 3)),
			tx.PutConfirmation(confirmation("n1", 1, 3, 0)), tx.PutConfirmation(confirmation("n1", 9, revset.MaxPosition-1, 0)))
	})
	for _, c := range [][2]uint64{{4, 6}, {6, 6}, {5, 5}, {3, 4}, {6, 7}, {1, 20}, {2, 2}, {8, 9}, {5, 100}, {100, 200}} {
		update(t, h.Store, func(tx issuer.Tx) error { return tx.PutConfirmation(confirmation("n1", c[0], c[1], 2)) })
	}
	n1 := func(c ...issuer.Confirmation) []issuer.Confirmation { return c }
	view(t, h.Store, func(r issuer.Reader) error {
		for position, want := range map[uint64][]issuer.Confirmation{
			0: nil, 1: n1(confirmation("n1", 1, 3, 0)), 3: n1(confirmation("n1", 1, 3, 0)), 4: n1(confirmation("n1", 4, 6, 3)),
			5: n1(confirmation("n1", 4, 6, 3), confirmation("n2", 5, 5, 1)), 6: n1(confirmation("n1", 4, 6, 3)), 7: nil, 8: nil,
			revset.MaxPosition - 1: n1(confirmation("n1", 9, revset.MaxPosition-1, 0)), revset.MaxPosition: nil,
		} {
			got, err := r.Confirmations(position)
			if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); err != nil || d != "" {
				t.Errorf("Confirmations of %d: %v (-want +got):\n%s", position, err, d)
			}
		}
		for _, numbers := range [][]uint32{{7, 2, 1, 7}, {1, 7}} {
			got, err := r.Verifiers("n1", numbers)
			want := []issuer.Verifier{verifier("n1", 1), verifier("n1", 7)}
			if d := cmp.Diff(want, got); err != nil || d != "" {
				t.Errorf("Verifiers %v: %v (-want +got):\n%s", numbers, err, d)
			}
		}
		if got, err := r.Verifiers("n1", nil); err != nil || len(got) != 0 {
			t.Errorf("Verifiers of no number: got %v, %v, want none", got, err)
		}
		return nil
	})
	check(t, h.Store)
}

func manyOutcomes(t *testing.T, h Harness) {
	want := confirmation("n1", 1, 1, issuer.MaxOutcomes)
	var numbers []uint32
	update(t, h.Store, func(tx issuer.Tx) error {
		for n := range uint32(issuer.MaxOutcomes) {
			if err := tx.PutVerifier(verifier("n1", 3*n)); err != nil {
				return err
			}
			numbers = append(numbers, 3*n)
		}
		return tx.PutConfirmation(want)
	})
	view(t, h.Store, func(r issuer.Reader) error {
		got, err := r.Confirmations(1)
		if d := cmp.Diff([]issuer.Confirmation{want}, got); err != nil || d != "" {
			t.Errorf("Confirmations: %v (-want +got):\n%s", err, d)
		}
		known, err := r.Verifiers("n1", numbers[:issuer.MaxOutcomes])
		if err != nil || len(known) != issuer.MaxOutcomes || known[1] != verifier("n1", 3) {
			t.Errorf("Verifiers: got %d of them, %v, want %d", len(known), err, issuer.MaxOutcomes)
		}
		return nil
	})
}
