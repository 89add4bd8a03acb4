package issuer

import (
	"encoding/binary"
	"errors"
	"time"
)

// EncodeOutcomes returns the octets that stores keep outcomes in: of each the
// number of its verifier, its end and its microseconds, as varints.
func EncodeOutcomes(list []Outcome) []byte {
	b := make([]byte, 0, 8*len(list))
	for _, o := range list {
		b = binary.AppendUvarint(b, uint64(o.Verifier))
		b = append(b, byte(o.End))
		b = binary.AppendVarint(b, o.After.Microseconds())
	}
	return b
}

var errOutcomes = errors.New("the outcomes are not as they were written")

// DecodeOutcomes reads what [EncodeOutcomes] returned, and keeps nothing of b.
func DecodeOutcomes(b []byte) (list []Outcome, err error) {
	for len(b) > 0 {
		verifier, n := binary.Uvarint(b)
		if n <= 0 || n == len(b) {
			return nil, errOutcomes
		}
		end, rest := End(b[n]), b[n+1:]
		after, n := binary.Varint(rest)
		if n <= 0 {
			return nil, errOutcomes
		}
		list = append(list, Outcome{Verifier: uint32(verifier), End: end, After: time.Duration(after) * time.Microsecond})
		b = rest[n:]
	}
	return list, nil
}
