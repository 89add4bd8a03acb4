package quash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/jws"
	"github.com/quashdev/quash/internal/revlog"
	"github.com/quashdev/quash/internal/revset"
	"github.com/quashdev/quash/internal/sqlite"
)

// database is the store of a simulation, behind every node's link. Stall is
// called where time may pass within a transaction.
type database interface {
	View(ctx context.Context, fn func(revlog.Reader) error) error
	Tail(ctx context.Context, after feed.Mark, limit int) (issuer.Tail, error)
	Update(ctx context.Context, fn func(revlog.Writer) error, stall func()) error
	revoke(ctx context.Context, r issuer.Revocation, stall func()) (uint64, error)
	confirmations(position uint64) ([]issuer.Confirmation, error)
	close() error
}

// memory is a database that keeps its contract and no more: an Update reads a
// snapshot, and what it writes stands later, unless a row that it writes, or
// the head that a node's renewal read, was changed meanwhile; then it runs
// again. So nodes cannot rely on what an Update finds beside these being so
// still when it commits.
type memory struct {
	mu       sync.Mutex
	now      contents
	evidence []issuer.Confirmation
}

// contents are a database at one moment. Its slices only grow or are replaced.
type contents struct {
	log     issuer.Log
	keys    []issuer.SigningKey
	records []revset.Record
	marks   []feed.Mark
	nodes   []issuer.Node
}

func newMemory(key *jws.PublicKey, lifetime time.Duration) (*memory, error) {
	k, err := storedKey(key)
	if err != nil {
		return nil, err
	}
	return &memory{now: contents{
		log:   issuer.Log{ID: "simulation", Epoch: 1, HashSecret: make([]byte, 32), MaxLifetime: lifetime, Claims: []string{"sub"}},
		keys:  []issuer.SigningKey{k},
		marks: make([]feed.Mark, 1),
	}}, nil
}

func storedKey(key *jws.PublicKey) (issuer.SigningKey, error) {
	public, err := json.Marshal(key)
	return issuer.SigningKey{ID: key.ID(), Algorithm: string(key.Algorithm()), Public: public, Created: time.Now()}, err
}

func (m *memory) contents() contents {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

func (m *memory) close() error { return nil }

func (m *memory) View(_ context.Context, fn func(revlog.Reader) error) error { return fn(m.contents()) }

func (m *memory) Tail(_ context.Context, after feed.Mark, limit int) (issuer.Tail, error) {
	c := m.contents()
	t := issuer.Tail{Log: c.log, SigningKeys: c.keys, Nodes: c.nodes}
	if after.Position > c.log.Head.Position {
		return t, nil
	}
	t.At = c.marks[after.Position]
	var err error
	t.Records, t.Mark, err = c.Records(after.Position, limit)
	return t, err
}

func (m *memory) revoke(_ context.Context, r issuer.Revocation, stall func()) (uint64, error) {
	stall()
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &m.now
	c.log.Head = r.Seal(c.log)
	c.records = append(c.records, r.Record())
	c.marks = append(c.marks, c.log.Head)
	return r.Position, nil
}

func (m *memory) Update(_ context.Context, fn func(revlog.Writer) error, stall func()) error {
	for {
		tx := transaction{contents: m.contents()}
		if err := fn(&tx); err != nil {
			return err
		}
		stall()
		if m.commit(&tx) {
			return nil
		}
	}
}

// commit writes what the transaction wrote, and reports false where another
// has changed the same rows.
func (m *memory) commit(tx *transaction) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(tx.written) > 0 && m.now.log.Head != tx.log.Head {
		return false
	}
	nodes := slices.Clone(m.now.nodes)
	for _, w := range tx.written {
		now, before := slices.IndexFunc(nodes, w.is), slices.IndexFunc(tx.nodes, w.is)
		if (now < 0) != (before < 0) || now >= 0 && nodes[now] != tx.nodes[before] {
			return false
		}
		if now >= 0 {
			nodes = slices.Delete(nodes, now, now+1)
		}
		if !w.deleted {
			nodes = append(nodes, w.node)
		}
	}
	m.now.nodes = nodes
	for _, c := range tx.evidence {
		same := func(o issuer.Confirmation) bool { return o.Node == c.Node && o.Last == c.Last }
		if !slices.ContainsFunc(m.evidence, same) {
			m.evidence = append(m.evidence, c)
		}
	}
	return true
}

