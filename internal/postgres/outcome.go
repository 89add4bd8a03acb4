package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
)

const (
	// lookTimeout bounds how long it is asked what became of a commit.
	lookTimeout  = 5 * time.Second
	lookInterval = 20 * time.Millisecond
)

// fate is what became of a transaction whose commit failed.
type fate int

const (
	running fate = iota // or it is waiting for a standby
	stands
	absent
	obscure
)

// outcome finds out what became of a commit that failed with cause, or that
// stands here but perhaps on no standby. The answer is nil when it stands
// wherever it has to, errAgain when it is proven absent, else ErrUnknown.
func (s *Store) outcome(u *unit, cause error) error {
	s.log.Error("a commit failed; looking whether it stands", "error", cause)
	ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
	defer cancel()
	for {
		found, err := s.look(ctx, u)
		switch {
		case found == stands && err == nil:
			return nil
		case found == absent && err == nil:
			return fmt.Errorf("%w: commit: %w", errAgain, cause)
		case found == obscure && err == nil:
			return fmt.Errorf("%w: commit: %w", issuer.ErrUnknown, cause)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: commit: %w; look: %w", issuer.ErrUnknown, cause, errors.Join(err, ctx.Err()))
		case <-time.After(lookInterval):
		}
	}
}

// find looks once. It writes, so that where commits wait for a standby the
// answer does, and then all before it has been replicated too.
func (s *Store) find(ctx context.Context, u *unit) (found fate, err error) {
	c, err := pgx.ConnectConfig(ctx, s.pool.Config().ConnConfig)
	if err != nil {
		return running, err
	}
	defer c.Close(context.WithoutCancel(ctx))
	err = pgx.BeginTxFunc(ctx, c, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) (err error) {
		if _, err := tx.Exec(ctx, `UPDATE quash.barrier SET n = n + 1`); err != nil {
			return err
		}
		if u.xid == "" { // it may be on its way still: let it find another log than it rests on
			if _, err := tx.Exec(ctx, `UPDATE quash.meta SET catalog = $1`, rand.Int64()); err != nil {
				return err
			}
		}
		found, err = u.fate(ctx, tx)
		return err
	})
	if _, doubtful := s.doubts.LoadAndDelete(c.PgConn()); doubtful && err == nil {
		err = errors.New("the wait for a standby was cut short")
	}
	return found, err
}

// fate reads what became of u's transaction. Its number says so on the server
// on which it ran, as long as that has lost nothing: numbers are given again
// after a crash. After that the log is asked, where the transaction appended.
func (u *unit) fate(ctx context.Context, tx pgx.Tx) (fate, error) {
	var life, status *string
	if err := tx.QueryRow(ctx, `SELECT (SELECT id::text FROM quash.life)`).Scan(&life); err != nil {
		return running, err
	}
	if u.xid == "" || u.life == "" || life == nil || *life != u.life {
		return u.inLog(ctx, tx)
	}
	err := tx.QueryRow(ctx, `SELECT pg_xact_status($1::text::xid8)`, u.xid).Scan(&status)
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == "22023" { // the number was not given yet
		return u.inLog(ctx, tx)
	}
	if err != nil {
		return running, err
	}
	if status == nil {
		return u.inLog(ctx, tx)
	}
	return map[string]fate{"in progress": running, "committed": stands, "aborted": absent}[*status], nil
}

// inLog looks for the last record that the transaction appended.
func (u *unit) inLog(ctx context.Context, tx pgx.Tx) (fate, error) {
	head := u.log.Head
	if len(u.records) == 0 {
		return obscure, nil
	}
	var digest []byte
	err := tx.QueryRow(ctx, `SELECT `+digestAt+` FROM quash.meta`, int64(head.Position)).Scan(&digest)
	switch {
	case err != nil:
		return running, err
	case digest != nil && (feed.Mark{Position: head.Position, Digest: feed.Digest(digest)}) == head:
		return stands, nil
	}
	return absent, nil
}
