// Package revlog is the node's side of the feed (docs/protocol.md): it follows
// the log in the store and brings it to every connected verifier, in order,
// without a gap or a duplicate, and knows what each of them has applied.
//
// One goroutine reads the store. What one reading finds becomes one frame,
// encoded once into a ring that every connection writes from at its own pace.
// Connections hold cursors, not queues: a slow one costs the others nothing.
//
// It also grants the leases that verifiers rely on, and so can say when no
// verifier accepts any more what was revoked, and keeps the evidence of it. The
// arithmetic is in package lease.
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
	"github.com/quashdev/quash/internal/lease"
	"github.com/quashdev/quash/internal/revset"
)

// Config is what a [Log] is made from. Zero fields take the defaults.
type Config struct {
	Issuer string       // iss of the tokens that the log is about; required
	Lease  lease.Length // how long a verifier may rely on a grant; default 30 s
	Own    string       // key of the server's own verifiers: they are shown only while they are waited for
	Logger *slog.Logger // default: none
	Clock  lease.Clock  // default: the machine's
	// Confirmed, if set, is told how long it took until this node's verifiers
	// had confirmed what was sent together. It must not block.
	Confirmed func(took time.Duration)
	// Heal is called when the source returns [issuer.ErrForked], until it
	// returns nil; see [issuer.Issuer.Heal]. Nil: somebody else has to.
	Heal              func(context.Context) error
	BufferBytes       int           // how far back the ring reaches before the store is asked; default 4 MiB
	ConnectionsPerKey int           // open connections of one verifier key; default 1000
	WriteTimeout      time.Duration // how long one write to a verifier may take; default 10 s
}

const (
	// interval is how long at most a change in the store goes unnoticed when
	// no hint comes, and the pause after a failure.
	interval = time.Second
	// storeTimeout bounds one reading of the store, or one writing.
	storeTimeout = 5 * time.Second
	// glance is the pause between two looks at the rows of other nodes while
	// somebody waits for them.
	glance = 25 * time.Millisecond
	// pulseDelay is how long at most a ping waits for records to be answered with.
	pulseDelay = 50 * time.Millisecond
	// forgetBudget lets the sweep pass the largest set in a few minutes, in
	// steps of about a millisecond.
	forgetBudget = 1 << 17
	// snapshotAge is how long a snapshot is kept for others that join. It takes
	// more memory than the set that it was made from.
	snapshotAge = time.Minute
)

