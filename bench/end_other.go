//go:build !linux

package main

import "syscall"

func ending(who *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: who}
}
