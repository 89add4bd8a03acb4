package issuer

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"strconv"
	"time"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/revset"
)

// Batch is sealed revocations in the form in which stores keep them, one after
// the other: the record as [feed.AppendRecord] has it, its digest, and the
// evidence that the digest covers, behind its length in four octets.
//
// The evidence is issuer, claim, value, event, actor, reason and time in Unix
// milliseconds, each behind its length in octets, in decimal, and a colon.
type Batch []byte

const (
	digestEnd = feed.RecordSize + sha256.Size
	headSize  = digestEnd + 4
)

// Append appends a revocation that was sealed.
func (b Batch) Append(r *Revocation) Batch {
	b = feed.AppendRecord(b, r.Record())
	b = append(b, r.Digest[:]...)
	length := len(b)
	b = r.appendEvidence(append(b, 0, 0, 0, 0))
	binary.BigEndian.PutUint32(b[length:], uint32(len(b)-length-4))
	return b
}

// Records calls fn for each record with its digest, in order, until it fails.
func (b Batch) Records(fn func(revset.Record, feed.Digest) error) error {
	return b.each(func(head, _ []byte) error {
		return fn(feed.DecodeRecord(head), feed.Digest(head[feed.RecordSize:digestEnd]))
	})
}

// Revocations calls fn for each revocation, in order, until it fails.
func (b Batch) Revocations(fn func(Revocation) error) error {
	return b.each(func(head, evidence []byte) error {
		record := feed.DecodeRecord(head)
		r := Revocation{
			Position: record.Position, Key: record.Key, Before: record.Before, NotBefore: record.NotBefore,
			Forget: record.Forget, Keep: record.Forget == revset.NeverForget, Digest: feed.Digest(head[feed.RecordSize:digestEnd]),
		}
		if err := r.setEvidence(evidence); err != nil {
			return err
		}
		return fn(r)
	})
}

var errBatch = errors.New("the log holds records that are cut short or changed")

func (b Batch) each(fn func(head, evidence []byte) error) error {
	for len(b) > 0 {
		if len(b) < headSize {
			return errBatch
		}
		end := headSize + uint64(binary.BigEndian.Uint32(b[digestEnd:]))
		if uint64(len(b)) < end {
			return errBatch
		}
		if err := fn(b[:headSize], b[headSize:end]); err != nil {
			return err
		}
		b = b[end:]
	}
	return nil
}

// digest is that of the log that ended with before, and goes on with r.
func (r *Revocation) digest(before feed.Digest) feed.Digest {
	var stack [512]byte
	return before.Next(r.Record(), sha256.Sum256(r.appendEvidence(stack[:0])))
}

func (r *Revocation) appendEvidence(b []byte) []byte {
	var digits [20]byte
	for _, s := range [...]string{r.Issuer, r.Claim, r.Value, r.Event, r.Actor, r.Reason} {
		b = strconv.AppendInt(b, int64(len(s)), 10)
		b = append(append(b, ':'), s...)
	}
	at := strconv.AppendInt(digits[:0], r.Time.UnixMilli(), 10)
	b = strconv.AppendInt(b, int64(len(at)), 10)
	return append(append(b, ':'), at...)
}

func (r *Revocation) setEvidence(b []byte) error {
	var at string
	for _, field := range [...]*string{&r.Issuer, &r.Claim, &r.Value, &r.Event, &r.Actor, &r.Reason, &at} {
		digits, rest, found := bytes.Cut(b, []byte{':'})
		n, err := strconv.ParseUint(string(digits), 10, 31)
		if !found || err != nil || uint64(len(rest)) < n {
			return errBatch
		}
		*field, b = string(rest[:n]), rest[n:]
	}
	ms, err := strconv.ParseInt(at, 10, 64)
	if err != nil || len(b) > 0 {
		return errBatch
	}
	r.Time = time.UnixMilli(ms).UTC()
	return nil
}
