package revlog_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revlog"
	"github.com/quashdev/quash/internal/revset"
)

// A scenario lets verifiers follow a log through some trouble and returns
// them once they are in step again.
type scenario func(w *world) []*recorder

var scenarios = map[string]struct {
	config revlog.Config
	play   scenario
}{
	"plain":              {play: plain},
	"concurrent writers": {play: concurrentWriters},
	"random reconnects":  {config: revlog.Config{BufferBytes: 8 << 10}, play: randomReconnects},
	"far behind":         {config: revlog.Config{BufferBytes: 4 << 10}, play: farBehind},
	"pages behind":       {config: revlog.Config{BufferBytes: 4 << 10}, play: pagesBehind},
	"news while joining": {play: newsWhileJoining},
	"node lags":          {play: nodeLags},
	"slow reader":        {config: revlog.Config{BufferBytes: 4 << 10}, play: slowReader},
	"pruned up to":       {play: prunedUpTo},
	"pruned beyond":      {play: prunedBeyond},
	"ahead of the head":  {play: distorted("ahead", func(b *bookmark) { b.Position += 1000 })},
	"another digest":     {play: distorted("digest", func(b *bookmark) { b.Digest[0]++ })},
	"another log":        {play: distorted("log", func(b *bookmark) { b.log = "another" })},
	"another epoch":      {play: distorted("epoch", func(b *bookmark) { b.epoch++ })},
	"node restarted":     {play: nodeRestarted},
	"large transactions": {play: largeTransactions},
}

func plain(w *world) []*recorder {
	vs := connected(w, 3)
	for i := range 40 {
		w.revoke([]string{"sub", "sid", "tenant"}[i/15], 1+i%5)
		if i%3 == 0 {
			synctest.Wait()
		}
	}
	return append(vs, connected(w, 2)...)
}

func concurrentWriters(w *world) []*recorder {
	vs := connected(w, 3)
	var writers sync.WaitGroup
	for range 8 {
		writers.Go(func() {
			for i := range 20 {
				w.revoke("sid", 1+i%3)
			}
		})
	}
	writers.Wait()
	return vs
}

func randomReconnects(w *world) []*recorder {
	random := rand.New(rand.NewPCG(1, 2))
	vs := connected(w, 5)
	for range 100 {
		w.revoke("sid", 1+random.IntN(3))
		if random.IntN(2) == 0 {
			synctest.Wait()
		}
		v := vs[random.IntN(len(vs))]
		v.disconnect()
		if random.IntN(2) == 0 {
			w.revoke("sub", 1)
		}
		v.connect(w)
		w.resumes(v)
	}
	return vs
}

// farBehind resumes where the ring no longer reaches, so that the store serves it.
func farBehind(w *world) []*recorder {
	vs := connected(w, 3)
	w.revoke("sid", 3)
	synctest.Wait()
	vs[0].disconnect()
	vs[1].disconnect()
	for i := range 200 {
		w.revoke([]string{"sub", "tenant"}[i/100], 1+i%3)
		synctest.Wait()
	}
	vs[0].connect(w)
	w.revoke("client_id", 2)
	vs[1].connect(w)
	w.resumes(vs[0])
	w.resumes(vs[1])
	return vs
}

// pagesBehind gets several pages from the store, and pongs between them.
func pagesBehind(w *world) []*recorder {
	vs := connected(w, 1)
	w.revoke("sid", 1)
	synctest.Wait()
	vs[0].disconnect()
	w.revoke("sid", 4096)
	for range 4 {
		w.revoke("sid", 2048)
	}
	synctest.Wait()
	vs[0].connect(w)
	w.resumes(vs[0])
	return vs
}

// newsWhileJoining has a claim name come into use between hello and the stream,
// for one that resumes and one that gets a snapshot.
func newsWhileJoining(w *world) []*recorder {
	vs := connected(w, 2)
	w.revoke("sid", 3)
	synctest.Wait()
	vs[0].disconnect()
	vs[1].disconnect()
	vs[1].at = bookmark{}
	var resume []func()
	for _, v := range vs {
		resume = append(resume, v.stall())
		v.connect(w)
	}
	synctest.Wait()
	w.revoke("tenant", 3)
	synctest.Wait()
	w.revoke("sub", 3)
	synctest.Wait()
	for _, f := range resume {
		f()
	}
	synctest.Wait()
	w.revoke("client_id", 3)
	return vs
}

// quiet is a source that gives no hints, so that the node lags behind it.
type quiet struct{ revlog.Source }