func (m *memory) confirmations(position uint64) (found []issuer.Confirmation, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.evidence {
		if c.First <= position && position <= c.Last {
			found = append(found, c)
		}
	}
	return found, nil
}

func (c contents) Now() time.Time                            { return time.Now() }
func (c contents) Log() (issuer.Log, error)                  { return c.log, nil }
func (c contents) SigningKeys() ([]issuer.SigningKey, error) { return c.keys, nil }
func (c contents) MarkAt(position uint64) (feed.Mark, error) { return c.marks[position], nil }

func (c contents) Live(yield func(revset.Record) error) error {
	for _, r := range c.records {
		if err := yield(r); err != nil {
			return err
		}
	}
	return nil
}

func (c contents) Records(after uint64, limit int) ([]revset.Record, feed.Mark, error) {
	end := min(after+uint64(limit), uint64(len(c.records)))
	return slices.Clone(c.records[after:end]), c.marks[end], nil
}

// transaction collects what an Update writes.
type transaction struct {
	contents
	written  []row
	evidence []issuer.Confirmation
}

// row is a node's, as a transaction leaves it.
type row struct {
	node    issuer.Node
	deleted bool
}

func (r row) is(n issuer.Node) bool { return n.ID == r.node.ID }

func (t *transaction) Nodes() ([]issuer.Node, error)     { return t.nodes, nil }
func (t *transaction) PutVerifier(issuer.Verifier) error { return nil }

func (t *transaction) Drain() (left bool, err error) { return false, nil }

func (t *transaction) PutNode(n issuer.Node) error {
	t.written = append(t.written, row{node: n})
	return nil
}

func (t *transaction) DeleteNode(id string) error {
	r := row{node: issuer.Node{ID: id}, deleted: true}
	if !slices.ContainsFunc(t.nodes, r.is) {
		return issuer.ErrNotFound
	}
	t.written = append(t.written, r)
	return nil
}

func (t *transaction) PutConfirmation(c issuer.Confirmation) error {
	t.evidence = append(t.evidence, c)
	return nil
}

// file is the store that the server uses, as a database.
type file struct {
	revlog.Source
	store *sqlite.Store
}

func newFile(ctx context.Context, key *jws.PublicKey, lifetime time.Duration) (*file, error) {
	k, err := storedKey(key)
	if err != nil {
		return nil, err
	}
	s, err := sqlite.Open(ctx, sqlite.Config{Path: ":memory:"})
	if err != nil {
		return nil, err
	}
	_, err = s.Update(ctx, func(tx issuer.Tx) error {
		return errors.Join(tx.SetMaxLifetime(lifetime), tx.PutSigningKey(k))
	})
	return &file{revlog.FromStore(s, nil), s}, err
}

func (f *file) close() error { return f.store.Close() }

func (f *file) Update(ctx context.Context, fn func(revlog.Writer) error, stall func()) error {
	stall()
	return f.Source.Update(ctx, fn)
}

func (f *file) revoke(ctx context.Context, r issuer.Revocation, stall func()) (uint64, error) {
	stall()
	c, err := f.store.Update(ctx, func(tx issuer.Tx) error { return tx.AppendRevocation(r) })
	return c.Last, err
}

func (f *file) confirmations(position uint64) (found []issuer.Confirmation, err error) {
	err = f.store.View(context.Background(), func(r issuer.Reader) (err error) {
		found, err = r.Confirmations(position)
		return err
	})
	return found, err
}

