// Package feed is the wire format of the feed, version 1: what docs/protocol.md
// specifies, and no more. It encodes and decodes; it keeps no state and does no
// input or output. Node and verifier share it, so that they cannot disagree.
//
// Every WebSocket message is binary and holds one feed message: an octet that
// says what kind it is, then its body. Integers are big-endian.
//
//	to the verifier                                to the node
//	hello     1  JSON Hello                        ping     16  applied (8) stamp (8) routes (2) tolerance (4)
//	claims    2  JSON array of claim names         goodbye  17
//	keys      3  JSON Web Key Set
//	records   4  position (8) digest (32) record*
//	snapshot  5  record*
//	mark      6  position (8) digest (32)
//	pong      7  position (8) digest (32) stamp (8) clock (8) grant (4)
//	bye       8  JSON Bye
//
// A connection begins with hello. If the node sends a snapshot, its parts come
// next and end with a mark, with no records between; from then on records
// follow in the order of the log.
package feed

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/quashdev/quash/internal/revset"
)

// Subprotocol is what both sides offer and accept in Sec-WebSocket-Protocol:
// the version of the format is part of it.
const Subprotocol = "quash.feed.v1"

// Request headers with which a verifier introduces itself.
const (
	HeaderProcess  = "Quash-Process"  // random id of the verifier's process, 1 to 64 visible ASCII characters
	HeaderName     = "Quash-Name"     // what people call it, 1 to 64 visible ASCII characters
	HeaderLog      = "Quash-Log"      // log id it follows; absent at first
	HeaderEpoch    = "Quash-Epoch"    // epoch of its position
	HeaderPosition = "Quash-Position" // position it has applied
	HeaderDigest   = "Quash-Digest"   // digest of the chain there, in hexadecimal
)

// Kind says what a message is.
type Kind byte

// The kinds of message. Those from 16 on go from verifier to node.
const (
	KindHello    Kind = 1
	KindClaims   Kind = 2
	KindKeys     Kind = 3
	KindRecords  Kind = 4
	KindSnapshot Kind = 5
	KindMark     Kind = 6
	KindPong     Kind = 7
	KindBye      Kind = 8
	KindPing     Kind = 16
	KindGoodbye  Kind = 17
)

// Limits of what is accepted, in bytes and records.
const (
	MaxMessage = 1 << 20 // any message to a verifier
	MaxPing    = 64      // any message to a node
	RecordSize = 40
	// MaxRecords is how many records a records or snapshot message may hold.
	MaxRecords = (MaxMessage - 64) / RecordSize
)

// Hello opens every connection.
type Hello struct {
	Log         string          `json:"log"`          // id of the log, random, for its life
	Epoch       uint64          `json:"epoch"`        // positions compare only within one
	Head        uint64          `json:"head"`         // position of the newest record when the node said hello
	Issuer      string          `json:"issuer"`       // iss of the tokens that the log is about
	HashSecret  []byte          `json:"hash_secret"`  // 32 octets, base64; see revset.KeyOf
	Claims      []string        `json:"claims"`       // claim names that any record names
	Keys        json.RawMessage `json:"keys"`         // JSON Web Key Set
	MaxLifetime int64           `json:"max_lifetime"` // seconds; a token whose exp is further off is refused
	Lease       int64           `json:"lease"`        // milliseconds: how long a grant may last
	Resumes     bool            `json:"resumes"`      // records follow the verifier's position; else a snapshot comes
	Reason      string          `json:"reason,omitempty"`
	// Issuers are the others whose tokens the log may revoke, in the order of
	// their names.
	Issuers []Issuer `json:"issuers,omitempty"`
}

// Issuer is another issuer than the log's own, as a hello names it.
type Issuer struct {
	Name        string `json:"name"`         // iss of its tokens
	MaxLifetime int64  `json:"max_lifetime"` // seconds; revocations are kept for tokens that live no longer
}

// Bye is the node's last word before it closes a connection in order.
type Bye struct {
	Code   string `json:"code"` // one of the Bye codes
	Detail string `json:"detail"`
}

// Codes of a Bye.
const (
	ByeStopping = "stopping" // the node stops: connect again, elsewhere or later
	ByeSlow     = "slow"     // the verifier fell further behind than the node keeps: connect again
	ByeReplaced = "replaced" // the same process opened a newer connection
	ByeKey      = "key"      // the verifier's key was withdrawn or replaced
	ByeProtocol = "protocol" // the verifier sent what the format does not allow
	ByeChanged  = "changed"  // what hello said of the log holds no more: connect again
)

