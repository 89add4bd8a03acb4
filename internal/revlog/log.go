// Package revlog is the node's side of the feed (docs/protocol.md): it follows
// the log in the store and brings it to every connected verifier, in order,
// without a gap or a duplicate, and knows what each of them has applied.
//
// One goroutine reads the store. What one reading finds becomes one frame,
// encoded once into a ring that every connection writes from at its own pace.
// Connections hold cursors, not queues: a slow one costs the others nothing.
package revlog

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revset"
)

// Config is what a [Log] is made from. Zero fields take the defaults.
type Config struct {
	Issuer            string        // iss of the tokens that the log is about; required
	Logger            *slog.Logger  // default: none
	BufferBytes       int           // how far back the ring reaches before the store is asked; default 4 MiB
	ConnectionsPerKey int           // open connections of one verifier key; default 1000
	WriteTimeout      time.Duration // how long one write to a verifier may take; default 10 s
}

const (
	// interval is how long at most a change in the store goes unnoticed when
	// no hint comes, and the pause after a failure.
	interval = time.Second
	// readTimeout bounds one reading of the store.
	readTimeout = 5 * time.Second
	// pulseDelay is how long at most a ping waits for records to be answered with.
	pulseDelay = 50 * time.Millisecond
	// forgetBudget lets the sweep pass the largest set in a few minutes, in
	// steps of about a millisecond.
	forgetBudget = 1 << 17
	// snapshotAge is how long a snapshot is kept for others that join.
	snapshotAge = 10 * time.Second
)

// Log follows the log of a [Source] and serves it to verifiers. Make one with
// [New] and run it with [Log.Run]. All methods may be called concurrently.
type Log struct {
	cfg     Config
	source  Source
	ready   chan struct{}
	started atomic.Bool
	bytes   atomic.Uint64      // written to verifiers
	done    sync.WaitGroup     // of connections
	life    context.Context    // ends when Run does
	cancel  context.CancelFunc // ends life

	encoding sync.Mutex // held by who encodes a snapshot, taken before mu
	snapshot atomic.Pointer[snapshot]

	mu          sync.Mutex
	generation  int         // of the log: a connection belongs to one
	set         *revset.Set // has all up to the ring's head; only Run's goroutine writes to it
	settings    settings
	ring        *ring
	failure     error  // of the last reading
	settled     uint64 // offset after the last claims or keys message
	stopping    bool
	pulsing     bool // a pulse is under way
	connections map[identity]*connection
	open        map[string]int       // connections by key, those that linger included
	fanout      []*connection        // never changed in place
	overlaps    map[string]time.Time // when the connections of a replaced key end
	waits       map[*wait]struct{}
	stats       Stats
}

// settings is what hello says besides positions.
type settings struct {
	log  issuer.Log
	keys json.RawMessage // JSON Web Key Set
}

// New returns a Log that knows nothing until [Log.Run] has read the source.
func New(cfg Config, source Source) *Log {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.BufferBytes = cmp.Or(cfg.BufferBytes, 4<<20)
	cfg.ConnectionsPerKey = cmp.Or(cfg.ConnectionsPerKey, 1000)
	cfg.WriteTimeout = cmp.Or(cfg.WriteTimeout, 10*time.Second)
	life, cancel := context.WithCancel(context.Background())
	return &Log{
		cfg: cfg, source: source,
		life: life, cancel: cancel,
		ready:       make(chan struct{}),
		set:         newSet(),
		ring:        newRing(cfg.BufferBytes, feed.Mark{}, 0),
		connections: map[identity]*connection{},
		open:        map[string]int{},
		overlaps:    map[string]time.Time{},
		waits:       map[*wait]struct{}{},
	}
}

// newSet returns a set without a limit: a node that held back records because
// they are many would let all that they revoke live. Logins are what is
// refused instead.
func newSet() *revset.Set { return revset.New(math.MaxInt) }

