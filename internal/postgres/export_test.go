package postgres

import (
	"context"
	"errors"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/quashdev/quash/internal/storetest"
)

var errInjected = errors.New("injected")

// Faulty lets the commits of s, which must be new, fail on demand: those that
// follow a call of the returned function, one for each fault. The connection
// breaks before the commit is sent, or after it was answered.
func Faulty(s *Store) func(...storetest.Fault) {
	var mu sync.Mutex
	var faults []storetest.Fault
	var last storetest.Fault
	next := func() (f storetest.Fault, fails bool) {
		mu.Lock()
		defer mu.Unlock()
		if len(faults) == 0 {
			return f, false
		}
		last, faults = faults[0], faults[1:]
		return last, true
	}
	s.commit = func(c *conn) error {
		fault, fails := next()
		if !fails {
			return c.flush()
		}
		if fault.Persisted {
			if err := c.flush(); err != nil {
				return err
			}
		}
		_ = c.c.Conn().PgConn().Conn().Close()
		if !fault.Persisted {
			return c.flush()
		}
		c.failed = judge(errInjected)
		return c.failed
	}
	s.look = func(ctx context.Context, u *unit) (fate, error) {
		mu.Lock()
		unreadable := last.Unreadable
		mu.Unlock()
		if unreadable {
			return obscure, nil
		}
		return s.find(ctx, u)
	}
	return func(next ...storetest.Fault) {
		mu.Lock()
		defer mu.Unlock()
		faults = next
	}
}

// Interrupt lets the next commit of s break off, before it is sent or after it
// was answered, and calls fn before anybody looks what became of it.
func Interrupt(s *Store, persisted bool, fn func()) {
	s.commit = func(c *conn) error {
		s.commit = (*conn).flush
		if persisted {
			if err := c.flush(); err != nil {
				return err
			}
		}
		fn()
		_ = c.c.Conn().PgConn().Conn().Close()
		if !persisted {
			return c.flush()
		}
		c.failed = judge(errInjected)
		return c.failed
	}
}

// Sure reports whether the next group of s that reads nothing is written on a
// guess. No update may be running.
func Sure(s *Store) bool { return s.left.sure }

// Fork lets s know that the database contradicted it.
func Fork(s *Store) { s.fork(s.remembered()) }

// Late lets the next commit of s, which must be a guess, seem lost, and sends it
// only after it was asked what became of it. The returned function says how that
// ended.
func Late(s *Store) func() error {
	var ended error
	s.commit = func(c *conn) error {
		s.commit = (*conn).flush
		return judge(errInjected)
	}
	s.look = func(ctx context.Context, u *unit) (fate, error) {
		s.look = s.find
		found, err := s.find(ctx, u)
		ended = u.c.flush()
		return found, err
	}
	return func() error { return ended }
}

// MigrateTo makes the tables of an older version.
func MigrateTo(ctx context.Context, c *pgx.Conn, version int) error {
	all, err := loadMigrations(migrations)
	if err != nil {
		return err
	}
	return migrate(ctx, c, all[:version])
}
