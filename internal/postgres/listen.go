package postgres

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// channel is where commits that changed the log are notified.
const channel = "quash"

const (
	deafPoll  = 100 * time.Millisecond // while notifications are not known to come
	quietPoll = time.Second            // while they are
)

// listener gives the hint of Changed for what other nodes and applications
// commit: by notifications, where they come, and by looking at the head.
type listener struct {
	s      *Store
	hears  atomic.Bool   // notifications are known to come
	heard  atomic.Int64  // how many did
	begun  chan struct{} // has a value when they begin to
	cancel context.CancelFunc
	ended  sync.WaitGroup
}

// listen starts the listener. Through a pooler no notification comes.
func (s *Store) listen(pooled bool) *listener {
	ctx, cancel := context.WithCancel(context.Background())
	l := &listener{s: s, begun: make(chan struct{}, 1), cancel: cancel}
	at, _ := l.look(ctx) // where that fails, all is new
	l.ended.Go(func() { l.poll(ctx, at) })
	if !pooled {
		l.ended.Go(func() { l.hear(ctx) })
	}
	return l
}

func (l *listener) close() {
	l.cancel()
	l.ended.Wait()
}

// hear keeps a connection of its own that listens, and makes another when it
// breaks.
func (l *listener) hear(ctx context.Context) {
	for wait := deafPoll; ctx.Err() == nil; wait = min(2*wait, 10*time.Second) {
		began := time.Now()
		err := l.attend(ctx)
		l.hears.Store(false)
		if ctx.Err() != nil {
			return
		}
		l.s.log.Warn("the connection for notifications broke; looking at the log's head instead until there is another", "error", err)
		if time.Since(began) > time.Minute {
			wait = deafPoll
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// attend listens on one connection until it breaks. Its own notification is
// the proof that others come.
func (l *listener) attend(ctx context.Context) error {
	cfg := l.s.pool.Config().ConnConfig
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	c, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = c.Close(closing)
	}()
	if _, err := c.Exec(ctx, `LISTEN `+channel); err != nil {
		return err
	}
	if _, err := c.Exec(ctx, `SELECT pg_notify('`+channel+`', $1)`, l.s.id); err != nil {
		return err
	}
	select {
	case l.begun <- struct{}{}: // what was committed before is not notified
	default:
	}
	for {
		// A connection that is silent for long is asked whether it is there.
		quiet, cancel := context.WithTimeout(ctx, 30*time.Second)
		n, err := c.WaitForNotification(quiet)
		silent := quiet.Err() != nil
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			l.heard.Add(1)
			l.hears.Store(true)
			if n.Payload != l.s.id {
				l.s.tell()
			}
		case !silent:
			return err
		default:
			if err := c.Ping(ctx); err != nil {
				return err
			}
		}
	}
}

// position is what a hint is about.
type position struct {
	epoch, head, catalog int64
	requests             int64
}

// poll looks at the head for what is not as it was at, seldom while
// notifications are known to come. A change that it finds before any
// notification is a sign that they do not.
func (l *listener) poll(ctx context.Context, at position) {
	for {
		interval := deafPoll
		if l.hears.Load() {
			interval = quietPoll
		}
		heard := l.heard.Load()
		select {
		case <-ctx.Done():
			return
		case <-l.begun:
		case <-time.After(interval):
		}
		now, err := l.look(ctx)
		if err != nil || now == at {
			continue
		}
		at = now
		if l.heard.Load() == heard {
			l.hears.Store(false)
		}
		l.s.tell() // what was heard may have been of another commit
	}
}

func (l *listener) look(ctx context.Context) (p position, err error) {
	bounded, cancel := context.WithTimeout(ctx, acquireTimeout)
	defer cancel()
	err = l.s.pool.QueryRow(bounded, `SELECT epoch, head, catalog, coalesce((SELECT max(id) FROM quash.outbox), 0) FROM quash.meta`).
		Scan(&p.epoch, &p.head, &p.catalog, &p.requests)
	return p, err
}
