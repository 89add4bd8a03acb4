// Package backup writes all that a store holds into one file, and makes of such
// a file what an empty store holds: of the same kind or of another.
//
// The file is compressed text, one JSON object a line: a header, the rows, and
// an end that has the digest of what stands before it. Nothing is restored of
// a file whose digest is another. What is sealed or hashed in the store is so
// in the file; the secret that seals is not in it.
//
// A restored store is not the one that was backed up: what has happened since is
// not known to it. So a new epoch begins, as [issuer.StartEpoch] has it.
package backup

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"time"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
)

const (
	format  = "quash backup"
	version = 2 // adds clients, what sessions were granted, the scope clients, and other issuers; 1 had none
	// maxLine bounds a line in octets; the longest have the outcomes of a confirmation.
	maxLine = 8 << 20
)

// line is one line of the file: it has one member. They stand in this order.
type line struct {
	Header       *header              `json:"header,omitempty"`
	Account      *account             `json:"account,omitempty"`
	Session      *session             `json:"session,omitempty"`
	APIKey       *apiKey              `json:"api_key,omitempty"`
	Client       *client              `json:"client,omitempty"`
	Audit        *auditEntry          `json:"audit,omitempty"`
	Verifier     *issuer.Verifier     `json:"verifier,omitempty"`
	Confirmation *issuer.Confirmation `json:"confirmation,omitempty"`
	SigningKey   *signingKey          `json:"signing_key,omitempty"`
	Epoch        *epoch               `json:"epoch,omitempty"`
	Log          *log                 `json:"log,omitempty"`
	Revocation   *revocation          `json:"revocation,omitempty"`
	End          *end                 `json:"end,omitempty"`
}

type header struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	Time    time.Time `json:"time"` // of the snapshot, by the database's clock
}

type end struct {
	Lines  int    `json:"lines"`  // before this one
	SHA256 string `json:"sha256"` // of them
}

// The rows whose fields JSON would change, or show as lists of numbers, have
// these as octets instead.
type (
	account struct {
		issuer.Account
		Claims []byte
	}
	session struct {
		issuer.Session
		Secret, RetryKey []byte
	}
	apiKey struct {
		issuer.APIKey
		Hash, Previous []byte
	}
	client struct {
		issuer.Client
		Hash, Previous, Keys []byte
	}
	auditEntry struct {
		issuer.AuditEntry
		Detail []byte
	}
	signingKey struct {
		issuer.SigningKey
		Public []byte
	}
	epoch struct {
		issuer.Epoch
		Before, Begin mark
	}
	log struct {
		issuer.Log
		Head, Pruned mark
	}
	revocation struct {
		issuer.Revocation
		Key, Digest []byte
	}
	mark struct {
		Position uint64
		Digest   []byte
	}
)

func markOf(m feed.Mark) mark { return mark{m.Position, m.Digest[:]} }

func (m mark) value() (v feed.Mark, err error) {
	v.Position = m.Position
	return v, fixed(v.Digest[:], m.Digest)
}

// fixed copies octets into an array of as many.
func fixed(to, from []byte) error {
	if copy(to, from) != len(to) || len(from) != len(to) {
		return fmt.Errorf("a value has %d octets where %d belong", len(from), len(to))
	}
	return nil
}

func (r *account) value() issuer.Account {
	r.Account.Claims = r.Claims
	return r.Account
}

func (r *auditEntry) value() issuer.AuditEntry {
	r.AuditEntry.Detail = r.Detail
	return r.AuditEntry
}

func (r *signingKey) value() issuer.SigningKey {
	r.SigningKey.Public = r.Public
	return r.SigningKey
}

func (r *session) value() (issuer.Session, error) {
	err := errors.Join(fixed(r.Session.Secret[:], r.Secret), fixed(r.Session.RetryKey[:], r.RetryKey))
	return r.Session, err
}

func (r *apiKey) value() (issuer.APIKey, error) {
	err := errors.Join(fixed(r.APIKey.Hash[:], r.Hash), fixed(r.APIKey.Previous[:], r.Previous))
	return r.APIKey, err
}

