package api

import (
	"strconv"
	"strings"
	"time"
)

// maxWait is how many seconds a call may wait, for revocations or for their
// confirmation.
const maxWait = 60

// patience returns how long the caller would have the answer wait, by its
// preferences wait and respond-async (RFC 7240, sections 4.3 and 4.1), and says
// in Preference-Applied which of them it follows.
func (c *call) patience(otherwise time.Duration) time.Duration {
	preferred := readPrefer(c.r.Header.Values("Prefer"))
	var applied []string
	if value, ok := preferred["respond-async"]; ok && value == "" {
		otherwise = 0
		applied = append(applied, "respond-async")
	}
	if n, ok := deltaSeconds(preferred["wait"]); ok {
		otherwise = time.Duration(n) * time.Second
		applied = append(applied, "wait="+strconv.Itoa(n))
	}
	if len(applied) > 0 {
		c.Header().Set("Preference-Applied", strings.Join(applied, ", "))
	}
	return otherwise
}

// deltaSeconds reads the value of wait. What is longer than a call may wait
// counts as that.
func deltaSeconds(text string) (n int, ok bool) {
	if text == "" || strings.Trim(text, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(text)
	if err != nil || n > maxWait {
		n = maxWait
	}
	return n, true
}

// readPrefer returns the preferences of the lines of a Prefer header by their
// names in lower case (RFC 7240, section 2): of one that stands there more than
// once, the first. Parameters mean nothing here. A line counts up to the first
// mistake in it, because a preference must never be a reason to refuse.
func readPrefer(lines []string) map[string]string {
	preferred := map[string]string{}
	for _, line := range lines {
		for {
			line = strings.TrimLeft(line, " \t,")
			name, value, rest, ok := readPreference(line)
			if !ok {
				break
			}
			name, line = strings.ToLower(name), rest
			if _, there := preferred[name]; !there {
				preferred[name] = value
			}
		}
	}
	return preferred
}

// readPreference reads one preference with its parameters, which must be
// followed by a comma or nothing.
func readPreference(text string) (name, value, rest string, ok bool) {
	name, value, rest, ok = readPair(text)
	for ok && strings.HasPrefix(rest, ";") {
		rest = trim(rest[1:])
		if rest != "" && rest[0] != ';' && rest[0] != ',' {
			_, _, rest, ok = readPair(rest)
		}
	}
	return name, value, rest, ok && (rest == "" || rest[0] == ',')
}

// readPair reads a token and, if there is one, the word after the equals sign.
func readPair(text string) (name, value, rest string, ok bool) {
	name, rest = readToken(text)
	if name == "" {
		return "", "", text, false
	}
	after, has := strings.CutPrefix(rest, "=")
	if !has {
		return name, "", rest, true
	}
	after = trim(after)
	if strings.HasPrefix(after, `"`) {
		value, rest, ok = readQuoted(after[1:])
		return name, value, rest, ok
	}
	value, rest = readToken(after)
	return name, value, rest, true
}

// readToken cuts off a token (RFC 9110, section 5.6.2) and the space after it.
func readToken(text string) (token, rest string) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~"
	rest = strings.TrimLeft(text, alphabet)
	return text[:len(text)-len(rest)], trim(rest)
}

// readQuoted cuts off a quoted string (RFC 9110, section 5.6.4), after its
// first quote, and the space after it.
func readQuoted(text string) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			return b.String(), trim(text[i+1:]), true
		case '\\':
			if i++; i == len(text) {
				return "", "", false
			}
		}
		b.WriteByte(text[i])
	}
	return "", "", false
}

func trim(text string) string { return strings.TrimLeft(text, " \t") }
