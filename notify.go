package quash

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quashdev/quash/internal/revset"
)

// NotifyContext returns a context that ends when the token whose claims ctx
// carries is no longer accepted, with a cause (see [context.Cause]) that
// matches [ErrRevoked], [ErrExpired], [ErrStale], or [ErrInvalid] where its key
// was withdrawn. Behind [AcceptStale] it outlives the lease, for as long as the
// route accepts tokens then. It is for what lives longer than a request: a WebSocket, an
// event stream, a long job. It ends with ctx, too, or when the function
// returned is called, which must happen to release what it holds.
//
// Where ctx carries no claims that a [Verifier] returned, the context has ended
// from the start with [ErrInvalid]: a handler that was left unprotected must
// not live for ever.
func NotifyContext(ctx context.Context) (context.Context, context.CancelFunc) {
	c, tolerance := admitted(ctx)
	if c == nil || c.verifier == nil {
		ctx, end := context.WithCancelCause(ctx)
		end(fmt.Errorf("%w: the context carries no claims: is the handler behind Protect?", ErrInvalid))
		return ctx, func() {}
	}
	ctx, stop := context.WithDeadlineCause(ctx, c.Expires, ErrExpired)
	ctx, end := context.WithCancelCause(ctx)
	w := &watch{token: c.token, tolerance: tolerance, end: end}
	c.verifier.watch(w)
	context.AfterFunc(ctx, func() {
		c.verifier.watches.remove(w)
		stop()
	})
	return ctx, func() { end(context.Canceled) }
}

// watch registers w under the keys that its token has now, and then looks
// again: a record applied before w was registered is found, one applied after
// finds w.
func (v *Verifier) watch(w *watch) {
	for {
		e, _, err := v.admit(w.token, w.tolerance)
		if err != nil {
			w.end(err)
			return
		}
		v.watches.put(w, e)
		if again, _, err := v.admit(w.token, w.tolerance); err == nil && again.generation == e.generation {
			return
		}
	}
}

// recheck judges every watched token afresh.
func (v *Verifier) recheck() {
	for _, w := range v.watches.list() {
		v.watch(w)
	}
}

// watch is a context that ends with its token.
type watch struct {
	token     string
	tolerance time.Duration // for how long after the lease it goes on
	end       context.CancelCauseFunc

	// The registry's mutex guards what follows.
	entry  *entry // under whose keys the watch is registered
	places []int  // where it stands in the list of each key
	gone   bool
}

// watches finds the watch that a record ends. While there are none it costs
// who applies records one atomic load.
type watches struct {
	again chan struct{} // holds a value while all are to be judged afresh
	count atomic.Int64

	mu    sync.Mutex // guards what follows
	all   map[*watch]struct{}
	byKey map[revset.Key][]place
}

// place is one key of a watch, by its index.
type place struct {
	watch *watch
	key   int
}

func (r *watches) init() {
	r.again = make(chan struct{}, 1)
	r.all = make(map[*watch]struct{})
	r.byKey = make(map[revset.Key][]place)
}

// put registers w under the keys of e, in place of those from before. One that
// was removed stays so.
func (r *watches) put(w *watch, e *entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.gone {
		return
	}
	r.unlink(w)
	w.entry, w.places = e, make([]int, len(e.keys))
	for i, k := range e.keys {
		w.places[i] = len(r.byKey[k])
		r.byKey[k] = append(r.byKey[k], place{w, i})
	}
	r.all[w] = struct{}{}
	r.count.Store(int64(len(r.all)))
}

func (r *watches) remove(w *watch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unlink(w)
	w.gone = true
	delete(r.all, w)
	r.count.Store(int64(len(r.all)))
}

// unlink takes w out of the lists of its keys, moving the last of each list to
// where w stood.
func (r *watches) unlink(w *watch) {
	for i, at := range w.places {
		k := w.entry.keys[i]
		list := r.byKey[k]
		last := list[len(list)-1]
		list[at] = last
		last.watch.places[last.key] = at
		list[len(list)-1] = place{}
		if r.byKey[k] = list[:len(list)-1]; len(list) == 1 {
			delete(r.byKey, k)
		}
	}
	w.entry, w.places = nil, nil
}

func (r *watches) list() []*watch {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]*watch, 0, len(r.all))
	for w := range r.all {
		list = append(list, w)
	}
	return list
}

// recheck asks for every watched token to be judged afresh, soon.
func (r *watches) recheck() {
	select {
	case r.again <- struct{}{}:
	default:
	}
}

// applied ends the watches that the records kill. The records must be in the
// set already.
func (r *watches) applied(records []revset.Record) {
	if r.count.Load() == 0 {
		return
	}
	for _, w := range r.killed(records) {
		w.end(ErrRevoked)
	}
}

func (r *watches) killed(records []revset.Record) []*watch {
	r.mu.Lock()
	defer r.mu.Unlock()
	var killed []*watch
	for i := range records {
		for _, p := range r.byKey[records[i].Key] {
			if p.watch.entry.killedBy(records[i].Before, records[i].NotBefore) {
				killed = append(killed, p.watch)
			}
		}
	}
	return killed
}
