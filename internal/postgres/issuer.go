package postgres

import (
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/quashdev/quash/internal/issuer"
)

const selectIssuers = `SELECT name, max_lifetime, same_subjects FROM quash.issuer ORDER BY name`

func scanIssuer(row pgx.Rows) (f issuer.Foreign, err error) {
	err = row.Scan(&f.Name, &f.MaxLifetime, &f.SameSubjects)
	return f, err
}

// PutIssuer implements [issuer.Tx].
func (t *tx) PutIssuer(f issuer.Foreign) error {
	if t.u.issuing {
		return fmt.Errorf("put issuer: %w", errIssuing)
	}
	if _, err := t.catalog(); err != nil {
		return fmt.Errorf("put issuer: %w", err)
	}
	l := t.u.log.With(f)
	f, _ = l.Foreign(f.Name)
	if err := t.insertIssuer(f); err != nil {
		return fmt.Errorf("put issuer: %w", err)
	}
	t.u.log, t.u.recast = l, true
	return nil
}

func (t *tx) insertIssuer(f issuer.Foreign) error {
	return t.write(`
		INSERT INTO quash.issuer (name, max_lifetime, same_subjects) VALUES ($1, $2, $3)
		ON CONFLICT (name) DO UPDATE SET max_lifetime = excluded.max_lifetime, same_subjects = excluded.same_subjects`,
		f.Name, int64(f.MaxLifetime), f.SameSubjects)
}
