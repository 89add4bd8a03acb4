//go:build !linux

package main

// allowFiles leaves the limit on open files as it is.
func allowFiles(uint64) error { return nil }
