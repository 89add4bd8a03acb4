package revlog

// Encode makes a snapshot as one who joins would, whether or not there is one.
func (l *Log) Encode() {
	l.snapshot.Store(nil)
	l.current()
}
