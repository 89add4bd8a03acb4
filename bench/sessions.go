package main

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/postgres"
)

// measureSessions measures what becomes dearer as there are more sessions, on
// both stores: a login, but for the hash of its password, a refresh, a logout,
// and the disk.
func measureSessions(b *bench) (rows []row, err error) {
	p, err := newPrograms()
	if err != nil {
		return nil, err
	}
	defer p.close()
	url, err := p.postgres(b.ctx)
	if err != nil {
		return nil, err
	}
	var all [2][]*population
	for i, open := range []func(n int) (*population, error){b.openSQLite, func(n int) (*population, error) { return b.openPostgres(url, n) }} {
		for _, n := range b.sessions {
			b.progress.show("growth-sessions: insert %s", thousands(float64(n)))
			of, err := open(n)
			if err != nil {
				return nil, err
			}
			defer of.close()
			all[i] = append(all[i], of)
		}
		found, err := b.compareSizes([]string{"SQLite", "PostgreSQL"}[i], all[i])
		if err != nil {
			return nil, err
		}
		rows = append(rows, found...)
	}
	last := len(b.sessions) - 1
	onDisk, err := disk(all[1][last], all[0][last])
	return append(rows, onDisk...), err
}

// population is a store with sessions that were there before.
type population struct {
	logouts
	n     int
	size  func(table string) (bytes float64, err error) // with the indexes of it
	count func(table string) (rows float64, err error)
	close func()
}

// sessionsEach is how many sessions an account has.
const sessionsEach = 10

// subject returns the subject of one of the accounts, not of its neighbour's.
func (p *population) subject(i int) string {
	return fmt.Sprint("u_", i*7919%max(1, p.n/sessionsEach))
}

func (p *population) login(i int) (issuer.Grant, error) {
	return p.issuer.OpenSession(p.ctx, issuer.User(""), p.subject(i), issuer.Device{Client: "web", Device: "Firefox on Linux"})
}

// timed opens sessions, which is not timed, and returns the median time of
// what call does to each.
func (p *population) timed(call func(token string) error) candidate {
	return func() (float64, error) {
		tokens := make([]string, p.single)
		err := concurrently(callers, len(tokens), func(i int) error {
			g, err := p.login(i)
			tokens[i] = g.RefreshToken
			return err
		})
		if err != nil {
			return 0, err
		}
		return medianTime(len(tokens), func(i int) error { return call(tokens[i]) })
	}
}

func (p *population) refresh(token string) error {
	_, err := p.issuer.Refresh(p.ctx, issuer.RefreshRequest{Token: token})
	return err
}

// compareSizes measures one store with each number of sessions beside the least.
func (b *bench) compareSizes(store string, sizes []*population) (rows []row, err error) {
	var candidates []candidate
	for _, p := range sizes {
		candidates = append(candidates, func() (float64, error) {
			return medianTime(p.single, func(i int) error {
				_, err := p.login(i)
				return err
			})
		}, p.timed(p.refresh), p.timed(p.end))
	}
	samples, err := b.alternate("growth-sessions: "+store, b.tails, candidates...)
	if err != nil {
		return nil, err
	}
	for k, what := range []string{"login", "refresh", "logout"} {
		for i, p := range sizes[1:] {
			rows = append(rows, times(fmt.Sprintf("%s, %s: %s", store, what, sessionCount(p.n)), seconds,
				samples[3*(i+1)+k], sessionCount(sizes[0].n), samples[k], bound{}))
		}
	}
	return rows, nil
}

func sessionCount(n int) string { return thousands(float64(n)) + " sessions" }

// disk compares what a row of the tables takes, with its indexes and whatever
// rows come with it.
func disk(ours, theirs *population) (rows []row, err error) {
	for _, of := range []struct {
		what   string
		tables []string
	}{
		{"an account", []string{"account", "account_claim"}},
		{"a session", []string{"session"}},
		{"a revocation and its audit", []string{"revocation", "audit"}},
	} {
		var each [2]float64
		for i, p := range []*population{ours, theirs} {
			if each[i], err = p.each(of.tables); err != nil {
				return nil, err
			}
		}
		rows = append(rows, times("PostgreSQL: "+of.what, bytesEach, each[:1], "SQLite", each[1:], bound{}))
	}
	return rows, nil
}

// each returns how many bytes tables take for each row of the first.
func (p *population) each(tables []string) (float64, error) {
	sum := 0.0
	for _, t := range tables {
		bytes, err := p.size(t)
		if err != nil {
			return 0, err
		}
		sum += bytes
	}
	rows, err := p.count(tables[0])
	return sum / max(1, rows), err
}

