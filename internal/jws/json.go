package jws

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// Bounds of JSON: how deep values nest, and how many members one object has.
const (
	maxDepth   = 16
	maxMembers = 256
)

// Errors of [Members].
var (
	errSyntax    = fmt.Errorf("%w: not one JSON object (RFC 8259)", ErrMalformed)
	errUTF8      = fmt.Errorf("%w: not UTF-8", ErrMalformed)
	errSurrogate = fmt.Errorf("%w: an escape is half of a surrogate pair", ErrMalformed)
	errRepeated  = fmt.Errorf("%w: an object has two members of one name", ErrMalformed)
	errDeep      = fmt.Errorf("%w: JSON nests deeper than %d", ErrMalformed, maxDepth)
	errMany      = fmt.Errorf("%w: an object has more than %d members", ErrMalformed, maxMembers)
)

// Member is a member of a JSON object.
type Member struct {
	Name  string
	Value []byte // JSON text, a part of the object's
}

// Members reads one JSON object and appends its members, in their order, to
// dst. The values share object's memory.
//
// It takes what RFC 8259 and RFC 7493 (I-JSON) both allow: UTF-8 without a byte
// order mark, nothing but white space around the object, no half of a
// surrogate pair, no two members of one name in any object, escapes resolved.
// Names differ by case. At most 16 values nest, at most 256 members are in one
// object; the time is linear in the length.
func Members(dst []Member, object []byte) ([]Member, error) {
	if !utf8.Valid(object) {
		return dst, errUTF8
	}
	s := scanner{text: object}
	s.space()
	if s.peek() != '{' {
		return dst, errSyntax
	}
	kept := len(dst)
	dst, err := s.object(dst)
	if err != nil {
		return dst[:kept], err
	}
	if s.space(); s.pos != len(s.text) {
		return dst[:kept], errSyntax
	}
	return dst, nil
}

// Elements reads a JSON array and appends the texts of its values to dst. It
// reports false for anything else, and for what [Members] would not take as a
// value.
func Elements(dst [][]byte, value []byte) ([][]byte, bool) {
	s := scanner{text: value}
	if s.peek() != '[' || !utf8.Valid(value) {
		return dst, false
	}
	kept := len(dst)
	dst, err := s.array(dst, true)
	if err != nil || s.pos != len(value) {
		return dst[:kept], false
	}
	return dst, true
}

// String returns the characters of a JSON string. It reports false for
// anything else.
func String(value []byte) (string, bool) {
	text, ok := AppendString(nil, value)
	return string(text), ok
}

// AppendString appends the characters of a JSON string to dst. It reports false
// for anything else.
func AppendString(dst, value []byte) ([]byte, bool) {
	s := scanner{text: value}
	if s.peek() != '"' || !utf8.Valid(value) || s.quoted() != nil || s.pos != len(value) {
		return dst, false
	}
	return appendUnquoted(dst, value), true
}

// Integer returns a JSON number that is whole, however it is written: 1e3 is
// 1000. It reports false for anything else and for what an int64 cannot hold.
func Integer(value []byte) (int64, bool) {
	negative, whole, fraction, ok := decimal(value)
	switch {
	case !ok || fraction:
		return 0, false
	case negative:
		return -int64(whole), true
	}
	return int64(whole), true
}

// NumericDate reads a JSON number of seconds since 1970 (RFC 7519, section 2).
// It returns the last whole second that is not later, and whether a fraction is
// left, both exactly. It reports ok false for anything else and outside of
// [0, 2^53).
func NumericDate(value []byte) (sec int64, frac, ok bool) {
	negative, whole, fraction, ok := decimal(value)
	if !ok || whole >= 1<<53 || negative && (whole > 0 || fraction) {
		return 0, false, false
	}
	return int64(whole), fraction, true
}

// Text returns a value as revocations compare it: of a string its characters;
// of a number the text that ECMAScript gives the nearest double (RFC 8785,
// section 3.2.2.3), so 1, 1.0 and 1e0 are "1"; true or false. It reports false
// for anything else, and for numbers of 2^53 or more in magnitude, of which
// doubles do not tell neighbours apart.
func Text(value []byte) (string, bool) {
	text, ok := AppendText(nil, value)
	return string(text), ok
}

// AppendText appends a value's [Text] to dst.
func AppendText(dst, value []byte) ([]byte, bool) {
	if len(value) == 0 {
		return dst, false
	}
	switch value[0] {
	case '"':
		return AppendString(dst, value)
	case 't', 'f':
		if string(value) != "true" && string(value) != "false" {
			return dst, false
		}
		return append(dst, value...), true
	}
	s := scanner{text: value}
	if s.number() != nil || s.pos != len(value) {
		return dst, false
	}
	f, err := strconv.ParseFloat(string(value), 64)
	if err != nil || math.Abs(f) >= 1<<53 {
		return dst, false
	}
	return append(dst, formatNumber(f)...), true
}