// Ready is closed once the log has been read for the first time.
func (l *Log) Ready() <-chan struct{} { return l.ready }

// Run follows the source until ctx ends; then it tells the verifiers, closes
// their connections and returns nil. A source that fails is asked again every
// second, and connections stay open meanwhile. Run may be called once.
func (l *Log) Run(ctx context.Context) error {
	if l.started.Swap(true) {
		return errors.New("revlog: Run was called before; make a new Log")
	}
	defer l.stop()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		err := l.advance(ctx)
		if ctx.Err() != nil {
			return nil
		}
		l.note(err)
		hint := l.source.Changed()
		if err != nil {
			hint = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-hint:
		case <-tick.C:
			l.tidy()
		}
	}
}

// note keeps what became of a reading. Where reading begins to fail, and where
// it works again, it is logged.
func (l *Log) note(err error) {
	l.mu.Lock()
	failing := l.failure != nil
	l.failure = err
	l.mu.Unlock()
	switch {
	case err != nil && !failing:
		l.cfg.Logger.Error("reading the log failed; verifiers stay connected and it is tried again every second", "error", err)
	case err == nil && failing:
		l.cfg.Logger.Info("the log can be read again", "position", l.Head().Position)
	}
}

// Err returns why the source could not be read last, nil while it can be.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failure
}

// tidy forgets what is past its time, a bounded part at once.
func (l *Log) tidy() {
	l.set.Forget(uint32(time.Now().Unix()), forgetBudget)
	if s := l.snapshot.Load(); s != nil && time.Since(s.taken) > snapshotAge {
		l.snapshot.CompareAndSwap(s, nil)
	}
	l.endOverlaps()
}

// errContradicted says that the source no longer continues what was read.
var errContradicted = errors.New("the log is not the continuation of what was read before")

// advance brings the ring to the end of the source's log.
func (l *Log) advance(ctx context.Context) error {
	select {
	case <-l.ready:
	default:
		return l.load(ctx, "")
	}
	for {
		p, err := l.read(ctx)
		if errors.Is(err, errContradicted) {
			l.cfg.Logger.Error("reading the log anew; every verifier gets a snapshot", "error", err)
			return l.load(ctx, err.Error())
		}
		if err != nil {
			return err
		}
		l.publish(p)
		if p.mark.Position >= p.log.Head.Position {
			return nil
		}
	}
}

// page is what one view of the source found.
type page struct {
	settings
	records []revset.Record
	mark    feed.Mark // of the last record, or where it was before
}

func (l *Log) read(ctx context.Context) (page, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	l.mu.Lock()
	known, at := l.settings.log, l.ring.head
	l.mu.Unlock()
	var p page
	err := l.source.View(ctx, func(r Reader) (err error) {
		if p.settings, err = readSettings(r); err != nil {
			return err
		}
		if err := continues(r, known, at, p.log); err != nil {
			return err
		}
		p.records, p.mark, err = r.Records(at.Position, feed.MaxRecords)
		return err
	})
	if err != nil {
		return page{}, fmt.Errorf("read the log after position %d: %w", at.Position, err)
	}
	return p, nil
}

// continues checks that the log found is the one known, and goes on from at.
func continues(r Reader, known issuer.Log, at feed.Mark, found issuer.Log) error {
	switch {
	case found.ID != known.ID || found.Epoch != known.Epoch:
		return fmt.Errorf("%w: it is log %s, epoch %d", errContradicted, found.ID, found.Epoch)
	case found.Head.Position < at.Position:
		return fmt.Errorf("%w: it ends at %d, before %d", errContradicted, found.Head.Position, at.Position)
	case found.Pruned.Position > at.Position:
		return fmt.Errorf("%w: it was pruned up to %d, beyond %d", errContradicted, found.Pruned.Position, at.Position)
	}
	m, err := r.MarkAt(at.Position)
	if err == nil && m != at {
		return fmt.Errorf("%w: the digest at %d is another", errContradicted, at.Position)
	}
	return err
}

