// Package chaos holds a test that plays with real processes: a server that is
// killed, resource servers that are stopped, killed and cut off at the network,
// and people who revoke meanwhile. What a resource server accepts is compared,
// on one clock, with what had been answered before. `make chaos` runs it for
// two minutes, `make test` for some seconds. It needs Linux.
package chaos