func (quiet) Changed() <-chan struct{} { return nil }

// nodeLags has verifiers that come from another node: one behind what this one
// has read, one ahead of it.
func nodeLags(w *world) []*recorder {
	behind := connected(w, 1)[0]
	w.revoke("sid", 3)
	synctest.Wait()
	behind.disconnect()
	w.revoke("sid", 2)
	w.source = quiet{w.source}
	w.restart()
	synctest.Wait()
	w.revoke("tenant", 2)
	log, _ := w.truth()
	ahead := newRecorder("ahead")
	ahead.at = bookmark{log: log.ID, epoch: log.Epoch, Mark: log.Head}
	behind.connect(w)
	w.resumes(behind)
	if got := behind.position(); got != 5 {
		w.t.Errorf("the node sent records up to %d and has read up to 5", got)
	}
	_, _, err := ahead.dial(w)
	if status := ws.StatusError(0); !errors.As(err, &status) || status != 503 {
		w.t.Errorf("a verifier that knows more than the node: %v, want status 503", err)
	}
	time.Sleep(100 * time.Millisecond) // the node has looked meanwhile
	synctest.Wait()
	ahead.connect(w)
	w.resumes(ahead)
	if names := ahead.last(w.t, feed.KindHello).hello.Claims; !slices.Contains(names, "tenant") {
		w.t.Errorf("claim names = %v, want those of every record that the verifier has", names)
	}
	time.Sleep(time.Second)
	w.revoke("sub", 1)
	time.Sleep(time.Second)
	return []*recorder{behind, ahead}
}

func slowReader(w *world) []*recorder {
	vs := connected(w, 3)
	slow := vs[0]
	w.revoke("sid", 1)
	synctest.Wait()
	resume := slow.stall()
	for range 200 {
		c := w.revoke("sid", 1)
		synctest.Wait()
		for _, v := range vs[1:] {
			if got := v.position(); got != c.Last {
				w.t.Fatalf("position of verifier %s = %d beside a slow one, want %d", v.name, got, c.Last)
			}
		}
	}
	resume()
	slow.done.Wait()
	if got := slow.last(w.t, feed.KindBye).bye.Code; got != feed.ByeSlow {
		w.t.Errorf("bye to the slow verifier = %q, want %q", got, feed.ByeSlow)
	}
	slow.connect(w)
	w.resumes(slow)
	return vs
}

func prunedUpTo(w *world) []*recorder {
	v, position := pruned(w, 10)
	v.connect(w)
	w.resumes(v)
	if log, _ := w.truth(); log.Pruned.Position != position {
		w.t.Fatalf("pruned up to %d, want exactly where the verifier stands: %d", log.Pruned.Position, position)
	}
	return []*recorder{v}
}

func prunedBeyond(w *world) []*recorder {
	v, _ := pruned(w, 9)
	v.connect(w)
	w.snapshots(v, "pruned")
	return []*recorder{v}
}

// pruned returns a verifier at the given position, disconnected, of a log that
// was then pruned up to 10, and a node that was started after that.
func pruned(w *world, position int) (*recorder, uint64) {
	v := connected(w, 1)[0]
	w.revoke("sid", position)
	synctest.Wait()
	v.disconnect()
	at := v.position()
	if position < 10 {
		w.revoke("sid", 10-position)
	}
	time.Sleep(time.Minute)
	w.revoke("sub", 5)
	time.Sleep(5*time.Minute + time.Second)
	if _, _, err := w.store.Prune(w.t.Context(), time.Now(), time.Hour, 100); err != nil {
		w.t.Fatal(err)
	}
	w.restart()
	return v, at
}

// distorted presents a bookmark that is not this log's.
func distorted(reason string, change func(*bookmark)) scenario {
	return func(w *world) []*recorder {
		vs := connected(w, 2)
		w.revoke("sid", 10)
		synctest.Wait()
		vs[0].disconnect()
		change(&vs[0].at)
		vs[0].connect(w)
		w.snapshots(vs[0], reason)
		w.revoke("sub", 3)
		return vs
	}
}

func nodeRestarted(w *world) []*recorder {
	vs := connected(w, 3)
	w.revoke("sid", 5)
	synctest.Wait()
	w.halt()
	for _, v := range vs {
		v.done.Wait()
		if got := v.last(w.t, feed.KindBye).bye.Code; got != feed.ByeStopping {
			w.t.Errorf("bye of a node that stops = %q, want %q", got, feed.ByeStopping)
		}
	}
	w.revoke("tenant", 5)
	w.start(newMemoryListener())
	for _, v := range vs {
		v.connect(w)
		w.resumes(v)
	}
	return vs
}

