package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/quashdev/quash/internal/issuer"
)

// conn is one connection with its prepared statements. One goroutine at a
// time may use it.
//
// Its statements take no context: a statement interrupted in the middle could
// take the whole transaction with it.
type conn struct {
	c     *sql.Conn
	stmts map[string]*sql.Stmt
	// failed is the first failure of the database since begin. SQLite may
	// have ended the transaction on it, and a statement after that would
	// commit by itself, so there is none.
	failed error
	wrote  bool // since begin, what COMMIT has to keep
}

func connect(ctx context.Context, db *sql.DB) (*conn, error) {
	c, err := db.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return &conn{c: c, stmts: make(map[string]*sql.Stmt)}, nil
}

func (c *conn) close() {
	for _, s := range c.stmts {
		_ = s.Close()
	}
	_ = c.c.Close()
}

// begin starts a transaction with one of SQLite's forms of BEGIN.
func (c *conn) begin(form string) error {
	c.failed, c.wrote = nil, false
	return c.control(form)
}

func (c *conn) commit() error { return c.control("COMMIT") }

// rollback ends the transaction. A connection that fails to has perhaps one
// open still, or has ended it by itself; it is of no more use.
func (c *conn) rollback() error { return c.control("ROLLBACK") }

// control runs a statement that steers transactions.
func (c *conn) control(query string) error {
	s, err := c.prepare(query)
	if err != nil {
		return err
	}
	_, err = s.Exec()
	return err
}

func (c *conn) prepare(query string) (*sql.Stmt, error) {
	if s, ok := c.stmts[query]; ok {
		return s, nil
	}
	s, err := c.c.PrepareContext(context.Background(), query)
	if err != nil {
		return nil, err
	}
	c.stmts[query] = s
	return s, nil
}

// exec runs a statement that writes and returns how many rows it changed.
func (c *conn) exec(query string, args ...any) (int, error) {
	if c.failed != nil {
		return 0, c.failed
	}
	s, err := c.prepare(query)
	if err != nil {
		return 0, c.judge(err)
	}
	res, err := s.Exec(args...)
	if err != nil {
		return 0, c.judge(err)
	}
	n, err := res.RowsAffected()
	c.wrote = c.wrote || n > 0
	return int(n), c.judge(err)
}

// each calls fn for every row of a query.
func (c *conn) each(fn func(*sql.Rows) error, query string, args ...any) error {
	if c.failed != nil {
		return c.failed
	}
	s, err := c.prepare(query)
	if err != nil {
		return c.judge(err)
	}
	rows, err := s.Query(args...)
	if err != nil {
		return c.judge(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := fn(rows); err != nil {
			return err
		}
	}
	return c.judge(rows.Err())
}

// judge names the errors that callers know, and remembers every other one.
func (c *conn) judge(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		switch e.Code() {
		case sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
			return issuer.ErrExists
		case sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
			return issuer.ErrNotFound
		}
	}
	c.failed = fmt.Errorf("sqlite: %w", err)
	return c.failed
}

// scanner is the part of sql.Rows that reads one row.
type scanner interface{ Scan(dest ...any) error }

// all collects the rows of a query.
func all[T any](c *conn, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	var list []T
	err := c.each(func(rows *sql.Rows) error {
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
func one[T any](c *conn, scan func(scanner) (T, error), query string, args ...any) (T, error) {
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
