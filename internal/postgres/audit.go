package postgres

import (
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"

	"github.com/quashdev/quash/internal/issuer"
)

// Audit implements [issuer.Reader].
func (r *reader) Audit(q issuer.AuditQuery) ([]issuer.AuditEntry, error) {
	before, limit := int64(math.MaxInt64), int64(math.MaxInt64)
	if q.Before != 0 {
		before = int64(q.Before)
	}
	if q.Limit > 0 {
		limit = int64(q.Limit)
	}
	query, args := `WHERE id < $1`, []any{before, limit}
	and := func(condition string, arg any) {
		args = append(args, arg)
		query += fmt.Sprintf(` AND `+condition, len(args))
	}
	if q.Subject != "" {
		and(`subject = $%d`, q.Subject)
	}
	if q.Event != "" {
		and(`event = $%d`, q.Event)
	}
	if q.Position != 0 {
		and(`position = (SELECT min(position) FROM quash.audit WHERE position > 0 AND position >= $%d)`, int64(q.Position))
	}
	return all(r, scanAuditEntry,
		`SELECT id, time, event, actor, address, subject, session, position, reason, detail FROM quash.audit `+query+` ORDER BY id DESC LIMIT $2`, args...)
}

func scanAuditEntry(row pgx.Rows) (e issuer.AuditEntry, err error) {
	var id, at, position int64
	err = row.Scan(&id, &at, &e.Event, &e.Actor, &e.Address, &e.Subject, &e.Session, &position, &e.Reason, (*[]byte)(&e.Detail))
	e.ID, e.Time, e.Position = uint64(id), instant(at), uint64(position)
	return e, err
}

var insertAudits = `
	INSERT INTO quash.audit (time, event, actor, address, subject, session, position, reason, detail)
	` + unnest("bigint", "text", "text", "text", "text", "text", "bigint", "text", "bytea")

func auditColumns(list []issuer.AuditEntry) []any {
	return []any{
		column(list, func(e *issuer.AuditEntry) int64 { return stamp(e.Time) }),
		column(list, func(e *issuer.AuditEntry) string { return e.Event }),
		column(list, func(e *issuer.AuditEntry) string { return e.Actor }),
		column(list, func(e *issuer.AuditEntry) string { return e.Address }),
		column(list, func(e *issuer.AuditEntry) string { return e.Subject }),
		column(list, func(e *issuer.AuditEntry) string { return e.Session }),
		column(list, func(e *issuer.AuditEntry) int64 { return int64(e.Position) }),
		column(list, func(e *issuer.AuditEntry) string { return e.Reason }),
		column(list, func(e *issuer.AuditEntry) []byte { return e.Detail }),
	}
}

// AppendAudit implements [issuer.Tx].
func (t *tx) AppendAudit(e issuer.AuditEntry) error {
	if !holdable([]any{e.Event, e.Actor, e.Address, e.Subject, e.Session, e.Reason}) {
		return fmt.Errorf("append audit: %w", errText)
	}
	if err := t.dirty(); err != nil {
		return err
	}
	if e.Position == 0 {
		e.Position = t.last
	}
	t.u.audits = append(t.u.audits, e)
	return nil
}
