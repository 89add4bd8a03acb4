package sqlite

import (
	"crypto/sha256"
	"encoding/json"
	"time"

	"github.com/quashdev/quash/internal/issuer"
)

// reader implements [issuer.Reader] in one transaction.
type reader struct {
	c   *conn
	now time.Time
	log *issuer.Log // what Log answers; nil until it was read
	// ledger has what the transaction appended and did not write yet; nil in a view.
	ledger *ledger
}

// Now implements [issuer.Reader].
func (r *reader) Now() time.Time { return r.now }

// flush writes what reading the log or the audit has to find.
func (r *reader) flush() error {
	if r.ledger == nil {
		return nil
	}
	return r.ledger.unwritten.flush(r.c)
}

// tx implements [issuer.Tx] for one op of the writer.
type tx struct {
	reader
	issuing     bool
	first, last uint64 // positions appended
}

// stamp is a time as tables hold it: Unix milliseconds, 0 for none.
func stamp(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// instant is a column that [stamp] wrote.
type instant int64

func (i instant) time() time.Time {
	if i == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(i)).UTC()
}

// blob is raw JSON as tables hold it: NULL where there is none.
func blob(j json.RawMessage) any {
	if j == nil {
		return nil
	}
	return []byte(j)
}

// null is a string as tables hold it where many rows may have none.
func null(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// hash is a hash as tables hold it: NULL where it is zero.
func hash(h [sha256.Size]byte) any {
	if h == [sha256.Size]byte{} {
		return nil
	}
	return h[:]
}

func text(row scanner) (s string, err error) {
	err = row.Scan(&s)
	return s, err
}
