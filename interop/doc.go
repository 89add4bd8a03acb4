// Package interop has tests alone: clients that other people wrote, unmodified,
// against a Quash server. It is a module of its own, so that none of them enters
// the module graph of Quash.
package interop
