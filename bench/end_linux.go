package main

import "syscall"

// ending has the system end a child when this process ends, however it does.
func ending(who *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: who, Pdeathsig: syscall.SIGTERM}
}