// upgrade gives a key of version 1 the scope that there was not, as the migration
// does: whoever has every other has it.
func (r *apiKey) upgrade() {
	for _, s := range []issuer.Scope{issuer.ScopeRevoke, issuer.ScopeSessions, issuer.ScopeAccounts, issuer.ScopeAudit, issuer.ScopeKeys, issuer.ScopeBackup} {
		if !slices.Contains(r.Scopes, s) {
			return
		}
	}
	r.Scopes = append(r.Scopes, issuer.ScopeClients)
}

func (r *client) value() (issuer.Client, error) {
	err := errors.Join(fixed(r.Client.Hash[:], r.Hash), fixed(r.Client.Previous[:], r.Previous))
	r.Client.Keys = r.Keys
	return r.Client, err
}

func (r *revocation) value() (issuer.Revocation, error) {
	err := errors.Join(fixed(r.Revocation.Key[:], r.Key), fixed(r.Revocation.Digest[:], r.Digest))
	return r.Revocation, err
}

func (r *epoch) value() (e issuer.Epoch, err error) {
	var errBegin error
	e = r.Epoch
	e.Before, err = r.Before.value()
	e.Begin, errBegin = r.Begin.value()
	return e, errors.Join(err, errBegin)
}

func (r *log) value() (l issuer.Log, err error) {
	var errPruned error
	l = r.Log
	l.Head, err = r.Head.value()
	l.Pruned, errPruned = r.Pruned.value()
	return l, errors.Join(err, errPruned)
}

// writer writes lines.
type writer struct {
	packed *gzip.Writer
	text   *bufio.Writer
	lines  int
	sum    hash.Hash // of them
}

func newWriter(w io.Writer) *writer {
	packed, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // which is a level that there is
	return &writer{packed: packed, text: bufio.NewWriterSize(packed, 1<<16), sum: sha256.New()}
}

func (w *writer) write(l line) error {
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if len(text) >= maxLine {
		return fmt.Errorf("a row takes %d octets, more than the %d that a line may have", len(text), maxLine)
	}
	text = append(text, '\n')
	w.sum.Write(text)
	w.lines++
	_, err = w.text.Write(text)
	return err
}

// end writes the end, after which nothing may be written.
func (w *writer) end() error {
	if err := w.write(line{End: &end{Lines: w.lines, SHA256: hex.EncodeToString(w.sum.Sum(nil))}}); err != nil {
		return err
	}
	return errors.Join(w.text.Flush(), w.packed.Close())
}

// reader reads lines.
type reader struct {
	text  *bufio.Scanner
	lines int
	sum   hash.Hash // of them
}

var errFormat = errors.New("this is no backup that this version of quash can read")

// newReader returns a reader that has read the header.
func newReader(r io.Reader) (*reader, header, error) {
	packed, err := gzip.NewReader(r)
	if err != nil {
		return nil, header{}, fmt.Errorf("%w: %w", errFormat, err)
	}
	in := &reader{text: bufio.NewScanner(packed), sum: sha256.New()}
	in.text.Buffer(make([]byte, 0, 1<<16), maxLine)
	first, err := in.read()
	switch {
	case err != nil:
		return nil, header{}, fmt.Errorf("%w: %w", errFormat, err)
	case first.Header == nil || first.Header.Format != format:
		return nil, header{}, errFormat
	case first.Header.Version < 1 || first.Header.Version > version:
		return nil, header{}, fmt.Errorf("%w: it is of version %d, and this reads versions 1 to %d", errFormat, first.Header.Version, version)
	}
	return in, *first.Header, nil
}

// read returns the next line. At the end of a file that is whole that is its
// end; a file that stops before is io.ErrUnexpectedEOF.
func (r *reader) read() (l line, err error) {
	if !r.text.Scan() {
		if err := r.text.Err(); err != nil {
			return l, err
		}
		return l, io.ErrUnexpectedEOF
	}
	d := json.NewDecoder(bytes.NewReader(r.text.Bytes()))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		return l, fmt.Errorf("line %d: %w", r.lines+1, err)
	}
	if l.End != nil {
		return l, r.check(*l.End)
	}
	r.lines++
	r.sum.Write(r.text.Bytes())
	r.sum.Write([]byte{'\n'})
	return l, nil
}

var errDamaged = errors.New("the file is damaged: its digest is not that of what it holds")

func (r *reader) check(e end) error {
	if e.Lines != r.lines || e.SHA256 != hex.EncodeToString(r.sum.Sum(nil)) || r.text.Scan() {
		return errDamaged
	}
	return r.text.Err()
}
