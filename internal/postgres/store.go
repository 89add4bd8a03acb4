// Package postgres keeps an [issuer.Store] in a PostgreSQL database, 13 or
// later, for any number of nodes. All it has stands in the schema quash.
//
// Updates of all nodes stand in one order: each begins with the lock of the
// log's head and holds it until it has committed. One goroutine of a store
// writes them; it takes as many as wait, at most 64, into one database
// transaction, so that one flush carries them all. Issues run beside it, on one
// snapshot each, with the accounts that they read locked; an update that changes
// sessions writes the rows of their accounts, so an issue has either committed
// by then or starts again.
//
// What it does works through a pooler in transaction mode too, such as
// pgbouncer: no state stands in a session. Notifications do not come through
// one, so there the head is polled.
package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/quashdev/quash/internal/issuer"
)

const (
	maxGroup = 64  // transactions that one commit carries
	maxQueue = 256 // transactions that wait; more block their callers
	// issueWorkers is how many groups of issues run at the same time: while one
	// is flushed, another can be put together.
	issueWorkers = 2
	// acquireTimeout bounds the wait for a connection of the pool.
	acquireTimeout = 3 * time.Second
)

var (
	errClosed = errors.New("postgres: the store is closed")
	errBusy   = fmt.Errorf("postgres: no connection within %v: the database is busy or out of reach; look at it, or raise pool_max_conns in its URL", acquireTimeout)
)

// Config says where the data is.
type Config struct {
	// URL of the database, or its words, in any of libpq's forms:
	// "postgres://role:password@host/database". What the environment says
	// (PGPASSWORD and others) fills in what is missing. Beside libpq's
	// parameters, it may have
	//
	//	pool_max_conns           connections at most; default 8, or 4 for each CPU if that is more
	//	default_query_exec_mode  how statements are sent; default cache_statement, and
	//	                         cache_describe behind a pooler. One that keeps prepared statements
	//	                         apart (pgbouncer from 1.21 on) can take cache_statement too.
	//
	// The role must own the schema quash, or be allowed to create it.
	URL string
	// Logger receives what only an operator can mend. Nil: nobody does.
	Logger *slog.Logger
	// Committed, if set, is told of each commit of updates how long its group
	// of transactions took, the flush included, and how many they were. The
	// writer waits for it.
	Committed func(took time.Duration, transactions int)
}

// Store is an [issuer.Store]. It is made by [Open].
type Store struct {
	id       string // of what it notifies: it need not be told of that
	log      *slog.Logger
	pool     *pgxpool.Pool
	updates  chan *op
	issues   chan *op
	workers  sync.WaitGroup // that serve the two
	changed  chan struct{}
	listener *listener
	bounds   []string                // statements that set them, where they are not the connection's
	catalogs atomic.Pointer[catalog] // the latest that was read
	doubts   sync.Map                // *pgconn.PgConn whose latest commit may not be replicated

	left left // by the worker of updates

	seenLock sync.Mutex
	seen     seen

	closing sync.RWMutex // held for writing while closed is set
	closed  bool

	told   func(time.Duration, int)
	commit func(*conn) error // sends a transaction's end
	look   func(context.Context, *unit) (fate, error)
}

var _ issuer.Store = (*Store)(nil)

// Open opens the store and brings its tables to the current version; ctx bounds
// the opening only. The caller must close the store.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	s := &Store{
		id: rand.Text(), log: cfg.Logger, updates: make(chan *op, maxQueue), issues: make(chan *op, maxQueue), changed: make(chan struct{}, 1),
		told: cfg.Committed, commit: (*conn).flush,
	}
	s.look = s.find
	if s.told == nil {
		s.told = func(time.Duration, int) {}
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	pooled, err := s.prepare(ctx, cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("open the PostgreSQL database: %w", err)
	}
	if err := s.settle(ctx); err != nil {
		s.pool.Close()
		return nil, fmt.Errorf("open the PostgreSQL database: %w", err)
	}
	s.listener = s.listen(pooled)
	s.workers.Add(1 + issueWorkers)
	go s.work(s.updates, s.update)
	for range issueWorkers {
		go s.work(s.issues, s.issue)
	}
	return s, nil
}

// prepare migrates the database and makes the pool. It reports whether there is
// a pooler on the way.
func (s *Store) prepare(ctx context.Context, url string) (pooled bool, err error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return false, fmt.Errorf("%w; want postgres://role:password@host/database", err)
	}
	if !strings.Contains(url, "pool_max_conns") {
		cfg.MaxConns = int32(max(8, 4*runtime.NumCPU()))
	}
	cfg.ConnConfig.OnNotice = s.notice
	if cfg.ConnConfig.ConnectTimeout == 0 {
		cfg.ConnConfig.ConnectTimeout = 10 * time.Second
	}
	one := cfg.ConnConfig.Copy()
	one.DefaultQueryExecMode = pgx.QueryExecModeExec
	c, err := pgx.ConnectConfig(ctx, one)
	if err != nil {
		return false, err
	}
	defer c.Close(context.WithoutCancel(ctx))
	all, err := loadMigrations(migrations)
	if err != nil {
		return false, err
	}
	if err := migrate(ctx, c, all); err != nil {
		return false, err
	}
	var pid uint32
	if err := c.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&pid); err != nil {
		return false, fmt.Errorf("ask whether there is a pooler: %w", err)
	}
	// A pooler names itself when a connection begins, not the server's process.
	pooled = pid != c.PgConn().PID()
	if pooled && !strings.Contains(url, "default_query_exec_mode") {
		cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	for name, d := range bounds {
		if ms := strconv.FormatInt(d.Milliseconds(), 10); pooled {
			s.bounds = append(s.bounds, "SET LOCAL "+name+" = "+ms)
		} else {
			cfg.ConnConfig.RuntimeParams[name] = ms
		}
	}
	s.pool, err = pgxpool.NewWithConfig(ctx, cfg)
	return pooled, err
}

