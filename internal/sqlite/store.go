// Package sqlite keeps an [issuer.Store] in one SQLite file, for one node.
//
// One goroutine writes. It takes as many waiting transactions as there are,
// at most 64, runs them in one database transaction, and answers them after its
// one commit, so that one flush carries them all. Where one of them wrote and
// failed, all are rolled back, and run again in three commits: those before it,
// itself, and those behind it.
// Readers have connections of their own and see the snapshot of the last
// commit. The file is in write-ahead-log mode with synchronous=FULL: what was
// answered with success has been flushed.
//
// No other process may write the file while a [Store] has it open; a second
// one refuses to start.
package sqlite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quashdev/quash/internal/issuer"
)

const (
	maxGroup   = 64  // transactions that one commit carries
	maxQueue   = 256 // transactions that wait; more block their callers
	maxReaders = 4   // views that run at the same time; more wait
)

var errClosed = errors.New("sqlite: the store is closed")

// Config says where the data is.
type Config struct {
	// Path of the database file, which is created when there is none. Beside
	// it stand files with the endings -wal, -shm and .lock; they belong to it
	// and must be on the same local disk.
	//
	// ":memory:" is a store of its own, for tests: it lasts until Close and
	// does not flush.
	Path string
	// Logger receives what only an operator can mend. Nil: nobody does.
	Logger *slog.Logger
	// Committed, if set, is told of each commit how long its group of
	// transactions took, the flush included, and how many they were. The
	// writer waits for it.
	Committed func(took time.Duration, transactions int)
}

// Store is an [issuer.Store]. It is made by [Open].
type Store struct {
	log     *slog.Logger
	file    file
	queue   chan *op
	readers chan *conn // nil: one that failed, to be opened anew
	changed chan struct{}
	written chan struct{} // closed when the writer has ended
	// published is what the last commit left; nil where it has to be read.
	published atomic.Pointer[ledger]

	closing sync.RWMutex // held for writing while closed is set
	closed  bool

	// Only the writer touches these, once it runs.
	writer *conn  // nil after a failed commit
	state  ledger // what writer's last commit left
	commit func(*conn) error
	look   func(context.Context) (uint64, error)
	told   func(time.Duration, int)
}

var _ issuer.Store = (*Store)(nil)

// Open opens the store and brings its tables to the current version; ctx
// bounds the opening only. The caller must close the store.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	f, err := openFile(ctx, cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", cfg.Path, err)
	}
	s := &Store{
		log:     cfg.Logger,
		file:    f,
		queue:   make(chan *op, maxQueue),
		readers: make(chan *conn, maxReaders),
		changed: make(chan struct{}, 1),
		written: make(chan struct{}),
		commit:  (*conn).commit,
		look:    f.group,
		told:    cfg.Committed,
	}
	if s.told == nil {
		s.told = func(time.Duration, int) {}
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.connect(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", cfg.Path, err), s.disconnect())
	}
	go s.write()
	return s, nil
}

func (s *Store) connect(ctx context.Context) (err error) {
	if err := s.reconnect(ctx); err != nil {
		return err
	}
	for range maxReaders {
		c, err := connect(ctx, s.file.readers)
		if err != nil {
			return err
		}
		s.readers <- c
	}
	return nil
}

// Close waits for the transactions that have been accepted and for running
// views, then releases the file. Later calls fail; closing again does nothing.
func (s *Store) Close() error {
	s.closing.Lock()
	already := s.closed
	s.closed = true
	s.closing.Unlock()
	if already {
		return nil
	}
	close(s.queue)
	<-s.written
	s.published.Store(nil)
	for n := range maxReaders {
		c := <-s.readers
		if n == maxReaders-1 {
			close(s.readers)
		}
		if c != nil {
			c.close()
		}
	}
	return s.disconnect()
}

func (s *Store) disconnect() error {
	if s.writer != nil {
		s.writer.close()
	}
	return s.file.close()
}

// View implements [issuer.Store]. A panic of fn is the caller's, after the
// transaction has ended.
func (s *Store) View(ctx context.Context, fn func(issuer.Reader) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case c, open := <-s.readers:
		if !open {
			return errClosed
		}
		defer func() { s.readers <- c }()
		if c == nil {
			var err error
			if c, err = connect(ctx, s.file.readers); err != nil {
				return err
			}
		}
		defer func() {
			if c.rollback() != nil {
				c.close()
				c = nil
			}
		}()
		return view(c, fn)
	}
}

func view(c *conn, fn func(issuer.Reader) error) error {
	if err := c.begin("BEGIN"); err != nil {
		return fmt.Errorf("begin view: %w", err)
	}
	err := fn(&reader{c: c, now: clock()})
	return cmp.Or(err, c.failed)
}

// Issue implements [issuer.Store]. It runs among the updates, so nothing
// changes beside it.
func (s *Store) Issue(ctx context.Context, fn func(issuer.Tx) error) error {
	_, err := s.do(ctx, func(t *tx) error {
		t.issuing = true
		return fn(t)
	})
	return err
}

// Update implements [issuer.Store].
func (s *Store) Update(ctx context.Context, fn func(issuer.Tx) error) (issuer.Commit, error) {
	return s.do(ctx, func(t *tx) error { return fn(t) })
}

// Prune implements [issuer.Store].
func (s *Store) Prune(ctx context.Context, now time.Time, idle time.Duration, limit int) (records, sessions int, err error) {
	_, err = s.do(ctx, func(t *tx) (err error) {
		if records, err = t.pruneRecords(now, limit); err != nil {
			return fmt.Errorf("prune records: %w", err)
		}
		if sessions, err = t.pruneSessions(now, idle, limit); err != nil {
			return fmt.Errorf("prune sessions: %w", err)
		}
		return nil
	})
	for full := true; err == nil && full; {
		_, err = s.do(ctx, func(t *tx) error {
			n, err := t.pruneAssertions(now, limit)
			full = n > 0 && n == limit
			return err
		})
	}
	if err != nil {
		return 0, 0, err
	}
	return records, sessions, nil
}

// Changed implements [issuer.Store].
func (s *Store) Changed() <-chan struct{} { return s.changed }

// clock is the database's clock: the node's, in what the tables can hold.
func clock() time.Time { return time.UnixMilli(time.Now().UnixMilli()).UTC() }
