package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/jws"
	"github.com/quashdev/quash/internal/sqlite"
)

const (
	recordBytes = 96 // of a record in the floors' files
	callers     = 64
)

// measureDurable measures changes that have been flushed when they return,
// beside the file that one would append records to, on the same disk.
func measureDurable(b *bench) (rows []row, err error) {
	store, i, err := openStore(b.ctx, filepath.Join(b.dir, "quash.db"))
	if err != nil {
		return nil, err
	}
	defer store.Close()
	file, err := newAppendFile(filepath.Join(b.dir, "append"))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	blocks, err := newBlockFile(filepath.Join(b.dir, "group"))
	if err != nil {
		return nil, err
	}
	defer blocks.Close()
	group := newGroup(blocks.write)
	defer group.close()
	l := logouts{bench: b, issuer: i}
	if err := l.createAccounts(); err != nil {
		return nil, err
	}
	appendOne := func() error { return file.append(1) }
	revoke := func() error {
		_, err := revokeOne(b.ctx, store)
		return err
	}
	samples, err := b.alternate("durable", b.long,
		b.alone(revoke), l.alone, b.alone(appendOne),
		b.together(revoke), l.together, b.together(group.do))
	if err != nil {
		return nil, err
	}
	const single, grouped = "floor: append, fsync", "floor: file, group commit"
	together := times("revokes, 64 callers", perSecond, samples[3], grouped, samples[5], bound{Least: .4})
	together.OursTarget = bound{Least: 60_000}
	return []row{
		times("revoke, 1 caller, p50", seconds, samples[0], single, samples[2], bound{Most: 1.5}),
		times("logout, 1 caller, p50", seconds, samples[1], single, samples[2], bound{}),
		together,
		times("logouts, 64 callers", perSecond, samples[4], grouped, samples[5], bound{Least: .2}),
	}, nil
}

func openStore(ctx context.Context, path string) (*sqlite.Store, *issuer.Issuer, error) {
	store, err := sqlite.Open(ctx, sqlite.Config{Path: path})
	if err != nil {
		return nil, nil, err
	}
	i, err := newIssuer(ctx, store)
	if err != nil {
		store.Close()
		return nil, nil, err
	}
	return store, i, nil
}

// newIssuer returns one over a store that can issue.
func newIssuer(ctx context.Context, store issuer.Store) (*issuer.Issuer, error) {
	cfg := issuer.Config{Issuer: issuerURL, Audience: []string{audience}, Algorithm: jws.Ed25519, MaxSessions: 1000, Secret: make([]byte, 32)}
	i, err := issuer.New(cfg, store)
	if err == nil {
		err = i.Prepare(ctx)
	}
	return i, err
}

func revokeOne(ctx context.Context, store issuer.Store) (issuer.Commit, error) {
	return store.Update(ctx, func(tx issuer.Tx) error {
		return tx.AppendRevocation(issuer.Revocation{
			Issuer: issuerURL, Claim: "sid", Value: "s_" + random(), Time: tx.Now(), Event: "revoked", Actor: "bench",
		})
	})
}

// alone returns the median time of single calls.
func (b *bench) alone(call func() error) candidate {
	return func() (float64, error) {
		return medianTime(b.single, func(int) error { return call() })
	}
}

func medianTime(n int, call func(i int) error) (float64, error) {
	times := make([]float64, n)
	for i := range times {
		start := time.Now()
		if err := call(i); err != nil {
			return 0, err
		}
		times[i] = time.Since(start).Seconds()
	}
	return median(times), nil
}

// together returns how many calls a second many callers make.
func (b *bench) together(call func() error) candidate {
	return func() (float64, error) {
		start := time.Now()
		err := concurrently(callers, b.grouped, func(int) error { return call() })
		return float64(b.grouped) / time.Since(start).Seconds(), err
	}
}