// Exists reports whether a database has Quash's tables.
func Exists(ctx context.Context, url string) (found bool, err error) {
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		return false, fmt.Errorf("look into the PostgreSQL database: %w", err)
	}
	defer c.Close(context.WithoutCancel(ctx))
	if err = c.QueryRow(ctx, `SELECT to_regclass('quash.meta') IS NOT NULL`, pgx.QueryExecModeExec).Scan(&found); err != nil {
		return false, fmt.Errorf("look into the PostgreSQL database: %w", err)
	}
	return found, nil
}

// settle reads where the log stands, before which there is nothing to compare.
func (s *Store) settle(ctx context.Context) error {
	return s.View(ctx, func(r issuer.Reader) error {
		l, err := r.Log()
		if err == nil {
			s.remember(l)
		}
		return err
	})
}

// notice is told of the server's warnings. One of them can make a commit
// doubtful: it stands here, but its wait for a standby was cut short.
func (s *Store) notice(c *pgconn.PgConn, n *pgconn.Notice) {
	if n.Code == "01000" && strings.EqualFold(n.SeverityUnlocalized, "warning") {
		s.doubts.Store(c, n.Message)
	}
}

// doubted reports, once, whether there was such a warning.
func (s *Store) doubted(c *conn) bool {
	_, found := s.doubts.LoadAndDelete(c.c.Conn().PgConn())
	return found
}

// acquire takes a connection from the pool.
func (s *Store) acquire(ctx context.Context) (*conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	bounded, cancel := context.WithTimeout(ctx, acquireTimeout)
	defer cancel()
	c, err := s.pool.Acquire(bounded)
	switch {
	case err == nil:
		return &conn{c: c}, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case s.isClosed():
		return nil, errClosed
	case bounded.Err() == nil:
		return nil, fmt.Errorf("postgres: the database refuses connections or breaks them off; see that it runs and can be reached: %w", err)
	}
	return nil, fmt.Errorf("%w: %w", errBusy, err)
}

func (s *Store) isClosed() bool {
	s.closing.RLock()
	defer s.closing.RUnlock()
	return s.closed
}

// Close waits for the transactions that have been accepted and for running
// views, then closes the connections. Later calls fail; closing again does
// nothing.
func (s *Store) Close() error {
	s.closing.Lock()
	already := s.closed
	s.closed = true
	s.closing.Unlock()
	if already {
		return nil
	}
	close(s.updates)
	close(s.issues)
	s.workers.Wait()
	s.listener.close()
	s.pool.Close()
	return nil
}

// Stats says how the pool of connections fares.
type Stats struct {
	Open, Idle, InUse, Max int
	Waits                  int64         // how often somebody had to wait for a connection
	Waited                 time.Duration // how long altogether
}

// Stats returns how the pool fares. What it counts began with Open.
func (s *Store) Stats() Stats {
	p := s.pool.Stat()
	return Stats{
		Open: int(p.TotalConns()), Idle: int(p.IdleConns()), InUse: int(p.AcquiredConns()), Max: int(p.MaxConns()),
		Waits: p.EmptyAcquireCount(), Waited: p.EmptyAcquireWaitTime(),
	}
}

// View implements [issuer.Store]. A panic of fn is the caller's. The transaction
// ends behind the caller's back: it changed nothing, and nobody else has its
// connection until it has ended.
func (s *Store) View(ctx context.Context, fn func(issuer.Reader) error) error {
	var tries tries
	for {
		err := s.view(ctx, fn)
		if !again(err) || !tries.again() {
			return err
		}
	}
}

func (s *Store) view(ctx context.Context, fn func(issuer.Reader) error) error {
	c, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	defer func() { go c.end() }()
	err = fn(&reader{s: s, c: c, l: &ledger{}, before: s.remembered(), start: beginView})
	if c.failed != nil && (err == nil || errors.Is(c.failed, errAgain)) {
		return c.failed
	}
	return err
}

// Update implements [issuer.Store].
func (s *Store) Update(ctx context.Context, fn func(issuer.Tx) error) (issuer.Commit, error) {
	return s.do(ctx, func(t *tx) error { return fn(t) })
}

// Prune implements [issuer.Store]. It forgets old tickets as well.
func (s *Store) Prune(ctx context.Context, now time.Time, idle time.Duration, limit int) (records, sessions int, err error) {
	_, err = s.do(ctx, func(t *tx) (err error) {
		if records, err = t.pruneRecords(now, limit); err != nil {
			return fmt.Errorf("prune records: %w", err)
		}
		if sessions, err = t.pruneSessions(now, idle, limit); err != nil {
			return fmt.Errorf("prune sessions: %w", err)
		}
		return t.pruneTickets(now, limit)
	})
	for full := true; err == nil && full; {
		_, err = s.do(ctx, func(t *tx) error {
			n, err := t.pruneAssertions(now, limit)
			full = n > 0 && n == limit
			return err
		})
	}
	if err != nil {
		return 0, 0, err
	}
	return records, sessions, nil
}

// Changed implements [issuer.Store].
func (s *Store) Changed() <-chan struct{} { return s.changed }

// tell gives the hint of Changed.
func (s *Store) tell() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}
