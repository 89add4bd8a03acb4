// Package revset holds the live revocations in memory: one writer, any number
// of readers that take no lock and allocate nothing.
package revset
