package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revlog"
	"github.com/quashdev/quash/internal/revset"
)

const (
	issuerURL   = "https://issuer.example"
	audience    = "orders"
	maxLifetime = time.Hour
)

// claimNames are those that revocations name: each verify looks five keys up.
var claimNames = []string{"client_id", "jti", "kid", "sid", "sub"}

// memoryLog is a log that a node follows without a disk.
type memoryLog struct {
	secret  []byte
	keys    []issuer.SigningKey
	changed chan struct{}

	mu      sync.Mutex
	pruned  uint64          // up to there
	records []revset.Record // the one at position p stands at p-1
	node    []issuer.Node   // the only one's row, once it has one
}

var _ revlog.Source = (*memoryLog)(nil)

// newMemoryLog returns a log of n records whose keys no token has.
func newMemoryLog(n int) *memoryLog {
	l := &memoryLog{secret: make([]byte, 32), changed: make(chan struct{}, 1)}
	for _, k := range randomKeys(n, 1) {
		l.append(k)
	}
	return l
}

func randomKeys(n int, seed uint64) []revset.Key {
	random := rand.New(rand.NewPCG(seed, seed))
	keys := make([]revset.Key, n)
	for i := range keys {
		binary.LittleEndian.PutUint64(keys[i][:8], random.Uint64())
		binary.LittleEndian.PutUint64(keys[i][8:], random.Uint64())
	}
	return keys
}

// recordAt is the record at a position that ends what was issued before.
func recordAt(position uint64, k revset.Key) revset.Record {
	forget := time.Now().Add(maxLifetime).Unix()
	return revset.Record{Position: position, Key: k, Before: position, Forget: uint32(forget)}
}

// append returns the position of the new record.
func (l *memoryLog) append(k revset.Key) uint64 {
	l.mu.Lock()
	position := uint64(len(l.records) + 1)
	l.records = append(l.records, recordAt(position, k))
	l.mu.Unlock()
	select {
	case l.changed <- struct{}{}:
	default:
	}
	return position
}

// View implements [revlog.Source].
func (l *memoryLog) View(_ context.Context, fn func(revlog.Reader) error) error {
	return fn(l.now())
}

func (l *memoryLog) now() *memoryView {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &memoryView{l, l.pruned, l.records, l.node}
}

// Update implements [revlog.Source].
func (l *memoryLog) Update(_ context.Context, fn func(revlog.Writer) error) error {
	v := l.now()
	if err := fn(v); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.node = v.node
	return nil
}

// Tail implements [revlog.Source].
func (l *memoryLog) Tail(_ context.Context, after feed.Mark, limit int) (t issuer.Tail, err error) {
	v := l.now()
	t = issuer.Tail{SigningKeys: l.keys, Nodes: v.node, At: after}
	t.Log, _ = v.Log()
	t.Records, t.Mark, err = v.Records(after.Position, limit)
	return t, err
}

// Changed implements [revlog.Source].
func (l *memoryLog) Changed() <-chan struct{} { return l.changed }

// memoryView is the log at a moment. It keeps no evidence.
type memoryView struct {
	log     *memoryLog
	pruned  uint64
	records []revset.Record
	node    []issuer.Node
}

func (v *memoryView) Now() time.Time { return time.Now() }

func (v *memoryView) Log() (issuer.Log, error) {
	head, _ := v.MarkAt(uint64(len(v.records)))
	pruned, _ := v.MarkAt(v.pruned)
	return issuer.Log{ID: "bench", Epoch: 1, HashSecret: v.log.secret, Head: head, Pruned: pruned, MaxLifetime: maxLifetime, Claims: claimNames}, nil
}

func (v *memoryView) Records(after uint64, limit int) ([]revset.Record, feed.Mark, error) {
	found := v.records[after:min(after+uint64(limit), uint64(len(v.records)))]
	m, err := v.MarkAt(after + uint64(len(found)))
	return found, m, err
}

// MarkAt returns a digest that no chain led to; nobody who follows can tell.
func (v *memoryView) MarkAt(position uint64) (feed.Mark, error) {
	m := feed.Mark{Position: position}
	binary.BigEndian.PutUint64(m.Digest[:], position)
	return m, nil
}

func (v *memoryView) Live(yield func(revset.Record) error) error {
	for _, record := range v.records {
		if err := yield(record); err != nil {
			return err
		}
	}
	return nil
}

func (v *memoryView) SigningKeys() ([]issuer.SigningKey, error) { return v.log.keys, nil }

func (v *memoryView) Nodes() ([]issuer.Node, error)             { return v.node, nil }
func (v *memoryView) Drain() (bool, error)                      { return false, nil }
func (v *memoryView) PutVerifier(issuer.Verifier) error         { return nil }
func (v *memoryView) PutConfirmation(issuer.Confirmation) error { return nil }

func (v *memoryView) PutNode(n issuer.Node) error {
	v.node = []issuer.Node{n}
	return nil
}

func (v *memoryView) DeleteNode(string) error {
	v.node = nil
	return nil
}

// node serves the feed of a log on loopback.
type node struct {
	log     *revlog.Log
	address string
	stop    func() error
}

// startNode returns a node that is ready, with TLS unless secure is nil.
func startNode(source revlog.Source, secure *tls.Config) (*node, error) {
	listener, err := listen(secure)
	if err != nil {
		return nil, err
	}
	log := revlog.New(revlog.Config{Issuer: issuerURL, ConnectionsPerKey: 100_000}, source)
	web := &http.Server{ReadHeaderTimeout: time.Minute}
	web.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { log.ServeFeed(w, r, "bench", nil) })
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- log.Run(ctx) }()
	go func() { ended <- web.Serve(listener) }()
	<-log.Ready()
	return &node{log: log, address: listener.Addr().String(), stop: func() error {
		cancel()
		err := web.Close()
		for range cap(ended) {
			if e := <-ended; !errors.Is(e, http.ErrServerClosed) {
				err = errors.Join(err, e)
			}
		}
		return err
	}}, nil
}

// openVerifier returns a verifier that follows the node at an address, over TLS
// unless secure is nil. One with a cache of 1 byte keeps no token.
func openVerifier(ctx context.Context, address, name string, cacheBytes int, secure *tls.Config) (*quash.Verifier, error) {
	scheme := "http://"
	if secure != nil {
		scheme = "https://"
	}
	return quash.Open(ctx, quash.Config{URL: scheme + address, Key: "bench", Name: name, Audience: audience, CacheBytes: cacheBytes, TLS: secure})
}

// connected returns how many verifiers hold a lease of the node.
func (n *node) connected() (holders int) {
	for _, v := range n.log.Verifiers() {
		if v.Lease > 0 {
			holders++
		}
	}
	return holders
}
