package revlog

import (
	"context"
	"time"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revset"
)

// Source is where the log is kept. Its methods may be called concurrently.
type Source interface {
	// View runs fn on one consistent snapshot, perhaps more than once, and
	// returns its error.
	View(ctx context.Context, fn func(Reader) error) error
	// Changed receives after changes of the log, the claim names or the
	// signing keys. It is a hint: a value may stand for several changes, or
	// for none, and may be lost.
	Changed() <-chan struct{}
}

// Reader reads the log. It is the part of [issuer.Reader] that the feed needs
// and promises the same.
type Reader interface {
	Now() time.Time
	Log() (issuer.Log, error)
	Records(after uint64, limit int) ([]revset.Record, feed.Mark, error)
	MarkAt(position uint64) (feed.Mark, error)
	Live(yield func(revset.Record) error) error
	SigningKeys() ([]issuer.SigningKey, error)
}

// FromStore returns s as a Source.
func FromStore(s issuer.Store) Source { return storeSource{s} }

type storeSource struct{ store issuer.Store }

func (s storeSource) View(ctx context.Context, fn func(Reader) error) error {
	return s.store.View(ctx, func(r issuer.Reader) error { return fn(r) })
}

func (s storeSource) Changed() <-chan struct{} { return s.store.Changed() }
