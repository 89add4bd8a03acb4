package postgres

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// leftFor is how long the log is taken to be as it was left.
	leftFor = time.Second
	// leftWithin bounds how far the clock of a guess is ahead of the database's.
	leftWithin = 5 * time.Millisecond
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
	was, since := s.left, time.Since(s.left.asked)
	if !was.sure || since > leftFor || was.log.Head != s.remembered().mark || group[0].gate {
		return false, nil
	}
	c, err := s.acquire(context.Background())
	if err != nil {
		return false, err
	}
	defer c.end()
	u := s.newUnit(c, false)
	u.ledger, u.began, u.guessed = was.ledger, true, &was.ledger
	u.now = was.now.Add(since + time.Millisecond).UTC().Truncate(time.Millisecond) // it may have been truncated
	c.local = true
	for _, o := range group {
		if err := s.step(u, o); err != nil || o.err != nil || c.missed || u.wantsGate {
			return false, nil
		}
	}
	// Records tell what became of a commit whose answer was lost.
	if len(u.records) == 0 || u.recast {
		return false, nil
	}
	c.local, s.left.sure = false, false
	switch err := u.commit(); {
	case err == nil:
		s.leave(u, true)
		s.committed(u, group)
		return true, nil
	case refused(err):
		return false, nil
	default:
		return false, err
	}
}

// beginGuessed queues the beginning of a transaction that rests on a guess
// before what is queued. Writing the head locks it, as every update does first,
// and fails where the guess is wrong.
func (u *unit) beginGuessed() {
	asked := u.c.queue
	u.c.queue = nil
	for _, text := range slices.Concat(u.start, u.s.bounds) {
		u.queue(text)
	}
	l, was := u.log, u.guessed
	u.c.queue = append(u.c.queue, statement{
		query: `
			UPDATE quash.meta SET digest = $2, max_lifetime = $3, head = CASE
				WHEN (head, digest, pruned, pruned_digest, max_lifetime, epoch, catalog) = ($5, $6, $7, $8, $9, $10, $11)
					AND $12 = (SELECT id::text FROM quash.life) THEN $1::bigint END
			RETURNING pg_notify('` + channel + `', $4), clock_timestamp(), pg_current_xact_id()::text`,
		args: []any{
			int64(l.Head.Position), l.Head.Digest[:], int64(l.MaxLifetime), u.s.id,
			int64(was.log.Head.Position), was.log.Head.Digest[:], int64(was.log.Pruned.Position), was.log.Pruned.Digest[:],
			int64(was.log.MaxLifetime), int64(was.log.Epoch), was.version, was.life,
		},
		take: func(row pgx.Rows) error { return row.Scan(nil, &u.now, &u.xid) },
	})
	u.c.queue = append(u.c.queue, asked...)
}
