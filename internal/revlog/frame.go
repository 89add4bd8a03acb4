package revlog

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/gobwas/ws"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/revset"
)

// frameSize returns the size of a frame from the node, which has no mask.
func frameSize(payload int) int {
	return ws.HeaderSize(ws.Header{Length: int64(payload)}) + payload
}

// appendHeader appends the header of a whole message's only frame (RFC 6455,
// section 5.2).
func appendHeader(b []byte, op ws.OpCode, length int) []byte {
	const final = 0x80
	b = append(b, final|byte(op))
	switch {
	case length < 126:
		return append(b, byte(length))
	case length <= 0xffff:
		return binary.BigEndian.AppendUint16(append(b, 126), uint16(length))
	default:
		return binary.BigEndian.AppendUint64(append(b, 127), uint64(length))
	}
}

func appendFrame(b []byte, op ws.OpCode, payload []byte) []byte {
	return append(appendHeader(b, op, len(payload)), payload...)
}

func recordsSize(n int) int { return 1 + 8 + len(feed.Digest{}) + n*feed.RecordSize }

func appendRecords(b []byte, m feed.Mark, records []revset.Record) []byte {
	return feed.AppendRecords(appendHeader(b, ws.OpBinary, recordsSize(len(records))), m, records)
}

// errFrame marks what a verifier may not send.
var errFrame = errors.New("not allowed by the feed")

// frameReader reads what a verifier sends: binary messages of at most
// feed.MaxPing octets, and control frames, which may come between the parts of
// a message. Its buffers are all that a connection keeps for reading.
type frameReader struct {
	r       *bufio.Reader
	header  [ws.MaxHeaderSize]byte
	state   ws.State
	message [feed.MaxPing]byte
	length  int
	control [ws.MaxControlFramePayloadSize]byte
}

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{r: bufio.NewReaderSize(r, 64), state: ws.StateServerSide}
}

// next returns the next message or control frame. The payload is valid until
// the call after it. An error that is errFrame is the verifier's doing; others
// are the connection's.
func (f *frameReader) next() (ws.OpCode, []byte, error) {
	for {
		h, err := ws.ReadHeaderBuffer(f.r, f.header[:0])
		if errors.Is(err, ws.ErrHeaderLengthMSB) || errors.Is(err, ws.ErrHeaderLengthUnexpected) {
			return 0, nil, fmt.Errorf("%w: %w", errFrame, err)
		}
		if err != nil {
			return 0, nil, err
		}
		if err := ws.CheckHeader(h, f.state); err != nil {
			return 0, nil, fmt.Errorf("%w: %w", errFrame, err)
		}
		if h.OpCode.IsControl() {
			payload := f.control[:h.Length]
			return h.OpCode, payload, f.payload(payload, h)
		}
		if done, err := f.part(h); done || err != nil {
			return ws.OpBinary, f.message[:f.length], err
		}
	}
}

// part reads one frame of a message and reports whether it was the last.
func (f *frameReader) part(h ws.Header) (bool, error) {
	if h.OpCode == ws.OpText {
		return false, fmt.Errorf("%w: a text message", errFrame)
	}
	if h.OpCode != ws.OpContinuation {
		f.length = 0
	}
	if h.Length > int64(len(f.message)-f.length) {
		return false, fmt.Errorf("%w: a message above %d octets", errFrame, feed.MaxPing)
	}
	err := f.payload(f.message[f.length:f.length+int(h.Length)], h)
	f.length += int(h.Length)
	f.state = f.state.Clear(ws.StateFragmented)
	if !h.Fin {
		f.state = f.state.Set(ws.StateFragmented)
	}
	return h.Fin, err
}

func (f *frameReader) payload(p []byte, h ws.Header) error {
	if _, err := io.ReadFull(f.r, p); err != nil {
		return err
	}
	ws.Cipher(p, h.Mask, 0)
	return nil
}