// Digest stands for a whole history: it covers a record and, through the
// digest before it, every earlier one.
type Digest [sha256.Size]byte

// Next returns the digest of the log that d stands for after r was appended.
// The evidence is the SHA-256 of what the log keeps of r beside the record
// itself: who made it, why, when, and the claim and value in clear.
func (d Digest) Next(r revset.Record, evidence [sha256.Size]byte) Digest {
	var stack [len(d) + RecordSize + len(evidence)]byte
	b := append(stack[:0], d[:]...)
	b = AppendRecord(b, r)
	b = append(b, evidence[:]...)
	return sha256.Sum256(b)
}

func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// ParseDigest reads what [Digest.String] wrote.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if len(s) != 2*len(d) {
		return d, fmt.Errorf("digest: want %d hexadecimal digits, got %d", 2*len(d), len(s))
	}
	_, err := hex.Decode(d[:], []byte(s))
	return d, err
}

// Mark is a position of the log and the digest of the chain there.
type Mark struct {
	Position uint64
	Digest   Digest
}

// Pong answers one ping.
type Pong struct {
	Mark                // what was sent on this connection before the pong
	Stamp uint64        // the ping's
	Clock int64         // the node's wall clock, Unix milliseconds
	Grant time.Duration // how long after the ping was sent the verifier may rely on its set; 0: no longer than before
}

// Ping acknowledges every record up to Applied.
type Ping struct {
	Applied uint64 // 0 from a hello that does not resume until its mark is applied
	Stamp   uint64 // returned by the pong; the verifier's to choose
	// Routes is how many routes of the verifier accept tokens while it is
	// stale, and Tolerance for how long at most; both 0 where none does.
	Routes    uint16
	Tolerance time.Duration
}

// AppendRecord appends r in its RecordSize octets.
func AppendRecord(b []byte, r revset.Record) []byte {
	b = binary.BigEndian.AppendUint64(b, r.Position)
	b = append(b, r.Key[:]...)
	b = binary.BigEndian.AppendUint64(b, r.Before)
	b = binary.BigEndian.AppendUint32(b, r.NotBefore)
	return binary.BigEndian.AppendUint32(b, r.Forget)
}

// DecodeRecord reads the RecordSize octets that [AppendRecord] appended.
func DecodeRecord(b []byte) revset.Record {
	return revset.Record{
		Position:  binary.BigEndian.Uint64(b),
		Key:       revset.Key(b[8:24]),
		Before:    binary.BigEndian.Uint64(b[24:]),
		NotBefore: binary.BigEndian.Uint32(b[32:]),
		Forget:    binary.BigEndian.Uint32(b[36:]),
	}
}

// AppendRecords appends a records message. The records must be in the order
// of the log, without a gap, and end at m, at most MaxRecords of them.
func AppendRecords(b []byte, m Mark, records []revset.Record) []byte {
	b = appendMark(append(b, byte(KindRecords)), m)
	for _, r := range records {
		b = AppendRecord(b, r)
	}
	return b
}

// AppendSnapshot appends one part of a snapshot: merged records in any order,
// at most MaxRecords of them.
func AppendSnapshot(b []byte, records []revset.Record) []byte {
	b = append(b, byte(KindSnapshot))
	for _, r := range records {
		b = AppendRecord(b, r)
	}
	return b
}

// AppendMark appends the message that ends a snapshot.
func AppendMark(b []byte, m Mark) []byte { return appendMark(append(b, byte(KindMark)), m) }

// AppendPong appends a pong. Its grant is in whole milliseconds, rounded down.
func AppendPong(b []byte, p Pong) []byte {
	b = appendMark(append(b, byte(KindPong)), p.Mark)
	b = binary.BigEndian.AppendUint64(b, p.Stamp)
	b = binary.BigEndian.AppendUint64(b, uint64(p.Clock))
	return binary.BigEndian.AppendUint32(b, uint32(max(p.Grant, 0)/time.Millisecond))
}

// AppendPing appends a ping. Its tolerance is in whole seconds, rounded up.
func AppendPing(b []byte, p Ping) []byte {
	b = binary.BigEndian.AppendUint64(append(b, byte(KindPing)), p.Applied)
	b = binary.BigEndian.AppendUint64(b, p.Stamp)
	b = binary.BigEndian.AppendUint16(b, p.Routes)
	return binary.BigEndian.AppendUint32(b, uint32((p.Tolerance+time.Second-1)/time.Second))
}