// formatNumber differs from strconv in the exponent only, which ECMAScript
// writes without leading zeros.
func formatNumber(f float64) string {
	if f == math.Trunc(f) {
		return strconv.FormatInt(int64(f), 10)
	}
	if math.Abs(f) >= 1e-6 {
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	text := strconv.FormatFloat(f, 'e', -1, 64)
	if n := len(text); text[n-2] == '0' {
		return text[:n-2] + text[n-1:]
	}
	return text
}

// decimal takes a JSON number apart without rounding: the sign, the whole part
// of the magnitude, and whether anything is left. It reports false where the
// value is no number or the whole part is 2^63 or more.
func decimal(value []byte) (negative bool, whole uint64, fraction, ok bool) {
	s := scanner{text: value}
	if s.number() != nil || s.pos != len(value) {
		return false, 0, false, false
	}
	if value[0] == '-' {
		negative, value = true, value[1:]
	}
	mantissa, exponent := value, 0
	if i := bytes.IndexAny(value, "eE"); i >= 0 {
		mantissa = value[:i]
		exponent = clampedInt(value[i+1:])
	}
	integer, rest, _ := bytes.Cut(mantissa, []byte("."))
	point := len(integer) + exponent
	for i := range len(integer) + len(rest) {
		digit := digitAt(integer, rest, i)
		if i >= point {
			fraction = fraction || digit != 0
			continue
		}
		if whole, ok = timesTen(whole, digit); !ok {
			return false, 0, false, false
		}
	}
	for i := len(integer) + len(rest); i < point && whole != 0; i++ {
		if whole, ok = timesTen(whole, 0); !ok {
			return false, 0, false, false
		}
	}
	return negative, whole, fraction, true
}

func digitAt(integer, rest []byte, i int) uint64 {
	if i < len(integer) {
		return uint64(integer[i] - '0')
	}
	return uint64(rest[i-len(integer)] - '0')
}

func timesTen(n, digit uint64) (uint64, bool) {
	if n > (math.MaxInt64-digit)/10 {
		return 0, false
	}
	return n*10 + digit, true
}

// clampedInt reads an exponent. Beyond a million it makes no difference: no
// text that is read here has so many digits.
func clampedInt(text []byte) int {
	negative := text[0] == '-'
	n := 0
	for _, c := range bytes.TrimLeft(text, "+-") {
		n = min(n*10+int(c-'0'), 1_000_000)
	}
	if negative {
		return -n
	}
	return n
}

// scanner walks over JSON text that is known to be UTF-8.
type scanner struct {
	text  []byte
	pos   int
	depth int
}

// peek returns the next octet, and 0, which no JSON text has outside of
// strings, at the end.
func (s *scanner) peek() byte {
	if s.pos < len(s.text) {
		return s.text[s.pos]
	}
	return 0
}

func (s *scanner) space() {
	for c := s.peek(); c == ' ' || c == '\t' || c == '\n' || c == '\r'; c = s.peek() {
		s.pos++
	}
}

// take steps over c where it comes next.
func (s *scanner) take(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.pos++
	return true
}

func (s *scanner) value() error {
	switch s.peek() {
	case '{':
		_, err := s.object(nil)
		return err
	case '[':
		_, err := s.array(nil, false)
		return err
	case '"':
		return s.quoted()
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	}
	return s.number()
}

// object reads an object and appends its members to dst.
func (s *scanner) object(dst []Member) ([]Member, error) {
	if err := s.enter(); err != nil {
		return dst, err
	}
	kept := len(dst)
	for more := !s.take('}'); more; {
		name, value, err := s.member()
		if err != nil {
			return dst, err
		}
		if dst = append(dst, Member{Name: name, Value: value}); len(dst)-kept > maxMembers {
			return dst, errMany
		}
		if more, err = s.more('}'); err != nil {
			return dst, err
		}
	}
	if repeated(dst[kept:]) {
		return dst, errRepeated
	}
	s.depth--
	return dst, nil
}

func (s *scanner) member() (name string, value []byte, err error) {
	start := s.pos
	if s.peek() != '"' {
		return "", nil, errSyntax
	}
	if err := s.quoted(); err != nil {
		return "", nil, err
	}
	name = nameOf(s.text[start:s.pos])
	s.space()
	if !s.take(':') {
		return "", nil, errSyntax
	}
	s.space()
	start = s.pos
	err = s.value()
	return name, s.text[start:s.pos], err
}

// array reads an array and, where keep says so, appends its values to dst.
func (s *scanner) array(dst [][]byte, keep bool) ([][]byte, error) {
	if err := s.enter(); err != nil {
		return dst, err
	}
	for more := !s.take(']'); more; {
		start := s.pos
		err := s.value()
		if err != nil {
			return dst, err
		}
		if keep {
			dst = append(dst, s.text[start:s.pos])
		}
		if more, err = s.more(']'); err != nil {
			return dst, err
		}
	}
	s.depth--
	return dst, nil
}

// enter steps over an opening bracket.
func (s *scanner) enter() error {
	if s.depth++; s.depth > maxDepth {
		return errDeep
	}
	s.pos++
	s.space()
	return nil
}

// more steps over a comma, or over the bracket that ends the list.
func (s *scanner) more(bracket byte) (bool, error) {
	s.space()
	if s.take(bracket) {
		return false, nil
	}
	if !s.take(',') {
		return false, errSyntax
	}
	s.space()
	return true, nil
}

func (s *scanner) literal(text string) error {
	if !bytes.HasPrefix(s.text[s.pos:], []byte(text)) {
		return errSyntax
	}
	s.pos += len(text)
	return nil
}

func (s *scanner) number() error {
	s.take('-')
	if !s.take('0') && !s.digits() {
		return errSyntax
	}
	if s.take('.') && !s.digits() {
		return errSyntax
	}
	if s.take('e') || s.take('E') {
		if !s.take('+') {
			s.take('-')
		}
		if !s.digits() {
			return errSyntax
		}
	}
	return nil
}

func (s *scanner) digits() bool {
	start := s.pos
	for c := s.peek(); '0' <= c && c <= '9'; c = s.peek() {
		s.pos++
	}
	return s.pos > start
}

// quoted steps over a string.
func (s *scanner) quoted() error {
	for s.pos++; s.pos < len(s.text); s.pos++ {
		switch c := s.text[s.pos]; {
		case c > '"' && c != '\\': // nearly all
		case c == '"':
			s.pos++
			return nil
		case c < ' ':
			return errSyntax
		case c == '\\':
			if err := s.escape(); err != nil {
				return err
			}
		}
	}
	return errSyntax
}

// escape steps to the last octet of an escape.
func (s *scanner) escape() error {
	s.pos++
	switch s.peek() {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return nil
	case 'u':
		r, ok := hex4(s.text[s.pos+1:])
		if !ok {
			return errSyntax
		}
		if s.pos += 4; !utf16.IsSurrogate(r) {
			return nil
		}
		after := s.text[s.pos+1:]
		if !bytes.HasPrefix(after, []byte(`\u`)) {
			return errSurrogate
		}
		low, _ := hex4(after[2:])
		if utf16.DecodeRune(r, low) == utf8.RuneError {
			return errSurrogate
		}
		s.pos += 6
		return nil
	}
	return errSyntax
}

// hex4 reads four hexadecimal digits.
func hex4(text []byte) (rune, bool) {
	if len(text) < 4 {
		return 0, false
	}
	var r rune
	for _, c := range text[:4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// appendUnquoted appends the characters of a string that quoted has stepped
// over.
func appendUnquoted(b, text []byte) []byte {
	text = text[1 : len(text)-1]
	if bytes.IndexByte(text, '\\') < 0 {
		return append(b, text...)
	}
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			b = append(b, text[i])
			continue
		}
		i++
		if text[i] != 'u' {
			b = append(b, unescaped[text[i]])
			continue
		}
		r, _ := hex4(text[i+1:])
		i += 4
		if utf16.IsSurrogate(r) {
			low, _ := hex4(text[i+3:])
			r = utf16.DecodeRune(r, low)
			i += 6
		}
		b = utf8.AppendRune(b, r)
	}
	return b
}

var unescaped = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// nameOf returns the characters of a name that quoted has stepped over. For
// those that nearly every token has it does not allocate.
func nameOf(text []byte) string {
	switch string(text[1 : len(text)-1]) {
	case "alg":
		return "alg"
	case "kid":
		return "kid"
	case "typ":
		return "typ"
	case "iss":
		return "iss"
	case "sub":
		return "sub"
	case "aud":
		return "aud"
	case "exp":
		return "exp"
	case "nbf":
		return "nbf"
	case "iat":
		return "iat"
	case "jti":
		return "jti"
	case "client_id":
		return "client_id"
	case "sid":
		return "sid"
	case "rev":
		return "rev"
	case "scope":
		return "scope"
	case "roles":
		return "roles"
	case "tenant":
		return "tenant"
	}
	return string(appendUnquoted(nil, text))
}

// repeated says whether two members have one name. Beyond a few it takes memory
// rather than quadratic time.
func repeated(members []Member) bool {
	if len(members) > 16 {
		seen := make(map[string]struct{}, len(members))
		for _, m := range members {
			seen[m.Name] = struct{}{}
		}
		return len(seen) < len(members)
	}
	var kinds uint64 // of names so far: another kind is another name
	for i, m := range members {
		kind := uint64(1) << (kindOf(m.Name) % 64)
		if kinds&kind != 0 && named(members[:i], m.Name) {
			return true
		}
		kinds |= kind
	}
	return false
}

func kindOf(name string) int {
	if name == "" {
		return 0
	}
	return len(name) + 7*int(name[0]) + 3*int(name[len(name)-1])
}

func named(members []Member, name string) bool {
	return slices.ContainsFunc(members, func(m Member) bool { return m.Name == name })
}
