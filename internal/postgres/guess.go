package postgres

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/quashdev/quash/internal/issuer"
)

const (
	// leftFor is how long the log is taken to be as it was left.
	leftFor = time.Second
	// leftWithin bounds how far the clock of a guess is ahead of the database's.
	leftWithin = 5 * time.Millisecond
	// timeWithin is how far that may be off when the head is locked.
	timeWithin = 20 * time.Millisecond
)

// left is the log as the latest group of updates of this store left it.
type left struct {
	ledger           // its log, version and life
	asked  time.Time // when the time of the ledger was asked for
	sure   bool      // that group found the log as the one before had left it
}

// leave notes how a group left the log; sure says that it found it as the group
// before had left it.
func (s *Store) leave(u *unit, sure bool) {
	s.left = left{
		ledger: ledger{now: u.now, log: u.log, version: u.version, life: u.life},
		asked:  u.asked, sure: sure && u.took < leftWithin,
	}
}

// guess commits a group that reads nothing in one round trip, on the log as the
// group before left it. The database refuses that where the log is not so any
// more. It reports whether the group is committed; if not, and without an error,
// nothing has changed, and it must begin in the ordinary way.
func (s *Store) guess(group []*op) (done bool, err error) {
	was, seen := s.left, s.remembered()
	if !was.sure || time.Since(was.asked) > leftFor || seen.forked || seen.mark != was.log.Head || group[0].gate {
		return false, nil
	}
	c, err := s.acquire(context.Background())
	if err != nil {
		return false, err
	}
	defer c.end()
	u := s.newUnit(c, false)
	u.ledger, u.began, u.guessed = was.ledger, true, &was.ledger
	since := time.Since(was.asked) + time.Millisecond // to which the time may have been truncated
	u.now = was.now.Add(since).UTC().Truncate(time.Millisecond)
	c.local = true
	for _, o := range group {
		t := u.newTx()
		if o.err = call(o.fn, t); o.err != nil || c.missed || u.wantsGate {
			return false, nil // what it is will be found out in the ordinary way
		}
		t.keep()
		o.commit = issuer.Commit{First: t.first, Last: t.last}
	}
	// Records tell what became of a commit whose answer was lost.
	if len(u.records) == 0 || u.recast {
		return false, nil
	}
	c.local, s.left.sure = false, false
	u.asked = time.Now()
	err = u.commit()
	u.took = time.Since(u.asked)
	switch {
	case err == nil:
		s.leave(u, u.xid != "") // else who looked what became of it changed the log
		s.committed(u, group)
		return true, nil
	case wrong(err):
		return false, nil
	default:
		return false, err
	}
}

// wrong reports whether the database refused what a guess led to: a head that is
// NULL, or rows that are there.
func wrong(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && strings.HasPrefix(e.Code, "23")
}

// beginGuessed queues the beginning of a transaction that rests on a guess
// before what is queued. Every update locks the head first. This one writes
// it too, which fails where the guess is wrong, or its time, as after a machine
// slept, or where it would have to wait for the lock.
func (u *unit) beginGuessed() {
	queued := u.c.queue
	u.c.queue = nil
	for _, text := range slices.Concat(u.start, u.s.bounds) {
		u.queue(text)
	}
	l, was := u.log, u.guessed
	u.c.queue = append(u.c.queue, statement{
		query: `
			WITH locked AS (SELECT FROM quash.meta FOR NO KEY UPDATE SKIP LOCKED)
			UPDATE quash.meta SET digest = $2, max_lifetime = $3, head = CASE
				WHEN EXISTS (SELECT FROM locked) AND (head, digest, pruned, pruned_digest, max_lifetime, epoch, catalog) = ($5, $6, $7, $8, $9, $10, $11)
					AND $12 = (SELECT id::text FROM quash.life)
					AND clock_timestamp() BETWEEN $13::timestamptz - $14::interval AND $13::timestamptz + $14::interval THEN $1::bigint END
			RETURNING pg_notify('` + channel + `', $4), clock_timestamp(), pg_current_xact_id()::text`,
		args: []any{
			int64(l.Head.Position), l.Head.Digest[:], int64(l.MaxLifetime), u.s.id,
			int64(was.log.Head.Position), was.log.Head.Digest[:], int64(was.log.Pruned.Position), was.log.Pruned.Digest[:],
			int64(was.log.MaxLifetime), int64(was.log.Epoch), was.version, was.life, u.now, timeWithin,
		},
		take: func(row pgx.Rows) error { return row.Scan(nil, &u.now, &u.xid) },
	})
	u.c.queue = append(u.c.queue, queued...)
}
