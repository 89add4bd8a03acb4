//go:build linux

package chaos_test

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// now reads the clock that all processes of a machine share, in nanoseconds.
func now() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // every Linux has it
	}
	return ts.Nano()
}

// board is memory that all processes of a run share: the tokens, and what
// witnesses saw of each. What a process has written there outlives it.
//
// A row of it has one writer. Any process may read.
type board struct {
	memory   []byte
	capacity int // tokens
}

const (
	maxRows    = 16
	wordSize   = 8
	slotSize   = 1024 // a token, after its length
	headSize   = 2 * wordSize
	tallySize  = int(tallies) * wordSize
	sightSize  = 3 * wordSize
	slotsBegin = headSize + maxRows*tallySize
)

// tally is something that a witness counts.
type tally int

const (
	asked        tally = iota // tokens shown
	refusedStale              // answers that this is not the time to tell
	lastAccepted              // when the latest call began that accepted any token
	faults                    // answers that there must not be
	tallies
)

func boardSize(capacity int) int { return slotsBegin + capacity*(slotSize+maxRows*sightSize) }

// openBoard opens the board in a file, which it makes where there is none.
func openBoard(path string, capacity int) (*board, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(int64(boardSize(capacity))); err != nil {
		return nil, err
	}
	memory, err := unix.Mmap(int(f.Fd()), 0, boardSize(capacity), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	return &board{memory, capacity}, nil
}

func (b *board) close() error { return unix.Munmap(b.memory) }

func (b *board) word(offset int) *int64 { return (*int64)(unsafe.Pointer(&b.memory[offset])) }

func (b *board) count() *int64 { return b.word(0) }

// first is the first token that is asked for all the time.
func (b *board) first() *int64 { return b.word(wordSize) }

func (b *board) tally(row int, t tally) *int64 {
	return b.word(headSize + row*tallySize + int(t)*wordSize)
}

// add puts up a token and returns its number; false: there is no room. One
// goroutine at a time may call it.
func (b *board) add(token string) (int, bool) {
	n := int(atomic.LoadInt64(b.count()))
	if n == b.capacity || len(token) > slotSize-wordSize {
		return 0, false
	}
	slot := b.memory[slotsBegin+n*slotSize:][:slotSize]
	*b.word(slotsBegin + n*slotSize) = int64(len(token))
	copy(slot[wordSize:], token)
	atomic.StoreInt64(b.count(), int64(n+1))
	return n, true
}

// token returns a token that was put up.
func (b *board) token(n int) string {
	length := *b.word(slotsBegin + n*slotSize)
	return string(b.memory[slotsBegin+n*slotSize+wordSize:][:length])
}

// sight is what a witness saw of a token, by the shared clock; 0: never.
type sight struct {
	accepted     int64 // when the latest call that accepted it began
	refused      int64 // when the first call that refused it for good ended
	refusedSince int64 // when the latest such call began
}

func (b *board) sightAt(row, n int) (accepted, refused, since *int64) {
	at := slotsBegin + b.capacity*slotSize + (row*b.capacity+n)*sightSize
	return b.word(at), b.word(at + wordSize), b.word(at + 2*wordSize)
}

func (b *board) sight(row, n int) sight {
	accepted, refused, since := b.sightAt(row, n)
	return sight{atomic.LoadInt64(accepted), atomic.LoadInt64(refused), atomic.LoadInt64(since)}
}

// accepted notes that a call which began at a time accepted a token.
func (b *board) accepted(row, n int, began int64) {
	accepted, _, _ := b.sightAt(row, n)
	atomic.StoreInt64(accepted, began)
	atomic.StoreInt64(b.tally(row, lastAccepted), began)
}

// refused notes that a call refused a token for good: as the answer 401 does.
func (b *board) refused(row, n int, began, ended int64) {
	_, refused, since := b.sightAt(row, n)
	if atomic.LoadInt64(refused) == 0 {
		atomic.StoreInt64(refused, ended)
	}
	atomic.StoreInt64(since, began)
}

func (b *board) bump(row int, t tally) { atomic.AddInt64(b.tally(row, t), 1) }
