package main

import (
	"fmt"
	"syscall"
)

// allowFiles has this process, and those that it starts, open n files.
func allowFiles(n uint64) error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	if l.Cur >= n {
		return nil
	}
	wider := syscall.Rlimit{Cur: n, Max: max(n, l.Max)}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &wider); err != nil {
		return fmt.Errorf("a process needs %d open files and may have %d: raise the hard limit (root: prlimit --pid $$ --nofile=%d): %w", n, l.Max, n, err)
	}
	return nil
}
