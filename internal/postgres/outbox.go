package postgres

import (
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/quashdev/quash/internal/issuer"
)

// ticketAge is how long it can be asked what became of a request.
const ticketAge = 7 * 24 * time.Hour

// Answered implements [issuer.Reader].
func (r *reader) Answered(request uint64) (uint64, error) {
	position, err := one(r, func(row pgx.Rows) (position int64, err error) {
		err = row.Scan(&position)
		return position, err
	}, `SELECT position FROM quash.ticket WHERE id = $1 UNION ALL SELECT 0 FROM quash.outbox WHERE id = $1`, int64(request))
	return uint64(position), err
}

// TakeRequests implements [issuer.Tx]. It finds what has been committed,
// whatever its id, so none that commits late is missed.
func (t *tx) TakeRequests(limit int) ([]issuer.Request, error) {
	if err := t.dirty(); err != nil {
		return nil, err
	}
	t.answered = t.last
	list, err := all(t.reader, func(row pgx.Rows) (r issuer.Request, err error) {
		var id, at int64
		err = row.Scan(&id, &r.Claim, &r.Value, &r.Reason, &r.Actor, &at)
		r.ID, r.Time = uint64(id), instant(at)
		return r, err
	}, `
		WITH taken AS (
			DELETE FROM quash.outbox WHERE id = ANY(ARRAY(SELECT id FROM quash.outbox ORDER BY id LIMIT $1)) RETURNING id, claim, value, reason, actor, time
		)
		SELECT id, claim, value, reason, actor, time FROM taken ORDER BY id`, max(limit, 0))
	if err != nil {
		return nil, fmt.Errorf("take requests: %w", err)
	}
	return list, nil
}

// AnswerRequest implements [issuer.Tx].
func (t *tx) AnswerRequest(request uint64) error {
	if err := t.dirty(); err != nil {
		return err
	}
	position := t.last
	if position == t.answered {
		position = 0
	}
	t.answered = t.last
	if err := t.write(`INSERT INTO quash.ticket VALUES ($1, $2, $3)`, int64(request), int64(position), stamp(t.u.now)); err != nil {
		return fmt.Errorf("answer request %d: %w", request, err)
	}
	return nil
}

// pruneTickets forgets what became of old requests.
func (t *tx) pruneTickets(now time.Time, limit int) error {
	return t.write(`DELETE FROM quash.ticket WHERE id = ANY(ARRAY(SELECT id FROM quash.ticket WHERE time < $1 LIMIT $2))`,
		stamp(now.Add(-ticketAge)), max(limit, 0))
}
