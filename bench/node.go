package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
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
	records []revset.Record // the one at position p stands at p-1
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
	l.mu.Lock()
	r := memoryReader{l, l.records}
	l.mu.Unlock()
	return fn(r)
}

// Changed implements [revlog.Source].
func (l *memoryLog) Changed() <-chan struct{} { return l.changed }

type memoryReader struct {
	*memoryLog
	records []revset.Record
}

func (r memoryReader) Now() time.Time { return time.Now() }

func (r memoryReader) Log() (issuer.Log, error) {
	head, _ := r.MarkAt(uint64(len(r.records)))
	return issuer.Log{ID: "bench", Epoch: 1, HashSecret: r.secret, Head: head, MaxLifetime: maxLifetime, Claims: claimNames}, nil
}

func (r memoryReader) Records(after uint64, limit int) ([]revset.Record, feed.Mark, error) {
	found := r.records[after:min(after+uint64(limit), uint64(len(r.records)))]
	m, err := r.MarkAt(after + uint64(len(found)))
	return found, m, err
}

// MarkAt returns a digest that no chain led to; nobody who follows can tell.
func (r memoryReader) MarkAt(position uint64) (feed.Mark, error) {
	m := feed.Mark{Position: position}
	binary.BigEndian.PutUint64(m.Digest[:], position)
	return m, nil
}

func (r memoryReader) Live(yield func(revset.Record) error) error {
	for _, record := range r.records {
		if err := yield(record); err != nil {
			return err
		}
	}
	return nil
}

func (r memoryReader) SigningKeys() ([]issuer.SigningKey, error) { return r.keys, nil }

// node serves the feed of a log on loopback.
type node struct {
	log     *revlog.Log
	address string
	stop    func() error
}

func startNode(source revlog.Source) (*node, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
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

// openVerifier returns a verifier that follows the node at an address. One
// with a cache of 1 byte keeps no token.
func openVerifier(ctx context.Context, address, name string, cacheBytes int) (*quash.Verifier, error) {
	return quash.Open(ctx, quash.Config{URL: "http://" + address, Key: "bench", Name: name, Audience: audience, CacheBytes: cacheBytes})
}

// connected waits until n verifiers are connected to the node.
func (n *node) connected(ctx context.Context, want int) error {
	for ; ctx.Err() == nil; time.Sleep(time.Millisecond) {
		if len(n.log.Verifiers()) == want {
			return nil
		}
	}
	return fmt.Errorf("%d of %d verifiers are connected: %w", len(n.log.Verifiers()), want, ctx.Err())
}
