package postgres

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/quashdev/quash/internal/issuer"
)

const sessionColumns = `s.id, s.subject, s.client, s.device, s.address, s.created, s.last_used, s.expires, s.counter, s.secret, s.rotated, s.retry_key, s.tokens, s.scope`

const selectSession = `SELECT ` + sessionColumns + ` FROM quash.session s `

// sessionRow takes the columns of a session.
type sessionRow struct {
	issuer.Session
	created, lastUsed, expires, counter, rotated int64
	secret, retry                                pgtype.DriverBytes
	tokens                                       []int64
	scope                                        *string
}

func (r *sessionRow) columns() []any {
	return []any{
		&r.ID, &r.Subject, &r.Client, &r.Device, &r.Address, &r.created, &r.lastUsed, &r.expires,
		&r.counter, &r.secret, &r.rotated, &r.retry, &r.tokens, &r.scope,
	}
}

// session returns the session of the row that was taken last.
func (r *sessionRow) session() issuer.Session {
	s := r.Session
	s.Created, s.LastUsed, s.Expires, s.Rotated = instant(r.created), instant(r.lastUsed), instant(r.expires), instant(r.rotated)
	s.Counter = uint64(r.counter)
	if s.Registered = r.scope != nil; s.Registered {
		s.Scope = *r.scope
	}
	copy(s.Secret[:], r.secret)
	copy(s.RetryKey[:], r.retry)
	if len(r.tokens) > 0 {
		s.Tokens = column(r.tokens, func(exp *int64) uint32 { return uint32(*exp) })
	}
	return s
}

func scanSession(row pgx.Rows) (issuer.Session, error) {
	var r sessionRow
	if err := row.Scan(r.columns()...); err != nil {
		return issuer.Session{}, err
	}
	return r.session(), nil
}

// where is the condition that selects what m matches, with its arguments.
func where(m issuer.Match) (condition string, args []any) {
	switch m.Claim {
	case "":
		return `WHERE true`, nil
	case "sub":
		return `WHERE s.subject = $1`, []any{m.Value}
	case "sid":
		return `WHERE s.id = $1`, []any{m.Value}
	case "client_id":
		return `WHERE s.client = $1`, []any{m.Value}
	default:
		return `WHERE s.subject IN (SELECT c.subject FROM quash.account_claim c WHERE c.claim = $1 AND c.value = $2)`, []any{m.Claim, []byte(m.Value)}
	}
}

// Session implements [issuer.Reader].
func (r *reader) Session(id string) (issuer.Session, error) {
	switch {
	case !plain(id):
		return issuer.Session{}, issuer.ErrNotFound
	case r.issue != nil:
		return r.issue.issuing(id)
	case r.update != nil:
		return r.update.session(id)
	}
	return one(r, scanSession, selectSession+`WHERE s.id = $1`, id)
}

// issuing reads a session in an issue, and locks its account with it, which
// what issues needs next.
func (t *tx) issuing(id string) (issuer.Session, error) {
	u := t.u
	switch {
	case u.c.rehearsing:
		u.wanted = append(u.wanted, id)
		return issuer.Session{}, errRehearsal
	case u.c.local:
		if s, _ := t.known(id); s != nil {
			return clone(s), nil
		}
		u.c.missed = true
		return issuer.Session{}, errRehearsal
	}
	delete(t.overlay, id)
	delete(u.sessions, id)
	err := u.each(u.takeIssuing(), selectIssuing+`WHERE s.id = $1 FOR SHARE OF a`, id)
	if err != nil {
		return issuer.Session{}, err
	}
	if s := u.sessions[id]; s != nil {
		return clone(s), nil
	}
	return issuer.Session{}, issuer.ErrNotFound
}

// session reads a session in an update, and locks it and its account.
func (t *tx) session(id string) (issuer.Session, error) {
	s, found := t.known(id)
	if !found {
		if err := t.u.fetch([]string{id}, t.overlay); err != nil {
			return issuer.Session{}, err
		}
		s, _ = t.known(id)
	}
	if s == nil {
		return issuer.Session{}, issuer.ErrNotFound
	}
	return clone(s), nil
}

// known returns what the transaction knows of a session, which is nil where it
// has ended.
func (t *tx) known(id string) (s *issuer.Session, found bool) {
	s, found = t.overlay[id]
	if !found && !t.afresh {
		s, found = t.u.sessions[id]
	}
	return s, found
}

// fetch reads sessions into a map, and locks them and their accounts.
func (u *unit) fetch(ids []string, into map[string]*issuer.Session) error {
	if u.c.rehearsing {
		u.wanted = append(u.wanted, ids...)
		return errRehearsal
	}
	return u.ask(u.fetching(ids, into))
}

