package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
)

var beginTail = statement{query: `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`}

// Tail implements [issuer.Store]. It takes one round trip, and another where
// claim names, issuers or signing keys are not those that were read last.
func (s *Store) Tail(ctx context.Context, after feed.Mark, limit int) (issuer.Tail, error) {
	var tries tries
	for {
		t, err := s.tail(ctx, after.Position, limit)
		if !again(err) || !tries.again() {
			return t, err
		}
	}
}

func (s *Store) tail(ctx context.Context, after uint64, limit int) (t issuer.Tail, err error) {
	c, err := s.acquire(ctx)
	if err != nil {
		return t, err
	}
	defer c.end()
	known := s.catalogs.Load()
	if known != nil {
		if t, version, err := s.ask(c, after, limit, nil); err != nil || version == known.version {
			t.complete(known)
			return t.Tail, err
		}
	}
	read := &catalog{}
	full, version, err := s.ask(c, after, limit, read)
	if err != nil {
		return t, err
	}
	read.version = version
	s.catalogs.Store(read)
	full.complete(read)
	return full.Tail, nil
}

// tail is what one round trip reads of an [issuer.Tail].
type tail struct{ issuer.Tail }

func (t *tail) complete(c *catalog) {
	t.Log.ID, t.Log.HashSecret, t.Log.Claims, t.Log.Issuers, t.SigningKeys = c.id, c.secret, c.claims, c.issuers, c.keys
}

// ask reads the tail without the catalog, or with it where read is given.
func (s *Store) ask(c *conn, after uint64, limit int, read *catalog) (t tail, version int64, err error) {
	l, before := ledger{}, s.remembered()
	found := span{after: after, limit: max(limit, 0)}
	records := found.statement()
	records.take = func(row pgx.Rows) error {
		if after < l.log.Pruned.Position {
			return nil
		}
		return found.take(row)
	}
	list := []statement{beginTail, {
		query: viewHead, args: []any{int64(before.mark.Position)},
		take: func(row pgx.Rows) error { return l.scan(row, before) },
	}, {query: selectNodes, take: func(row pgx.Rows) error {
		n, err := scanNode(row)
		t.Nodes = append(t.Nodes, n)
		return err
	}}, records}
	if read != nil {
		list = append(list, read.statements()...)
	}
	if err := c.ask(append(list, statement{query: commit})...); err != nil {
		return tail{}, 0, fmt.Errorf("read the end of the log: %w", err)
	}
	if l.forked {
		s.fork(before)
		return tail{}, 0, issuer.ErrForked
	}
	s.remember(l.log)
	t.Log, t.Requested = l.log, l.requested
	if after < l.log.Pruned.Position || after > l.log.Head.Position {
		return t, l.version, nil
	}
	if err := found.settle(l.log); err != nil {
		return tail{}, 0, fmt.Errorf("read the end of the log: %w", err)
	}
	t.At, t.Records, t.Mark = found.at, found.records, found.mark
	return t, l.version, nil
}