// The statements that insert accounts, their claims and their sessions, by
// number. They are what a store has of such a session after a few refreshes;
// nobody has its refresh token.
const (
	insertSQLite = `
		WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < %[1]d / %[2]d)
		INSERT INTO account (subject, password, claims, deactivated, created, changed)
		SELECT 'u_' || i, '', CAST('{"tenant":"t' || (i %% 100) || '"}' AS BLOB), 0, 1790000000000, 1790000000000 FROM n;
		INSERT INTO account_claim (claim, value, subject) SELECT 'tenant', substr(CAST(claims AS TEXT), 12, length(claims) - 13), subject FROM account;
		WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < %[1]d)
		INSERT INTO session (id, subject, client, device, address, created, last_used, expires, counter, secret, rotated, tokens)
		SELECT 's_' || lower(hex(randomblob(11))), 'u_' || i / %[2]d, 'web', 'Firefox on Linux', '192.0.2.7',
			1790000000000, 1795000000000 + abs(random()) %% 864000000, 1900000000000, 3, randomblob(32), 1795000000000, randomblob(8) FROM n;
		ANALYZE`
	insertPostgres = `
		INSERT INTO quash.account (subject, password, claims, deactivated, created, changed)
		SELECT 'u_' || i, '', convert_to('{"tenant":"t' || (i %% 100) || '"}', 'UTF8'), false, 1790000000000, 1790000000000 FROM generate_series(0, %[1]d / %[2]d - 1) i;
		INSERT INTO quash.account_claim (claim, value, subject) SELECT 'tenant', convert_to(convert_from(claims, 'UTF8')::json ->> 'tenant', 'UTF8'), subject FROM quash.account;
		INSERT INTO quash.session (id, subject, client, device, address, created, last_used, day, expires, counter, secret, rotated, tokens)
		SELECT 's_' || left(md5(i::text), 22), 'u_' || i / %[2]d, 'web', 'Firefox on Linux', '192.0.2.7',
			1790000000000, 1795000000000 + used, (1795000000000 + used) / 86400000, 1900000000000, 3, sha256(int8send(i)), 1795000000000, '{1795000300,1795000400}'
		FROM (SELECT i::bigint, (random() * 864000000)::bigint AS used FROM generate_series(0, %[1]d - 1) i) s`
)

func (b *bench) openSQLite(n int) (*population, error) {
	path := filepath.Join(b.dir, fmt.Sprint(n, ".db"))
	empty, _, err := openStore(b.ctx, path)
	if err == nil {
		err = empty.Close()
	}
	if err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		return nil, err
	}
	if _, err := db.ExecContext(b.ctx, fmt.Sprintf(insertSQLite, n, sessionsEach)); err != nil {
		db.Close()
		return nil, err
	}
	store, i, err := openStore(b.ctx, path)
	if err != nil {
		db.Close()
		return nil, err
	}
	ask := func(query string) func(string) (float64, error) {
		return func(table string) (v float64, err error) {
			err = db.QueryRowContext(b.ctx, strings.ReplaceAll(query, "$", table)).Scan(&v)
			return v, err
		}
	}
	return &population{
		logouts: logouts{bench: b, issuer: i}, n: n,
		size:  ask(`SELECT sum(pgsize) FROM dbstat WHERE name IN (SELECT name FROM sqlite_schema WHERE tbl_name = '$')`),
		count: ask(`SELECT count(*) FROM $`),
		close: func() {
			store.Close()
			db.Close()
		},
	}, nil
}

func (b *bench) openPostgres(url string, n int) (*population, error) {
	name := fmt.Sprint("sessions_", n)
	if err := runSQL(b.ctx, url, `CREATE DATABASE `+name); err != nil {
		return nil, err
	}
	url = strings.Replace(url, ":///postgres?", ":///"+name+"?", 1)
	store, err := postgres.Open(b.ctx, postgres.Config{URL: url + "&pool_max_conns=8"})
	if err != nil {
		return nil, err
	}
	i, err := newIssuer(b.ctx, store)
	if err == nil {
		err = runSQL(b.ctx, url, fmt.Sprintf(insertPostgres, n, sessionsEach), `VACUUM ANALYZE`)
	}
	var db *pgx.Conn
	if err == nil {
		db, err = pgx.Connect(b.ctx, url)
	}
	if err != nil {
		store.Close()
		return nil, err
	}
	ask := func(query string) func(string) (float64, error) {
		return func(table string) (v float64, err error) {
			err = db.QueryRow(b.ctx, strings.ReplaceAll(query, "$", table)).Scan(&v)
			return v, err
		}
	}
	return &population{
		logouts: logouts{bench: b, issuer: i}, n: n,
		size:  ask(`SELECT pg_total_relation_size('quash.$')::float8`),
		count: ask(`SELECT count(*)::float8 FROM quash.$`),
		close: func() {
			store.Close()
			_ = db.Close(context.Background())
		},
	}, nil
}
