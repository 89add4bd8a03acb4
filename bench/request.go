package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	_ "modernc.org/sqlite" // what Quash uses, too

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/jws"
)

// measureRequest measures what a service does for each request to know who
// asks, by ways that are in use, beside the verifier: with tokens that were
// seen before, a set of live revocations of the same size everywhere, and all
// servers on this machine. Over a network those that ask take longer.
func measureRequest(b *bench) (rows []row, err error) {
	p, err := newPrograms()
	if err != nil {
		return nil, err
	}
	defer p.close()
	w, err := b.newWorld()
	if err != nil {
		return nil, err
	}
	defer w.close()
	ways, stop, err := b.ways(p, w)
	defer stop()
	if err != nil {
		return nil, err
	}
	for _, callers := range []int{1, 16, 64} {
		what := fmt.Sprintf("requests, %d at once", callers)
		var candidates []candidate
		for _, way := range ways {
			candidates = append(candidates, b.rate(callers, way.ask))
		}
		samples, err := b.alternate(what, b.long, candidates...)
		if err != nil {
			return nil, err
		}
		for i, way := range ways[1:] {
			target := bound{}
			if callers == 64 {
				target = way.target
			}
			rows = append(rows, times(what, perSecond, samples[0], way.name, samples[i+1], target))
		}
	}
	return rows, nil
}

// world is a node with its log, one issuer's tokens, and a verifier that has
// seen them.
type world struct {
	*node
	log    *memoryLog
	signer *signer
	tokens []string
	keys   keyring
	cached asker
	close  func()

	verifier *quash.Verifier
}

// asker finds out whether the request with the i-th token is to be served.
type asker func(i int) error

func (b *bench) newWorld() (*world, error) {
	log := newMemoryLog(b.revocations)
	s, err := newSigner(jws.Ed25519)
	if err != nil {
		return nil, err
	}
	log.keys = []issuer.SigningKey{{ID: s.kid, Algorithm: string(jws.Ed25519), Public: s.jwk, Created: time.Now()}}
	n, err := startNode(log, nil)
	if err != nil {
		return nil, err
	}
	v, err := openVerifier(b.ctx, n.address, "cached", 0, nil)
	if err != nil {
		return nil, errors.Join(err, n.stop())
	}
	w := &world{node: n, log: log, signer: s, keys: keyring{s.kid: s.public}, verifier: v}
	w.close = func() {
		_ = v.Close(context.Background())
		_ = n.stop()
	}
	if w.tokens, err = s.tokens(b.hot, v.Status().Position); err != nil {
		w.close()
		return nil, err
	}
	w.cached = func(i int) error {
		_, err := v.Verify(w.tokens[i%len(w.tokens)])
		return err
	}
	for i := range w.tokens {
		err = errors.Join(err, w.cached(i))
	}
	return w, err
}

// way is one of those to know who asks. The target is how many times as many
// requests a verifier with its cache should allow.
type way struct {
	name   string
	ask    asker
	target bound
}

// ways returns the verifier with its cache first, and what ends those that
// were begun.
func (b *bench) ways(p *programs, w *world) (ways []way, stop func(), err error) {
	var stops []func() error
	stop = func() {
		for _, s := range stops {
			_ = s()
		}
	}
	cold, err := openVerifier(b.ctx, w.address, "uncached", 1, nil)
	if err != nil {
		return nil, stop, err
	}
	stops = append(stops, func() error { return cold.Close(context.Background()) })
	claims := golangJWT(w.keys, w.signer.alg)
	read := func(i int) (*golangClaims, error) { return claims(w.tokens[i%len(w.tokens)]) }
	ways = []way{
		{name: "quash", ask: w.cached},
		{name: "golang-jwt alone", ask: func(i int) error { _, err := read(i); return err }},
		{name: "quash, uncached", ask: func(i int) error { _, err := cold.Verify(w.tokens[i%len(w.tokens)]); return err }},
	}
	denied, opaque, end, err := askRedis(b.ctx, p, w, read)
	if err != nil {
		return nil, stop, err
	}
	stops = append(stops, end)
	inPostgres, end, err := askPostgres(b.ctx, p, w, read)
	if err != nil {
		return nil, stop, err
	}
	stops = append(stops, end)
	inSQLite, end, err := askSQLite(b.ctx, filepath.Join(b.dir, "peer.db"), w, read)
	if err != nil {
		return nil, stop, err
	}
	stops = append(stops, end)
	return append(ways,
		way{"golang-jwt + Redis GET", denied, bound{Least: 80}},
		way{"golang-jwt + PostgreSQL SELECT", inPostgres, bound{Least: 100}},
		way{"golang-jwt + SQLite SELECT", inSQLite, bound{}},
		way{"opaque session in Redis", opaque, bound{Least: 20}}), stop, nil
}

type reading func(i int) (*golangClaims, error)

var errDenied = errors.New("the token is denied")

