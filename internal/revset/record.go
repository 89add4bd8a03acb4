package revset

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
)

// Key names one (issuer, claim, value) without revealing it: the first 16
// bytes of a SHA-256 that also takes in the log's hash secret. Only who holds
// the secret can tell whether a guessed value is meant.
type Key [16]byte

// KeyOf returns the key of a claim's value, as docs/protocol.md defines it:
// SHA-256 over the secret and the three strings, each behind its length in
// bytes as four big-endian octets.
func KeyOf[V string | []byte](secret []byte, issuer, claim string, value V) Key {
	var stack [256]byte
	b := append(stack[:0], secret...)
	for _, s := range [...]string{issuer, claim} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(value)))
	b = append(b, value...)
	sum := sha256.Sum256(b)
	return Key(sum[:16])
}

const (
	// Forever, as a record's Before, kills a token whatever its rev says.
	Forever uint64 = math.MaxUint64
	// NeverForget, as a record's Forget, keeps the record for the life of the log.
	NeverForget uint32 = math.MaxUint32
	// MaxPosition bounds positions and revs: both stay below it, so that
	// every language can hold them in a double.
	MaxPosition uint64 = 1 << 53
)

// Record is one revocation as verifiers see it. Of a token that has Key among
// its keys it kills those whose rev is below Before or, where tokens carry no
// rev, those whose iat is at or below NotBefore.
type Record struct {
	Position  uint64 // place in the log, from 1
	Key       Key
	Before    uint64 // a position, or Forever
	NotBefore uint32 // Unix seconds; 0 where it plays no part
	Forget    uint32 // Unix seconds after which nothing is left to kill, or NeverForget
}

// Merge returns the one record that kills what r or o kills: every field is
// the greater of the two. Both must have the same key.
func (r Record) Merge(o Record) Record {
	return Record{
		Position:  max(r.Position, o.Position),
		Key:       r.Key,
		Before:    max(r.Before, o.Before),
		NotBefore: max(r.NotBefore, o.NotBefore),
		Forget:    max(r.Forget, o.Forget),
	}
}
