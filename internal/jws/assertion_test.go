package jws_test

import (
	"encoding/base64"
	"errors"
	"testing"

	"github.com/quashdev/quash/internal/jws"
)

// An assertion's header may lack kid and typ, a token's may not; what is there
// is judged alike.
func TestAssertionsMayLackKidAndTyp(t *testing.T) {
	var parsed jws.Token // one for all: what it remembers of a header must not let another in
	for header, want := range map[string]struct{ assertion, token bool }{
		`{"alg":"ES256","kid":"a","typ":"JWT"}`: {true, true},
		`{"alg":"ES256","kid":"a"}`:             {true, false},
		`{"alg":"ES256","typ":"JWT"}`:           {true, false},
		`{"alg":"ES256"}`:                       {true, false},
		`{"alg":"ES256","kid":""}`:              {},
		`{"alg":"ES256","kid":null}`:            {},
		`{"alg":"ES256","typ":""}`:              {},
		`{"alg":"ES256","typ":1}`:               {},
		`{"alg":"HS256"}`:                       {},
		`{"alg":"ES256","jwk":{}}`:              {},
		`{}`:                                    {},
	} {
		text := base64.RawURLEncoding.EncodeToString([]byte(header)) + ".e30.AAAA"
		for range 2 {
			err := parsed.ParseAssertion(text)
			if got := err == nil; got != want.assertion {
				t.Errorf("%s as an assertion: got %v, want accepted %v", header, err, want.assertion)
			}
			if err = parsed.Parse(text); (err == nil) != want.token {
				t.Errorf("%s as a token: got %v, want accepted %v", header, err, want.token)
			}
			if err != nil && (parsed.Payload != nil || parsed.Header != jws.Header{} || !errors.Is(err, jws.ErrMalformed) && !errors.Is(err, jws.ErrAlgorithm)) {
				t.Errorf("%s: after %v the token holds something", header, err)
			}
		}
	}
}
