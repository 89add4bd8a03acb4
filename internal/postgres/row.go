package postgres

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/quashdev/quash/internal/feed"
)

// stamp is a time as tables hold it: Unix milliseconds, 0 for none.
func stamp(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// instant is the time of a column that [stamp] wrote.
func instant(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// blob is raw JSON as tables hold it: NULL where there is none.
func blob(j json.RawMessage) []byte { return []byte(j) }

// null is a string as tables hold it where many rows may have none.
func null(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// hash is a hash as tables hold it: NULL where it is zero.
func hash(h [sha256.Size]byte) []byte {
	if h == [sha256.Size]byte{} {
		return nil
	}
	return h[:]
}

// mark puts together what two columns hold.
func mark(position int64, digest []byte) feed.Mark {
	m := feed.Mark{Position: uint64(position)}
	copy(m.Digest[:], digest)
	return m
}

// unnest is the query whose rows are those of arrays side by side, one for each
// type. In a select list they are not copied first, as they are after FROM.
func unnest(types ...string) string {
	columns := make([]string, len(types))
	for i, t := range types {
		columns[i] = fmt.Sprintf("unnest($%d::%s[])", i+1, t)
	}
	return "SELECT " + strings.Join(columns, ", ")
}

func text(row pgx.Rows) (s string, err error) {
	err = row.Scan(&s)
	return s, err
}
