package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/quashdev/quash/internal/issuer"
)

// Bounds of one transaction. The server keeps all but the last, which is for a
// server that is not heard any more.
const (
	lockTimeout = 5 * time.Second  // to wait for a lock
	readTimeout = 30 * time.Second // of one statement
	tripTimeout = 35 * time.Second // of one round trip
	// shortTripTimeout is of the first and the last round trip of a transaction
	// that writes. They wait for locks and for the disk, and touch few rows, so
	// a connection that is silent for as long is lost.
	shortTripTimeout = 15 * time.Second
	// idleTimeout is between two statements. A node that is stopped while it
	// holds the head keeps every other from renewing for as long.
	idleTimeout = 3 * time.Second
	// viewIdleTimeout is the same of a view, which holds up nobody: a backup
	// writes what it has read to whoever asked for it, at their pace.
	viewIdleTimeout = 10 * time.Minute
)

// bounds are those that the server keeps, by the names of its settings.
var bounds = map[string]time.Duration{
	"lock_timeout":                        lockTimeout,
	"statement_timeout":                   readTimeout,
	"idle_in_transaction_session_timeout": idleTimeout,
}

// conn is one connection with the statements that wait to be sent, all of one
// transaction. They go together with the next one that has an answer, so that
// what asks nothing costs no round trip. One goroutine at a time may use it.
type conn struct {
	c     *pgxpool.Conn
	queue []statement
	trips uint64 // made since begin
	// failed is the first failure of the database since begin. The transaction
	// is lost then, so there is no statement after it.
	failed error
	// emit, if set, queues what its owner holds back, before each round trip.
	emit func()
	// rehearsing lets everything that needs a round trip fail with
	// errRehearsal, and everything else have no effect. Where local is set
	// instead, what is written counts, and missed says that something failed.
	rehearsing, local, missed bool
	patience                  time.Duration // with the next round trip; 0: tripTimeout
}

// statement is one that waits to be sent.
type statement struct {
	query string
	args  []any
	take  func(pgx.Rows) error // called for each row
	rows  *int                 // where to put how many rows it changed
}

// errRehearsal says that a function cannot go on without a round trip.
var errRehearsal = errors.New("only rehearsed")

// errAgain is of failures after which the transaction is proven to have had no
// effect, and may run again.
var errAgain = errors.New("the transaction was rolled back")

// again reports whether a transaction that failed with err may run again.
func again(err error) bool { return errors.Is(err, errAgain) && !errors.Is(err, issuer.ErrUnknown) }

// errRolledBack says that the server answered a commit so.
var errRolledBack = fmt.Errorf("%w instead of committed", errAgain)

// write queues a statement that answers nothing.
func (c *conn) write(query string, args ...any) error {
	if c.failed != nil || c.rehearsing {
		return c.failed
	}
	if !holdable(args) {
		return errText
	}
	c.queue = append(c.queue, statement{query: query, args: args})
	return nil
}

// exec sends a statement that writes and returns how many rows it changed.
func (c *conn) exec(query string, args ...any) (rows int, err error) {
	if !holdable(args) {
		return 0, errText
	}
	return rows, c.ask(statement{query: query, args: args, rows: &rows})
}

// each sends a query and calls fn for each of its rows.
func (c *conn) each(fn func(pgx.Rows) error, query string, args ...any) error {
	if !holdable(args) {
		return nil // no row has what none can hold
	}
	return c.ask(statement{query: query, args: args, take: fn})
}

func (c *conn) ask(list ...statement) error {
	if c.rehearsing || c.local {
		c.missed = true
		return errRehearsal
	}
	if c.failed != nil {
		return c.failed
	}
	if c.emit != nil {
		c.emit()
	}
	c.queue = append(c.queue, list...)
	return c.flush()
}

// flush sends what is queued and takes the answers, in one round trip.
func (c *conn) flush() error {
	ctx, cancel := context.WithTimeout(context.Background(), cmp.Or(c.patience, tripTimeout))
	defer cancel()
	c.patience = 0
	var b pgx.Batch
	for _, s := range c.queue {
		b.Queue(s.query, s.args...)
	}
	results := c.c.SendBatch(ctx, &b)
	var taken error
	var err error
	for _, s := range c.queue {
		var fault error
		if fault, err = s.answer(results); err != nil {
			break
		}
		if taken == nil {
			taken = fault
		}
	}
	if fault := results.Close(); err == nil {
		err = fault
	}
	clear(c.queue)
	c.queue, c.trips = c.queue[:0], c.trips+1
	if err != nil {
		c.failed = judge(err)
		return c.failed
	}
	return taken
}