// call is a kind of call on the database.
type call int

const (
	update call = iota
	tail
	view
	calls // how many kinds there are
)

// link is a process's way to the database. It is the [revlog.Source] of a node.
type link struct {
	db      database
	dice    *dice
	machine *machine
	changed chan struct{}

	mu      sync.Mutex
	severed bool
	modes   [calls]mode
	calm    chan struct{} // closed when what is stalled goes on
}

// mode is how calls of a kind fare.
type mode struct {
	slow  time.Duration // how long at most each part of one takes
	stall float64       // in how many parts it takes until the link is calm
	fail  float64       // how often one fails
	doubt float64       // how often one fails after it was done
}

var errLink = errors.New("simulation: the database cannot be reached")

func newLink(db database, d *dice, m *machine) *link {
	return &link{db: db, dice: d, machine: m, changed: make(chan struct{}, 1), calm: make(chan struct{})}
}

func (l *link) Changed() <-chan struct{} { return l.changed }

func (l *link) View(ctx context.Context, fn func(revlog.Reader) error) error {
	return l.do(ctx, view, func() error { return l.db.View(ctx, fn) })
}

func (l *link) Tail(ctx context.Context, after feed.Mark, limit int) (t issuer.Tail, err error) {
	err = l.do(ctx, tail, func() (err error) {
		t, err = l.db.Tail(ctx, after, limit)
		return err
	})
	return t, err
}

func (l *link) Update(ctx context.Context, fn func(revlog.Writer) error) error {
	return l.do(ctx, update, func() error {
		return l.db.Update(ctx, fn, func() { _ = l.pass(ctx, update) })
	})
}

// revoke appends a revocation, and tells committed at once.
func (l *link) revoke(ctx context.Context, r issuer.Revocation, committed func(position uint64)) (position uint64, err error) {
	err = l.do(ctx, update, func() (err error) {
		position, err = l.db.revoke(ctx, r, func() { _ = l.pass(ctx, update) })
		if err == nil {
			committed(position)
		}
		return err
	})
	return position, err
}

// do makes a call. One that fails after it was done is of unknown outcome.
func (l *link) do(ctx context.Context, c call, fn func() error) error {
	defer l.machine.awake()
	if err := l.pass(ctx, c); err != nil {
		return err
	}
	if err := fn(); err != nil {
		return err
	}
	err := l.pass(ctx, c)
	if doubt := l.mode(c).doubt; err == nil && doubt > 0 && l.dice.chance(doubt) {
		err = errLink
	}
	if err != nil {
		return fmt.Errorf("%w: %w", issuer.ErrUnknown, err)
	}
	return nil
}

func (l *link) mode(c call) mode {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.modes[c]
}

// pass lets as much time go by as one part of a call takes.
func (l *link) pass(ctx context.Context, c call) error {
	l.machine.awake()
	l.mu.Lock()
	m, calm := l.modes[c], l.calm
	l.mu.Unlock()
	done := ctx.Done()
	if m.stall > 0 && l.dice.chance(m.stall) {
		select {
		case <-calm:
		case <-done:
		}
	} else {
		wait(l.dice.between(0, max(m.slow, time.Millisecond)), done)
	}
	l.mu.Lock()
	severed := l.severed
	l.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case severed || m.fail > 0 && l.dice.chance(m.fail/2):
		return errLink
	}
	return nil
}

// set makes calls of some kinds fare otherwise, until release.
func (l *link) set(m mode, kinds ...call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range kinds {
		l.modes[c] = m
	}
}

// release has calls of all kinds fare well again.
func (l *link) release() {
	l.set(mode{}, update, tail, view)
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.calm)
	l.calm = make(chan struct{})
}

// sever ends the link for good.
func (l *link) sever() {
	l.mu.Lock()
	l.severed = true
	l.mu.Unlock()
	l.release()
}