// Log follows the log of a [Source] and serves it to verifiers. Make one with
// [New] and run it with [Log.Run]. All methods may be called concurrently.
type Log struct {
	cfg     Config
	source  Source
	ready   chan struct{}
	once    sync.Once // closes ready
	started atomic.Bool
	bytes   atomic.Uint64      // written to verifiers
	done    sync.WaitGroup     // of connections
	life    context.Context    // ends when Run does
	cancel  context.CancelFunc // ends life

	// Only Run's goroutine touches these.
	following bool   // the log is loaded
	id        string // of the node that this is about to be
	jwks      jwks
	tidied    time.Time

	// Each holds a value while there is a reason.
	begin     chan failure  // to start over as another node
	risen     chan struct{} // to tell other nodes of the floor
	impatient chan struct{} // to look at other nodes' rows soon
	requested chan struct{} // to drain the outbox

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
	pulsing     bool          // a pulse is under way
	linger      time.Duration // how long a stopping node waits for goodbyes
	connections uint64        // so far
	processes   map[identity]*process
	open        map[string]int       // connections by key, those that linger included
	fanout      []*connection        // never changed in place
	overlaps    map[string]time.Time // when the connections of a replaced key end
	waits       map[*wait]struct{}
	stats       Stats

	book     *lease.Book
	raised   uint64 // the book's floor, as far as all that follows from it was done
	evidence evidence
	membership
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
	cfg.Lease = cmp.Or(cfg.Lease, lease.Default)
	if cfg.Clock == nil {
		cfg.Clock = lease.System()
	}
	if cfg.Confirmed == nil {
		cfg.Confirmed = func(time.Duration) {}
	}
	life, cancel := context.WithCancel(context.Background())
	return &Log{
		cfg: cfg, source: source,
		life: life, cancel: cancel,
		ready: make(chan struct{}),
		begin: make(chan failure, 1), risen: make(chan struct{}, 1), impatient: make(chan struct{}, 1), requested: make(chan struct{}, 1),
		set:       newSet(),
		ring:      newRing(cfg.BufferBytes, feed.Mark{}, 0),
		processes: map[identity]*process{},
		open:      map[string]int{},
		overlaps:  map[string]time.Time{},
		waits:     map[*wait]struct{}{},
		book:      lease.NewBook(cfg.Lease), evidence: evidence{told: cfg.Confirmed},
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
	defer l.end()
	beside, cancel := context.WithCancel(ctx)
	var others sync.WaitGroup
	defer others.Wait()
	defer cancel()
	joined := false
	tick := time.NewTicker(min(interval, l.cfg.Lease.Margin()))
	defer tick.Stop()
	for {
		err := l.advance(ctx)
		if errors.Is(err, issuer.ErrForked) {
			err = l.heal(ctx, err)
		}
		if ctx.Err() != nil {
			return nil
		}
		l.note(err)
		if err == nil && !joined {
			joined = true
			others.Go(func() { l.beat(beside) })
			others.Go(func() { l.record(beside) })
			others.Go(func() { l.drain(beside) })
		}
		if !l.rest(ctx, tick.C, err != nil) {
			return nil
		}
	}
}

// heal has a new epoch begin, and reads it.
func (l *Log) heal(ctx context.Context, forked error) error {
	if l.following {
		l.anew(forked.Error())
	}
	if l.cfg.Heal == nil {
		return forked
	}
	bounded, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := l.cfg.Heal(bounded); err != nil {
		return fmt.Errorf("begin a new epoch: %w", err)
	}
	return l.advance(ctx)
}

// rest waits until there is a reason to look at the source again, and reports
// false where ctx has ended. After a failure it only waits a while.
func (l *Log) rest(ctx context.Context, tick <-chan time.Time, failed bool) bool {
	hint, impatient := l.source.Changed(), (<-chan struct{})(l.impatient)
	if failed {
		hint, impatient = nil, nil
	}
	select {
	case <-ctx.Done():
		return false
	case <-hint:
	case <-impatient:
		select { // others take a moment, too
		case <-time.After(glance):
		case <-hint:
		case <-ctx.Done():
		}
	case f := <-l.begin:
		l.mu.Lock()
		current := f.node == l.row.ID
		l.mu.Unlock()
		if current {
			l.anew(f.reason)
		}
	case <-tick:
		l.tidy(ctx)
	}
	return true
}

// end tells the verifiers and takes the node out of the store.
func (l *Log) end() {
	l.stop()
	l.leave(context.Background())
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	if err := l.writeEvidence(ctx); err != nil {
		l.cfg.Logger.Error("the last evidence of confirmations is lost", "error", err)
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

// tidy drops what is past its time, a bounded part at once: records, leases,
// secrets, and the rows of nodes that are dead.
func (l *Log) tidy(ctx context.Context) {
	if now := time.Now(); now.Sub(l.tidied) >= interval {
		l.tidied = now
		l.set.Forget(uint32(now.Unix()), forgetBudget)
		if s := l.snapshot.Load(); s != nil && now.Unix()-s.used.Load() > int64(snapshotAge/time.Second) {
			l.snapshot.CompareAndSwap(s, nil)
		}
		l.endOverlaps()
	}
	l.expire()
	l.bury(ctx)
}

// errContradicted says that the source no longer continues what was read.
var errContradicted = errors.New("the log is not the continuation of what was read before")

// advance brings the ring to the end of the source's log.
func (l *Log) advance(ctx context.Context) error {
	for {
		anew := !l.following
		if anew {
			if err := l.enter(ctx); err != nil {
				return err
			}
		}
		more, err := l.follow(ctx)
		if errors.Is(err, errContradicted) {
			l.anew(err.Error())
			if !anew {
				continue
			}
		}
		if err != nil || !more {
			return err
		}
	}
}

// anew has this process start over as another node, of which every verifier
// gets a snapshot.
func (l *Log) anew(reason string) {
	l.cfg.Logger.Error("this node starts over: it reads the log anew, every verifier gets a snapshot, and nothing is confirmed for the length of a lease", "reason", reason)
	l.following = false
	l.depart(reason)
}

// enter makes this process a node and loads the log.
func (l *Log) enter(ctx context.Context) error {
	if err := l.join(ctx); err != nil {
		return err
	}
	if err := l.load(ctx); err != nil {
		return err
	}
	l.following = true
	return nil
}

// follow reads what the source has after the ring, and reports whether it has
// more than that.
func (l *Log) follow(ctx context.Context) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	l.mu.Lock()
	known, at := l.settings.log, l.ring.head
	l.mu.Unlock()
	t, err := l.source.Tail(ctx, at, feed.MaxRecords)
	if err == nil {
		err = continues(t, known, at)
	}
	if err != nil {
		return false, fmt.Errorf("read the log after position %d: %w", at.Position, err)
	}
	keys, err := l.published(t.SigningKeys, t.Log.MaxLifetime)
	if err != nil {
		return false, err
	}
	if t.Requested {
		wake(l.requested)
	}
	l.publish(settings{log: t.Log, keys: keys}, t)
	return t.Mark.Position < t.Log.Head.Position, nil
}

// continues checks that the log found is the one known, and goes on from at.
func continues(t issuer.Tail, known issuer.Log, at feed.Mark) error {
	switch {
	case t.Log.ID != known.ID || t.Log.Epoch != known.Epoch:
		return fmt.Errorf("%w: it is log %s, epoch %d", errContradicted, t.Log.ID, t.Log.Epoch)
	case t.Log.Head.Position < at.Position:
		return fmt.Errorf("%w: it ends at %d, before %d", errContradicted, t.Log.Head.Position, at.Position)
	case t.Log.Pruned.Position > at.Position:
		return fmt.Errorf("%w: it was pruned up to %d, beyond %d", errContradicted, t.Log.Pruned.Position, at.Position)
	case t.At != at:
		return fmt.Errorf("%w: the digest at %d is another", errContradicted, at.Position)
	}
	return nil
}

// jwks is what was published last, and from what.
type jwks struct {
	keys     []issuer.SigningKey
	lifetime time.Duration
	at       time.Time
	text     json.RawMessage
}

// published returns the JSON Web Key Set of the keys that live tokens may be
// signed with. Making it costs more than all else that a commit asks of a node,
// so it is made again when the keys change, and now and then, as keys end.
func (l *Log) published(keys []issuer.SigningKey, lifetime time.Duration) (json.RawMessage, error) {
	now := time.Now()
	same := slices.EqualFunc(keys, l.jwks.keys, func(a, b issuer.SigningKey) bool {
		return a.ID == b.ID && a.Withdrawn == b.Withdrawn && a.Retired.Equal(b.Retired)
	})
	if same && lifetime == l.jwks.lifetime && now.Sub(l.jwks.at) < interval {
		return l.jwks.text, nil
	}
	set, err := issuer.Published(keys, lifetime, now)
	if err != nil {
		return nil, fmt.Errorf("publish the signing keys: %w", err)
	}
	text, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("publish the signing keys: %w", err)
	}
	l.jwks = jwks{keys, lifetime, now, text}
	return text, nil
}

// load begins from nothing: the live records of the source and its head.
func (l *Log) load(ctx context.Context) error {
	var s settings
	var keys []issuer.SigningKey
	var set *revset.Set
	err := l.source.View(ctx, func(r Reader) (err error) {
		if s.log, err = r.Log(); err != nil {
			return err
		}
		if keys, err = r.SigningKeys(); err != nil {
			return err
		}
		set, err = loadSet(r, s.log.Head.Position)
		return err
	})
	if err != nil {
		return fmt.Errorf("read the live revocations: %w", err)
	}
	if s.keys, err = l.published(keys, s.log.MaxLifetime); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set = set
	l.settings = s
	l.ring = newRing(l.cfg.BufferBytes, s.log.Head, l.ring.end)
	l.settled = l.ring.end
	l.loaded = &loaded{s.log.Head.Position, l.cfg.Clock()}
	l.book.Read(s.log.Head.Position)
	l.once.Do(func() { close(l.ready) })
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

// publish makes what was found part of the stream and wakes the connections.
// Names and keys come before the records that need them.
func (l *Log) publish(s settings, t issuer.Tail) {
	_ = l.set.Apply(t.Records, t.Mark.Position) // only a set with a limit is ever full
	now := l.cfg.Clock()
	l.mu.Lock()
	end := l.ring.end
	l.announce(s)
	if len(t.Records) > 0 {
		l.ring.records(t.Mark, t.Records)
		l.stats.Frames++
		l.evidence.sent(l.row.ID, t.At.Position+1, t.Mark.Position, now)
	}
	l.look(t.Nodes, t.Log.Head.Position, now)
	l.book.Read(t.Mark.Position)
	l.raise()
	l.settle()
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

// Kills reports whether a revocation that the node has read kills a token of
// the issuer that was issued at rev and carries the claims.
func (l *Log) Kills(rev uint64, carried []issuer.Match) bool {
	l.mu.Lock()
	set, secret := l.set, l.settings.log.HashSecret
	l.mu.Unlock()
	return slices.ContainsFunc(carried, func(m issuer.Match) bool {
		before, _, ok := set.Lookup(revset.KeyOf(secret, l.cfg.Issuer, m.Claim, m.Value))
		return ok && rev < before
	})
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
	Connections int    // open now, but for the server's own
	Frames      uint64 // frames of records, each of which went to every connection
	Bytes       uint64 // written to verifiers
	Resumes     uint64 // connections that went on from their position
	Snapshots   uint64 // connections that got a snapshot
	Slow        uint64 // connections that fell behind the ring or did not read
	Lost        uint64 // leases that ended without having been given back
}

// Stats returns the counters.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	for _, c := range l.fanout {
		if !c.process.own {
			s.Connections++
		}
	}
	s.Bytes = l.bytes.Load()
	return s
}
