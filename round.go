package quash

import (
	"math/rand/v2"
	"net/url"
	"slices"
	"time"

	"github.com/quashdev/quash/internal/lease"
)

const (
	retryFirst = 20 * time.Millisecond
	retryLast  = 2 * time.Second
)

// round says which address is tried next, how long to wait before that, and how
// long to try. Addresses are taken in turn. Where all of them failed, the next
// round comes after a wait, which doubles from round to round.
//
// So does the time that is given to each, where one was silent for as long. At
// first all together have what is left of a lease when a silent node is left, so
// that those that are dead do not use it up; and a network that is slower than
// that is reached in the end.
type round struct {
	addresses []*url.URL // in an order of this verifier's own
	length    lease.Length
	at        int           // the address whose turn it is
	left      int           // addresses of this round, with the one at
	wait      time.Duration // after this round
	within    time.Duration // for each address of it; 0: as the lease says
	silent    bool          // one of them took longer
}

// newRound returns the first round. The order is random, so that many verifiers
// spread over the nodes, and when one node ends, over the others.
func newRound(addresses []*url.URL) round {
	addresses = slices.Clone(addresses)
	rand.Shuffle(len(addresses), func(i, j int) { addresses[i], addresses[j] = addresses[j], addresses[i] })
	return round{addresses: addresses, length: lease.Default, left: len(addresses), wait: retryFirst}
}

// now returns the address whose turn it is, and how long to wait for its node to
// say hello.
func (r *round) now() (*url.URL, time.Duration) {
	if r.within == 0 {
		r.within = r.length.Patience() / time.Duration(len(r.addresses))
	}
	return r.addresses[r.at], r.within
}

// next passes the turn on, and returns how long to wait first. An address was of
// use where the verifier came in step; a new round then begins behind it. It was
// silent where its time was up.
func (r *round) next(ofUse, silent bool) time.Duration {
	r.at = (r.at + 1) % len(r.addresses)
	r.silent = r.silent || silent
	if r.left--; r.left > 0 && !ofUse {
		return 0
	}
	switch {
	case ofUse:
		r.wait, r.within = retryFirst, 0
	case r.silent:
		r.within = min(2*r.within, lease.Default.Patience())
	}
	r.left, r.silent = len(r.addresses), false
	wait := r.wait
	r.wait = min(2*wait, retryLast)
	return wait/2 + rand.N(wait/2)
}
