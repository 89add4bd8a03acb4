//go:build race

package quash

func init() { raced = true }
