package main

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/quashdev/quash/client"
)

// accountFile has accounts, one after the other. Next returns a [*badRow] for
// one that cannot be read, and goes on; io.EOF at the end.
type accountFile interface {
	next() (a client.ImportedAccount, line int, err error)
}

type badRow struct{ text string }

func (e *badRow) Error() string { return e.text }

func bad(format string, args ...any) error { return &badRow{fmt.Sprintf(format, args...)} }

// maxRow bounds what is read of one row, in octets.
const maxRow = 64 << 10

// openAccounts finds out whether a file is CSV or has a JSON object a line.
func openAccounts(in io.Reader) (accountFile, error) {
	within := &bounded{in: in, left: 2 * maxRow}
	r := bufio.NewReaderSize(within, maxRow)
	if mark, _ := r.Peek(3); string(mark) == "\ufeff" {
		_, _ = r.Discard(3)
	}
	first, err := r.Peek(1)
	switch {
	case errors.Is(err, io.EOF):
		return nil, errors.New("the file is empty")
	case err != nil:
		return nil, err
	case first[0] == '{':
		within.left = -1
		return &jsonLines{in: r}, nil
	}
	return openCSV(r, within)
}

// bounded reads no more than is left, which is set anew for each row; less than
// nothing does not bound.
type bounded struct {
	in   io.Reader
	left int
}

var errUnbounded = fmt.Errorf("a row has more than %d octets; is a quote missing?", maxRow)

func (b *bounded) Read(p []byte) (int, error) {
	switch {
	case b.left < 0:
		return b.in.Read(p)
	case b.left == 0:
		return 0, errUnbounded
	}
	n, err := b.in.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

const columnNames = "name, subject, password_hash, password, claims, deactivated"

var accountColumns = strings.Split(columnNames, ", ")

// setField sets what a column or member says. An empty text is as if it were
// not there.
func setField(a *client.ImportedAccount, name, text string) error {
	if text == "" {
		return nil
	}
	switch name {
	case "subject":
		a.Subject = text
	case "name":
		a.Name = text
	case "password":
		a.Password = text
	case "password_hash":
		a.PasswordHash = text
	case "claims":
		if a.Claims = json.RawMessage(text); !json.Valid(a.Claims) {
			return bad("claims: want a JSON object")
		}
	case "deactivated":
		off, err := strconv.ParseBool(text)
		if err != nil {
			return bad("deactivated: want true or false")
		}
		a.Deactivated = &off
	}
	return nil
}

type csvFile struct {
	in     *csv.Reader
	within *bounded
	header []string
}

func openCSV(r io.Reader, within *bounded) (*csvFile, error) {
	f := &csvFile{in: csv.NewReader(r), within: within}
	header, err := f.in.Read()
	if err != nil {
		return nil, fmt.Errorf("the header: %w", err)
	}
	for i, name := range header {
		header[i] = strings.ToLower(strings.TrimSpace(name))
		if !slices.Contains(accountColumns, header[i]) || slices.Contains(header[:i], header[i]) {
			return nil, fmt.Errorf("the header: %.64q: want each of %s at most once; for JSON lines, begin with {", name, columnNames)
		}
	}
	f.header, f.in.ReuseRecord = header, true
	return f, nil
}

func (f *csvFile) next() (a client.ImportedAccount, line int, err error) {
	f.within.left = 2 * maxRow // a reader may be so far ahead
	record, err := f.in.Read()
	if broken, ok := errors.AsType[*csv.ParseError](err); ok {
		return a, broken.StartLine, bad("%v", broken.Err)
	}
	if err != nil {
		return a, 0, err
	}
	line, _ = f.in.FieldPos(0)
	for i, text := range record {
		if err := setField(&a, f.header[i], text); err != nil {
			return a, line, err
		}
	}
	return a, line, nil
}

type jsonLines struct {
	in   *bufio.Reader
	line int
}

func (f *jsonLines) next() (a client.ImportedAccount, line int, err error) {
	for {
		text, err := f.in.ReadSlice('\n')
		f.line++
		if errors.Is(err, bufio.ErrBufferFull) {
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = f.in.ReadSlice('\n')
			}
			return a, f.line, bad("the row has more than %d octets", maxRow)
		}
		if text = bytes.TrimSpace(text); len(text) > 0 {
			a, err = readAccount(text)
			return a, f.line, err
		}
		if err != nil {
			return a, f.line, err
		}
	}
}

var errLine = bad("want one JSON object with each name once")

// readAccount reads a line, and refuses a name that is unknown or there twice.
func readAccount(text []byte) (a client.ImportedAccount, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return a, errLine
	}
	var seen []string
	for d.More() {
		var value json.RawMessage
		name, err := d.Token()
		if err != nil || d.Decode(&value) != nil || slices.Contains(seen, name.(string)) {
			return a, errLine
		}
		seen = append(seen, name.(string))
		if err := setMember(&a, name.(string), value); err != nil {
			return a, err
		}
	}
	if _, err := d.Token(); err != nil || d.InputOffset() != int64(len(text)) {
		return a, errLine
	}
	return a, nil
}

func setMember(a *client.ImportedAccount, name string, value json.RawMessage) error {
	text := string(value)
	switch {
	case !slices.Contains(accountColumns, name):
		return bad("%.64q: unknown; there are %s", name, columnNames)
	case text == "null":
		text = ""
	case name == "deactivated" && text != "true" && text != "false":
		return bad("deactivated: want true or false")
	case name != "claims" && name != "deactivated" && json.Unmarshal(value, &text) != nil:
		return bad("%.64q: want a string", name)
	}
	return setField(a, name, text)
}
