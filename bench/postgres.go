package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/postgres"
)

// measurePostgres measures changes on PostgreSQL beside what pgbench does with
// one statement a commit, on the same server.
func measurePostgres(b *bench) (rows []row, err error) {
	p, err := newPrograms()
	if err != nil {
		return nil, err
	}
	defer p.close()
	url, err := p.postgres(b.ctx)
	if err != nil {
		return nil, err
	}
	s, err := b.newSQLServer(p, url)
	if err != nil {
		return nil, err
	}
	defer s.store.Close()
	r := &refreshes{logouts: &s.logouts}
	if err := r.open(); err != nil {
		return nil, err
	}
	var candidates []candidate
	// 64 callers' revocations are so quick that it takes more of them.
	for _, c := range []struct{ callers, n, revokes int }{{1, b.single, b.single}, {callers, b.grouped / 2, 2 * b.grouped}} {
		candidates = append(candidates,
			b.pace(c.callers, c.revokes, s.revoke), s.ended(c.callers, c.n), b.pace(c.callers, c.n, r.one),
			s.pgbench("insert", c.callers, c.n), s.pgbench("update", c.callers, c.n))
	}
	samples, err := b.alternate("postgres", b.long, candidates...)
	if err != nil {
		return nil, err
	}
	for i, who := range []string{"1 caller", "64 callers"} {
		of := samples[5*i:]
		var revoked, ended, refreshed bound
		if i == 1 {
			revoked, ended, refreshed = bound{Least: 5}, bound{Least: 1.5}, bound{Least: .5}
		}
		rows = append(rows,
			times("revokes, "+who, perSecond, of[0], "pgbench: INSERT", of[3], revoked),
			times("logouts, "+who, perSecond, of[1], "pgbench: INSERT", of[3], ended),
			times("refreshes, "+who, perSecond, of[2], "pgbench: UPDATE by key", of[4], refreshed))
	}
	return rows, nil
}

// sqlServer is a store on a PostgreSQL, and the tables of pgbench beside its own.
type sqlServer struct {
	logouts
	store    *postgres.Store
	programs *programs
	url      string
}

// bareRows is how many rows the table has of which a bare commit updates one.
const bareRows = 10_000

// The scripts of pgbench. What they write is as long as a record of the floors.
var scripts = map[string]string{
	"insert": fmt.Sprintf("INSERT INTO bare (record) VALUES (repeat('x', %d)::bytea);\n", recordBytes),
	"update": fmt.Sprintf("\\set id random(1, %d)\nUPDATE bare SET record = repeat('y', %d)::bytea WHERE id = :id;\n", bareRows, recordBytes),
}

func (b *bench) newSQLServer(p *programs, url string) (*sqlServer, error) {
	statement := fmt.Sprintf(`CREATE TABLE bare (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, record bytea NOT NULL);
		INSERT INTO bare (record) SELECT repeat('x', %d)::bytea FROM generate_series(1, %d)`, recordBytes, bareRows)
	if err := runSQL(b.ctx, url, statement); err != nil {
		return nil, err
	}
	for name, script := range scripts {
		if err := os.WriteFile(filepath.Join(p.dir, name+".sql"), []byte(script), 0o644); err != nil {
			return nil, err
		}
	}
	store, err := postgres.Open(b.ctx, postgres.Config{URL: url})
	if err != nil {
		return nil, err
	}
	s := &sqlServer{store: store, programs: p, url: url}
	if s.issuer, err = newIssuer(b.ctx, store); err == nil {
		s.bench = b
		err = s.createAccounts()
	}
	if err != nil {
		store.Close()
		return nil, err
	}
	return s, nil
}

func runSQL(ctx context.Context, url string, statements ...string) error {
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	for _, s := range statements {
		if _, err := c.PgConn().Exec(ctx, s).ReadAll(); err != nil {
			return err
		}
	}
	return nil
}

func (s *sqlServer) revoke(int) error {
	_, err := revokeOne(s.ctx, s.store)
	return err
}

// pace returns how many of n calls a second some callers make.
func (b *bench) pace(callers, n int, call func(i int) error) candidate {
	return func() (float64, error) {
		took, err := perCall(1, func(int) error { return concurrently(callers, n, call) })
		return float64(n) / took, err
	}
}

// ended opens n sessions, which is not timed, and returns how many a second
// some callers end.
func (l *logouts) ended(callers, n int) candidate {
	return func() (float64, error) {
		tokens, err := l.open(n)
		if err != nil {
			return 0, err
		}
		return l.pace(callers, n, func(i int) error { return l.end(tokens[i]) })()
	}
}

// pgbench returns how many transactions a second pgbench makes with a script.
func (s *sqlServer) pgbench(script string, callers, n int) candidate {
	return func() (float64, error) {
		server, err := pgx.ParseConfig(s.url)
		if err != nil {
			return 0, err
		}
		program, err := filepath.Glob("/usr/lib/postgresql/*/bin/pgbench")
		if err != nil || len(program) == 0 {
			return 0, fmt.Errorf("there is no pgbench in /usr/lib/postgresql: %w", os.ErrNotExist)
		}
		cmd := exec.CommandContext(s.ctx, program[len(program)-1], "-n", "-M", "prepared", "-c", strconv.Itoa(callers), "-j", strconv.Itoa(min(callers, 2)),
			"-t", strconv.Itoa(n/callers), "-f", filepath.Join(s.programs.dir, script+".sql"), "-h", server.Host, "-U", server.User, server.Database)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return 0, fmt.Errorf("pgbench: %w: %s", err, out)
		}
		found := transactionsPerSecond.FindSubmatch(out)
		if found == nil {
			return 0, fmt.Errorf("pgbench: no tps in %q", out)
		}
		return strconv.ParseFloat(string(found[1]), 64)
	}
}

var transactionsPerSecond = regexp.MustCompile(`tps = ([0-9.]+) \(without`)

// refreshes are sessions that go on. No two callers refresh the same.
type refreshes struct {
	*logouts
	tokens []string
}

func (r *refreshes) open() (err error) {
	r.tokens, err = r.logouts.open(10 * callers)
	return err
}

func (r *refreshes) one(i int) error {
	token := &r.tokens[i%len(r.tokens)]
	g, err := r.issuer.Refresh(r.ctx, issuer.RefreshRequest{Token: *token})
	if err == nil && g.RefreshToken == *token {
		err = errors.New("the refresh token did not rotate")
	}
	*token = g.RefreshToken
	return err
}
