package revlog

import "github.com/quashdev/quash/internal/revset"

// Encode makes a snapshot as one who joins would, whether or not there is one.
func (l *Log) Encode() {
	l.snapshot.Store(nil)
	l.current()
}

// Blocks returns, of each block of the snapshot that one who joins gets, where
// its first part lies in memory.
func (l *Log) Blocks() (all []*byte) {
	for _, b := range l.current().blocks {
		all = append(all, &b.parts[0][0])
	}
	return all
}

// Encoding is a snapshot without its mark.
type Encoding []block

// EncodeSet encodes a set, of which before is what was encoded last.
func EncodeSet(set *revset.Set, before Encoding) Encoding { return encodeSet(set, before) }