// fetching is the statement by which an update reads sessions. It locks their
// accounts first, as issues do, and waits for those of them that write one. An
// issue that waits for the account goes on with what it read, but then it
// writes its session, and starts again if that was written.
func (u *unit) fetching(ids []string, into map[string]*issuer.Session) statement {
	query := selectSession + `WHERE s.id = ANY($1)`
	if !u.gated {
		query = selectSession + `JOIN quash.account a ON a.subject = s.subject WHERE s.id = ANY($1) FOR NO KEY UPDATE OF a FOR NO KEY UPDATE OF s`
		u.locked = true // perhaps for a session that is gone by then
	}
	var r sessionRow
	columns := r.columns()
	return statement{query: query, args: []any{ids}, take: func(row pgx.Rows) error {
		if err := row.Scan(columns...); err != nil {
			return err
		}
		s := r.session()
		into[s.ID] = &s
		return nil
	}}
}

// fetchingIssues is the statement by which a group of issues reads sessions,
// and locks their accounts. Those of an account that somebody writes are left
// out: a group waits for nobody while it holds locks.
func (u *unit) fetchingIssues(ids []string) statement {
	return statement{query: selectIssuing + `WHERE s.id = ANY($1) FOR SHARE OF a SKIP LOCKED`, args: []any{ids}, take: u.takeIssuing()}
}

const selectIssuing = `SELECT ` + sessionColumns + `, ` + accountColumns + ` FROM quash.session s JOIN quash.account a ON a.subject = s.subject `

func (u *unit) takeIssuing() func(pgx.Rows) error {
	var r sessionRow
	var a accountRow
	columns := append(r.columns(), a.columns()...)
	return func(row pgx.Rows) error {
		if err := row.Scan(columns...); err != nil {
			return err
		}
		s := r.session()
		u.accounts[s.Subject], u.sessions[s.ID] = a.account(), &s
		return nil
	}
}

func clone(s *issuer.Session) issuer.Session {
	c := *s
	c.Tokens = slices.Clone(s.Tokens)
	return c
}

// matching sends a query about the sessions that match, after what holds them
// in an update.
func (r *reader) matching(m issuer.Match, take func(pgx.Rows) error, query string, args ...any) error {
	if r.update == nil {
		return r.each(take, query, args...)
	}
	if m.Claim == "sid" {
		if _, err := r.update.session(m.Value); err != nil && !errors.Is(err, issuer.ErrNotFound) {
			return err
		}
	}
	return r.update.holding(m, statement{query: query, args: args, take: take})
}

// holding sends a statement about the sessions that match after what holds them.
func (t *tx) holding(m issuer.Match, s statement) error {
	if !holdable(s.args) {
		return nil // it is about no row
	}
	var held []statement
	if m.Claim != "sid" {
		var err error
		if held, err = t.hold(m); err != nil {
			return err
		}
	}
	return t.c.ask(append(held, s)...)
}

// Sessions implements [issuer.Reader].
func (r *reader) Sessions(m issuer.Match, after string, limit int) (list []issuer.Session, err error) {
	cond, args := where(m)
	n := len(args)
	query := fmt.Sprint(selectSession, cond, ` AND s.id > $`, n+1, ` ORDER BY s.id LIMIT $`, n+2)
	err = r.matching(m, func(row pgx.Rows) error {
		s, err := scanSession(row)
		list = append(list, s)
		return err
	}, query, append(args, after, max(limit, 0))...)
	return list, err
}

// CountSessions implements [issuer.Reader].
func (r *reader) CountSessions(m issuer.Match, now time.Time) (sessions, tokens int, err error) {
	cond, args := where(m)
	query := fmt.Sprint(`SELECT count(*), coalesce(sum((SELECT count(*) FROM unnest(s.tokens) t WHERE t > $`, len(args)+1, `)), 0)::bigint FROM quash.session s `, cond)
	err = r.matching(m, func(row pgx.Rows) error { return row.Scan(&sessions, &tokens) }, query, append(args, now.Unix())...)
	if err != nil {
		return 0, 0, fmt.Errorf("count sessions: %w", err)
	}
	return sessions, tokens, nil
}

// Oldest implements [issuer.Reader].
func (r *reader) Oldest(m issuer.Match) (s issuer.Session, err error) {
	found := false
	cond, args := where(m)
	err = r.matching(m, func(row pgx.Rows) (err error) {
		found = true
		s, err = scanSession(row)
		return err
	}, selectSession+cond+` ORDER BY s.last_used, s.id LIMIT 1`, args...)
	if err == nil && !found {
		err = issuer.ErrNotFound
	}
	return s, err
}

// dayOf is the day of a time, as sessions are found by for pruning.
func dayOf(t time.Time) int32 {
	return int32(math.Floor(float64(stamp(t)) / float64(24*time.Hour/time.Millisecond)))
}