func largeTransactions(w *world) []*recorder {
	vs := connected(w, 2)
	for range 2 {
		w.revoke("sid", 2000)
	}
	synctest.Wait()
	return append(vs, connected(w, 1)...)
}

func connected(w *world, n int) []*recorder {
	vs := make([]*recorder, n)
	for i := range vs {
		vs[i] = newRecorder(fmt.Sprint("v", len(w.log.Verifiers())))
		vs[i].connect(w)
		synctest.Wait()
	}
	return vs
}

func (w *world) resumes(v *recorder) {
	w.t.Helper()
	synctest.Wait()
	if h := v.last(w.t, feed.KindHello).hello; !h.Resumes || h.Reason != "" {
		w.t.Errorf("hello to %s: resumes %v, reason %q, want it to resume", v.name, h.Resumes, h.Reason)
	}
}

func (w *world) snapshots(v *recorder, reason string) {
	w.t.Helper()
	synctest.Wait()
	if h := v.last(w.t, feed.KindHello).hello; h.Resumes || h.Reason != reason {
		w.t.Errorf("hello to %s: resumes %v, reason %q, want a snapshot because of %q", v.name, h.Resumes, h.Reason, reason)
	}
}

// outcome is what validators judge.
type outcome struct {
	log       issuer.Log
	truth     []issuer.Revocation // position i+1 at i
	commits   []issuer.Commit
	histories [][]event // of verifiers
}

// outcomes keeps what scenarios came to: each is played once.
var outcomes = map[string]*outcome{}

// validate has the histories of all verifiers in all scenarios judged.
func validate(t *testing.T, judge func(t *testing.T, o *outcome, history []event)) {
	for name, s := range scenarios {
		t.Run(name, func(t *testing.T) {
			if outcomes[name] == nil {
				synctest.Test(t, func(t *testing.T) { outcomes[name] = observe(t, s.config, s.play) })
			}
			for _, history := range outcomes[name].histories {
				judge(t, outcomes[name], history)
			}
		})
	}
}

func observe(t *testing.T, config revlog.Config, play scenario) *outcome {
	w := newWorld(t, config)
	defer w.close()
	vs := play(w)
	time.Sleep(time.Second) // for the last pongs
	o := &outcome{commits: w.commits}
	o.log, o.truth = w.truth()
	w.halt()
	for _, v := range vs {
		v.done.Wait()
		o.histories = append(o.histories, v.history())
	}
	return o
}

