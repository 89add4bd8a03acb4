// Package lease is the arithmetic of leases: how long a verifier may rely on
// its revocations without hearing from a node, and when a node may say that
// nobody accepts a token any more. It does no input or output and reads no
// clock but the one that it is given.
//
// The rules, and what breaks without them, are in docs/design.md.
package lease

import (
	"fmt"
	"time"
)

// Length is how long a lease lasts, and the only dial: everything else that has
// to do with time follows. For the default,
//
//	Length   30 s  a verifier that is cut off refuses after as much at the latest, so a
//	               revocation holds everywhere as much after its commit (P5)
//	Beat      5 s  nodes renew their rows and verifiers ping; one that is in step always
//	               has between two thirds and the whole of a lease before it
//	Patience 15 s  a verifier that hears nothing for as long connects again, and has
//	               a part of its lease left to do it in
//	Margin    3 s  what others wait beyond a lease that was not given back, because
//	               clocks do not run alike
type Length time.Duration

// The bounds of a lease, and what it is unless somebody says otherwise.
const (
	Min     = Length(time.Second)
	Default = Length(30 * time.Second)
	Max     = Length(10 * time.Minute)
)

// Check returns an error where l is out of bounds.
func (l Length) Check() error {
	if l < Min || l > Max {
		return fmt.Errorf("lease: want %v to %v, got %v", time.Duration(Min), time.Duration(Max), time.Duration(l))
	}
	return nil
}

// Beat is how often a node renews its row, and a verifier pings.
func (l Length) Beat() time.Duration { return min(time.Duration(l)/6, 5*time.Second) }

// Patience is how long a verifier waits for word from a node.
func (l Length) Patience() time.Duration { return min(time.Duration(l)/2, 15*time.Second) }

// Margin is what is added to a lease where somebody else measures it. A clock
// that is slewed runs at most so much slower.
func (l Length) Margin() time.Duration { return time.Duration(l) / 10 }

// Whole is a lease with its margin: after that it has ended by every clock.
func (l Length) Whole() time.Duration { return time.Duration(l) + l.Margin() }

// Slept reports whether the two clocks of a machine went apart by more than a
// quarter of the margin between two moments. The monotonic one stands still
// while the machine sleeps, so that what it measured in between is not to be
// relied on. A node and a verifier may each miss a shorter sleep; the other half
// of the margin is for clocks that are slewed.
func (l Length) Slept(from, to Moment) bool {
	apart := time.Duration(to.Wall-from.Wall) - (to.Mono - from.Mono)
	return apart.Abs() > l.Margin()/4
}

// Moment is a reading of a machine's two clocks at once. Moments of different
// clocks do not compare.
type Moment struct {
	Wall int64         // Unix nanoseconds; may be set, and goes on while the machine sleeps
	Mono time.Duration // since the clock was made; never set, and stands still
}

// A Clock reads both. It may be called concurrently.
type Clock func() Moment

// System returns the machine's clock.
func System() Clock {
	start := time.Now()
	return func() Moment {
		now := time.Now()
		return Moment{Wall: now.UnixNano(), Mono: now.Sub(start)}
	}
}
