package revlog

import (
	"context"
	"time"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revset"
)

// Source is where the log is kept. Its methods may be called concurrently, and
// promise what those of [issuer.Store] do.
type Source interface {
	// View runs fn on one consistent snapshot, perhaps more than once, and
	// returns its error.
	View(ctx context.Context, fn func(Reader) error) error
	// Tail returns the log as it stands and at most limit records after a
	// mark, all of one snapshot that has every commit that ended before.
	Tail(ctx context.Context, after feed.Mark, limit int) (issuer.Tail, error)
	// Update runs fn in a transaction, perhaps more than once. One that
	// returns nil is durable.
	Update(ctx context.Context, fn func(Writer) error) error
	// Changed receives after changes of the log, the claim names or the
	// signing keys. It is a hint: a value may stand for several changes, or
	// for none, and may be lost.
	Changed() <-chan struct{}
}

// Reader reads the log. It is the part of [issuer.Reader] that the feed needs.
type Reader interface {
	Now() time.Time
	Log() (issuer.Log, error)
	Records(after uint64, limit int) ([]revset.Record, feed.Mark, error)
	MarkAt(position uint64) (feed.Mark, error)
	Live(yield func(revset.Record) error) error
	SigningKeys() ([]issuer.SigningKey, error)
}

// Writer writes what a node leaves for others to read: its row and its
// evidence. It is the part of [issuer.Tx] that this needs.
type Writer interface {
	Log() (issuer.Log, error)
	Nodes() ([]issuer.Node, error)
	PutNode(issuer.Node) error
	DeleteNode(id string) error
	PutVerifier(issuer.Verifier) error
	PutConfirmation(issuer.Confirmation) error
	// Drain makes revocations of what the store's outbox asks for, perhaps not
	// of all of it at once, and reports whether some is left.
	Drain() (left bool, err error)
}

// FromStore returns s as a Source. Drain is [issuer.Issuer.Drain]. Nil: nothing
// is drained, and as long as requests wait, leases end.
func FromStore(s issuer.Store, drain func(issuer.Tx) (left bool, err error)) Source {
	if drain == nil {
		drain = issuer.Tx.Requested
	}
	return storeSource{s, drain}
}

type storeSource struct {
	issuer.Store
	drain func(issuer.Tx) (left bool, err error)
}

type storeWriter struct {
	issuer.Tx
	drain func(issuer.Tx) (left bool, err error)
}

func (w storeWriter) Drain() (left bool, err error) { return w.drain(w.Tx) }

func (s storeSource) View(ctx context.Context, fn func(Reader) error) error {
	return s.Store.View(ctx, func(r issuer.Reader) error { return fn(r) })
}

func (s storeSource) Update(ctx context.Context, fn func(Writer) error) error {
	_, err := s.Store.Update(ctx, func(tx issuer.Tx) error { return fn(storeWriter{tx, s.drain}) })
	return err
}