// No wake-up is lost: each of many revocations reaches every verifier with
// nothing coming after it.
func TestP3ReliableOneByOne(t *testing.T) {
	w := newWorld(t, revlog.Config{})
	defer w.close()
	vs := make([]*recorder, 8)
	for i := range vs {
		vs[i] = newRecorder(fmt.Sprint("v", i))
		vs[i].connect(w)
	}
	relying := func() (n int) {
		for _, v := range w.log.Verifiers() {
			if v.Lease > 0 {
				n++
			}
		}
		return n
	}
	for relying() < len(vs) {
		runtime.Gosched()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range 300 {
		c := w.revoke("sid", 1)
		if got := w.log.WaitConfirmed(ctx, c.Last); !got.Confirmed || got.Applied != len(vs) {
			t.Fatalf("%+v, want it confirmed by all %d", got, len(vs))
		}
	}
}

// Records come in the order of the log.
func TestP3Ordered(t *testing.T) {
	validate(t, func(t *testing.T, _ *outcome, history []event) {
		var last uint64
		for _, e := range history {
			switch e.kind {
			case feed.KindMark:
				last = e.mark.Position
			case feed.KindRecords:
				for _, r := range e.records {
					if r.Position <= last {
						t.Errorf("record %d came after %d", r.Position, last)
					}
					last = r.Position
				}
			}
		}
	})
}

// No record comes twice, reconnects included.
func TestP3Unique(t *testing.T) {
	validate(t, func(t *testing.T, _ *outcome, history []event) {
		seen := map[uint64]bool{}
		var covered uint64 // by the latest snapshot
		for _, e := range history {
			if e.kind == feed.KindMark {
				covered = e.mark.Position
				clear(seen)
			}
			if e.kind != feed.KindRecords {
				continue
			}
			for _, r := range e.records {
				if seen[r.Position] || r.Position <= covered {
					t.Errorf("record %d came twice", r.Position)
				}
				seen[r.Position] = true
			}
		}
	})
}

// The records of a transaction come in one frame: no mark falls between them.
func TestP3Atomic(t *testing.T) {
	validate(t, func(t *testing.T, o *outcome, history []event) {
		within := map[uint64]issuer.Commit{}
		for _, c := range o.commits {
			for p := c.First; p < c.Last; p++ {
				within[p] = c
			}
		}
		for _, e := range history {
			if c, torn := within[e.mark.Position]; torn {
				t.Errorf("a message of kind %d ends at %d, within the transaction %d to %d", e.kind, e.mark.Position, c.First, c.Last)
			}
		}
	})
}

// No record is left out: on a connection each follows the one before it, the
// records are those of the log, and the end is the log's.
func TestP3Reliable(t *testing.T) {
	validate(t, func(t *testing.T, o *outcome, history []event) {
		var at uint64
		for _, e := range history {
			switch e.kind {
			case feed.KindHello:
				at = e.presented.Position
			case feed.KindMark:
				at = e.mark.Position
			case feed.KindRecords:
				for _, r := range e.records {
					if at++; r.Position != at {
						t.Fatalf("record %d came where %d belongs", r.Position, at)
					}
					if want := o.truth[at-1].Record(); r != want {
						t.Errorf("record = %+v, want %+v", r, want)
					}
				}
			}
		}
		if at != o.log.Head.Position {
			t.Errorf("the verifier ends at %d, want the head: %d", at, o.log.Head.Position)
		}
	})
}

// A connection that resumes goes on right after the position presented;
// another brings a whole snapshot first.
func TestP3Resumable(t *testing.T) {
	validate(t, func(t *testing.T, _ *outcome, history []event) {
		var next uint64 // 0: the mark of a snapshot is due
		for i, e := range history {
			if first := i == 0 || history[i-1].connection != e.connection; first != (e.kind == feed.KindHello) {
				t.Fatalf("message %d of the connection is of kind %d; hello comes first, and only there", i, e.kind)
			}
			switch e.kind {
			case feed.KindHello:
				if next = 0; e.hello.Resumes {
					next = e.presented.Position + 1
				}
			case feed.KindSnapshot, feed.KindMark:
				if next != 0 {
					t.Errorf("a snapshot came that hello had not announced")
				}
				if e.kind == feed.KindMark {
					next = e.mark.Position + 1
				}
			case feed.KindRecords:
				if e.records[0].Position != next {
					t.Errorf("record %d came first, want %d", e.records[0].Position, next)
				}
				next = e.mark.Position + 1
			}
		}
	})
}

// Whoever was told a position has every live record up to it, and every claim
// name that they need; its digest is the log's.
func TestP3Bookmarkable(t *testing.T) {
	validate(t, func(t *testing.T, o *outcome, history []event) {
		var names []string
		set := map[revset.Key]revset.Record{}
		checked := history[0].presented.Position
		for _, e := range history {
			switch e.kind {
			case feed.KindHello:
				names = e.hello.Claims
				if !e.hello.Resumes {
					clear(set)
					checked = o.log.Pruned.Position
				}
			case feed.KindClaims:
				if missing := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return slices.Contains(e.names, n) }); len(missing) > 0 {
					t.Errorf("claim names %q were taken back", missing)
				}
				names = e.names
			}
			for _, r := range e.records {
				r = r.Merge(set[r.Key])
				r.Position = 0
				set[r.Key] = r
			}
			if !slices.Contains([]feed.Kind{feed.KindRecords, feed.KindMark, feed.KindPong}, e.kind) {
				continue
			}
			for ; checked < e.mark.Position; checked++ {
				bookmarked(t, o.truth[checked], set, names)
			}
			if p := e.mark.Position; p > 0 && e.mark.Digest != o.truth[p-1].Digest {
				t.Errorf("digest at %d = %s, want %s", p, e.mark.Digest, o.truth[p-1].Digest)
			}
		}
	})
}

func bookmarked(t *testing.T, r issuer.Revocation, set map[revset.Key]revset.Record, names []string) {
	t.Helper()
	got, want := set[r.Key], r.Record()
	if got.Before < want.Before || got.NotBefore < want.NotBefore || got.Forget < want.Forget {
		t.Errorf("the verifier was told of position %d and has %+v, want %+v", r.Position, got, want)
	}
	if !slices.Contains(names, r.Claim) {
		t.Errorf("record %d names claim %q, and the verifier knows only %q", r.Position, r.Claim, names)
	}
}
