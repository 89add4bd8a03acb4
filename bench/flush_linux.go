package main

import (
	"os"
	"syscall"
)

// flush makes what was written to blocks that a file has already durable.
func flush(f *os.File) error { return syscall.Fdatasync(int(f.Fd())) }
