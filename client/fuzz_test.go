package client_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/quashdev/quash/client"
)

// answering is a server that gives one answer.
type answering func() *http.Response

func (a answering) RoundTrip(*http.Request) (*http.Response, error) { return a(), nil }

// FuzzAnswer checks that whatever answers, a call ends in what the server said
// or in an error that is not taken for another: a status outside 200 to 299 is a
// Problem of that status, with words and no wait below zero.
func FuzzAnswer(f *testing.F) {
	const problem = "application/problem+json"
	for _, seed := range []struct {
		status            int
		kind, retry, body string
	}{
		{200, "application/json", "", `{"access_token":"a","refresh_token":"b"}`},
		{200, "text/html", "", "<!doctype html>"},
		{204, "", "", ""},
		{400, problem, "", `{"type":"urn:quash:problem:invalid_grant","title":"t","status":400,"detail":"d","code":"invalid_grant"}`},
		{401, problem, "", `{"status":200,"code":"invalid_grant"}`},
		{429, problem, "3", `{"code":"too_many_requests"}`},
		{503, problem, "-1", `{"detail":null}`},
		{503, problem, "99999999999", "null"},
		{503, "application/problem+json; charset=utf-8", "Sun, 22 Nov 2026 09:00:00 GMT", `{"RetryAfter":-5,"code":"stale"}`},
		{502, "text/html", "", "<html>bad gateway</html>"},
		{308, "", "", ""},
		{400, problem, "", `{"code":["invalid_grant"]}`},
		{400, problem, "", strings.Repeat(`{"a":`, 2000)},
	} {
		f.Add(seed.status, seed.kind, seed.retry, []byte(seed.body))
	}
	f.Fuzz(func(t *testing.T, status int, kind, retry string, body []byte) {
		if status < 200 || status > 999 {
			return // which net/http does not hand on
		}
		answer := func() *http.Response {
			return &http.Response{
				StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Body: io.NopCloser(bytes.NewReader(body)),
				Header: http.Header{"Content-Type": {kind}, "Retry-After": {retry}},
			}
		}
		c, err := client.New(client.Config{URL: "http://localhost", HTTP: &http.Client{Transport: answering(answer)}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Refresh(t.Context(), "qr_secret", "")
		p, refused := errors.AsType[*client.Problem](err)
		if refused != (status > 299) && !(status > 299 && err != nil) {
			t.Fatalf("status %d: got %v", status, err)
		}
		if err != nil && strings.Contains(err.Error(), "qr_secret") && !bytes.Contains(body, []byte("qr_secret")) {
			t.Errorf("status %d: the error quotes the token: %v", status, err)
		}
		if refused && (p.Status != status || p.Error() == "" || p.RetryAfter < 0 || p.RetryAfter > 1<<31*time.Second) {
			t.Errorf("status %d: got %+v", status, p)
		}
	})
}