// PutSession implements [issuer.Tx]. A session of no account is ErrNotFound.
func (t *tx) PutSession(s issuer.Session) error {
	was, err := t.place(s)
	if err != nil {
		return fmt.Errorf("put session: %w", err)
	}
	if len(t.u.ended) > t.u.sent.ended {
		t.u.emit() // one that ended before may be this one
	}
	if !holdable([]any{s.ID, s.Client, s.Scope, s.Device, s.Address}) {
		return fmt.Errorf("put session: %w", errText)
	}
	if err := t.dirty(); err != nil {
		return err
	}
	if was != nil && was.Subject == s.Subject && was.Client == s.Client && was.Created.Equal(s.Created) && was.Expires.Equal(s.Expires) && was.Registered == s.Registered && was.Scope == s.Scope {
		t.u.puts = append(t.u.puts, s)
	} else {
		t.u.emit() // an earlier version of it
		err = t.write(`
			INSERT INTO quash.session (id, device, address, last_used, day, counter, secret, rotated, retry_key, tokens, subject, client, created, expires, scope)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
			ON CONFLICT (id) DO UPDATE SET device = excluded.device, address = excluded.address, last_used = excluded.last_used, day = excluded.day,
				counter = excluded.counter, secret = excluded.secret, rotated = excluded.rotated, retry_key = excluded.retry_key,
				tokens = excluded.tokens, subject = excluded.subject, client = excluded.client, created = excluded.created, expires = excluded.expires, scope = excluded.scope`,
			s.ID, s.Device, s.Address, stamp(s.LastUsed), dayOf(s.LastUsed),
			int64(s.Counter), s.Secret[:], stamp(s.Rotated), hash(s.RetryKey), expiries(&s), s.Subject, s.Client, stamp(s.Created), stamp(s.Expires), scopeOf(&s))
	}
	if err != nil {
		return fmt.Errorf("put session: %w", err)
	}
	t.note(s)
	return nil
}

// scopeOf is a session's scope as tables hold it: NULL where its client is not
// registered.
func scopeOf(s *issuer.Session) any {
	if !s.Registered {
		return nil
	}
	return s.Scope
}

func expiries(s *issuer.Session) []int64 {
	return column(s.Tokens, func(exp *uint32) int64 { return int64(*exp) })
}

var updateSessions = `
	UPDATE quash.session s SET device = v.device, address = v.address, last_used = v.last_used, day = v.day, counter = v.counter,
		secret = v.secret, rotated = v.rotated, retry_key = v.retry_key, tokens = v.tokens::bigint[]
	FROM (` + unnest("text", "text", "text", "bigint", "int", "bigint", "bytea", "bigint", "bytea", "text") + `)
		AS v (id, device, address, last_used, day, counter, secret, rotated, retry_key, tokens)
	WHERE s.id = v.id`

// putSessions is the statement that writes what a refresh changes of sessions,
// each of which is there. Of several versions of one the last counts.
func putSessions(list []issuer.Session) statement {
	last := make(map[string]int, len(list))
	for i := range list {
		last[list[i].ID] = i
	}
	latest := make([]*issuer.Session, 0, len(last))
	for i := range list {
		if last[list[i].ID] == i {
			latest = append(latest, &list[i])
		}
	}
	if len(latest) == 1 {
		s := latest[0]
		return statement{query: `
			UPDATE quash.session SET device = $2, address = $3, last_used = $4, day = $5, counter = $6, secret = $7, rotated = $8, retry_key = $9, tokens = $10
			WHERE id = $1`, args: []any{
			s.ID, s.Device, s.Address, stamp(s.LastUsed), dayOf(s.LastUsed), int64(s.Counter), s.Secret[:], stamp(s.Rotated), hash(s.RetryKey), expiries(s),
		}}
	}
	slices.SortFunc(latest, func(a, b *issuer.Session) int { return strings.Compare(a.ID, b.ID) })
	return statement{query: updateSessions, args: []any{
		column(latest, func(s **issuer.Session) string { return (*s).ID }),
		column(latest, func(s **issuer.Session) string { return (*s).Device }),
		column(latest, func(s **issuer.Session) string { return (*s).Address }),
		column(latest, func(s **issuer.Session) int64 { return stamp((*s).LastUsed) }),
		column(latest, func(s **issuer.Session) int32 { return dayOf((*s).LastUsed) }),
		column(latest, func(s **issuer.Session) int64 { return int64((*s).Counter) }),
		column(latest, func(s **issuer.Session) []byte { return (*s).Secret[:] }),
		column(latest, func(s **issuer.Session) int64 { return stamp((*s).Rotated) }),
		column(latest, func(s **issuer.Session) []byte { return hash((*s).RetryKey) }),
		column(latest, func(s **issuer.Session) string { return arrayText((*s).Tokens) }),
	}}
}

