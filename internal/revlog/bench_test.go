package revlog_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revlog"
	"github.com/quashdev/quash/internal/revset"
)

// pongs is when those that no records came after have been answered, so that
// they do not slow down the floor.
const pongs = 100 * time.Millisecond

// BenchmarkConfirm times one revocation from the call of the store until every
// verifier has acknowledged it, over loopback TCP, in turn with the floor: the
// same bytes written to as many bare connections, each of which acknowledges.
func BenchmarkConfirm(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			w, conns := fleet(b, n)
			f := newFloor(b, n)
			var feedTimes, floorTimes []time.Duration
			for b.Loop() {
				start := time.Now()
				f.publish()
				floorTimes = append(floorTimes, time.Since(start))
				start = time.Now()
				c := w.revokeOne()
				confirmed(b, w, c.Last, n)
				feedTimes = append(feedTimes, time.Since(start))
				time.Sleep(pongs)
			}
			report(b, feedTimes, floorTimes)
			for _, c := range conns {
				_ = c.Close()
			}
			f.close()
			w.close()
		})
	}
}

// BenchmarkBurst times 200 transactions at once until every verifier has
// acknowledged the last, beside 200 messages joined and written at once.
func BenchmarkBurst(b *testing.B) {
	const n, burst = 1000, 200
	w, conns := fleet(b, n)
	f := newFloor(b, n)
	f.frame = slices.Repeat(f.frame, burst)
	var feedTimes, floorTimes []time.Duration
	for b.Loop() {
		start := time.Now()
		f.publish()
		floorTimes = append(floorTimes, time.Since(start))
		start = time.Now()
		var callers sync.WaitGroup
		var mu sync.Mutex
		var last uint64
		for range burst {
			callers.Go(func() {
				c := w.revokeOne()
				mu.Lock()
				defer mu.Unlock()
				last = max(last, c.Last)
			})
		}
		callers.Wait()
		confirmed(b, w, last, n)
		feedTimes = append(feedTimes, time.Since(start))
		time.Sleep(pongs)
	}
	report(b, feedTimes, floorTimes)
	for _, c := range conns {
		_ = c.Close()
	}
	f.close()
	w.close()
}

func report(b *testing.B, feedTimes, floorTimes []time.Duration) {
	quantile := func(d []time.Duration, q float64) float64 {
		slices.Sort(d)
		return float64(d[int(q*float64(len(d)-1))].Microseconds())
	}
	p50, p99 := quantile(feedTimes, .5), quantile(feedTimes, .99)
	floor50, floor99 := quantile(floorTimes, .5), quantile(floorTimes, .99)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(p50, "p50-µs")
	b.ReportMetric(p99, "p99-µs")
	b.ReportMetric(floor50, "floor-p50-µs")
	b.ReportMetric(floor99, "floor-p99-µs")
	b.ReportMetric(p50/floor50, "ratio-p50")
}

// BenchmarkConnection reports the memory that a connection takes at rest,
// without that of the kernel; the client's socket is in it.
func BenchmarkConnection(b *testing.B) {
	const n = 1000
	for b.Loop() {
		w, _ := fleet(b, 0)
		conns := make([]net.Conn, n)
		before := inUse()
		for i := range conns {
			conn, r, err := newRecorder(fmt.Sprint("v", i)).dial(w)
			if err != nil {
				b.Fatal(err)
			}
			for range 2 { // hello and mark
				if _, err := readFrame(r); err != nil {
					b.Fatal(err)
				}
			}
			conns[i] = conn
		}
		b.ReportMetric(float64(inUse()-before)/n, "B/connection")
		for _, c := range conns {
			_ = c.Close()
		}
		w.close()
	}
}

func inUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

func (w *world) revokeOne() issuer.Commit {
	return w.update(func(tx issuer.Tx) error {
		return tx.AppendRevocation(issuer.Revocation{Issuer: testIssuer, Claim: "sid", Value: "s", Time: tx.Now(), Event: "revoked", Actor: "test"})
	})
}

// tcpListener listens on loopback.
type tcpListener struct{ net.Listener }

func (l tcpListener) dial() (net.Conn, error) { return net.Dial("tcp", l.Addr().String()) }

func listenTCP(b *testing.B) tcpListener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	return tcpListener{l}
}

