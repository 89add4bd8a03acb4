package quashtest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/jws"
	"github.com/quashdev/quash/internal/revlog"
	"github.com/quashdev/quash/internal/revset"
)

// source is a log in memory.
type source struct {
	changed chan struct{}

	mu    sync.Mutex // guards what follows
	view  view
	nodes []issuer.Node // of one issuer, there is one at most
}

// view is a log at one moment. Its slices only ever grow, so that a copy of it
// stays what it was.
type view struct {
	log     issuer.Log
	keys    []issuer.SigningKey
	records []revset.Record
	marks   []feed.Mark // one more than records: the first is that of the empty log
}

func newSource(key *jws.PublicKey) (*source, error) {
	public, err := json.Marshal(key)
	if err != nil {
		return nil, err
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	return &source{
		changed: make(chan struct{}, 1),
		view: view{
			log:   issuer.Log{ID: rand.Text(), Epoch: 1, HashSecret: secret, MaxLifetime: maxLifetime},
			keys:  []issuer.SigningKey{{ID: key.ID(), Algorithm: string(key.Algorithm()), Public: public, Created: time.Now()}},
			marks: make([]feed.Mark, 1),
		},
	}, nil
}

// append adds r to the log and returns its position.
func (s *source) append(r issuer.Revocation) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := &s.view
	v.log.Head = r.Seal(v.log)
	v.records = append(v.records, r.Record())
	v.marks = append(v.marks, v.log.Head)
	if at, found := slices.BinarySearch(v.log.Claims, r.Claim); !found {
		v.log.Claims = slices.Insert(slices.Clone(v.log.Claims), at, r.Claim)
	}
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return r.Position
}

func (s *source) head() uint64 { return s.now().log.Head.Position }

func (s *source) now() view {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view
}

func (s *source) View(_ context.Context, fn func(revlog.Reader) error) error { return fn(s.now()) }
func (s *source) Changed() <-chan struct{}                                   { return s.changed }

func (s *source) Tail(_ context.Context, after feed.Mark, limit int) (issuer.Tail, error) {
	s.mu.Lock()
	v, nodes := s.view, slices.Clone(s.nodes)
	s.mu.Unlock()
	t := issuer.Tail{Log: v.log, SigningKeys: v.keys, Nodes: nodes}
	if after.Position > v.log.Head.Position {
		return t, nil
	}
	t.At = v.marks[after.Position]
	var err error
	t.Records, t.Mark, err = v.Records(after.Position, limit)
	return t, err
}

func (s *source) Update(_ context.Context, fn func(revlog.Writer) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := writer{view: s.view, nodes: slices.Clone(s.nodes)}
	if err := fn(&w); err != nil {
		return err
	}
	s.nodes = w.nodes
	return nil
}

// writer keeps no evidence: a test sees what its verifiers do.
type writer struct {
	view
	nodes []issuer.Node
}

func (w *writer) Nodes() ([]issuer.Node, error)             { return w.nodes, nil }
func (w *writer) Drain() (bool, error)                      { return false, nil }
func (w *writer) PutVerifier(issuer.Verifier) error         { return nil }
func (w *writer) PutConfirmation(issuer.Confirmation) error { return nil }

func (w *writer) PutNode(n issuer.Node) error {
	if err := w.DeleteNode(n.ID); err != nil && !errors.Is(err, issuer.ErrNotFound) {
		return err
	}
	w.nodes = append(w.nodes, n)
	return nil
}

func (w *writer) DeleteNode(id string) error {
	i := slices.IndexFunc(w.nodes, func(n issuer.Node) bool { return n.ID == id })
	if i < 0 {
		return issuer.ErrNotFound
	}
	w.nodes = slices.Delete(w.nodes, i, i+1)
	return nil
}

func (v view) Now() time.Time                            { return time.Now() }
func (v view) Log() (issuer.Log, error)                  { return v.log, nil }
func (v view) SigningKeys() ([]issuer.SigningKey, error) { return v.keys, nil }
func (v view) MarkAt(position uint64) (feed.Mark, error) { return v.marks[position], nil }
func (v view) Live(yield func(revset.Record) error) error {
	for _, r := range v.records {
		if err := yield(r); err != nil {
			return err
		}
	}
	return nil
}

func (v view) Records(after uint64, limit int) ([]revset.Record, feed.Mark, error) {
	end := min(after+uint64(limit), uint64(len(v.records)))
	return slices.Clone(v.records[after:end]), v.marks[end], nil
}
