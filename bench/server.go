package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	quashclient "github.com/quashdev/quash/client"
	"github.com/quashdev/quash/server"
)

// measureServer measures the server over HTTP beside the least that a change
// costs the database that it uses: one UPDATE by primary key and its commit,
// which an introspection does not make. It also measures what the server takes
// of memory and of disk.
func measureServer(b *bench) (rows []row, err error) {
	for _, database := range []struct {
		name string
		open func(*bench) (url string, commit asker, end func(), err error)
	}{{"SQLite", (*bench).bareSQLite}, {"PostgreSQL", (*bench).barePostgres}} {
		found, err := b.serverOn(database.name, database.open)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", database.name, err)
		}
		rows = append(rows, found...)
	}
	disk, err := b.sessionBytes()
	if err != nil {
		return nil, err
	}
	program, err := b.program()
	return slices.Concat(rows, disk, program), err
}

// atOnce is how many callers a busy server has.
const atOnce = 32

func (b *bench) serverOn(name string, open func(*bench) (string, asker, func(), error)) (rows []row, err error) {
	url, commit, end, err := open(b)
	if err != nil {
		return nil, err
	}
	defer end()
	s, err := b.serve(url)
	if err != nil {
		return nil, err
	}
	defer s.end()
	for _, w := range []struct{ callers, calls int }{{1, b.single}, {atOnce, b.grouped / 4}} {
		what := fmt.Sprintf("%s, %d at once", name, w.callers)
		bare := func() (float64, error) { return callRate(w.callers, w.calls, commit) }
		samples, err := b.alternate("server: "+what, b.tails,
			func() (float64, error) { return s.refreshes(w.callers, w.calls) },
			func() (float64, error) { return s.logouts(w.callers, w.calls) }, bare,
			func() (float64, error) { return s.introspections(w.callers, w.calls) })
		if err != nil {
			return nil, err
		}
		const floor = "floor: one UPDATE, commit"
		rows = append(rows,
			times("refreshes, "+what, perSecond, samples[0], floor, samples[2], bound{Least: .4}),
			times("logouts, "+what, perSecond, samples[1], floor, samples[2], bound{Least: .3}),
			times("introspections, "+what, perSecond, samples[3], floor, samples[2], bound{}))
	}
	return rows, nil
}

// callRate returns how many of n calls are made a second.
func callRate(callers, n int, call asker) (float64, error) {
	start := time.Now()
	err := concurrently(callers, n, call)
	return float64(n) / time.Since(start).Seconds(), err
}

// served is a server on loopback.
type served struct {
	ctx    context.Context
	public string // base address
	http   *http.Client
	users  *quashclient.Client
	admin  quashclient.Admin
	asker  quashclient.NewClientSecret // who introspects
	end    func()
	opened atomic.Int64 // sessions
}

// serve starts a server as a program embeds it, on SQLite where url is empty.
// It has an account for each subject.
func (b *bench) serve(url string) (*served, error) {
	srv, err := server.Open(b.ctx, server.Config{
		Data: filepath.Join(b.dir, "data-"+random()), Store: url, Issuer: issuerURL, Secret: make([]byte, 32),
		MaxSessions: 1000, RequestsPerSecond: 1_000_000,
	})
	if err != nil {
		return nil, err
	}
	s := &served{ctx: b.ctx, end: func() { srv.Close(context.Background()) }, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: callers}}}
	private := ""
	for _, l := range []struct {
		handler http.Handler
		address *string
	}{{srv.Handler(), &s.public}, {srv.PrivateHandler(), &private}} {
		listener, err := listen(nil)
		if err != nil {
			s.end()
			return nil, err
		}
		*l.address = "http://" + listener.Addr().String()
		web, before := &http.Server{Handler: l.handler, ReadHeaderTimeout: time.Minute}, s.end
		go web.Serve(listener)
		s.end = func() { web.Close(); before() }
	}
	if err := s.prepare(private, srv.AdminKey()); err != nil {
		s.end()
		return nil, err
	}
	return s, nil
}

// prepare makes the accounts, and the client that introspects.
func (s *served) prepare(private, key string) (err error) {
	if s.users, err = quashclient.New(quashclient.Config{URL: s.public, HTTP: s.http}); err != nil {
		return err
	}
	operator, err := quashclient.New(quashclient.Config{URL: private, Key: key, HTTP: s.http})
	if err != nil {
		return err
	}
	s.admin = operator.Admin()
	err = concurrently(callers, subjectsLoggedIn, func(i int) error {
		_, err := s.admin.CreateAccount(s.ctx, quashclient.NewAccount{Subject: fmt.Sprint("u_", i)})
		return err
	})
	if err == nil {
		s.asker, err = s.admin.CreateClient(s.ctx, quashclient.NewRegistration{Grants: []string{"client_credentials"}})
	}
	return err
}

