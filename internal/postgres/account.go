package postgres

import (
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/quashdev/quash/internal/issuer"
)

const accountColumns = `a.subject, a.name, a.password, a.claims, a.deactivated, a.created, a.changed`

const selectAccount = `SELECT ` + accountColumns + ` FROM quash.account a `

// accountRow takes the columns of an account.
type accountRow struct {
	issuer.Account
	name             *string
	created, changed int64
}

func (r *accountRow) columns() []any {
	return []any{&r.Subject, &r.name, &r.Password, (*[]byte)(&r.Claims), &r.Deactivated, &r.created, &r.changed}
}

// account returns the account of the row that was taken last.
func (r *accountRow) account() issuer.Account {
	a := r.Account
	if r.name != nil {
		a.Name = *r.name
	}
	a.Created, a.Changed = instant(r.created), instant(r.changed)
	return a
}

func scanAccount(row pgx.Rows) (issuer.Account, error) {
	var r accountRow
	err := row.Scan(r.columns()...)
	return r.account(), err
}

// readAccounts reads accounts, and in an issue locks them.
func (r *reader) readAccounts(query string, args ...any) ([]issuer.Account, error) {
	if r.issue != nil {
		query += ` FOR SHARE`
	}
	list, err := all(r, scanAccount, selectAccount+query, args...)
	if err == nil && r.issue != nil {
		for _, a := range list {
			r.issue.u.accounts[a.Subject] = a
		}
	}
	return list, err
}

func (r *reader) readAccount(query string, args ...any) (issuer.Account, error) {
	list, err := r.readAccounts(query, args...)
	if err != nil {
		return issuer.Account{}, err
	}
	if len(list) == 0 {
		return issuer.Account{}, issuer.ErrNotFound
	}
	return list[0], nil
}

// Account implements [issuer.Reader].
func (r *reader) Account(subject string) (issuer.Account, error) {
	if r.issue != nil {
		if a, locked := r.issue.u.accounts[subject]; locked {
			a.Claims = append([]byte(nil), a.Claims...)
			return a, nil
		}
	}
	return r.readAccount(`WHERE a.subject = $1`, subject)
}

// AccountNamed implements [issuer.Reader].
func (r *reader) AccountNamed(name string) (issuer.Account, error) {
	return r.readAccount(`WHERE a.name = $1`, name)
}

// Accounts implements [issuer.Reader].
func (r *reader) Accounts(after string, limit int) ([]issuer.Account, error) {
	return r.readAccounts(`WHERE a.subject > $1 ORDER BY a.subject LIMIT $2`, after, max(limit, 0))
}

// AccountClaims implements [issuer.Reader]. It leaps from name to name, as
// there are few of them and many accounts.
func (r *reader) AccountClaims() ([]string, error) {
	return all(r, text, `
		WITH RECURSIVE name (claim) AS (
			(SELECT claim FROM quash.account_claim ORDER BY claim LIMIT 1)
			UNION ALL
			SELECT (SELECT c.claim FROM quash.account_claim c WHERE c.claim > name.claim ORDER BY c.claim LIMIT 1) FROM name WHERE name.claim IS NOT NULL
		)
		SELECT claim FROM name WHERE claim IS NOT NULL ORDER BY claim`)
}

// PutAccount implements [issuer.Tx].
func (t *tx) PutAccount(a issuer.Account) error {
	if err := t.dirty(); err != nil {
		return err
	}
	if a.Name != "" {
		others, err := all(t.reader, text, `SELECT subject FROM quash.account WHERE name = $1 AND subject <> $2`, a.Name, a.Subject)
		if err != nil {
			return fmt.Errorf("put account: %w", err)
		}
		if len(others) > 0 {
			return fmt.Errorf("put account: the name %q: %w", a.Name, issuer.ErrExists)
		}
	}
	var claims []string
	var values [][]byte
	for _, m := range a.ClaimValues() {
		claims, values = append(claims, m.Claim), append(values, []byte(m.Value))
	}
	err := t.write(`
		INSERT INTO quash.account (subject, name, password, claims, deactivated, created, changed) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (subject) DO UPDATE SET name = excluded.name, password = excluded.password, claims = excluded.claims,
			deactivated = excluded.deactivated, created = excluded.created, changed = excluded.changed, touched = account.touched + 1`,
		a.Subject, null(a.Name), a.Password, blob(a.Claims), a.Deactivated, stamp(a.Created), stamp(a.Changed))
	if err == nil {
		err = t.write(`DELETE FROM quash.account_claim WHERE subject = $1`, a.Subject)
	}
	if err == nil && len(claims) > 0 {
		err = t.write(`INSERT INTO quash.account_claim SELECT claim, value, $3 FROM unnest($1::text[], $2::bytea[]) AS c (claim, value)`, claims, values, a.Subject)
	}
	if err != nil {
		return fmt.Errorf("put account: %w", err)
	}
	delete(t.u.accounts, a.Subject)
	return nil
}

// DeleteAccount implements [issuer.Tx].
func (t *tx) DeleteAccount(subject string) error {
	if !plain(subject) {
		return issuer.ErrNotFound
	}
	delete(t.u.accounts, subject)
	err := t.deleteOne(`DELETE FROM quash.account WHERE subject = $1`, subject)
	t.forget()
	return err
}
