package sqlite

import (
	"math"

	"github.com/quashdev/quash/internal/issuer"
)

const auditColumns = `time, event, actor, address, subject, session, position, reason, detail`

// Audit implements [issuer.Reader].
func (r *reader) Audit(q issuer.AuditQuery) ([]issuer.AuditEntry, error) {
	if err := r.flush(); err != nil {
		return nil, err
	}
	before, limit := int64(math.MaxInt64), -1
	if q.Before != 0 {
		before = int64(q.Before)
	}
	if q.Limit > 0 {
		limit = q.Limit
	}
	query, args := `WHERE id < ?`, []any{before}
	if q.Subject != "" {
		query, args = query+` AND subject = ?`, append(args, q.Subject)
	}
	if q.Event != "" {
		query, args = query+` AND event = ?`, append(args, q.Event)
	}
	if q.Position != 0 {
		query += ` AND position = (SELECT min(position) FROM audit WHERE position > 0 AND position >= ?)`
		args = append(args, int64(q.Position))
	}
	return all(r.c, scanAuditEntry,
		`SELECT id, `+auditColumns+` FROM audit `+query+` ORDER BY id DESC LIMIT ?`,
		append(args, limit)...)
}

func scanAuditEntry(row scanner) (e issuer.AuditEntry, err error) {
	var at instant
	err = row.Scan(&e.ID, &at, &e.Event, &e.Actor, &e.Address, &e.Subject, &e.Session, &e.Position, &e.Reason, (*[]byte)(&e.Detail))
	e.Time = at.time()
	return e, err
}

// AppendAudit implements [issuer.Tx].
func (t *tx) AppendAudit(e issuer.AuditEntry) error {
	if e.Position == 0 {
		e.Position = t.last
	}
	return t.ledger.unwritten.auditEntry(t.c, &e)
}