// concurrently makes n calls, each of the callers one after the other.
func concurrently(callers, n int, call func(i int) error) error {
	errs := make([]error, callers)
	var working sync.WaitGroup
	for c := range callers {
		working.Go(func() {
			for i := c; i < n && errs[c] == nil; i += callers {
				errs[c] = call(i)
			}
		})
	}
	working.Wait()
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		return errs[i]
	}
	return nil
}

// logouts opens sessions, which is not timed, and ends them, which is: each
// takes out the session, revokes it and writes the audit.
type logouts struct {
	*bench
	issuer *issuer.Issuer
}

// subjectsLoggedIn is enough that none reaches its limit of sessions.
const subjectsLoggedIn = 100

func (l *logouts) createAccounts() error {
	for i := range subjectsLoggedIn {
		account := issuer.NewAccount{Subject: fmt.Sprint("u_", i)}
		if _, err := l.issuer.CreateAccount(l.ctx, issuer.User(""), account); err != nil {
			return err
		}
	}
	return nil
}

func (l *logouts) open(n int) ([]string, error) {
	tokens := make([]string, n)
	err := concurrently(callers, n, func(i int) error {
		g, err := l.issuer.OpenSession(l.ctx, issuer.User(""), fmt.Sprint("u_", i%subjectsLoggedIn), issuer.Device{})
		tokens[i] = g.RefreshToken
		return err
	})
	return tokens, err
}

func (l *logouts) end(token string) error {
	_, err := l.issuer.Logout(l.ctx, token, "")
	return err
}

func (l *logouts) alone() (float64, error) {
	tokens, err := l.open(l.single)
	if err != nil {
		return 0, err
	}
	return medianTime(len(tokens), func(i int) error { return l.end(tokens[i]) })
}

func (l *logouts) together() (float64, error) {
	tokens, err := l.open(l.grouped / 4)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	err = concurrently(callers, len(tokens), func(i int) error { return l.end(tokens[i]) })
	return float64(len(tokens)) / time.Since(start).Seconds(), err
}

// appendFile is the least that makes a record durable.
type appendFile struct{ *os.File }

func newAppendFile(name string) (appendFile, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	return appendFile{f}, err
}

// append adds n records and flushes them.
func (f appendFile) append(n int) error {
	if _, err := f.Write(make([]byte, n*recordBytes)); err != nil {
		return err
	}
	return f.Sync()
}

// blockFile has its blocks already, so that a flush is of them alone.
type blockFile struct {
	*os.File
	offset int64
}

const blockFileBytes = 64 << 20

func newBlockFile(name string) (*blockFile, error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	if _, err = f.Write(make([]byte, blockFileBytes)); err == nil {
		err = f.Sync()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &blockFile{File: f}, nil
}

// write makes n records durable, of at most as many as there are callers.
func (f *blockFile) write(n int) error {
	if _, err := f.WriteAt(make([]byte, n*recordBytes), f.offset); err != nil {
		return err
	}
	f.offset = (f.offset + int64(n*recordBytes)) % (blockFileBytes - callers*recordBytes)
	return flush(f.File)
}

// group is the least that serves many callers at once: one goroutine commits
// for all who wait.
type group struct {
	commit func(events int) error
	queue  chan chan error
	done   chan struct{}
}

func newGroup(commit func(events int) error) *group {
	g := &group{commit: commit, queue: make(chan chan error, callers), done: make(chan struct{})}
	go g.run()
	return g
}

// do returns when an event of the caller's is committed.
func (g *group) do() error {
	answer := make(chan error, 1)
	g.queue <- answer
	return <-answer
}

func (g *group) run() {
	defer close(g.done)
	for first := range g.queue {
		runtime.Gosched() // callers that were just answered queue again
		waiting := []chan error{first}
		for len(g.queue) > 0 {
			waiting = append(waiting, <-g.queue)
		}
		err := g.commit(len(waiting))
		for _, answer := range waiting {
			answer <- err
		}
	}
}

func (g *group) close() {
	close(g.queue)
	<-g.done
}
