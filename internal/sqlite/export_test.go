package sqlite

import (
	"context"
	"errors"
	"sync"

	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/storetest"
)

var errInjected = errors.New("injected")

// Faulty lets the commits of s, which must be new, fail on demand: those that
// follow a call of the returned function, one for each fault.
func Faulty(s *Store) func(...storetest.Fault) {
	var mu sync.Mutex
	var faults []storetest.Fault
	var last storetest.Fault
	s.commit = func(c *conn) error {
		mu.Lock()
		defer mu.Unlock()
		if len(faults) == 0 {
			return c.commit()
		}
		last, faults = faults[0], faults[1:]
		if last.Persisted {
			if err := c.commit(); err != nil {
				return err
			}
		}
		return errInjected
	}
	s.look = func(ctx context.Context) (uint64, error) {
		if last.Unreadable {
			return 0, errInjected
		}
		return s.file.group(ctx)
	}
	return func(next ...storetest.Fault) {
		mu.Lock()
		defer mu.Unlock()
		faults = next
	}
}

// FillDisk makes the database that in writes to as large as it may become,
// until the writer connects anew.
func FillDisk(in issuer.Tx) error {
	_, err := in.(*tx).c.exec(`PRAGMA max_page_count = 1`)
	return err
}

// BreakRollback has the view that in reads fail to end its transaction.
func BreakRollback(in issuer.Reader) error {
	s, err := in.(*reader).c.prepare("ROLLBACK")
	if err != nil {
		return err
	}
	return s.Close()
}

// MaxRecent is how many records are kept in memory for Tail, and up to twice as
// many.
const MaxRecent = maxRecent

// InMemoryFrom returns the first position after which Tail reads no file.
func InMemoryFrom(s *Store) uint64 { return s.published.Load().recent.before.Position }