// answer takes the answer to s. The first error is that of take, the second
// the database's.
func (s statement) answer(results pgx.BatchResults) (taken, err error) {
	if s.take == nil {
		tag, err := results.Exec()
		if err == nil && s.rows != nil {
			*s.rows = int(tag.RowsAffected())
		}
		if err == nil && s.query == commit && tag.String() != commit {
			err = errRolledBack
		}
		return nil, err
	}
	rows, err := results.Query()
	if err != nil {
		return nil, err
	}
	for taken == nil && rows.Next() {
		taken = s.take(rows)
	}
	rows.Close()
	return taken, rows.Err()
}

const (
	commit   = "COMMIT"
	rollback = "ROLLBACK"
)

// end rolls back what is left of the transaction and gives the connection back.
// One that failed, or cannot be rolled back, is closed.
func (c *conn) end() {
	if c.c == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), idleTimeout)
	defer cancel()
	switch {
	case c.failed != nil && !refused(c.failed) && !errors.Is(c.failed, issuer.ErrForked):
		_ = c.c.Conn().Close(ctx)
	case c.c.Conn().PgConn().TxStatus() != 'I':
		_, _ = c.c.Exec(ctx, rollback)
	}
	c.c.Release()
	c.c = nil
}

// errText is the answer to text that PostgreSQL cannot hold.
var errText = errors.New("postgres: text must be UTF-8 without the character U+0000; write it otherwise")

// holdable reports whether PostgreSQL can hold the text among args. It refuses
// the statement that has other text, and the transaction with it.
func holdable(args []any) bool {
	return !slices.ContainsFunc(args, func(a any) bool {
		switch a := a.(type) {
		case string:
			return !plain(a)
		case []string:
			return slices.ContainsFunc(a, func(s string) bool { return !plain(s) })
		}
		return false
	})
}

func plain(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// lost says that the connection broke. A transaction whose end had not been sent
// was rolled back then, so it is errAgain; of a commit it proves nothing.
type lost struct{ error }

func (l lost) Error() string        { return fmt.Sprintf("the connection to PostgreSQL broke: %v", l.error) }
func (l lost) Is(target error) bool { return target == errAgain }
func (l lost) Unwrap() error        { return l.error }

// judge names the errors that callers know.
func judge(err error) error {
	if errors.Is(err, errRolledBack) {
		return err
	}
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return lost{err}
	}
	switch e.Code {
	case "23505": // unique_violation
		return fmt.Errorf("%w: %w", issuer.ErrExists, err)
	case "23503": // foreign_key_violation
		return fmt.Errorf("%w: %w", issuer.ErrNotFound, err)
	case "40001", "40P01": // serialization_failure, deadlock_detected
		return fmt.Errorf("%w: %w", errAgain, err)
	case "57P01", "57P02", "57P03", "57P05", "25P03": // the server, or it alone, ended the connection
		return lost{err}
	case "55P03", "57014": // lock_not_available, query_canceled
		return fmt.Errorf("postgres: the database is busy; try again: %w", err)
	case "25006": // read_only_sql_transaction
		return fmt.Errorf("postgres: %w: %w", errStandby, err)
	}
	return fmt.Errorf("postgres: %w", err)
}

// refused reports whether err is of a statement that the server refused, so
// that the transaction had no effect even if its commit was sent as well.
func refused(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return false
	}
	severity := e.SeverityUnlocalized
	if severity == "" {
		severity = e.Severity
	}
	return severity == "ERROR"
}

// asker is a reader, or a connection.
type asker interface {
	each(fn func(pgx.Rows) error, query string, args ...any) error
}

// all collects the rows of a query.
func all[T any](c asker, scan func(pgx.Rows) (T, error), query string, args ...any) (list []T, err error) {
	err = c.each(func(rows pgx.Rows) error {
		v, err := scan(rows)
		list = append(list, v)
		return err
	}, query, args...)
	if err != nil {
		return nil, err
	}
	return list, nil
}

// one returns the first row of a query, ErrNotFound if there is none.
func one[T any](c asker, scan func(pgx.Rows) (T, error), query string, args ...any) (T, error) {
	list, err := all(c, scan, query, args...)
	if err == nil && len(list) == 0 {
		err = issuer.ErrNotFound
	}
	if err != nil {
		var zero T
		return zero, err
	}
	return list[0], nil
}