// open opens n sessions and returns their refresh tokens.
func (s *served) open(n int) ([]string, error) {
	tokens := make([]string, n)
	err := concurrently(callers, n, func(i int) error {
		subject := fmt.Sprint("u_", s.opened.Add(1)%subjectsLoggedIn)
		t, err := s.admin.OpenSession(s.ctx, subject, quashclient.Device{})
		tokens[i] = t.RefreshToken
		return err
	})
	rand.Shuffle(n, func(i, j int) { tokens[i], tokens[j] = tokens[j], tokens[i] })
	return tokens, err
}

// refreshes returns the rate of so many, each with the token that the refresh
// before it gave. The sessions end afterwards, lest there be more each time.
func (s *served) refreshes(callers, n int) (float64, error) {
	tokens, err := s.open(2 * callers)
	if err != nil {
		return 0, err
	}
	idle := make(chan string, len(tokens))
	for _, t := range tokens {
		idle <- t
	}
	rate, err := callRate(callers, n, func(int) error {
		t, err := s.users.Refresh(s.ctx, <-idle, "")
		idle <- t.RefreshToken
		return err
	})
	if err != nil {
		return 0, err
	}
	return rate, concurrently(callers, len(tokens), func(int) error { return s.logout(<-idle) })
}

func (s *served) logouts(callers, n int) (float64, error) {
	tokens, err := s.open(n)
	if err != nil {
		return 0, err
	}
	return callRate(callers, n, func(i int) error { return s.logout(tokens[i]) })
}

// logout ends a session and returns when that is confirmed.
func (s *served) logout(token string) error {
	e, err := s.users.Logout(s.ctx, token)
	if err == nil && e.Sessions != 1 {
		err = errors.New("a logout ended nothing")
	}
	return err
}

// introspections returns the rate at which a client asks about tokens of its own.
func (s *served) introspections(callers, n int) (float64, error) {
	tokens := make([]string, 2*callers)
	for i := range tokens {
		var granted struct {
			Token string `json:"access_token"`
		}
		if err := s.form("/oauth/token", url.Values{"grant_type": {"client_credentials"}}, &granted); err != nil {
			return 0, err
		}
		tokens[i] = granted.Token
	}
	return callRate(callers, n, func(i int) error {
		var about struct{ Active bool }
		err := s.form("/oauth/introspect", url.Values{"token": {tokens[i%len(tokens)]}}, &about)
		if err == nil && !about.Active {
			err = errors.New("a live token was not active")
		}
		return err
	})
}

// form sends a form to one of the OAuth endpoints, as the client.
func (s *served) form(path string, values url.Values, answer any) error {
	r, err := http.NewRequestWithContext(s.ctx, http.MethodPost, s.public+path, strings.NewReader(values.Encode()))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(s.asker.ID, s.asker.Secret)
	got, err := s.http.Do(r)
	if err != nil {
		return err
	}
	defer got.Body.Close()
	if got.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, got.Status)
	}
	return json.NewDecoder(got.Body).Decode(answer)
}

const (
	createBare = `CREATE TABLE bare (id BIGINT PRIMARY KEY, n BIGINT NOT NULL)`
	updateBare = `UPDATE bare SET n = n + 1 WHERE id = $1`
)

// bareSQLite returns a commit as durable as the server's, by one connection as
// the file has one writer.
func (b *bench) bareSQLite() (url string, commit asker, end func(), err error) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(b.dir, "bare.db")+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	if err != nil {
		return "", nil, nil, err
	}
	db.SetMaxOpenConns(1)
	for _, query := range []string{createBare, `WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < ?) INSERT INTO bare SELECT n, 0 FROM c`} {
		if _, err := db.ExecContext(b.ctx, query, bareRows); err != nil {
			return "", nil, nil, errors.Join(err, db.Close())
		}
	}
	update, err := db.PrepareContext(b.ctx, updateBare)
	return "", func(int) error {
		_, err := update.ExecContext(b.ctx, rand.N(bareRows)+1)
		return err
	}, func() { db.Close() }, err
}

// barePostgres returns a commit by a connection for each caller.
func (b *bench) barePostgres() (url string, commit asker, end func(), err error) {
	p, err := newPrograms()
	if err != nil {
		return "", nil, nil, err
	}
	if url, err = p.postgres(b.ctx); err != nil {
		p.close()
		return "", nil, nil, err
	}
	pool, err := pgxpool.New(b.ctx, url+"&pool_max_conns=32")
	if err != nil {
		p.close()
		return "", nil, nil, err
	}
	end = func() { pool.Close(); p.close() }
	// It listens before it is ready.
	for start := time.Now(); pool.Ping(b.ctx) != nil && time.Since(start) < startTimeout; {
		time.Sleep(20 * time.Millisecond)
	}
	if _, err = pool.Exec(b.ctx, createBare+`; INSERT INTO bare SELECT n, 0 FROM generate_series(1, `+fmt.Sprint(bareRows)+`) n`); err != nil {
		end()
		return "", nil, nil, err
	}
	return url, func(int) error {
		_, err := pool.Exec(b.ctx, updateBare, rand.N(bareRows)+1)
		return err
	}, end, nil
}