// AppendGoodbye appends a goodbye: the verifier relies no longer on what it was
// granted on this connection.
func AppendGoodbye(b []byte) []byte { return append(b, byte(KindGoodbye)) }

// AppendJSON appends a hello, claims, keys or bye, whose body is v in JSON.
func AppendJSON(b []byte, k Kind, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return b, err
	}
	return append(append(b, byte(k)), body...), nil
}

func appendMark(b []byte, m Mark) []byte {
	b = binary.BigEndian.AppendUint64(b, m.Position)
	return append(b, m.Digest[:]...)
}

const markSize = 8 + sha256.Size

// ErrFormat marks a message that this version of the format does not have.
// Whoever receives one cannot know what was meant and must not rely on the
// connection any further.
var ErrFormat = errors.New("feed: not a message of " + Subprotocol)

// Split returns a message's kind and body.
func Split(msg []byte) (Kind, []byte, error) {
	if len(msg) == 0 {
		return 0, nil, fmt.Errorf("%w: it is empty", ErrFormat)
	}
	return Kind(msg[0]), msg[1:], nil
}

// DecodeRecords reads the body of a records message and checks that its
// positions are dense and end at the mark. It appends the records to dst.
func DecodeRecords(dst []revset.Record, body []byte) (Mark, []revset.Record, error) {
	if len(body) < markSize {
		return Mark{}, dst, fmt.Errorf("%w: records message of %d octets", ErrFormat, len(body))
	}
	m := decodeMark(body)
	start := len(dst)
	dst, err := DecodeSnapshot(dst, body[markSize:])
	if err != nil {
		return m, dst, err
	}
	got := dst[start:]
	first := m.Position - uint64(len(got)) + 1
	for i, r := range got {
		if r.Position != first+uint64(i) {
			return m, dst, fmt.Errorf("%w: record %d stands where %d belongs", ErrFormat, r.Position, first+uint64(i))
		}
	}
	return m, dst, nil
}

// DecodeSnapshot reads the body of a snapshot message, appending to dst.
func DecodeSnapshot(dst []revset.Record, body []byte) ([]revset.Record, error) {
	if len(body)%RecordSize != 0 || len(body) == 0 {
		return dst, fmt.Errorf("%w: %d octets are not whole records", ErrFormat, len(body))
	}
	for ; len(body) > 0; body = body[RecordSize:] {
		r := DecodeRecord(body)
		if r.Position == 0 || r.Position >= revset.MaxPosition {
			return dst, fmt.Errorf("%w: position %d", ErrFormat, r.Position)
		}
		dst = append(dst, r)
	}
	return dst, nil
}

// DecodeMark reads the body of a mark.
func DecodeMark(body []byte) (Mark, error) {
	if len(body) != markSize {
		return Mark{}, fmt.Errorf("%w: mark of %d octets", ErrFormat, len(body))
	}
	return decodeMark(body), nil
}

// DecodePong reads the body of a pong.
func DecodePong(body []byte) (Pong, error) {
	if len(body) != markSize+20 {
		return Pong{}, fmt.Errorf("%w: pong of %d octets", ErrFormat, len(body))
	}
	return Pong{
		Mark:  decodeMark(body),
		Stamp: binary.BigEndian.Uint64(body[markSize:]),
		Clock: int64(binary.BigEndian.Uint64(body[markSize+8:])),
		Grant: time.Duration(binary.BigEndian.Uint32(body[markSize+16:])) * time.Millisecond,
	}, nil
}

// DecodePing reads the body of a ping.
func DecodePing(body []byte) (Ping, error) {
	if len(body) != 22 {
		return Ping{}, fmt.Errorf("%w: ping of %d octets", ErrFormat, len(body))
	}
	return Ping{
		Applied:   binary.BigEndian.Uint64(body),
		Stamp:     binary.BigEndian.Uint64(body[8:]),
		Routes:    binary.BigEndian.Uint16(body[16:]),
		Tolerance: time.Duration(binary.BigEndian.Uint32(body[18:])) * time.Second,
	}, nil
}

// DecodeGoodbye reads the body of a goodbye, which is empty.
func DecodeGoodbye(body []byte) error {
	if len(body) != 0 {
		return fmt.Errorf("%w: goodbye with %d octets", ErrFormat, len(body))
	}
	return nil
}

func decodeMark(b []byte) Mark {
	return Mark{Position: binary.BigEndian.Uint64(b), Digest: Digest(b[8:markSize])}
}
