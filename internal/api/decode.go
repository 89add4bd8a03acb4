package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/jws"
)

// maxBody bounds every body, in octets.
const maxBody = 64 << 10

// decode reads the body: one JSON object whose members have the names of T,
// each once, in their exact case. Members that T does not leave out when they
// are empty are required.
func decode[T any](c *call) (body T, err error) {
	kind, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return body, &refusal{code: client.CodeMediaType, detail: "send the body as application/json"}
	}
	text, err := readBody(c)
	if err != nil {
		return body, err
	}
	return decodeObject[T]("the body", text)
}

// decodeObject is decode of an object that stands somewhere.
func decodeObject[T any](where string, text []byte) (body T, err error) {
	members, err := jws.Members(nil, text)
	if err != nil {
		return body, invalid("%s: want one JSON object with each name once, and nothing after it: %v", where, err)
	}
	fields, required := fieldsOf(reflect.ValueOf(&body).Elem())
	for _, m := range members {
		field, ok := fields[m.Name]
		if !ok {
			return body, invalid("%.64q: unknown; the members are %s", m.Name, strings.Join(required.all, ", "))
		}
		if string(m.Value) == "null" || json.Unmarshal(m.Value, field.Addr().Interface()) != nil {
			return body, invalid("%s: want %s", m.Name, wanted(field.Type()))
		}
		delete(required.left, m.Name)
	}
	for _, name := range required.all {
		if required.left[name] {
			return body, invalid("%s: missing", name)
		}
	}
	return body, nil
}

// names are those of a body's members.
type names struct {
	all  []string
	left map[string]bool // those that must be there
}

// fieldsOf returns the fields of a body by the names of their members.
func fieldsOf(body reflect.Value) (map[string]reflect.Value, names) {
	fields, n := map[string]reflect.Value{}, names{left: map[string]bool{}}
	for field, value := range body.Fields() {
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "-" {
			continue
		}
		fields[name] = value
		n.all = append(n.all, name)
		if options == "" {
			n.left[name] = true
		}
	}
	return fields, n
}

// wanted says what JSON a field is made from.
func wanted(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[json.RawMessage]():
		return "an object"
	case t == reflect.TypeFor[[]json.RawMessage]():
		return "an array of objects"
	case t == reflect.TypeFor[*bool]():
		return "true or false"
	case t.Kind() == reflect.Slice:
		return "an array of strings"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.String:
		return "a string"
	}
	return "a whole number"
}

func readBody(c *call) ([]byte, error) {
	text, err := io.ReadAll(http.MaxBytesReader(c, c.r.Body, maxBody))
	if _, large := errors.AsType[*http.MaxBytesError](err); err != nil && !large {
		return nil, invalid("the body ended before it was complete")
	}
	return text, err
}

// noBody refuses a body where none is read: what it says would be lost.
func noBody(r *http.Request) error {
	if hasBody(r) {
		return invalid("the body: this call takes none")
	}
	return nil
}

// hasBody looks at the first octet of a body whose length was not announced,
// and puts it back.
func hasBody(r *http.Request) bool {
	if r.Body == nil || r.ContentLength >= 0 {
		return r.ContentLength > 0
	}
	first := make([]byte, 1)
	n, _ := io.ReadFull(r.Body, first)
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(first[:n]), r.Body), r.Body}
	return n > 0
}

// readQuery reads a query string that may have the known parameters, each at
// most once.
func readQuery(raw string, known []string) (url.Values, error) {
	query, err := url.ParseQuery(raw)
	if err != nil {
		return nil, invalid("the query string is malformed")
	}
	for name, values := range query {
		switch {
		case !slices.Contains(known, name) && len(known) == 0:
			return nil, invalid("query parameter %.64q: unknown; this call takes none", name)
		case !slices.Contains(known, name):
			return nil, invalid("query parameter %.64q: unknown; this call takes %s", name, strings.Join(known, ", "))
		case len(values) > 1:
			return nil, invalid("query parameter %s: there more than once", name)
		}
	}
	return query, nil
}

// number reads a query parameter from low to high; absent is what it is when
// the query has none.
func (c *call) number(name string, low, high, absent uint64) (uint64, error) {
	if !c.query.Has(name) {
		return absent, nil
	}
	n, err := strconv.ParseUint(c.query.Get(name), 10, 64)
	if err != nil || n < low || n > high {
		return 0, invalid("query parameter %s: want a whole number from %d to %d", name, low, high)
	}
	return n, nil
}

// limit reads the query parameter of lists.
func (c *call) limit() (int, error) {
	n, err := c.number("limit", 1, 1000, 100)
	return int(n), err
}

func (c *call) dryRun() (bool, error) { return c.flag("dry_run") }

// flag reads a query parameter that is true or false; absent is false.
func (c *call) flag(name string) (bool, error) {
	switch {
	case !c.query.Has(name) || c.query.Get(name) == "false":
		return false, nil
	case c.query.Get(name) == "true":
		return true, nil
	}
	return false, invalid("query parameter %s: want true or false", name)
}

// bearer returns the token of the Authorization header (RFC 6750, section 2.1;
// RFC 9110, section 11.4).
func bearer(r *http.Request) (string, error) {
	values := r.Header.Values("Authorization")
	switch len(values) {
	case 0:
		return "", errNoToken
	case 1:
	default:
		return "", errBearer
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", errNoToken
	}
	token = strings.TrimLeft(token, " ")
	if !token68(token) {
		return "", errBearer
	}
	return token, nil
}

// token68 says whether s has the form that RFC 9110, section 11.2, gives to
// credentials of one token.
func token68(s string) bool {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/"
	s = strings.TrimRight(s, "=")
	return s != "" && strings.Trim(s, alphabet) == ""
}

// idempotencyKey returns the Idempotency-Key: a string of RFC 9651, section
// 3.3.3, or one token without quotes; empty where there is none.
func idempotencyKey(r *http.Request) (string, error) {
	values := r.Header.Values("Idempotency-Key")
	if len(values) == 0 {
		return "", nil
	}
	text := strings.Trim(values[0], " \t")
	key, ok := unquote(text)
	if !strings.HasPrefix(text, `"`) {
		key, ok = text, !strings.ContainsAny(text, " ,;\"\\")
	}
	if len(values) > 1 || !ok || key == "" || len(key) > 255 || strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }) {
		return "", invalid("Idempotency-Key: want one, of 1 to 255 printable ASCII characters, in quotes")
	}
	return key, nil
}

// unquote reads a string of RFC 9651, section 3.3.3, up to its characters.
func unquote(text string) (string, bool) {
	if len(text) < 2 || text[0] != '"' || text[len(text)-1] != '"' {
		return "", false
	}
	text = text[1 : len(text)-1]
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			return "", false
		case '\\':
			i++
			if i == len(text) || text[i] != '"' && text[i] != '\\' {
				return "", false
			}
		}
		b.WriteByte(text[i])
	}
	return b.String(), true
}