func readSettings(r Reader) (s settings, err error) {
	if s.log, err = r.Log(); err != nil {
		return s, err
	}
	published, err := issuer.Published(r)
	if err != nil {
		return s, err
	}
	s.keys, err = json.Marshal(published)
	return s, err
}

// load begins from nothing: the live records of the source and its head. The
// connections of what was before end with the reason.
func (l *Log) load(ctx context.Context, reason string) error {
	var s settings
	var set *revset.Set
	err := l.source.View(ctx, func(r Reader) (err error) {
		if s, err = readSettings(r); err != nil {
			return err
		}
		set, err = loadSet(r, s.log.Head.Position)
		return err
	})
	if err != nil {
		return fmt.Errorf("read the live revocations: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set = set
	l.generation++
	l.settings = s
	l.ring = newRing(l.cfg.BufferBytes, s.log.Head, l.ring.end)
	l.settled = l.ring.end
	if reason == "" {
		close(l.ready)
		return nil
	}
	l.dismissAll(feed.Bye{Code: feed.ByeChanged, Detail: reason})
	return nil
}

func loadSet(r Reader, head uint64) (*revset.Set, error) {
	set := newSet()
	batch := make([]revset.Record, 0, 1024)
	err := r.Live(func(record revset.Record) error {
		if batch = append(batch, record); len(batch) < cap(batch) {
			return nil
		}
		err := set.Apply(batch, record.Position)
		batch = batch[:0]
		return err
	})
	if err != nil {
		return nil, err
	}
	return set, set.Apply(batch, head)
}

// publish makes p part of the stream and wakes the connections. Names and keys
// come before the records that need them.
func (l *Log) publish(p page) {
	_ = l.set.Apply(p.records, p.mark.Position) // only a set with a limit is ever full
	l.mu.Lock()
	end := l.ring.end
	l.announce(p.settings)
	if len(p.records) > 0 {
		l.ring.records(p.mark, p.records)
		l.stats.Frames++
	}
	moved, fanout := l.ring.end != end, l.fanout
	l.mu.Unlock()
	if moved {
		for _, c := range fanout {
			c.rouse()
		}
	}
}

// announce appends what changed of the settings. The caller holds mu.
func (l *Log) announce(s settings) {
	end := l.ring.end
	if !slices.Equal(s.log.Claims, l.settings.log.Claims) {
		l.ring.message(claimsMessage(s))
	}
	if !slices.Equal(s.keys, l.settings.keys) {
		l.ring.message(keysMessage(s))
	}
	if l.ring.end != end {
		l.settled = l.ring.end
	}
	if s.log.MaxLifetime != l.settings.log.MaxLifetime {
		l.dismissAll(feed.Bye{Code: feed.ByeChanged, Detail: "the longest lifetime of tokens changed; connect again"})
	}
	l.settings = s
}

func claimsMessage(s settings) []byte {
	// A list of strings can always be encoded.
	b, _ := feed.AppendJSON(nil, feed.KindClaims, append([]string{}, s.log.Claims...))
	return b
}

func keysMessage(s settings) []byte { return append([]byte{byte(feed.KindKeys)}, s.keys...) }

// Head returns the position that the node has read up to.
func (l *Log) Head() feed.Mark {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ring.head
}

// Live returns how many revocations are live. It waits for nothing that takes
// longer the more they are.
func (l *Log) Live() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.set.Len()
}

// Stats counts since the start.
type Stats struct {
	Connections int    // open now
	Frames      uint64 // frames of records, each of which went to every connection
	Bytes       uint64 // written to verifiers
	Resumes     uint64 // connections that went on from their position
	Snapshots   uint64 // connections that got a snapshot
	Slow        uint64 // connections that fell behind the ring or did not read
}

// Stats returns the counters.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	s.Connections = len(l.fanout)
	s.Bytes = l.bytes.Load()
	return s
}
