package sqlite

import (
	"database/sql"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/quashdev/quash/internal/issuer"
)

const selectSession = `
	SELECT id, subject, client, device, address, created, last_used, expires, counter, secret, rotated, retry_key, tokens, scope
	FROM session `

func scanSession(row scanner) (s issuer.Session, err error) {
	var created, lastUsed, expires, rotated instant
	var secret, retry, tokens sql.RawBytes
	var counter int64
	var scope sql.NullString
	err = row.Scan(&s.ID, &s.Subject, &s.Client, &s.Device, &s.Address, &created, &lastUsed, &expires,
		&counter, &secret, &rotated, &retry, &tokens, &scope)
	if err != nil {
		return s, err
	}
	s.Created, s.LastUsed, s.Expires, s.Rotated = created.time(), lastUsed.time(), expires.time(), rotated.time()
	s.Counter, s.Registered, s.Scope = uint64(counter), scope.Valid, scope.String
	copy(s.Secret[:], secret)
	copy(s.RetryKey[:], retry)
	for ; len(tokens) >= 4; tokens = tokens[4:] {
		s.Tokens = append(s.Tokens, binary.BigEndian.Uint32(tokens))
	}
	return s, nil
}

// where is the condition that selects what m matches, with its arguments, and
// the expression to compare and order ids by: only where m has an index that
// ends in the id may that index give the order.
func where(m issuer.Match) (condition, id string, args []any) {
	switch m.Claim {
	case "":
		return `WHERE true`, `id`, nil
	case "sub":
		return `WHERE subject = ?`, `id`, []any{m.Value}
	case "sid":
		return `WHERE id = ?`, `id`, []any{m.Value}
	case "client_id":
		return `WHERE client = ?`, `id`, []any{m.Value}
	default:
		return `WHERE subject IN (SELECT subject FROM account_claim WHERE claim = ? AND value = ?)`, `+id`, []any{m.Claim, m.Value}
	}
}

// Session implements [issuer.Reader].
func (r *reader) Session(id string) (issuer.Session, error) {
	return one(r.c, scanSession, selectSession+`WHERE id = ?`, id)
}

// Sessions implements [issuer.Reader].
func (r *reader) Sessions(m issuer.Match, after string, limit int) ([]issuer.Session, error) {
	cond, id, args := where(m)
	query := selectSession + cond + ` AND ` + id + ` > ? ORDER BY ` + id + ` LIMIT ?`
	return all(r.c, scanSession, query, append(args, after, max(limit, 0))...)
}

// CountSessions implements [issuer.Reader].
func (r *reader) CountSessions(m issuer.Match, now time.Time) (sessions, tokens int, err error) {
	cond, _, args := where(m)
	sessions, tokens, err = r.c.count(now, `SELECT tokens FROM session `+cond, args...)
	if err != nil {
		return 0, 0, fmt.Errorf("count sessions: %w", err)
	}
	return sessions, tokens, nil
}

// count counts the rows of a query for the tokens of sessions, and how many of
// those expire after now.
func (c *conn) count(now time.Time, query string, args ...any) (sessions, tokens int, err error) {
	err = c.each(func(rows *sql.Rows) error {
		var exps sql.RawBytes
		if err := rows.Scan(&exps); err != nil {
			return err
		}
		sessions++
		for ; len(exps) >= 4; exps = exps[4:] {
			if int64(binary.BigEndian.Uint32(exps)) > now.Unix() {
				tokens++
			}
		}
		return nil
	}, query, args...)
	return sessions, tokens, err
}

// Oldest implements [issuer.Reader].
func (r *reader) Oldest(m issuer.Match) (issuer.Session, error) {
	cond, _, args := where(m)
	return one(r.c, scanSession, selectSession+cond+` ORDER BY last_used, id LIMIT 1`, args...)
}

// PutSession implements [issuer.Tx]. A session of no account is ErrNotFound.
func (t *tx) PutSession(s issuer.Session) error {
	tokens := make([]byte, 0, 4*len(s.Tokens))
	for _, exp := range s.Tokens {
		tokens = binary.BigEndian.AppendUint32(tokens, exp)
	}
	args := []any{
		s.ID, s.Subject, s.Client, stamp(s.Created), stamp(s.Expires), s.Device, s.Address, stamp(s.LastUsed),
		int64(s.Counter), s.Secret[:], stamp(s.Rotated), hash(s.RetryKey), tokens,
		sql.NullString{String: s.Scope, Valid: s.Registered},
	}
	// A refresh leaves the first five and the last as they are; an update that does not
	// name them spares their indexes.
	n, err := t.c.exec(`
		UPDATE session SET device = ?6, address = ?7, last_used = ?8, counter = ?9, secret = ?10, rotated = ?11, retry_key = ?12, tokens = ?13
		WHERE id = ?1 AND subject = ?2 AND client = ?3 AND created = ?4 AND expires = ?5 AND scope IS ?14`, args...)
	if err == nil && n == 0 {
		_, err = t.c.exec(`
			INSERT INTO session (id, subject, client, created, expires, device, address, last_used, counter, secret, rotated, retry_key, tokens, scope)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (id) DO UPDATE SET subject = excluded.subject, client = excluded.client, created = excluded.created,
				expires = excluded.expires, device = excluded.device, address = excluded.address, last_used = excluded.last_used,
				counter = excluded.counter, secret = excluded.secret, rotated = excluded.rotated, retry_key = excluded.retry_key,
				tokens = excluded.tokens, scope = excluded.scope`, args...)
	}
	if err != nil {
		return fmt.Errorf("put session: %w", err)
	}
	return nil
}

// EndSessions implements [issuer.Tx].
func (t *tx) EndSessions(m issuer.Match, except string, now time.Time) (sessions, tokens int, err error) {
	cond, _, args := where(m)
	sessions, tokens, err = t.c.count(now, `DELETE FROM session `+cond+` AND +id <> ? RETURNING tokens`, append(args, except)...)
	t.c.wrote = t.c.wrote || err != nil || sessions > 0
	if err != nil {
		return 0, 0, fmt.Errorf("end sessions: %w", err)
	}
	return sessions, tokens, nil
}

// ForgetTokens implements [issuer.Tx].
func (t *tx) ForgetTokens(m issuer.Match) error {
	cond, _, args := where(m)
	if _, err := t.c.exec(`UPDATE session SET tokens = x'' `+cond+` AND tokens <> x''`, args...); err != nil {
		return fmt.Errorf("forget tokens: %w", err)
	}
	return nil
}

func (t *tx) pruneSessions(now time.Time, idle time.Duration, limit int) (int, error) {
	return t.c.exec(`DELETE FROM session WHERE rowid IN (SELECT rowid FROM session WHERE last_used < ? OR expires <= ? LIMIT ?)`,
		stamp(now.Add(-idle)), stamp(now), max(limit, 0))
}