// fleet is a node with n verifiers connected over TCP.
func fleet(b *testing.B, n int) (*world, []net.Conn) {
	w := newWorld(b, revlog.Config{ConnectionsPerKey: 10_000})
	w.halt()
	w.start(listenTCP(b))
	return w, w.connectMany(b, n)
}

func (w *world) connectMany(b *testing.B, n int) []net.Conn {
	conns := make([]net.Conn, n)
	for i := range conns {
		conn, r, err := newRecorder(fmt.Sprint("v", i)).dial(w)
		if err != nil {
			b.Fatal(err)
		}
		conns[i] = conn
		go acknowledge(conn, r.(*bufio.Reader))
	}
	for len(w.log.Verifiers()) < n {
		time.Sleep(time.Millisecond)
	}
	confirmed(b, w, w.revokeOne().Last, n)
	return conns
}

func confirmed(b *testing.B, w *world, position uint64, n int) {
	b.Helper()
	if c := w.log.WaitConfirmed(b.Context(), position); c.Applied != n {
		b.Fatalf("%d verifiers confirmed, want %d", c.Applied, n)
	}
}

// acknowledge is the least that a verifier can be.
func acknowledge(conn net.Conn, r *bufio.Reader) {
	payload := make([]byte, 64<<10)
	var m feed.Mark
	due := false
	for {
		h, err := ws.ReadHeader(r)
		if err != nil {
			return
		}
		payload = payload[:h.Length]
		if _, err := io.ReadFull(r, payload); err != nil {
			return
		}
		if k := feed.Kind(payload[0]); k == feed.KindRecords || k == feed.KindMark {
			m, _ = feed.DecodeMark(payload[1:41])
			due = true
		}
		if !due || r.Buffered() > 0 {
			continue
		}
		due = false
		if sendPing(conn, m.Position) != nil {
			return
		}
	}
}

// floor is bare TCP: the publisher writes to every connection itself.
type floor struct {
	frame   []byte
	servers []net.Conn
	clients []net.Conn
	acks    sync.WaitGroup
}

func newFloor(b *testing.B, n int) *floor {
	l := listenTCP(b)
	defer l.Close()
	f := &floor{frame: make([]byte, 83)}
	for range n {
		client, err := l.dial()
		if err != nil {
			b.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		f.clients, f.servers = append(f.clients, client), append(f.servers, server)
		go f.client(client)
		go f.server(server)
	}
	return f
}

func (f *floor) client(conn net.Conn) {
	b := make([]byte, 64<<10)
	for got := 0; ; {
		n, err := conn.Read(b)
		if err != nil {
			return
		}
		if got += n; got < len(f.frame) {
			continue
		}
		got = 0
		if _, err := conn.Write(b[:23]); err != nil {
			return
		}
	}
}

func (f *floor) server(conn net.Conn) {
	b := make([]byte, 23)
	for {
		if _, err := io.ReadFull(conn, b); err != nil {
			return
		}
		f.acks.Done()
	}
}

func (f *floor) publish() {
	f.acks.Add(len(f.servers))
	for _, c := range f.servers {
		_, _ = c.Write(f.frame)
	}
	f.acks.Wait()
}

func (f *floor) close() {
	for i := range f.servers {
		_ = f.clients[i].Close()
		_ = f.servers[i].Close()
	}
}

// BenchmarkSnapshot encodes a set of a million: whole, and again after so many
// records have come.
func BenchmarkSnapshot(b *testing.B) {
	set, position := revset.New(0), uint64(0)
	grow := func(n int) {
		records := make([]revset.Record, n)
		for i := range records {
			position++
			records[i] = revset.Record{Position: position, Before: position, Forget: revset.NeverForget}
			binary.LittleEndian.PutUint64(records[i].Key[:], rand.Uint64())
			binary.LittleEndian.PutUint64(records[i].Key[8:], rand.Uint64())
		}
		if err := set.Apply(records, position); err != nil {
			b.Fatal(err)
		}
	}
	grow(1_000_000)
	b.Run("whole", func(b *testing.B) {
		for b.Loop() {
			revlog.EncodeSet(set, nil)
		}
	})
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			before := revlog.EncodeSet(set, nil)
			for b.Loop() {
				b.StopTimer()
				grow(n)
				b.StartTimer()
				before = revlog.EncodeSet(set, before)
			}
		})
	}
}