// askRedis returns two ways: a list of denied tokens, and sessions in the place
// of tokens.
func askRedis(ctx context.Context, p *programs, w *world, read reading) (denied, opaque asker, end func() error, err error) {
	socket, err := p.redis()
	if err != nil {
		return nil, nil, nil, err
	}
	client := redis.NewClient(&redis.Options{Network: "unix", Addr: socket, PoolSize: 64})
	pipe := client.Pipeline()
	for i := range peerRows {
		pipe.Set(ctx, "denied:"+fmt.Sprint(i), "1", time.Hour)
	}
	for i := range w.tokens {
		c, err := read(i)
		if err != nil {
			return nil, nil, nil, err
		}
		text, err := json.Marshal(c)
		if err != nil {
			return nil, nil, nil, err
		}
		pipe.Set(ctx, "session:"+fmt.Sprint(i), text, time.Hour)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, nil, nil, err
	}
	denied = func(i int) error {
		c, err := read(i)
		if err != nil {
			return err
		}
		if err := client.Get(ctx, "denied:"+c.ID).Err(); !errors.Is(err, redis.Nil) {
			return errors.Join(errDenied, err)
		}
		return nil
	}
	opaque = func(i int) error {
		text, err := client.Get(ctx, "session:"+fmt.Sprint(i%len(w.tokens))).Bytes()
		if err != nil {
			return err
		}
		return json.Unmarshal(text, new(golangClaims))
	}
	return denied, opaque, client.Close, nil
}

// peerRows is how many rows a peer's table has, or keys its list.
const peerRows = 100_000

// A row a subject says from when on its tokens are good.
const (
	createSubjects = `CREATE TABLE subject (name TEXT PRIMARY KEY, valid_from BIGINT NOT NULL)`
	selectSubject  = `SELECT valid_from FROM subject WHERE name = $1`
)

func (c *golangClaims) issuedBefore(seconds int64) error {
	if c.IssuedAt.Unix() < seconds {
		return errDenied
	}
	return nil
}

func askPostgres(ctx context.Context, p *programs, w *world, read reading) (asker, func() error, error) {
	url, err := p.postgres(ctx)
	if err != nil {
		return nil, nil, err
	}
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, nil, err
	}
	cfg.MaxConns = 64
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	end := func() error { pool.Close(); return nil }
	// It listens before it is ready.
	for start := time.Now(); pool.Ping(ctx) != nil && time.Since(start) < startTimeout; {
		time.Sleep(20 * time.Millisecond)
	}
	fill := func(name string) error {
		_, err := pool.Exec(ctx, `INSERT INTO subject VALUES ($1, 1) ON CONFLICT DO NOTHING`, name)
		return err
	}
	_, err = pool.Exec(ctx, createSubjects+`; INSERT INTO subject SELECT 'other_' || n, 1 FROM generate_series(1, `+fmt.Sprint(peerRows)+`) n`)
	for i := 0; err == nil && i < len(w.tokens); i++ {
		var c *golangClaims
		if c, err = read(i); err == nil {
			err = fill(c.Subject)
		}
	}
	if err == nil {
		_, err = pool.Exec(ctx, `ANALYZE subject`)
	}
	return func(i int) error {
		c, err := read(i)
		if err != nil {
			return err
		}
		var from int64
		if err := pool.QueryRow(ctx, selectSubject, c.Subject).Scan(&from); err != nil {
			return err
		}
		return c.issuedBefore(from)
	}, end, err
}

func askSQLite(ctx context.Context, file string, w *world, read reading) (asker, func() error, error) {
	db, err := sql.Open("sqlite", "file:"+file+"?_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)")
	if err != nil {
		return nil, nil, err
	}
	if err := fillSQLite(ctx, db, w, read); err != nil {
		return nil, db.Close, err
	}
	db.SetMaxOpenConns(8)
	query, err := db.PrepareContext(ctx, selectSubject)
	return func(i int) error {
		c, err := read(i)
		if err != nil {
			return err
		}
		var from int64
		if err := query.QueryRowContext(ctx, c.Subject).Scan(&from); err != nil {
			return err
		}
		return c.issuedBefore(from)
	}, db.Close, err
}

func fillSQLite(ctx context.Context, db *sql.DB, w *world, read reading) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, createSubjects); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < ?) INSERT INTO subject SELECT 'other_' || n, 1 FROM c`, peerRows); err != nil {
		return err
	}
	for i := range w.tokens {
		c, err := read(i)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO subject VALUES (?, 1)`, c.Subject); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// rate returns how many requests a second are answered when so many callers
// each make one after the other.
func (b *bench) rate(callers int, ask asker) candidate {
	return func() (float64, error) {
		var over atomic.Bool
		var total atomic.Int64
		errs := make([]error, callers)
		var working sync.WaitGroup
		start := time.Now()
		for c := range callers {
			working.Go(func() {
				n := 0
				for i := c * 7919; n == 0 || !over.Load() && errs[c] == nil; i++ {
					errs[c] = ask(i)
					n++
				}
				total.Add(int64(n))
			})
		}
		time.Sleep(b.parallel)
		over.Store(true)
		working.Wait()
		return float64(total.Load()) / time.Since(start).Seconds(), errors.Join(errs...)
	}
}
