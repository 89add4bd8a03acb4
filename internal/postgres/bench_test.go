package postgres_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/pgtest"
	"github.com/quashdev/quash/internal/postgres"
)

const callers = 64

// timed runs fn n times by all callers, and returns how many a second.
func timed(n int, fn func(i int)) float64 {
	var next atomic.Int64
	start := time.Now()
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				fn(int(i))
			}
		})
	}
	wg.Wait()
	return float64(n) / time.Since(start).Seconds()
}

// compared measures two things by turns and reports the median ratio.
func compared(b *testing.B, per int, name string, ours, theirs func(i int)) {
	b.Helper()
	var ratios, rates, floors []float64
	timed(per/4, theirs)
	timed(per/4, ours)
	b.ResetTimer()
	for range b.N {
		for range 5 {
			floor, rate := timed(per, theirs), timed(per, ours)
			ratios, rates, floors = append(ratios, rate/floor), append(rates, rate), append(floors, floor)
		}
	}
	b.ReportMetric(median(rates), "ours/s")
	b.ReportMetric(median(floors), name+"/s")
	b.ReportMetric(median(ratios), "of-"+name)
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}

// floor is what an application would do by itself: a pool with a connection for
// each caller.
func floor(b *testing.B, url string) *pgxpool.Pool {
	b.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		b.Fatal(err)
	}
	cfg.MaxConns = callers
	pool, err := pgxpool.NewWithConfig(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	_, err = pool.Exec(b.Context(), `CREATE TABLE bare (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, record bytea NOT NULL)`)
	if err != nil {
		b.Fatal(err)
	}
	return pool
}

func cluster(b *testing.B) *pgtest.Cluster {
	return pgtest.New(b, pgtest.Options{Fsync: true, Settings: []string{"max_connections = 200"}})
}

func insertBare(b *testing.B, pool *pgxpool.Pool) func(int) {
	record := make([]byte, 96)
	return func(int) {
		if _, err := pool.Exec(context.Background(), `INSERT INTO bare (record) VALUES ($1)`, record); err != nil {
			b.Error(err)
		}
	}
}

func revoke(tx issuer.Tx) error {
	return tx.AppendRevocation(issuer.Revocation{Issuer: "i", Claim: "sub", Value: "u1", Time: tx.Now(), Event: "logout", Actor: "user"})
}

// BenchmarkRevoke measures bare revocations beside one INSERT a commit.
func BenchmarkRevoke(b *testing.B) {
	url := cluster(b).Database(b)
	pool, s := floor(b, url), open(b, url)
	compared(b, 8000, "insert", func(int) {
		if _, err := s.Update(context.Background(), revoke); err != nil {
			b.Error(err)
		}
	}, insertBare(b, pool))
}

// populate makes accounts with one session each, and returns their ids.
func populate(b testing.TB, s *postgres.Store, n int) []string {
	b.Helper()
	ids := make([]string, n)
	for start := 0; start < n; start += 500 {
		_, err := s.Update(b.Context(), func(tx issuer.Tx) error {
			for i := start; i < min(start+500, n); i++ {
				subject := fmt.Sprintf("usr_%022d", i*7919%1_000_003)
				ids[i] = "ses" + subject
				now := tx.Now()
				if err := tx.PutAccount(issuer.Account{Subject: subject, Created: now, Changed: now, Claims: []byte(`{"tenant":"acme"}`)}); err != nil {
					return err
				}
				if err := tx.PutSession(issuer.Session{
					ID: ids[i], Subject: subject, Client: "web", Device: "Firefox on Linux", Address: "192.0.2.7",
					Created: now, LastUsed: now, Expires: now.Add(90 * 24 * time.Hour), Counter: 3, Rotated: now, Tokens: []uint32{1, 2},
				}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	return ids
}

// BenchmarkLogout measures what issuer.Logout does to the store: it reads the
// session, ends it, revokes it and notes it in the audit.
func BenchmarkLogout(b *testing.B) {
	url := cluster(b).Database(b)
	pool, s := floor(b, url), open(b, url)
	const per = 4000
	ids := populate(b, s, per/4+5*per*b.N)
	var at atomic.Int64
	compared(b, per, "insert", func(int) {
		id := ids[at.Add(1)-1]
		if _, err := s.Update(context.Background(), func(tx issuer.Tx) error { return logout(tx, id) }); err != nil {
			b.Error(err)
		}
	}, insertBare(b, pool))
}

func logout(tx issuer.Tx, id string) error {
	session, err := tx.Session(id)
	if err != nil {
		return err
	}
	if _, _, err := tx.EndSessions(issuer.Match{Claim: "sid", Value: id}, "", tx.Now()); err != nil {
		return err
	}
	if err := tx.AppendRevocation(issuer.Revocation{Issuer: "i", Claim: "sid", Value: id, Time: tx.Now(), Event: "logout", Actor: "user"}); err != nil {
		return err
	}
	return tx.AppendAudit(issuer.AuditEntry{Time: tx.Now(), Event: "logout", Actor: "user", Subject: session.Subject, Session: id})
}

// BenchmarkRefresh measures what issuer.Refresh does to the store, beside an
// UPDATE of one row by its primary key.
func BenchmarkRefresh(b *testing.B) {
	for _, mode := range []string{"cache_statement", "cache_describe"} {
		b.Run(mode, func(b *testing.B) {
			url := cluster(b).Database(b) + "&default_query_exec_mode=" + mode
			pool, s := floor(b, url), open(b, url)
			ids := populate(b, s, 10_000)
			record := make([]byte, 96)
			if _, err := pool.Exec(b.Context(), `INSERT INTO bare (record) SELECT $1 FROM generate_series(1, 10000)`, record); err != nil {
				b.Fatal(err)
			}
			compared(b, 4000, "update", func(i int) {
				if err := s.Issue(context.Background(), func(tx issuer.Tx) error { return refresh(tx, ids[i*7919%len(ids)]) }); err != nil {
					b.Error(err)
				}
			}, func(i int) {
				if _, err := pool.Exec(context.Background(), `UPDATE bare SET record = $2 WHERE id = $1`, 1+i*7919%len(ids), record); err != nil {
					b.Error(err)
				}
			})
		})
	}
}

func refresh(tx issuer.Tx, id string) error {
	session, err := tx.Session(id)
	if err != nil {
		return err
	}
	if _, err := tx.Account(session.Subject); err != nil {
		return err
	}
	if _, err := tx.Log(); err != nil {
		return err
	}
	if _, err := tx.SigningKeys(); err != nil {
		return err
	}
	if _, err := tx.Requested(); err != nil {
		return err
	}
	session.Counter++
	session.LastUsed = tx.Now()
	return tx.PutSession(session)
}

// BenchmarkTail measures what a node does after a commit that it is told of.
func BenchmarkTail(b *testing.B) {
	s := open(b, pgtest.Start(b))
	for range 100 {
		if _, err := s.Update(b.Context(), revoke); err != nil {
			b.Fatal(err)
		}
	}
	tail, err := s.Tail(b.Context(), feed.Mark{}, 99)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if got, err := s.Tail(b.Context(), tail.Mark, 100); err != nil || len(got.Records) != 1 {
			b.Fatal(got, err)
		}
	}
}