// arrayText is a list of numbers as PostgreSQL writes an array.
func arrayText(list []uint32) string {
	b := []byte{'{'}
	for i, n := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(n), 10)
	}
	return string(append(b, '}'))
}

// place makes sure that the account of a session is there and stays, and
// returns the session that is replaced, if it is known.
func (t *tx) place(s issuer.Session) (was *issuer.Session, err error) {
	if !plain(s.Subject) {
		return nil, issuer.ErrNotFound
	}
	if err := t.begin(); err != nil {
		return nil, err
	}
	if t.u.issuing {
		if _, locked := t.u.accounts[s.Subject]; !locked {
			if _, err := t.Account(s.Subject); err != nil {
				return nil, err
			}
		}
		was, _ = t.known(s.ID)
		return was, nil
	}
	if was, _ = t.known(s.ID); was != nil && was.Subject == s.Subject {
		return was, nil
	}
	// Whoever is written here is held, and found to be there.
	n, err := t.exec(`UPDATE quash.account SET touched = touched + 1 WHERE subject = $1`, s.Subject)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, issuer.ErrNotFound
	}
	t.u.written[s.Subject] = 0
	return was, nil
}

// note keeps a session as it will be read.
func (t *tx) note(s issuer.Session) {
	for _, at := range []*time.Time{&s.Created, &s.LastUsed, &s.Expires, &s.Rotated} {
		*at = instant(stamp(*at))
	}
	if s.Tokens = slices.Clone(s.Tokens); len(s.Tokens) == 0 {
		s.Tokens = nil
	}
	t.overlay[s.ID] = &s
}

// EndSessions implements [issuer.Tx].
func (t *tx) EndSessions(m issuer.Match, except string, now time.Time) (sessions, tokens int, err error) {
	if err := t.dirty(); err != nil {
		return 0, 0, err
	}
	if m.Claim == "sid" && !t.u.issuing {
		return t.endOne(m.Value, except, now)
	}
	cond, args := where(m)
	n := len(args)
	if !plain(except) {
		except = ""
	}
	query := fmt.Sprint(`
		WITH gone AS (DELETE FROM quash.session s `, cond, ` AND s.id <> $`, n+1, ` RETURNING tokens)
		SELECT count(*), coalesce(sum((SELECT count(*) FROM unnest(tokens) t WHERE t > $`, n+2, `)), 0)::bigint FROM gone`)
	err = t.matching(m, func(row pgx.Rows) error { return row.Scan(&sessions, &tokens) }, query, append(args, except, now.Unix())...)
	if err != nil {
		return 0, 0, fmt.Errorf("end sessions: %w", err)
	}
	t.forget()
	return sessions, tokens, nil
}

// endOne ends one session, which is held and so need not be asked for.
func (t *tx) endOne(id, except string, now time.Time) (sessions, tokens int, err error) {
	if id == except || !plain(id) {
		return 0, 0, nil
	}
	s, err := t.session(id)
	if errors.Is(err, issuer.ErrNotFound) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("end session: %w", err)
	}
	for _, exp := range s.Tokens {
		if int64(exp) > now.Unix() {
			tokens++
		}
	}
	t.u.ended = append(t.u.ended, id)
	t.overlay[id] = nil
	return 1, tokens, nil
}

// forget drops what is known of sessions after a statement about many.
func (t *tx) forget() {
	clear(t.overlay)
	t.afresh = true
}

// ForgetTokens implements [issuer.Tx].
func (t *tx) ForgetTokens(m issuer.Match) error {
	if err := t.dirty(); err != nil {
		return err
	}
	cond, args := where(m)
	err := t.matching(m, func(pgx.Rows) error { return nil }, `UPDATE quash.session s SET tokens = '{}' `+cond+` AND s.tokens <> '{}'`, args...)
	if err != nil {
		return fmt.Errorf("forget tokens: %w", err)
	}
	t.forget()
	return nil
}

// pruneSessions ends sessions that idled or reached their end. One that is
// refreshed meanwhile is passed over.
func (t *tx) pruneSessions(now time.Time, idle time.Duration, limit int) (int, error) {
	defer t.forget()
	cutoff := now.Add(-idle)
	return t.exec(`
		DELETE FROM quash.session WHERE id = ANY(ARRAY(
			SELECT id FROM quash.session WHERE day <= $1 AND last_used < $2 OR expires <= $3 LIMIT $4 FOR UPDATE SKIP LOCKED))`,
		dayOf(cutoff), stamp(cutoff), stamp(now), max(limit, 0))
}
