// Package chaos holds tests that play with real processes: nodes that are
// killed, stopped and cut off from their database and their verifiers, a
// PostgreSQL that crashes and fails over, resource servers that are stopped,
// killed and cut off, and people who sign in, refresh and revoke meanwhile. What
// a resource server accepts is compared, on one clock, with what had been
// answered before; what was answered must be there in the end. `make chaos` runs
// them for two minutes, `make test` for some seconds. They need Linux.
package chaos
