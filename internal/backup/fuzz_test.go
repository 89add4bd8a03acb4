package backup_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	_ "embed"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/quashdev/quash/internal/backup"
)

// whole is the text of a backup of format version 1, without its end. It stays
// as it is: every later version reads it.
//
//go:embed testdata/whole.txt
var whole []byte

// FuzzRestore reads a file of whatever text, with the digest of that text at its
// end, as a restore does before it writes anything. What is taken with it is
// not taken with the digest of another text.
func FuzzRestore(f *testing.F) {
	if err := check(whole, whole); err != nil {
		f.Fatalf("a backup of format version 1 is refused: %v", err)
	}
	lines := bytes.SplitAfter(whole, []byte("\n"))
	f.Add(whole)
	for i, line := range lines {
		f.Add(bytes.Join(slices.Delete(slices.Clone(lines), i, i+1), nil))         // a line is missing
		f.Add(bytes.Join(slices.Insert(slices.Clone(lines), i, line), nil))        // a line is there twice
		f.Add(bytes.ReplaceAll(whole, []byte(`":1`), fmt.Appendf(nil, `":%d`, i))) // another position, or version
	}
	for _, line := range []string{
		`{"log":{}}`, `{"log":null}`, `{"revocation":{}}`, `{"epoch":{}}`, `{"signing_key":{}}`, `{"api_key":{}}`, `{"client":{}}`, `{"verifier":{}}`, `{"confirmation":{}}`, `{}`, "null", "[]",
	} {
		f.Add(append(bytes.Clone(lines[0]), line...))
		f.Add(append(bytes.Clone(whole), line...))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if check(text, text) == nil && check(text, append(bytes.Clone(text), ' ')) == nil {
			t.Errorf("took %q with the digest of something else", text)
		}
	})
}

// check reads a file as a restore does before it writes anything.
func check(text, digested []byte) error {
	return backup.Check(context.Background(), file(text, digested))
}

// file opens a file of the text, at whose end stands the digest of the text that is given.
func file(text, digested []byte) func() (io.ReadCloser, error) {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	end := fmt.Sprintf(`{"end":{"lines":%d,"sha256":"%x"}}`+"\n", bytes.Count(closed(text), []byte("\n")), sha256.Sum256(closed(digested)))
	_, _ = w.Write(append(closed(text), end...))
	_ = w.Close()
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed.Bytes())), nil }
}

// closed returns the text with its last line ended.
func closed(text []byte) []byte {
	return append(bytes.TrimSuffix(bytes.Clone(text), []byte("\n")), '\n')
}
