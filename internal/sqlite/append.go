package sqlite

import (
	"fmt"
	"strings"

	"github.com/quashdev/quash/internal/issuer"
)

// maxRows is how many rows one statement writes. Writing many takes less than
// half as long as writing each by itself.
const maxRows = 16

// insert is how rows are added to one table.
type insert struct {
	one, many string
	columns   int
}

func insertInto(table, columns string) insert {
	n := strings.Count(columns, ",") + 1
	row := "(" + strings.Repeat("?, ", n-1) + "?)"
	into := "INSERT INTO " + table + " (" + columns + ") VALUES "
	return insert{into + row, into + strings.Repeat(row+", ", maxRows-1) + row, n}
}

var (
	intoRevocation = insertInto("revocation", columns)
	intoArchive    = insertInto("revocation_archive", columns)
	intoAudit      = insertInto("audit", auditColumns)
)

// write adds the rows whose values stand one behind the other in args.
func (i *insert) write(c *conn, args []any) error {
	for ; len(args) >= maxRows*i.columns; args = args[maxRows*i.columns:] {
		if _, err := c.exec(i.many, args[:maxRows*i.columns]...); err != nil {
			return err
		}
	}
	for ; len(args) > 0; args = args[i.columns:] {
		if _, err := c.exec(i.one, args[:i.columns]...); err != nil {
			return err
		}
	}
	return nil
}

// unwritten holds the values of rows that were appended and are not in the
// file yet: fewer than maxRows of each table, and none after a commit. What
// reads one of the tables flushes first.
type unwritten struct{ revocations, audit []any }

func (u *unwritten) revocation(c *conn, r *issuer.Revocation) error {
	u.revocations = appendRow(u.revocations, r)
	c.wrote = true
	return u.flushFrom(c, maxRows)
}

func (u *unwritten) auditEntry(c *conn, e *issuer.AuditEntry) error {
	u.audit = append(u.audit, stamp(e.Time), e.Event, e.Actor, e.Address, e.Subject, e.Session, int64(e.Position), e.Reason, blob(e.Detail))
	c.wrote = true
	return u.flushFrom(c, maxRows)
}

// flush writes all that is unwritten.
func (u *unwritten) flush(c *conn) error { return u.flushFrom(c, 1) }

// flushFrom writes the rows of each table that waits with at least n of them.
func (u *unwritten) flushFrom(c *conn, n int) error {
	if len(u.revocations) >= n*intoRevocation.columns {
		if err := intoRevocation.write(c, u.revocations); err != nil {
			return fmt.Errorf("append revocations: %w", err)
		}
		u.revocations = nil
	}
	if len(u.audit) >= n*intoAudit.columns {
		if err := intoAudit.write(c, u.audit); err != nil {
			return fmt.Errorf("append audit: %w", err)
		}
		u.audit = nil
	}
	return nil
}
